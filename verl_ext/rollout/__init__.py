"""Generation: the agent loop, its tokens, and what is asked of an engine."""
