"""The multi-attempt task: episodes, prompts, grading and rewards. Knows nothing of the trainer."""
