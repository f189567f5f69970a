"""The trainer, its guards, checkpoints, and what a run leaves behind."""
