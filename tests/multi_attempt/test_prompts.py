"""What the model is told, and which attempts have the format that it was asked for."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from wordings import REPEATED, after_unjudged, after_wrong

from multi_attempt.grading import Verdict, grade
from multi_attempt.prompts import BUILT_IN, PromptSet, load_prompt_set
from multi_attempt.rewards import RewardRule
from multi_attempt.tasks.math_episode import MathEpisode as Episode

VALID: dict[object, object] = {
    "system": "Box it.",
    "user": "$question ($attempts)",
    "verdict": "No.",
    "attempts_left": "$attempts left.",
    "question": "Again: $question",
}

# Characters that a template, a regular expression or a format string would treat in a special way.
AWKWARD_QUESTION = r"Pay $5 and $$6 to $question with ${attempts} {n} %s \1 \n \boxed{x} {{y}} é" + "\n  second line "


def write(directory: Path, content: object, name: str = "mine.yaml") -> str:
    path = directory / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return str(path)


def all_texts(prompts: PromptSet, question: str, attempts: int) -> list[str]:
    return [
        *(message["content"] for message in prompts.opening(question, attempts)),
        after_wrong(prompts, question, attempts)["content"],
        after_wrong(prompts, question, attempts, parts=REPEATED)["content"],
        after_wrong(prompts, question, attempts, answered=False)["content"],
        after_wrong(prompts, question, attempts, parts=REPEATED, answered=False)["content"],
        after_unjudged(prompts, question, attempts)["content"],
    ]


def test_built_in_sets_are_those_documented() -> None:
    assert BUILT_IN == ("boxed", "paper", "plain", "short", "toy", "toy_uncounted", "toy_untold")


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_sets_load_under_their_name(name: str) -> None:
    assert load_prompt_set(name).name == name


@pytest.mark.parametrize("name", ["paper", "boxed", "plain"])
@pytest.mark.parametrize(("attempts", "words"), [(1, "1 attempt"), (2, "2 attempts"), (5, "5 attempts")])
def test_number_of_attempts_is_said_in_words(name: str, attempts: int, words: str) -> None:
    prompts = load_prompt_set(name)
    opening = "\n".join(message["content"] for message in prompts.opening("Why?", attempts))
    feedback = after_wrong(prompts, "Why?", attempts)["content"]
    repeated = after_wrong(prompts, "Why?", attempts, parts=REPEATED)["content"]
    unanswered = after_wrong(prompts, "Why?", attempts, answered=False)["content"]
    assert all(words in text for text in (opening, feedback, repeated, unanswered))


@pytest.mark.parametrize("name", BUILT_IN)
def test_one_attempt_is_never_plural(name: str) -> None:
    assert all("1 attempts" not in text for text in all_texts(load_prompt_set(name), "Why?", 1))


@pytest.mark.parametrize("name", sorted({*BUILT_IN} - {"toy_uncounted"}))
def test_number_of_attempts_is_in_the_opening_and_in_the_feedback(name: str) -> None:
    prompts = load_prompt_set(name)
    assert any("7" in message["content"] for message in prompts.opening("Why?", 7))
    assert "7" in after_wrong(prompts, "Why?", 7)["content"]
    assert "7" in after_wrong(prompts, "Why?", 7, parts=REPEATED)["content"]


def test_ablations_of_the_toy_wording_leave_out_what_they_are_called_for() -> None:
    told, uncounted, untold = (load_prompt_set(name) for name in ("toy", "toy_uncounted", "toy_untold"))
    assert all_texts(uncounted, "Why?", 3) == all_texts(uncounted, "Why?", 4)
    assert untold.opening("Why?", 3) == told.opening("Why?", 3)
    assert after_wrong(untold, "Why?", 3) == after_unjudged(untold, "Why?", 3) == after_unjudged(told, "Why?", 3)


@pytest.mark.parametrize("name", BUILT_IN)
def test_question_is_inserted_verbatim(name: str) -> None:
    prompts = load_prompt_set(name)
    assert AWKWARD_QUESTION in prompts.opening(AWKWARD_QUESTION, 2)[-1]["content"]
    for answered in (True, False):
        feedback = after_wrong(prompts, AWKWARD_QUESTION, 2, parts=REPEATED, answered=answered)
        assert AWKWARD_QUESTION in feedback["content"]


@pytest.mark.parametrize("name", BUILT_IN)
def test_feedback_shows_the_question_only_when_asked_to(name: str) -> None:
    prompts = load_prompt_set(name)
    for answered in (True, False):
        assert "Why so?" not in after_wrong(prompts, "Why so?", 2, answered=answered)["content"]
        assert "Why so?" in after_wrong(prompts, "Why so?", 2, parts=REPEATED, answered=answered)["content"]


@pytest.mark.parametrize(("name", "role"), [("paper", "user"), ("boxed", "system"), ("plain", "user"), ("toy", "user")])
def test_feedback_comes_from_the_role_of_the_set(name: str, role: str) -> None:
    prompts = load_prompt_set(name)
    assert after_wrong(prompts, "Why?", 1)["role"] == role
    assert after_wrong(prompts, "Why?", 1, answered=False)["role"] == role


@pytest.mark.parametrize("name", ["paper", "boxed", "plain"])
@pytest.mark.parametrize("parts", [(), REPEATED])
def test_attempt_without_an_answer_is_told_that_and_not_that_it_is_wrong(name: str, parts: tuple[str, ...]) -> None:
    prompts = load_prompt_set(name)
    wrong = after_wrong(prompts, "Why?", 2, parts)["content"]
    unanswered = after_wrong(prompts, "Why?", 2, parts, answered=False)["content"]
    assert unanswered != wrong
    assert "no answer" in unanswered.lower()
    assert not any(word in unanswered for word in ("wrong", "not right", "not correct"))
    # The question is nowhere said to hold an answer of the feedback's own.
    assert prompts.extract(unanswered) is None or name == "plain"


@pytest.mark.parametrize("parts", [(), REPEATED])
def test_set_without_words_for_no_answer_uses_those_for_a_wrong_one(parts: tuple[str, ...], tmp_path: Path) -> None:
    for name in ("toy", "toy_uncounted", "toy_untold", write(tmp_path, VALID)):
        prompts = load_prompt_set(name)
        assert prompts.no_answer == ""
        assert after_wrong(prompts, "Why?", 2, parts, answered=False) == after_wrong(prompts, "Why?", 2, parts)


def test_users_file_words_what_follows_no_answer(tmp_path: Path) -> None:
    prompts = load_prompt_set(write(tmp_path, {**VALID, "no_answer": "None to $question."}))
    assert after_wrong(prompts, "Why?", 2, answered=False)["content"] == "None to Why?. 2 attempts left."
    repeated = after_wrong(prompts, "Why?", 1, REPEATED, answered=False)
    assert repeated["content"] == "None to Why?. 1 attempt left. Again: Why?"
    assert after_wrong(prompts, "Why?", 2)["content"] == "No. 2 attempts left."


@pytest.mark.parametrize("name", ["paper", "boxed"])
def test_dialogue_opens_with_system_and_user(name: str) -> None:
    assert [message["role"] for message in load_prompt_set(name).opening("Why?", 3)] == ["system", "user"]


def test_empty_system_text_gives_no_system_message() -> None:
    assert load_prompt_set("toy").opening("1+1", 3) == [{"role": "user", "content": "1+1 (3)"}]


def test_placeholders_and_dollar_sign_in_a_users_file(tmp_path: Path) -> None:
    prompts = load_prompt_set(write(tmp_path, {**VALID, "system": "Win $$5: $attempts, $n."}))
    assert prompts.name == "mine"
    assert prompts.opening("Why?", 1) == [
        {"role": "system", "content": "Win $5: 1 attempt, 1."},
        {"role": "user", "content": "Why? (1 attempt)"},
    ]
    assert after_wrong(prompts, "Why?", 2) == {"role": "user", "content": "No. 2 attempts left."}
    assert after_wrong(prompts, "Why?", 2, parts=REPEATED) == {
        "role": "user",
        "content": "No. 2 attempts left. Again: Why?",
    }


def test_users_file_may_leave_out_what_has_a_default(tmp_path: Path) -> None:
    prompts = load_prompt_set(write(tmp_path, VALID, "short.yml"))
    assert (prompts.feedback_role, prompts.answer, prompts.format) == ("user", "boxed", "")


def test_users_file_chooses_where_the_answer_stands(tmp_path: Path) -> None:
    prompts = load_prompt_set(write(tmp_path, {**VALID, "answer": "answer_tag"}))
    assert prompts.extract(r"\boxed{3} <answer>4</answer>") == "4"
    assert not prompts.is_well_formed(r"\boxed{3}")


def test_users_file_names_several_places_for_the_answer(tmp_path: Path) -> None:
    prompts = load_prompt_set(write(tmp_path, {**VALID, "answer": "hash_line boxed"}))
    assert prompts.extract("\\boxed{3}\n#### 4") == "4"
    assert prompts.extract(r"\boxed{3}") == "3"
    assert prompts.is_well_formed("#### 4")
    assert not prompts.is_well_formed("The answer is 4.")


def test_plain_set_reads_answers_that_stand_in_no_box() -> None:
    prompts = load_prompt_set("plain")
    assert [message["role"] for message in prompts.opening("Why?", 3)] == ["user"]
    assert prompts.extract("5 * 11 = 55. The answer is 55.") == "55"
    assert prompts.extract(r"First 7, then \boxed{8}. The answer is 9.") == "8"
    assert prompts.extract("#### 8\nThe answer is 9.") == "8"
    assert prompts.extract("That makes **55** apples.") == "55"
    assert prompts.extract("I do not know.") is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"bogus": "x"}, ["bogus", "feedback_role"]),
        ({1: "x"}, ["1", "feedback_role"]),
        ({1: "x", "bogus": "y"}, ["1", "bogus"]),
        ({"user": 3}, ["'user': 3"]),
        ({"system": None}, ["'system': None"]),
        ({"feedback": ["a"]}, ["'feedback': ['a']"]),
        ({"user": "no question here"}, ["user = 'no question here'", "$question"]),
        ({"user": "$question for $5"}, ["user = '$question for $5'", "$$"]),
        ({"user": "$question costs $"}, ["user = '$question costs $'", "$$"]),
        ({"system": "$budget"}, ["system = '$budget'", "$attempts"]),
        ({"verdict": "${attempts"}, ["verdict = '${attempts'"]),
        ({"question": "$Question"}, ["question = '$Question'"]),
        ({"question": "Again."}, ["question = 'Again.'", "$question"]),
        ({"ruled_out": "Not $answer."}, ["ruled_out = 'Not $answer.'", "$answers"]),
        ({"score": "Bad."}, ["score = 'Bad.'", "$score"]),
        ({"note": "Bad."}, ["note = 'Bad.'", "$note"]),
        ({"feedback": "That is wrong."}, ["feedback = 'That is wrong.'", "'That'", "ruled_out"]),
        ({"feedback": " "}, ["feedback = ' '", "nothing", "ruled_out"]),
        ({"feedback_role": "assistant"}, ["feedback_role = 'assistant'", "system"]),
        ({"answer": "tag"}, ["answer = 'tag'", "answer_tag"]),
        ({"answer": "boxed box hash_line tag"}, ["unknown 'box', 'tag'", "answer_tag", "final_statement"]),
        ({"answer": " "}, ["answer = ' '", "no name", "last_number"]),
        ({"no_answer": "$answer"}, ["no_answer = '$answer'", "$attempts"]),
        ({"attempts_left": "$5"}, ["attempts_left = '$5'", "$$"]),
    ],
)
def test_invalid_field_is_named_with_its_value(changes: dict[object, object], named: list[str], tmp_path: Path) -> None:
    path = write(tmp_path, {**VALID, **changes})
    with pytest.raises(ValueError, match="mine") as caught:
        load_prompt_set(path)
    assert all(text in str(caught.value) for text in named), str(caught.value)


@pytest.mark.parametrize("field", ["system", "user", "verdict"])
def test_missing_field_is_named(field: str, tmp_path: Path) -> None:
    path = write(tmp_path, {name: value for name, value in VALID.items() if name != field})
    with pytest.raises(ValueError, match=f"mine.*{field}"):
        load_prompt_set(path)


@pytest.mark.parametrize(
    "content", ["", "- a\n- b\n", "just a text", "system: [", "\tsystem: x"], ids=["empty", "list", "text", "[", "tab"]
)
def test_file_that_holds_no_fields_is_refused_by_name(content: str, tmp_path: Path) -> None:
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match="mine"):
        load_prompt_set(path)


@pytest.mark.parametrize("name", ["", "papers", "nowhere/mine.yaml", "~nobody-of-this-name/mine.yaml", "../paper"])
def test_unknown_set_is_named_with_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match="boxed, paper, plain, short, toy") as caught:
        load_prompt_set(name)
    assert repr(name) in str(caught.value)


def test_directory_and_other_suffix_are_no_prompt_sets(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    for path in (str(tmp_path / "folder.yaml"), write(tmp_path, VALID, "mine.txt")):
        with pytest.raises(ValueError, match="boxed, paper, plain, short, toy"):
            load_prompt_set(path)


def test_prompt_set_is_checked_when_made_in_code() -> None:
    with pytest.raises(ValueError, match="feedback_role = 'judge'"):
        replace(load_prompt_set("boxed"), feedback_role="judge")


@pytest.mark.parametrize(
    "attempt",
    [
        r"<think> 1 + 1 </think> <answer> \boxed{2} </answer>",
        r"<think></think><answer>\boxed{2}</answer>",
        # Chat templates of some models open the reasoning themselves.
        r"1 + 1 </think> <answer> \boxed{2} </answer>",
        "<think>\nfirst\n\nsecond\n</think>\n\n<answer>\nIt is\n\\boxed{\\frac{1}{2}}\n</answer>",
        "\n <think> x </think> <answer> \\boxed{2} </answer> \n",
        r"<think> <answer>5</answer>? no </think> <answer> \boxed{2} is the answer </answer>",
        r"<think> x </think> y </think> <answer> \boxed{2} </answer>",
        # As the paper's figure 3 has it: no box.
        r"<think> 1 + 1 </think> <answer> 2 </answer>",
        r"<think> \boxed{3}? No. </think> <answer> 2 </answer>",
    ],
)
def test_paper_format_accepts(attempt: str) -> None:
    assert load_prompt_set("paper").is_well_formed(attempt)


@pytest.mark.parametrize(
    "attempt",
    [
        "",
        r"\boxed{2}",
        r"<answer> \boxed{2} </answer>",
        r"<think> 1 + 1 <answer> \boxed{2} </answer>",
        r"<think> 1 + 1 </think> \boxed{2}",
        r"<think> x </think> <answer> 2 </answer> \boxed{2}",
        r"<think> \boxed{2} </think> <answer> </answer>",
        r"<think> \boxed{2} </think> <answer> \boxed{ </answer>",
        r"\boxed{7}</think><answer>\boxed{</answer>",
        r"<answer>7</answer></think><answer>\boxed{}</answer>",
        r"<think> x </think> <answer> \boxed{2} </answer> That is it.",
        r"<think> x </think> <answer> \boxed{2}",
        r"<think> x </think> <answer> \boxed{2 </answer>",
        r"<think> x </think> <answer> \boxed{} </answer>",
        r"<answer> \boxed{2} </answer> <think> x </think>",
    ],
)
def test_paper_format_refuses(attempt: str) -> None:
    assert not load_prompt_set("paper").is_well_formed(attempt)


def test_dialogue_of_figure_3_is_solved_at_its_second_attempt() -> None:
    """The shape of the paper's figure 3, in other words: answers in tags without a box, feedback by the user."""
    episode = Episode("How many even numbers are there from 3 to 9?", 2, load_prompt_set("paper"))
    attempts = (
        "<think> 4, 6, 8, and one more for the ends, so four. </think> <answer> 4 </answer>",
        "<think> That was wrong. The ends are odd: 4, 6, 8. </think> <answer> 3 </answer>",
    )
    for attempt in attempts:
        answer = episode.extract(attempt)
        assert answer is not None
        episode.record(attempt, grade(rf"\boxed{{{answer}}}", "3"))
    assert [message["role"] for message in episode.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert [attempt.well_formed for attempt in episode.transcript.attempts] == [True, True]
    assert RewardRule()(episode.transcript) == 1.0
    wrong = Episode("How many?", 1, load_prompt_set("paper"))
    wrong.record(attempts[0], Verdict(False))
    assert RewardRule()(wrong.transcript) == -0.5


def test_answer_of_the_papers_shape_stands_in_tags_or_else_in_a_box() -> None:
    prompts = load_prompt_set("paper")
    assert prompts.extract(r"<think> \boxed{1} </think> <answer> It is \boxed{2}. </answer>") == "2"
    assert prompts.extract(r"<think> \boxed{1} </think> <answer> 2 </answer>") == "2"
    # Models that were trained to box their answers write no tags at first.
    assert prompts.extract(r"So it is \boxed{2}.") == "2"
    assert prompts.extract("So it is 2.") is None


@pytest.mark.parametrize(
    ("format", "attempt", "well_formed"),
    [
        # Where the last mark closes a tag, the answer stands in it.
        (r"</think> <answer> \boxed{ </answer>", r"</think> <answer> \boxed{2} </answer>", True),
        (r"</think> <answer> \boxed{ </answer>", r"\boxed{2} </think> <answer> \boxed{ </answer>", False),
        ("<final> </final>", r"<final> \boxed{2} </final>", True),
        ("<final> </final>", r"\boxed{2} <final> </final>", False),
        # Where it closes nothing, anywhere.
        ("Answer: .", r"\boxed{2} is the Answer: yes.", True),
        ("</think> END", r"</think> \boxed{2} END", True),
    ],
)
def test_answer_stands_in_the_last_part_of_the_format(format: str, attempt: str, well_formed: bool) -> None:
    assert replace(load_prompt_set("boxed"), format=format).is_well_formed(attempt) == well_formed


@pytest.mark.parametrize("attempt", [r"\boxed{2}", "First,\n1 + 1.\n\n\\boxed{\n2\n}\nDone.", r"\boxed{3} or \fbox{2}"])
def test_boxed_format_accepts_any_text_with_an_answer(attempt: str) -> None:
    assert load_prompt_set("boxed").is_well_formed(attempt)


@pytest.mark.parametrize("attempt", ["", "2", r"\boxed{}", "first\n\\boxed{2\nlast", "<answer>2</answer>"])
def test_boxed_format_refuses_a_text_without_an_answer(attempt: str) -> None:
    assert not load_prompt_set("boxed").is_well_formed(attempt)


@pytest.mark.parametrize(
    "attempt",
    [
        # A model that repeats itself until its tokens are used up.
        '"</think> <answer> \\\\boxed{4} </answer> " * 2000 + "<ans"',
        '"</think><answer>" * 2000 + "\\\\boxed{4" * 2000 + "}" * 2000',
        '"</think> " * 20000 + "\\\\boxed{4}"',
    ],
)
def test_format_check_finishes_on_repetitive_attempts(attempt: str) -> None:
    # It runs in the event loop of all episodes. In a process of its own, so that a regression fails instead of hanging;
    # linear work takes milliseconds, and what takes a power of the repetitions takes hours.
    program = (
        f"from multi_attempt.prompts import load_prompt_set\nprint(load_prompt_set('paper').is_well_formed({attempt}))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=10)
    assert finished.stdout == "False\n", finished.stderr
