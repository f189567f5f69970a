"""Special tokens of chat models in a text: a question that holds one would open or close turns of its own."""

from __future__ import annotations

import re

# Which of them a model has is known when one is chosen, and the start-up check looks again; these are of many, and no
# mathematics: |abc| between two signs has a letter or two.
_MARKS = re.compile(
    r"<\|[A-Za-z_]{3,}[A-Za-z0-9_]*\|>|<\uff5c[^\uff5c<>]{1,40}\uff5c>|</?s>|<(?:bos|eos|pad|unk)>"
    r"|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>"
)


def special_tokens(text: str) -> list[str]:
    """The special tokens of well-known models that a text spells, each once."""
    return list(dict.fromkeys(_MARKS.findall(text)))
