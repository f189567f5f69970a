"""The settings under ``multi_attempt`` in a config: what is accepted, and what errors say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf
from wordings import after_unjudged, after_wrong

from multi_attempt.config import EpisodeSettings, GraderSettings, GuardSettings, TaskSettings, load_settings
from multi_attempt.grading import Policies
from multi_attempt.prompts import BUILT_IN
from multi_attempt.reflection import ReflectionSettings
from multi_attempt.rewards import RewardRule

CONFIG_FILE = Path(__file__).parents[2] / "config" / "multi_attempt.yaml"


def node(text: str) -> DictConfig:
    config = OmegaConf.create(text)
    assert isinstance(config, DictConfig)
    return config


def test_empty_node_gives_the_defaults_of_the_paper() -> None:
    settings = load_settings({})
    assert settings == TaskSettings(
        min_attempts=1,
        max_attempts=5,
        seed=0,
        prompts="paper",
        feedback_role=None,
        tell="oracle",
        feedback=None,
        ruled_out_length=80,
        reflect="none",
        reflection=ReflectionSettings(),
        max_tokens_per_attempt=None,
        reward=RewardRule(correct=1.0, well_formed=-0.5, otherwise=-1.0, attempt_discount=1.0, format_attempts="last"),
        grader=GraderSettings(deadline=2.0, workers=1, memory_mb=2048),
        episode=EpisodeSettings(timeout=1800.0, abort_retries=3, max_error_rate=0.1),
        guard=GuardSettings(min_correlation=0.95, max_difference=1.0e-4),
    )
    assert settings.prompt_set.name == "paper"


def test_config_file_says_what_the_code_defaults_to() -> None:
    written = yaml.safe_load(CONFIG_FILE.read_text(encoding="utf-8"))["multi_attempt"]
    assert load_settings(written) == TaskSettings()
    assert OmegaConf.to_container(OmegaConf.structured(TaskSettings)).keys() == written.keys()  # type: ignore[union-attr]


def test_settings_are_read_at_every_level() -> None:
    settings = load_settings(
        node(
            """
            min_attempts: 2
            max_attempts: 10
            seed: 7
            prompts: boxed
            feedback_role: user
            feedback: [verdict, question]
            max_tokens_per_attempt: 600
            reward: {attempt_discount: 0.9, format_attempts: any}
            grader: {deadline: 1, policies: {rounded_digits: 0, any_order: false, integers: n}}
            episode: {abort_retries: 0, max_error_rate: 1}
            guard: {min_correlation: -1}
            """
        )
    )
    assert (settings.min_attempts, settings.max_attempts, settings.seed) == (2, 10, 7)
    assert (settings.feedback, settings.max_tokens_per_attempt) == (["verdict", "question"], 600)
    assert (settings.prompt_set.name, settings.prompt_set.feedback_role) == ("boxed", "user")
    assert settings.reward == RewardRule(attempt_discount=0.9, format_attempts="any")
    assert settings.grader == GraderSettings(
        deadline=1.0, policies=Policies(rounded_digits=0, any_order=False, integers="n")
    )
    assert settings.episode == EpisodeSettings(abort_retries=0, max_error_rate=1.0)
    assert settings.guard == GuardSettings(min_correlation=-1.0)


def test_values_may_refer_to_the_rest_of_the_config() -> None:
    config = node("{data: {seed: 5}, multi_attempt: {seed: '${data.seed}'}}")
    assert load_settings(config.multi_attempt).seed == 5


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_prompt_sets_are_accepted(name: str) -> None:
    assert load_settings({"prompts": name}).prompt_set.name == name


@pytest.mark.parametrize("name", BUILT_IN)
def test_feedback_role_changes_the_role_and_nothing_else(name: str) -> None:
    own = load_settings({"prompts": name}).prompt_set
    assert load_settings({"prompts": name, "feedback_role": None}).prompt_set == own
    for role in ("user", "system"):
        changed = load_settings({"prompts": name, "feedback_role": role}).prompt_set
        assert changed == replace(own, feedback_role=role)
        assert after_wrong(changed, "Why?", 1) == {**after_wrong(own, "Why?", 1), "role": role}
        assert after_unjudged(changed, "Why?", 1)["role"] == role
    assert load_settings({"prompts": name}).prompt_set == own


def test_users_prompt_file_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("{system: '', user: $question, verdict: 'No.'}")
    settings = load_settings({"prompts": str(path)})
    assert settings.prompt_set.opening("Why?", 2) == [{"role": "user", "content": "Why?"}]


def test_invalid_prompt_file_shows_when_settings_are_loaded(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("{system: '', user: Why, verdict: 'No.'}")
    with pytest.raises(ValueError, match=r"mine.*user = 'Why'"):
        load_settings({"prompts": str(path)})


def test_missing_node_says_which_config_has_it() -> None:
    with pytest.raises(ValueError, match=r"'multi_attempt'.*--config-name multi_attempt"):
        load_settings(None)


@pytest.mark.parametrize("value", [[1], "paper", 5])
def test_node_that_is_no_mapping_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="multi_attempt"):
        load_settings(value)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("max_attempt: 3", "multi_attempt.max_attempt"),
        ("reward: {wrong: -1}", "multi_attempt.reward.wrong"),
        ("grader: {timeout: 3}", "multi_attempt.grader.timeout"),
        ("grader: {policies: {order: any}}", "multi_attempt.grader.policies.order"),
        ("episode: {retries: 3}", "multi_attempt.episode.retries"),
        ("guard: {correlation: 0.9}", "multi_attempt.guard.correlation"),
    ],
)
def test_unknown_key_is_named(text: str, key: str) -> None:
    with pytest.raises(ValueError, match=rf"^{key}: ") as caught:
        load_settings(node(text))
    assert "config/multi_attempt.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("max_attempts: many", "max_attempts", "many"),
        ("max_attempts: 2.5", "max_attempts", "2.5"),
        ("min_attempts: null", "min_attempts", "None"),
        ("seed: true", "seed", "True"),
        ("prompts: null", "prompts", "None"),
        ("feedback_role: [user]", "feedback_role", "user"),
        ("feedback: verdict", "feedback", "verdict"),
        ("max_tokens_per_attempt: all", "max_tokens_per_attempt", "all"),
        ("reward: {correct: high}", "reward.correct", "high"),
        ("grader: {deadline: soon}", "grader.deadline", "soon"),
        ("grader: {workers: 1.5}", "grader.workers", "1.5"),
        ("grader: 3", "grader", "3"),
        ("grader: {policies: {any_order: sometimes}}", "grader.policies.any_order", "sometimes"),
        ("episode: {timeout: never}", "episode.timeout", "never"),
        ("guard: {min_correlation: high}", "guard.min_correlation", "high"),
        ("seed: '${nowhere}'", "seed", "nowhere"),
    ],
)
def test_wrong_type_is_refused_by_key_and_value(text: str, key: str, value: str) -> None:
    with pytest.raises(ValueError, match=rf"multi_attempt\.{key}\b") as caught:
        load_settings(node(text))
    assert value in str(caught.value)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("min_attempts: 0", "min_attempts", "0"),
        ("max_attempts: -1", "max_attempts", "-1"),
        ("{min_attempts: 4, max_attempts: 3}", "min_attempts", "4"),
        ("{min_attempts: 4, max_attempts: 3}", "max_attempts", "3"),
        ("prompts: papers", "prompts", "'papers'"),
        ("feedback_role: assistant", "feedback_role", "'assistant': use user or system, or null"),
        ("feedback_role: ''", "feedback_role", "''"),
        ("max_tokens_per_attempt: 0", "max_tokens_per_attempt", "0"),
        ("reward: {correct: -3}", "reward", "correct = -3.0"),
        ("reward: {well_formed: 2}", "reward", "well_formed = 2.0"),
        ("reward: {otherwise: 0}", "reward", "otherwise = 0.0"),
        ("reward: {attempt_discount: 2}", "reward.attempt_discount", "2.0"),
        ("reward: {attempt_discount: 0}", "reward.attempt_discount", "0.0"),
        ("reward: {format_attempts: all}", "reward.format_attempts", "'all'"),
        ("grader: {deadline: 0}", "grader.deadline", "0.0"),
        ("grader: {deadline: -1}", "grader.deadline", "-1.0"),
        ("grader: {deadline: .nan}", "grader.deadline", "nan"),
        ("guard: {max_difference: .inf}", "guard.max_difference", "inf"),
        ("guard: {max_difference: .nan}", "guard.max_difference", "nan"),
        ("guard: {max_difference: 1}", "guard.max_difference", "1.0"),
        ("guard: {max_difference: -0.1}", "guard.max_difference", "-0.1"),
        ("reward: {correct: .inf}", "reward.correct", "inf"),
        ("reward: {correct: .nan}", "reward.correct", "nan"),
        ("reward: {otherwise: -.inf}", "reward.otherwise", "-inf"),
        ("grader: {deadline: .inf}", "grader.deadline", "inf"),
        ("grader: {workers: 0}", "grader.workers", "0"),
        ("grader: {memory_mb: 0}", "grader.memory_mb", "0"),
        ("grader: {policies: {rounded_digits: -1}}", "grader.policies.rounded_digits", "-1"),
        ("episode: {timeout: 0}", "episode", "timeout=0.0"),
        ("episode: {timeout: .nan}", "episode", "timeout=nan"),
        ("episode: {abort_retries: -1}", "episode", "abort_retries=-1"),
        ("episode: {max_error_rate: 1.5}", "episode", "max_error_rate=1.5"),
        ("episode: {max_error_rate: -0.1}", "episode", "max_error_rate=-0.1"),
        ("guard: {min_correlation: 1.5}", "guard.min_correlation", "1.5"),
        ("guard: {min_correlation: -1.5}", "guard.min_correlation", "-1.5"),
        ("tell: nothing", "tell", "'nothing': use oracle or blind"),
        ("feedback: []", "feedback", r"\[\]: name a part"),
        ("ruled_out_length: 0", "ruled_out_length", "0"),
    ],
)
def test_value_out_of_range_is_refused_by_key_and_value(text: str, key: str, value: str) -> None:
    with pytest.raises(ValueError, match=rf"multi_attempt\.{key}\b.*{value}"):
        load_settings(node(text))
