"""Which settings an evaluation takes: flags, a training config, what training left beside a model, defaults."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from multi_attempt.evaluation.settings import Chosen, add_arguments, choose, in_words
from multi_attempt.grading import Policies
from multi_attempt.model_settings import DialogueSettings, write
from multi_attempt.prompts import load_prompt_set
from multi_attempt.toy.tokenizer import make_tokenizer

TRAINED = DialogueSettings(
    load_prompt_set("toy"),
    max_tokens_per_attempt=48,
    max_response_length=384,
    template_kwargs={"enable_thinking": False},
    chat_template="{{ messages }}",
)


def chosen(flags: str = "", **folders: Path) -> Chosen:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return choose(parser.parse_args(flags.split()), {name: str(folder) for name, folder in folders.items()})


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    folder = tmp_path / "trained"
    folder.mkdir()
    write(folder, TRAINED)
    return folder


def test_without_flags_and_files_the_defaults_are_the_papers(tmp_path: Path) -> None:
    found = chosen(base=tmp_path)
    assert found == Chosen(DialogueSettings(load_prompt_set("paper")), "the defaults", trust_remote_code=False)
    # What the context leaves, as in the paper's evaluation.
    assert found.dialogue.max_response_length is None


def test_a_model_is_asked_as_it_was_trained(trained: Path) -> None:
    assert chosen(after=trained).dialogue == TRAINED
    assert chosen(after=trained).source == str(trained / "multi_attempt.json")


def test_a_model_without_settings_is_asked_as_the_one_that_it_is_compared_with(trained: Path, tmp_path: Path) -> None:
    found = chosen(before=tmp_path, after=trained)
    assert found.dialogue == TRAINED
    assert found.source.endswith("multi_attempt.json, also for before, which has none of its own")


def test_each_flag_overrides_its_own_setting(trained: Path, tmp_path: Path) -> None:
    template = tmp_path / "mine.jinja"
    template.write_text("{{ messages }}!")
    flags = (
        "--prompts boxed --feedback-role user --feedback verdict question --max-tokens-per-attempt 7 "
        "--max-response-length 8 --history last --temperature 0.5 --policy any_order=false --policy integers=k "
        "--template-kwargs enable_thinking=true --template-kwargs more=[1] "
        f"--chat-template {template} --trust-remote-code"
    )
    assert chosen(flags, after=trained) == Chosen(
        DialogueSettings(
            replace(load_prompt_set("boxed"), feedback_role="user"),
            feedback=["verdict", "question"],
            max_tokens_per_attempt=7,
            max_response_length=8,
            temperature=0.5,
            policies=Policies(any_order=False, integers="k"),
            template_kwargs={"enable_thinking": True, "more": [1]},
            chat_template="{{ messages }}!",
            history="last",
        ),
        str(trained / "multi_attempt.json"),
        trust_remote_code=True,
    )


def test_none_lifts_what_training_limited(trained: Path) -> None:
    flags = "--max-tokens-per-attempt none --max-response-length none --chat-template none --feedback none"
    assert chosen(flags, after=trained).dialogue == replace(
        TRAINED, max_tokens_per_attempt=None, max_response_length=None, chat_template=None
    )


def test_models_that_were_trained_differently_are_compared_only_where_flags_say_how(
    trained: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    prompts = replace(load_prompt_set("toy"), verdict="No.")
    write(other, replace(TRAINED, prompts=prompts, max_response_length=100, policies=Policies(any_order=False)))
    message = (
        r"one and two were trained with different settings.*: --prompts \(verdict is 'Wrong.' and 'No.'\); "
        r"--max-response-length \(384 and 100\); --policy \(any_order is True and False\)"
    )
    with pytest.raises(ValueError, match=message):
        chosen(one=trained, two=other)
    flags = "--prompts toy --max-response-length 100 --policy any_order=true"
    assert chosen(flags, one=trained, two=other).dialogue == replace(TRAINED, max_response_length=100)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--prompts papers", "papers"),
        ("--policy order=true", r"--policy = 'order=true': there is no 'order'; there are rounded_digits, "),
        ("--policy any_order=1", "--policy = 'any_order=1': write a value like the default, any_order=true"),
        ("--template-kwargs thinking", "--template-kwargs = 'thinking': write KEY=JSON"),
        ("--template-kwargs thinking=yes", "--template-kwargs = 'thinking=yes': write KEY=JSON"),
        ("--chat-template nowhere.jinja", "--chat-template = 'nowhere.jinja' cannot be read"),
        ("--max-response-length 0", "max_response_length = 0 must be at least 1"),
        ("--temperature -1", "temperature = -1.0 must be 0"),
        ("--temperature nan", "temperature = nan must be 0"),
        ("--template-kwargs budget=NaN", "--template-kwargs = 'budget=NaN': write KEY=JSON"),
    ],
)
def test_a_wrong_flag_is_named(flags: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chosen(flags)


def test_a_length_that_is_no_number_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        chosen("--max-response-length many")
    assert "--max-response-length: 'many' is neither a number of tokens nor none" in capsys.readouterr().err


def test_a_training_config_gives_its_settings_and_comes_before_the_models_own(trained: Path) -> None:
    flags = (
        "--config-name multi_attempt_cpu multi_attempt.prompts=boxed multi_attempt.feedback=[verdict,question] "
        "+data.apply_chat_template_kwargs.enable_thinking=false actor_rollout_ref.model.trust_remote_code=true "
        "--max-response-length 99"
    )
    found = chosen(flags, after=trained)
    assert found.dialogue == DialogueSettings(
        load_prompt_set("boxed"),
        feedback=["verdict", "question"],
        max_tokens_per_attempt=48,
        max_response_length=99,
        template_kwargs={"enable_thinking": False},
    )
    assert found.trust_remote_code
    assert found.source.startswith("--config-name multi_attempt_cpu multi_attempt.prompts=boxed ")
    with pytest.raises(ValueError, match="--config-name multi_attempt_gpu"):
        chosen("--config-name multi_attempt_gpu")


def test_settings_in_words_say_what_is_not_as_usual() -> None:
    assert in_words(DialogueSettings(load_prompt_set("paper"), max_response_length=5).to_dict()) == (
        "prompt set paper, at most 5 tokens a dialogue"
    )
    unusual = DialogueSettings(
        replace(load_prompt_set("toy"), feedback_role="system"),
        feedback=["verdict", "question"],
        max_tokens_per_attempt=9,
        policies=Policies(any_order=False),
        template_kwargs={"enable_thinking": False},
        chat_template="{{ messages }}",
        history="answers",
    )
    assert in_words(unusual.to_dict()) == (
        "prompt set toy, feedback by the system, feedback of verdict, question, of earlier attempts their answers "
        "alone, as many tokens as the context holds, at most 9 tokens an attempt, a chat template of its own, "
        "enable_thinking=false, any_order=false"
    )


def test_a_plain_evaluation_needs_no_trainer(tmp_path: Path) -> None:
    make_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    program = f"""
import sys
from multi_attempt.evaluation import command
from multi_attempt.evaluation.engines import InProcess
from multi_attempt.model_settings import DialogueSettings
from multi_attempt.prompts import load_prompt_set

InProcess().prepare({str(tmp_path)!r}, DialogueSettings(load_prompt_set("toy")))
print("trainer:", *sorted({{"verl", "ray", "hydra"}} & set(sys.modules)))
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines()[-1] == "trainer:"
