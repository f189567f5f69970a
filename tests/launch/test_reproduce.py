"""The experiment of `make reproduce`: what it runs, which checkpoints it evaluates, and what it says of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import report_files
import yaml
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from reproduce_plan import CONFIG, START, Choice, TrainingRun, choose, training_runs
from reproduce_results import write_results

from multi_attempt.config import load_settings
from multi_attempt.data import make_row, write_parquet
from multi_attempt.prompts import load_prompt_set

PLAN = yaml.safe_load((Path(__file__).parents[2] / "launch" / "reproduce.yaml").read_text())
SMALL: dict[str, Any] = {
    "seeds": [0, 1],
    "steps": 16,
    "method": {"name": "multi", "overrides": []},
    "baseline": {"name": "single", "overrides": ["multi_attempt.max_attempts=1"], "steps": 32},
    "ablations": [{"name": "M = 2", "overrides": ["multi_attempt.max_attempts=2"]}],
    "protocols": ["oracle", "blind"],
}
KINDS = ["sum", "sign"]


@pytest.fixture(scope="module", autouse=True)
def hydra_configs() -> Iterator[None]:
    """Makes ``hydra.compose`` look where ``verl.trainer.main_ppo`` does, whatever other tests have set up."""
    others = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    with initialize_config_module("verl.trainer.config", version_base=None):
        yield
    GlobalHydra.instance().hydra = others


def composed(run: TrainingRun) -> dict[str, Any]:
    config = compose(CONFIG, overrides=list(run.overrides))
    load_settings(config.multi_attempt)
    content = OmegaConf.to_container(config, resolve=True)
    assert isinstance(content, dict)
    return content  # type: ignore[return-value]


@pytest.fixture(scope="module")
def runs() -> list[TrainingRun]:
    return training_runs(PLAN, Path("outputs"))


def test_runs_have_folders_and_names_of_their_own(runs: list[TrainingRun]) -> None:
    assert len({run.output for run in runs}) == len({run.name for run in runs}) == len(runs)
    assert all(" " not in str(run.output) for run in runs)


def test_the_pair_differs_in_max_attempts_alone(runs: list[TrainingRun]) -> None:
    method, baseline = (
        composed(next(run for run in runs if run.arm == PLAN[arm]["name"])) for arm in ("method", "baseline")
    )
    assert method["multi_attempt"].pop("max_attempts") == 5
    assert baseline["multi_attempt"].pop("max_attempts") == 1
    assert method == baseline


def test_every_ablation_is_one_override_that_changes_the_config(runs: list[TrainingRun]) -> None:
    method = composed(runs[0])
    for arm in PLAN["ablations"]:
        run = next(run for run in runs if run.arm == arm["name"])
        assert len(arm["overrides"]) == 1
        assert run.seed == runs[0].seed
        assert composed(run) != method
        load_prompt_set(run.prompts)
        assert composed(run)["multi_attempt"]["prompts"] == run.prompts


def test_seeds_reach_the_config(runs: list[TrainingRun]) -> None:
    seeds = {composed(run)["data"]["seed"] for run in runs if run.arm == PLAN["method"]["name"]}
    assert seeds == set(PLAN["seeds"])


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
def trained(tmp_path: Path) -> tuple[list[TrainingRun], Path]:
    runs = training_runs(SMALL, tmp_path)
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
    return runs, tmp_path


def chosen(choices: Sequence[Choice]) -> list[tuple[str, str, float]]:
    return [(choice.arm, choice.name, choice.tokens) for choice in choices]


def test_the_best_by_validation_is_chosen_at_equal_steps_and_at_equal_tokens(
    trained: tuple[list[TrainingRun], Path],
) -> None:
    runs, output = trained
    choices = choose(SMALL, runs, output / "toy")
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


def test_a_baseline_that_generated_too_little_is_refused(trained: tuple[list[TrainingRun], Path]) -> None:
    runs, output = trained
    single = next(run for run in runs if run.arm == "single")
    report_files.write_run(single.output, training(32, 10.0, {8: 0.5, 16: 0.5}))
    with pytest.raises(SystemExit, match=r"single, seed 0: 32 steps generated 320 tokens.*raise baseline\.steps"):
        choose(SMALL, runs, output / "toy")


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


@pytest.fixture
def results(trained: tuple[list[TrainingRun], Path]) -> Path:
    runs, output = trained
    choices = choose(SMALL, runs, output / "toy")
    benchmarks = {name: 10 for kind in KINDS for name in (kind, f"hard {kind}")}
    for group, models in choices.items():
        entries = [
            report_files.model(name, ACCURACIES[name], list(benchmarks), models[0].protocols)
            for name in dict.fromkeys(choice.name for choice in models)
        ]
        content = report_files.evaluation(
            *entries, attempts=[1, 2, 3], benchmarks=benchmarks, protocols=models[0].protocols
        )
        episodes = [
            report_files.episode(
                *attempts, model=choice.name, benchmark=kind, id=str(number), budget=2, text=f"{kind} {number} is"
            )
            for choice in models
            for kind, dialogues in DIALOGUES.items()
            for number, attempts in enumerate(dialogues)
        ]
        report_files.write_run(output / "evaluation" / group, content=content, episodes=episodes)
    for file, prefix in (("heldout", ""), ("hard", "hard ")):
        rows = [
            make_row("1+2", "6" if number < 3 else "7", data_source=prefix + kind, index=number, split=file)
            for kind in KINDS
            for number in range(4 if kind == "sign" else 2)
        ]
        (output / "toy").mkdir(exist_ok=True)
        write_parquet(rows, output / "toy" / f"{file}.parquet")
    write_results(SMALL, runs, choices, output, output / "docs")
    return output / "docs"


def row(page: str, heading: str, label: str) -> list[str]:
    """The cells of the first row with this label after a heading."""
    lines = page[page.index(heading) :].splitlines()
    line = next(line for line in lines if line.startswith(f"| {label} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_tables_say_what_was_measured(results: Path) -> None:
    page = (results / "results.md").read_text()
    # Gains of 30 and 20 points: 25 on the mean, and t times 5 either way.
    multi = row(page, "## Held-out questions", "multi")
    assert multi[:3] == ["+25.0 [-38.5, +88.5]", "65.0% [1.5%, 100.0%]", "90.0% [90.0%, 90.0%]"]
    assert row(page, "## Harder questions", START)[:2] == ["+0.0", "50.0%"]
    # 30 - 0 and 20 - 10 at equal steps; 30 - 10 and 20 - 10 at equal tokens.
    assert row(page, "| points more", "multi against single")[1].startswith("+20.0 [")
    assert row(page, "| points more", "multi against single, equal tokens")[1].startswith("+15.0 [")
    # Of ten questions a benchmark: the mean over questions is that of the seeds.
    assert row(page, "| points more", "multi against single")[2].startswith("+20.0 [")
    assert row(page, "## Ablations", "M = 2")[:4] == ["16", "60.0%", "80.0%", "80.0%"]
    assert row(page, "## Ablations", "single")[:3] == ["16", "70.0%", "70.0%"]
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
