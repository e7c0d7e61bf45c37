"""The folder of a training run: its configuration, checkpoints, metrics and result."""
