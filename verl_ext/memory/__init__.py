"""The memory plan: what each rank of a run holds, whether it fits a GPU, and what the run costs (docs/memory.md)."""
