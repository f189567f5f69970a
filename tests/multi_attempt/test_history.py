"""What stays of earlier attempts in the context of the next one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from multi_attempt.dialogue import PromptTooLong, Response, play
from multi_attempt.episode import Episode, StopReason
from multi_attempt.history import History, Turn, most_prompt_tokens
from multi_attempt.prompts import Message, load_prompt_set
from multi_attempt.tasks import Verdict, Words
from multi_attempt.tasks.math import Math, Problem
from multi_attempt.toy.tokenizer import make_tokenizer
from multi_attempt.turns import ChatTemplate

ASKED = {"role": "user", "content": "2+2=? (3)"}
MATH = Math(words=Words(load_prompt_set("toy")))
PROBLEM = Problem("2+2=?", "4")


def said(content: str) -> Message:
    return {"role": "assistant", "content": content}


def wrong(left: int) -> Message:
    return {"role": "user", "content": f"Wrong. ({left})"}


DIALOGUE = [ASKED, said("Is it \\boxed{5}?"), wrong(2), said("Or what?"), wrong(1)]
ANSWERS = ["\\boxed{5}", "No answer."]


@pytest.mark.parametrize(
    ("policy", "context"),
    [
        ("full", DIALOGUE),
        ("answers", [ASKED, said("\\boxed{5}"), wrong(2), said("No answer."), wrong(1)]),
        ("last", [ASKED, said("Or what?"), wrong(1)]),
    ],
)
def test_what_stands_before_the_third_attempt(policy: str, context: list[Message]) -> None:
    before = [dict(message) for message in DIALOGUE]
    assert History(policy).context(DIALOGUE, 1, ANSWERS) == context
    assert before == DIALOGUE


@pytest.mark.parametrize("policy", ["full", "answers", "last"])
def test_an_opening_of_several_messages_stays_whole(policy: str) -> None:
    opening = [{"role": "system", "content": "Be brief."}, ASKED, said("4"), ASKED]
    context = History(policy).context([*opening, *DIALOGUE[3:]], len(opening), ["No answer."])
    assert context[:4] == opening
    assert context[5:] == [wrong(1)]


@pytest.mark.parametrize(
    ("answer", "shown"), [("12345678", "12345678"), ("123456789", "12345..."), ("ééééé", "éé..."), ("", "")]
)
def test_a_long_answer_is_cut_by_its_bytes(answer: str, shown: str) -> None:
    assert History("answers", answer_bytes=8).shortened(answer) == shown


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": "none"}, "history = 'none'; use full, answers or last"),
        ({"answer_bytes": 3}, "history_answer_bytes = 3 must be at least 4"),
    ],
)
def test_a_policy_that_is_none_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        History(**settings)


# ---- The episode ----


@dataclass
class Scripted:
    """Says what is in its script; keeps the messages before each sequence, and what it was told within one."""

    script: list[str]
    most_messages: int = 99

    def __post_init__(self) -> None:
        self.opened: list[list[Message]] = []
        self.told: list[Message] = []
        self.limits: list[int] = []
        self.used = 0

    async def open(self, messages: list[Message]) -> int:
        if len(messages) > self.most_messages:
            raise PromptTooLong("too many")
        self.opened.append(list(messages))
        self.used = 0
        return 100

    async def respond(self, limit: int) -> Response:
        text, start = self.script.pop(0), self.used
        self.limits.append(limit)
        self.used += len(text)
        return Response(text, (start, self.used), False)

    async def tell(self, messages: list[Message], room: int) -> bool:
        self.told.append(messages[-1])
        self.used += 10
        return True


async def played(stream: Scripted, policy: str) -> Episode:
    async def judge(response: str) -> Verdict:
        answer = MATH.words.prompts.extract(response)
        return Verdict(answer == "4", answer)

    episode = Episode(MATH, PROBLEM, 3)
    await play(episode, stream, room=50, judge=judge, history=History(policy))
    return episode


SCRIPT = ["so \\boxed{5}", "hm", "\\boxed{4}"]


async def test_full_is_one_sequence() -> None:
    stream = Scripted([*SCRIPT])
    episode = await played(stream, "full")
    assert stream.opened == [[ASKED]]
    assert stream.told == [wrong(2), wrong(1)]
    assert [attempt.span for attempt in episode.transcript.attempts] == [(0, 12), (22, 24), (34, 43)]
    assert stream.limits == [50, 28, 16]


@pytest.mark.parametrize(
    ("policy", "before"),
    [
        ("last", [[said(SCRIPT[0]), wrong(2)], [said("hm"), wrong(1)]]),
        ("answers", [[said("\\boxed{5}"), wrong(2)], [said("\\boxed{5}"), wrong(2), said("No answer."), wrong(1)]]),
    ],
)
async def test_with_less_each_attempt_is_a_sequence_with_all_of_the_room(
    policy: str, before: list[list[Message]]
) -> None:
    stream = Scripted([*SCRIPT])
    episode = await played(stream, policy)
    assert stream.opened == [[ASKED], *([ASKED, *messages] for messages in before)]
    assert stream.told == []
    assert [attempt.span for attempt in episode.transcript.attempts] == [(0, 12), (0, 2), (0, 9)]
    assert stream.limits == [50, 50, 50]
    assert episode.transcript.stop is StopReason.CORRECT


async def test_an_episode_whose_next_prompt_is_too_long_is_truncated_and_one_whose_first_is_fails() -> None:
    episode = await played(Scripted([*SCRIPT], most_messages=3), "answers")
    assert (len(episode.transcript.attempts), episode.transcript.stop) == (2, StopReason.TRUNCATED)
    with pytest.raises(PromptTooLong, match="too many"):
        await played(Scripted([*SCRIPT], most_messages=0), "answers")


# ---- Lengths ----


@pytest.mark.parametrize(
    ("policy", "attempts", "longest"),
    [
        ("full", 3, []),
        ("last", 1, []),
        ("last", 3, [said("a" * 20), wrong(2)]),
        ("answers", 3, [said("\\boxed{%s}" % ("a" * 8)), wrong(2)] * 2),
        ("answers", 2, [said("\\boxed{%s}" % ("a" * 8)), wrong(1)]),
    ],
)
def test_the_longest_prompt_bounds_every_one(policy: str, attempts: int, longest: list[Message]) -> None:
    """With a tokenizer of bytes it is met to a token for each attempt shown: the one that stands for it."""
    chat = ChatTemplate(make_tokenizer())
    turn = Turn(MATH.feedbacks(PROBLEM, attempts), [], attempt_tokens=20)
    bound = most_prompt_tokens(History(policy, answer_bytes=8), chat, MATH, PROBLEM, turn, attempts=attempts)
    there = len(chat.opening([*MATH.opening(PROBLEM, attempts), *longest]))
    assert there <= bound <= there + len(longest) // 2 * len("?")
