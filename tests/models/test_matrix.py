"""Every prompt of a dialogue is the chat template's own, token by token, for each real template and each prompt set.

What a template does to attempts of earlier turns is in ``families.yaml``, and so is what it cannot show: a change in
either direction fails here, with the names of family, prompt set and role.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import pytest
from families import TRL_TEMPLATES, VOCABULARIES, family, recipes
from wordings import after_wrong, template_problems

from multi_attempt.prompts import BUILT_IN, FEEDBACK_ROLES, Message, PromptSet, load_prompt_set
from multi_attempt.turns import ChatTemplate, TemplateError

QUESTION = "A farmer has 12 cows and buys 7 more.\nHow many has she got?"
ALLOWED = 5
PLAIN = "12 + 7 is 18, so \\boxed{18}."
WRITTEN = {
    "plain": PLAIN,
    "empty": "",
    "newlines": f"\n\n{PLAIN}",
    "thoughts": f"<think>\nFirst add 12 and 7.\n</think>\n\n{PLAIN}",
}
"""What a model writes in each of its attempts."""

CASES = [
    (name, replace(load_prompt_set(prompts), feedback_role=role))
    for name, prompts, role in product(recipes(), BUILT_IN, FEEDBACK_ROLES)
]


@lru_cache(maxsize=1)  # the cases are in the order of the families, and vocabularies are large
def chat_of(name: str) -> ChatTemplate:
    made = family(name)
    return ChatTemplate(made.tokenizer, generation_end_ids=made.engine_ends)


@pytest.mark.parametrize(
    ("name", "prompts"), CASES, ids=[f"{name}-{prompts.name}-{prompts.feedback_role}" for name, prompts in CASES]
)
def test_prompts_are_the_templates_own_or_refused_with_the_remedy(name: str, prompts: PromptSet) -> None:
    told = remedy(name, prompts)
    if told is None:
        assert template_problems(chat_of(name), prompts, QUESTION, ALLOWED) == []
        Dialogues(chat_of(name), prompts, recipes()[name].get("changes")).play_all()
    else:
        assert told in refusal(name, prompts)


def remedy(name: str, prompts: PromptSet) -> str | None:
    """What a user is told to change, or None where a family can show dialogues with this wording."""
    refuses = recipes()[name].get("refuses")
    if refuses == "everything":
        return "template"
    if refuses == "system" and prompts.system:
        return "choose a prompt set without a system message"
    if refuses in ("system", "feedback") and prompts.feedback_role == "system":
        return "set multi_attempt.feedback_role=user (`feedback_role: user` in a prompt set of your own)"
    return None


def refusal(name: str, prompts: PromptSet) -> str:
    try:
        (problem,) = template_problems(chat_of(name), prompts, QUESTION, ALLOWED)
    except TemplateError as error:  # not even a question and an answer can be shown
        return str(error)
    assert f"prompt set {prompts.name!r}" in problem
    assert "'system'" in problem  # the role
    return problem


class Behind(NamedTuple):
    """What a template has behind an attempt: its text, its tokens, and the first of them that is no white space."""

    text: str
    ids: list[int]
    closing: int


class Dialogues:
    """Dialogues of five attempts as the agent loop has them, each of whose prompts is held against the template's."""

    def __init__(self, chat: ChatTemplate, prompts: PromptSet, changes: str | None) -> None:
        self.chat, self.prompts, self.changes = chat, prompts, changes
        self.tokenizer = chat.tokenizer
        self.opening = prompts.opening(QUESTION, ALLOWED)
        self.feedback = [after_wrong(prompts, QUESTION, left, answered=left % 2 == 0) for left in range(4, 0, -1)]
        self.behind = [self._behind(self._messages(PLAIN, told)) for told in range(1, ALLOWED)]

    def play_all(self) -> None:
        """With attempts of every kind, that are cut or end on any token where it is worth its time."""
        for last_id in [None, *sorted(self.chat.end_ids)]:
            self.play("plain", last_id)
        closing = self.behind[0].closing
        for kind in ("empty", "newlines", "thoughts"):
            self.play(kind, closing if closing in self.chat.end_ids else None)

    def play(self, kind: str, last_id: int | None) -> None:
        text, ending = WRITTEN[kind], [] if last_id is None else [last_id]
        ids = self.chat.opening(self.opening)
        assert ids == encoded(self.tokenizer, rendered(self.tokenizer, self.opening))
        # The tokens that a model would write for this text there.
        attempt = [*encoded(self.tokenizer, text, before=self.tokenizer.decode(ids)), *ending]
        for told, (tail, whole, closing) in enumerate(self.behind, start=1):
            between = self.chat.after_attempt(self._messages(text, told), attempt[-1] if attempt else None)
            # All that the template has there, or what is behind the closing token if the attempt ended on that one.
            assert between == (whole[whole.index(closing) + 1 :] if last_id == closing else whole)
            ids = [*ids, *attempt, *between]
            shown = text if last_id in (None, closing) else text + self.tokenizer.decode(ending)
            prompt = rendered(self.tokenizer, self._messages(shown, told))
            assert prompt.endswith(tail)
            if self.changes != "padding":
                assert self._is(prompt, ids, kind) != self._changed(kind)

    def _messages(self, text: str, told: int) -> list[Message]:
        attempt = {"role": "assistant", "content": text}
        return [*self.opening, *(message for feedback in self.feedback[:told] for message in (attempt, feedback))]

    def _behind(self, messages: Sequence[Message]) -> Behind:
        text = rendered(self.tokenizer, messages)
        end = text.rindex(PLAIN) + len(PLAIN)
        assert messages[-1]["content"] in text[end:]
        ids = encoded(self.tokenizer, text[end:], before=text[:end])
        return Behind(text[end:], ids, next(token for token in ids if self.tokenizer.decode([token]).strip()))

    def _is(self, prompt: str, ids: Sequence[int], kind: str) -> bool:
        # Where an attempt begins with a newline, or is nothing, the template's own newline before it merges with it.
        merges = kind in ("newlines", "empty") and self.tokenizer.decode(ids) == prompt
        return merges or ids == encoded(self.tokenizer, prompt)

    def _changed(self, kind: str) -> bool:
        """Whether the template changes what stands before the last feedback."""
        return (
            self.changes == "opened"
            or (self.changes == "spaces" and kind == "newlines")
            or (self.changes == "thoughts" and kind == "thoughts" and self.prompts.feedback_role == "user")
            or (self.changes == "system" and bool(self.prompts.system))
        )


def rendered(tokenizer: Any, messages: Sequence[Message]) -> str:
    text: str = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
    return text


def encoded(tokenizer: Any, text: str, before: str = "") -> list[int]:
    """The tokens of a text, behind another where that has tokens of its own there."""
    first, both = (tokenizer(part, add_special_tokens=False).input_ids for part in (before, before + text))
    if both[: len(first)] == first:
        return list(both[len(first) :])
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def test_every_template_of_trl_is_tried() -> None:
    there = {path.stem for path in TRL_TEMPLATES.glob("*.jinja") if not path.stem.endswith("_training")}
    tried = {recipe["template"].removeprefix("trl/") for recipe in recipes().values() if "template" in recipe}
    same = {"qwen2_5", "gemma3"}  # as their vocabularies' own, see the next test
    assert len(there) == 41
    assert there - tried == same


@pytest.mark.parametrize("name", ["qwen2_5", "gemma3"])
def test_these_templates_of_trl_are_the_vocabularies_own(name: str) -> None:
    config = json.loads((VOCABULARIES / recipes()[name]["vocabulary"] / "tokenizer_config.json").read_text())
    assert config["chat_template"] == (TRL_TEMPLATES / f"{name}.jinja").read_text()
