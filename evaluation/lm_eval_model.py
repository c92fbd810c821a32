"""Runs tasks of lm-evaluation-harness with a diffusion model (`pip install 'd3llm[eval]'`)."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .batches import generate_in_batches, left_pad


@register_model("d3llm")
class DiffusionLM(LM):
    """
    Answers the requests of the harness with the decoder of `d3llm.generation`, and counts tokens and forwards.

    Args:
        model (`PreTrainedModel`): A model whose `generate` is the decoder.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        batch_size (`int`, *optional*, defaults to 8): Prompts per batch.
        num_samples (`int`, *optional*, defaults to 128): Forwards per choice of likelihood tasks.
        progress (`Callable[[int], None]`, *optional*): Called after each batch with the number of its rows.
        generation_kwargs: Fields of `DiffusionGenerationConfig`. They override those of a task: `max_new_tokens` its
            `max_gen_toks`, `stop_strings` its `until`.

    Attributes:
        tokens (`int`): Tokens generated so far, up to and including the first EOS of each text.
        forwards (`int`): Forwards for these tokens.
        row_forwards (`int`): Rows of these forwards: more with drafts and guidance.
        seconds (`float`): Wall time for these tokens.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int = 8,
        num_samples: int = 128,
        progress: Callable[[int], None] | None = None,
        **generation_kwargs: Any,
    ):
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.batch_size, self.num_samples = batch_size, num_samples
        self.progress = progress
        self.generation_kwargs = generation_kwargs
        self.tokens = self.forwards = self.row_forwards = 0
        self.seconds = 0.0

    @property
    def tokenizer_name(self) -> str:
        return self.tokenizer.name_or_path.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str:
        return self.tokenizer.chat_template or ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        texts: dict[int, str] = {}
        groups: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(index)
        for kwargs, indices in groups.items():
            fields, until = self._fields(json.loads(kwargs))
            prompts = [self.tokenizer(requests[index].args[0])["input_ids"] for index in indices]
            for batch in generate_in_batches(
                self.model, self.tokenizer, prompts, batch_size=self.batch_size, **fields
            ):
                self.seconds += batch.seconds
                for row in batch.rows:
                    self.tokens += row.tokens
                    self.forwards += row.forwards
                    self.row_forwards += row.row_forwards
                    ends = [row.text.find(stop) for stop in until if stop in row.text]
                    texts[indices[row.index]] = row.text[: min(ends, default=len(row.text))]
                if self.progress is not None:
                    self.progress(len(batch.rows))
        return [texts[index] for index in range(len(requests))]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Estimates from `model.score`. Whether an answer is the greedy one is not defined here, so it is `False`."""
        scores = []
        for start in range(0, len(requests), self.batch_size):
            pairs = [request.args for request in requests[start : start + self.batch_size]]
            prompts = [self.tokenizer(context)["input_ids"] for context, _ in pairs]
            answers = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for _, text in pairs]
            input_ids, attention_mask = left_pad(
                [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)],
                self.tokenizer.pad_token_id or 0,
            )
            answer_mask, _ = left_pad(
                [[0] * len(prompt) + [1] * len(answer) for prompt, answer in zip(prompts, answers, strict=True)], 0
            )
            rows = [tensor.to(self.model.device) for tensor in (input_ids, answer_mask, attention_mask)]
            scores += [(score, False) for score in self.model.score(*rows, num_samples=self.num_samples).tolist()]
        return scores

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        raise ValueError("The likelihood of a whole text is not defined for masked diffusion: omit perplexity tasks.")

    def _fields(self, kwargs: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """The decoder's fields for the arguments of a task, and the strings that end its texts."""
        until = kwargs.get("until") or []
        until = [until] if isinstance(until, str) else list(until)
        fields: dict[str, Any] = {"max_new_tokens": kwargs.get("max_gen_toks", 256)}
        if until:
            fields["stop_strings"] = until
        if kwargs.get("do_sample") and kwargs.get("temperature"):
            fields["temperature"] = kwargs["temperature"]
        return {**fields, **self.generation_kwargs}, until


def run_harness(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str | dict[str, Any]],
    *,
    batch_size: int = 8,
    limit: int | None = None,
    chat: bool = False,
    allow_code_execution: bool = False,
    progress: Callable[[int], None] | None = None,
    **generation_kwargs: Any,
) -> dict[str, Any]:
    """
    Runs tasks of lm-evaluation-harness.

    Args:
        model (`PreTrainedModel`): A model whose `generate` is the decoder.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        tasks (`Sequence[str | dict[str, Any]]`): Names of tasks, or their configurations.
        batch_size (`int`, *optional*, defaults to 8): Prompts per batch.
        limit (`int`, *optional*): Number of samples per task, taken from the start.
        chat (`bool`, *optional*, defaults to `False`): Whether to use the chat template.
        allow_code_execution (`bool`, *optional*, defaults to `False`): Whether tasks may run generated programs. The
            harness runs them in its own way, not with [`run_program`].
        progress (`Callable[[int], None]`, *optional*): Called after each batch with the number of its rows.
        generation_kwargs: See [`DiffusionLM`].

    Returns:
        `dict[str, Any]`: `results` by task, as from the harness; `num_samples`; and `tokens`, `forwards`,
        `row_forwards`, `seconds`, `tokens_per_forward`, `tokens_per_second` over all generated texts (the last two are
        `None` without any).
    """
    lm = DiffusionLM(model, tokenizer, batch_size=batch_size, progress=progress, **generation_kwargs)
    output = simple_evaluate(
        lm,
        tasks=list(tasks),
        limit=limit,
        apply_chat_template=chat,
        confirm_run_unsafe_code=allow_code_execution,
        bootstrap_iters=0,
    )
    return {
        "results": output["results"],
        "num_samples": output["n-samples"],
        "tokens": lm.tokens,
        "forwards": lm.forwards,
        "row_forwards": lm.row_forwards,
        "seconds": lm.seconds,
        "tokens_per_forward": lm.tokens / lm.forwards if lm.forwards else None,
        "tokens_per_second": lm.tokens / lm.seconds if lm.seconds else None,
    }
