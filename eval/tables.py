"""The tables of an evaluation: accuracy, differences and measures, as Markdown and as LaTeX.

sections = protocol_tables(evaluation)
Path("table.tex").write_text(latex(sections))
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from multi_attempt.evaluation.paper import paper_curves
from multi_attempt.evaluation.statistics import MACRO, WEIGHTED, Interval, difference

MEASURES = {
    "first_attempt_accuracy": ("right at the first attempt, %", 100),
    "wrong_to_right": ("right after a wrong attempt, %", 100),
    "wrong_to_same": ("the same wrong answer after a wrong attempt, %", 100),
    "wrong_to_other": ("another wrong answer after a wrong attempt, %", 100),
    "wrong_to_none": ("no answer after a wrong attempt, %", 100),
    "change_rate": ("changed, to right or wrong, after a wrong attempt, %", 100),
    "right_to_wrong": ("wrong after a right attempt, %", 100),
    "repeat_rate": ("attempts that repeat any earlier wrong answer, %", 100),
    "format_rate": ("attempts in the format asked for, %", 100),
    "truncation_rate": ("episodes cut by a length limit, %", 100),
    "attempts_used": ("attempts used", 1),
    "tokens_used": ("tokens generated for a question", 1),
    "tokens_per_solved": ("tokens generated for a solved question", 1),
}
"""The measures in words, and what their values are multiplied by."""

_NOTHING = "-"
"""Shown where nothing was measured."""


class Cell(NamedTuple):
    """A value, or a range of values; and its interval where it has one, with the number of questions that failed."""

    value: str
    interval: str = ""


class Row(NamedTuple):
    """A row: of a model, or of the paper."""

    label: str
    cells: list[Cell]


class Group(NamedTuple):
    """Rows that belong together: of one benchmark, or of one measure."""

    label: str
    rows: list[Row]


class Table(NamedTuple):
    """A table with a column for each number of attempts; ``heading`` says of what attempts."""

    title: str
    note: str
    columns: list[int]
    groups: list[Group]
    heading: str = "attempts allowed"


class ProtocolTables(NamedTuple):
    """What an evaluation found under one protocol.

    Attributes:
        protocol: its name.
        information: what the model is told under it, in a sentence.
        failed: sentences on the questions that failed.
        notes: further sentences.
        tables: accuracy first.
    """

    protocol: str
    information: str
    failed: list[str]
    notes: list[str]
    tables: list[Table]


def protocol_tables(evaluation: Mapping[str, Any]) -> list[ProtocolTables]:
    """The tables of an evaluation (the content of ``eval.json``), a section for each protocol."""
    sections = []
    for protocol, information in evaluation["protocols"].items():
        models = [model for model in evaluation["models"] if protocol in model["results"]]
        if not models:
            continue
        tables = [
            _accuracy(evaluation, protocol, models),
            *_differences(evaluation, protocol, models),
            *_measures(evaluation, protocol, models),
        ]
        failed, notes = list(_failed(evaluation, protocol, models)), list(_notes(protocol, models))
        sections.append(ProtocolTables(protocol, information, failed, notes, tables))
    sections += _told(evaluation)
    return sections


def markdown(sections: Sequence[ProtocolTables]) -> str:
    """The tables in GitHub's Markdown."""
    parts = ["# Evaluation\n"]
    for section in sections:
        parts.append(f"## {_markdown_text(section.protocol)}\n\n{_markdown_text(section.information)}\n")
        parts += [f"{_markdown_text(sentence)}\n" for sentence in (*section.failed, *section.notes)]
        for table in section.tables:
            parts.append(f"### {_markdown_text(table.title)}\n\n{table.note}\n\n{_markdown_table(table)}\n")
    return "\n".join(parts)


def latex(sections: Sequence[ProtocolTables]) -> str:
    """The tables in LaTeX, to be read in with ``\\input``."""
    parts = ["% Needs \\usepackage{booktabs} and \\usepackage{graphicx}.\n"]
    for section in sections:
        for table in section.tables:
            parts.append(_latex_table(section, table))
    return "\n".join(parts)


def benchmark_groups(evaluation: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The groups of benchmarks that figures are given of, each by key and in words; both means only of several."""
    benchmarks = [(one["name"], f"{one['name']}, {one['questions']} questions") for one in evaluation["benchmarks"]]
    if len(benchmarks) == 1:
        return benchmarks
    return [(MACRO, "mean of benchmarks"), *benchmarks, (WEIGHTED, "all questions together")]


def figures_of(model: Mapping[str, Any], protocol: str, group: str) -> dict[str, Any]:
    """A model's figures for a benchmark, or for one of the means over them."""
    results = model["results"][protocol]
    figures: dict[str, Any] = results[group] if group in (MACRO, WEIGHTED) else results["benchmarks"][group]
    return figures


def _accuracy(evaluation: Mapping[str, Any], protocol: str, models: Sequence[Mapping[str, Any]]) -> Table:
    groups = []
    for key, words in benchmark_groups(evaluation):
        rows = []
        for model in models:
            figures = figures_of(model, protocol, key)
            rows.append(Row(model["name"], _cells(interval_of(figures), _percent)))
        if key == MACRO:
            for name, values in paper_curves(evaluation, protocol).items():
                rows.append(Row(name, [Cell(_percent(value)) for value in values]))
        groups.append(Group(words, rows))
    note = f"Percent of questions, by the attempts allowed; in brackets the 95% interval.{_range_note(groups)}"
    return Table(f"Accuracy, {protocol}", note, evaluation["attempts"], groups)


def _differences(evaluation: Mapping[str, Any], protocol: str, models: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    first = models[0]
    scored = [model for model in models[1:] if protocol in model["scores"]]
    if not scored or protocol not in first["scores"]:
        return
    baseline = first["scores"][protocol]
    differences = {model["name"]: difference(model["scores"][protocol], baseline) for model in scored}
    groups = []
    for key, words in benchmark_groups(evaluation):
        rows = []
        for name, found in differences.items():
            if key in found:  # of a benchmark no question may have been asked both
                rows.append(Row(name, _cells(found[key], _points)))
        if rows:
            groups.append(Group(words, rows))
    note = f"Points of accuracy, over the questions of both; in brackets the paired 95% interval.{_range_note(groups)}"
    yield Table(f"Difference to {first['name']}, {protocol}", note, evaluation["attempts"], groups)


def _measures(evaluation: Mapping[str, Any], protocol: str, models: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    key = benchmark_groups(evaluation)[0][0]
    figures = {model["name"]: figures_of(model, protocol, key) for model in models}
    of = "Mean of benchmarks, by" if key == MACRO else "By"
    failed = {name: interval_of(found).failed for name, found in figures.items()}
    groups = _measure_groups({name: found["measures"] for name, found in figures.items()}, failed)
    if groups:
        note = f"{of} the attempts allowed.{_left_out_note(groups)}"
        yield Table(f"Measures, {protocol}", note, evaluation["attempts"], groups)
    most = evaluation["attempts"][-1]
    # Evaluations of earlier versions have none of these.
    by_attempt = {name: found.get("by_attempt", {}) for name, found in figures.items()}
    groups = _measure_groups(by_attempt, {name: [found[-1]] * most for name, found in failed.items()})
    if groups and most > 1:
        note = f"{of} the number of the attempt, of {most} allowed.{_left_out_note(groups)}"
        yield Table(f"Measures by attempt, {protocol}", note, list(range(1, most + 1)), groups, "number of the attempt")


def _told(evaluation: Mapping[str, Any]) -> Iterator[ProtocolTables]:
    """What being told is worth, beside each protocol that tells less; nothing where none was played."""
    models = [model for model in evaluation["models"] if model.get("told")]
    pairs = dict.fromkeys(
        (equal, other) for model in models for equal, found in model["told"].items() for other in found
    )
    tables = []
    for equal, other in pairs:
        groups = []
        for key, words in benchmark_groups(evaluation):
            rows: list[Row] = []
            for model in models:
                found = model["told"][equal].get(other)
                if found:
                    rows += _told_rows(
                        model["name"], found[key] if key in (MACRO, WEIGHTED) else found["benchmarks"][key]
                    )
            groups.append(Group(words, rows))
        note = (
            "Points of accuracy that oracle has more, over the questions of both; in brackets the paired 95% interval. "
            f"Below: percent of questions under {other}, with the attempts and the tokens that it took for one."
            f"{_range_note(groups)}"
        )
        tables.append(Table(f"Oracle beyond {other}, {equal}", note, evaluation["attempts"], groups))
    if tables:
        yield ProtocolTables("told or not", _TOLD_INFORMATION, [], [], tables)


_TOLD_INFORMATION = (
    "What being told is worth: oracle beside protocols that tell less. With as many attempts, each is scored as it "
    "is. For as many tokens, the ground truth ends the dialogues of blind, or fresh samples one after another, at the "
    "first right attempt, as it does in oracle, though the model is not told: what oracle has beyond that is not the "
    "worth of trying again. They have as many attempts as take oracle's tokens in the mean; where all that were made "
    "are fewer tokens, there is no figure."
)


def _told_rows(model: str, entry: Mapping[str, Any]) -> Iterator[Row]:
    names = ("difference", "difference_at_most", "low", "high", "failed_by_attempts")
    yield Row(model, _cells(Interval(*(entry[name] for name in names)), _points))
    columns = zip(entry["accuracy"], entry["attempts"], entry["tokens"], strict=True)
    yield Row(
        "of the other",
        [
            Cell(
                _percent(solved), "" if None in (attempts, tokens) else f"{attempts:.1f} attempts, {tokens:.0f} tokens"
            )
            for solved, attempts, tokens in columns
        ],
    )


def _measure_groups(
    measures: Mapping[str, Mapping[str, Sequence[float | None]]], failed: Mapping[str, Sequence[int]]
) -> list[Group]:
    """A group for each measure, with a row for each model that has it."""
    groups = []
    others = dict.fromkeys(name for found in measures.values() for name in found if name not in MEASURES)
    for name in [*MEASURES, *others]:  # those without words of ours are shown by their names
        words, factor = MEASURES.get(name, (name, 1))
        rows = [
            Row(
                model,
                [
                    Cell(_NOTHING if value is None else f"{factor * value:.1f}", _failed_in_words(lost))
                    for value, lost in zip(found[name], failed[model], strict=True)
                ],
            )
            for model, found in measures.items()
            if name in found
        ]
        if rows:
            groups.append(Group(words, rows))
    return groups


def _left_out_note(groups: Sequence[Group]) -> str:
    if not any(cell.interval for group in groups for row in group.rows for cell in row.cells):
        return ""
    return " Questions that failed are left out of a measure, in which those that did not may seem better."


def _failed(evaluation: Mapping[str, Any], protocol: str, models: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for model in models:
        found = model["results"][protocol]["benchmarks"]
        failed = [
            f"{found[benchmark['name']]['failed']} of {benchmark['questions']} in {benchmark['name']}"
            for benchmark in evaluation["benchmarks"]
            if found[benchmark["name"]]["failed"]
        ]
        if failed:
            ranged = all("accuracy_at_most" in found[benchmark["name"]] for benchmark in evaluation["benchmarks"])
            how = "from all of them wrong to all of them right" if ranged else "left out and not counted as wrong"
            yield f"{model['name']}: questions that failed, {how}: {', '.join(failed)}."


def _notes(protocol: str, models: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if protocol != "shuffled":
        return
    for model in models:
        told = model.get("shuffled")
        if told is None:  # an arm of several seeds
            continue
        if not told["others"]:
            yield (
                f"{model['name']}: none of {told['messages']} messages reads otherwise than its own attempts make it, "
                "so that shuffled is oracle here. Feedback that says no more than that an attempt was wrong, and how "
                "many are left, has nothing that could be shuffled."
            )
            continue
        words = f"{told['others']} of {told['messages']} messages read otherwise than its own attempts make them"
        if told["short"]:
            words += (
                f"; {told['short']} of {told['dialogues']} dialogues got more messages than the other question had "
                "wrong attempts, and the last ones told of all of these again"
            )
        if told["own"]:
            words += f"; {told['own']} had no other question with a wrong attempt, and were told of their own"
        yield f"{model['name']}: {words}."


def interval_of(figures: Mapping[str, Any]) -> Interval:
    """Accuracy with its interval, of figures that may be of an earlier version: it had no ranges."""
    accuracy = figures["accuracy"]
    return Interval(
        accuracy,
        figures.get("accuracy_at_most", accuracy),
        figures["low"],
        figures["high"],
        figures.get("failed_by_attempts", [0] * len(accuracy)),
    )


def in_range(value: float | None, most: float | None, form: Callable[[float | None], str]) -> str:
    """A value in words, or the range that it is in."""
    return form(value) if value == most else f"{form(value)} to {form(most)}"


def _cells(interval: Interval, form: Callable[[float | None], str]) -> list[Cell]:
    return [
        Cell(
            in_range(value, most, form),
            " ".join(
                words
                for words in (
                    f"[{form(low)}, {form(high)}]" if low is not None and high is not None else "",
                    _failed_in_words(failed),
                )
                if words
            ),
        )
        for value, most, low, high, failed in zip(*interval, strict=True)
    ]


def _failed_in_words(failed: int) -> str:
    return f"{failed} failed" if failed else ""


def _range_note(groups: Sequence[Group]) -> str:
    ranged = any(" failed" in cell.interval for group in groups for row in group.rows for cell in row.cells)
    return " Where questions failed, from all of them wrong to all of them right." if ranged else ""


def _percent(share: float | None) -> str:
    return _NOTHING if share is None else f"{100 * share:.1f}"


def _points(share: float | None) -> str:
    # No minus before a zero: -0.04 points are 0.0.
    return _NOTHING if share is None else f"{math.copysign(round(100 * abs(share), 1), share) + 0.0:+.1f}"


def _markdown_table(table: Table) -> str:
    rows = [["", table.heading, *map(str, table.columns)]]
    for group in table.groups:
        for index, row in enumerate(group.rows):
            cells = [f"{cell.value} {cell.interval}".strip() for cell in row.cells]
            rows.append([_markdown_text(group.label) if index == 0 else "", _markdown_text(row.label), *cells])
    # Words to the left, figures to the right.
    columns = [
        [cell.ljust(width) if index < 2 else cell.rjust(width) for cell in column]
        for index, (column, width) in enumerate((column, max(map(len, column))) for column in zip(*rows, strict=True))
    ]
    lines = [f"| {' | '.join(line)} |" for line in zip(*columns, strict=True)]
    rule = [f"{'-' * len(column[0])}{' ' if index < 2 else ':'}" for index, column in enumerate(columns)]
    return "\n".join([lines[0], f"| {'| '.join(rule)}|", *lines[1:]])


def _markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, on one line; an underscore within a word is shown as it is anyway."""
    return re.sub(r"([\\`*|<>\[\]~$]|(?<!\w)_|_(?!\w))", r"\\\1", _one_line(text))


_LATEX = {
    "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", "$": "\\$", "&": "\\&", "#": "\\#", "%": "\\%", "_": "\\_",
    "^": "\\textasciicircum{}", "~": "\\textasciitilde{}", "<": "\\textless{}", ">": "\\textgreater{}",
    "|": "\\textbar{}", "\"": "\\textquotedbl{}",
    # At the start of a row these would belong to the \\ before it.
    "[": "{[}", "]": "{]}", "*": "{*}",
}  # fmt: skip


def _latex_text(text: str) -> str:
    escaped = "".join(_LATEX.get(character, character) for character in _one_line(text))
    return re.sub("-(?=-)", "-{}", escaped)  # two hyphens stay two, not a dash


def _latex_table(section: ProtocolTables, table: Table) -> str:
    columns = len(table.columns)
    lines = []
    for group in table.groups:
        lines += ["\\midrule", f"\\multicolumn{{{columns + 1}}}{{l}}{{\\emph{{{_latex_text(group.label)}}}}} \\\\"]
        for row in group.rows:
            lines.append(f"\\quad {_latex_text(row.label)} & {' & '.join(map(_latex_cell, row.cells))} \\\\")
    caption = " ".join([f"{table.title}.", table.note, section.information, *section.failed, *section.notes])
    return "\n".join(
        [
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{_latex_text(caption)}}}",
            "\\resizebox{\\linewidth}{!}{%",
            f"\\begin{{tabular}}{{l{'r' * columns}}}",
            "\\toprule",
            f"{table.heading} & {' & '.join(map(str, table.columns))} \\\\",
            *lines,
            "\\bottomrule",
            "\\end{tabular}}",
            "\\end{table}",
            "",
        ]
    )


def _latex_cell(cell: Cell) -> str:
    # Figures are set as mathematics, for a true minus; words are not.
    value = "--" if cell.value == _NOTHING else " to ".join(f"${part}$" for part in cell.value.split(" to "))
    interval = re.sub(r"\[.*\]", lambda found: f"${found[0]}$", cell.interval)
    return f"{value} {{\\scriptsize {interval}}}" if interval else value


def _one_line(text: str) -> str:
    """Text on one line, without what cannot be shown."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())
