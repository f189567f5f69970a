"""`multi-attempt word-problems`: what is asked, whether the answers are right, and what is held out."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyarrow import parquet

from multi_attempt.answers import boxed
from multi_attempt.cli import main
from multi_attempt.data.overlap import normalise
from multi_attempt.grading import Grader, refusal
from multi_attempt.word_problems.build import Settings, build_word_problems
from multi_attempt.word_problems.questions import Split, WordProblem, draw_questions
from multi_attempt.word_problems.table import LEVELS, TABLE, Expression, Table, load_table

Row = dict[str, Any]

FILES = ("train", "validation", "test", "other_wordings")
TRAINED_KINDS = {"adding", "taking_away", "equal_groups", "every_day", "time", "prices", "more_than"}

# How each kind is worked out from the numbers of a row, and in how many steps: said here a second time.
ANSWERS: dict[str, tuple[int, Callable[..., float]]] = {
    "adding": (1, lambda start, more: start + more),
    "taking_away": (1, lambda start, less: start - less),
    "equal_groups": (1, lambda groups, each: sum([each] * groups)),
    "every_day": (1, lambda each, days: sum([each] * days)),
    "time": (1, lambda hours, days: sum([hours] * days)),
    "prices": (1, lambda count, price: sum([price] * count)),
    "more_than": (1, lambda smaller, more: smaller + more),
    "sharing": (1, lambda total, groups: total / groups),
    "comparing": (1, lambda larger, smaller: larger - smaller),
    "change": (1, lambda paid, price: paid - price),
    "hours_and_minutes": (2, lambda hours, minutes: minutes + 60 * hours),
    "three_parts": (2, lambda one, two, three: sum((one, two, three))),
    "groups_and_more": (2, lambda groups, each, more: sum([each] * groups) + more),
    "gain_and_loss": (2, lambda start, less, more: start + more - less),
    "journey": (1, lambda speed, hours: hours * speed),
    "the_rest": (2, lambda total, one_part, other_part: total - (one_part + other_part)),
    "sharing_the_rest": (2, lambda start, kept, groups: start / groups - kept / groups),
    "times_as_many": (2, lambda fewer, times: fewer * (times + 1)),
}


@pytest.fixture(scope="module")
def table() -> Table:
    return load_table()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command writes by default."""
    output = tmp_path_factory.mktemp("word_problems") / "written"
    assert main(["word-problems", "--output", str(output)]) == 0
    return output


@pytest.fixture(scope="module")
def rows(folder: Path) -> dict[str, list[Row]]:
    return {name: parquet.read_table(folder / f"{name}.parquet").to_pylist() for name in FILES}


def small(output: Path, *options: str) -> int:
    counts = ("--train", "14", "--validation", "7", "--test", "7", "--other-wordings", "18")
    return main(["word-problems", "--output", str(output), *counts, *options])


def manifest(output: Path) -> Row:
    return dict(json.loads((output / "manifest.json").read_text()))


def question(row: Row) -> str:
    return str(row["prompt"][-1]["content"])


@cache
def every_wording(level: str) -> dict[str, list[WordProblem]]:
    """Thirty problems of each wording of each kind, by wording; each wording may have all numbers."""
    table = load_table()
    return {
        wording: draw_questions(table, {wording: Split(30, [(kind, [wording])])}, level, seed=1)[wording]
        for kind in table.kinds.values()
        for wording in (*kind.templates, *kind.other_templates)
    }


# ---- Arithmetic ----


def assert_right(text: str, answer: str, kind: str, steps: int, numbers: list[int]) -> None:
    expected_steps, work_out = ANSWERS[kind]
    assert steps == expected_steps
    assert float(answer) == pytest.approx(work_out(*numbers))
    assert answer == str(int(answer))
    assert int(answer) > 1
    assert sorted(map(int, re.findall(r"\d+", text))) == sorted(numbers)


def test_every_row_has_the_right_answer(rows: dict[str, list[Row]]) -> None:
    for row in (row for name in FILES for row in rows[name]):
        info = row["extra_info"]
        gold = row["reward_model"]["ground_truth"]
        assert_right(question(row), gold, info["kind"], info["steps"], info["numbers"])


@pytest.mark.parametrize("level", LEVELS)
def test_every_wording_has_the_right_answer_at_every_level(table: Table, level: str) -> None:
    assert set(table.kinds) == set(ANSWERS)
    for problems in every_wording(level).values():
        assert len(problems) == 30
        for problem in problems:
            assert_right(problem.text, str(problem.answer), problem.kind, problem.steps, list(problem.numbers))


def test_no_number_shrinks_with_the_level(table: Table) -> None:
    for kind in table.kinds.values():
        for name in kind.answer.names:
            greatest = [kind.numbers[level][name][-1] for level in LEVELS]
            assert greatest == sorted(greatest), (kind.name, name)


def test_an_expression_is_worked_out_in_whole_numbers_from_2_on() -> None:
    expression = Expression("(a - b) / c")
    assert (expression.names, expression.steps) == ({"a", "b", "c"}, 2)
    assert expression.value({"a": 20, "b": 8, "c": 3}) == 4
    assert expression.value({"a": 20, "b": 8, "c": 5}) is None  # 12 / 5
    assert expression.value({"a": 8, "b": 20, "c": 3}) is None  # 8 - 20
    assert expression.value({"a": 20, "b": 8, "c": 12}) is None  # 1 of something
    assert Expression("a * 60 + b").value({"a": 2, "b": 5}) == 125


def test_every_gold_answer_grades_as_itself(rows: dict[str, list[Row]]) -> None:
    grader = Grader()
    golds = {row["reward_model"]["ground_truth"] for name in FILES for row in rows[name]}
    assert {gold: refusal(gold, grader) for gold in golds} == dict.fromkeys(golds, "")
    grader.close()


# ---- Language ----

# What no question may hold.
MISTAKES = {
    "a placeholder": r"[${}]",
    "one of many": r"\b1\b",
    "two spaces": r"\s\s|\n",
    "a before a vowel": r"\b[Aa] [aeiouAEIOU]",
    "an before a consonant": r"\b[Aa]n [^aeiouAEIOU]",
    "a small letter at the start": r"(?:^|[.?] )[a-z]",
    "a number at the start": r"(?:^|[.?] )\d",
    "a word twice": r"\b(\w+) \1\b",
    "a verb in the singular": r"\b(?:is|was|has been) \d+ (?!meters (?:tall|long)|years)",
    "twice": r"\b2 times\b",
}


@pytest.mark.parametrize("level", LEVELS)
def test_every_wording_reads_as_english(table: Table, level: str) -> None:
    singular = "|".join(re.escape(thing) for things in table.words.values() for thing, _ in things)
    for problems in every_wording(level).values():
        for problem in problems:
            text = problem.text
            assert text.endswith("?")
            assert {name for name, mistake in MISTAKES.items() if re.search(mistake, text)} == set(), text
            assert not re.search(rf"(?:\d+|How many|more|fewer) (?:{singular})\b", text), text


def test_people_differ_and_their_pronouns_fit(table: Table) -> None:
    fitting = {"she": {"she", "her"}, "he": {"he", "his"}}
    pairs, with_pronoun = 0, 0
    for wording, problems in every_wording("medium").items():
        for problem in problems:
            named = [word for word in re.findall(r"\w+", problem.text) if word in table.people]
            pronouns = {word.lower() for word in re.findall(r"\b(?:[Ss]he|[Hh]er|[Hh]e|[Hh]is)\b", problem.text)}
            assert len(set(named)) == ("$first" in wording) + ("$second" in wording), problem.text
            assert not pronouns or pronouns <= fitting[table.people[named[0]]], problem.text
            pairs += "$second" in wording
            with_pronoun += bool(pronouns)
    assert min(pairs, with_pronoun) > 100


def test_plurals_are_spelled_by_the_rules(table: Table) -> None:
    def plural(word: str) -> str:
        if re.search(r"(?:s|x|ch|sh)$", word):
            return f"{word}es"
        word = re.sub(r"rf$", "rve", word)
        return re.sub(r"([^aeiou])y$", r"\1ie", word) + "s"

    assert {thing: things for pairs in table.words.values() for thing, things in pairs} == {
        thing: plural(thing) for pairs in table.words.values() for thing, _ in pairs
    }


# ---- What is held out ----


def numbers_of(rows: list[Row]) -> set[tuple[str, tuple[int, ...]]]:
    return {(row["extra_info"]["kind"], tuple(sorted(row["extra_info"]["numbers"]))) for row in rows}


def test_no_question_stands_in_two_files_or_twice_in_one(rows: dict[str, list[Row]]) -> None:
    per_budget = [row for row in rows["validation"] if row["extra_info"]["attempts"] == 1]
    asked = Counter(
        normalise(question(row)) for name in FILES for row in (per_budget if name[0] == "v" else rows[name])
    )
    assert sum(asked.values()) == 2048 + 64 + 256 + 256
    assert set(asked.values()) == {1}


def test_no_kind_has_the_same_numbers_in_two_files(rows: dict[str, list[Row]]) -> None:
    numbers = {name: numbers_of(rows[name]) for name in FILES}
    for name in FILES:
        assert all(numbers[name].isdisjoint(numbers[other]) for other in FILES if other != name)


def shape(wording: str) -> re.Pattern[str]:
    """A pattern of the questions that a wording makes."""
    return re.compile(re.sub(r"\\\$\w+", r"[\\w ]+", re.escape(wording)))


def test_kinds_and_wordings_that_are_held_out_are_never_trained_on(table: Table, rows: dict[str, list[Row]]) -> None:
    wordings = [shape(wording) for kind in table.kinds.values() for wording in kind.other_templates]
    others = [shape(text) for name in set(ANSWERS) - TRAINED_KINDS for text in table.kinds[name].templates]
    for row in (row for name in ("train", "validation", "test") for row in rows[name]):
        assert row["extra_info"]["kind"] in TRAINED_KINDS
        assert not any(pattern.fullmatch(question(row)) for pattern in (*wordings, *others))
    for row in rows["other_wordings"]:
        assert any(pattern.fullmatch(question(row)) for pattern in (*wordings, *others))


def test_each_file_has_all_its_kinds_alike(rows: dict[str, list[Row]]) -> None:
    for name in FILES:
        counts = Counter(row["extra_info"]["kind"] for row in rows[name])
        assert set(counts) == (set(ANSWERS) if name == "other_wordings" else TRAINED_KINDS)
        assert max(counts.values()) - min(counts.values()) <= (3 if name == "validation" else 1)


def test_kinds_can_be_chosen_and_all_others_are_held_out(tmp_path: Path) -> None:
    assert small(tmp_path, "--kinds", "journey", "adding") == 0
    counts = manifest(tmp_path)["counts"]
    assert counts["train"] == {"adding": 7, "journey": 7}
    assert set(counts["other_wordings"]) == set(ANSWERS)
    sources = {
        row["extra_info"]["kind"]: row["data_source"]
        for row in parquet.read_table(tmp_path / "other_wordings.parquet").to_pylist()
    }
    assert {kind for kind, source in sources.items() if source == "word_problems_other_wordings"} == {
        "adding",
        "journey",
    }
    assert {source for kind, source in sources.items() if kind not in ("adding", "journey")} == {
        "word_problems_other_kinds"
    }


# ---- Files ----


def test_the_rows_pass_the_rules_of_the_start_up_check(rows: dict[str, list[Row]]) -> None:
    """As verl_ext/checks/dataset_check.py has them, without the tokenizer that it also needs."""
    for name in FILES:
        for row in rows[name]:
            gold, info = row["reward_model"]["ground_truth"], row["extra_info"]
            assert [message["role"] for message in row["prompt"]] == ["user"]
            assert boxed(f"\\boxed{{{gold}}}") == gold
            assert info["attempts"] in ((1, 2, 3) if name == "validation" else (None,))
            assert info["id"] == str(info["index"])
        per_source = Counter((row["data_source"], row["extra_info"]["index"]) for row in rows[name])
        assert set(per_source.values()) == {1}
    assert [row["extra_info"]["index"] for row in rows["train"]] == list(range(2048))


def test_a_row_is_one_of_verls_schema(rows: dict[str, list[Row]]) -> None:
    row = rows["train"][0]
    info = row["extra_info"]
    assert row == {
        "data_source": "word_problems",
        "prompt": [{"role": "user", "content": question(row)}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": str(sum(info["numbers"])), "tolerance": ""},
        "extra_info": {
            "id": "0",
            "index": 0,
            "split": "train",
            "attempts": None,
            "kind": "adding",
            "steps": 1,
            "numbers": info["numbers"],
        },
    }


def test_sources_tell_benchmarks_apart(rows: dict[str, list[Row]]) -> None:
    assert {name: {row["data_source"] for row in rows[name]} for name in FILES} == {
        "train": {"word_problems"},
        "test": {"word_problems"},
        "validation": {f"word_problems_{attempts}_attempts" for attempts in (1, 2, 3)},
        "other_wordings": {"word_problems_other_wordings", "word_problems_other_kinds"},
    }
    by_budget = [[question(row) for row in rows["validation"]][64 * n : 64 * (n + 1)] for n in range(3)]
    assert by_budget[0] == by_budget[1] == by_budget[2]


def test_the_manifest_counts_what_was_written(folder: Path, rows: dict[str, list[Row]]) -> None:
    written = manifest(folder)
    assert written["recipe"]["seed"] == 0
    assert written["recipe"]["level"] == "medium"
    assert set(written["outputs"]) == {f"{name}.parquet" for name in FILES}
    for name in ("train", "test", "other_wordings"):
        assert written["counts"][name] == Counter(row["extra_info"]["kind"] for row in rows[name])
    assert sum(written["counts"]["validation"].values()) == 64


def test_the_seed_decides_all_questions(tmp_path: Path) -> None:
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        assert small(tmp_path / name, "--seed", seed) == 0
    first, again, other = (manifest(tmp_path / name) for name in "abc")
    assert first == again
    assert set(first["outputs"].values()).isdisjoint(other["outputs"].values())


def test_how_many_one_file_has_changes_nothing_in_another(tmp_path: Path) -> None:
    assert small(tmp_path / "a") == 0
    outputs = manifest(tmp_path / "a")["outputs"]
    for name in FILES:
        assert small(tmp_path / name, f"--{name.replace('_', '-')}", "40") == 0
        changed = manifest(tmp_path / name)["outputs"]
        assert {file for file in outputs if outputs[file] != changed[file]} == {f"{name}.parquet"}


def test_a_second_run_writes_only_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert small(tmp_path) == small(tmp_path) == 0
    assert "already there" in capsys.readouterr().out
    before = manifest(tmp_path)
    (tmp_path / "test.parquet").write_bytes(b"damaged")
    assert small(tmp_path) == 0
    assert "already there" not in capsys.readouterr().out
    assert manifest(tmp_path) == before
    assert len(parquet.read_table(tmp_path / "test.parquet")) == 7
    assert small(tmp_path, "--validation", "0") == 0
    assert not (tmp_path / "validation.parquet").exists()


# ---- Mistakes ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--train", "0"], "--train = 0 must be at least 1"),
        (["--other-wordings", "-2"], "--other-wordings = -2 must be at least 1"),
        (["--validation", "-1"], "--validation = -1 must be 0, for none, or more"),
        (["--validation-attempts", "2", "2"], "--validation-attempts = 2 2"),
        (["--kinds", "adding", "subtracting"], "--kinds = 'subtracting' is no kind; use some of adding, "),
        (["--level", "impossible"], "impossible"),
        (["--kinds", "time", "--validation", "2000"], "validation = 2000 questions: after "),
    ],
)
def test_a_bad_option_is_named_with_its_value(
    tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: object = small(tmp_path / "none", *options)
    except SystemExit as stopped:  # argparse ends the process itself
        status = stopped.code
    assert status == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_level_is_checked_where_no_command_line_does(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--level = 'impossible' is no level; use one of easy, medium, hard"):
        build_word_problems(tmp_path, Settings(level="impossible"))


def set_field(content: Row, path: str, value: object) -> None:
    """Set a field of the table; None removes it."""
    *parents, last = path.split("/")
    for name in parents:
        content = content[name]
    if value is None:
        del content[last]
    else:
        content[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("kinds", None, "the table: kinds is missing"),
        ("extra", 1, "the table: unknown field extra"),
        ("kinds/adding", 3, "kind adding = 3 must hold answer, "),
        ("kinds/adding/answer", None, "kind adding: answer is missing"),
        ("kinds/adding/held", True, "kind adding: unknown field held"),
        ("kinds/adding/answer", "start +", "kind adding: answer = 'start +' is no expression"),
        ("kinds/adding/answer", "start ** more", "kind adding: answer = 'start ** more' may hold only"),
        ("kinds/adding/answer", "start + more + 0", "kind adding: answer = 'start + more + 0': 0 is no whole number"),
        ("kinds/adding/answer", "start + thing", "thing is no name for a number"),
        ("kinds/adding/answer", "start", "kind adding: numbers.easy: unknown field more"),
        ("kinds/adding/numbers/hard", None, "kind adding: numbers: hard is missing"),
        ("kinds/adding/numbers/hard/more", None, "kind adding: numbers.hard: more is missing"),
        ("kinds/adding/numbers/hard/more", [1, 9], "kind adding: numbers.hard.more = [1, 9]: the lowest"),
        ("kinds/adding/numbers/hard/more", [9, 8], "kind adding: numbers.hard.more = [9, 8]: the lowest"),
        ("kinds/adding/numbers/hard/more", [2, 8, 0], "kind adding: numbers.hard.more = [2, 8, 0]"),
        ("kinds/adding/numbers/hard/more", [2], "kind adding: numbers.hard.more = [2]: write"),
        ("kinds/adding/numbers/hard/more", "2-9", "kind adding: numbers.hard.more = '2-9': write"),
        ("kinds/adding/templates", [], "kind adding: templates = [] must be a list of at least one wording"),
        ("kinds/adding/other_templates", "$start", "kind adding: other_templates = '$start' must be a list"),
        ("kinds", ["adding"], "kinds = ['adding'] must hold values by name"),
        ("words/thing", ["marble"], "words.thing = ['marble'] must hold values by name"),
        ("kinds/adding/templates", ["$start and?"], "kind adding: templates: '$start and?' does not show $more"),
        ("kinds/adding/templates", ["$start $more $x?"], "$x stands for nothing"),
        ("kinds/adding/templates", ["$start $more $?"], "is no template"),
        ("kinds/adding/templates", ["$start $more?"] * 2, "is a wording of kind adding already"),
        ("people/they", ["Kim"], "people: they is no pronoun; use she or he"),
        ("people", {"she": ["Kim"]}, "people = Kim: name at least 2"),
    ],
)
def test_a_mistake_in_the_table_is_named_with_its_place(tmp_path: Path, path: str, value: object, message: str) -> None:
    content = yaml.safe_load(TABLE.read_text("utf-8"))
    set_field(content, path, value)
    file = tmp_path / "table.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        load_table(file)
    assert str(raised.value).startswith(str(file))


def test_a_table_that_is_no_yaml_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "table.yaml"
    file.write_text("kinds: [")
    with pytest.raises(ValueError, match=re.escape(str(file))):
        load_table(file)
