"""The report of runs: what it says, what it refuses, and that no text of a model is read as HTML."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from report_files import (
    HOSTILE,
    PAPER_ARCHITECTURE,
    RIGHT,
    WRONG,
    attempt,
    episode,
    evaluation,
    figures,
    model,
    paper_evaluation,
    put,
    training_step,
    write_run,
)

from multi_attempt.cli import main
from multi_attempt.data import evaluation_source
from multi_attempt.evaluation import plots, report, tables
from multi_attempt.evaluation.comparison import compare
from multi_attempt.evaluation.dialogues import outcomes, page_dialogues
from multi_attempt.evaluation.paper import paper_curves, paper_differences
from multi_attempt.evaluation.run_files import read_episodes, read_run
from multi_attempt.model_settings import DialogueSettings
from multi_attempt.prompts import load_prompt_set


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


# What is said.


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
    unmeasured = evaluation(model("before", [None, 0.5]), model("after", [0.5, 0.6]))
    assert report.headline([], unmeasured)[1].endswith("not measured -> +10.0")
    rewards = [None, 0.1, float("nan"), 0.2, 0.3]
    metrics = [{"step": step, "critic/score/mean": reward} for step, reward in enumerate(rewards)]
    assert report.headline(metrics, None) == ["Reward: first step 0.10 -> last step 0.30"]
    assert report.headline(metrics[:2], None) == ["Reward: 0.10 (one step)"]


def test_headline_of_many_is_the_mean_of_benchmarks() -> None:
    entries = [model(name, [share, share + 0.1], ("a", "b")) for name, share in (("x", 0.1), ("y", 0.2), ("z", 0.3))]
    entries[1]["results"]["oracle"]["macro"] = figures([0.45, 0.5])
    sentences = report.headline([], evaluation(*entries, benchmarks={"a": 3, "b": 4}))
    assert sentences[1] == "y: accuracy, mean of benchmarks, 45.0% with 1 attempt, 50.0% with 5 (+5.0 points)"


def test_whole_report(tmp_path: Path) -> None:
    content = evaluation()
    content["models"][0]["results"]["oracle"]["benchmarks"]["toy"]["failed"] = 3
    run = write_run(tmp_path, [training_step(step, step / 20) for step in range(1, 21)], content, [episode(WRONG)])
    path = report.write_report(run)
    assert path == run / "report.html"
    for name in ("training", "accuracy_by_attempts"):
        assert (run / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (run / f"{name}.svg").read_text()
    # There is one benchmark and one protocol: nothing to compare them with.
    assert not (run / "accuracy_by_benchmark.png").exists()
    assert not (run / "protocols.png").exists()
    page = read_page(path)
    for text in ("40.1% → 62.5%", "[56.3, 66.3]", "What the model is told under oracle.", "greedy decoding"):
        assert text in page.text
    for text in (page.text, (run / "table.md").read_text(), (run / "table.tex").read_text()):
        assert "before: questions that failed, from all of them wrong to all of them right: 3 of 256 in toy." in text
    assert "/private/place" not in path.read_text(encoding="utf-8")


def test_what_the_models_were_asked_with_is_shown_and_told_apart_by_run(tmp_path: Path) -> None:
    asked = DialogueSettings(load_prompt_set("toy"), max_response_length=384)
    one = write_run(tmp_path / "one", content=evaluation(settings=asked.to_dict()))
    assert "greedy decoding, prompt set toy, at most 384 tokens a dialogue." in read_page(report.write_report(one)).text
    other = replace(asked, max_response_length=None, template_kwargs={"enable_thinking": False})
    two = write_run(tmp_path / "two", content=evaluation(settings=other.to_dict()))
    page = read_page(report.write_report(one, two, output=tmp_path / "both"))
    assert (
        "one: greedy decoding, prompt set toy, at most 384 tokens a dialogue; two: greedy decoding, prompt set toy, as "
        "many tokens as the context holds, enable_thinking=false."
    ) in page.text


def test_settings_that_are_none_are_named_with_their_place(tmp_path: Path) -> None:
    run = write_run(tmp_path, content=evaluation(settings={"prompts": "toy"}))
    with pytest.raises(report.ReportError, match=r"eval.json: the field 'settings' is .*prompts = 'toy' is of another"):
        report.write_report(run)


def test_figures_of_benchmarks_and_protocols(tmp_path: Path) -> None:
    content = paper_evaluation()
    page = read_page(report.write_report(write_run(tmp_path / "run", content=content), output=tmp_path / "report"))
    assert page.count("img") == 3
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        *(
            f"{name}.{kind}"
            for name in ("accuracy_by_attempts", "accuracy_by_benchmark", "protocols")
            for kind in ("png", "svg")
        ),
        *("table.md", "table.tex", "report.html"),
    }
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["eval.json"]


def test_page_refers_to_nothing_outside_itself(tmp_path: Path) -> None:
    run = write_run(tmp_path, [training_step(1)], evaluation(), [episode(WRONG)])
    path = report.write_report(run)
    images = [attributes["src"] for tag, attributes in read_page(path).elements if tag == "img"]
    assert len(images) == 2
    assert all(source and source.startswith("data:image/svg+xml;base64,") for source in images)
    assert not re.search(r"https?://|href=|@import|url\(", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("part", ["metrics", "evaluation"])
def test_missing_file_is_left_out(tmp_path: Path, part: str) -> None:
    if part == "metrics":
        write_run(tmp_path, metrics=[training_step(1)])
    else:
        write_run(tmp_path, content=evaluation())
    page = read_page(report.write_report(tmp_path))
    assert page.count("img") == 1
    assert bool(page.count("table")) == (part == "evaluation")
    assert (tmp_path / "training.png").exists() == (part == "metrics")
    assert (tmp_path / "table.md").exists() == (part == "evaluation")
    assert page.json == ""


# Tables.


def test_tables_have_figures_differences_and_measures() -> None:
    before = model("before", [0.4, 0.6], ("a", "b"))
    after = model("after", [0.5, None], ("a", "b"))
    section = tables.protocol_tables(evaluation(before, after, benchmarks={"a": 10, "b": 20}))[0]
    accuracy, difference, measures = section.tables
    assert [group.label for group in accuracy.groups] == [
        *("mean of benchmarks", "a, 10 questions", "b, 20 questions", "all questions together"),
    ]
    assert accuracy.groups[0].rows[0] == ("before", [("40.0", "[35.0, 45.0]"), ("60.0", "[55.0, 65.0]")])
    assert accuracy.groups[0].rows[1].cells[1] == ("-", "")
    assert [row.label for row in difference.groups[0].rows] == ["after"]
    assert [cell.value for cell in difference.groups[0].rows[0].cells] == ["+10.0", "-"]
    found = {group.label: group.rows[0].cells for group in measures.groups}
    assert found["right after a wrong attempt, %"] == [("-", ""), ("25.0", "")]
    assert found["tokens generated for a question"] == [("123.5", "")] * 2


def test_what_failed_is_a_range_in_every_cell_and_sentence(tmp_path: Path) -> None:
    content = evaluation()
    results = content["models"][1]["results"]["oracle"]
    results["macro"] = results["weighted"] = results["benchmarks"]["toy"] = figures([0.4, 0.6], failed=12, width=0.2)
    content["models"][1]["scores"]["oracle"]["toy"] = {
        f"q{number}": [float(number < 4), 1.0 if number < 6 else None] for number in range(10)
    }
    section = tables.protocol_tables(content)[0]
    accuracy, difference, measures = section.tables
    assert accuracy.groups[0].rows[1].cells == [("40.0", "[20.0, 60.0]"), ("60.0 to 100.0", "[40.0, 100.0] 12 failed")]
    assert accuracy.note.endswith("Where questions failed, from all of them wrong to all of them right.")
    # The first model solves 6 of the ten with 5 attempts, and no question of its fails.
    assert difference.groups[0].rows[0].cells[1].value == "+0.0 to +40.0"
    assert difference.groups[0].rows[0].cells[1].interval.endswith(" 4 failed")
    assert measures.groups[0].rows[1].cells == [("40.0", ""), ("40.0", "12 failed")]
    assert measures.groups[0].rows[0].cells[1].interval == ""
    assert r"$60.0$ to $100.0$ {\scriptsize $[40.0, 100.0]$ 12 failed}" in tables.latex([section])
    assert "60.0 to 100.0 [40.0, 100.0] 12 failed" in tables.markdown([section])
    sentences = report.headline([], content)
    assert sentences[0] == "Accuracy with 1 attempt: 40.1% -> 40.0%; with 5: 61.3% -> 60.0% to 100.0%"
    assert sentences[1].endswith("instead of 1: +21.2 -> +20.0 to +60.0")
    drawn = " ".join(drawn_text(plots.accuracy_by_attempts(content)).split())
    assert "60% to 100%" in drawn
    assert "bars: to where all that failed were right" in drawn
    assert "bars:" not in drawn_text(plots.accuracy_by_attempts(evaluation()))
    page = read_page(report.write_report(write_run(tmp_path, content=content)))
    assert "left out, never counted" not in page.text


def test_figures_of_an_earlier_version_say_that_they_leave_out_what_failed(tmp_path: Path) -> None:
    content = evaluation()
    for entry in content["models"]:
        for found in (*entry["results"]["oracle"]["benchmarks"].values(), entry["results"]["oracle"]["macro"]):
            found.pop("accuracy_at_most", None)
            found.pop("failed_by_attempts", None)
    content["models"][0]["results"]["oracle"]["benchmarks"]["toy"]["failed"] = 3
    report.write_report(write_run(tmp_path, content=content))
    assert "questions that failed, left out and not counted as wrong: 3 of 256" in (tmp_path / "table.md").read_text()


def test_markdown_shows_text_as_it_is() -> None:
    name = "a|b *c* <i>\n`d`"
    text = tables.markdown(tables.protocol_tables(evaluation(model(name, [0.4, 0.6]), model("x", [0.4, 0.4]))))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert any(r"a\|b \*c\* \<i\> \`d\`" in row for row in rows)
    # As many cells in each row of a table: label, model, and a figure for each number of attempts.
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {5}
    assert "-0.0" not in text


def test_latex_shows_text_as_it_is() -> None:
    name = r"50% & a_b {c} \input{/etc/x} $y$ #1 ~ ^ [z] --"
    text = tables.latex(tables.protocol_tables(evaluation(model(name, [0.4, 0.6]), model("[b]", [0.4, 0.5]))))
    assert r"50\% \& a\_b \{c\} \textbackslash{}input\{/etc/x\} \$y\$ \#1" in text
    assert r"\textasciitilde{} \textasciicircum{} {[}z{]} -{}-" in text
    assert r"\quad {[}b{]} & $40.0$ {\scriptsize $[35.0, 45.0]$} & $50.0$" in text
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 3
    plain = re.sub(r"\\[{}]", "", text)
    assert plain.count("{") == plain.count("}")
    for row in re.findall(r"^(?:attempts|\\quad).*$", text, re.MULTILINE):
        assert len(re.findall(r"(?<!\\)&", row)) == 2
        assert row.endswith(r"\\")


# The paper's figures.


def test_paper_is_the_reference_of_what_is_like_it() -> None:
    content = paper_evaluation()
    curves = paper_curves(content, "oracle")
    assert curves["paper, multi-attempt"] == pytest.approx([0.456, 0.525, 0.517, 0.538, 0.516, 0.520, 0.524])
    assert curves["paper, baseline"][0] == pytest.approx(0.423)
    assert paper_curves({**content, "attempts": [2, 9]}, "oracle")["paper, baseline"] == [pytest.approx(0.432), None]
    rows = tables.protocol_tables(content)[0].tables[0].groups[0].rows
    assert [row.label for row in rows[-2:]] == ["paper, multi-attempt", "paper, baseline"]
    assert [cell.value for cell in rows[-2].cells][:2] == ["45.6", "52.5"]


def asked_otherwise(content: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {**content, "settings": {**content["settings"], **settings}}


def with_questions(content: dict[str, Any], name: str, questions: int) -> dict[str, Any]:
    return {**content, "benchmarks": [{"name": name, "questions": questions}, *content["benchmarks"][1:]]}


def of_model(content: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**content, "models": [content["models"][0], {**content["models"][1], **changes}]}


LIKE_THE_PAPERS: list[Callable[[dict[str, Any]], dict[str, Any]]] = [
    lambda content: content,
    lambda content: {**content, "attempts": [1, 2, 3]},
    lambda content: of_model(content, context=4096),
    lambda content: asked_otherwise(content, max_response_length=4096),
    # An edition of OlympiadBench has a question less.
    lambda content: {
        **content,
        "benchmarks": [*content["benchmarks"][:-1], {"name": "olympiadbench", "questions": 674}],
    },
]
OTHERS: list[tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = [
    (
        lambda content: {**content, "benchmarks": content["benchmarks"][:2]},
        "the benchmarks are aime24, amc23, not aime24, amc23, math500, minerva_math, olympiadbench",
    ),
    (lambda content: with_questions(content, "aime24", 20), "aime24 has 20 questions, not 30"),
    (
        lambda content: of_model(content, name="small", architecture={**PAPER_ARCHITECTURE, "hidden_size": 896}),
        "small is no Qwen2.5-Math-1.5B",
    ),
    (lambda content: of_model(content, name="served", architecture=None), "what kind of model served is, is not known"),
    (lambda content: of_model(content, name="cut", context=2048), "cut had a context of 2048 tokens, not 4096"),
    (lambda content: {**content, "temperature": 0.6}, "dialogues are sampled at temperature 0.6, not greedy"),
    (
        lambda content: asked_otherwise(content, max_response_length=3000),
        "a dialogue has at most 3000 tokens, not what the context leaves",
    ),
    (
        lambda content: asked_otherwise(content, max_tokens_per_attempt=512),
        "an attempt has at most 512 tokens, not what the context leaves",
    ),
    (lambda content: {**content, "settings": None}, "the limits of dialogues are not known"),
]


@pytest.mark.parametrize("change", LIKE_THE_PAPERS)
def test_paper_is_the_reference_of_what_is_as_good_as_like_it(
    change: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    content = change(paper_evaluation())
    assert paper_differences(content, "oracle") == []
    assert len(paper_curves(content, "oracle")) == 2


@pytest.mark.parametrize(("change", "words"), OTHERS, ids=[words for _, words in OTHERS])
def test_paper_is_no_reference_of_what_differs(change: Callable[[dict[str, Any]], dict[str, Any]], words: str) -> None:
    content = change(paper_evaluation())
    assert paper_differences(content, "oracle") == [words]
    assert paper_curves(content, "oracle") == {}
    assert "dotted" not in drawn_text(plots.accuracy_by_attempts(content))
    assert "paper" not in tables.markdown(tables.protocol_tables(content))


def drawn_text(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(Text))


def test_paper_is_no_reference_under_another_protocol() -> None:
    assert paper_differences(paper_evaluation(), "blind") == ["the protocol is blind, not oracle"]
    assert paper_curves(paper_evaluation(), "blind") == {}


def test_page_says_why_the_paper_is_left_out(tmp_path: Path) -> None:
    like = write_run(tmp_path / "like", content=paper_evaluation())
    assert "The paper's own curve is not drawn" not in read_page(report.write_report(like)).text
    other = write_run(tmp_path / "other", content={**paper_evaluation(), "temperature": 0.6})
    page = read_page(report.write_report(like, other, output=tmp_path / "both"))
    assert (
        "The paper's own curve is not drawn, since it is of another evaluation than this: dialogues are sampled at "
        "temperature 0.6, not greedy."
    ) in " ".join(page.text.split())


def test_the_context_that_a_model_had_is_read_from_what_was_asked(tmp_path: Path) -> None:
    run = write_run(tmp_path, content=paper_evaluation())
    names = [entry["name"] for entry in paper_evaluation()["models"]]
    (run / "run.json").write_text(json.dumps({"contexts": {names[0]: 4096, names[1]: 1024, names[2]: None}}))
    found = compare([read_run(run)]).evaluation
    assert found is not None
    assert paper_differences(found, "oracle") == [f"{names[1]} had a context of 1024 tokens, not 4096"]


# Several runs.


def test_runs_are_put_side_by_side(tmp_path: Path) -> None:
    steps = [training_step(step, step / 20) for step in range(1, 4)]
    one = write_run(tmp_path / "one", steps, evaluation(), [episode(WRONG), episode(RIGHT, model="after")])
    both = ("oracle", "blind")
    content = evaluation(model("before", [0.3, 0.4], protocols=both), model("baseline", [0.2, 0.3]), protocols=both)
    two = write_run(tmp_path / "two", steps, content, [episode(RIGHT)])
    page = read_page(report.write_report(one, two))
    assert (one / "report.html").exists()
    assert not (two / "report.html").exists()
    data = json.loads(page.json)
    assert data["models"] == ["one: before", "after", "two: before", "baseline"]
    shown = [(dialogue["model"], dialogue["outcomes"]) for dialogue in data["dialogues"]]
    assert shown == [("one: before", ["never"]), ("after", ["solved-1"]), ("two: before", ["solved-1"])]
    assert "two: before: accuracy 30.0% with 1 attempt, 40.0% with 5 (+10.0 points)" in page.text
    assert "one: Reward: first step 0.05 → last step 0.15" in page.text
    assert [
        section.protocol for section in tables.protocol_tables(compare([read_run(one), read_run(two)]).evaluation or {})
    ] == ["oracle", "blind"]


def test_runs_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / parent / "run", content=evaluation()) for parent in ("a", "b")]
    found = compare([read_run(folder) for folder in folders]).evaluation
    assert found is not None
    assert [entry["name"] for entry in found["models"]] == [
        *("run (1): before", "run (1): after", "run (2): before", "run (2): after")
    ]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (evaluation(model("m", [0.4]), attempts=[1]), r"'attempts' is \[1, 5\] in one but \[1\] in two"),
        (
            evaluation(model("m", [0.4, 0.5], ("amc23",)), benchmarks={"amc23": 40}),
            r"'benchmarks' is .*toy.* in one but",
        ),
    ],
)
def test_runs_that_cannot_be_compared(tmp_path: Path, other: dict[str, Any], message: str) -> None:
    runs = [write_run(tmp_path / "one", content=evaluation()), write_run(tmp_path / "two", content=other)]
    with pytest.raises(report.ReportError, match=message + ".*evaluate both alike"):
        report.write_report(*runs)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(write_run(tmp_path / name, content=evaluation())) for name in ("one", "two")]
    assert main(["report", *runs, "--output", str(tmp_path / "both")]) == 0
    assert capsys.readouterr().out == f"Report: {tmp_path / 'both' / 'report.html'}\n"
    assert main(["report", str(tmp_path)]) == 2
    assert "nothing to report" in capsys.readouterr().err


# Dialogues.


def test_text_of_models_stays_text(tmp_path: Path) -> None:
    hostile = episode(attempt(HOSTILE), text=HOSTILE, model=HOSTILE, question=HOSTILE, gold=HOSTILE, id=HOSTILE)
    harmless, attacked = (
        write_run(tmp_path / name, None, evaluation(model(name, [0.4, 0.5])), [made])
        for name, made in (("before", episode(WRONG)), (HOSTILE[:20].replace("/", ""), hostile))
    )
    write_run(attacked, content=evaluation(model(HOSTILE, [0.4, 0.5])))
    page = read_page(report.write_report(attacked))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in read_page(report.write_report(harmless)).elements]
    embedded = json.loads(page.json)
    assert embedded["models"] == [HOSTILE]
    about, shown = embedded["questions"][0], embedded["dialogues"][0]
    assert [about["question"], about["gold"], about["id"]] == [HOSTILE] * 3
    assert [shown["attempts"][0]["content"], shown["attempts"][0]["answer"]] == [f"{HOSTILE} {HOSTILE}.", HOSTILE]
    assert "innerHTML" not in (attacked / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (episode(RIGHT), ["solved-1"]),
        (episode(WRONG, attempt(repeated=True), RIGHT), ["solved-3", "repeated"]),
        (episode(WRONG, attempt(None, truncated=True)), ["never", "truncated"]),
        (episode(WRONG, stop="truncated"), ["never", "truncated"]),
        (episode(WRONG, error="TimeoutError"), ["failed"]),
        (episode(stop="aborted"), ["failed"]),
        # With no ground truth the last answer counts.
        (episode(RIGHT, WRONG, protocol="blind"), ["never"]),
        (episode(WRONG, RIGHT, WRONG, RIGHT, RIGHT, protocol="blind"), ["solved-4"]),
        (episode(RIGHT, RIGHT, protocol="blind"), ["solved-1"]),
    ],
)
def test_outcomes(made: dict[str, Any], expected: list[str]) -> None:
    assert outcomes(made) == expected


def embedded(run: Path, **limits: int) -> dict[str, Any]:
    found = read_run(run)
    return page_dialogues([found], compare([found]), **limits)


def test_dialogues_as_they_are_shown(tmp_path: Path) -> None:
    unfinished = episode(WRONG, WRONG, stop="aborted", error="cut off")
    unfinished["attempts"].pop()
    made = [
        episode(attempt(None, truncated=True, well_formed=False, repeated=True), model="after", id="q2"),
        unfinished,
        episode(WRONG, RIGHT, model="after", id="q10"),
        episode(WRONG, RIGHT, id="q2"),
    ]
    data = embedded(write_run(tmp_path, None, evaluation(), made))
    about = [data["questions"][dialogue["question"]]["id"] for dialogue in data["dialogues"]]
    assert list(zip(about, (dialogue["model"] for dialogue in data["dialogues"]), strict=True)) == [
        *(("q0", "before"), ("q2", "before"), ("q2", "after"), ("q10", "after")),
    ]
    verdicts = [[one["verdicts"] for one in dialogue["attempts"]] for dialogue in data["dialogues"]]
    assert verdicts[:3] == [
        *([["wrong"], ["not graded"]], [["wrong"], ["right"]]),
        [["wrong", "repeated", "truncated", "not in the format"]],
    ]
    # What the model was told is kept once.
    assert sorted(data["texts"]) == ["That was wrong. Try again.", "What is 2 times 3?"]
    role, text = data["dialogues"][1]["attempts"][1]["told"][0]
    assert (role, data["texts"][text]) == ("user", "That was wrong. Try again.")


def test_dialogues_that_do_not_fit_are_left_out_by_question(tmp_path: Path) -> None:
    made = [
        episode(RIGHT, model=name, benchmark=benchmark, id=f"q{number}", text="word " * 100)
        for name in ("before", "after")
        for benchmark, count in (("large", 30), ("small", 4))
        for number in range(count)
    ]
    content = evaluation(
        *(model(name, [0.4, 0.5], ("large", "small")) for name in ("before", "after")),
        benchmarks={"large": 30, "small": 4},
    )
    run = write_run(tmp_path, None, content, made)
    data = embedded(run, limit=15_000)
    assert (data["total"], data["all_questions"]) == (68, 34)
    chosen = [question["benchmark"] for question in data["questions"]]
    assert 4 < len(chosen) < 14
    # One of each benchmark in turn; with each question all that is about it.
    assert abs(chosen.count("large") - chosen.count("small")) <= 1
    assert len(data["dialogues"]) == 2 * len(chosen)
    assert len(json.dumps(data)) < 16_000
    assert data["questions"] == embedded(write_run(tmp_path, None, content, made[::-1]), limit=15_000)["questions"]
    assert len(embedded(run)["dialogues"]) == 68


def test_page_says_how_many_dialogues_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [episode(WRONG, id=f"q{number}", text="word " * 100) for number in range(10)]
    run = write_run(tmp_path, None, evaluation(), made)
    assert "10 of 10 dialogues are on this page." in " ".join(read_page(report.write_report(run)).text.split())

    monkeypatch.setattr(report, "page_dialogues", lambda runs, comparison: page_dialogues(runs, comparison, 3_000))
    text = " ".join(read_page(report.write_report(run)).text.split())
    assert re.search(r"[34] of 10 dialogues are on this page: all about [34] of 10 questions", text)


# Files.


def test_steps_are_ordered_and_the_last_of_a_step_counts(tmp_path: Path) -> None:
    validation = {"step": 0, "val-core/accuracy": 0.3}
    rows = [validation, training_step(2, 0.2), training_step(3, 0.3), training_step(1, 0.1), training_step(3, 0.9)]
    metrics = report.read_metrics(write_run(tmp_path, rows) / "metrics.jsonl")
    assert [(row["step"], row["critic/score/mean"]) for row in metrics] == [(1, 0.1), (2, 0.2), (3, 0.9)]


def test_verls_own_log_is_read_as_it_is(tmp_path: Path) -> None:
    rows = [{"step": row["step"], "data": row} for row in (training_step(1, 0.1), training_step(2, 0.2))]
    (tmp_path / "verl").mkdir()
    logged = report.read_metrics(write_run(tmp_path / "verl", rows) / "metrics.jsonl")
    assert logged == report.read_metrics(
        write_run(tmp_path, [training_step(1, 0.1), training_step(2, 0.2)]) / "metrics.jsonl"
    )
    del rows[1]["data"]["multi_attempt/success"]
    with pytest.raises(report.ReportError, match=r"line 2: the field 'data.multi_attempt/success' is missing"):
        report.read_metrics(write_run(tmp_path / "verl", rows) / "metrics.jsonl")


def logged_benchmark(step: int, accuracy: float, benchmark: str = "aime24") -> dict[str, Any]:
    """As verl's file logger writes a step that was validated on a benchmark, beside a validation set."""
    sets = {evaluation_source(benchmark, 1): accuracy, "math_1_attempts": 0.9}
    validation = {f"val-core/{name}/acc/mean@1": value for name, value in sets.items()}
    return {"step": step, "data": {**validation, "val-aux/test/aime24_1_attempts/repeat_rate/mean@1": 0.7}}


def test_benchmarks_that_were_validated_on_are_drawn_over_the_steps(tmp_path: Path) -> None:
    steps = [{"step": step, "data": training_step(step, step / 20)} for step in (1, 2, 3)]
    steps[1]["data"] |= logged_benchmark(2, 0.2)["data"]
    run = write_run(tmp_path, [logged_benchmark(0, 0.1), *steps, logged_benchmark(2, 0.3)])
    assert read_run(run).benchmarks == [
        {"step": 0, "test/aime24_1_attempts": 0.1},
        {"step": 2, "test/aime24_1_attempts": 0.3},
    ]
    page = read_page(report.write_report(run))
    assert (run / "benchmarks_over_steps.png").read_bytes().startswith(b"\x89PNG")
    assert [attributes["alt"] for tag, attributes in page.elements if tag == "img"][1] == (
        "Accuracy on benchmarks over the training steps, by the attempts allowed"
    )


def test_runs_that_share_no_benchmark_have_no_figure_of_any(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / name, [training_step(1), logged_benchmark(1, 0.2, name)]) for name in ("aime24", "amc23")
    ]
    assert read_page(report.write_report(*runs, output=tmp_path / "both")).count("img") == 1


def test_last_line_of_an_episode_counts_and_half_of_one_does_not(tmp_path: Path) -> None:
    made = [episode(WRONG, error="lost"), episode(WRONG, id="q1"), episode(RIGHT)]
    path = write_run(tmp_path, episodes=made) / "episodes.jsonl"
    half = json.dumps(episode(RIGHT, id="q2", question="ä"), ensure_ascii=False).encode()
    path.write_bytes(path.read_bytes() + half[: half.index("ä".encode()) + 1])
    found = read_episodes(path)
    assert [key.id for key in found.places] == ["q1", "q0"]
    assert [found.read(key)["stop"] for key in found.places] == ["exhausted", "correct"]


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(report.ReportError, match=rf"{re.escape(str(tmp_path))}.*metrics\.jsonl.*eval\.json"):
        report.write_report(tmp_path)


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


def test_a_last_line_of_metrics_that_was_half_written_is_left_out(tmp_path: Path) -> None:
    path = write_run(tmp_path, [training_step(1, 0.5)]) / "metrics.jsonl"
    whole = path.read_bytes()
    half = json.dumps(training_step(2) | {"x": "\u00e4"}, ensure_ascii=False).encode()
    for length in (1, 30, half.index(b"\xc3") + 1, len(half) - 1):
        path.write_bytes(whole + half[:length])
        assert [row["step"] for row in report.read_metrics(path)] == [1]
        report.write_report(tmp_path)
    path.write_bytes(whole + half)  # only its newline is missing
    assert [row["step"] for row in report.read_metrics(path)] == [1, 2]


def test_metrics_without_training(tmp_path: Path) -> None:
    write_run(tmp_path, [{"step": 0, "val-core/accuracy": 0.3}])
    with pytest.raises(report.ReportError, match="no training step"):
        report.write_report(tmp_path)


def broken(content: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """With another value at this place, or without it where that is None."""
    changed: dict[str, Any] = put(content, place, value, gone=None)
    return changed


RESULTS = ("models", 1, "results", "oracle")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("protocols",), None, "'protocols' is missing"),
        (("protocols",), {}, "'protocols' is {}, expected at least one"),
        (("benchmarks", 0, "questions"), "many", r"'benchmarks\[0\]\.questions' is 'many', expected a whole number"),
        (("attempts",), [5, 1], r"'attempts' is \[5, 1\]"),
        (("samples",), True, "'samples' is True, expected a whole number"),
        (("models",), [], r"'models' is \[\]"),
        (("models", 0, "name"), "after", "'models' is .*different names"),
        (("models", 1, "architecture"), 3, r"'models\[1\]\.architecture' is 3, expected an object"),
        (("models", 1, "results"), {"guess": {}}, r"'models\[1\]\.results\.guess' .* expected results of 'protocols'"),
        ((*RESULTS, "macro", "low"), None, r"'models\[1\]\.results\.oracle\.macro\.low' is missing"),
        ((*RESULTS, "macro", "low"), [0.1], r"oracle\.macro\.low' has 1 values for 2 'attempts'"),
        ((*RESULTS, "macro", "low"), [0.1, "b"], r"macro\.low\[1\]' is 'b', expected a number"),
        ((*RESULTS, "weighted", "high"), [0.5, 93.0], r"weighted\.high\[1\]' is 93\.0, expected a share"),
        ((*RESULTS, "benchmarks"), {"other": {}}, r"oracle\.benchmarks' .* expected an entry for each of 'benchmarks'"),
        ((*RESULTS, "macro", "measures"), {"x": [1, -1]}, r"measures\.x\[1\]' is -1, expected a number from 0"),
        (("models", 0, "scores", "oracle", "toy", "q3"), [1], r"scores\.oracle\.toy\.q3' has 1 values for 2"),
    ],
)
def test_bad_evaluation_is_located(tmp_path: Path, place: tuple[Any, ...], value: Any, message: str) -> None:
    write_run(tmp_path, content=broken(evaluation(), place, value))
    with pytest.raises(report.ReportError, match=rf"eval\.json: .*{message}"):
        report.write_report(tmp_path)


def test_evaluation_that_is_not_json(tmp_path: Path) -> None:
    (tmp_path / "eval.json").write_text('{"attempts": [1],\n"models": }')
    with pytest.raises(report.ReportError, match=r"eval\.json, line 2: not JSON"):
        report.write_report(tmp_path)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("gold",), None, "'gold' is missing"),
        (("stop",), "won", "'stop' is 'won', expected one of"),
        (("messages",), [], r"'attempts' is .* expected at most an entry for each of the 0 assistant messages"),
        (("messages", 0, "content"), 3, r"'messages\[0\]\.content' is 3, expected a text"),
        (("attempts", 0, "correct"), 1, r"'attempts\[0\]\.correct' is 1, expected true or false"),
        (("attempts", 0, "answer"), None, r"'attempts\[0\]\.answer' is missing"),
        (("budget",), "3", "'budget' is '3', expected a whole number"),
    ],
)
def test_bad_episodes_are_located(tmp_path: Path, place: tuple[Any, ...], value: Any, message: str) -> None:
    write_run(tmp_path, None, evaluation(), [episode(WRONG), broken(episode(WRONG), place, value)])
    with pytest.raises(report.ReportError, match=rf"episodes\.jsonl, line 2: the field {message}"):
        report.write_report(tmp_path)


def test_episodes_that_are_not_json(tmp_path: Path) -> None:
    path = write_run(tmp_path, None, evaluation(), [episode(WRONG)]) / "episodes.jsonl"
    path.write_text("{half\n" + path.read_text())
    with pytest.raises(report.ReportError, match=r"episodes\.jsonl, line 1: not JSON"):
        report.write_report(tmp_path)
