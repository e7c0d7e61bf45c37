"""Training: the loop with its budget, schedule, optimizers and checkpoints, and the evaluation of what it trained."""

from litmus.training.settings import TrainSettings

__all__ = ["TrainSettings"]
