"""PEFT adapters on masked-diffusion models: which layers they wrap, and how they are merged into a plain model."""

import os
import re
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

from accelerate.utils import is_peft_model
from peft import PeftConfig, PeftModel, PeftType, PromptLearningConfig, TaskType, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..common.files import whole_folder
from ..common.tensors import plain_tensors
from ..hub_cards.merging import merge_adapters


ALL_LINEAR = "all-linear"  # a keyword of PEFT
# These need PEFT's forward around the model, but the trainer runs the model's layers directly. Listed by name, because
# older releases of PEFT lack some of them.
NEEDS_ITS_OWN_FORWARD = {
    "ADALORA": "assigns ranks to layers with an additional loss",
    "ADAPTION_PROMPT": "puts prompts into autoregressive attention",
    "POLY": "chooses skills by `task_ids`",
    "SHADOW": "runs a second network alongside the layers",
    "XLORA": "mixes adapters after an extra first forward",
}


def add_adapter(model: PreTrainedModel, peft_config: PeftConfig, *, keep_base: bool = False) -> PeftModel:
    """
    Wraps the layers of a model with adapters: LoRA (arXiv 2106.09685) with its variants, IA3, LoHa, OFT, ...

    Args:
        model (`PreTrainedModel`): The model.
        peft_config (`PeftConfig`): The adapters. With `target_modules=None`, they wrap the layers that the model's
            class names for the tuner, usually all projections. The LM head is never wrapped.
        keep_base (`bool`, *optional*, defaults to `False`): Whether the weights of the model must not change, so that
            switching the adapters off gives the original model.

    Returns:
        `PeftModel`: The wrapped model. Its task defaults to causal language modeling, so that
        `AutoPeftModelForCausalLM` loads the saved adapters.

    Raises:
        `ValueError`: For a tuner that adds virtual tokens or needs its own forward, a name in `target_modules` or
            `modules_to_save` that matches no layer, a model whose class does not name its layers, and any config that
            PEFT rejects.
    """
    if not isinstance(peft_config, PeftConfig):
        raise ValueError(
            f"`peft_config` is a {type(peft_config).__name__}: give a `PeftConfig`, such as `LoraConfig`."
        )
    if is_peft_model(model):
        raise ValueError("`peft_config` is for a model without adapters: merge those of `model`, or omit it.")
    check_tuner(peft_config)
    peft_config = deepcopy(peft_config)
    peft_config.task_type = peft_config.task_type or TaskType.CAUSAL_LM
    if peft_config.peft_type != PeftType.TRAINABLE_TOKENS:  # rows of the embedding, which PEFT finds by itself
        _set_targets(model, peft_config)
    layers, parameters = ([path for path, _ in named] for named in (model.named_modules(), model.named_parameters()))
    ends = dict.fromkeys(".".join(path.split(".")[-2:]) for path in parameters)
    with_weights = dict.fromkeys(end.partition(".")[0] for end in ends)
    _check_names(model, "modules_to_save", getattr(peft_config, "modules_to_save", None), layers, with_weights)
    _check_names(model, "target_parameters", getattr(peft_config, "target_parameters", None), parameters, ends)
    before = _norms(model) if keep_base else {}
    try:
        wrapped = get_peft_model(model, peft_config)
    except (ValueError, TypeError, RuntimeError, ImportError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        kind = type(peft_config).__name__
        raise ValueError(f"`peft_config` ({kind}) does not fit the model: {reason}") from error
    check_head(wrapped)
    if before and before != {name: norm for name, norm in _norms(wrapped).items() if name in before}:
        raise ValueError(
            "The model without its adapters is the teacher or the reference, but this `peft_config` changes its "
            "weights at the start: give a `teacher`, or adapters that leave them."
        )
    if any(parameter.requires_grad and id(parameter) in before for parameter in wrapped.parameters()):
        raise ValueError(
            "The model without its adapters is the teacher or the reference, but this `peft_config` trains weights of "
            "the model itself, such as its biases: give a `teacher`, or `bias='none'`."
        )
    return wrapped


def check_tuner(peft_config: PeftConfig) -> None:
    """Raises a `ValueError` for adapters that are not part of the model's layers."""
    kind = type(peft_config).__name__
    remedy = "use adapters of its layers, such as `LoraConfig` or `IA3Config`."
    if isinstance(peft_config, PromptLearningConfig):
        raise ValueError(f"{kind} puts virtual tokens before the prompt, which a canvas does not have: {remedy}")
    reason = next((why for tuner, why in NEEDS_ITS_OWN_FORWARD.items() if tuner == peft_config.peft_type), None)
    if getattr(peft_config, "alora_invocation_tokens", None):
        reason = "starts at an invocation token"
    if reason is not None:
        raise ValueError(f"{kind} {reason}, which this trainer does not run: {remedy}")


def check_head(model: PeftModel) -> None:
    """Raises a `ValueError` if the LM head is wrapped: the losses use its weight, not its forward."""
    head = model.get_base_model().get_output_embeddings()
    if isinstance(head, BaseTunerLayer) or not hasattr(head, "out_features"):  # some wrap a tied embedding, and so it
        raise ValueError("`target_modules` wraps the LM head, whose adapter would not be trained: remove it.")


def _set_targets(model: PreTrainedModel, peft_config: Any) -> None:
    """Sets the names of the layers to wrap, without the head."""
    model_type, known = model.config.model_type, getattr(model, "adapter_targets", {})
    peft_type, targets = peft_config.peft_type, peft_config.target_modules
    feedforward = known.get("feedforward", [])
    if targets is None and not known:
        raise ValueError(f"The layers of a {model_type!r} model are not known: name them in `target_modules`.")
    if targets is None:
        by_tuner = {PeftType.IA3: [*known["keys_values"], *feedforward], PeftType.LN_TUNING: known["norms"]}
        targets = by_tuner.get(peft_type, known["projections"])
    else:
        # TRL turns a list with one name into a string, and PEFT treats a string as a pattern, which matches no path.
        if isinstance(targets, str) and targets.isidentifier():
            targets = [targets]
        layers = [path for path, _ in model.named_modules()]
        _check_names(model, "target_modules", targets, layers, known.get("projections", []))
    peft_config.target_modules = targets
    if peft_type == PeftType.IA3 and peft_config.feedforward_modules is None:
        peft_config.feedforward_modules = [name for name in feedforward if name in targets]
    head = model.get_output_embeddings()
    if not hasattr(peft_config, "exclude_modules"):  # some tuners have no way to exclude layers
        if not isinstance(targets, str):
            peft_config.target_modules = [
                name
                for name, module in model.named_modules()
                if module is not head and any(f".{name}".endswith(f".{target}") for target in targets)
            ]
    elif peft_config.exclude_modules is None:
        peft_config.exclude_modules = [name for name, module in model.named_modules() if module is head]


def _check_names(
    model: PreTrainedModel,
    field: str,
    names: str | Iterable[str] | None,
    paths: list[str],
    known: Iterable[str],
) -> None:
    """
    Raises a `ValueError` for names that match no layer of a model, and suggests valid names.

    Args:
        model (`PreTrainedModel`): The model.
        field (`str`): The field that holds the names.
        names (`str` or `Iterable[str]`, *optional*): Ends of paths; a string is a pattern for whole paths.
        paths (`list[str]`): Paths of the model's layers, or of their parameters.
        known (`Iterable[str]`): The names that the error suggests.
    """
    if isinstance(names, str):
        try:
            found = names == ALL_LINEAR or any(re.fullmatch(names, path) for path in paths)
        except re.error as error:
            raise ValueError(f"`{field}` is {names!r}, which is not a pattern: {error}.") from error
        unmatched = [] if found else [names]
    else:
        unmatched = sorted(name for name in names or () if not any(f".{path}".endswith(f".{name}") for path in paths))
    if unmatched:
        raise ValueError(
            f"No layer of the {model.config.model_type!r} model is called {', '.join(unmatched)}: `{field}` may name "
            f"{', '.join(known)}."
        )


def _norms(model: nn.Module) -> dict[int, float]:
    """The norm of each parameter. Adapters that start from the weights, such as PiSSA, change the weights too."""

    def norm(tensor: Tensor) -> float:
        return (tensor if tensor.is_floating_point() else tensor.float()).norm().item()

    return {
        id(parameter): sum(norm(part) for part in plain_tensors(parameter.detach()))
        for parameter in model.parameters()
    }


def merge_adapter(
    model: PeftModel, folder: str | os.PathLike, tokenizer: PreTrainedTokenizerBase | None = None
) -> Path:
    """
    Saves a model with adapters as a plain model, with the adapters merged into the weights. (`d3llm convert` does this
    for a folder.)

    Args:
        model (`PeftModel`): The model. Its adapters are merged in place, so it is no longer a `PeftModel`.
        folder (`str` or `PathLike`): The output folder. It appears once it is complete, and replaces an existing one.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): Saved with the model.

    Returns:
        `Path`: The folder.

    Raises:
        `OSError`: If it cannot be written; an existing folder stays.
    """
    merged = merge_adapters(model)
    try:
        with whole_folder(Path(folder)) as unfinished:
            merged.save_pretrained(unfinished)
            if tokenizer is not None:
                tokenizer.save_pretrained(unfinished)
    except OSError as error:
        raise OSError(
            f"The merged model was not written: {error}. The saved adapters are complete: free some space and merge "
            "them with `d3llm convert`."
        ) from error
    return Path(folder)
