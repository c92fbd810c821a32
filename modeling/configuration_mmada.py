"""Configuration of MMaDA (MMaDA: Multimodal Large Diffusion Language Models, arXiv 2505.15809)."""

from typing import Any

from .configuration_llada import LLaDAConfig


class MMadaConfig(LLaDAConfig):
    r"""
    Configuration of an [`MMadaModelLM`]: that of LLaDA, with image codes in the vocabulary. Fields of the image path
    (`codebook_size`, `num_vq_tokens`, ...) are kept and not used.

    Args:
        vocab_size, embedding_size (`int`, *optional*, defaults to 134656): Number of token ids, and rows of the
            embedding.
        kwargs (`Any`): As for [`LLaDAConfig`].
    """

    model_type = "mmada"

    def __init__(self, vocab_size: int = 134656, embedding_size: int | None = 134656, **kwargs: Any) -> None:
        super().__init__(vocab_size=vocab_size, embedding_size=embedding_size, **kwargs)
