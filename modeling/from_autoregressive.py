"""Puts the weights of an autoregressive model into a masked-diffusion class that computes the same.

`PAIRS` says which architectures go into which family, and what differs between the two.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, PretrainedConfig

from ..generation.fields import shown, suggestion
from .checkpoint import check_checkpoint, check_folder, load_errors
from .families import families
from .layers import MaskedDiffusionPreTrainedModel
from .loading import load_autoregressive_model, read_family


SHARED_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "initializer_range",
    "attention_dropout",
    "tie_word_embeddings",
)
# What every family computes. A field that a pair does not carry over must have this value.
PLAIN_VALUES = {"hidden_act": "silu", "quantization_config": None, "rope_scaling": None, "sliding_window": None}
ROWS_AT_ONCE = 4096  # of a mean in float32, so that the whole embedding is never held in it


class Source(NamedTuple):
    """An architecture of transformers: its class, and the fields with which its layers may have biases."""

    class_name: str
    biases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pair:
    """
    What differs between an architecture and the family that it is put into.

    Attributes:
        carried (`tuple[str, ...]`): Fields of the config that both have, besides `SHARED_FIELDS`.
        added (`dict[str, Any]`): Fields of the family alone.
        renamed (`dict[str, str]`): By regular expression, the family's words in the names of tensors.
        zero_biases (`tuple[str, ...]`): Layers with a bias in the family alone; it is zero.
    """

    carried: tuple[str, ...] = ()
    added: dict[str, Any] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    zero_biases: tuple[str, ...] = ()


TO_LLADA = {
    r"^model\.embed_tokens\.": "model.transformer.wte.",
    r"^model\.norm\.": "model.transformer.ln_f.",
    r"^lm_head\.": "model.transformer.ff_out.",
    r"^model\.layers\.": "model.transformer.blocks.",
    r"\.self_attn\.o_proj\.": ".attn_out.",
    r"\.self_attn\.": ".",
    r"\.mlp\.gate_proj\.": ".ff_proj.",
    r"\.mlp\.up_proj\.": ".up_proj.",
    r"\.mlp\.down_proj\.": ".ff_out.",
    r"\.input_layernorm\.": ".attn_norm.",
    r"\.post_attention_layernorm\.": ".ff_norm.",
}
SOURCES = {
    "llama": Source("LlamaForCausalLM", ("attention_bias", "mlp_bias")),
    "qwen2": Source("Qwen2ForCausalLM"),
    "qwen3": Source("Qwen3ForCausalLM", ("attention_bias",)),
}
LLAMA_TO_QWEN2 = Pair(("hidden_act", "head_dim"), zero_biases=("q_proj", "k_proj", "v_proj"))
QWEN2_TO_QWEN2 = Pair(("hidden_act", "head_dim"))
# By `model_type`, first of the source, then of the family.
PAIRS: dict[str, dict[str, Pair]] = {
    "llama": {
        "llada": Pair(added={"embedding_size": None}, renamed=TO_LLADA),
        "Dream": LLAMA_TO_QWEN2,
        "Fast_dLLM_Qwen": LLAMA_TO_QWEN2,
    },
    "qwen2": {
        "llada": Pair(added={"embedding_size": None, "include_qkv_bias": True}, renamed=TO_LLADA),
        "Dream": QWEN2_TO_QWEN2,
        "Fast_dLLM_Qwen": QWEN2_TO_QWEN2,
    },
    "qwen3": {"sdar": Pair(("hidden_act", "head_dim", "attention_bias"))},
}


class TokenIds(NamedTuple):
    """The special tokens of a converted model: its mask token, and those of the source."""

    mask: int
    eos: int | list[int]
    pad: int
    bos: int | None


def find_target(name: str) -> type[MaskedDiffusionPreTrainedModel]:
    """
    The family that a user names.

    Args:
        name (`str`): The name of the family, its `model_type` or its class. Only letters and digits count.

    Returns:
        `type[MaskedDiffusionPreTrainedModel]`: The model class.

    Raises:
        `ValueError`: If there is no such family.
    """
    by_name = {
        _plain(known): family
        for family in families()
        for known in (option_name(family), family.__name__, family.config_class.model_type)
    }
    if _plain(name) not in by_name:
        possible = {model_type for targets in PAIRS.values() for model_type in targets}
        options = [option_name(family) for family in families() if family.config_class.model_type in possible]
        close = suggestion(re.sub(r"[^a-z0-9]+", "_", name.lower()), options)
        raise ValueError(f"--to {name}: there is no such family{close}; there are {', '.join(options)}.")
    return by_name[_plain(name)]


def option_name(family: type[MaskedDiffusionPreTrainedModel]) -> str:
    """A family as the command line and the recipes write it: `fast_dllm_v2`."""
    return re.sub(r"[^a-z0-9]+", "_", (family.display_name or family.config_class.model_type).lower())


def read_source(folder: Path, family: type[MaskedDiffusionPreTrainedModel]) -> PretrainedConfig:
    """
    Reads the config of an autoregressive checkpoint, and checks that a family computes the same.

    Args:
        folder (`Path`): The checkpoint.
        family (`type[MaskedDiffusionPreTrainedModel]`): The family that it will be put into.

    Returns:
        `PretrainedConfig`: The config.

    Raises:
        `ValueError`: For another architecture, one that the family cannot hold, or a field that it does not compute.
        `OSError`: For a checkpoint that is missing, damaged or incomplete.
    """
    check_folder(folder)
    present, model_type = read_family(folder, local_files_only=True)
    if present is not None:
        raise ValueError(f"{folder} is a masked-diffusion model already ({present.__name__}): --to takes others.")
    targets = PAIRS.get(model_type or "")
    if targets is None:
        raise ValueError(f"{folder} is a {model_type!r} model: --to takes {', '.join(SOURCES)}.")
    if family.config_class.model_type not in targets:
        options = [option_name(other) for other in families() if other.config_class.model_type in targets]
        raise ValueError(
            f"{folder} is a {model_type!r} model, which {option_name(family)} cannot hold: give --to "
            f"{' or '.join(options)}."
        )
    with load_errors(folder, "config.json"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    _check_fields(folder, config, family)
    with load_errors(folder, "model"):
        check_checkpoint(folder, config)
    return config


def to_diffusion(
    folder: Path, family: type[MaskedDiffusionPreTrainedModel], ids: TokenIds, *, new_mask: bool
) -> MaskedDiffusionPreTrainedModel:
    """
    Loads an autoregressive checkpoint as a masked-diffusion model. Under a causal mask its logits are those of the
    source, besides the column of a new mask token.

    Args:
        folder (`Path`): The checkpoint, which [`read_source`] accepts.
        family (`type[MaskedDiffusionPreTrainedModel]`): The family.
        ids (`TokenIds`): The special tokens.
        new_mask (`bool`): Whether the mask token is new. Its row in the embedding and in the head is then the mean of
            the rows before it, those of all tokens; the matrices grow by it if they are full.

    Returns:
        `MaskedDiffusionPreTrainedModel`: The model, in eval mode and in the dtype of the checkpoint.

    Raises:
        `OSError`: For a checkpoint that is damaged.
    """
    source = load_autoregressive_model(folder, local_files_only=True, trust_remote_code=False)
    pair = PAIRS[source.config.model_type][family.config_class.model_type]
    state = source.state_dict()
    if source.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    if new_mask:
        for name in {"model.embed_tokens.weight", "lm_head.weight"} & state.keys():
            state[name] = _with_mean_row(state[name], ids.mask)
    config = _family_config(source.config, family, pair, ids, rows=len(state["model.embed_tokens.weight"]))
    with load_errors(folder, "model"):
        return family.from_pretrained(
            None, config=config, state_dict=_family_state(state, pair), dtype=source.dtype
        ).eval()


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _check_fields(folder: Path, config: PretrainedConfig, family: type[MaskedDiffusionPreTrainedModel]) -> None:
    """Raises a `ValueError` that names the first field of a source that the family does not compute."""
    source = SOURCES[config.model_type]
    rope = config.rope_parameters or {}
    found = {name: getattr(config, name, None) for name in ("architectures", "head_dim")}
    found |= {name: getattr(config, name, None) for name in (*PLAIN_VALUES, *source.biases)}
    if "sliding_attention" not in (getattr(config, "layer_types", None) or ()):
        found["sliding_window"] = None  # set, and used by no layer
    found["rope_scaling"] = None if rope.get("rope_type", "default") == "default" else dict(rope)
    plain = {
        "architectures": [source.class_name],
        "head_dim": config.hidden_size // config.num_attention_heads,
        **PLAIN_VALUES,
        **dict.fromkeys(source.biases, False),
    }
    carried = PAIRS[config.model_type][family.config_class.model_type].carried
    for name, value in found.items():
        if name not in carried and value is not None and value != plain[name]:
            raise ValueError(
                f"{folder}: {name}={shown(value)} in config.json cannot be carried over to {option_name(family)}: "
                f"only {shown(plain[name])} can."
            )


def _family_config(
    source: PretrainedConfig,
    family: type[MaskedDiffusionPreTrainedModel],
    pair: Pair,
    ids: TokenIds,
    *,
    rows: int,
) -> PretrainedConfig:
    values = {name: getattr(source, name) for name in SHARED_FIELDS}
    values |= {name: getattr(source, name) for name in pair.carried if hasattr(source, name)}
    values |= {"vocab_size": rows, "rope_theta": source.rope_parameters["rope_theta"], "mask_token_id": ids.mask}
    values |= {"eos_token_id": ids.eos, "pad_token_id": ids.pad, "bos_token_id": ids.bos, **pair.added}
    own_names = family.config_class.attribute_map
    return family.config_class(**{own_names.get(name, name): value for name, value in values.items()})


def _family_state(state: dict[str, torch.Tensor], pair: Pair) -> dict[str, torch.Tensor]:
    renamed = {}
    for name, tensor in state.items():
        layer, _, part = name.rpartition(".")
        if part == "weight" and layer.endswith(pair.zero_biases):
            renamed[f"{layer}.bias"] = tensor.new_zeros(len(tensor))
        for pattern, words in pair.renamed.items():
            name = re.sub(pattern, words, name)
        renamed[name] = tensor
    return renamed


def _with_mean_row(matrix: torch.Tensor, row: int) -> torch.Tensor:
    """A copy of a matrix (rows, width) whose `row` is the mean of those before it; it grows by that row if need be."""
    parts = [part.sum(0, dtype=torch.float32) for part in matrix[:row].split(ROWS_AT_ONCE)]
    grown = matrix.new_empty(max(len(matrix), row + 1), matrix.shape[1])
    grown[: len(matrix)] = matrix
    grown[row] = torch.stack(parts).sum(0) / row
    return grown
