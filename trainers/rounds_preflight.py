"""Checks of on-policy rounds, before the first prompt is decoded."""

from pathlib import Path

from accelerate.utils.environment import parse_flag_from_env
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import ModelConfig

from ..evaluation import resolve_generation_config
from ..generation.configuration_diffusion import DiffusionGenerationConfig
from ..generation.fields import METHOD_DEFAULTS
from ..trajectories.extract import columns_of
from ..trajectories.prompt_rows import Samples, load_rows
from .distill import check_output, last_checkpoint
from .pseudo_trajectory_config import PseudoTrajectoryConfig
from .round_steps import RoundFolder, decoding_of, extraction_config
from .rounds_config import RoundsConfig
from .training_plan import PLAN_FILE, ROUNDS_FILE


SHARDED = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")


def check_arguments(args: PseudoTrajectoryConfig, model_args: ModelConfig) -> None:
    """Raises a `ValueError` for training arguments that rounds do not support."""
    if args.resume_from_checkpoint is not None:
        raise ValueError("--resume_from_checkpoint is not supported: use --resume, which continues the rounds.")
    if args.eval_strategy != "no" or args.eval_on_start:
        raise ValueError(
            "Rounds have no evaluations: omit `eval_strategy`, and measure the students with `d3llm eval`."
        )
    if args.push_to_hub:
        raise ValueError("`push_to_hub` is not supported in rounds: push the result with `d3llm push model`.")
    if args.needs_teacher and not model_args.use_peft:
        raise ValueError(
            "`kl_weight` and `ddo_weight` compare a student with the one before the round, which adapters keep: give "
            "--use_peft, or omit them."
        )
    if args.deepspeed or args.fsdp or any(parse_flag_from_env(name) for name in SHARDED):
        raise ValueError("Rounds decode with whole weights: train them without FSDP and DeepSpeed.")


def check_folder(output: Path, resume: bool) -> None:
    """Refuses a folder that holds rounds, unless they are resumed, and one of another run, a model or trajectories."""
    check_output(output)
    if (output / ROUNDS_FILE).exists():
        if not resume:
            raise ValueError(f"{output} holds rounds: continue them (--resume), or choose another --output_dir.")
    elif last_checkpoint(str(output)) or (output / PLAN_FILE).exists() or any(output.glob("*.safetensors")):
        raise ValueError(f"{output} holds a training without rounds, or a model: choose another --output_dir.")


def check_student(student: PreTrainedModel, config: RoundsConfig, args: PseudoTrajectoryConfig) -> None:
    """Raises a `ValueError` for a student without a decoder, with one that does not fit, or with quantized weights."""
    own = DiffusionGenerationConfig.from_plain(student.generation_config)
    is_stated = any(getattr(own, name) is not None for name in ("preset", *METHOD_DEFAULTS))
    if config.texts == "own" and not config.decoding and not is_stated:
        raise ValueError(
            "The student's generation_config.json names no decoder: give one with --decoding, such as "
            '\'{"preset": "d3llm", "threshold": 0.3}\'.'
        )
    if getattr(student, "is_quantized", False):
        raise ValueError("The student is quantized, so that no round could be merged into it: give plain weights.")
    resolve_generation_config(student, [1], **decoding_of(config, args))


def prompt_fingerprints(
    config: RoundsConfig, args: PseudoTrajectoryConfig, tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    """
    Reads the prompts of all rounds.

    Args:
        config ([`RoundsConfig`]): The prompts.
        args ([`PseudoTrajectoryConfig`]): The training.
        tokenizer (`PreTrainedTokenizerBase`): The student's tokenizer.

    Returns:
        `list[str]`: A digest for each round.

    Raises:
        `ValueError`: If there are too few prompts, or some cannot be used.
        `OSError`: If they cannot be read.
    """
    source, per_round = str(config.prompts), config.prompts_per_round
    available = len(load_rows(source, config.prompts_config, config.prompts_split))
    needed = config.skip + (1 if per_round is None else per_round * config.rounds)
    if needed > available:
        wanted = "take any" if per_round is None else f"take {per_round} in each of {config.rounds} rounds"
        raise ValueError(
            f"{source} has {available} rows, too few to skip {config.skip} and {wanted}: give more prompts, fewer "
            "rounds, or a smaller --prompts_per_round; without it, every round takes all of them."
        )
    fingerprints = []
    for number in range(1, (1 if per_round is None else config.rounds) + 1):
        extraction = extraction_config(config, args, RoundFolder(Path(str(args.output_dir)), number), "student")
        samples = Samples(
            source,
            tokenizer,
            prompt_column=config.prompt_column,
            columns=columns_of(extraction),
            dataset_config=config.prompts_config,
            split=config.prompts_split,
            skip=extraction.skip,
            limit=extraction.limit,
            chat=config.chat,
        )
        fingerprints.append(samples.fingerprint)
    return fingerprints if per_round is not None else fingerprints * config.rounds
