"""Tasks: what rows have to say, how tasks are found, what they say by default, and what is paid for graded scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import load_dataset

from multi_attempt.cli import main
from multi_attempt.config import load_settings
from multi_attempt.data import make_row
from multi_attempt.episode import Episode, StopReason, Transcript
from multi_attempt.prompts import load_prompt_set
from multi_attempt.rewards import RewardRule
from multi_attempt.tasks import Attempt, Message, Task, Verdict, Words, user
from multi_attempt.tasks.load import Asked, Tasks, load_task, row_problems
from multi_attempt.tasks.math import Problem
from multi_attempt.tasks.rows import read_row

EXAMPLES = Path(__file__).parents[2] / "examples"


@dataclass(frozen=True)
class Case:
    given: str
    wanted: str = ""


@dataclass(frozen=True)
class Letters:
    letters: str
    cases: list[Case]
    limit: float | None
    times: int = 1

    def __post_init__(self) -> None:
        if self.times < 1:
            raise ValueError(f"times = {self.times} must be at least 1")


@dataclass
class EchoSettings:
    prompts: str = ""
    loud: bool = False


class Echo(Task[Letters]):
    """Says its letters, however often they are said; an answer in capitals is told so."""

    Row = Letters
    Settings = EchoSettings

    def opening(self, row: Letters, attempts: int) -> list[Message]:
        return [user(f"Say {row.letters}.")]

    async def verdict(self, row: Letters, response: str) -> Verdict:
        if not response:
            return Verdict(False, well_formed=False)
        return Verdict(response == row.letters, response, note="No capitals." if response.isupper() else "")

    def gold_response(self, row: Letters) -> str | None:
        return None if row.letters == "?" else row.letters.lower()


class Unfinished(Task[Letters]):
    pass


ECHO = f"{__name__}:Echo"


def row(**fields: Any) -> dict[str, Any]:
    return {"extra_info": {"letters": "abc", "cases": [{"given": "1"}], **fields}}


# ---- Rows ----


def test_fields_stand_in_extra_info_in_reward_model_or_in_the_row() -> None:
    found = read_row(Letters, {"letters": "abc", "reward_model": {"cases": []}, "extra_info": {"times": 2}}, "row")
    assert found == Letters("abc", [], None, 2)
    assert read_row(Letters, {**row(), "letters": "no"}, "row").letters == "abc"


def test_values_are_as_files_have_them() -> None:
    cases = np.array([{"given": "1", "wanted": None}], dtype=object)  # as of Parquet, where other rows have the field
    assert read_row(Letters, row(cases=cases, times=np.int64(3), limit=2), "row") == Letters("abc", [Case("1")], 2.0, 3)
    assert read_row(Letters, row(cases='[{"given": "1", "wanted": "2"}]'), "row").cases == [Case("1", "2")]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"letters": None}, "row 3: extra_info.letters = None; its task needs it"),
        ({"letters": 5}, "row 3: extra_info.letters = 5 must be a text"),
        ({"cases": 5}, "row 3: extra_info.cases = 5 must be a list"),
        ({"cases": "[1"}, "must be a list"),
        ({"cases": [{"wanted": "1"}]}, "given is missing"),
        ({"limit": "x"}, "extra_info.limit = 'x' must be a number or null"),
        ({"times": True}, "extra_info.times = True must be a whole number"),
        ({"times": 0}, "row 3: times = 0 must be at least 1"),
    ],
)
def test_what_a_row_lacks_is_named_with_row_field_and_value(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="row 3") as error:
        read_row(Letters, row(**fields), "row 3")
    assert message in str(error.value)


def test_a_field_that_nothing_has_is_named() -> None:
    with pytest.raises(
        ValueError, match="row 3: letters is missing; its task needs it, in extra_info, in reward_model"
    ):
        read_row(Letters, {"cases": []}, "row 3")


def test_a_question_is_the_last_message_of_the_prompt() -> None:
    rows = make_row("2+2=?", "4", data_source="toy", index=0, split="train")
    rows["extra_info"]["question"] = "Another?"
    assert read_row(Problem, rows, "row") == Problem("2+2=?", "4", "")


# ---- Tasks by name ----


@pytest.mark.parametrize("name", ["math", "match", "code", "judge", ECHO])
def test_tasks_are_found_by_name(name: str) -> None:
    assert load_task(name).name == name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "maths"}, "multi_attempt.task = 'maths' is neither a built-in task (math, match, code, judge) nor"),
        (
            {"task": "no_such_module:Task"},
            "multi_attempt.task = 'no_such_module:Task': the module no_such_module cannot",
        ),
        ({"task": "os:path"}, "os.path is no subclass of Task"),
        ({"task": f"{__name__}:Unfinished"}, "lacks Row, gold_response, opening, verdict"),
        ({"tasks": {"match": {"second": 1}}}, "multi_attempt.tasks.match.second"),
        ({"tasks": {"match": {"seconds": 0}}}, "multi_attempt.tasks.match.seconds = 0"),
        ({"tasks": {ECHO: {"loud": "perhaps"}}}, f"multi_attempt.tasks.{ECHO}.loud"),
        ({"tasks": {"match": 5}}, "multi_attempt.tasks.match = 5 must be a mapping"),
        ({"tasks": {"math": {}}}, "multi_attempt.tasks.math: its settings are multi_attempt.prompts and"),
    ],
)
def test_a_wrong_task_is_named_when_settings_are_loaded(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"multi_attempt\.task") as error:
        load_settings(settings)
    assert message in str(error.value)


def test_rows_name_their_task_and_the_config_the_others() -> None:
    tasks = load_settings({"task": ECHO, "tasks": {ECHO: {"loud": True}}, "grader": {"deadline": 9}}).make_tasks()
    own = tasks.read(row())
    math = tasks.read({"question": "2+2=?", "ground_truth": "4", "extra_info": {"task": "math"}})
    assert (own.task.name, own.task.settings) == (ECHO, EchoSettings(loud=True))
    assert (math.task.name, math.row, math.task.settings.deadline) == ("math", Problem("2+2=?", "4"), 9)
    for name in ("maths", "os:path", f"{__name__}:Unfinished"):
        with pytest.raises(ValueError, match=rf"row 3: extra_info.task = '{name}' is no built-in task"):
            tasks.read(row(task=name), "row 3")


# ---- What tasks say ----


def test_feedback_is_the_prompt_sets_with_the_note_where_it_is_asked_for() -> None:
    task = load_task(ECHO, words=Words(load_prompt_set("toy"), parts=("verdict", "question", "attempts_left", "note")))
    episode = Episode(task, task.read(row()), 4)
    assert episode.messages == [user("Say abc.")]
    assert episode.record("x", Verdict(False, "x")) == user("Wrong. Say abc. (3)")
    assert episode.record("X", Verdict(False, "X", note="No capitals.")) == user("Wrong. Say abc. (2)\nNo capitals.")
    assert episode.record("x\n", Verdict(False, "x\n", score=0.5)) == user("Wrong. Say abc. (1)")
    assert [attempt.repeated for attempt in episode.transcript.attempts] == [False, False, True]
    assert [attempt.score for attempt in episode.transcript.attempts] == [0, 0, 0.5]


def test_a_task_may_have_a_prompt_set_of_its_own_and_who_gives_feedback_is_the_configs() -> None:
    own = load_settings({"feedback_role": "system", "tasks": {ECHO: {"prompts": "toy"}}}).make_tasks()[ECHO]
    tried = [Attempt.of(Verdict(False, "x"))]
    assert own.feedback(own.read(row()), tried, 2) == {"role": "system", "content": "Wrong. (2)"}


async def test_a_row_whose_gold_response_is_wrong_by_its_own_task_is_named() -> None:
    task = load_task(ECHO)
    rows = [row(), row(letters="ABC"), row(letters="?")]
    fine, wrong, unknown = await row_problems([Asked(task, task.read(each)) for each in rows])
    assert (fine, unknown) == ("", "")
    assert wrong == f"the task {ECHO!r} calls the row's own gold response 'abc' wrong; correct or remove the row"


@pytest.mark.parametrize("prompts", ["paper", "boxed", "plain", "toy"])
async def test_gold_answers_of_mathematics_are_right_in_every_prompt_set(prompts: str) -> None:
    task = Tasks(words=Words(load_prompt_set(prompts))).default
    for gold in (r"\frac{1}{2}", "x = 3", "(1, 2)", r"\text{Yes}"):
        asked = Problem("?", gold)
        assert (await task.verdict(asked, task.gold_response(asked) or "")).correct
    await task.close()


def test_the_data_command_makes_rows_of_a_task_and_refuses_those_that_are_wrong_by_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    rows = [{"question": f"Letter {each}?", "ground_truth": each, "pattern": ""} for each in "abc"]
    rows[1]["pattern"] = "x"
    file.write_text("".join(json.dumps(each) + "\n" for each in rows))
    arguments = ["data", "mine", "--from", str(file), "--role", "train", "--task", "match", "--validation", "1"]
    assert main([*arguments, "--output", str(tmp_path)]) == 0
    manifest = json.loads((tmp_path / "mine" / "manifest.json").read_text())
    [refused] = manifest["refused"]
    assert refused["line"] == 2
    assert refused["reason"].startswith("the task 'match' calls the row's own gold response 'b' wrong (pattern)")
    tasks = Tasks()
    for name in ("train.parquet", "validation.parquet"):
        for each in load_dataset("parquet", data_files=str(tmp_path / "mine" / name), split="train"):
            asked = tasks.read(each)
            assert (asked.task.name, asked.row.question) == ("match", f"Letter {asked.row.ground_truth}?")
            assert asked.row.ground_truth in "ac"


def test_an_option_of_mathematics_is_refused_for_another_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.jsonl").write_text("{}\n")
    arguments = ["data", "mine", "--from", str(tmp_path / "mine.jsonl"), "--role", "train", "--answer-field", "answer"]
    assert main([*arguments, "--task", "match", "--output", str(tmp_path)]) == 2
    assert "--answer-field = answer: the rows of the task 'match'" in capsys.readouterr().err


def test_the_readme_shows_the_example_whole_which_is_short() -> None:
    example = (EXAMPLES / "reverse.py").read_text()
    assert len(example.splitlines()) <= 25
    assert f"```python\n{example}```" in (EXAMPLES.parent / "README.md").read_text()


@pytest.mark.parametrize(("verdict", "message"), [({"correct": 1}, "correct = 1"), ({"score": 1.5}, "score = 1.5")])
def test_a_verdict_that_makes_no_sense_is_refused(verdict: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Verdict(**{"correct": False, **verdict})


# ---- Graded scores ----


@pytest.mark.parametrize(
    ("share", "scores", "well_formed", "reward"),
    [
        (0.0, [0.9], True, -0.5),
        (1.0, [0.5], True, 0.25),
        (1.0, [0.25, 0.75, 0.5], False, 0.5),
        (0.5, [1.0], False, 0.0),
        (0.5, [0.0], True, -0.5),
    ],
)
def test_the_best_score_of_a_failed_episode_is_paid_for_by_its_share(
    share: float, scores: Sequence[float], well_formed: bool, reward: float
) -> None:
    attempts = [Attempt.of(Verdict(False, "x", well_formed, score)) for score in scores]
    assert RewardRule(score=share)(Transcript(3, StopReason.EXHAUSTED, attempts)) == pytest.approx(reward)


def test_a_solved_episode_is_worth_no_more_for_its_score() -> None:
    solved = Transcript(3, StopReason.CORRECT, [Attempt.of(Verdict(True, "x", score=0.5))])
    assert RewardRule(score=1.0)(solved) == 1.0


def test_a_share_that_would_pay_more_than_a_right_answer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"multi_attempt.reward.score = 1.5 must lie in \[0, 1\]"):
        RewardRule(score=1.5)
