"""
Extraction: records in which order a teacher commits its tokens.

`accelerate launch -m d3llm.trajectories.extract --teacher M --dataset D ...` takes the arguments of `d3llm extract`.
"""

import json
import logging
import runpy
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..common.field_types import Count, License, LongSeed, Name, Weight, Whole, check_fields
from ..common.files import write_atomically
from ..common.fingerprints import fingerprint_weights
from ..common.processes import Processes
from ..evaluation import decoding_fields, resolve_generation_config
from ..evaluation.answer_checks import ANSWERS, CHECKS, CheckName
from ..evaluation.autoregressive import eos_token_ids_of
from ..hub_cards.cards import trajectory_card
from ..hub_cards.facts import TRAJECTORY_FACTS, facts_json
from ..modeling.layers import MaskedDiffusionPreTrainedModel
from ..modeling.loading import load_autoregressive_model, load_tokenizer
from .corrected_runs import CorrectedRuns
from .dataset import LARGEST_STEP
from .extraction_progress import ExtractionProgress
from .fingerprints import tokenizer_fingerprint
from .greedy_runs import GreedyRuns
from .orders import (
    ARBuckets,
    ARRank,
    CommitSteps,
    LeftToRight,
    OrderColumn,
    OrderName,
    PublishedTrajectories,
    RandomOrder,
    ResponseReader,
)
from .prompt_rows import Response, Sample, Samples
from .published import CORRECT_COLUMN, TRAJECTORY_COLUMN
from .row import Trajectory, TrajectoryRow
from .store import Parts
from .teacher_runs import TeacherRuns
from .trajectory_facts import ChunkCounts, extraction_counts, trajectory_facts


logger = logging.getLogger(__name__)

AR_TOKENS = 256  # `max_new_tokens` of an autoregressive model, unless given


@dataclass(frozen=True)
class ExtractionConfig:
    r"""
    What to extract.

    Args:
        > The dataset

        dataset (`str`): Hub id, file (JSON, JSON lines, Parquet, CSV) or folder.
        dataset_config (`str`, *optional*): Configuration of a dataset on the Hub that has several.
        split (`str`, *optional*, defaults to `"train"`): Split.
        skip (`int`, *optional*, defaults to 0): How many rows to skip.
        limit (`int`, *optional*): How many of the rows after them; all by default.
        prompt_column (`str`, *optional*, defaults to `"prompt"`): Texts, chats (lists of messages) or token ids.
        answer_column (`str`, *optional*): What the check compares with; for `"code"`, tests.
        response_column (`str`, *optional*): Texts or token ids, for an order that is not the teacher's, and for
            `keep="corrected"`.
        order_column (`str`, *optional*): Commit steps, one for each token of the response, for `order="column"`.
        chat (`bool`, *optional*): Whether texts go into the chat template; by default if there is one.

        > The trajectories

        teacher (`str`): What the rows call the teacher.
        order (`str`, *optional*, defaults to `"teacher"`): Where the order comes from: the `"teacher"`'s run;
            `"random"`, `"left_to_right"`, a `"column"`, `"ar_rank"` (what an autoregressive model finds most
            probable first) or `"ar_buckets"` (what it finds hardest first, in buckets; TRIMS) for responses of the
            dataset; `"published"` for d3LLM/trajectory_data_*; `"ar"` for the own greedy texts of an autoregressive
            model, which train a drafter.
        order_model (`str`, *optional*): Causal language model of `"ar_rank"` and `"ar_buckets"`, with the teacher's
            token ids.
        order_buckets (`int`, *optional*, defaults to 8): Number of buckets of `"ar_buckets"`.
        decoding (`dict[str, Any]`, *optional*): Fields of `DiffusionGenerationConfig` that differ from one token per
            forward in blocks of 32; with `order="ar"` only `max_new_tokens`, 256 by default.
        temperatures (`Sequence[float]`, *optional*, defaults to `(0.0, 0.1, 0.2, 0.3, 0.4)`): One for each attempt;
            the next one is made where the answer is wrong.
        seed (`int`, *optional*, defaults to 0): Seed of everything that is sampled.
        check (`str`, *optional*, defaults to `"none"`): Check of the answers: `"boxed"`, `"hash"`, `"number"` or
            `"code"`, see `d3llm.evaluation.answer_checks`.
        allow_code_execution (`bool`, *optional*, defaults to `False`): Whether `"code"` may run what was generated.
        keep (`str`, *optional*, defaults to `"all"`): Which rows to keep: `"all"`, of a sample that never gets right
            the first attempt; `"correct"`, without the wrong ones; or `"corrected"`, with the responses of the dataset
            in place of wrong ones, see [`~d3llm.trajectories.corrected_runs.CorrectedRuns`], and without those that
            do not fit on the canvas. A sample without an answer has no verdict, and is always kept.
        loops (`str`, *optional*, defaults to `"drop"`): Whether texts of an autoregressive model that end in a
            loop are rows too: `"drop"` or `"keep"`, see [`~d3llm.trajectories.greedy_runs.ends_in_loop`].

        > The output

        output (`Path`): Folder to write to; an interrupted run resumes there.
        license (`str`, *optional*, defaults to `"other"`): SPDX id of the prompts' licence, for the card.
        chunk_size (`int`, *optional*, defaults to 64): Samples per part; at most that many are decoded again after a
            kill.
        batch_size (`int`, *optional*, defaults to 16): Rows decoded at once.

    Raises:
        `ValueError`: If the values do not fit together.
    """

    dataset: str
    output: Path
    teacher: Name
    dataset_config: str | None = None
    split: str = "train"
    skip: Whole = 0
    limit: Annotated[int, Field(ge=1)] | None = None
    prompt_column: str = "prompt"
    answer_column: str | None = None
    response_column: str | None = None
    order_column: str | None = None
    chat: bool | None = None
    order: OrderName = "teacher"
    order_model: str | None = None
    order_buckets: Count = 8
    decoding: dict[str, Any] = field(default_factory=dict)
    temperatures: Annotated[Sequence[Weight], Field(min_length=1)] = (0.0, 0.1, 0.2, 0.3, 0.4)
    seed: LongSeed = 0
    check: Literal["none"] | CheckName = "none"
    allow_code_execution: bool = False
    keep: Literal["correct", "all", "corrected"] = "all"
    loops: Literal["drop", "keep"] = "drop"
    license: License = "other"
    chunk_size: Count = 64
    batch_size: Annotated[int, Field(ge=1)] = 16

    def __post_init__(self):
        check_fields(self)
        own = {"column": ["response", "order"], "teacher": [], "published": [], "ar": []}
        needed = own.get(self.order, ["response"])
        if self.check != "none":
            needed.append("answer")
        if self.order == "teacher" and self.keep == "corrected":
            needed.append("response")
        for column in ("answer", "response", "order"):
            given = getattr(self, f"{column}_column") is not None
            if given != (column in needed):
                verb = "needs" if column in needed else "has no use for"
                raise ValueError(f"order={self.order!r} with check={self.check!r} {verb} a column: --{column}-column.")
        if (self.order_model is not None) != (self.order in ("ar_rank", "ar_buckets")):
            raise ValueError("`order_model` and order='ar_rank' or 'ar_buckets' belong together: give both or none.")
        if self.order_buckets != 8 and self.order != "ar_buckets":
            raise ValueError(f"`order_buckets` is for order='ar_buckets': leave it out with order={self.order!r}.")
        if self.check != "none" and self.order != "teacher":
            raise ValueError(f"A check is for the teacher's answers: leave it out with order={self.order!r}.")
        if self.check == "code" and not self.allow_code_execution:
            raise ValueError("check='code' runs untrusted programs: allow it with --allow-code-execution.")
        if self.keep != "all" and self.check == "none" and (self.keep, self.order) != ("correct", "published"):
            raise ValueError(f"keep={self.keep!r} needs a check that says what is correct.")
        self._check_decoding()
        if self.output.exists() and not self.output.is_dir():
            raise ValueError(f"{self.output} is not a folder: give another --output.")

    def _check_decoding(self) -> None:
        if self.decoding and self.order not in ("teacher", "ar"):
            raise ValueError(f"Nothing is decoded with order={self.order!r}: remove {', '.join(self.decoding)}.")
        for name in ("temperature", "seed", "num_return_sequences", "do_sample"):
            if name in self.decoding:
                raise ValueError(f"`{name}` is set by the extraction: use its `temperatures` and `seed`.")
        of_diffusion = sorted(self.decoding.keys() - {"max_new_tokens"})
        if self.order == "ar" and of_diffusion:
            raise ValueError(
                f"`{of_diffusion[0]}` is a field of diffusion models: with order='ar' give only `max_new_tokens`."
            )
        if self.order != "ar" and self.loops == "keep":
            raise ValueError(f"`loops` is for the texts of order='ar': leave it out with order={self.order!r}.")


def extract_trajectories(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: ExtractionConfig,
    processes: Processes | None = None,
) -> ChunkCounts | None:
    """
    Makes a trajectory dataset, or resumes one. In a distributed run, every process calls this.

    1. The samples are divided into chunks, which depend on the dataset alone.
    2. The plan says what the rows depend on. A folder with another plan is refused.
    3. Every process lists the parts that are missing or damaged, before any writes one, and takes its share.
    4. In a chunk, samples without room for a response are skipped and named, the others get their trajectories, and
       the part is written atomically.
    5. The process that finishes the last part writes the card.

    Args:
        model (`PreTrainedModel`): The teacher; an order that is not its run needs only its configuration.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        config ([`ExtractionConfig`]): What to extract.
        processes ([`~d3llm.common.processes.Processes`], *optional*): Those that share the work; by default those that
            were launched together.

    Returns:
        [`ChunkCounts`]: The counts of all parts; `None` when other processes still work on theirs.

    Raises:
        `ValueError`: For bad data, fields that do not fit, and a folder that holds another extraction.
        `ValueError`: If no trajectory is left.
        `OSError`: If the dataset cannot be read or a part cannot be written; finished parts stay.
    """
    processes = processes or Processes.launched()
    extraction = Extraction(model, tokenizer, config, processes.device)
    samples, parts = extraction.samples, extraction.parts
    parts.check_plan()
    if processes.is_main:
        parts.write_plan()
        parts.remove_leftovers()  # before any process writes: later it would remove what others are writing
    processes.wait()
    parts.check_plan()
    todo = parts.todo()
    processes.wait()
    mine = todo[processes.index :: processes.count]
    logger.info("process %d of %d makes %d parts", processes.index + 1, processes.count, len(mine))
    with ExtractionProgress(parts, todo, len(samples), visible=processes.is_main) as progress:
        for index in mine:
            chunk = samples[index * config.chunk_size : (index + 1) * config.chunk_size]
            rows, counts = extraction.extract(chunk)
            parts.write(index, rows, asdict(counts))
            progress.update()
    if not parts.is_complete():
        return None
    counts = extraction_counts(parts)
    if not counts.rows:
        raise ValueError(
            f"No trajectory is left of {counts.samples} samples: {counts.wrong} were answered wrong (--keep all keeps "
            f"them), {len(counts.too_long)} have prompts too long (a smaller --max-new-tokens makes room), "
            f"{counts.looping} end in a loop. Give another --output."
        )
    finish(parts, config.license)
    return counts


def columns_of(config: ExtractionConfig) -> dict[str, Any]:
    """The columns of the dataset that an extraction needs besides the prompts, and the types of their values."""
    types: dict[str | None, Any] = {
        config.answer_column: ANSWERS[config.check] | None if config.check != "none" else Any,
        config.response_column: Response,
        config.order_column: CommitSteps,
        **({TRAJECTORY_COLUMN: Any, CORRECT_COLUMN: bool | None} if config.order == "published" else {}),
    }
    return {column: kind for column, kind in types.items() if column is not None}


class Extraction:
    """
    The samples, the order and the plan of an extraction.

    Args:
        model, tokenizer, config: As for [`extract_trajectories`].
        device (`str`, *optional*): For an order's own model where the teacher has no weights.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: ExtractionConfig,
        device: str | None = None,
    ):
        self.config = config
        vocab_size = model.get_input_embeddings().num_embeddings
        self.samples = Samples(
            config.dataset,
            tokenizer,
            prompt_column=config.prompt_column,
            columns=columns_of(config),
            unread=[TRAJECTORY_COLUMN],
            dataset_config=config.dataset_config,
            split=config.split,
            skip=config.skip,
            limit=config.limit,
            chat=config.chat,
            vocab_size=vocab_size,
        )
        is_causal = config.order == "ar"
        if is_causal != (not isinstance(model, MaskedDiffusionPreTrainedModel)):
            raise ValueError(
                f"order={config.order!r} is for {'autoregressive' if is_causal else 'masked-diffusion'} models, and "
                f"the teacher is a {type(model).__name__}: give another --order or --teacher."
            )
        decoding = {"max_new_tokens": AR_TOKENS, **config.decoding} if is_causal else self._decoding_fields(model)
        mask_token_id: int | None = None
        if is_causal:
            self.eos_token_ids = eos_token_ids_of(model, tokenizer)
            shown = decoding
        else:
            resolved = resolve_generation_config(model, [1], **decoding)
            decoding["max_new_tokens"] = resolved.max_new_tokens
            eos = resolved.eos_token_id
            self.eos_token_ids = [] if eos is None else [eos] if isinstance(eos, int) else list(eos)
            mask_token_id = model.special_tokens(resolved).mask
            shown = decoding_fields(resolved) if config.order == "teacher" else {}
        max_new_tokens = decoding["max_new_tokens"]
        positions = model.config.max_position_embeddings
        is_decoded = config.order in ("teacher", "ar")
        if is_decoded and max_new_tokens > LARGEST_STEP:
            raise ValueError(f"`max_new_tokens` is {max_new_tokens}: commit steps go up to {LARGEST_STEP}, give less.")
        self.room = positions - max_new_tokens if is_decoded and positions is not None else None
        self.decode_config = {
            **shown,
            "seed": config.seed,
            "mask_token_id": mask_token_id,
            "eos_token_id": self.eos_token_ids,
            "tokenizer": tokenizer_fingerprint(tokenizer),
        }
        given: tuple[Any, ...] = (tokenizer, self.eos_token_ids, config.response_column, vocab_size)
        self.order: Callable[[list[Sample]], list[Trajectory]]
        if config.order == "teacher":
            self.order = TeacherRuns(
                model,
                tokenizer,
                decoding,
                temperatures=config.temperatures,
                seed=config.seed,
                batch_size=config.batch_size,
                check=CHECKS.get(config.check),
                answer_column=config.answer_column,
            )
            if config.keep == "corrected":
                self.order = CorrectedRuns(self.order, ResponseReader(*given))
        elif config.order == "ar":
            self.order = GreedyRuns(
                model,
                tokenizer,
                max_new_tokens=max_new_tokens,
                eos_token_ids=self.eos_token_ids,
                batch_size=config.batch_size,
            )
        elif config.order == "random":
            self.order = RandomOrder(*given, seed=config.seed)
        elif config.order == "left_to_right":
            self.order = LeftToRight(*given)
        elif config.order == "column":
            assert config.order_column is not None  # the config has checked it
            self.order = OrderColumn(*given, order_column=config.order_column)
        elif config.order in ("ar_rank", "ar_buckets"):
            device = (device or "cpu") if model.device.type == "meta" else model.device
            assert config.order_model is not None  # the config has checked it
            order_model = load_order_model(config.order_model, tokenizer, device)
            ranking = {"model": order_model, "batch_size": config.batch_size}
            if config.order == "ar_rank":
                self.order = ARRank(*given, **ranking)
            else:
                self.order = ARBuckets(*given, buckets=config.order_buckets, **ranking)
        else:
            assert mask_token_id is not None  # a masked-diffusion model has one
            self.order = PublishedTrajectories(mask_token_id, self.eos_token_ids, vocab_size)
        count = -(-len(self.samples) // config.chunk_size)
        self.parts = Parts(config.output, self._settings(model), count)

    def extract(self, chunk: list[Sample]) -> tuple[list[TrajectoryRow], ChunkCounts]:
        """
        The rows of a chunk.

        Args:
            chunk (`list[Sample]`): The samples.

        Returns:
            `tuple[list[TrajectoryRow], ChunkCounts]`: The rows, and what was counted.
        """
        too_long = [sample for sample in chunk if self.room is not None and len(sample.prompt_ids) > self.room]
        left_out = {sample.id for sample in too_long}
        fits = [sample for sample in chunk if sample.id not in left_out]
        for sample in too_long:
            logger.warning(
                "%s is skipped: its prompt has %d tokens, and the model has room for %d",
                sample.id,
                len(sample.prompt_ids),
                self.room,
            )
        trajectories = self.order(fits)
        kept = [
            (sample, trajectory)
            for sample, trajectory in zip(fits, trajectories, strict=True)
            if (self.config.keep == "all" or trajectory.correct is not False)
            and not (self.config.loops == "drop" and trajectory.loops)
        ]
        counts = ChunkCounts.of(
            chunk,
            trajectories,
            kept,
            too_long=too_long,
            eos_token_ids=self.eos_token_ids,
        )
        return [self._row(sample, trajectory) for sample, trajectory in kept], counts

    def _row(self, sample: Sample, trajectory: Trajectory) -> TrajectoryRow:
        decode_config = self.decode_config
        if self.config.order == "teacher":
            decode_config = {**decode_config, "temperature": self.config.temperatures[trajectory.attempt]}
        return trajectory.row(
            id=sample.id,
            prompt_ids=sample.prompt_ids,
            source=self.config.order,
            teacher=self.config.teacher,
            decode_config=json.dumps(decode_config),
        )

    def _decoding_fields(self, model: PreTrainedModel) -> dict[str, Any]:
        """The fields that were given, over one token per forward unless a preset was."""
        if "preset" in self.config.decoding:
            return dict(self.config.decoding)
        if not getattr(model, "teacher_decoding", None):
            raise ValueError(f"A teacher of type {model.config.model_type!r} has no default: give a --preset.")
        return {**model.teacher_decoding, **self.config.decoding}

    def _settings(self, model: PreTrainedModel) -> dict[str, Any]:
        """What the rows depend on; not the number of processes, nor `batch_size`, so that both can change."""
        names = ("teacher", "order", "order_model", "check", "keep", "temperatures", "seed", "chunk_size")
        columns = ("prompt_column", "answer_column", "response_column", "order_column")
        return {
            **{name: getattr(self.config, name) for name in (*names, *columns)},
            **({"loops": self.config.loops} if self.config.order == "ar" else {}),
            **({"skip": self.config.skip} if self.config.skip else {}),
            **({"order_buckets": self.config.order_buckets} if self.config.order == "ar_buckets" else {}),
            "weights": fingerprint_weights(model),
            **({"order_weights": fingerprint_weights(self.order.model)} if isinstance(self.order, ARRank) else {}),
            "dataset": self.samples.name,
            "rows": self.samples.fingerprint,
            "chat": self.config.chat,
            "decode_config": self.decode_config,
        }


def finish(parts: Parts, license: str) -> None:
    """
    Makes the folder ready to be published: facts, and the card.

    Args:
        parts ([`Parts`]): All of them finished.
        license (`str`): SPDX id of the prompts' licence.
    """
    facts = trajectory_facts(parts.folder, license)
    write_atomically(parts.folder / TRAJECTORY_FACTS, facts_json(facts).encode())
    write_atomically(parts.folder / "README.md", trajectory_card(facts).encode())


def load_order_model(name: str, tokenizer: PreTrainedTokenizerBase, device: Any) -> PreTrainedModel:
    """
    Loads the causal language model that ranks the tokens of a response.

    Args:
        name (`str`): Folder or Hub id.
        tokenizer (`PreTrainedTokenizerBase`): The teacher's.
        device (`torch.device`): Where to put it.

    Returns:
        `PreTrainedModel`: In eval mode.

    Raises:
        `OSError`: If there is no such model.
        `ValueError`: If its token ids are not the teacher's, or it is a masked-diffusion model.
    """
    vocabulary, other = tokenizer.get_vocab(), load_tokenizer(name).get_vocab()
    differ = [token for token, index in other.items() if vocabulary.get(token) != index]
    if differ:
        raise ValueError(
            f"{name} has other token ids than the teacher ({len(differ)} differ, for example {differ[0]!r}): give an "
            "`order_model` with the same tokenizer."
        )
    return load_autoregressive_model(name).to(device)


if __name__ == "__main__":  # one parser and one form of errors, however it is started
    sys.argv[1:1] = ["extract"]
    runpy.run_module("d3llm", run_name="__main__")
