"""Tasks: what is asked, what is right, and what the model is told (``task``); each a file of its own.

Everything else knows :class:`Task` and :class:`Verdict` only.
"""

from multi_attempt.prompts import Message, PromptSet
from multi_attempt.tasks.task import NoSettings, Task, Words, user
from multi_attempt.tasks.verdict import Attempt, Reflection, Verdict

__all__ = ["Attempt", "Message", "NoSettings", "PromptSet", "Reflection", "Task", "Verdict", "Words", "user"]
