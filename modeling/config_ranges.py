"""Valid ranges for the fields of a model's config. Other values give a model that fails or computes nonsense."""

from transformers import PretrainedConfig

from ..generation.fields import LARGEST, Kind, Number, Whole, shown


SIZE = Whole(1)
SHARED_KINDS: dict[str, Kind] = {
    "hidden_size": SIZE,
    "num_attention_heads": SIZE,
    "num_key_value_heads": SIZE,
    "num_hidden_layers": SIZE,
    "head_dim": SIZE,
    "intermediate_size": SIZE,
    "moe_intermediate_size": SIZE,
    "num_experts": SIZE,
    "num_shared_experts": Whole(0),
    "n_group": SIZE,
    "decoder_sparse_step": SIZE,
    "vocab_size": SIZE,
    "block_size": SIZE,  # of block-causal attention; `bd_size` in Fast-dLLM v2
    "bd_size": SIZE,
    "max_position_embeddings": SIZE,
    "rms_norm_eps": Number(0, 1, inclusive=False),
    "rope_theta": Number(0, 1e12, inclusive=False),
    "partial_rotary_factor": Number(0, 1, inclusive=False),
}


def check_ranges(config: PretrainedConfig) -> None:
    """Check the fields of a config against their ranges. `None` means "not given" and always passes.

    Args:
        config (`PretrainedConfig`): Config of a masked-diffusion model, with the names that libraries look for.

    Raises:
        ValueError: Names the first field that is out of range.
    """
    published_names = config.attribute_map
    rows = getattr(config, "embedding_size", None) or config.vocab_size
    experts = getattr(config, "num_experts", None)
    kinds = SHARED_KINDS | {
        "mask_token_id": Whole(0, rows - 1 if isinstance(rows, int) else LARGEST),
        "num_experts_per_tok": Whole(1, experts if isinstance(experts, int) else LARGEST),
    }
    for name, kind in kinds.items():
        value = getattr(config, name, None)
        fault = None if value is None else kind.fault(value)
        if fault:
            raise ValueError(f"{type(config).__name__}.{published_names.get(name, name)}={shown(value)} {fault}")
    own_size = getattr(config, "head_dim", None)
    if own_size is None:
        _check_multiple(config, "hidden_size", "num_attention_heads")
    if getattr(config, "num_key_value_heads", None) is not None:
        _check_multiple(config, "num_attention_heads", "num_key_value_heads")
    size = own_size or config.hidden_size // config.num_attention_heads
    rotated = int(size * (getattr(config, "partial_rotary_factor", None) or 1))
    if rotated % 2 or not rotated:
        raise ValueError(
            f"{type(config).__name__} rotates {rotated} of the {size} channels of a head: make them an even number"
        )


def _check_multiple(config: PretrainedConfig, name: str, divisor: str) -> None:
    published_names, size, count = config.attribute_map, getattr(config, name), getattr(config, divisor)
    if size % count:
        name, divisor = (published_names.get(each, each) for each in (name, divisor))
        raise ValueError(f"{type(config).__name__}.{name}={size} must be a multiple of {divisor}={count}")
