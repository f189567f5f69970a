"""Of the model that is trained: its config, sizes, attention, and what vLLM runs it by."""
