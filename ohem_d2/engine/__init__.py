"""Training: Detectron2's default trainer with this project's data, evaluators, hooks and resume."""
from .config import load_config
from .trainer import OHEMTrainer

__all__ = ["OHEMTrainer", "load_config"]
