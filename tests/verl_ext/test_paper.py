"""docs/paper.md says what is: its columns against the composed configs, its dialogues played."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose
from omegaconf import DictConfig, OmegaConf

from multi_attempt.config import load_settings
from multi_attempt.evaluation.protocols import PROTOCOLS
from multi_attempt.evaluation.settings import DialogueSettings
from multi_attempt.grading import NO_ANSWER, grade
from multi_attempt.prompts import load_prompt_set
from multi_attempt.tasks.math_episode import MathEpisode as Episode

pytestmark = pytest.mark.usefixtures("hydra_configs")

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "paper.md").read_text(encoding="utf-8")
GOLD = "7"

# The config that keys of the page are of, where no other stands before them.
_CONFIG = "multi_attempt"

# In what the two configs differ beside what the page compares.
_NAMES = {"trainer.experiment_name"}


def tables(heading: str) -> list[list[dict[str, str]]]:
    """The tables of a section, each as rows by their columns' names."""
    section = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    [text] = [part for part in section if part.startswith(f"{heading}\n")]
    found = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    return [[dict(zip(cells[0], row, strict=True)) for row in cells[2:]] for cells in map(_cells, found)]


def _cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.splitlines()]


def value(cell: str) -> Any:
    """What a cell says in backticks, as YAML has it."""
    matched = re.fullmatch(r"`(.+)`", cell)
    assert matched is not None, cell
    return yaml.safe_load(matched[1])


def settings() -> Iterator[tuple[str, dict[str, str]]]:
    [table] = tables("Settings")
    for row in table:
        yield row["key"].strip("`"), row


_NOWHERE = "(there is no such key)"


def configured(where: str, config: str | None = None) -> Any:
    """The value of a key, before which the page may name a config or an override."""
    *before, key = where.split()
    overrides = [word for word in before if "=" in word]
    names = [word for word in before if "=" not in word]
    composed = _composed(config or (names or [_CONFIG])[0], *overrides)
    found = OmegaConf.select(composed, key, throw_on_missing=True, default=_NOWHERE)
    assert found != _NOWHERE, key
    return OmegaConf.to_container(found) if OmegaConf.is_config(found) else found


@cache
def _composed(config: str, *overrides: str) -> DictConfig:
    return compose(config, overrides=list(overrides))


@pytest.mark.parametrize(("key", "row"), list(settings()), ids=[key for key, _ in settings()])
def test_settings_are_those_of_the_page(key: str, row: dict[str, str]) -> None:
    found = configured(key)
    assert found == value(row["ours"])
    if row["published"]:
        assert configured(key, "published") == value(row["published"]) != found


def test_published_differs_in_what_the_page_says_and_in_nothing_else() -> None:
    # By their own values: what refers to another key follows it.
    ours, published = (OmegaConf.to_container(compose(name), resolve=False) for name in ("multi_attempt", "published"))
    said = {key for key, row in settings() if row["published"]}
    assert set(differences(ours, published)) == said | _NAMES
    assert configured("actor_rollout_ref.rollout.response_length", "published") == 3108


def differences(first: Any, second: Any, path: str = "") -> Iterator[str]:
    if not isinstance(first, dict):
        if first != second:
            yield path
        return
    assert set(first) == set(second)
    for key in first:
        yield from differences(first[key], second[key], f"{path}.{key}".strip("."))


@pytest.mark.parametrize("row", tables("Rollout and reward")[0], ids=lambda row: row["attempts"])
@pytest.mark.parametrize("config", ["multi_attempt", "published"])
def test_dialogues_are_worth_what_the_page_says(config: str, row: dict[str, str]) -> None:
    rule = load_settings(compose(config).multi_attempt).reward
    episode = Episode("What is 3 + 4?", int(row["attempts allowed"]), load_prompt_set("boxed"))
    for attempt in row["attempts"].split(", "):
        answer = attempt.removeprefix("box ")
        text = "I do not know." if attempt == "none" else rf"So it is \boxed{{{answer}}}."
        assert not episode.done
        episode.record(text, NO_ANSWER if attempt == "none" else grade(text, GOLD))
    assert episode.done
    assert rule(episode.transcript) == value(row["published" if config == "published" else "ours"])


def test_prompt_sets_have_the_shapes_of_the_page() -> None:
    paper, boxed = load_prompt_set("paper"), load_prompt_set("boxed")
    assert [message["role"] for message in paper.opening("Q?", 2)] == ["system", "user"]
    system, user = (message["content"] for message in paper.opening("Q?", 2))
    assert "2 attempts" not in system
    assert user.index("Q?") < user.index("2 attempts")
    system, user = (message["content"] for message in boxed.opening("Q?", 2))
    assert "2 attempts" in system
    assert user == "Q?"
    assert (paper.feedback_role, boxed.feedback_role) == ("user", "system")
    assert paper.extract("<answer> 7 </answer>") == paper.extract(r"<answer>\boxed{7}</answer>") == GOLD
    assert boxed.extract("<answer> 7 </answer>") is None


def test_evaluation_is_that_of_the_page() -> None:
    [table] = tables("Evaluation")
    rows = {row["key"].strip("`"): row for row in table}
    assert configured("actor_rollout_ref.rollout.val_kwargs.temperature") == value(
        rows["actor_rollout_ref.rollout.val_kwargs.temperature"]["ours"]
    )
    assert next(iter(PROTOCOLS)) == value(rows["--protocols"]["ours"])
    assert value(rows["--max-response-length"]["ours"]) == "none"
    assert DialogueSettings(load_prompt_set("paper")).max_response_length is None


def test_the_page_words_a_prompt_set_that_loads(tmp_path: Path) -> None:
    [example] = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    path = tmp_path / "published.yaml"
    path.write_text(example)
    assert load_prompt_set(str(path)).feedback_role == "system"


def test_the_readme_leads_to_the_page() -> None:
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    assert "[as in the paper](docs/paper.md)" in readme
