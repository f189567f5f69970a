"""The settings that training leaves beside a model, and evaluation asks it with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf
from wordings import after_wrong

from multi_attempt.grading import Policies
from multi_attempt.model_settings import FILE, DialogueSettings, find, from_config, read, write
from multi_attempt.prompts import load_prompt_set

SETTINGS = DialogueSettings(
    load_prompt_set("boxed"),
    feedback=["verdict", "question"],
    max_tokens_per_attempt=48,
    max_response_length=384,
    temperature=0.5,
    policies=Policies(any_order=False),
    template_kwargs={"enable_thinking": False, "date": {"year": 2026}},
    chat_template="{{ messages[0].content }} ${not} {an: interpolation}",
    history="answers",
    history_answer_bytes=64,
)


def config(**multi_attempt: Any) -> DictConfig:
    return OmegaConf.create(
        {
            "multi_attempt": {"prompts": "boxed", **multi_attempt},
            "data": {
                "max_response_length": 384,
                "thinking": False,
                "apply_chat_template_kwargs": {"x": "${data.thinking}"},
            },
            "actor_rollout_ref": {
                "rollout": {"val_kwargs": {"temperature": 0.5}},
                "model": {"custom_chat_template": "{{ messages }}"},
            },
        }
    )


def test_what_was_written_is_read(tmp_path: Path) -> None:
    assert write(tmp_path, SETTINGS) == tmp_path / FILE
    assert read(tmp_path) == SETTINGS
    assert {path.name for path in tmp_path.iterdir()} == {FILE}


def test_a_file_of_the_wording_is_not_needed_later(tmp_path: Path) -> None:
    prompts = tmp_path / "mine.yaml"
    prompts.write_text("system: ''\nuser: $question\nverdict: Again.\n")
    write(tmp_path, from_config(config(prompts=str(prompts), feedback_role="system")))
    prompts.unlink()
    settings = read(tmp_path)
    assert settings is not None
    assert after_wrong(settings.prompts, "?", 1) == {"role": "system", "content": "Again."}


def test_the_settings_of_a_training_config() -> None:
    settings = from_config(
        config(feedback=["verdict", "question"], max_tokens_per_attempt=48, grader={"policies": {"any_order": False}})
    )
    assert settings == DialogueSettings(
        load_prompt_set("boxed"),
        feedback=["verdict", "question"],
        max_tokens_per_attempt=48,
        max_response_length=384,
        temperature=0.5,
        policies=Policies(any_order=False),
        template_kwargs={"x": False},
        chat_template="{{ messages }}",
    )
    assert settings.template_arguments == {"x": False, "chat_template": "{{ messages }}"}


def test_a_model_has_the_settings_of_its_checkpoint_and_of_nothing_above(tmp_path: Path) -> None:
    model = tmp_path / "run" / "global_step_8" / "actor" / "huggingface"
    model.mkdir(parents=True)
    write(tmp_path / "run", SETTINGS)
    assert find(model) is None
    assert find(tmp_path / "run" / "best") is None
    checkpoint = write(tmp_path / "run" / "global_step_8", SETTINGS)
    assert find(model) == checkpoint
    own = write(model, SETTINGS)
    assert find(model) == own


def test_a_folder_without_settings_has_none(tmp_path: Path) -> None:
    assert read(tmp_path) is None
    assert read(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_response_length": "many"}, "max_response_length = 'many' is of another type"),
        ({"max_response_length": True}, "max_response_length = True is of another type"),
        ({"max_tokens_per_attempt": 0}, "max_tokens_per_attempt = 0 must be at least 1"),
        ({"temperature": -1}, "temperature = -1 must be 0"),
        ({"length": 1}, "length is not known; the fields are prompts, "),
        ({"policies": {"rounded": 1}}, "policies.rounded is not known"),
        ({"policies": {"any_order": "no"}}, "policies.any_order = 'no' is of another type"),
        ({"prompts": {"name": "x"}}, r"prompts: .*missing .* 'system'"),
        ({"prompts": "paper"}, "prompts = 'paper' is of another type"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_the_field(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write(tmp_path, SETTINGS)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError, match=f"{path}: {message}"):
        read(tmp_path)


@pytest.mark.parametrize("content", ["[1]", "{", "{}", "\xff"])
def test_a_file_that_is_no_settings_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=f"{tmp_path / FILE}: .*correct it, or move it away"):
        read(tmp_path)
