"""Runs one implementation on a checkpoint and prompts, and writes what it made: the part of `against.py` that runs in
the process, and the Python, of that implementation. It imports nothing of this package except for `ours`, and no name
that older releases of torch and transformers lack.

    python benchmarks/sides.py SIDE JOB.json     # the checkout is in the job
"""

import contextlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any


BLOCK, PROBABILITY, ENTROPY = 32, 0.9, 0.5  # the published values


@dataclass(frozen=True)
class Side:
    """
    An implementation.

    Args:
        files (`list[tuple[str, ...]]`): What a checkout of it holds: of each entry one of the paths.
        load (`Callable`): Gives, for a job, the model and the methods by name: functions of a list of prompts (token
            ids) to the new tokens of each.
        batches (`bool`): Whether a call may take several prompts.
    """

    files: list[tuple[str, ...]]
    load: Callable[[SimpleNamespace], tuple[Any, dict[str, Callable[[list[list[int]]], list[list[int]]]]]]
    batches: bool


def load_ours(job: SimpleNamespace) -> tuple[Any, dict[str, Callable]]:
    import torch

    from d3llm.modeling import LLaDAModelLM

    model = LLaDAModelLM.from_pretrained(job.checkpoint, dtype=torch.float32).eval()

    def decode(prompts: list[list[int]], **fields: Any) -> list[list[int]]:
        longest = max(map(len, prompts))
        pads = [longest - len(prompt) for prompt in prompts]
        ids = torch.tensor([[job.pad] * pad + prompt for pad, prompt in zip(pads, prompts)])  # noqa: B905
        mask = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in pads]) if any(pads) else None
        return model.generate(ids, attention_mask=mask, max_new_tokens=job.new_tokens, **fields)[:, longest:].tolist()

    fields = {
        "llada": {"preset": "llada"},
        "fast_dllm none": {"preset": "fast_dllm", "cache": "none"},
        "fast_dllm prefix": {"preset": "fast_dllm", "cache": "prefix"},
        "fast_dllm dual": {"preset": "fast_dllm"},
        "d3llm": {"preset": "d3llm"},
        "d3llm block": {"preset": "d3llm", "cache": "block"},
    }
    return model, {name: bind(decode, **values) for name, values in fields.items()}


def load_d3llm(job: SimpleNamespace) -> tuple[Any, dict[str, Callable]]:
    module = import_file(job, "d3llm/d3llm_LLaDA/d3llm_llada_generate_util.py")
    model = module.LLaDAModelLM.from_pretrained(job.checkpoint).float().eval()
    fields = {"max_new_tokens": job.new_tokens, "block_size": BLOCK, "threshold": ENTROPY, "mask_id": job.mask}
    fields |= {"block_add_threshold": 0.1, "decoded_token_threshold": 0.95}
    fields |= {"eos_token_id": job.eos, "early_stop": True}
    return model, {
        "d3llm": one_by_one(module.generate_multi_block, model, **fields),
        "d3llm block": one_by_one(
            module.generate_multi_block_kv_cache, model, cache_delay_iter=2, refresh_interval=3, **fields
        ),
    }


def load_fast_dllm(job: SimpleNamespace) -> tuple[Any, dict[str, Callable]]:
    # later versions import the model relative to the package, earlier ones from the folder: both find it
    folders = [Path(job.checkout) / name for name in ("llada", "v1/llada")]
    folder = next(folder for folder in folders if (folder / "generate.py").is_file())
    sys.path[:0] = [str(folder), str(folder.parent)]
    module = importlib.import_module("llada.generate")
    model = module.LLaDAModelLM.from_pretrained(job.checkpoint).float().eval()
    fields = {"gen_length": job.new_tokens, "steps": job.new_tokens, "block_length": BLOCK, "mask_id": job.mask}
    fast = {"threshold": PROBABILITY, **fields}
    return model, {
        "llada": one_by_one(module.generate, model, **fields),
        "fast_dllm none": one_by_one(module.generate, model, **fast),
        "fast_dllm prefix": one_by_one(module.generate_with_prefix_cache, model, **fast),
        "fast_dllm dual": one_by_one(module.generate_with_dual_cache, model, **fast),
    }


def load_dllm(job: SimpleNamespace) -> tuple[Any, dict[str, Callable]]:
    import torch

    package = importlib.import_module("dllm.pipelines.fastdllm.llada")
    # its source may fix `init_device` to a GPU, so the model is built by hand
    model_class = class_of(package, "ModelLM")
    models = importlib.import_module(model_class.__module__)
    config = class_of(package, "Config", excluded="SamplerConfig").from_pretrained(job.checkpoint)
    shape = models.create_model_config_from_pretrained_config(config)
    shape.init_device = "cpu"
    model = model_class(config, class_of(models, "LLaDAModel")(shape, init_params=False))
    load_weights(model, job.checkpoint)
    model = model.float().eval()
    tokenizer = SimpleNamespace(mask_token_id=job.mask, bos_token_id=job.eos, eos_token_id=job.eos)
    plain = importlib.import_module("dllm.core.samplers").MDLMSampler(model=model, tokenizer=tokenizer)
    fast = class_of(package, "Sampler")(model=model, tokenizer=tokenizer)
    fields = {"max_new_tokens": job.new_tokens, "steps": job.new_tokens, "block_size": BLOCK, "return_dict": False}

    def decode(prompts: list[list[int]], sampler: Any, **values: Any) -> list[list[int]]:
        tokens = sampler.sample([torch.tensor(prompt) for prompt in prompts], **fields, **values).tolist()
        rows = zip(tokens, prompts)  # noqa: B905
        return [row[len(prompt) : len(prompt) + job.new_tokens] for row, prompt in rows]

    def cached(cache: str) -> Callable:
        return bind(decode, sampler=fast, use_cache=None if cache == "none" else cache, threshold=PROBABILITY)

    return model, {
        "llada": bind(decode, sampler=plain),
        **{f"fast_dllm {cache}": cached(cache) for cache in ("none", "prefix", "dual")},
    }


SIDES = {
    "ours": Side([], load_ours, batches=True),
    "d3llm": Side(
        [("d3llm/d3llm_LLaDA/d3llm_llada_generate_util.py",), ("utils/utils_LLaDA/model/modeling_llada.py",)],
        load_d3llm,
        batches=False,
    ),
    "fast-dllm": Side(
        [
            ("llada/generate.py", "v1/llada/generate.py"),
            ("llada/model/modeling_llada.py", "v1/llada/model/modeling_llada.py"),
        ],
        load_fast_dllm,
        batches=False,
    ),
    "dllm": Side(
        [("dllm/core/samplers/mdlm.py",), ("dllm/pipelines/fastdllm/llada/__init__.py",)], load_dllm, batches=True
    ),
}


def bind(function: Callable, **values: Any) -> Callable[[list[list[int]]], list[list[int]]]:
    return lambda prompts: function(prompts, **values)


def one_by_one(generate: Callable, model: Any, **fields: Any) -> Callable[[list[list[int]]], list[list[int]]]:
    """A published function of one prompt, which returns the canvas and its own count of forwards."""
    import torch

    def decode(prompts: list[list[int]]) -> list[list[int]]:
        canvases = [generate(model, torch.tensor([prompt]), **fields)[0] for prompt in prompts]
        return [canvas[0, len(prompt) :].tolist() for canvas, prompt in zip(canvases, prompts)]  # noqa: B905

    return decode


def import_file(job: SimpleNamespace, path: str) -> ModuleType:
    """Imports a file by its path: the checkout of d3LLM has a package of the same name as this one."""
    spec: Any = importlib.util.spec_from_file_location(Path(path).stem, Path(job.checkout) / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def class_of(module: ModuleType, ending: str, excluded: str = " ") -> Any:
    """The class of a module whose name ends so: versions of dllm put the words of a name in different orders."""
    names = [name for name in vars(module) if name.endswith(ending) and not name.endswith(excluded)]
    if not names:
        raise SystemExit(f"{module.__name__} has no class whose name ends in {ending}: try another version of it")
    return getattr(module, sorted(names, key=len)[-1])


def load_weights(model: Any, checkpoint: str) -> None:
    load_file = importlib.import_module("safetensors.torch").load_file
    weights: dict[str, Any] = {}
    for shard in sorted(Path(checkpoint).glob("*.safetensors")):
        weights |= load_file(shard)
    keys = model.load_state_dict(weights, strict=False)
    if keys.missing_keys or keys.unexpected_keys:
        raise SystemExit(f"its model has other weights than the checkpoint: {[*keys[0], *keys[1]][:3]}")


class Counter:
    """Counts the calls of a model, and times its head where that is a module."""

    def __init__(self, model: Any):
        self.forwards, self.positions, self.head_seconds = 0, 0, 0.0
        model.forward = self._counted(model.forward)
        head = model.get_output_embeddings()
        if head is not model.get_input_embeddings():  # tied weights: the embedding would be timed
            head.forward = self._timed(head.forward)

    def reset(self) -> None:
        self.forwards, self.positions, self.head_seconds = 0, 0, 0.0

    def _counted(self, forward: Callable) -> Callable:
        def call(*args: Any, **inputs: Any) -> Any:
            self.forwards += 1
            self.positions += (args[0] if args else inputs["input_ids"]).numel()
            return forward(*args, **inputs)

        return call

    def _timed(self, forward: Callable) -> Callable:
        def call(*args: Any, **inputs: Any) -> Any:
            start = time.perf_counter()
            try:
                return forward(*args, **inputs)
            finally:
                self.head_seconds += time.perf_counter() - start

        return call


def run(side: str, job: SimpleNamespace) -> dict[str, Any]:
    """What the methods of the job make of its prompts, in batches of each of its sizes."""
    import torch

    torch.set_num_threads(job.threads)
    sys.path.insert(0, job.checkout)
    model, methods = SIDES[side].load(job)
    counter, runs = Counter(model), []
    for size in [size for size in job.batch_sizes if size == 1 or SIDES[side].batches]:
        batches = [job.prompts[start : start + size] for start in range(0, len(job.prompts), size)]
        for name in [name for name in job.methods if name in methods]:
            methods[name](batches[0][:1])  # warm-up
            counter.reset()
            start = time.perf_counter()
            tokens = [row for batch in batches for row in methods[name](batch)]
            seconds = time.perf_counter() - start
            facts = {"method": name, "batch_size": size, "seconds": seconds, "head_seconds": counter.head_seconds}
            runs.append({**facts, "forwards": counter.forwards, "positions": counter.positions, "tokens": tokens})
    return {"runs": runs, "torch": torch.__version__}


def main() -> None:
    job = SimpleNamespace(**json.loads(Path(sys.argv[2]).read_text()))
    del sys.path[0]  # the folder of this script: no module of it may shadow one of the checkout
    with contextlib.redirect_stdout(sys.stderr):
        result = run(sys.argv[1], job)
    Path(job.output).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
