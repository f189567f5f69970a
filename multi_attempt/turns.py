"""How a model's chat template puts a dialogue into tokens, derived from the template itself.

What stands between an attempt and the next one (the token that closes the attempt, the separator, the feedback and the
opening of the next turn) is found by rendering the same dialogue twice, with different texts for the attempt: it is
what both renderings end on. So no model family needs to be known, and whatever the template does to earlier turns
(drop their thoughts, trim them) cannot touch tokens that were generated.

One implementation for training and evaluation.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

from multi_attempt.prompts import Message

# What stands for an attempt where a dialogue is rendered. The two have no beginning and no end in common, are no word
# of any language, and nothing that a template would trim.
_STAND_IN, _OTHER = "QaQ", "ZbZ"

# What a model may say, for the comparison with the template's own rendering; with more attempts than these, nothing new
# comes between two of them.
_ATTEMPTS = (r"So it is \boxed{5}.", "<think>\nLet me see.\n</think>\n\nSo it is \\boxed{5}.")
_CHECKED_ATTEMPTS = 3

# What a tokenizer has to give back as it was.
_PROSE = "The answer is 12 apples.\nSo \\boxed{12}"

_ANOTHER_TEMPLATE = "set another template (actor_rollout_ref.model.custom_chat_template; --chat-template in evaluation)"


class TemplateError(ValueError):
    """A chat template that cannot show a dialogue of several attempts."""


class ChatTemplate:
    """How a model's chat template puts a dialogue into tokens.

    Args:
        tokenizer: with its chat template.
        template_kwargs: further arguments of the template (``data.apply_chat_template_kwargs``).
        generation_end_ids: the tokens at which the engine stops by itself, see :func:`generation_end_ids`.

    Attributes:
        tokenizer: as given.
        end_ids: the tokens that end an attempt: the tokenizer's end-of-sequence token, the token by which the template
            closes the last turn of a dialogue, and those of the engine. They differ: Qwen2.5-Math-1.5B has
            ``<|endoftext|>`` for the first and ``<|im_end|>`` for the second, and was trained to end by either.

    Raises:
        TemplateError: the template does not even render a question and an answer.
    """

    def __init__(
        self,
        tokenizer: Any,
        template_kwargs: Mapping[str, Any] | None = None,
        generation_end_ids: Collection[int] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self._template_kwargs = dict(template_kwargs or {})
        special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        marks = sorted({*special, *tokenizer.all_special_tokens} - {""}, key=len, reverse=True)
        self._marks = re.compile("|".join(map(re.escape, marks)) or r"(?!)")
        own = {tokenizer.eos_token_id} - {None}
        try:
            closing = self._closing()
        except TemplateError as error:
            raise TemplateError(
                f"a question of the role 'user' with an answer of the role 'assistant' cannot be shown: {error}; "
                f"{_ANOTHER_TEMPLATE} that takes texts"
            ) from error
        self.end_ids: frozenset[int] = frozenset({*own, *generation_end_ids, *closing})

    # ---- The dialogue in tokens ----

    def opening(self, messages: Sequence[Message]) -> list[int]:
        """The tokens before an attempt that begins a sequence, with the opening of the model's turn.

        Args:
            messages: the dialogue so far. From the first message of the assistant's on they spell no special token:
                what models and programs wrote is not the template's.

        Raises:
            TemplateError: the template refuses the messages.
        """
        said = next((number for number, each in enumerate(messages) if each["role"] == "assistant"), len(messages))
        later = [{**message, "content": self._without_marks(message["content"])} for message in messages[said:]]
        return self._encode(self._render([*messages[:said], *later]))

    def after_attempt(self, messages: Sequence[Message], last_id: int | None) -> list[int]:
        """The tokens between an attempt and the next one.

        Args:
            messages: the dialogue; its last message is the feedback, and the one before it the attempt. What the
                attempts say is never rendered, so that nothing a model writes is taken for a mark of the template.
            last_id: the attempt's last token.

        Returns:
            All that the template puts there; without the closing token if the attempt ended by that one itself.

        Raises:
            TemplateError: the template refuses the dialogue, or does not show the feedback.
        """
        # A task's note on an attempt may say what a program wrote.
        messages = [*messages[:-1], {**messages[-1], "content": self._without_marks(messages[-1]["content"])}]
        tail = self._tail(messages)
        if not _shows(tail, messages[-1]):
            raise TemplateError(f"the chat template does not show a message of the role {messages[-1]['role']!r} there")
        ids = self._encode(tail, after=_STAND_IN)
        closing = self._first_mark(ids)
        ended_by_it = closing is not None and ids[closing] == last_id and last_id in self.end_ids
        return ids[closing + 1 :] if closing is not None and ended_by_it else ids

    def text_of(self, ids: Sequence[int]) -> str:
        """An attempt's own text, without special tokens."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def marks_in(self, text: str) -> list[str]:
        """The special tokens that a text spells: as part of a message it would open and close turns of its own."""
        return sorted(set(self._marks.findall(text)))

    def _without_marks(self, text: str) -> str:
        """A text that spells no special token: each is taken apart after its first character."""
        return self._marks.sub(lambda mark: f"{mark[0][:1]} {mark[0][1:]}", text)

    # ---- The template ----

    def _render(self, messages: Sequence[Message], *, generation: bool = True) -> str:
        arguments = {**self._template_kwargs, "add_generation_prompt": generation, "tokenize": False}
        try:
            text: str = self.tokenizer.apply_chat_template(list(messages), **arguments)
        except Exception as error:  # a template is a program of its own, and may raise anything
            raise TemplateError(f"the chat template refuses it: {error}") from error
        return text

    def _tail(self, messages: Sequence[Message], *, generation: bool = True) -> str:
        """What the renderings of two dialogues end on that differ in their last attempt only."""
        attempts = [number for number, message in enumerate(messages) if message["role"] == "assistant"]

        def rendered(last: str) -> str:
            texts = dict.fromkeys(attempts, _STAND_IN) | {attempts[-1]: last}
            stand_ins = [
                {**message, "content": texts.get(number, message["content"])} for number, message in enumerate(messages)
            ]
            return self._render(stand_ins, generation=generation)

        one, other = rendered(_STAND_IN), rendered(_OTHER)
        if one == other:
            raise TemplateError("the chat template does not show what the assistant said")
        return _common_end(one, other)

    def _closing(self) -> set[int]:
        """The special token by which the template closes the last turn of a dialogue, if it closes it by one."""
        ids = self.closing_ids()
        first = self._first_mark(ids)
        special = {*self.tokenizer.all_special_ids, *self.tokenizer.get_added_vocab().values()}
        return set() if first is None else {ids[first]} & special

    def closing_ids(self) -> list[int]:
        """The tokens that the template puts behind the last answer of a dialogue that ends there."""
        asked, answered = {"role": "user", "content": "?"}, {"role": "assistant", "content": _STAND_IN}
        return self._encode(self._tail([asked, answered], generation=False), after=_STAND_IN)

    def _first_mark(self, ids: Sequence[int]) -> int | None:
        """Where the first token stands that is more than white space."""
        return next((number for number, token in enumerate(ids) if self.tokenizer.decode([token]).strip()), None)

    def _encode(self, text: str, after: str = "") -> list[int]:
        """The tokens of a text, as they are behind another: some tokenizers put a space before the first word."""
        encode = self.tokenizer.encode
        before, ids = (list(encode(part, add_special_tokens=False)) for part in (after, after + text))
        return ids[len(before) :] if ids[: len(before)] == before else list(encode(text, add_special_tokens=False))


def generation_end_ids(folder: str, *, trust_remote_code: bool = False) -> tuple[int, ...]:
    """The tokens at which an engine stops by itself: ``eos_token_id`` of a model's ``generation_config.json``.

    Where there is no such file it is made of ``config.json``, as vLLM does (``transformers_utils/config.py``).
    """
    from transformers import AutoConfig, GenerationConfig

    try:
        generation = GenerationConfig.from_pretrained(folder)
    except OSError:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        generation = GenerationConfig.from_model_config(config)
    ids = generation.eos_token_id
    return () if ids is None else (ids,) if isinstance(ids, int) else tuple(ids)


# ---- Whether a template can show a dialogue ----


def template_problems(
    chat: ChatTemplate, wording: str, opening: Sequence[Message], feedbacks: Sequence[Message]
) -> list[str]:
    """Why a dialogue with these words cannot be had with this template.

    Plays the dialogue as an episode does, with each wording of the feedback, and compares its tokens with those of the
    template's own rendering.

    Args:
        chat: the template.
        wording: whose words they are, as messages call it.
        opening: the messages before the first attempt.
        feedbacks: each message that may follow an attempt; none in a dialogue of one attempt.

    Returns:
        Each with the wording, the role and what to change; empty if there is nothing to complain of.
    """
    problems = list(_token_problems(chat)) + list(_opening_problems(chat, wording, opening))
    return problems or list(_feedback_problems(chat, wording, opening, feedbacks))


def _token_problems(chat: ChatTemplate) -> Iterator[str]:
    back = chat.text_of(chat._encode(_PROSE))
    if back.strip() != _PROSE:
        yield (
            f"the tokenizer makes {back!r} of {_PROSE!r}, so that answers would not be read as they were written; load "
            "it by the class that it was made for (a model's folder needs its own config.json)"
        )
    ids = chat.closing_ids()
    text = chat.tokenizer.decode(ids)
    if text.strip() and not chat.end_ids.intersection(ids):
        yield (
            f"the chat template closes a turn by {text!r}, which holds no token at which the engine would stop "
            f"({_tokens(chat, chat.end_ids) or 'there is none'}); add it to the tokenizer as a special token, or use "
            "the template that the model was made with"
        )
    elif not chat.end_ids:
        yield (
            "neither tokenizer, chat template nor generation_config names a token that ends an attempt, so that each "
            "would go on to the length limit; set the tokenizer's eos_token"
        )


def _opening_problems(chat: ChatTemplate, wording: str, opening: Sequence[Message]) -> Iterator[str]:
    try:
        text = chat._render(opening)
    except TemplateError as error:
        yield f"{wording}, messages of the roles {_roles(opening)}: {error}; {_no_system(opening)}"
        return
    for message in opening:
        if not _shows(text, message):
            yield (
                f"{wording}: the chat template does not show its message of the role {message['role']!r}; "
                f"{_no_system(opening)}"
            )


def _no_system(messages: Sequence[Message]) -> str:
    if messages[0]["role"] == "system":
        return (
            "choose a prompt set without a system message (multi_attempt.prompts=plain, or a YAML file whose `system` "
            f"is empty), or {_ANOTHER_TEMPLATE}"
        )
    return _ANOTHER_TEMPLATE


def _feedback_problems(
    chat: ChatTemplate, wording: str, opening: Sequence[Message], feedbacks: Sequence[Message]
) -> Iterator[str]:
    for feedback in feedbacks:
        problem = _retry_problem(chat, opening, feedback)
        if problem:
            role, other = feedback["role"], "system" if feedback["role"] == "user" else "user"
            cured = not _retry_problem(chat, opening, {**feedback, "role": other})
            remedy = (
                f"set multi_attempt.feedback_role={other} (`feedback_role: {other}` in a prompt set of your own)"
                if cured
                else _ANOTHER_TEMPLATE
            )
            yield f"{wording}, feedback of the role {role!r}: {problem}; {remedy}"
            return


def _retry_problem(chat: ChatTemplate, opening: Sequence[Message], feedback: Message) -> str:
    """What keeps the template from showing retries after this feedback; empty if nothing does."""
    for text, count in itertools.product(_ATTEMPTS, range(1, _CHECKED_ATTEMPTS)):
        messages = [*opening, *[{"role": "assistant", "content": text}, feedback] * count]
        try:
            tail, rendered = chat.after_attempt(messages, None), chat.opening(messages)
        except TemplateError as error:
            return str(error)
        if rendered[len(rendered) - len(tail) :] != tail:
            return (
                f"what the chat template puts behind an attempt depends on what the attempt says: behind {text!r} it "
                f"is ...{chat.tokenizer.decode(rendered[-len(tail) :])!r}, not {chat.tokenizer.decode(tail)!r}"
            )
    return ""


def _common_end(one: str, other: str) -> str:
    pairs = zip(reversed(one), reversed(other), strict=False)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return one[len(one) - shared :]


def _shows(text: str, message: Message) -> bool:
    """Whether a message stands in a text; some templates write white space otherwise."""
    return " ".join(message["content"].split()) in " ".join(text.split())


def _roles(messages: Sequence[Message]) -> str:
    return ", ".join(repr(message["role"]) for message in messages)


def _tokens(chat: ChatTemplate, ids: Collection[int]) -> str:
    return ", ".join(repr(chat.tokenizer.decode([token])) for token in sorted(ids))
