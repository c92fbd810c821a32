"""Converts an autoregressive checkpoint to a diffusion model with a mask token, ready to be trained."""

from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase

from ..common.files import whole_folder
from ..modeling.checkpoint import first_line, load_errors
from ..modeling.from_autoregressive import TokenIds, find_target, read_source, to_diffusion
from ..modeling.loading import load_tokenizer
from .convert import check_places, known_facts
from .facts import ModelFacts
from .from_results import model_facts
from .training_card import write_card


MASK_TOKEN = "<|mask|>"
MEAN_ROW = "the mean of the other tokens' rows"
OWN_ROW = "the one that the token had"
# By the attention of a family: the recipe that needs no trajectories of a diffusion model.
RECIPES = {"block_causal": "fast_dllm_v2"}
PLAIN_RECIPE = "llada_sft"


def convert_autoregressive(
    source: Path,
    output: Path,
    *,
    to: str,
    mask_token: str = MASK_TOKEN,
    license: str | None = None,
    base_model_id: str | None = None,
) -> ModelFacts:
    """
    Writes an autoregressive model as a folder of this package: its weights in the class of a family, a tokenizer with
    a mask token, code and card. It appears once it is complete.

    Args:
        source (`Path`): A folder with a Llama, Qwen2 or Qwen3 in safetensors, and its tokenizer.
        output (`Path`): The output folder.
        to (`str`): The family, such as `"fast_dllm_v2"`.
        mask_token (`str`, *optional*, defaults to `"<|mask|>"`): Text of the mask token. It is added to the tokenizer,
            unless that has it as a special or added token.
        license (`str`, *optional*): SPDX id for the card, that of the source; by default the one on the source's card.
        base_model_id (`str`, *optional*): Hub id of the source, for the card.

    Returns:
        [`ModelFacts`]: The facts on its card.

    Raises:
        `ValueError`: For a family that cannot hold the source, a field of its config that the family does not compute,
            a mask token that cannot be added, and a card without a licence.
        `OSError`: For files that are missing or damaged, an output that exists, a full disk.
    """
    check_places(source, output)
    family = find_target(to)
    config = read_source(source, family)
    licensed = known_facts(source, license, base_model_id)[0]["license"]
    tokenizer = load_tokenizer(source, local_files_only=True)
    is_new = _add_mask_token(tokenizer, mask_token, source, rows=config.vocab_size)
    ids = _token_ids(config, tokenizer, source)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(ids.pad)
    model = to_diffusion(source, family, ids, new_mask=is_new)
    # a new one: the source's is about sampling
    model.generation_config = model.generation_config_class(
        mask_token_id=ids.mask, eos_token_id=ids.eos, pad_token_id=ids.pad, bos_token_id=ids.bos
    )
    conversion = {
        "source": config.architectures[0],
        "mask_token": mask_token,
        "mask_row": MEAN_ROW if is_new else OWN_ROW,
        "recipe": RECIPES.get(family.attention or "", PLAIN_RECIPE),
    }
    with whole_folder(output) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        facts = model_facts(
            folder,
            license=licensed,
            name=output.resolve().name,
            base_model=base_model_id or source.resolve().name,
            conversion=conversion,
        )
        write_card(folder, facts)
    return facts


def _add_mask_token(tokenizer: PreTrainedTokenizerBase, text: str, source: Path, *, rows: int) -> bool:
    """
    Gives a tokenizer its mask token. Whether the token is new.

    Raises:
        `ValueError`: For a text that cannot be the mask token, and a tokenizer that cannot take it.
    """
    if not text or text != text.strip():
        raise ValueError(
            f"--mask-token {text!r}: a mask token is a text without spaces around it, such as {MASK_TOKEN}."
        )
    others = {name: token for name, token in tokenizer.special_tokens_map.items() if name != "mask_token"}
    used_as = next((name for name, token in others.items() if token == text), None)
    if used_as:
        raise ValueError(
            f"--mask-token {text}: it is the {used_as} of {source}; name another, or none for {MASK_TOKEN}."
        )
    is_new = text not in tokenizer.get_vocab()
    if not is_new and text not in tokenizer.get_added_vocab():
        raise ValueError(f"--mask-token {text}: it is a word of {source}, which texts contain; name another.")
    kind = type(tokenizer).__name__
    try:
        tokenizer.add_special_tokens({"mask_token": AddedToken(text, special=True, normalized=False)})
        encoded = tokenizer(text, add_special_tokens=False)["input_ids"]
    except Exception as error:  # tokenizers with code of their own raise anything
        raise ValueError(f"The tokenizer of {source} ({kind}) takes no new token: {first_line(error)}") from error
    if encoded != [tokenizer.mask_token_id]:
        raise ValueError(f"The tokenizer of {source} ({kind}) takes no new token: {text} is encoded as {encoded}.")
    if encoded[0] > (rows if is_new else rows - 1):
        raise ValueError(
            f"{source} has {rows} rows in its embedding, and more tokens in its tokenizer: {text} would be "
            f"{encoded[0]}. Take the tokenizer of this model."
        )
    return is_new


def _token_ids(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, source: Path) -> TokenIds:
    """The special tokens of a source: those with which it generates come first, then its config's and tokenizer's."""
    places = [config, tokenizer]
    if (source / "generation_config.json").is_file():
        with load_errors(source, "generation_config.json"):
            places.insert(0, GenerationConfig.from_pretrained(source))

    def first(name: str) -> Any:
        values = (getattr(place, name, None) for place in places)
        return next((value for value in values if value not in (None, -1, [])), None)  # -1: none, in some configs

    eos = first("eos_token_id")
    if eos is None:
        raise ValueError(f"{source} names no EOS token: write `eos_token_id` to its generation_config.json.")
    all_eos = eos if isinstance(eos, list) else [eos]
    pad = first("pad_token_id")
    ids = TokenIds(
        mask=tokenizer.mask_token_id, eos=eos, pad=all_eos[0] if pad is None else pad, bos=first("bos_token_id")
    )
    if ids.mask in (*all_eos, ids.pad):
        raise ValueError(f"--mask-token {tokenizer.mask_token}: it ends or pads the texts of {source}; name another.")
    return ids
