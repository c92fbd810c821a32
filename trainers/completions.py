"""Training data without an order: prompts and completions, or chats, as rows of a trajectory dataset."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from accelerate import PartialState
from datasets import Dataset, IterableDataset
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging
from trl.data_utils import apply_chat_template, maybe_convert_to_chatml

from ..trajectories.dataset import NO_ORDER
from ..trajectories.orders import length_up_to_eos
from ..trajectories.row import STORED_FEATURES, TRAJECTORY_FEATURES, TrajectoryRow


logger = logging.get_logger(__name__)

FORMS = ({"prompt", "completion"}, {"messages"}, {"conversations"})
"""
Columns of ordinary data, as in TRL.

- `prompt`, `completion`: texts, used as they are; or lists of messages, where the completion is a single answer.
- `messages`: a chat whose last message is the answer to learn; also `conversations` with `from` and `value`.
"""


def has_completions(columns: Collection[str]) -> bool:
    """Whether a dataset with these columns holds prompts and completions rather than trajectories."""
    return not TRAJECTORY_FEATURES.keys() <= set(columns) and any(form <= set(columns) for form in FORMS)


def column_names(dataset: Dataset | IterableDataset) -> list[str]:
    """The columns of a dataset, read from the first row if an iterable dataset does not know them."""
    return dataset.column_names or list(next(iter(dataset), {}))


def encode_completions(
    dataset: Dataset | IterableDataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    mask_token_id: int,
    eos_token_ids: list[int],
    name: str,
) -> Dataset | IterableDataset:
    """
    Converts ordinary data to rows of a trajectory dataset in which every commit step is 0 and the source is `"none"`.

    Messages go through the chat template; texts are used as they are. A response ends with the first EOS of the
    completion. If there is none, one is added.

    Args:
        dataset (`Dataset` or `IterableDataset`): With the columns of one of [`FORMS`]; other columns are dropped.
        tokenizer (`PreTrainedTokenizerBase`): The student's tokenizer.
        mask_token_id (`int`): The student's mask token.
        eos_token_ids (`list[int]`): Tokens that end the student's responses; the first of them is the one to add.
        name (`str`): The name of the dataset in errors.

    Returns:
        `Dataset` or `IterableDataset`: With the columns of [`~d3llm.trajectories.row.STORED_FEATURES`].

    Raises:
        `ValueError`: For a row that is not a prompt and completion; it names the row's number.
    """
    decode_config = json.dumps({"mask_token_id": mask_token_id, "eos_token_id": eos_token_ids})

    def encode(example: dict[str, Any], index: int) -> dict[str, Any]:
        try:
            prompt_ids, completion_ids = _encode(example, tokenizer)
        except (ValueError, TypeError, LookupError, TemplateError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(f"{name}: row {index} is not a prompt and completion: {reason}") from error
        if not any(token in eos_token_ids for token in completion_ids):
            completion_ids = completion_ids + eos_token_ids[:1]
        response_ids = completion_ids[: length_up_to_eos(completion_ids, eos_token_ids)]
        return TrajectoryRow(
            id=f"{name}/{index}",
            prompt_ids=prompt_ids,
            response_ids=response_ids,
            commit_steps=[0] * len(response_ids),
            num_forwards=0,
            correct=None,
            source=NO_ORDER,
            teacher="",
            decode_config=decode_config,
        ).to_dict()

    if tokenizer.chat_template is not None and _begins_with_text(dataset):
        logger.warning(
            "%s: texts are used as they are, without this tokenizer's chat template. To train on chats, give lists of "
            "messages.",
            name,
        )
    options = {"with_indices": True, "features": STORED_FEATURES, "remove_columns": column_names(dataset)}
    if isinstance(dataset, IterableDataset):
        return dataset.map(encode, **options)
    with PartialState().main_process_first():
        return dataset.map(encode, desc=f"Tokenizing {name}", **options)


def _begins_with_text(dataset: Dataset | IterableDataset) -> bool:
    """Whether the first row is of texts, not messages."""
    first: Any = next(iter(dataset), {})
    return any(isinstance(first.get(name), str) for name in ("prompt", "completion"))


def _encode(example: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Token ids of the prompt, as `generate` sees it, and of the completion."""
    example = maybe_convert_to_chatml(dict(example))
    if "messages" in example:
        *prompt, answer = example["messages"]
        completion: Any = [answer]
    else:
        prompt, completion = example["prompt"], example["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        return tokenizer(prompt)["input_ids"], tokenizer(completion, add_special_tokens=False)["input_ids"]
    if len(completion) != 1 or completion[0]["role"] != "assistant":
        raise ValueError("the completion of a chat must be one message of the assistant, its last")
    if not prompt:
        raise ValueError("a chat must begin with a message of the user")
    if tokenizer.chat_template is None:
        raise ValueError("the tokenizer has no chat template for messages: give texts")
    chat = {
        "prompt": prompt,
        "completion": completion,
        "chat_template_kwargs": example.get("chat_template_kwargs") or {},
    }
    texts = apply_chat_template(chat, tokenizer, tools=example.get("tools"))
    prompt_ids, completion_ids = (
        tokenizer(texts[part], add_special_tokens=False)["input_ids"] for part in ("prompt", "completion")
    )
    return prompt_ids, completion_ids
