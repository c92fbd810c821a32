"""The checks of `d3llm doctor` that need no model: versions, device, attention kernels, and the Hub."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterable, Iterator
from importlib import metadata
from typing import Any

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from ..common.bfloat16 import SLOW, bfloat16_slowdown
from ..modeling.checkpoint import first_line
from .doctor_check import Check


# By the name that transformers gives them.
KERNELS = ("sdpa", "eager", "flash_attention_2", "flex_attention")
GPU_ONLY = ("flash_attention_2", "flex_attention")  # flex attention compiles for minutes on a CPU
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}


def machine_checks(*, device: str | None, timeout: float) -> Iterator[Check]:
    """
    The checks of this machine, one after another.

    Args:
        device (`str`, *optional*): The device; by default the GPU if there is one.
        timeout (`float`): Seconds to wait for the Hub.
    """
    yield check_versions(metadata.requires("d3llm") or [], metadata.metadata("d3llm")["Requires-Python"])
    found = check_device(device)
    yield found
    if found.status != "error":
        yield check_kernels(choose_device(device))
    yield check_hub(timeout)


def check_versions(requirements: Iterable[str], python: str | None) -> Check:
    """
    Checks the installed packages against what the package asks for. Packages of an extra that are not installed are
    not missing, and those of the extra `dev` do not count.

    Args:
        requirements (`Iterable[str]`): As in the metadata of the package, with markers.
        python (`str`, *optional*): The versions of Python that it supports.
    """
    faults, present, remedies = [], {}, []
    if python and not SpecifierSet(python).contains(platform.python_version(), prereleases=True):
        faults.append(f"Python {platform.python_version()} is not {python}")
        remedies.append(f"use Python {python}")
    for requirement in map(Requirement, requirements):
        marker = requirement.marker
        needed = marker is None or marker.evaluate({"extra": ""})
        of_extra = marker is not None and "extra" in str(marker) and not marker.evaluate({"extra": "dev"})
        if not needed and not of_extra:
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            if of_extra:
                continue
            faults.append(f"{requirement.name} is not installed")
        else:
            present[requirement.name] = version
            if requirement.specifier.contains(version, prereleases=True):
                continue
            faults.append(f"{requirement.name} {version} is not {requirement.specifier}")
        remedies.append(f'"{requirement.name}{requirement.specifier}"')
    if faults:
        packages = [remedy for remedy in remedies if remedy.startswith('"')]
        others = [remedy for remedy in remedies if not remedy.startswith('"')]
        install = [f"pip install {' '.join(packages)}"] if packages else []
        return Check("versions", "error", ", ".join(faults), ", ".join(others + install))
    named = [f"{name} {present[name]}" for name in ("torch", "transformers", "trl", "peft") if name in present]
    return Check("versions", "ok", ", ".join([f"Python {platform.python_version()}", *named, "all in range"]))


def choose_device(device: str | None) -> torch.device:
    """The device that the commands use: the given one, else the GPU if there is one."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def check_device(device: str | None) -> Check:
    """
    Whether the device can be used, how much memory it has, and whether a processor is slow in bfloat16.

    Args:
        device (`str`, *optional*): By default the GPU if there is one.
    """
    try:
        chosen = choose_device(device)
        if chosen.type == "meta":
            raise RuntimeError("it holds no weights")
        torch.ones(1, device=chosen).add_(1).item()
        free, total = memory_of(chosen)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        return Check("device", "error", f"{device} cannot be used: {first_line(error)}", "leave out --device, or cpu")
    memory = f"{in_words(free)} of {in_words(total)} free"
    if chosen.type == "cuda":
        return Check("device", "ok", f"{torch.cuda.get_device_name(chosen)}, {memory}")
    if device is None and shutil.which("nvidia-smi"):
        found = f"cpu, {memory}; there is an NVIDIA GPU that torch {torch.__version__} does not use"
        return Check("device", "warning", found, "install torch for CUDA, see https://pytorch.org/get-started/locally")
    found = f"{chosen.type}, {torch.get_num_threads()} threads, {memory}"
    if chosen.type == "cpu" and (slowdown := bfloat16_slowdown()) > SLOW:
        found += f"; bfloat16 takes {slowdown:.0f} times as long as float32"
    return Check("device", "ok", found)


def memory_of(device: torch.device) -> tuple[int, int]:
    """
    The memory of a device.

    Args:
        device (`torch.device`): A GPU; any other device has the memory of the machine.

    Returns:
        `tuple[int, int]`: What is free, and what there is, in bytes.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)
    import psutil  # accelerate requires it

    memory = psutil.virtual_memory()
    return memory.available, memory.total


def in_words(size: float) -> str:
    """A size in bytes, such as `"1.5 GB"`."""
    unit, name = (1e9, "GB") if size >= 1e9 else (1e6, "MB")
    return f"{size / unit:.1f} {name}"


def check_kernels(device: torch.device) -> Check:
    """
    Runs a tiny model with each attention implementation, with padding, and compares it with eager attention.

    Args:
        device (`torch.device`): Where to run it.
    """
    faults: dict[str, str] = {}
    for name in KERNELS:
        if name in GPU_ONLY and device.type != "cuda":
            faults[name] = "needs CUDA"
            continue
        try:
            if not _agrees_with_eager(name, device):
                faults[name] = "computes something else than eager attention"
        except ImportError:
            faults[name] = "is not installed (pip install d3llm[flash])"
        except Exception as error:  # a kernel may raise anything
            faults[name] = first_line(error)
    working = ", ".join(name for name in KERNELS if name not in faults)
    found = "; ".join([f"{working or 'nothing'} works", *(f"{name}: {fault}" for name, fault in faults.items())])
    if "sdpa" in faults:
        remedy = 'load models with attn_implementation="eager"' if "eager" not in faults else "install torch again"
        return Check("attention", "error", found, remedy)
    return Check("attention", "ok", found)


def _agrees_with_eager(name: str, device: torch.device) -> bool:
    dtype = torch.bfloat16 if name == "flash_attention_2" else torch.float32
    expected, computed = (_tiny_logits(kernel, device, dtype) for kernel in ("eager", name))
    return bool((expected - computed).abs().max() <= TOLERANCE[dtype])


def _tiny_logits(kernel: str, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """The logits of a random model for two rows, one of them padded, in float32."""
    from transformers import AutoModelForCausalLM

    from ..modeling import LLaDAConfig

    shape: dict[str, Any] = {"d_model": 64, "n_heads": 2, "n_layers": 1, "mlp_hidden_size": 64, "vocab_size": 32}
    special: dict[str, Any] = {"embedding_size": 32, "mask_token_id": 31, "eos_token_id": 0, "pad_token_id": 0}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        config = LLaDAConfig(**shape, **special)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=kernel, dtype=dtype).to(device).eval()
    ids = torch.arange(1, 17, device=device).expand(2, -1)
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    with torch.no_grad():
        return model(ids, attention_mask=mask).logits[mask.bool()].float()


def check_hub(timeout: float) -> Check:
    """
    Whether the Hub answers, and knows the token. No network is a warning: local folders work without it.

    Args:
        timeout (`float`): In seconds.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.utils import build_hf_headers, get_session

    if constants.HF_HUB_OFFLINE or os.environ.get("TRANSFORMERS_OFFLINE", "") in ("1", "true", "True"):
        return Check("hub", "warning", "offline mode is on", "unset HF_HUB_OFFLINE to download or push")
    endpoint = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    try:
        headers = build_hf_headers(token=get_token() or False)
        answer = get_session().get(f"{endpoint}/api/whoami-v2", headers=headers, timeout=timeout)
    except Exception as error:  # of one HTTP library or another
        remedy = "local folders work; check the network, the proxy or HF_ENDPOINT"
        return Check("hub", "warning", f"{endpoint} does not answer: {type(error).__name__}", remedy)
    if answer.status_code >= 500:
        return Check("hub", "warning", f"{endpoint} answers {answer.status_code}", "try again later")
    if answer.status_code == 200:
        return Check("hub", "ok", f"{endpoint} answers, logged in")
    if get_token():
        return Check("hub", "warning", f"{endpoint} does not accept the token", "log in again: hf auth login")
    return Check("hub", "ok", f"{endpoint} answers; not logged in, which only a push needs")
