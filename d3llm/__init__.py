"""
Fast diffusion language models in the Hugging Face stack.

The names below are imported when first used, so that `import d3llm` needs neither torch nor transformers. Using a
model class registers all families with the Auto classes, as `import d3llm.modeling` does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any


__version__ = "0.1.0"

if TYPE_CHECKING:
    from .evaluation.aup.aup import compute_aup
    from .evaluation.measurer import measure
    from .evaluation.result import Result, read_results
    from .evaluation.tasks import Sample, Task, load_task
    from .generation import (
        PRESETS,
        CanvasSpanStreamer,
        DiffusionGenerationConfig,
        DiffusionGenerationOutput,
        IntrospectiveOutput,
    )
    from .modeling import (
        Drafter,
        DrafterConfig,
        DreamConfig,
        DreamModel,
        Fast_dLLM_QwenConfig,
        Fast_dLLM_QwenForCausalLM,
        IntrospectiveModel,
        LLaDA2MoeConfig,
        LLaDA2MoeModelLM,
        LLaDAConfig,
        LLaDAModelLM,
        LLaDAMoEConfig,
        LLaDAMoEModelLM,
        MMadaConfig,
        MMadaModelLM,
        ReFusionConfig,
        ReFusionForCausalLM,
        SDARConfig,
        SDARForCausalLM,
        SDARMoeConfig,
        SDARMoeForCausalLM,
    )
    from .quickstart import checkpoint_path
    from .trainers.lightning_rl import LightningRLTrainer
    from .trainers.lightning_rl_config import LightningRLConfig
    from .trainers.pseudo_trajectory_config import PseudoTrajectoryConfig
    from .trainers.pseudo_trajectory_trainer import PseudoTrajectoryTrainer
    from .trainers.rounds import train_rounds
    from .trainers.rounds_config import RoundsConfig
    from .trajectories.dataset import load_trajectories
    from .trajectories.extract import ExtractionConfig, extract_trajectories

_MODULES = {
    "CanvasSpanStreamer": "generation",
    "DiffusionGenerationConfig": "generation",
    "DiffusionGenerationOutput": "generation",
    "Drafter": "modeling",
    "DrafterConfig": "modeling",
    "DreamConfig": "modeling",
    "DreamModel": "modeling",
    "ExtractionConfig": "trajectories.extract",
    "Fast_dLLM_QwenConfig": "modeling",
    "Fast_dLLM_QwenForCausalLM": "modeling",
    "IntrospectiveModel": "modeling",
    "IntrospectiveOutput": "generation",
    "LLaDAConfig": "modeling",
    "SDARMoeForCausalLM": "modeling",
    "SDARMoeConfig": "modeling",
    "ReFusionForCausalLM": "modeling",
    "ReFusionConfig": "modeling",
    "LLaDAMoEModelLM": "modeling",
    "LLaDAMoEConfig": "modeling",
    "LLaDA2MoeModelLM": "modeling",
    "LLaDA2MoeConfig": "modeling",
    "LLaDAModelLM": "modeling",
    "MMadaConfig": "modeling",
    "MMadaModelLM": "modeling",
    "LightningRLConfig": "trainers.lightning_rl_config",
    "LightningRLTrainer": "trainers.lightning_rl",
    "PRESETS": "generation",
    "PseudoTrajectoryConfig": "trainers.pseudo_trajectory_config",
    "PseudoTrajectoryTrainer": "trainers.pseudo_trajectory_trainer",
    "Result": "evaluation.result",
    "RoundsConfig": "trainers.rounds_config",
    "SDARConfig": "modeling",
    "SDARForCausalLM": "modeling",
    "Sample": "evaluation.tasks",
    "Task": "evaluation.tasks",
    "checkpoint_path": "quickstart",
    "compute_aup": "evaluation.aup.aup",
    "extract_trajectories": "trajectories.extract",
    "load_task": "evaluation.tasks",
    "load_trajectories": "trajectories.dataset",
    "measure": "evaluation.measurer",
    "read_results": "evaluation.result",
    "train_rounds": "trainers.rounds",
}

__all__ = [  # written out: editors do not follow `_MODULES`
    "PRESETS",
    "CanvasSpanStreamer",
    "DiffusionGenerationConfig",
    "DiffusionGenerationOutput",
    "Drafter",
    "DrafterConfig",
    "DreamConfig",
    "DreamModel",
    "ExtractionConfig",
    "Fast_dLLM_QwenConfig",
    "Fast_dLLM_QwenForCausalLM",
    "IntrospectiveModel",
    "IntrospectiveOutput",
    "LLaDA2MoeConfig",
    "LLaDA2MoeModelLM",
    "LLaDAConfig",
    "LLaDAMoEConfig",
    "LLaDAMoEModelLM",
    "LLaDAModelLM",
    "LightningRLConfig",
    "LightningRLTrainer",
    "MMadaConfig",
    "MMadaModelLM",
    "PseudoTrajectoryConfig",
    "PseudoTrajectoryTrainer",
    "ReFusionConfig",
    "ReFusionForCausalLM",
    "Result",
    "RoundsConfig",
    "SDARConfig",
    "SDARForCausalLM",
    "SDARMoeConfig",
    "SDARMoeForCausalLM",
    "Sample",
    "Task",
    "__version__",
    "checkpoint_path",
    "compute_aup",
    "extract_trajectories",
    "load_task",
    "load_trajectories",
    "measure",
    "read_results",
    "train_rounds",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
