"""The experiment of `make reproduce`: what it runs, which checkpoints it evaluates, and what it says of them."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import report_files
import reproduce
import reproduce_pilot
import yaml
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from reproduce_plan import Choice, Plan, TrainingRun, batches, choose, complete, read_plan, training_runs
from reproduce_results import write_results
from reproduce_sets import question_sets
from runs import finished

from multi_attempt.config import load_settings
from multi_attempt.data import make_row, write_parquet
from multi_attempt.evaluation.command import read_questions
from multi_attempt.prompts import load_prompt_set
from multi_attempt.word_problems.build import Settings, build_word_problems

LAUNCH = Path(__file__).parents[2] / "launch"
PLANS = {name: read_plan(LAUNCH / f"{name}.yaml") for name in ("reproduce", "reproduce_lm")}
PLAN = PLANS["reproduce"]
START = PLAN.start["name"]
KINDS = ["sum", "sign"]


def small_plan(folder: Path, **changes: Any) -> Plan:
    """A plan of little, in a folder."""
    return replace(
        PLAN,
        output=folder,
        results=folder / "docs",
        seeds=[0, 1],
        steps=16,
        method={"name": "multi", "overrides": []},
        baseline={"name": "single", "overrides": ["multi_attempt.max_attempts=1"], "steps": 32},
        ablations=[{"name": "M = 2", "overrides": ["multi_attempt.max_attempts=2"]}],
        protocols=["oracle", "blind"],
        **changes,
    )


@pytest.fixture(scope="module", autouse=True)
def hydra_configs() -> Iterator[None]:
    """Makes ``hydra.compose`` look where ``verl.trainer.main_ppo`` does, whatever other tests have set up."""
    others = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    with initialize_config_module("verl.trainer.config", version_base=None):
        yield
    GlobalHydra.instance().hydra = others


def composed(plan: Plan, overrides: Sequence[str], config: str | None = None) -> dict[str, Any]:
    found = compose(config or plan.config, overrides=[*plan.places(), *overrides])
    load_settings(found.multi_attempt)
    content = OmegaConf.to_container(found, resolve=True)
    assert isinstance(content, dict)
    return content  # type: ignore[return-value]


@pytest.fixture(params=PLANS)
def plan(request: pytest.FixtureRequest) -> Plan:
    return PLANS[request.param]


def test_runs_have_folders_and_names_of_their_own(plan: Plan) -> None:
    runs = training_runs(plan)
    assert len({run.output for run in runs}) == len({run.name for run in runs}) == len(runs)
    assert all(" " not in str(run.output) for run in runs)
    assert len({each["title"] for each in plan.sets}) == len(plan.sets)


def test_the_pair_differs_in_max_attempts_alone(plan: Plan) -> None:
    method, baseline = (composed(plan, run.overrides) for run in training_runs(plan)[:2])
    assert method["multi_attempt"].pop("max_attempts") > 1
    assert baseline["multi_attempt"].pop("max_attempts") == 1
    assert method == baseline


def test_runs_start_from_the_plan_s_model_and_ask_its_questions_as_evaluations_do(plan: Plan) -> None:
    found = composed(plan, training_runs(plan)[0].overrides)
    assert found["actor_rollout_ref"]["model"]["path"] == str(plan.start_model)
    assert found["data"]["train_files"] == f"{plan.task}/train.parquet"
    assert found["multi_attempt"]["prompts"] == plan.prompts
    assert f"--max-tokens-per-attempt={found['multi_attempt']['max_tokens_per_attempt']}" in plan.evaluation
    assert f"--dtype={found['actor_rollout_ref']['rollout']['dtype']}" in ["--dtype=float32", *plan.evaluation]
    if plan.pilot:
        temperature = found["actor_rollout_ref"]["rollout"]["temperature"]
        assert plan.pilot["temperatures"] == [0.0, temperature]
        assert f"--sampling-temperature={temperature}" in plan.evaluation


def test_all_that_the_language_model_s_experiment_depends_on_is_the_same_on_a_gpu() -> None:
    plan = PLANS["reproduce_lm"]
    cpu, gpu = (composed(plan, [], config) for config in (plan.config, "reproduce_lm_gpu"))
    assert gpu["trainer"]["device"] == "cuda"
    for section, fields in {
        "multi_attempt": ("prompts", "feedback", "max_attempts", "max_tokens_per_attempt", "reward"),
        "data": ("train_batch_size", "max_prompt_length", "max_response_length"),
        "algorithm": ("adv_estimator", "gamma", "lam"),
        "trainer": ("critic_warmup", "save_freq", "test_freq"),
    }.items():
        assert [cpu[section][field] for field in fields] == [gpu[section][field] for field in fields]
    actors = [config["actor_rollout_ref"]["actor"] for config in (cpu, gpu)]
    assert actors[0]["optim"] == actors[1]["optim"]
    assert cpu["critic"]["enable"] is gpu["critic"]["enable"] is False
    assert cpu["actor_rollout_ref"]["rollout"]["n"] == gpu["actor_rollout_ref"]["rollout"]["n"]
    assert len({(actor["kl_loss_coef"], actor["use_kl_loss"], actor["ppo_mini_batch_size"]) for actor in actors}) == 1


def test_every_ablation_is_one_override_that_changes_the_config(plan: Plan) -> None:
    runs = training_runs(plan)
    method = composed(plan, runs[0].overrides)
    for arm in plan.ablations:
        run = next(run for run in runs if run.arm == arm["name"])
        assert len(arm["overrides"]) == 1
        assert run.seed == runs[0].seed
        found = composed(plan, run.overrides)
        assert found != method
        load_prompt_set(run.prompts)
        assert found["multi_attempt"]["prompts"] == run.prompts


def test_seeds_reach_the_config(plan: Plan) -> None:
    runs = [run for run in training_runs(plan) if run.arm == plan.method["name"]]
    assert {composed(plan, run.overrides)["data"]["seed"] for run in runs} == set(plan.seeds)


def test_a_pair_is_trained_before_the_next_and_ablations_last() -> None:
    order = [[run.name for run in batch] for batch in batches(PLAN)]
    assert order[:2] == [[f"multi-attempt, seed {seed}", f"single-turn, seed {seed}"] for seed in (0, 1)]
    assert len(order) == len(PLAN.seeds) + 1
    assert [[run.seed for run in batch] for batch in batches(PLAN, [1])] == [[1, 1]]
    with pytest.raises(ValueError, match=r"--seeds: \{7\} are not in the plan's seeds = \[0, 1, 2\]"):
        batches(PLAN, [0, 7])


def test_a_plan_with_an_unknown_field_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text((LAUNCH / "reproduce.yaml").read_text() + "\nstep: 3\n")
    with pytest.raises(ValueError, match=r"plan\.yaml is no plan .*'step'"):
        read_plan(file)
    assert read_plan(LAUNCH / "reproduce.yaml", config="other", output=None).config == "other"


def training(steps: int, tokens: float, validated: Mapping[int, float]) -> list[dict[str, Any]]:
    rows = [
        {**report_files.training_step(step, 0.5), "multi_attempt/generated_tokens": tokens}
        for step in range(1, steps + 1)
    ]
    for step, accuracy in validated.items():
        for attempts in (1, 2):
            rows[step - 1][f"val-core/toy_{attempts}_attempts/acc/mean@1"] = accuracy
    return rows


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Plan, list[TrainingRun]]:
    plan = small_plan(tmp_path)
    runs = training_runs(plan)
    validated = {
        ("multi", 0): {8: 0.8, 16: 0.7},
        ("multi", 1): {8: 0.8, 16: 0.8},
        # At equal tokens (24 steps) one of later steps is better; for seed 1 the same is best.
        ("single", 0): {8: 0.5, 16: 0.6, 24: 0.7, 32: 0.9},
        ("single", 1): {8: 0.7, 16: 0.6, 24: 0.6, 32: 0.9},
        ("M = 2", 0): {8: 0.1, 16: 0.2},
    }
    for run in runs:
        tokens = 20.0 if run.arm == "single" else 30.0
        report_files.write_run(run.output, training(run.steps, tokens, validated[run.arm, run.seed]))
    return plan, runs


def chosen(choices: Sequence[Choice]) -> list[tuple[str, str, float]]:
    return [(choice.arm, choice.name, choice.tokens) for choice in choices]


def test_the_best_by_validation_is_chosen_at_equal_steps_and_at_equal_tokens(
    trained: tuple[Plan, list[TrainingRun]],
) -> None:
    plan, runs = trained
    choices = choose(plan, runs)
    assert chosen(choices["pair"]) == [
        (START, START, 0.0),
        ("multi", "multi, seed 0, step 8", 480.0),
        ("single", "single, seed 0, step 16", 320.0),
        ("single, equal tokens", "single, seed 0, step 24", 480.0),
        ("multi", "multi, seed 1, step 8", 480.0),
        ("single", "single, seed 1, step 8", 320.0),
        ("single, equal tokens", "single, seed 1, step 8", 480.0),
    ]
    assert chosen(choices["ablations-toy"]) == [("M = 2", "M = 2, seed 0, step 16", 480.0)]
    assert choices["pair"][1].model == runs[0].output / "checkpoints/global_step_8/actor/huggingface"
    assert choices["pair"][0].protocols == ("oracle", "blind")
    assert choices["ablations-toy"][0].protocols == ("oracle",)


def test_a_baseline_that_generated_too_little_is_refused(trained: tuple[Plan, list[TrainingRun]]) -> None:
    plan, runs = trained
    single = next(run for run in runs if run.arm == "single")
    report_files.write_run(single.output, training(32, 10.0, {8: 0.5, 16: 0.5}))
    with pytest.raises(SystemExit, match=r"single, seed 0: 32 steps generated 320 tokens.*raise baseline\.steps"):
        choose(plan, runs)


def test_runs_that_go_on_wait_for_their_turn_in_the_results(trained: tuple[Plan, list[TrainingRun]]) -> None:
    plan, runs = trained
    for run in runs:
        (run.output / "checkpoints").mkdir()
        latest = run.steps - (run.name == "single, seed 1")
        (run.output / "checkpoints" / "latest_checkpointed_iteration.txt").write_text(str(latest))
    assert [run.name for run in complete(plan)] == ["multi, seed 0", "single, seed 0", "M = 2, seed 0"]


ACCURACIES = {
    START: [0.5, 0.5, 0.5],
    "multi, seed 0, step 8": [0.6, 0.9, 1.0],
    "multi, seed 1, step 8": [0.7, 0.9, 1.0],
    "single, seed 0, step 16": [0.7, 0.7, 0.8],
    "single, seed 0, step 24": [0.7, 0.8, 0.8],
    "single, seed 1, step 8": [0.7, 0.8, 0.8],
    "M = 2, seed 0, step 16": [0.6, 0.8, 0.8],
}


RIGHT, WRONG = report_files.RIGHT, report_files.WRONG
DIALOGUES = {"sum": [[RIGHT], [WRONG, WRONG]], "sign": [[RIGHT], [WRONG, WRONG], [WRONG, RIGHT], [WRONG, RIGHT]]}


def write_evaluations(plan: Plan, choices: Mapping[str, Sequence[Choice]], benchmarks: Mapping[str, int]) -> None:
    for group, models in choices.items():
        entries = [
            report_files.model(name, ACCURACIES[name], list(benchmarks), models[0].protocols)
            for name in dict.fromkeys(choice.name for choice in models)
        ]
        content = report_files.evaluation(
            *entries, attempts=[1, 2, 3], benchmarks=dict(benchmarks), protocols=models[0].protocols
        )
        episodes = [
            report_files.episode(
                *attempts, model=choice.name, benchmark=kind, id=str(number), budget=2, text=f"{kind} {number} is"
            )
            for choice in models
            for kind, dialogues in DIALOGUES.items()
            for number, attempts in enumerate(dialogues)
        ]
        report_files.write_run(plan.output / "evaluation" / group, content=content, episodes=episodes)


def write_questions(plan: Plan) -> None:
    plan.task.mkdir(exist_ok=True)
    for file, prefix in (("heldout", ""), ("hard", "hard ")):
        rows = [
            make_row("1+2", "6" if number < 3 else "7", data_source=prefix + kind, index=number, split=file)
            for kind in KINDS
            for number in range(4 if kind == "sign" else 2)
        ]
        write_parquet(rows, plan.task / f"{file}.parquet")


def written(plan: Plan, runs: Sequence[TrainingRun]) -> Path:
    choices = choose(plan, runs)
    write_questions(plan)
    write_evaluations(plan, choices, {name: 10 for kind in KINDS for name in (kind, f"hard {kind}")})
    write_results(plan, runs, choices, question_sets(plan))
    return plan.results


@pytest.fixture
def results(trained: tuple[Plan, list[TrainingRun]]) -> Path:
    return written(*trained)


def row(page: str, heading: str, label: str) -> list[str]:
    """The cells after the first row with this label after a heading."""
    lines = page[page.index(heading) :].splitlines()
    line = next(line for line in lines if line.startswith(f"| {label} |"))
    return [cell.strip() for cell in line.removeprefix(f"| {label} |").strip("|").split("|")]


def test_tables_say_what_was_measured(results: Path) -> None:
    page = (results / "results.md").read_text()
    # Gains of 30 and 20 points: 25 on the mean, and t times 5 either way.
    multi = row(page, "## Held-out questions", "multi")
    assert multi[:3] == ["+25.0 [-38.5, +88.5]", "65.0% [1.5%, 100.0%]", "90.0% [90.0%, 90.0%]"]
    assert row(page, "## Harder questions", START)[:2] == ["+0.0", "50.0%"]
    # 30 - 0 and 20 - 10 at equal steps; 30 - 10 and 20 - 10 at equal tokens.
    against = row(page, "| points more", "multi against single")
    assert against[2].startswith("+20.0 [")
    assert row(page, "| points more", "multi against single, equal tokens")[2].startswith("+15.0 [")
    # Of ten questions a benchmark: the mean over questions is that of the seeds.
    assert against[3].startswith("+20.0 [")
    assert against[0].startswith("-5.0 [")
    assert against[1].startswith("-5.0 [")
    assert row(page, "## Ablations", "M = 2")[:4] == ["16", "60.0%", "80.0%", "80.0%"]
    assert row(page, "## Ablations", "single")[:3] == ["16", "70.0%", "70.0%"]
    assert row(page, "told that the first is wrong", "multi")[:2] == ["+25.0 [-38.5, +88.5]"] * 2
    assert row(page, "told that the first is wrong", "multi")[3].startswith("+0.0 [")
    assert row(page, "What second attempts come to", START) == ["25.0%", "55.0%", "20.0%"] * 2 + ["10.0%"]
    assert row(page, "By attempts and protocol", "multi | blind") == ["65.0%", "90.0%", "100.0%"]
    assert row(page, "By kind", "sign") == ["50.0% / 50.0%", "70.0% / 75.0%", "70.0% / 80.0%", "65.0% / 90.0%"]
    assert "\nTraining with seed 0, 1. In brackets" in page
    assert "6 questions with 2 different answers" in page
    assert "The most frequent (6) is that of 83.3%" in page


def test_mended_mistakes_are_picked_by_the_rule(results: Path) -> None:
    page = (results / "results.md").read_text()
    mended = page[page.index("## Mistakes mended") : page.index("## Runs")]
    assert "sum: none." in mended
    assert mended.count("sign 2 is") == 2  # both attempts of the first that is mended
    assert "sign 3 is" not in mended
    assert "multi, seed 0" in mended


def test_commands_figures_and_models_are_there(results: Path) -> None:
    page = (results / "results.md").read_text()
    assert page.count("python -m verl.trainer.main_ppo --config-name reproduce") == 5
    assert "'multi_attempt.max_attempts=2'" in page or " multi_attempt.max_attempts=2" in page
    for name in ("training", "accuracy_by_attempts", "accuracy_by_kind", "accuracy_on_harder_questions", "protocols"):
        assert f"]({name}.png)" in page
        assert (results / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    models = json.loads((results / "results.json").read_text())
    assert [model["step"] for model in models] == [0, 8, 16, 24, 8, 8, 8, 16]
    assert models[1]["accuracy"]["blind"]["hard sum"] == [0.6, 0.9, 1.0]
    assert "## blind" in (results / "tables.md").read_text()


def test_results_can_be_written_before_all_seeds_are_in(trained: tuple[Plan, list[TrainingRun]]) -> None:
    plan, runs = trained
    page = (written(plan, runs[:2]) / "results.md").read_text()
    assert "Training with seed 0: 1 of the 2 planned so far." in page
    assert row(page, "| points more", "multi against single")[0::2] == ["-10.0", "+30.0"]
    assert "## Ablations" not in page


def test_each_pair_is_evaluated_when_it_is_trained_and_nothing_is_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of things, with stand-ins for whatever takes time."""
    events: list[str] = []

    def train(output: Path, steps: int, overrides: Sequence[str], *, config: str) -> Path:
        if not finished(output, steps):
            events.append(f"train {output.name} by {config} {steps}")
            model = output / "checkpoints" / f"global_step_{steps}" / "actor" / "huggingface"
            model.mkdir(parents=True)
            (output / "checkpoints" / "latest_checkpointed_iteration.txt").write_text(str(steps))
            report_files.write_run(output, training(steps, 20.0, {2: 0.5, steps: 0.5}))
        return output / "checkpoints"

    def evaluate(models: Mapping[str, Path], arguments: Sequence[str], output: Path) -> None:
        events.append(f"{output.name} of {len(models)}")

    for name, stand_in in {
        "run": lambda command: events.append(f"make {command[command.index('--output') + 1]}"),
        "train": train,
        "pilot": lambda plan: events.append("pilot"),
        "evaluate": evaluate,
        "question_sets": lambda plan: [],
        "write_results": lambda plan, runs, choices, sets: events.append(f"results of {len(runs)}"),
        "prepare_process": lambda: None,
    }.items():
        monkeypatch.setattr(reproduce, name, stand_in)
    content = yaml.safe_load((LAUNCH / "reproduce_lm.yaml").read_text())
    content |= {"seeds": [3, 4], "steps": 2, "baseline": {"name": "single-turn", "overrides": [], "steps": 4}}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(content))
    command = ["reproduce.py", "--plan", str(tmp_path / "plan.yaml"), "--output", str(tmp_path)]
    made = [f"make {tmp_path / 'word_problems'}", f"make {tmp_path / 'smollm2_135m'}"]

    monkeypatch.setattr(sys, "argv", [*command, "--seeds", "4", "--stages", "train", "results"])
    assert reproduce.main() == 0
    pair = ["train multi-attempt-4 by reproduce_lm 2", "train single-turn-4 by reproduce_lm 4"]
    assert events == [*made, *pair, "pair of 3", "results of 2"]

    events.clear()
    monkeypatch.setattr(sys, "argv", [*command, "--config", "reproduce_lm_gpu"])
    assert reproduce.main() == 0
    pair = ["train multi-attempt-3 by reproduce_lm_gpu 2", "train single-turn-3 by reproduce_lm_gpu 4"]
    assert events == [*made, "pilot", *pair, *["pair of 5", "results of 4"] * 2]


@pytest.fixture
def word_problems(tmp_path: Path) -> Plan:
    plan = replace(PLANS["reproduce_lm"], output=tmp_path, results=tmp_path / "docs")
    build_word_problems(plan.task, Settings(train=16, validation=16, test=16, other_wordings=32))
    return plan


def test_each_kind_of_word_problem_is_a_benchmark_of_its_set(word_problems: Plan) -> None:
    test, *others = question_sets(word_problems)
    assert len(test.questions) == 16
    assert sum(len(each.questions) for each in others) == 32
    kinds = [set(each.kinds) for each in (test, *others)]
    assert kinds[1] == {f"reworded {kind}" for kind in kinds[0]}
    assert kinds[2]
    assert not kinds[2] & {f"new {kind}" for kind in kinds[0]}
    wrong = replace(word_problems, sets=[{**word_problems.sets[0], "data_source": "sums"}])
    with pytest.raises(ValueError, match=r"test\.parquet holds no questions of data_source = 'sums': name one of word"):
        question_sets(wrong)


def test_the_pilot_asks_validation_questions_at_both_temperatures(
    word_problems: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def evaluate(models: Mapping[str, Path], arguments: Sequence[str], output: Path) -> None:
        asked.append((list(models), [argument for argument in arguments if argument.startswith("--temperature")]))
        questions = read_questions(Path(arguments[1]))
        counts = Counter(question.benchmark for question in questions)
        start = report_files.model(next(iter(models)), [0.4, 0.5, 0.6], list(counts), ["oracle", "blind"])
        content = report_files.evaluation(start, attempts=[1, 2, 3], benchmarks=counts, protocols=["oracle", "blind"])
        report_files.write_run(output, content=content)

    monkeypatch.setattr(reproduce_pilot, "evaluate", evaluate)
    reproduce_pilot.pilot(word_problems)
    name = word_problems.start["name"]
    assert asked == [([name], ["--temperature=0.0"]), ([name], ["--temperature=0.7"])]
    page = (word_problems.results / "pilot.md").read_text()
    shares = ["40.0%", "50.0%", "60.0%", "50.0%", "25.0%", "55.0%", "20.0%", "10.0%"]
    assert row(page, "## Greedy", "all") == ["16", *shares]
    assert row(page, "## Temperature 0.7", "all") == ["16", *shares]
