"""Evaluations on scripted answers, with figures worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scripted import Script, ScriptedEngine, ask, box, settings

from multi_attempt.evaluation.engines import EngineLost, Partner, Request
from multi_attempt.evaluation.evaluate import Model, Settings, evaluate
from multi_attempt.evaluation.protocols import PROTOCOLS
from multi_attempt.evaluation.statistics import MACRO, WEIGHTED
from multi_attempt.grading import Policies
from multi_attempt.model_settings import DialogueSettings
from multi_attempt.prompts import load_prompt_set

MODEL = Model("model", "served")


def run(script: Script, output: Path, *protocols: str, questions: Any = None, **changes: Any) -> dict[str, Any]:
    """The model's entry of ``eval.json``."""
    asked = questions or ask("a", "b", "c", "d")
    figures = evaluate([MODEL], asked, settings(*protocols, **changes), ScriptedEngine(script), output)
    assert json.loads((output / "eval.json").read_text()) == figures
    entry: dict[str, Any] = figures["models"][0]
    return entry


def accuracy(entry: dict[str, Any], protocol: str) -> list[float]:
    values: list[float] = entry["results"][protocol][MACRO]["accuracy"]
    return values


def measure(entry: dict[str, Any], protocol: str, name: str) -> list[float | None]:
    values: list[float | None] = entry["results"][protocol][MACRO]["measures"][name]
    return values


def solved_at(places: dict[str, int]) -> Script:
    """Each question is answered rightly at its attempt, if it gets so far."""
    return lambda question, budget, attempt, request: box(4 if places.get(question) == attempt else 5)


def episodes(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]


# ---- The protocols ----


def test_oracle_gives_the_accuracies_worked_out_by_hand(tmp_path: Path) -> None:
    # a is solved at once, b at the second attempt, c at the fourth, d never.
    entry = run(solved_at({"a": 1, "b": 2, "c": 4}), tmp_path, "oracle")
    assert accuracy(entry, "oracle") == [1 / 4, 2 / 4, 2 / 4, 3 / 4, 3 / 4]
    assert measure(entry, "oracle", "first_attempt_accuracy") == [1 / 4] * 5
    # With 3 attempts: 1, 2, 3 and 3 are used. Right after wrong: of b's one, c's two and d's two retries, one is.
    assert measure(entry, "oracle", "attempts_used") == [1, 7 / 4, 9 / 4, 11 / 4, 12 / 4]
    assert measure(entry, "oracle", "wrong_to_right") == [None, 1 / 3, 1 / 5, 2 / 7, 2 / 8]
    # Every wrong answer is 5: with 3 attempts c's two and d's two retries repeat it, and b's does not.
    assert measure(entry, "oracle", "repeat_rate") == [None, 2 / 3, 4 / 5, 5 / 7, 6 / 8]
    tokens = len(box(4))
    assert measure(entry, "oracle", "tokens_used") == [tokens * used for used in [1, 7 / 4, 9 / 4, 11 / 4, 12 / 4]]
    assert measure(entry, "oracle", "tokens_per_solved")[1] == tokens * 7 / 4 / (2 / 4)
    assert entry["failed"] == 0


def test_an_answer_within_the_question_s_tolerance_is_right(tmp_path: Path) -> None:
    questions = [replace(question, tolerance=text) for question, text in zip(ask("a", "b"), ("1", ""), strict=True)]
    entry = run(solved_at({}), tmp_path, "oracle", questions=questions)  # each answer is 5, for 4
    assert accuracy(entry, "oracle") == [1 / 2] * 5


def test_each_run_of_oracle_says_its_own_number_and_single_run_the_greatest(tmp_path: Path) -> None:
    # The model is right at its last attempt, whatever number it was given.
    entry = run(
        lambda question, budget, attempt, request: box(4 if attempt == budget else 5),
        tmp_path,
        "oracle",
        "single-run",
        attempts=3,
    )
    assert accuracy(entry, "oracle") == [1, 1, 1]
    assert accuracy(entry, "single-run") == [0, 0, 1]
    assert measure(entry, "single-run", "attempts_used") == [1, 2, 3]
    # The run of oracle with N = 3 is the one run: nothing is asked twice.
    assert len(episodes(tmp_path)) == 3 * 4


def test_blind_says_nothing_of_correctness_and_takes_the_last_answer(tmp_path: Path) -> None:
    says = {"a": [4, 4, 4], "b": [4, 5, 4], "c": [5, 4, 5], "d": [5, 6, 5]}
    engine = ScriptedEngine(lambda question, budget, attempt, request: box(says[question][attempt - 1]))
    figures = evaluate([MODEL], ask(*says), settings("blind", attempts=3), engine, tmp_path)
    entry = figures["models"][0]
    assert accuracy(entry, "blind") == [2 / 4, 2 / 4, 2 / 4]
    # Transitions with 3 attempts: a RR RR, b RW WR, c WR RW, d WW WW.
    assert measure(entry, "blind", "right_to_wrong") == [None, 1 / 2, 2 / 4]
    # d goes from 5 to 6 and back: another than the one before, which the second time is not new.
    assert measure(entry, "blind", "wrong_to_other") == [None, 1 / 2, 2 / 4]
    assert measure(entry, "blind", "repeat_rate") == [None, 0, 2 / 8]
    assert measure(entry, "blind", "wrong_to_right") == [None, 1 / 2, 2 / 4]
    assert measure(entry, "blind", "attempts_used") == [1, 2, 3]
    feedback = {message["content"] for dialogue in engine.told for message in dialogue if message["role"] == "user"}
    assert not [text for text in feedback if "rong" in text]
    # Right answers and wrong ones are told the same.
    told = {
        question: [d[2]["content"] for d in engine.told if d[0]["content"] == f"{question} (2)"] for question in says
    }
    assert len({tuple(texts) for texts in told.values()}) == 1


def test_what_follows_a_wrong_attempt_is_shared_out_whole(tmp_path: Path) -> None:
    says: dict[str, list[int | None]] = {
        "a": [5, 5, 6, 4],
        "b": [5, None, None, 7],
        "c": [5, 6, 5, 5],
        "d": [4, 4, 4, 5],
    }

    def script(question: str, budget: int, attempt: int, request: Request) -> str:
        answer = says[question][attempt - 1]
        return "no idea" if answer is None else box(answer)

    entry = run(script, tmp_path, "blind", attempts=4)
    names = [f"wrong_to_{after}" for after in ("right", "same", "other", "none")]
    # a: same, other, right. b: none, none, other (than none). c: other, other (again), same. d's last is after a right.
    shares = [measure(entry, "blind", name)[-1] for name in names]
    assert shares == [1 / 9, 2 / 9, 4 / 9, 2 / 9]
    assert measure(entry, "blind", "change_rate")[-1] == 5 / 9
    assert measure(entry, "blind", "right_to_wrong")[-1] == 1 / 3
    assert measure(entry, "blind", "repeat_rate")[-1] == 3 / 12
    by_attempt = entry["results"]["blind"][MACRO]["by_attempt"]
    assert by_attempt["repeat_rate"] == [None, 1 / 4, 1 / 4, 1 / 4]
    assert by_attempt["wrong_to_same"] == [None, 1 / 3, 0, 1 / 3]
    assert by_attempt["change_rate"] == [None, 1 / 3, 2 / 3, 2 / 3]


def test_independent_is_the_share_of_sets_of_k_samples_with_a_right_one(tmp_path: Path) -> None:
    # Of 4 samples, 1 is right: a set of k holds it with k/4. The sample's number is the last word of its key.
    entry = run(
        lambda question, budget, attempt, request: box(4 if request.key.endswith(" 2") else 5),
        tmp_path,
        "independent",
        attempts=3,
        samples=4,
    )
    assert accuracy(entry, "independent") == pytest.approx([1 / 4, 2 / 4, 3 / 4])
    assert {episode["budget"] for episode in episodes(tmp_path)} == {1}
    assert len(episodes(tmp_path)) == 4 * 4


def test_independent_samples_have_no_more_tokens_in_all_than_one_dialogue(tmp_path: Path) -> None:
    # 12 tokens do not fit twice into 20, so that two samples have no answer at all.
    entry = run(
        lambda question, budget, attempt, request: f"so {box(4)}",
        tmp_path,
        "independent",
        "majority",
        attempts=2,
        max_response_length=20,
    )
    assert accuracy(entry, "independent") == [1, 0]
    assert accuracy(entry, "majority") == [1, 0]
    assert measure(entry, "independent", "truncation_rate") == [0, 1]
    assert measure(entry, "independent", "tokens_used") == [12, 20]


def test_independent_samples_share_what_a_question_s_own_prompt_leaves_of_the_context(tmp_path: Path) -> None:
    # 26 tokens of context leave 25 for a, of which half is 12, and 22 for dddd, of which half is 11: one too few.
    engine = ScriptedEngine(lambda question, budget, attempt, request: f"so {box(4)}", context=26)
    how = settings("independent", attempts=2, max_response_length=None)
    figures = evaluate([MODEL], ask("a", "dddd"), how, engine, tmp_path)
    assert figures["models"][0]["scores"]["independent"]["sums"] == {"a": [1, 1], "dddd": [1, 0]}
    assert {row["id"]: row["room"] for row in episodes(tmp_path)} == {"a": 25, "dddd": 22}


def test_a_dialogue_ends_where_the_context_does(tmp_path: Path) -> None:
    question = "2+2=?"
    engine = ScriptedEngine(lambda *_: box(5), context=len(question) + len(box(5)))
    how = settings("oracle", attempts=2, max_response_length=None)
    [entry] = evaluate([MODEL], ask(question), how, engine, tmp_path)["models"]
    assert entry["failed"] == 0
    assert [len(row["attempts"]) for row in episodes(tmp_path)] == [1, 1]
    # A length that the context does not hold changes nothing.
    again = settings("oracle", attempts=2, max_response_length=1000)
    evaluate([MODEL], ask(question), again, engine, tmp_path / "again")
    assert episodes(tmp_path / "again") == episodes(tmp_path)


def test_majority_is_the_mean_vote_of_the_sets_of_k_samples(tmp_path: Path) -> None:
    # Samples 0 and 1 are right in two spellings, 2 and 3 wrong in different ways.
    answers = ["4", "4.0", "5", "6"]
    entry = run(
        lambda question, budget, attempt, request: box(answers[int(request.key.split()[-1])]),
        tmp_path,
        "majority",
        attempts=3,
        samples=4,
    )
    # k=1: 2 of 4. k=2: {0,1} right; of the other five sets, {2,3} has none right, four are ties: 1 + 4/2 of 6.
    # k=3: {0,1,x} right twice; {0,2,3} and {1,2,3} are ties of three: 2 + 2/3 of 4.
    assert accuracy(entry, "majority") == pytest.approx([1 / 2, 3 / 6, (2 + 2 / 3) / 4])


def test_samples_without_an_answer_do_not_vote(tmp_path: Path) -> None:
    says = ["no idea", "no idea", box(4)]
    entry = run(
        lambda question, budget, attempt, request: says[int(request.key.split()[-1])],
        tmp_path,
        "majority",
        attempts=3,
    )
    assert accuracy(entry, "majority") == pytest.approx([1 / 3, 2 / 3, 1])


def test_dialogues_are_greedy_and_fresh_samples_are_not(tmp_path: Path) -> None:
    engine = ScriptedEngine(lambda question, budget, attempt, request: box(5))
    evaluate([MODEL], ask("a"), settings(*PROTOCOLS, attempts=2), engine, tmp_path)
    temperatures = {request.key.split()[3]: request.temperature for _, request in engine.asked}
    assert temperatures == {"oracle": 0.0, "blind": 0.0, "independent": 1.0}
    # What is shuffled is sampled as under oracle; all others have seeds of their own.
    assert sum(request.key.split()[3] == "oracle" for _, request in engine.asked) == 3
    engine.asked.clear()
    unshuffled = [name for name in PROTOCOLS if name != "shuffled"]
    evaluate([MODEL], ask("a"), settings(*unshuffled, attempts=2), engine, tmp_path / "unshuffled")
    seeds = [request.seed(attempt) for _, request in engine.asked for attempt in range(2)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)

    with pytest.raises(ValueError, match=r"was made with fresh_temperature = None, not 0\.7"):
        evaluate([MODEL], ask("a"), settings("majority", fresh_temperature=0.7), engine, tmp_path)
    engine.asked.clear()
    figures = evaluate([MODEL], ask("a"), settings("majority", fresh_temperature=0.7), engine, tmp_path / "other")
    assert {request.temperature for _, request in engine.asked} == {figures["sampling_temperature"]} == {0.7}


# ---- Means over benchmarks ----


def test_a_benchmark_counts_once_in_the_macro_mean_and_by_its_questions_in_the_weighted(tmp_path: Path) -> None:
    questions = [*ask("a", benchmark="small"), *ask("b", "c", "d", benchmark="large")]
    entry = run(solved_at({"a": 1, "b": 2}), tmp_path, "oracle", questions=questions, attempts=2)
    results = entry["results"]["oracle"]
    assert results["benchmarks"]["small"]["accuracy"] == [1, 1]
    assert results["benchmarks"]["large"]["accuracy"] == pytest.approx([0, 1 / 3])
    assert results[MACRO]["accuracy"] == pytest.approx([1 / 2, 2 / 3])
    assert results[WEIGHTED]["accuracy"] == pytest.approx([1 / 4, 2 / 4])
    assert results[MACRO]["measures"]["attempts_used"] == [1, pytest.approx(3 / 2)]
    assert results[WEIGHTED]["measures"]["attempts_used"] == [1, 7 / 4]


# ---- Killed, and started again; failures ----


def test_a_run_that_is_started_again_asks_only_what_is_missing(tmp_path: Path) -> None:
    script = solved_at({"a": 1, "b": 2, "c": 4})
    whole = run(script, tmp_path / "whole", *PROTOCOLS)
    evaluate([MODEL], ask("a", "b", "c", "d"), settings(*PROTOCOLS), ScriptedEngine(script), tmp_path / "killed")
    file = tmp_path / "killed" / "episodes.jsonl"
    content = file.read_bytes()
    lines = content.splitlines(keepends=True)
    kept = len(lines) // 2
    file.write_bytes(b"".join(lines[:kept]) + lines[kept][:25])  # as a kill in the middle of a line leaves it
    engine = ScriptedEngine(script)
    figures = evaluate([MODEL], ask("a", "b", "c", "d"), settings(*PROTOCOLS), engine, tmp_path / "killed")
    assert figures["models"][0] == whole
    assert len(engine.asked) == len(lines) - kept
    assert sorted(file.read_bytes().splitlines()) == sorted(content.splitlines())


def test_more_attempts_protocols_and_models_may_join_a_run(tmp_path: Path) -> None:
    script = solved_at({"b": 2})
    run(script, tmp_path, "oracle", attempts=2)
    engine = ScriptedEngine(script)
    evaluate([MODEL], ask("a", "b", "c", "d"), settings("oracle", attempts=3), engine, tmp_path)
    assert {request.key.split()[4] for _, request in engine.asked} == {"3"}
    engine = ScriptedEngine(script)
    evaluate([MODEL, Model("other", "x")], ask("a", "b", "c", "d"), settings("oracle", attempts=3), engine, tmp_path)
    assert {model for model, _ in engine.asked} == {"x"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"temperature": 0.5}, "temperature = 0.0, not 0.5"),
        ({"seed": 1}, "seed = 0, not 1"),
        ({"max_response_length": 999}, "max_response_length = 1000, not 999"),
        ({"max_tokens_per_attempt": 48}, "max_tokens_per_attempt = None, not 48"),
        ({"feedback": ["verdict", "question"]}, r"feedback = None, not \['verdict', 'question'\]"),
        ({"prompts": load_prompt_set("toy_untold")}, "prompts = .*'toy'.*, not .*'toy_untold'"),
        ({"policies": Policies(any_order=False)}, "policies = .*'any_order': True.*, not .*'any_order': False"),
        ({"template_kwargs": {"enable_thinking": False}}, "template_kwargs = {}, not {'enable_thinking': False}"),
        ({"chat_template": "{{ x }}"}, "chat_template = None, not '{{ x }}'"),
        ({"history": "last"}, "history = 'full', not 'last'"),
    ],
)
def test_episodes_made_otherwise_are_never_mixed_in(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    run(solved_at({}), tmp_path, "oracle")
    with pytest.raises(ValueError, match=named):
        run(solved_at({}), tmp_path, "oracle", **changes)
    with pytest.raises(ValueError, match="questions"):
        run(solved_at({}), tmp_path, "oracle", questions=ask("a", "b"))


def test_episodes_with_another_context_are_never_mixed_in(tmp_path: Path) -> None:
    evaluate([MODEL], ask("a"), settings(), ScriptedEngine(solved_at({}), context=100), tmp_path)
    with pytest.raises(ValueError, match="episodes of 'model' with a context of 100 tokens, not 200"):
        evaluate([MODEL], ask("a"), settings(), ScriptedEngine(solved_at({}), context=200), tmp_path)


def test_a_folder_of_an_earlier_version_is_not_added_to(tmp_path: Path) -> None:
    run(solved_at({}), tmp_path, "oracle")
    known = json.loads((tmp_path / "run.json").read_text())
    del known["template_kwargs"], known["contexts"]
    (tmp_path / "run.json").write_text(json.dumps(known))
    with pytest.raises(ValueError, match=r"template_kwargs = None, not {}; name another folder, or --restart"):
        run(solved_at({}), tmp_path, "oracle")


def test_other_weights_under_the_same_name_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"one")
    model = Model("model", str(folder))
    evaluate([model], ask("a"), settings(), ScriptedEngine(solved_at({})), tmp_path / "run")
    (folder / "model.safetensors").write_bytes(b"two")
    with pytest.raises(ValueError, match="'model' with other weights"):
        evaluate([model], ask("a"), settings(), ScriptedEngine(solved_at({})), tmp_path / "run")


def test_failed_questions_do_not_flatter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def failing(question: str, budget: int, attempt: int, request: Request) -> str:
        if int(question) >= 6 and attempt == 2:
            raise ConnectionError("the line is dead")
        return box(4 if int(question) < 4 or attempt == 2 else 5)

    asked = ask(*map(str, range(10)))
    entry = run(failing, tmp_path, "oracle", "single-run", questions=asked, attempts=2, concurrency=20)
    for protocol in ("oracle", "single-run"):
        for figures in (entry["results"][protocol][MACRO], entry["results"][protocol]["benchmarks"]["sums"]):
            assert figures["questions"] == 10
            assert figures["accuracy"][1] == 0.6
            assert figures["accuracy_at_most"][1] == 1
            assert figures["low"][1] < 0.35
    oracle = entry["results"]["oracle"][MACRO]
    assert (oracle["accuracy"][0], oracle["accuracy_at_most"][0]) == (0.4, 0.4)
    assert oracle["failed_by_attempts"] == [0, 4]


def test_a_failed_episode_is_reported_makes_a_range_and_is_tried_again(tmp_path: Path) -> None:
    def failing(question: str, budget: int, attempt: int, request: Request) -> str:
        if question == "a" and budget == 2:
            raise ConnectionError("the line is dead")
        return solved_at({"a": 1, "b": 2})(question, budget, attempt, request)

    entry = run(failing, tmp_path, "oracle", attempts=3)
    # a would be right; without it b is one of four with 2 attempts.
    assert accuracy(entry, "oracle") == [1 / 4, 1 / 4, 2 / 4]
    assert entry["results"]["oracle"][MACRO]["accuracy_at_most"] == [1 / 4, 2 / 4, 2 / 4]
    assert entry["failed"] == 1
    assert entry["results"]["oracle"][MACRO]["failed"] == 1
    assert entry["scores"]["oracle"]["sums"]["a"] == [1, None, 1]
    [failed] = [episode for episode in episodes(tmp_path) if episode["error"]]
    assert failed["error"] == "ConnectionError: the line is dead"
    again = run(solved_at({"a": 1, "b": 2}), tmp_path, "oracle", attempts=3)
    assert accuracy(again, "oracle") == [1 / 4, 2 / 4, 2 / 4]
    assert again["failed"] == 0


def test_an_engine_that_answers_nothing_any_more_ends_the_run_and_keeps_what_was_done(tmp_path: Path) -> None:
    def dying(question: str, budget: int, attempt: int, request: Request) -> str:
        if budget > 1:
            raise ConnectionError("gone")
        return box(4)

    with pytest.raises(EngineLost, match=r"in a row failed.*gone"):
        run(dying, tmp_path, "oracle", attempts=5, concurrency=2)
    assert len([episode for episode in episodes(tmp_path) if not episode["error"]]) == 4
    assert not (tmp_path / "eval.json").exists()


def test_two_evaluations_do_not_write_into_one_folder(tmp_path: Path) -> None:
    def nested(question: str, budget: int, attempt: int, request: Request) -> str:
        with pytest.raises(ValueError, match="another evaluation is writing there"):
            run(solved_at({}), tmp_path, "oracle")
        return box(4)

    entry = run(nested, tmp_path, "oracle", attempts=1)
    assert accuracy(entry, "oracle") == [1]


def test_a_run_is_not_restarted_while_another_one_writes(tmp_path: Path) -> None:
    def nested(question: str, budget: int, attempt: int, request: Request) -> str:
        if question == "b":
            with pytest.raises(ValueError, match="another evaluation is writing there"):
                restarted(solved_at({}), tmp_path, seed=1)
        return box(4)

    run(nested, tmp_path, "oracle", attempts=1, concurrency=1)
    assert len(episodes(tmp_path)) == 4
    assert json.loads((tmp_path / "run.json").read_text())["seed"] == 0


def test_a_restarted_run_begins_anew(tmp_path: Path) -> None:
    run(solved_at({"a": 1}), tmp_path, "oracle", attempts=1)
    figures = restarted(solved_at({}), tmp_path, seed=1)
    assert accuracy(figures["models"][0], "oracle") == [0]
    assert len(episodes(tmp_path)) == 4
    assert json.loads((tmp_path / "run.json").read_text())["seed"] == 1


def test_a_run_that_cannot_begin_throws_nothing_away(tmp_path: Path) -> None:
    class Gone(ScriptedEngine):
        def prepare(self, model: str, dialogue: DialogueSettings) -> Partner:
            raise EngineLost("no such server")

    run(solved_at({}), tmp_path, "oracle", attempts=1)
    with pytest.raises(EngineLost):
        evaluate([MODEL], ask("a"), settings(), Gone(solved_at({})), tmp_path, restart=True)
    assert len(episodes(tmp_path)) == 4
    assert (tmp_path / "eval.json").exists()


def restarted(script: Script, output: Path, **changes: Any) -> dict[str, Any]:
    how = settings("oracle", attempts=1, **changes)
    return evaluate([MODEL], ask("a", "b", "c", "d"), how, ScriptedEngine(script), output, restart=True)


def test_episodes_of_which_nobody_knows_how_they_were_made_are_not_taken(tmp_path: Path) -> None:
    run(solved_at({}), tmp_path, "oracle", attempts=1)
    (tmp_path / "run.json").unlink()
    with pytest.raises(ValueError, match=r"holds episodes, but no run\.json.*name another folder, or --restart"):
        run(solved_at({}), tmp_path, "oracle", attempts=1, temperature=1.0)
    assert not (tmp_path / "run.json").exists()
    restarted(solved_at({}), tmp_path, temperature=1.0)
    assert len(episodes(tmp_path)) == 4


# ---- Bad input ----


@pytest.mark.parametrize(
    ("protocols", "changes", "message"),
    [
        (("orakel",), {}, "unknown orakel; there are oracle, single-run"),
        (("oracle",), {"attempts": 0}, "--attempts = 0 must be at least 1"),
        (("independent",), {"fresh_temperature": 0.0}, "--sampling-temperature = 0.0 must be a number above 0"),
        (("oracle",), {"samples": 4}, "--samples = 4 with --temperature = 0: greedy dialogues"),
        (("oracle",), {"temperature": -1.0}, "temperature = -1.0 must be 0"),
        (("oracle",), {"temperature": float("nan")}, "temperature = nan must be 0"),
        (("oracle",), {"temperature": float("inf")}, "temperature = inf must be 0"),
        (("oracle",), {"max_response_length": 0}, "max_response_length = 0 must be at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    protocols: tuple[str, ...], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        settings(*protocols, **changes)


def test_blind_needs_words_for_it(tmp_path: Path) -> None:
    prompts = tmp_path / "mine.yaml"
    prompts.write_text("system: ''\nuser: $question\nverdict: Wrong.\n")
    dialogue = DialogueSettings(load_prompt_set(str(prompts)))
    with pytest.raises(ValueError, match="no field 'neutral'"):
        Settings(dialogue, ("blind",))
    Settings(dialogue, ("oracle",))


# ---- Reflection ----


def saying(texts: list[str]) -> Script:
    """The model says these, one after the other, whatever it is asked."""
    return lambda question, budget, number, request: texts[number - 1]


def test_a_reflection_stands_between_attempts_and_is_none_of_them(tmp_path: Path) -> None:
    # Every second text of the model is a reflection, with a box or without.
    says = [box(5), f"I added one. {box(4)}", box(6), "Hm.", box(4)]
    entry = run(saying(says), tmp_path, "oracle", reflect="self", attempts=3)
    assert accuracy(entry, "oracle") == [0.0, 0.0, 1.0]
    [row] = [row for row in episodes(tmp_path) if row["id"] == "a" and row["budget"] == 3]
    assert [attempt["answer"] for attempt in row["attempts"]] == ["5", "6", "4"]
    assert [(each["attempt"], each["by"], each["text"]) for each in row["reflections"]] == [
        (1, "self", says[1]),
        (2, "self", says[3]),
    ]
    told = [message["content"] for message in row["messages"] if message["role"] == "user"]
    assert told == ["a (3)", "Wrong. (2) Why?", "Now.", "Wrong. (1) Why?", "Now."]


def test_a_reflection_that_is_cut_ends_nothing(tmp_path: Path) -> None:
    says = [box(5), "It is because...", box(4)]
    entry = run(saying(says), tmp_path, "oracle", reflect="self", attempts=2)
    assert accuracy(entry, "oracle") == [0.0, 1.0]


def test_words_that_the_prompt_set_lacks_are_an_error_before_anything_is_asked(tmp_path: Path) -> None:
    bare = replace(load_prompt_set("toy"), retry="")
    with pytest.raises(ValueError, match="no fields 'reflect' and 'retry'"):
        run(solved_at({}), tmp_path, "oracle", reflect="self", prompts=bare)
    unworded = replace(load_prompt_set("toy"), ruled_out="")
    with pytest.raises(ValueError, match="prompt set 'toy' has no words for ruled_out; give it the field ruled_out"):
        run(solved_at({}), tmp_path, "oracle", prompts=unworded, feedback=["verdict", "ruled_out"])
