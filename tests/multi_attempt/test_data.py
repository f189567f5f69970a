"""`multi-attempt data`: from files and the hub to rows. All questions here are written for these tests."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import concatenate_datasets, load_dataset
from pyarrow import Table, parquet

from multi_attempt.answers import boxed
from multi_attempt.cli import main
from multi_attempt.data import evaluation_source, make_row, read_evaluation_source
from multi_attempt.data.overlap import normalise
from multi_attempt.data.sources import default_sources, known_sources
from multi_attempt.data.store import sole_writer
from multi_attempt.grading import equals_itself

Fields = dict[str, Any]

# Questions of an own source with 6 training rows, of which 2 are for validation.
TRAIN: list[Fields] = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(1, 7)]
OWN = ("--role", "train", "--validation", "2")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test runs in a folder of its own, and writes to `data` in it."""
    monkeypatch.chdir(tmp_path)


def lines(name: str, rows: list[Any]) -> str:
    """A file of JSON lines; bytes stand in it as they are."""
    content = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    Path(name).write_bytes(b"".join(line + b"\n" for line in content))
    return name


def prepare(*arguments: str) -> int:
    return main(["data", *arguments])


def own(rows: list[Any], *options: str, name: str = "mine", role: tuple[str, ...] = OWN) -> int:
    """A source of the user's own, from JSON lines."""
    return prepare(name, "--from", lines(f"{name}.jsonl", rows), *role, *options)


def evaluation(rows: list[Any], name: str = "exam") -> int:
    return own(rows, name=name, role=("--role", "evaluation"))


def rows_of(source: str, split: str = "train") -> list[Fields]:
    return list(parquet.read_table(f"data/{source}/{split}.parquet").to_pylist())


def manifest(source: str = "mine") -> Fields:
    return dict(json.loads(Path("data", source, "manifest.json").read_text()))


def texts(rows: list[Fields]) -> list[str]:
    return [row["prompt"][-1]["content"] for row in rows]


def golds(rows: list[Fields]) -> list[str]:
    return [row["reward_model"]["ground_truth"] for row in rows]


def snapshot() -> dict[Path, tuple[int, bytes]]:
    """All that stands under `data`, with when it was written."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in Path("data").rglob("*") if path.is_file()}


# ---- What is written ----


def test_a_training_source_makes_rows_in_verls_schema() -> None:
    assert own(TRAIN) == 0
    train, validation = rows_of("mine"), rows_of("mine", "validation")
    assert len(train) == 4
    assert {row["data_source"] for row in train} == {"mine"}
    assert {(row["extra_info"]["split"], row["extra_info"]["attempts"]) for row in train} == {("train", None)}
    assert [(row["data_source"], row["extra_info"]["attempts"]) for row in validation] == [
        (f"mine_{attempts}_attempts", attempts) for attempts in (1, 2, 5) for _ in range(2)
    ]
    held_out = set(texts(validation))
    assert sorted(held_out | set(texts(train))) == sorted(row["question"] for row in TRAIN)
    assert len(held_out) == 2
    assert dict(zip(texts(train), golds(train), strict=True)).items() <= {
        (row["question"], row["answer"]) for row in TRAIN
    }


def test_an_evaluation_source_stays_whole_and_in_order() -> None:
    exam = [*TRAIN, TRAIN[0]]
    assert evaluation(exam) == 0
    rows = rows_of("exam", "test")
    assert texts(rows) == [row["question"] for row in exam]
    assert {row["data_source"] for row in rows} == {"exam"}
    ids = [row["extra_info"]["id"] for row in rows]
    assert ids[-1] == f"{ids[0]}-2"
    assert manifest("exam")["counts"] == {"read": 7, "refused": 0, "kept": 7}
    assert sorted(path.name for path in Path("data/exam").iterdir()) == ["manifest.json", "test.parquet"]


def test_an_evaluation_source_is_written_with_attempts_where_they_are_asked_for() -> None:
    assert evaluation(TRAIN[:2]) == 0
    whole = rows_of("exam", "test")
    options = ("--role", "evaluation", "--evaluation-attempts", "1", "5")
    assert own(TRAIN[:2], name="exam", role=options) == 0
    assert rows_of("exam", "test") == whole  # what `multi-attempt eval` reads
    rows = rows_of("exam", "test_with_attempts")
    assert texts(rows) == texts(whole) * 2
    assert golds(rows) == golds(whole) * 2
    assert [(row["data_source"], row["extra_info"]["attempts"]) for row in rows] == [
        (f"test/exam_{attempts}_attempts", attempts) for attempts in (1, 5) for _ in range(2)
    ]
    assert {row["extra_info"]["split"] for row in rows} == {"test"}
    assert [row["extra_info"]["id"] for row in rows] == [row["extra_info"]["id"] for row in whole] * 2
    assert evaluation(TRAIN[:2]) == 0
    assert not Path("data/exam/test_with_attempts.parquet").exists()


def test_an_evaluation_set_with_attempts_is_compared_with_as_one_without() -> None:
    train, exam = lines("train.jsonl", TRAIN), lines("exam.jsonl", TRAIN[:2])
    assert prepare("exam", "--from", exam, "--role", "evaluation", "--evaluation-attempts", "1", "2") == 0
    compared: list[Fields] = []
    for options in (["--evaluation-attempts", "1", "2"], []):
        assert prepare("exam", "--from", exam, "--role", "evaluation", *options) == 0
        assert prepare("mine", "--from", train, *OWN) == 0
        compared.append(manifest())
    assert compared[0]["contaminated_by_set"] == {"exam": {"exact": 2, "normalised": 0}}
    assert compared[0] == compared[1]


def test_what_an_evaluation_set_is_called_in_the_log_can_be_read() -> None:
    for name, attempts in (("aime24", 1), ("a_2_attempts", 12)):
        assert read_evaluation_source(evaluation_source(name, attempts)) == (name, attempts)
    for other in ("mine_5_attempts", "test/aime24", "test/aime24_0_attempts", "latest/aime24_5_attempts"):
        assert read_evaluation_source(other) is None


def test_validation_may_be_none() -> None:
    assert own(TRAIN) == 0
    assert own(TRAIN, "--validation", "0") == 0
    assert len(rows_of("mine")) == 6
    assert not Path("data/mine/validation.parquet").exists()


def test_the_seed_decides_the_draw() -> None:
    draws: list[set[str]] = []
    for seed in (0, 0, 1, 2, 3):
        assert own(TRAIN, "--seed", str(seed), "--output", f"{len(draws)}") == 0
        draws.append(set(texts(parquet.read_table(f"{len(draws)}/mine/validation.parquet").to_pylist())))
    assert draws[0] == draws[1]
    assert len(set(map(frozenset, draws))) > 1


def test_ids_and_the_draw_do_not_depend_on_other_rows() -> None:
    assert own(TRAIN) == 0
    before = {text: row["extra_info"] for row in rows_of("mine") for text in texts([row])}
    held_out = set(texts(rows_of("mine", "validation")))
    removed = next(text for text in before)
    assert own([row for row in TRAIN if row["question"] != removed]) == 0
    after = {text: row["extra_info"] for row in rows_of("mine") for text in texts([row])}
    assert after == {text: info for text, info in before.items() if text != removed}
    assert set(texts(rows_of("mine", "validation"))) == held_out


def test_an_id_is_the_sources_own_where_it_is_unique() -> None:
    rows = [{**row, "id": id} for row, id in zip(TRAIN[:4], (7, "a", "b", "b"), strict=True)]
    assert own(rows, "--validation", "0") == 0
    infos = [row["extra_info"] for row in rows_of("mine")]
    assert [info["id"] for info in infos[:2]] == ["mine/7", "mine/a"]
    assert all(re.fullmatch(r"mine/[0-9a-f]{16}", info["id"]) for info in infos[2:])
    assert len({info["index"] for info in infos}) == 4
    assert all(0 <= info["index"] < 2**48 for info in infos)


def test_a_row_made_without_an_id_is_named_by_its_index() -> None:
    assert make_row("1+1=?", "2", data_source="toy", index=3, split="train")["extra_info"]["id"] == "3"


def test_a_parquet_file_is_read_as_well_as_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    parquet.write_table(Table.from_pylist(TRAIN), "mine.parquet")
    assert prepare("mine", "--from", "mine.parquet", *OWN) == 0
    from_parquet = rows_of("mine")
    assert own(TRAIN) == 0
    assert rows_of("mine") == from_parquet
    assert prepare("mine", "--from", "mine.parquet", *OWN, "--answer-field", "gold") == 2
    assert_tells(capsys, "mine.parquet, row 1", "gold", "question, answer", "--answer-field")


def test_a_json_array_is_read_as_well_as_json_lines() -> None:
    assert own(TRAIN) == 0
    from_lines = rows_of("mine")
    Path("mine.json").write_text(json.dumps(TRAIN, indent=2))
    assert prepare("mine", "--from", "mine.json", *OWN) == 0
    assert rows_of("mine") == from_lines
    Path(lines("mine.jsonl", TRAIN)).rename("mine.json")
    assert prepare("mine", "--from", "mine.json", *OWN) == 0
    assert rows_of("mine") == from_lines


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ('[\n {"question": "2+2?", "answer": "4"},\n {"question": }\n]', ("mine.json: not JSON", "line 3 column 15")),
        ('[{"question": "2+2?", "answer": "4"}, 3]', ("mine.json, row 2: 3 is no JSON object",)),
        (
            '[{"question": "2+2?", "answer": "4"}, {"answer": "4"}]',
            ("mine.json, row 2", "no field question or problem"),
        ),
        ('{"train": []}', ("mine.json, line 1", "no field question or problem", "train")),
        ("[]", ("mine.json", "no rows")),
        ("[" * 100_000, ("mine.json: not JSON", "correct the file")),
    ],
)
def test_a_bad_json_array_is_named_with_the_row(
    content: str, parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.json").write_text(content)
    assert prepare("mine", "--from", "mine.json", *OWN) == 2
    assert_tells(capsys, *parts)
    assert not Path("data").exists()


# ---- What each source's rows look like ----

HUB_MATH = {"problem": "Double $4$.", "level": "Level 5", "type": "Algebra", "solution": r"So \boxed{1}. No: \boxed{8}"}
SHAPES: list[tuple[str, str, Fields, str, str]] = [
    ("math, hub", "math", HUB_MATH, "Double $4$.", "8"),
    ("math, file", "math", {"problem": "Double 5.", "answer": "10", "difficulty": 2.0}, "Double 5.", "10"),
    (
        "math, the paper's file",
        "math_3to5",
        {
            "input": "<|im_start|>user\nTriple 5.<|im_end|>",
            **{"question": "Triple 5.", "answer": "14", "ground_truth_answer": "15", "target": "15", "level": 4},
        },
        "Triple 5.",
        "15",
    ),
    (
        "gsm8k",
        "gsm8k",
        {"question": "Ann has 600 hens. Bo has as many. How many?", "answer": "600*2=<<600*2=1200>>\n#### 1,200"},
        "Ann has 600 hens. Bo has as many. How many?",
        "1200",
    ),
    ("deepscaler", "deepscaler", {"problem": "1/4+1/4", "answer": r"\frac12", "solution": "?"}, "1/4+1/4", r"\frac12"),
    ("aime24, hub", "aime24", {"id": 3, "problem": "7*3", "solution": "?", "answer": "021"}, "7*3", "021"),
    ("aime24, file", "aime24", {"id": 3, "problem": "7*3", "question": "7*3", "answer": "021"}, "7*3", "021"),
    ("aime25", "aime25", {"problem": "7*5", "answer": "35", "id": "0"}, "7*5", "35"),
    ("amc23, hub", "amc23", {"question": "7*7", "answer": "49"}, "7*7", "49"),
    ("amc23, file", "amc23", {"id": 1, "problem": "7*7", "question": "7*7", "answer": 49.0}, "7*7", "49"),
    (
        "math500",
        "math500",
        {
            "problem": "2*2",
            "solution": "x",
            "answer": "4",
            "subject": "Algebra",
            "level": 1,
            "unique_id": "test/1.json",
        },
        "2*2",
        "4",
    ),
    ("minerva, hub", "minerva_math", {"question": "Mass?", "answer": "0.25"}, "Mass?", "0.25"),
    ("minerva, file", "minerva_math", {"problem": "Mass?", "solution": r"\boxed{2.5} kg", "idx": 0}, "Mass?", "2.5"),
    (
        "olympiadbench",
        "olympiadbench",
        {"id": 9, "context": None, "question": "Both roots of $x^2=4$?", "final_answer": ["$2$", "$-2$"]},
        "Both roots of $x^2=4$?",
        "$2$, $-2$",
    ),
    (
        "context",
        "olympiadbench",
        {"id": 9, "context": "Let $n=3$.", "question": "Find $2n$.", "final_answer": ["6"]},
        "Let $n=3$.\n\nFind $2n$.",
        "6",
    ),
    ("a small number", "amc23", {"question": "10^-7?", "answer": 1e-7}, "10^-7?", "0.0000001"),
]


@pytest.mark.parametrize(
    ("source", "fields", "tolerance"),
    [
        ("olympiadbench", {"question": "About?", "final_answer": ["4.2"], "error": "1e-1"}, "1e-1"),
        ("olympiadbench", {"question": "About?", "final_answer": ["4.2"], "error": None}, ""),
        ("olympiadbench", {"question": "About?", "final_answer": ["4.2"]}, ""),
        ("minerva_math", {"question": "Mass?", "answer": "0.25"}, "1%"),
        ("amc23", {"question": "1+1?", "answer": "2"}, ""),
    ],
)
def test_a_row_keeps_the_tolerance_that_its_benchmark_states(source: str, fields: Fields, tolerance: str) -> None:
    assert prepare(source, "--from", f"{source}={lines('rows.jsonl', [fields])}") == 0
    [row] = rows_of(source, "test")
    assert row["reward_model"]["tolerance"] == tolerance


def test_a_tolerance_that_is_none_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    file = lines("rows.jsonl", [{"question": "About?", "final_answer": ["4.2"], "error": "some"}])
    assert prepare("olympiadbench", "--from", f"olympiadbench={file}") == 2
    assert_tells(capsys, "error", "tolerance = 'some'", "percentage")


@pytest.mark.parametrize(("source", "row", "text", "gold"), [case[1:] for case in SHAPES], ids=[c[0] for c in SHAPES])
def test_a_row_of_each_known_source_is_read(source: str, row: Fields, text: str, gold: str) -> None:
    file = lines("rows.jsonl", [row])
    exam = lines("exam.jsonl", [{"problem": "Something else?", "answer": "1"}])
    files = {source: file} | ({"math500": exam} if known_sources()[source].without else {})
    options = [option for name, path in files.items() for option in ("--from", f"{name}={path}")]
    assert prepare(*files, *options, "--validation", "0") == 0
    rows = rows_of(source, "train" if known_sources()[source].trains else "test")
    assert (texts(rows), golds(rows)) == ([text], [gold])


def test_math_keeps_its_levels_after_its_golds_are_checked() -> None:
    levels: list[Any] = ["Level 1", "Level 2", "Level 3", "Level 4", "Level 5", "Level ?", 3, 2.0]
    rows: list[Any] = [{"problem": f"{n}+1?", "answer": str(n + 1), "level": level} for n, level in enumerate(levels)]
    rows.append({"problem": "9+9?", "answer": None, "level": "Level 1"})
    exam = lines("exam.jsonl", [{"problem": "Else?", "answer": "1"}])
    arguments = ["--from", f"math_3to5={lines('math.jsonl', rows)}", "--from", f"math500={exam}", "--validation", "0"]
    assert prepare("math_3to5", "math500", *arguments) == 0
    assert texts(rows_of("math_3to5")) == ["2+1?", "3+1?", "4+1?", "6+1?"]
    counts = manifest("math_3to5")["counts"]
    assert (counts["read"], counts["refused"], counts["filtered_by_level"], counts["kept"]) == (9, 1, 4, 4)


def test_the_default_is_what_the_paper_uses() -> None:
    assert set(default_sources()) <= set(known_sources())
    assert [name for name in default_sources() if known_sources()[name].trains] == ["math_3to5"]


# ---- Files that are not what they say ----

GOOD = {"question": "2+2?", "answer": "4"}
BAD_FILES: list[tuple[str, list[Any], tuple[str, ...]]] = [
    ("no JSON", [GOOD, b'{"question": "2+'], ("line 2", "not JSON", "correct or remove")),
    ("no object", [GOOD, GOOD, [1]], ("line 3", "[1]", "no JSON object")),
    ("line numbers count empty lines", [GOOD, b"", b"3"], ("line 3", "no JSON object")),
    ("field missing", [GOOD, {"question": "2+3?"}], ("line 2", "no field answer", "--answer-field")),
    ("question missing", [{"answer": "3"}], ("line 1", "no field question or problem", "answer")),
    ("wrong type of question", [{"question": 3, "answer": "4"}], ("line 1", "question = '3'", "int", "a text")),
    ("wrong type of gold", [{**GOOD, "answer": {"a": 1}}], ("line 1", "answer = ", "dict", "a number")),
    ("truth is no number", [{**GOOD, "answer": True}], ("line 1", "answer = 'True'", "bool")),
    ("no number", [b'{"question": "2?", "answer": NaN}'], ("line 1", "answer = 'nan'", "float")),
    ("empty question", [GOOD, {**GOOD, "question": " \n"}], ("line 2", r"question = ' \n'", "no question")),
    ("null question", [{**GOOD, "question": None}], ("line 1", "question = 'None'", "NoneType")),
    ("not UTF-8", [GOOD, '{"question": "é", "answer": "1"}'.encode("latin-1")], ("line 2", "UTF-8")),
    ("half a character", [b'{"question": "\\ud800?", "answer": "1"}'], ("line 1", "question", "half a character")),
    ("deep nesting", [b"[" * 100_000], ("line 1", "not JSON")),
    ("empty", [], ("no rows",)),
]


def assert_tells(capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    told = capsys.readouterr().err
    assert [part for part in parts if part not in told] == [], told


@pytest.mark.parametrize(("rows", "parts"), [case[1:] for case in BAD_FILES], ids=[case[0] for case in BAD_FILES])
def test_a_bad_file_is_named_and_changes_nothing(
    rows: list[Any], parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert own(rows, name="new") == 2
    assert_tells(capsys, "new.jsonl", *parts)
    assert not Path("data").exists()
    assert own(TRAIN) == 0
    before = snapshot()
    assert own(rows) == 2
    assert snapshot() == before


def test_a_bad_file_keeps_the_other_sources_of_the_command_from_being_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = lines("good.jsonl", [{"id": 1, "problem": "7*3", "answer": "21"}])
    bad = lines("bad.jsonl", [{"question": "2+2?", "answer": 4}, {"question": "2+2?"}])
    assert prepare("aime24", "gsm8k_train", "--from", f"aime24={good}", "--from", f"gsm8k_train={bad}") == 2
    assert_tells(capsys, "bad.jsonl, line 2", "answer")
    assert not Path("data").exists()


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("mine.parquet", b"PAR1 and no more", ("mine.parquet", "not a Parquet file")),
        ("mine.csv", b"question,answer\n", ("mine.csv", ".jsonl")),
        ("mine.jsonl", None, ("mine.jsonl", "no such file")),
    ],
)
def test_a_file_of_another_kind_is_named(
    name: str, content: bytes | None, parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        Path(name).write_bytes(content)
    assert prepare("mine", "--from", name, *OWN) == 2
    assert_tells(capsys, *parts)
    assert not Path("data").exists()


def test_nothing_is_half_written_when_writing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own(TRAIN) == 0
    before = snapshot()

    def fail(rows: list[Fields], path: Path) -> None:
        path.write_bytes(b"half of it")
        raise OSError("no space left")

    monkeypatch.setattr("multi_attempt.data.store.write_parquet", fail)
    assert own(TRAIN[:5]) == 2
    assert snapshot() == before


# ---- Gold answers that are of no use ----

UNUSABLE: list[tuple[Any, str]] = [
    ("", "gold answer is empty"),
    ("  ", "gold answer is empty"),
    (None, "gold answer is empty"),
    (r"\frac{1}{", "cannot stand in a box"),
    ("}{", "cannot stand in a box"),
    ("3 + * 4 = =", "cannot be parsed"),
    ("3..4", "cannot be parsed"),
    (r"\frac{1}", "cannot be parsed"),
]
USABLE = ["4", "-0.5", r"\frac{3}{4}", "x^2+1", "[0,1)", r"\text{Yes}", "Tuesday", r"\int_0^1 x dx", "2, -2", "12 hens"]


def test_a_row_with_an_unusable_gold_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"question": f"Unusable {n}?", "answer": gold} for n, (gold, _) in enumerate(UNUSABLE)]
    assert own([*TRAIN, *rows]) == 0
    refused = manifest()["refused"]
    assert [record["line"] for record in refused] == list(range(7, 7 + len(UNUSABLE)))
    assert [reason in record["reason"] for record, (_, reason) in zip(refused, UNUSABLE, strict=True)] == [True] * 8
    assert all(record["id"].startswith("mine/") for record in refused)
    assert not any("Unusable" in text for text in texts([*rows_of("mine"), *rows_of("mine", "validation")]))
    printed = capsys.readouterr().out
    assert [f"line {line}," in printed for line in range(7, 15)] == [True] * 5 + [False] * 3
    assert "3 more" in printed


SOLUTIONS = [
    ("Ten less two.\n10 - 2 = <<10-2=8>>8\n#### 8", "8"),
    ("A million and more.\n#### 1,234,567\n", "1234567"),
    ("The point is\n#### (1,2)", "(1,2)"),
    (r"We have $x^2 = 64$, so that $x$ is $\boxed{8}$ or less.", "8"),
    (r"Half of it, $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
    (r"\boxed{8}", "8"),
    ("8", "8"),
    (8, "8"),
    (10**400, "1" + "0" * 400),
    ([1, 2], "1, 2"),
]


def test_the_answer_of_an_own_solution_is_found() -> None:
    rows = [{"question": f"Solution {number}?", "answer": answer} for number, (answer, _) in enumerate(SOLUTIONS)]
    assert own(rows, "--validation", "0") == 0
    assert golds(rows_of("mine")) == [gold for _, gold in SOLUTIONS]


@pytest.mark.parametrize("field", ["answer", "solution"])
@pytest.mark.parametrize(
    "prose",
    [
        "Natalia sold half as many in May, which are 24, and 72 altogether",
        "She sold 24 in May. Together 72",
        "Together they have 72 clips.",
        "Therefore 72",
        "The answer is $72$",
    ],
)
def test_prose_as_gold_is_refused_with_its_line_and_field(
    capsys: pytest.CaptureFixture[str], prose: str, field: str
) -> None:
    rows = [{"question": row["question"], field: row["answer"]} for row in TRAIN]
    options = ("--answer-field", field)
    assert own([*rows, {"question": "How many?", field: prose}], *options) == 0
    [record] = manifest()["refused"]
    assert record["line"] == 7
    assert record["reason"].startswith(f"{field} = {prose!r} is prose")
    assert "#### ANSWER" in record["reason"]
    assert "refused: line 7" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    ["what does <|im_end|> do?", "<s>2+2?", "[INST] 2+2? [/INST]", "a <\uff5cend\u2581of\uff5c>?", "<end_of_turn>?"],
)
def test_a_question_that_spells_a_special_token_is_refused(text: str) -> None:
    assert own([*TRAIN, {"question": text, "answer": "4"}]) == 0
    [record] = manifest()["refused"]
    assert record["line"] == 7
    assert "special token" in record["reason"]


def test_signs_of_mathematics_are_no_special_tokens() -> None:
    texts_of_signs = ["Is 0<|x|>1?", "Is a<b|c>d?", "Is s < 3 and s > 2?", "Is [1] in <1, 2>?"]
    assert own([{"question": text, "answer": "1"} for text in texts_of_signs], "--validation", "0") == 0
    assert texts(rows_of("mine")) == texts_of_signs


def test_golds_of_every_kind_are_kept() -> None:
    assert own([{"question": f"Usable {gold}?", "answer": gold} for gold in USABLE], "--validation", "0") == 0
    assert golds(rows_of("mine")) == USABLE
    assert manifest()["refused"] == []


def test_a_gold_equals_itself_by_being_read() -> None:
    assert [equals_itself(gold) for gold in ("1/2", r"\text{Yes}", "the red hens", "3 +", "", "1" * 10**6)] == [
        True, True, True, None, False, False,
    ]  # fmt: skip


def test_a_source_of_which_no_row_is_left_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluation([{"question": "2+2?", "answer": ""}]) == 2
    assert_tells(capsys, "exam", "no row is left of 1", "gold answer is empty")
    assert not Path("data").exists()


# ---- Rows that stand in two sets ----

SAME = [
    (r"What is $\dfrac{1}{2}$ of 6?", r"what is \frac{1}{2}  of $6$"),
    (r"Solve $\left( x+1 \right)^2 = 4$.", "Solve $(x+1)^2=4$"),
    (r"Add $1$, $2$ and\, $3$.", "Add 1, 2 and 3"),
    ("Find\n\\[x + 1.\\]Then stop.", "Find $x+1$. Then stop."),
    ("Is 5\N{MINUS SIGN}3 \N{LEFT DOUBLE QUOTATION MARK}odd\N{RIGHT DOUBLE QUOTATION MARK}?", 'Is 5-3 "odd"?'),
    ("\N{FULLWIDTH DIGIT TWO}+2?", "2+2?"),
    ("Find x\u00b2 + y\u2081\u2080.", "find $x^{2} + y_{10}$"),
    ("Find $x^{2}$.", "Find $x^2$."),
]
DIFFERENT = [
    ("Add 1, 2.", "Add 12."),
    ("Double 1.5.", "Double 15."),
    ("Find $60/(6/2)$.", "Find $60/6/2$."),
    ("Find 3-2.", "Find 3+2."),
    ("Find $f'(2)$.", "Find $f(2)$."),
    ("Find $5!$.", "Find $5$."),
    (r"Find $\frac{1}{23}$.", r"Find $\frac{12}{3}$."),
    (r"Where does $\leftarrow$ point?", r"Where does $\rightarrow$ point?"),
    ("?", "!"),
    ("Find 2\u00b9\u2070.", "Find 210."),
    ("Find x\u00b2.", "Find x2."),
    ("Find x\u2082.", "Find x2."),
    ("Find x\u00b2.", "Find x\u2082."),
    ("Find $x^{12}$.", "Find $x^12$."),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_what_changes_nothing_is_evened_out(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_what_tells_questions_apart_stays(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


def test_training_rows_that_stand_in_an_evaluation_set_are_removed_and_counted() -> None:
    assert evaluation([TRAIN[0], {"question": "what  is $3 + 3$", "answer": "6"}]) == 0
    assert evaluation([TRAIN[0]], name="quiz") == 0
    assert own(TRAIN) == 0
    kept = texts([*rows_of("mine"), *rows_of("mine", "validation")])
    assert set(kept) == {row["question"] for n, row in enumerate(TRAIN) if n not in (0, 2)}
    found = manifest()
    assert found["counts"]["contaminated"] == 2
    assert found["contaminated_by_set"] == {
        "exam": {"exact": 1, "normalised": 1},
        "quiz": {"exact": 1, "normalised": 0},
    }
    assert [record["stands_in"] for record in found["contaminated"]] == [
        {"exam": "exact", "quiz": "exact"},
        {"exam": "normalised"},
    ]
    assert [record["source"] for record in found["compared_with"]] == ["exam", "quiz"]


def test_an_evaluation_set_of_the_same_command_is_compared_with_whatever_the_order() -> None:
    train = lines("train.jsonl", [{"question": row["question"], "answer": f"#### {row['answer']}"} for row in TRAIN])
    test = lines("test.jsonl", [{"question": TRAIN[3]["question"], "answer": "#### 8"}])
    arguments = ["--from", f"gsm8k_train={train}", "--from", f"gsm8k={test}", "--validation", "0"]
    assert prepare("gsm8k_train", "gsm8k", *arguments) == 0
    assert len(rows_of("gsm8k_train")) == 5
    assert manifest("gsm8k_train")["contaminated_by_set"] == {"gsm8k": {"exact": 1, "normalised": 0}}


def test_a_context_belongs_to_the_question_that_is_compared() -> None:
    other = {"context": "Let $n=3$.", "question": "Find $2n$.", "final_answer": ["6"]}
    file = lines("exam.jsonl", [other])
    assert prepare("olympiadbench", "--from", f"olympiadbench={file}") == 0
    rows = [
        {"context": "Let $n=5$.", "question": "Find $2n$.", "answer": "10"},
        {"context": None, "question": "Let $n = 3$. Find $2n$.", "answer": "6"},
        {"question": "Half of 8?", "answer": "4"},
    ]
    assert own(rows, "--validation", "0") == 0
    assert texts(rows_of("mine")) == ["Let $n=5$.\n\nFind $2n$.", "Half of 8?"]
    assert manifest()["contaminated_by_set"] == {"olympiadbench": {"exact": 0, "normalised": 1}}


def test_nothing_to_compare_with_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert own(TRAIN) == 0
    assert_tells(capsys, "warning: no evaluation set")
    assert manifest()["compared_with"] == []


def test_math_without_math500_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    file = lines("math.jsonl", [{"problem": "2+2?", "answer": "4", "level": 3}])
    assert prepare("math", "--from", file) == 2
    assert_tells(capsys, "math500", "multi-attempt data math math500")
    assert not Path("data").exists()


def test_a_changed_evaluation_set_is_not_compared_with(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluation(TRAIN[:1]) == 0
    parquet.write_table(Table.from_pylist([]), "data/exam/test.parquet")
    assert own(TRAIN) == 2
    assert_tells(capsys, "data/exam/test.parquet was changed", "prepare exam again")


def test_a_training_set_has_each_question_once() -> None:
    again = {"question": "what is 2+2", "answer": "5"}
    assert own([*TRAIN, again, TRAIN[0]], "--validation", "0") == 0
    assert texts(rows_of("mine")) == [row["question"] for row in TRAIN]
    infos = [row["extra_info"]["id"] for row in rows_of("mine")]
    assert manifest()["counts"]["duplicates"] == 2
    assert [record["same_as"] for record in manifest()["duplicates"]] == [infos[1], infos[0]]


def test_questions_that_differ_by_case_or_a_superscript_are_two() -> None:
    several = [("Find a if a=2.", "2"), ("Find A if A=2.", "2"), ("Find 3\u00b2.", "9"), ("Find 32.", "32")]
    assert own([{"question": text, "answer": gold} for text, gold in several], "--validation", "0") == 0
    assert texts(rows_of("mine")) == [text for text, _ in several]
    assert manifest()["duplicates"] == []


@pytest.mark.parametrize("role", [("--role", "train", "--validation", "0"), ("--role", "evaluation")])
def test_the_same_question_with_another_gold_is_told(capsys: pytest.CaptureFixture[str], role: tuple[str, ...]) -> None:
    rows = [("Find 1/2.", "1/2"), ("Find  1/2.", "0.5"), ("Find $1/2$.", "2"), ("Find 3.", "3")]
    assert own([{"question": text, "answer": gold} for text, gold in rows], role=role) == 0
    [record] = manifest()["contradictions"]
    assert {key: record[key] for key in ("line", "gold", "other_line", "other_gold")} == {
        "line": 3, "gold": "2", "other_line": 1, "other_gold": "1/2",
    }  # fmt: skip
    assert "another gold answer: line 3, '2', and line 1, '1/2'" in capsys.readouterr().out


def test_two_writers_to_one_folder_do_not_mix(capsys: pytest.CaptureFixture[str]) -> None:
    assert own(TRAIN) == 0
    before = snapshot()
    with sole_writer(Path("data")):
        assert own(TRAIN[:5]) == 2
    assert_tells(capsys, "--output = data", "another multi-attempt data is writing to it")
    assert snapshot() == before
    assert own(TRAIN[:5]) == 0
    assert not Path("data", ".lock").exists()


def test_every_row_read_is_accounted_for() -> None:
    assert evaluation(TRAIN[:1]) == 0
    assert own([*TRAIN, TRAIN[1], {"question": "Empty?", "answer": ""}]) == 0
    counts = manifest()["counts"]
    away = sum(counts[why] for why in ("refused", "filtered_by_level", "contaminated", "duplicates"))
    assert (counts["read"], away, counts["kept"]) == (8, 3, 5)
    assert counts["train"] + counts["validation"] == counts["kept"]
    assert counts["train"] == len(rows_of("mine"))


# ---- Run again ----


def test_the_same_again_does_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluation(TRAIN[:1]) == 0
    assert own(TRAIN) == 0
    before = snapshot()
    assert evaluation(TRAIN[:1]) == 0
    assert own(TRAIN) == 0
    assert snapshot() == before
    assert capsys.readouterr().out.count("already there") == 2


def change_rows() -> int:
    return own(TRAIN[:5])


def change_option() -> int:
    return own(TRAIN, "--seed", "1")


def change_output() -> int:
    Path("data/mine/train.parquet").write_bytes(b"")
    return own(TRAIN)


def remove_output() -> int:
    Path("data/mine/validation.parquet").unlink()
    return own(TRAIN)


def remove_manifest() -> int:
    Path("data/mine/manifest.json").unlink()
    return own(TRAIN)


def spoil_manifest() -> int:
    Path("data/mine/manifest.json").write_text("[")
    return own(TRAIN)


def change_evaluation() -> int:
    assert evaluation(TRAIN[:2]) == 0
    return own(TRAIN)


def add_evaluation() -> int:
    assert evaluation(TRAIN[:2], name="quiz") == 0
    return own(TRAIN)


def change_fields() -> int:
    return own(TRAIN, "--question-field", "question")


@pytest.mark.parametrize(
    "change",
    [
        change_rows,
        change_option,
        change_output,
        remove_output,
        remove_manifest,
        spoil_manifest,
        change_evaluation,
        add_evaluation,
        change_fields,
    ],
)
def test_what_has_changed_is_made_anew(change: Callable[[], int]) -> None:
    assert evaluation(TRAIN[:1]) == 0
    assert own(TRAIN) == 0
    before = Path("data/mine/manifest.json").stat().st_mtime_ns
    assert change() == 0
    assert Path("data/mine/manifest.json").stat().st_mtime_ns > before
    assert len(rows_of("mine", "validation")) == 6


# ---- The hub ----


class Hub:
    """The hub, with one dataset for each (path, config, split)."""

    def __init__(self) -> None:
        self.revision = "a" * 40
        self.asked: list[tuple[str, str | None]] = []
        self.rows: dict[tuple[str, str | None, str], list[Fields]] = {}

    def dataset_info(self, path: str, revision: str | None = None) -> SimpleNamespace:
        self.asked.append((path, revision))
        return SimpleNamespace(sha=revision or self.revision)

    def load_dataset(self, path: str, config: str | None, *, split: str, revision: str) -> list[Fields]:
        assert revision in (self.revision, "b" * 40)
        return self.rows[path, config, split]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    monkeypatch.setattr("datasets.load_dataset", hub.load_dataset)
    return hub


def test_all_configs_and_splits_are_read_from_the_hub(hub: Hub) -> None:
    source = known_sources()["math_3to5"]
    shape = {"level": "Level 4", "type": "?"}
    for config in source.configs:
        for split in ("train", "test"):
            question = f"{config}, {split}?"
            hub.rows[source.hub, config, split] = [{**shape, "problem": question, "solution": r"\boxed{1}"}]
    hub.rows[source.hub, "prealgebra", "test"].append({**shape, "problem": "2*3?", "solution": "no box"})
    exam = [{"problem": "algebra, test?", "solution": "", "answer": "1", "level": 4, "unique_id": "test/algebra/1"}]
    hub.rows["HuggingFaceH4/MATH-500", None, "test"] = exam
    assert prepare("math_3to5", "math500", "--validation", "1") == 0
    assert len(rows_of("math_3to5")) == 12
    found = manifest("math_3to5")
    assert found["origin"] == {"hub": source.hub, "asked": None, "revision": hub.revision}
    [refused] = found["refused"]
    assert (refused["part"], refused["line"], refused["reason"]) == ("prealgebra/test", 2, "gold answer is empty")
    assert rows_of("math500", "test")[0]["extra_info"]["id"] == "math500/test/algebra/1"


def test_the_hub_is_asked_again_only_for_another_revision_or_a_refresh(hub: Hub) -> None:
    hub.rows["math-ai/amc23", None, "test"] = [{"question": "7*7?", "answer": "49"}]
    assert prepare("amc23") == 0
    assert hub.asked == [("math-ai/amc23", None)]
    before = snapshot()
    assert prepare("amc23") == 0
    assert prepare("amc23", "--revision", hub.revision) == 0
    assert len(hub.asked) == 1
    assert prepare("amc23", "--refresh") == 0
    assert len(hub.asked) == 2
    assert snapshot() == before
    assert prepare("amc23", "--revision", "b" * 40) == 0
    assert hub.asked[2:] == [("math-ai/amc23", "b" * 40)]
    assert manifest("amc23")["origin"]["revision"] == "b" * 40


def test_a_newer_revision_is_made_anew_on_refresh(hub: Hub) -> None:
    hub.rows["math-ai/amc23", None, "test"] = [{"question": "7*7?", "answer": "49"}]
    assert prepare("amc23") == 0
    hub.revision = "b" * 40
    hub.rows["math-ai/amc23", None, "test"] = [{"question": "7*8?", "answer": "56"}]
    assert prepare("amc23", "--refresh") == 0
    assert golds(rows_of("amc23", "test")) == ["56"]


def test_a_row_of_the_hub_is_named_by_config_split_and_row(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.rows["openai/gsm8k", "main", "test"] = [{"question": "7*7?", "answer": "#### 49"}, {"question": "7*8?"}]
    assert prepare("gsm8k") == 2
    assert_tells(capsys, "openai/gsm8k main/test, row 2", "no field answer")


def test_a_hub_that_cannot_be_reached_is_an_error_with_a_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare("amc23") == 2  # no test reaches a network
    told = capsys.readouterr().err
    assert told.startswith("multi-attempt data: amc23: math-ai/amc23 could not be loaded from the Hugging Face hub"), (
        told
    )
    assert told.count("--from amc23=FILE") == 1
    assert not Path("data").exists()


def test_a_dataset_that_cannot_be_loaded_is_an_error_with_a_remedy(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare("aime24") == 2
    assert_tells(capsys, "aime24: HuggingFaceH4/aime_2024", "KeyError", "--from aime24=FILE")
    assert not Path("data").exists()


# ---- The command's arguments ----

WRONG: list[tuple[list[str], tuple[str, ...]]] = [
    (["mine"], ("SOURCE = 'mine'", "math_3to5", "--from mine=FILE --role")),
    (["mine", "--from", "mine.jsonl"], ("--role",)),
    (["mine", "--role", "train"], ("--from mine=FILE",)),
    (["../mine", "--from", "mine.jsonl", "--role", "train"], ("SOURCE = '../mine'", "letters")),
    (["aime24", "--role", "train"], ("--role = train", "leave it out")),
    (["aime24", "--answer-field", "a"], ("--answer-field = a", "leave it out")),
    (["aime24", "amc23", "--from", "mine.jsonl"], ("--from = 'mine.jsonl'", "SOURCE=FILE", "aime24, amc23")),
    (["aime24", "--from", "amc23=mine.jsonl"], ("--from = 'amc23=mine.jsonl'", "aime24")),
    (["aime24", "--from", "mine.jsonl", "--from", "aime24=b.jsonl"], ("two files for aime24",)),
    (["aime24", "--from", "mine.jsonl", "--revision", "x"], ("--revision = x", "leave it out")),
    (["mine", "--from", "mine.jsonl", *OWN, "--validation", "-1"], ("--validation = -1",)),
    (["mine", "--from", "mine.jsonl", *OWN, "--validation", "6"], ("6 training rows", "--validation = 6")),
    (["mine", "--from", "mine.jsonl", *OWN, "--validation-attempts", "0"], ("--validation-attempts = 0",)),
    (["mine", "--from", "mine.jsonl", *OWN, "--validation-attempts", "2", "2"], ("--validation-attempts = 2 2",)),
    (["mine", "--from", "mine.jsonl", *OWN, "--evaluation-attempts", "1"], ("--evaluation-attempts = 1", "leave it")),
    (["aime24", "--from", "mine.jsonl", "--evaluation-attempts", "0"], ("--evaluation-attempts = 0",)),
    (["aime24", "--from", "mine.jsonl", "--context-field", ""], ("--context-field = ", "leave it out")),
]


@pytest.mark.parametrize(("arguments", "parts"), WRONG, ids=[" ".join(arguments) for arguments, _ in WRONG])
def test_a_wrong_argument_is_named_with_the_remedy(
    arguments: list[str], parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    lines("mine.jsonl", TRAIN)
    assert prepare(*arguments) == 2
    assert_tells(capsys, *parts)
    assert not Path("data").exists()


def test_the_fields_of_an_own_source_may_be_named() -> None:
    rows = [{"q": row["question"], "a": row["answer"], "question": 3} for row in TRAIN]
    assert own(rows, "--question-field", "q", "--answer-field", "a", "--validation", "0") == 0
    assert (texts(rows_of("mine")), golds(rows_of("mine"))) == (
        [row["question"] for row in TRAIN],
        [row["answer"] for row in TRAIN],
    )


def test_the_context_of_an_own_source_goes_before_the_question_or_is_left_out() -> None:
    rows = [{**row, "context": "Think of apples.", "story": "Think of pears."} for row in TRAIN]
    for options, before in (
        ((), "Think of apples.\n\n"),
        (("--context-field", "story"), "Think of pears.\n\n"),
        (("--context-field", ""), ""),
    ):
        assert own(rows, "--validation", "0", *options) == 0
        assert texts(rows_of("mine")) == [before + row["question"] for row in TRAIN]


def test_a_context_that_is_named_must_be_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert own([{**TRAIN[0], "story": None}, TRAIN[1]], "--context-field", "story") == 2
    assert_tells(capsys, "mine.jsonl, line 2", "no field story for the context", "--context-field")


# ---- What a run's check asks of rows ----


def test_the_rows_pass_the_rules_of_the_start_up_check() -> None:
    """As verl_ext/checks/dataset_check.py has them, without the tokenizer that it also needs."""
    assert own([*TRAIN, {"question": "Half?", "answer": r"\frac{1}{2}"}]) == 0
    for split in ("train", "validation"):
        for row in rows_of("mine", split):
            gold, info = row["reward_model"]["ground_truth"], row["extra_info"]
            assert row["prompt"][-1]["content"].strip()
            assert boxed(f"\\boxed{{{gold}}}") == gold.strip()
            assert isinstance(info["index"], int)
            assert isinstance(info["attempts"], int) == (split == "validation")
    indices = [row["extra_info"]["index"] for row in rows_of("mine")]
    assert len(set(indices)) == len(indices)


def test_a_run_takes_an_evaluation_set_beside_the_validation_set() -> None:
    """Loaded as verl loads ``data.val_files``, by which the columns of both must be of one kind."""
    assert own(TRAIN[:2], name="exam", role=("--role", "evaluation", "--evaluation-attempts", "1", "5")) == 0
    assert own(TRAIN, *OWN) == 0
    files = ["data/mine/validation.parquet", "data/exam/test_with_attempts.parquet"]
    rows = concatenate_datasets([load_dataset("parquet", data_files=file)["train"] for file in files]).to_list()
    assert Counter((row["data_source"], row["extra_info"]["attempts"]) for row in rows) == {
        **{(f"mine_{attempts}_attempts", attempts): 2 for attempts in (1, 2, 5)},
        **{(f"test/exam_{attempts}_attempts", attempts): 2 for attempts in (1, 5)},
    }
