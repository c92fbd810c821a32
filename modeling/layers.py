"""The parts shared by all masked-diffusion transformers: rotary positions and attention over a canvas.

The architectures name their modules differently, since their state-dict keys are those of the published checkpoints.
What a layer computes is the same, and is written here once.
"""

import copy
import os
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils import logging

from .outputs import CanvasLMOutput, CanvasModelOutput
from .remote_code import save_with_code


logger = logging.get_logger(__name__)


class CanvasRotaryEmbedding(nn.Module):
    """Rotary position embedding (RoFormer, arXiv 2104.09864, section 3.2.2), with halves rotated as in GPT-NeoX.

    Args:
        head_dim (`int`): Size of one attention head.
        theta (`float`): Base of the geometric progression of the frequencies.
    """

    def __init__(self, head_dim: int, theta: float) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.theta = theta
        self.inv_freq: torch.Tensor
        self.register_buffer("inv_freq", self.inverse_frequencies(), persistent=False)

    def inverse_frequencies(self) -> torch.Tensor:
        """Inverse frequencies (head_dim / 2,) in float32."""
        return 1.0 / self.theta ** (torch.arange(0, self.head_dim, 2, dtype=torch.float32) / self.head_dim)

    @torch.no_grad()
    def forward(self, position_ids: torch.LongTensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines (batch, 1, positions, head_dim) in float32, for `position_ids` (batch, positions)."""
        angles = position_ids[:, None, :, None].float() * self.inv_freq.float()
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos(), angles.sin()


def rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate queries or keys (batch, heads, positions, head_dim) by their angles; the dtype is kept.

    Where the angles cover fewer channels than a head has (a partial rotary embedding), only the first ones are
    rotated.
    """
    width = cos.shape[-1]
    if width < states.shape[-1]:
        return torch.cat([rotate(states[..., :width], cos, sin), states[..., width:]], dim=-1)
    first, second = states.chunk(2, dim=-1)
    return (states * cos + torch.cat([-second, first], dim=-1) * sin).to(states.dtype)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The attention interface of transformers, computed step by step, so that there are weights to return."""
    key = key.repeat_interleave(module.num_key_value_groups, dim=1)
    value = value.repeat_interleave(module.num_key_value_groups, dim=1)
    weights = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None and attention_mask.dtype == torch.bool:  # as a caller prepares it for sdpa
        weights = weights.masked_fill(~attention_mask, torch.finfo(weights.dtype).min)
    elif attention_mask is not None:
        weights = weights + attention_mask
    weights = weights.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2), weights


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rotary: tuple[torch.Tensor, torch.Tensor],
    attention_mask: torch.Tensor | None,
    cache: Cache | None,
    cache_positions: torch.LongTensor | slice | None,
    output_attentions: bool = False,
    query_norm: nn.Module | None = None,
    key_norm: nn.Module | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Bidirectional attention from the recomputed positions to every slot of the canvas.

    Args:
        module (`nn.Module`): Holds `config`, `layer_idx`, `head_dim`, `num_key_value_groups`, `attention_dropout` and
            `is_causal = False`. Without the last one, sdpa and flash attention would be causal.
        query, key, value (`torch.Tensor`): Projections (batch, positions, heads * head_dim).
        rotary (`tuple[torch.Tensor, torch.Tensor]`): What [`CanvasRotaryEmbedding`] returned for these positions.
        attention_mask (`torch.Tensor`, *optional*): In the form that the attention implementation expects.
        cache (`Cache`, *optional*): A [`~d3llm.generation.canvas_cache.CanvasCache`] whose slots are
            overwritten at `cache_positions`.
        output_attentions (`bool`, *optional*, defaults to `False`): Whether to return the weights too. The eager
            implementation then runs, whichever one the config names.
        query_norm, key_norm (`nn.Module`, *optional*): Norms of the queries and keys (batch, positions, heads,
            head_dim), before the rotation.

    Returns:
        `tuple[torch.Tensor, torch.Tensor | None]`: The attended values (batch, positions, heads * head_dim), and the
        weights (batch, heads, positions, slots) or `None`.
    """
    batch, length = query.shape[:2]
    query, key, value = (states.view(batch, length, -1, module.head_dim) for states in (query, key, value))
    if query_norm is not None:
        query = query_norm(query)
    if key_norm is not None:
        key = key_norm(key)
    query, key, value = (states.transpose(1, 2) for states in (query, key, value))
    query, key = rotate(query, *rotary), rotate(key, *rotary)
    if cache is not None:
        key, value = cache.update(key, value, module.layer_idx, positions=cache_positions)
    implementation = "eager" if output_attentions else module.config._attn_implementation
    attention = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
    output, weights = attention(
        module,
        query,
        key,
        value,
        attention_mask,
        dropout=module.attention_dropout if module.training else 0.0,
        scaling=module.head_dim**-0.5,
        is_causal=False,
        **kwargs,
    )
    # The weights are returned only on request: the outputs of a layer stay in memory despite gradient checkpointing.
    return output.reshape(batch, length, -1), weights if output_attentions else None


class MaskedDiffusionPreTrainedModel(PreTrainedModel):
    """Base class of masked-diffusion models. It states the facts that the loader, the decoder and the trainer need.

    A family is named by the `model_type` of its config. Its class attributes are all that the other parts of the
    package know about it:

    Class attributes:
        logits_shift (`int`): 0 when row `i` of `forward().logits` predicts the token at position `i`, 1 when it
            predicts the token at `i + 1` (models adapted from an autoregressive one). Each family states it.
        display_name (`str`): The name of the family in messages.
        checkpoints (`tuple[str, ...]`): Published checkpoints with the keys of the class, as Hub ids.
        attention (`str`, *optional*): `"bidirectional"`, `"block_causal"` or `"causal"` (ReFusion: over slots in the
            order of their completion), if all checkpoints of the family were trained with it; an `attention` in
            config.json comes first.
        attention_block_size (`int`, *optional*): Positions per block of block-causal attention. A family whose
            checkpoints differ in it states the usual one, and each model that of its config. Of a family without
            blocks, `attention_block_size` in config.json is that of a model that was trained to attend in blocks.
        attention_grid (`str`): Where the blocks of block-causal attention are counted from: `"prompt"`, from the end
            of the prompt, which is one block (D2F), or `"absolute"`, from the first token of the row in multiples of
            the block size, so that the prompt may end inside a block (SDAR, LLaDA2, Fast-dLLM v2).
        hub_model_types (`tuple[str, ...]`): Further values of `model_type` in config.json with which checkpoints of
            the class are published. `architectures` then says which class they are of.
        preset_values (`dict[str, dict[str, Any]]`): By preset name, the values in which the family departs from it.
        teacher_decoding (`dict[str, Any]`): Decoding fields for a teacher that commits one token per forward; empty
            when none are known.
        adapter_targets (`dict[str, list[str]]`): Names of the layers that adapters wrap: `"projections"`, all of
            attention and MLP; `"keys_values"`; `"feedforward"`, the last of the MLP; and `"norms"`.
    """

    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _skip_keys_device_placement = ["cache", "past_key_values"]
    logits_shift = 0
    display_name = ""
    checkpoints: tuple[str, ...] = ()
    attention: str | None = None
    attention_block_size: int | None = None
    attention_grid: str = "prompt"
    hub_model_types: tuple[str, ...] = ()
    preset_values: dict[str, dict[str, Any]] = {}
    teacher_decoding: dict[str, Any] = {}
    adapter_targets: dict[str, list[str]] = {}

    def __init__(self, config: PretrainedConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        trained = getattr(config, "attention_block_size", None)  # of a model that was trained to attend in blocks
        if trained is not None:
            self.attention_block_size = trained

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        # Transformers searches the file of the model class for a call of the attention interface; it is in this file.
        return True

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CanvasRotaryEmbedding):
            # Loading builds the model on the meta device and leaves non-persistent buffers empty. They can only be
            # filled here.
            init.copy_(module.inv_freq, module.inverse_frequencies())

    def _check_and_adjust_attn_implementation(
        self, attn_implementation: str | None, *args: Any, **kwargs: Any
    ) -> str | None:
        if attn_implementation is not None and not isinstance(attn_implementation, str):
            raise ValueError(f"attn_implementation={attn_implementation!r} is not a name, such as 'sdpa' or 'eager'.")
        try:
            return super()._check_and_adjust_attn_implementation(attn_implementation, *args, **kwargs)
        except ImportError as error:
            raise ImportError(
                f"attn_implementation={attn_implementation!r} needs a package that is not installed here: install it, "
                f"or take 'sdpa'. ({' '.join(str(error).split())})"
            ) from error

    def save_pretrained(
        self, save_directory: str | os.PathLike, *args: Any, with_code: bool = True, **kwargs: Any
    ) -> None:
        """
        Save the model as a folder that loads with `trust_remote_code=True` where this package is not installed.

        Args:
            save_directory (`str` or `PathLike`): The folder.
            args, kwargs (`Any`): As for `PreTrainedModel.save_pretrained`.
            with_code (`bool`, *optional*, defaults to `True`): Whether to save the code too. Without it, the folder
                loads only where the package is installed.

        Raises:
            ExportError: If the code of the model imports a package that may be missing where the model is loaded.
        """
        if with_code:
            save_with_code(self, super().save_pretrained, save_directory, *args, **kwargs)
        else:
            # A map from an earlier folder names code that is not in this one.
            self.config.__dict__.pop("auto_map", None)
            super().save_pretrained(save_directory, *args, **kwargs)

    def logit_rows(self, positions: torch.LongTensor) -> torch.LongTensor:
        """Rows of `forward().logits` over the whole canvas that predict the tokens at `positions`.

        Only this method applies the shift of a model. If a forward recomputes the canvas from position `s` on, row `r`
        of the canvas is row `r - s` of its logits. The window of a shifted model must therefore start at
        `logit_rows(first)`, one before the first position to predict. Position 0 has no row before it and uses its
        own.

        Args:
            positions (`torch.LongTensor`): Canvas positions, any shape.

        Returns:
            `torch.LongTensor`: Canvas rows, same shape; usable as `logits_to_keep`.

        Example:

        ```python
        >>> rows = model.logit_rows(masked_positions)  # (batch, count)
        >>> logits = model(input_ids, logits_to_keep=rows).logits  # (batch, count, vocab), aligned to the positions
        ```
        """
        return (positions - self.logits_shift).clamp(min=0) if self.logits_shift else positions

    def head_output(
        self,
        outputs: CanvasModelOutput,
        logits_to_keep: int | torch.Tensor,
        run_head: bool,
        labels: torch.LongTensor | None,
        num_items_in_batch: int | torch.Tensor | None,
    ) -> CanvasLMOutput:
        """Run the head on the output of the transformer, and compute the loss. The arguments are those of `forward`.

        Raises:
            ValueError: If `labels` are given without the logits of every position, or do not match their shape.
        """
        every_row = run_head and not isinstance(logits_to_keep, torch.Tensor) and logits_to_keep == 0
        if labels is not None and not every_row:
            raise ValueError("`labels` need the logits of every position: pass no `logits_to_keep` and no `run_head`")
        kept = keep_rows(outputs.last_hidden_state, logits_to_keep)
        if not run_head:
            return CanvasLMOutput(cache=outputs.cache, hidden_states=(kept,))
        logits = self.get_output_embeddings()(kept)
        loss = None
        if labels is not None:
            rows = self.logit_rows(torch.arange(logits.shape[1], device=logits.device))
            loss = labelled_loss(logits, labels, rows, num_items_in_batch)
        return CanvasLMOutput(
            loss=loss,
            logits=logits,
            cache=outputs.cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


def keep_rows(hidden_states: torch.Tensor, logits_to_keep: int | torch.Tensor) -> torch.Tensor:
    """The rows of the hidden states (batch, positions, hidden) to run the head on.

    Args:
        logits_to_keep (`int` or `torch.Tensor`): 0 = all, n = the last n, rows `(rows,)` or `(batch, rows)` on any
            device, or a mask `(batch, positions)`, which gives its rows as one sequence `(true, hidden)`.
    """
    if not isinstance(logits_to_keep, torch.Tensor):
        return hidden_states[:, -logits_to_keep:]
    kept = logits_to_keep.to(hidden_states.device)  # in a model split over devices, the last layer may be on another
    if kept.dtype == torch.bool:
        return hidden_states[kept]
    if kept.ndim == 1:
        return hidden_states[:, kept]
    # not `take_along_dim`, for which torch.compile makes a graph per number of positions
    return hidden_states.gather(1, kept[..., None].expand(-1, -1, hidden_states.shape[-1]))


def labelled_loss(
    logits: torch.Tensor,
    labels: torch.LongTensor,
    rows: torch.LongTensor,
    num_items_in_batch: int | torch.Tensor | None,
) -> torch.Tensor:
    """Cross entropy, in float32, of the positions whose label is not -100.

    Args:
        logits (`torch.Tensor`): (batch, positions, vocab).
        labels (`torch.LongTensor`): (batch, positions), the token at each position.
        rows (`torch.LongTensor`): (positions,), the row of the logits that predicts each position.
        num_items_in_batch (`int` or `torch.Tensor`, *optional*): The divisor of the sum; by default the number of
            labelled positions.

    Returns:
        `torch.Tensor`: In nats, shape ().

    Raises:
        ValueError: If `labels` do not have the shape (batch, positions) of the logits.
    """
    if labels.shape != logits.shape[:2]:
        raise ValueError(
            f"`labels` have the shape {tuple(labels.shape)}, the logits {tuple(logits.shape)}: pass one label for "
            "each position of `input_ids`, -100 where none is to be predicted"
        )
    labels = labels.to(logits.device)
    row_of_batch, positions = (labels != -100).nonzero(as_tuple=True)
    predicted = logits[row_of_batch, rows[positions]].float()
    wanted = labels[row_of_batch, positions]
    if num_items_in_batch is None:
        return nn.functional.cross_entropy(predicted, wanted)
    return nn.functional.cross_entropy(predicted, wanted, reduction="sum") / num_items_in_batch


def eager_config(config: PretrainedConfig) -> PretrainedConfig:
    """The config, or a copy of it with eager attention, the only implementation that returns weights."""
    if config._attn_implementation == "eager":
        return config
    logger.warning_once(
        f"attn_implementation={config._attn_implementation!r} gives no attention weights: output_attentions=True "
        'runs the eager one instead. Load the model with attn_implementation="eager" to avoid this warning.'
    )
    eager = copy.copy(config)
    eager._attn_implementation = "eager"
    return eager


def run_layers(
    backbone: MaskedDiffusionPreTrainedModel,
    layers: nn.ModuleList,
    norm: nn.Module,
    rotary_emb: CanvasRotaryEmbedding,
    hidden_states: torch.Tensor,
    *,
    attention_mask: torch.Tensor | None,
    position_ids: torch.LongTensor | None,
    cache: Cache | None,
    cache_positions: torch.LongTensor | slice | None,
    output_hidden_states: bool | None,
    output_attentions: bool | None,
    rotary_dtype: torch.dtype | None = None,
    **kwargs: Any,
) -> CanvasModelOutput:
    """Run a stack of layers over embeddings (batch, positions, hidden): mask, rotary angles, layers, final norm.

    Args:
        attention_mask (`torch.Tensor`, *optional*): (batch, slots), 1 = may be attended to. With a cache, `slots` is
            the length of the canvas; without one, the number of positions. A prepared 4-D mask is used as it is.
        position_ids (`torch.LongTensor`, *optional*): (batch or 1, positions); by default `cache_positions`, or
            counted from 0.
        output_hidden_states, output_attentions (`bool`, *optional*): What to return besides the last hidden state;
            by default as the config says.
    """
    config = backbone.config
    output_hidden_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
    output_attentions = bool(config.output_attentions if output_attentions is None else output_attentions)
    if position_ids is None:
        if isinstance(cache_positions, torch.Tensor):
            position_ids = cache_positions
        else:
            start = cache_positions.start or 0 if cache_positions is not None else 0
            position_ids = torch.arange(start, start + hidden_states.shape[1], device=hidden_states.device)[None]
    mask_config = eager_config(config) if output_attentions else config
    mask = None
    if attention_mask is not None:
        # Positional arguments, because their names differ between releases. Without the cache, because the mask
        # already has its length.
        mask = create_bidirectional_mask(mask_config, hidden_states, attention_mask)
    cos, sin = rotary_emb(position_ids)
    rotary = (cos.to(rotary_dtype), sin.to(rotary_dtype)) if rotary_dtype is not None else (cos, sin)
    all_hidden_states: tuple[torch.Tensor, ...] = ()
    all_attentions: tuple[torch.Tensor, ...] = ()
    all_router_logits: tuple[torch.Tensor, ...] = ()
    for layer in layers:
        if output_hidden_states:
            all_hidden_states += (hidden_states,)
        hidden_states, weights, *router_logits = layer(
            hidden_states,
            rotary=rotary,
            attention_mask=mask,
            cache=cache,
            cache_positions=cache_positions,
            output_attentions=output_attentions,
            **kwargs,
        )
        if output_attentions:
            all_attentions += (weights,)
        all_router_logits += tuple(router_logits)
    hidden_states = norm(hidden_states)
    return CanvasModelOutput(
        last_hidden_state=hidden_states,
        cache=cache,
        hidden_states=(*all_hidden_states, hidden_states) if output_hidden_states else None,
        attentions=all_attentions if output_attentions else None,
        router_logits=all_router_logits or None,
    )
