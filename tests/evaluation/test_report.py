"""The report of a run: what it says, what it refuses, and that no text of a model is read as HTML."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from multi_attempt.evaluation import plots, report

HOSTILE = "<script>alert('x')</script> </script><img src=x onerror=alert(1)> <!-- & \u2028"


def training_step(step: int, reward: float | None = 0.0) -> dict[str, Any]:
    return {
        "step": step,
        "critic/score/mean": reward,
        "multi_attempt/success": 0.5,
        "multi_attempt/first_attempt_accuracy": 0.4,
        "multi_attempt/retry_success": None,
        "multi_attempt/repeat_rate": 0.1,
        "perf/throughput": 100.0,
    }


def attempt(**changes: Any) -> dict[str, Any]:
    return {"answer": "4", "correct": False, "well_formed": True, "truncated": False, "repeated": False, **changes}


def dialogue(*attempts: dict[str, Any], stop: str = "exhausted", text: str = "I say 4.") -> dict[str, Any]:
    messages = []
    for _ in attempts:
        messages += [{"role": "user", "content": "Try."}, {"role": "assistant", "content": text}]
    return {
        "question": "What is 2 times 3?",
        "gold": "6",
        "budget": 3,
        "stop": stop,
        "messages": messages,
        "attempts": list(attempts),
    }


def model(name: str, accuracy: list[float], dialogues: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "path": "checkpoints/somewhere",
        "accuracy": accuracy,
        "low": [value - 0.05 for value in accuracy],
        "high": [value + 0.05 for value in accuracy],
        "first_attempt_accuracy": [accuracy[0]] * len(accuracy),
        "dialogues": dialogues or [],
    }


def evaluation(*models: dict[str, Any], attempts: list[int] | None = None) -> dict[str, Any]:
    return {
        "protocol": "oracle",
        "data": "/private/place/test.parquet",
        "attempts": attempts or [1, 5],
        "questions": 256,
        "models": list(models) or [model("before", [0.401, 0.613]), model("after", [0.625, 0.93])],
    }


def write_run(run: Path, metrics: list[dict[str, Any]] | None = None, content: dict[str, Any] | None = None) -> Path:
    if metrics is not None:
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    if content is not None:
        (run / "eval.json").write_text(json.dumps(content))
    return run


class Page(HTMLParser):
    """The elements of a page as a browser would find them, and the text of its JSON element."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.json = ""
        self._element = ("", "")
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._element = (tag, dict(attrs).get("type") or "")

    def handle_endtag(self, tag: str) -> None:
        self._element = ("", "")

    def handle_data(self, data: str) -> None:
        if self._element == ("script", "application/json"):
            self.json += data
        elif self._element[0] not in ("script", "style"):
            self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def read_page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_headline_compares_before_and_after() -> None:
    metrics = [training_step(step, -0.1 if step <= 5 else 0.62) for step in range(1, 11)]
    assert report.headline(metrics, evaluation()) == [
        "Accuracy with 1 attempt: 40.1% -> 62.5%; with 5: 61.3% -> 93.0%",
        "Points gained by allowing 5 attempts instead of 1: +21.2 -> +30.5",
        "Reward: first five steps -0.10 -> last five steps 0.62",
        "Training episodes solved: first five steps 50.0% -> last five steps 50.0%",
    ]


def test_headline_of_little() -> None:
    assert report.headline([], None) == []
    assert report.headline([], evaluation(model("only", [0.5]), attempts=[2])) == ["Accuracy with 2 attempts: 50.0%"]
    rewards = [None, 0.1, float("nan"), 0.2, 0.3]
    metrics = [{"step": step, "critic/score/mean": reward} for step, reward in enumerate(rewards)]
    assert report.headline(metrics, None) == ["Reward: first step 0.10 -> last step 0.30"]
    assert report.headline(metrics[:2], None) == ["Reward: 0.10 (one step)"]


def test_whole_report(tmp_path: Path) -> None:
    run = write_run(tmp_path, [training_step(step, step / 20) for step in range(1, 21)], evaluation())
    path = report.write_report(run)
    assert path == run / "report.html"
    for name in ("training.png", "accuracy_by_attempts.png"):
        assert (run / name).read_bytes().startswith(b"\x89PNG")
    page = read_page(path)
    assert "40.1% → 62.5%" in page.text
    assert "+22.4 points" in page.text
    assert "56.3 to 66.3%" in page.text
    assert "/private/place" not in page.text


def test_page_refers_to_nothing_outside_itself(tmp_path: Path) -> None:
    run = write_run(tmp_path, [training_step(1)], evaluation(model("one", [0.4, 0.5], [dialogue(attempt())])))
    path = report.write_report(run)
    images = [attributes["src"] for tag, attributes in read_page(path).elements if tag == "img"]
    assert len(images) == 2
    assert all(source and source.startswith("data:image/png;base64,") for source in images)
    assert not re.search(r"https?://|href=|@import|url\(", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("part", ["metrics", "evaluation"])
def test_missing_file_is_left_out(tmp_path: Path, part: str) -> None:
    if part == "metrics":
        write_run(tmp_path, metrics=[training_step(1)])
    else:
        write_run(tmp_path, content=evaluation())
    page = read_page(report.write_report(tmp_path))
    assert page.count("img") == 1
    assert page.count("table") == (part == "evaluation")
    assert (tmp_path / "training.png").exists() == (part == "metrics")
    assert "Sample dialogues" not in page.text


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(report.ReportError, match=rf"{re.escape(str(tmp_path))}.*metrics\.jsonl.*eval\.json"):
        report.write_report(tmp_path)


def test_text_of_models_stays_text(tmp_path: Path) -> None:
    hostile = dialogue(attempt(answer=HOSTILE), text=HOSTILE)
    hostile.update(question=HOSTILE, gold=HOSTILE)
    harmless = read_page(
        report.write_report(write_run(tmp_path, content=evaluation(model("one", [0.4, 0.5], [dialogue(attempt())]))))
    )
    page = read_page(
        report.write_report(write_run(tmp_path, content=evaluation(model(HOSTILE, [0.4, 0.5], [hostile]))))
    )
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in harmless.elements]
    embedded = json.loads(page.json)
    assert embedded["models"] == [HOSTILE]
    shown = embedded["dialogues"][0]
    assert [shown["question"], shown["gold"]] == [HOSTILE, HOSTILE]
    assert [shown["attempts"][0]["content"], shown["attempts"][0]["answer"]] == [HOSTILE, HOSTILE]
    assert "innerHTML" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_dialogues_are_sorted_into_kinds(tmp_path: Path) -> None:
    right = attempt(correct=True, answer="6")
    before = [
        dialogue(right, stop="correct"),
        dialogue(attempt(), attempt(repeated=True), right, stop="correct"),
        dialogue(attempt(answer=None, truncated=True, well_formed=False), stop="truncated"),
        dialogue(attempt(), stop="truncated"),
    ]
    unfinished = dialogue(attempt(), attempt(), stop="aborted")
    unfinished["attempts"].pop()
    content = evaluation(model("before", [0.4, 0.5], before), model("after", [0.5, 0.6], [unfinished]))
    embedded = json.loads(read_page(report.write_report(write_run(tmp_path, content=content))).json)["dialogues"]
    # The dialogues of both models about the first question come first.
    assert [entry["model"] for entry in embedded] == [0, 1, 0, 0, 0]
    assert [entry["kinds"] for entry in embedded] == [
        ["first"],
        ["never"],
        ["later", "repeated"],
        ["never", "truncated"],
        ["never", "truncated"],
    ]
    assert [entry["verdicts"] for entry in embedded[2]["attempts"]] == [["wrong"], ["wrong", "repeated"], ["right"]]
    assert embedded[3]["attempts"][0]["verdicts"] == ["wrong", "truncated", "not in the format"]
    assert [entry["verdicts"] for entry in embedded[1]["attempts"]] == [["wrong"], ["not graded"]]
    assert embedded[0]["attempts"][0]["told"] == [{"role": "user", "content": "Try."}]


def test_steps_are_ordered_and_the_last_of_a_step_counts(tmp_path: Path) -> None:
    validation = {"step": 0, "val-core/accuracy": 0.3}
    rows = [validation, training_step(2, 0.2), training_step(3, 0.3), training_step(1, 0.1), training_step(3, 0.9)]
    metrics = report.read_metrics(write_run(tmp_path, rows) / "metrics.jsonl")
    assert [(row["step"], row["critic/score/mean"]) for row in metrics] == [(1, 0.1), (2, 0.2), (3, 0.9)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"step": 2, "critic', "line 3: not JSON"),
        ("[1]", r"line 3: the content is \[1\], expected an object"),
        ('{"critic/score/mean": 1}', "line 3: the field 'step' is missing"),
        ('{"step": 2, "critic/score/mean": 1}', "line 3: the field 'multi_attempt/success' is missing"),
        (json.dumps(training_step(2) | {"critic/score/mean": "a"}), "line 3: the field 'critic/score/mean' is 'a'"),
    ],
)
def test_bad_metrics_are_located(tmp_path: Path, line: str, message: str) -> None:
    path = write_run(tmp_path, [training_step(1)]) / "metrics.jsonl"
    path.write_text(path.read_text() + "\n" + line + "\n")
    with pytest.raises(report.ReportError, match=rf"metrics\.jsonl, {message}"):
        report.write_report(tmp_path)


def test_metrics_without_training(tmp_path: Path) -> None:
    write_run(tmp_path, [{"step": 0, "val-core/accuracy": 0.3}])
    with pytest.raises(report.ReportError, match="no training step"):
        report.write_report(tmp_path)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("protocol",), None, "'protocol' is missing"),
        (("questions",), "many", "'questions' is 'many', expected a whole number"),
        (("attempts",), [5, 1], r"'attempts' is \[5, 1\]"),
        (("models",), [], "'models' is empty"),
        (("models", 1, "low"), None, r"'models\[1\]\.low' is missing"),
        (("models", 1, "low"), [0.1], r"'models\[1\]\.low' has 1 values for 2"),
        (("models", 1, "low"), [0.1, "b"], r"'models\[1\]\.low\[1\]' is 'b', expected a number"),
        (("models", 1, "high"), [62.5, 93.0], r"'models\[1\]\.high' .* expected shares"),
        (("models", 0, "dialogues", 0, "gold"), None, r"'models\[0\]\.dialogues\[0\]\.gold' is missing"),
        (("models", 0, "dialogues", 0, "stop"), "won", r"dialogues\[0\]\.stop' is 'won'"),
        (("models", 0, "dialogues", 0, "messages"), [], r"attempts' has 1 entries for 0 assistant messages"),
        (("models", 0, "dialogues", 0, "attempts", 0, "correct"), 1, r"attempts\[0\]\.correct' is 1, expected true"),
        (("models", 0, "dialogues", 0, "attempts", 0, "answer"), None, r"attempts\[0\]\.answer' is missing"),
    ],
)
def test_bad_evaluation_is_located(tmp_path: Path, place: tuple[Any, ...], value: Any, message: str) -> None:
    content = evaluation(model("before", [0.4, 0.6], [dialogue(attempt())]), model("after", [0.5, 0.9]))
    target: Any = content
    for key in place[:-1]:
        target = target[key]
    if value is None:
        del target[place[-1]]
    else:
        target[place[-1]] = value
    write_run(tmp_path, content=content)
    with pytest.raises(report.ReportError, match=rf"eval\.json: .*{message}"):
        report.write_report(tmp_path)


def test_evaluation_that_is_not_json(tmp_path: Path) -> None:
    (tmp_path / "eval.json").write_text('{"protocol": "oracle",\n"data": }')
    with pytest.raises(report.ReportError, match=r"eval\.json, line 2: not JSON"):
        report.write_report(tmp_path)


def test_figures_of_odd_runs_leave_matplotlib_alone(tmp_path: Path) -> None:
    settings = dict(matplotlib.rcParams)
    plots.training_curves([training_step(1, None)], tmp_path / "one_step.png")
    many = [model(f"a model with a long name, number {number}$", [0.5]) for number in range(5)]
    plots.accuracy_by_attempts(evaluation(*many, attempts=[3]), tmp_path / "one_budget.png")
    assert dict(matplotlib.rcParams) == settings
    assert (tmp_path / "one_step.png").stat().st_size > 1000
    assert (tmp_path / "one_budget.png").stat().st_size > 1000


def test_labels_are_moved_apart_within_the_axes() -> None:
    heights = plots._spread([0.97, 0.95, 0.2], least=0.1)
    assert heights == pytest.approx([1.0, 0.9, 0.2])
