"""The toy task: arithmetic that a model of half a million weights learns on a CPU, for tests and first runs.

:func:`multi_attempt.toy.build.build_toy` writes its questions, its tokenizer, and a model that has seen multi-attempt
dialogues and answers about every second question wrongly, which leaves reinforcement learning something to do.
"""
