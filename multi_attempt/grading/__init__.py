r"""Is this answer right? One function for rollout, reward and evaluation: :func:`grade`.

An answer passes through layers, each of which decides what it can: ``notation`` evens out the spelling, ``reading``
makes a tree of it, ``relations`` and ``regions`` say what its parts mean, ``equality`` has the rules of what is equal
and ``policies`` the judgement calls, ``values`` computes, ``layers`` puts them in order. What they cannot read goes to
math-verify in a process of its own (``pool``, ``worker``), asked by the ``grader``.

Model output can make symbolic work take for ever: ``9^{9^{9}}`` holds the interpreter lock, so neither a thread nor
``asyncio.wait_for`` gets out of it, and ``signal.alarm`` works in the main thread alone. So what runs in the caller's
process is bounded by construction, and the rest can be killed.
"""

from multi_attempt.grading.golds import refusal
from multi_attempt.grading.grader import NO_ANSWER, Grader, Verdict, explain, grade
from multi_attempt.grading.layers import equals_itself
from multi_attempt.grading.notation import normalize
from multi_attempt.grading.policies import Policies
from multi_attempt.grading.tolerance import read_tolerance

__all__ = [
    "NO_ANSWER",
    "Grader",
    "Policies",
    "Verdict",
    "equals_itself",
    "explain",
    "grade",
    "normalize",
    "read_tolerance",
    "refusal",
]
