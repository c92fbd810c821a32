"""LoRA on masked-diffusion models: which layers, and how an adapter becomes a plain model again."""

import os
from copy import deepcopy
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..evaluation.files import whole_folder


# Every projection of attention and MLP. LLaDA's MLP ends in `ff_out`, and so does the name of its LM head,
# `model.transformer.ff_out`, which an adapter must leave alone.
TARGET_MODULES = {
    "llada": ["q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out"],
    "Dream": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}


def add_lora(model: PreTrainedModel, peft_config: LoraConfig) -> PeftModel:
    """
    Wraps a model with LoRA layers (arXiv 2106.09685).

    Args:
        model (`PreTrainedModel`): The model.
        peft_config (`LoraConfig`): With `target_modules=None` all projections are wrapped. The LM head never is.

    Returns:
        `PeftModel`: The wrapped model.

    Raises:
        `ValueError`: For a name in `target_modules` that no layer of the model bears, and for a model type without
            a list of names.
    """
    peft_config = deepcopy(peft_config)
    model_type = model.config.model_type
    known = TARGET_MODULES.get(model_type)
    targets = known if peft_config.target_modules is None else peft_config.target_modules
    if targets is None:
        raise ValueError(f"The LoRA layers of a {model_type!r} model are not known: name them in `target_modules`.")
    if not isinstance(targets, str):
        names = [f".{name}" for name, _ in model.named_modules()]
        unmatched = sorted(target for target in targets if not any(name.endswith(f".{target}") for name in names))
        if unmatched:
            raise ValueError(
                f"No layer of the {model_type!r} model is called {', '.join(unmatched)}: `target_modules` may name "
                f"{', '.join(known or [])}."
            )
    peft_config.target_modules = targets
    head = next(name for name, module in model.named_modules() if module is model.get_output_embeddings())
    if peft_config.exclude_modules is None:
        peft_config.exclude_modules = [head]
    return get_peft_model(model, peft_config)


def merge_adapter(
    model: PeftModel, folder: str | os.PathLike, tokenizer: PreTrainedTokenizerBase | None = None
) -> Path:
    """
    Saves a LoRA model as a plain one, its adapters added to the weights. (`d3llm convert` does it for a folder.)

    Args:
        model (`PeftModel`): The model; it is no PEFT model any more afterwards.
        folder (`str` or `PathLike`): Where to. It appears when it is whole, in place of one that is there.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): Saved with it.

    Returns:
        `Path`: The folder.

    Raises:
        `OSError`: When it cannot be written; what was there stays.
    """
    merged = model.merge_and_unload(safe_merge=True)
    try:
        with whole_folder(Path(folder)) as unfinished:
            merged.save_pretrained(unfinished)
            if tokenizer is not None:
                tokenizer.save_pretrained(unfinished)
    except OSError as error:
        raise OSError(
            f"The merged model is not written: {error}. The saved adapters are whole: make room and merge "
            "them with `d3llm convert`."
        ) from error
    return Path(folder)
