"""A row of a trajectory dataset: its columns, and what is known of each."""

from collections.abc import Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from typing import Any, Literal

from datasets import Features, List, Value


Kind = Literal["value", "tokens", "steps"]


def column(feature: Any, meaning: str, *, kind: Kind = "value", nullable: bool = False, **default: Any) -> Any:
    """
    A column of a [`TrajectoryRow`].

    Args:
        feature (`datasets` feature): Its type.
        meaning (`str`): For cards and messages.
        kind (`str`, *optional*, defaults to `"value"`): `"tokens"` are ids within the vocabulary, one per position;
            `"steps"` are forwards, one per position, from 0 to `num_forwards`.
        nullable (`bool`, *optional*, defaults to `False`): Whether a row may have none.
        default (`Any`): `default=...` makes it a column that datasets may lack.
    """
    return field(metadata={"feature": feature, "meaning": meaning, "kind": kind, "nullable": nullable}, **default)


@dataclass(frozen=True, kw_only=True)
class TrajectoryRow:
    """
    A response, with the forward that committed each of its tokens. Types, checks, fingerprints and batches are derived
    from this list of columns.

    Attributes:
        id (`str`): Dataset, split and number of the row, as in `gsm8k/train/17`; unique.
        prompt_ids (`Sequence[int]`): Token ids of the prompt with the chat template, as the teacher saw them.
        response_ids (`Sequence[int]`): The response up to and including the first EOS, without what the decoder filled
            in after it. A response whose last token is not an EOS was truncated by `max_new_tokens`.
        commit_steps (`Sequence[int]`): As long as `response_ids`: the forward, counted from 1, that committed each
            token; 0 = given.
        num_forwards (`int`): Forwards of the teacher for the row.
        correct (`bool`, *optional*): Verdict of the answer check, `None` where there was none.
        source (`str`): Where the order comes from, a name in `d3llm.trajectories.orders.ORDERS`; `"none"` of rows
            without one, whose commit steps are all 0.
        teacher (`str`): The name of the model; empty for data that no model made.
        decode_config (`str`): JSON object: the resolved fields of `DiffusionGenerationConfig` of a teacher's run,
            among them `mask_token_id` (`None` of an autoregressive model), `eos_token_id` (a list) and `temperature`,
            and `tokenizer`, see [`~d3llm.trajectories.fingerprints.tokenizer_fingerprint`].
        tail_steps (`Sequence[int]`): The commit steps of the positions after the response, up to the end of the
            generated region: EOS, most of them filled in by the early stop. Empty where they are unknown.
    """

    id: str = column(Value("string"), "dataset, split and row of the prompt")
    prompt_ids: Sequence[int] = column(List(Value("int32")), "the prompt, chat template included", kind="tokens")
    response_ids: Sequence[int] = column(
        List(Value("int32")), "the response up to and including its first end of sequence", kind="tokens"
    )
    commit_steps: Sequence[int] = column(
        List(Value("int16")),
        "the forward, counted from one, that committed each token of the response",
        kind="steps",
    )
    num_forwards: int = column(Value("int32"), "forwards of the teacher")
    correct: bool | None = column(Value("bool"), "result of the answer check", nullable=True)
    source: str = column(Value("string"), "source of the order")
    teacher: str = column(Value("string"), "the teacher model")
    decode_config: str = column(Value("string"), "JSON of the decoding parameters")
    tail_steps: Sequence[int] = column(
        List(Value("int16")),
        "the same for what the decoder put after the response, up to the end of the canvas; empty if unknown",
        kind="steps",
        default=(),
    )

    def to_dict(self) -> dict[str, Any]:
        """The row as `datasets` takes it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """
    What an order gives for a sample: the columns of a [`TrajectoryRow`] that come from a run.

    Attributes:
        response_ids, commit_steps, num_forwards, correct, tail_steps: As in [`TrajectoryRow`].
        attempt (`int`): Number of the temperature it was decoded at, counted from 0; not a column.
        row_forwards (`int`, *optional*): Rows of its forwards, if it was decoded; not a column.
        loops (`bool`): Whether the text of an autoregressive model ends in a loop; not a column.
        corrected (`bool`): Whether the response is not what was decoded, but the given one; not a column.
    """

    response_ids: Sequence[int]
    commit_steps: Sequence[int]
    num_forwards: int
    correct: bool | None = None
    tail_steps: Sequence[int] = ()
    attempt: int = 0
    row_forwards: int | None = None
    loops: bool = False
    corrected: bool = False

    def row(self, **columns: Any) -> TrajectoryRow:
        """The row with these other columns."""
        own = {item.name: getattr(self, item.name) for item in fields(self) if item.name in STORED_FEATURES}
        return TrajectoryRow(**own, **columns)


def _columns(keep: Any) -> list[Field]:
    return [item for item in fields(TrajectoryRow) if keep(item)]


STORED_FEATURES = Features({item.name: item.metadata["feature"] for item in fields(TrajectoryRow)})
"""What is loaded, and what an extraction writes."""

OPTIONAL = {item.name: item.default for item in _columns(lambda item: item.default is not MISSING)}
"""Columns that other datasets may lack, with the value of a row that lacks it."""

TRAJECTORY_FEATURES = Features({name: STORED_FEATURES[name] for name in STORED_FEATURES if name not in OPTIONAL})
"""What every trajectory dataset has."""

TOKENS = [item.name for item in _columns(lambda item: item.metadata["kind"] == "tokens")]
STEPS = [item.name for item in _columns(lambda item: item.metadata["kind"] == "steps")]
PER_POSITION = [item.name for item in _columns(lambda item: isinstance(item.metadata["feature"], List))]
"""Columns with a value per position: what the student sees of a row."""

NULLABLE = [item.name for item in _columns(lambda item: item.metadata["nullable"])]
