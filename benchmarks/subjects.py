"""What is decoded: models and prompts.

A random model has outputs as peaked as those of a trained one, or thresholds would commit one token per forward: the
attention of wide random weights looks at few positions, so that masked positions differ, and the head is scaled to
logits of a given standard deviation, the sharpness. The end of text has a logit of 0, which is never the largest, so
that rows do not end at random while everything that waits for an EOS still runs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import AutoTokenizer

from d3llm.modeling import LLaDAConfig, LLaDAModelLM
from d3llm.quickstart import checkpoint_path
from d3llm.quickstart.stories.problem import generate_problems


SPREAD = 2.8  # standard deviation of the random weights, times the root of the width


@dataclass
class Prompts:
    """Prompts (B, P), left-padded, and their attention mask, `None` without padding."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None

    def row(self, index: int) -> "Prompts":
        """One prompt, without its padding."""
        ids = self.input_ids[index : index + 1]
        if self.attention_mask is not None:
            ids = ids[:, self.attention_mask[index] > 0]
        return Prompts(ids, None)


def random_model(sharpness: float, seed: int, **shape: Any) -> LLaDAModelLM:
    """A random LLaDA with peaked outputs; `shape` are fields of its config."""
    torch.manual_seed(seed)
    config = LLaDAConfig(n_heads=8, init_std=SPREAD / shape["d_model"] ** 0.5, weight_tying=False, **shape)
    model = LLaDAModelLM(config).eval()
    head = model.get_output_embeddings().weight
    with torch.no_grad():
        head.normal_(std=sharpness / config.d_model**0.5)  # the states that it gets have a mean square of 1
        head[config.eos_token_id] = 0.0
    return model


def quickstart_model(name: str, sharpness: float, seed: int) -> LLaDAModelLM:
    """A shipped model, whose outputs are as peaked as they are."""
    return LLaDAModelLM.from_pretrained(checkpoint_path(name)).eval()


SMALL = {"vocab_size": 4096, "embedding_size": 4096, "mask_token_id": 4094, "eos_token_id": 4095, "pad_token_id": 4095}
MODELS: dict[str, Callable[[float, int], LLaDAModelLM]] = {
    # the vocabulary of GSAI-ML/LLaDA-8B-Instruct on a body of 38 M
    "random-168m": partial(random_model, d_model=512, n_layers=12, mlp_hidden_size=1408),
    "random-4m": partial(random_model, d_model=192, n_layers=6, mlp_hidden_size=512, **SMALL),
    "teacher": partial(quickstart_model, "teacher"),
    "student": partial(quickstart_model, "student"),
}


def make_prompts(model_name: str, model: LLaDAModelLM, rows: int, length: int, ragged: bool, seed: int) -> Prompts:
    """
    Prompts for a model: word problems for the quickstart models, random tokens for the random ones.

    Args:
        model_name (`str`): One of `MODELS`, or any other checkpoint's, which gets random tokens.
        model: That model.
        rows (`int`): How many.
        length (`int`): Length of the longest, in tokens; word problems have their own.
        ragged (`bool`): Whether the lengths differ, from half of `length` on. Of word problems, those that are as
            long as the first are taken if they must not.
        seed (`int`): Seed of the draw.
    """
    config = model.config
    if model_name in ("teacher", "student"):
        tokens = word_problems(model_name, rows, ragged, seed)
    else:
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.linspace(length, length // 2 if ragged else length, rows).long().tolist()
        ordinary = config.vocab_size // 2  # below the special tokens
        tokens = [torch.randint(ordinary, (size,), generator=generator).tolist() for size in lengths]
    return pad_left(tokens, config.pad_token_id)


def pad_left(rows: list[list[int]], pad_token_id: int) -> Prompts:
    """Rows of token ids as left-padded prompts."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad_token_id] * (longest - len(row)) + row for row in rows])
    if all(len(row) == longest for row in rows):
        return Prompts(ids, None)
    return Prompts(ids, torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]))


def word_problems(model_name: str, rows: int, ragged: bool, seed: int) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_path(model_name))
    questions = [problem.question for problem in generate_problems("test", 40 * rows, seed)]
    chats = [[{"role": "user", "content": question}] for question in questions]
    tokens = [tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False) for chat in chats]
    if not ragged:
        tokens = [row for row in tokens if len(row) == len(tokens[0])]
    if len(tokens) < rows:
        raise ValueError(f"only {len(tokens)} of {40 * rows} word problems have one length: pass --ragged")
    return tokens[:rows]
