"""Tuning of checkpoints on images and their reports. Importing it imports torch and transformers."""

from lrclr.training._augment import Augmentation
from lrclr.training._listener import TrainListener
from lrclr.training._run import TrainResult, train
from lrclr.training._settings import TrainSettings
from lrclr.training._task import ContrastiveTask, LocalLoss, LossSettings

__all__ = [
    "Augmentation",
    "ContrastiveTask",
    "LocalLoss",
    "LossSettings",
    "TrainListener",
    "TrainResult",
    "TrainSettings",
    "train",
]
