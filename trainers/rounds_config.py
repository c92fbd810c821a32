"""Configuration of on-policy rounds."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from ..common.field_types import Count, Weight, Whole
from ..evaluation.answer_checks import CheckName
from .field_types import JsonObject, check_fields


@dataclass
class RoundsConfig:
    r"""
    Configuration class for [`~d3llm.trainers.rounds.train_rounds`]: what a round decodes and keeps.

    Parameters:
        > Parameters that control the rounds

        rounds (`int`, *optional*, defaults to 1):
            Number of rounds. A finished run is continued with a larger number.
        resume (`bool`, *optional*, defaults to `False`):
            Whether to resume the rounds in `output_dir`.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether the tokenizer may run code from the model's folder. The model is always this package's class.

        > Parameters that control the prompts

        prompts (`str`):
            Hub id, file (JSON, JSON lines, Parquet, CSV) or folder.
        prompts_config (`str`, *optional*):
            Configuration of a dataset on the Hub that has several.
        prompts_split (`str`, *optional*, defaults to `"train"`):
            Split of the dataset.
        prompt_column (`str`, *optional*, defaults to `"prompt"`):
            Column of texts, chats (lists of messages) or token ids.
        answer_column (`str`, *optional*, defaults to `"answer"`):
            Column that the check compares with.
        chat (`bool`, *optional*):
            Whether texts go into the chat template; by default if there is one.
        skip (`int`, *optional*, defaults to 0):
            Rows to skip.
        prompts_per_round (`int`, *optional*):
            Fresh prompts of each round: the first takes this many rows, the second the next ones. By default every
            round takes all rows, the same each time.

        > Parameters that control the texts

        texts (`str`, *optional*, defaults to `"own"`):
            `"own"`: the student decodes the prompts, and learns from its own runs. `"given"`: it learns the texts in
            `response_column`, without decoding.
        check (`str`, *optional*):
            Check of the student's answers: `"boxed"`, `"hash"`, `"number"` or `"code"`, or one that
            [`~d3llm.evaluation.answer_checks.register_check`] added.
        keep (`str`, *optional*, defaults to `"correct"`):
            `"correct"` drops runs whose answer is wrong; `"all"` keeps them, and needs no check; `"corrected"` puts
            the given text in their place, with the states of the run before its first other token, see
            [`~d3llm.trajectories.corrected_runs.CorrectedRuns`].
        allow_code_execution (`bool`, *optional*, defaults to `False`):
            Whether the check `"code"` may run what was generated.
        decoding (`dict[str, Any]`, *optional*):
            Fields of `DiffusionGenerationConfig` that differ from the student's generation config, such as
            `{"preset": "dparallel", "threshold": 0.3}`.
        temperatures (`list[float]`, *optional*, defaults to `[0.0]`):
            One for each attempt; the next one is made where the answer is wrong.
        chunk_size (`int`, *optional*, defaults to 64):
            Prompts per part of the trajectories; at most that many are decoded again after a kill.
        decoding_batch_size (`int`, *optional*, defaults to 16):
            Rows decoded at once. It has no effect on the texts.
        response_column (`str`, *optional*):
            Texts or token ids, for `texts="given"` and `keep="corrected"`.
        given_order (`str`, *optional*, defaults to `"random"`):
            Order of the given texts: `"random"`, `"left_to_right"`, or a `"column"`.
        order_column (`str`, *optional*):
            Commit steps of the given texts, for `given_order="column"`.
    """

    rounds: Count = field(default=1, metadata={"help": "Number of rounds."})
    resume: bool = field(default=False, metadata={"help": "Resume the rounds in `output_dir`."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Let the tokenizer run the model's code."})

    prompts: Annotated[str, Field(min_length=1)] | None = field(
        default=None, metadata={"help": "Hub id, file or folder of prompts."}
    )
    prompts_config: str | None = field(default=None, metadata={"help": "Configuration of that dataset on the Hub."})
    prompts_split: str = field(default="train", metadata={"help": "Split of that dataset."})
    prompt_column: str = field(default="prompt", metadata={"help": "Texts, chats or token ids."})
    answer_column: str = field(default="answer", metadata={"help": "What the check compares with."})
    chat: bool | None = field(default=None, metadata={"help": "Use the chat template; by default if there is one."})
    skip: Whole = field(default=0, metadata={"help": "Rows to skip."})
    prompts_per_round: Count | None = field(
        default=None, metadata={"help": "Fresh prompts of each round; by default all rows, the same each time."}
    )

    texts: Literal["own", "given"] = field(
        default="own", metadata={"help": "Learn from the student's own runs, or from given texts."}
    )
    check: CheckName | None = field(
        default=None, metadata={"help": "Check of the answers: boxed, hash, number or code."}
    )
    keep: Literal["correct", "all", "corrected"] = field(
        default="correct", metadata={"help": "Drop wrong answers, keep all runs, or correct wrong ones."}
    )
    allow_code_execution: bool = field(default=False, metadata={"help": "Let check=code run what was generated."})
    decoding: dict[str, Any] | JsonObject | None = field(
        default=None, metadata={"help": "Decoding parameters other than the student's own, as JSON."}
    )
    temperatures: Annotated[list[Weight], Field(min_length=1)] = field(
        default_factory=lambda: [0.0],
        metadata={"help": "One per attempt; the next one is made while the answer is wrong."},
    )
    chunk_size: Count = field(default=64, metadata={"help": "Prompts per part of the trajectories."})
    decoding_batch_size: Count = field(default=16, metadata={"help": "Rows decoded at once."})
    response_column: str | None = field(default=None, metadata={"help": "Given texts or token ids."})
    given_order: Literal["random", "left_to_right", "column"] = field(
        default="random", metadata={"help": "Order of the given texts."}
    )
    order_column: str | None = field(default=None, metadata={"help": "Commit steps of the given texts."})

    def __post_init__(self) -> None:
        check_fields(self)
        if isinstance(self.decoding, str):
            self.decoding = json.loads(self.decoding)
        if self.prompts is None:
            raise ValueError("Which prompts? Name a file, folder or dataset with --prompts.")
        if self.texts == "own":
            self._check_own()
        else:
            self._check_given()

    def _check_own(self) -> None:
        if self.check is None and self.keep != "all":
            raise ValueError(
                "Which check? Give --check number (or boxed, hash, code), or train on all answers with --keep all."
            )
        if self.check == "code" and not self.allow_code_execution:
            raise ValueError("check='code' runs untrusted programs: allow it with --allow_code_execution.")
        if self.check is None and len(self.temperatures) > 1:
            raise ValueError(
                "Without a check no answer is wrong, and there is one attempt: give one of `temperatures`."
            )
        if self.keep != "corrected":
            self._refuse(("response_column",), "is for texts='given' and keep='corrected': omit it.")
        elif self.response_column is None:
            raise ValueError("keep='corrected' needs the right texts: name their column with --response_column.")
        self._refuse(("order_column",), "is for texts='given': omit it.")

    def _check_given(self) -> None:
        if self.response_column is None:
            raise ValueError("Which texts? Name the column of the responses with --response_column.")
        if (self.order_column is not None) != (self.given_order == "column"):
            raise ValueError("`order_column` and given_order='column' belong together: give both or none.")
        self._refuse(("check", "decoding"), "is for texts='own', since nothing is decoded: omit it.")

    def _refuse(self, names: Sequence[str], reason: str) -> None:
        given = [name for name in names if getattr(self, name) is not None]
        if given:
            raise ValueError(f"`{given[0]}` {reason}")
