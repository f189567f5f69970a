"""Where an assistant's turn ends, in tokens."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def end_of_turn_ids(tokenizer: PreTrainedTokenizerBase, template_kwargs: Mapping[str, Any]) -> frozenset[int]:
    """The tokens that end an assistant's turn: the tokenizer's end-of-sequence token, and the chat template's.

    They differ for base models such as Qwen2.5-Math-1.5B, whose end-of-sequence token is ``<|endoftext|>`` while its
    template closes a turn with ``<|im_end|>``; stopping at the first alone, the model would go on to write the user's
    next message itself.
    """
    first, second = (
        tokenizer.apply_chat_template(
            [{"role": "user", "content": "x"}, {"role": "assistant", "content": content}],
            **{**template_kwargs, "tokenize": True, "return_dict": False},
        )
        for content in ("a", "b")
    )
    # Only the content differs, so what both end on begins with the token that closes the turn.
    shared = list(takewhile(lambda pair: pair[0] == pair[1], zip(reversed(first), reversed(second), strict=False)))
    closing = {shared[-1][0]} if shared else set()
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    return frozenset(({tokenizer.eos_token_id} - {None}) | (closing & special))
