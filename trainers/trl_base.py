"""The base classes of TRL's trainers. They are private, so they are imported here and nowhere else."""

from trl.models.utils import _ForwardRedirection
from trl.trainer.base_config import _BaseConfig
from trl.trainer.base_trainer import _BaseTrainer


__all__ = ["_BaseConfig", "_BaseTrainer", "_ForwardRedirection"]
