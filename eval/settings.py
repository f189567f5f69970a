"""Which settings the models are asked with: as they were trained, but for what the flags say.

Flags come first, then the config that ``--config-name`` names, then the file that training left beside a model
(:mod:`multi_attempt.model_settings`), then the defaults.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from multi_attempt.history import ANSWERS, FULL, LAST, POLICIES
from multi_attempt.model_settings import DialogueSettings, Policies, find, from_config, read
from multi_attempt.prompts import FEEDBACK_ROLES, PARTS, load_prompt_set
from multi_attempt.reflection import REFLECT
from multi_attempt.tasks.load import DEFAULT
from multi_attempt.tasks.options import add_task_arguments, json_option, task_settings

DEFAULT_PROMPTS = "paper"

_NONE = "none"
"""The word that lifts a limit, or takes back a template, which config or file set."""

_FLAGS = {"prompts": "--prompts", "policies": "--policy"}


class Chosen(NamedTuple):
    """The settings of an evaluation.

    Attributes:
        dialogue: what all models are asked with.
        source: where it comes from, in words.
        trust_remote_code: whether code in the models' folders may run.
    """

    dialogue: DialogueSettings
    source: str
    trust_remote_code: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags; one that is not given leaves no attribute, so that what is not said is not overridden."""
    group = parser.add_argument_group(
        "settings of the model's training",
        "By default those of the file multi_attempt.json beside a model, which training writes. --config-name takes "
        "them from a config instead, and each flag overrides its own.",
    )

    def add(*names: str, **how: Any) -> None:
        group.add_argument(*names, default=argparse.SUPPRESS, **how)

    group.add_argument(
        "--config-name",
        nargs="+",
        metavar=("NAME", "key=value"),
        help="the settings of a training config with these overrides, as for verl.trainer.main_ppo",
    )
    add_task_arguments(add)
    add("--prompts", metavar="NAME", help=f"prompt set: a built-in name or a YAML file (default {DEFAULT_PROMPTS})")
    add("--feedback-role", choices=FEEDBACK_ROLES, help="who gives feedback (default: as the prompt set says)")
    add("--feedback", nargs="+", metavar="PART", help=f"what feedback is made of: {', '.join(PARTS)}, or none")
    add("--reflect", choices=REFLECT, help="who says what went wrong before the next attempt")
    add("--reflection", action="append", metavar="KEY=VALUE", help="how, as in max_tokens=64")
    add("--history", choices=POLICIES, help="what stays of earlier attempts in the context (default: as in training)")
    add("--max-tokens-per-attempt", type=_limit, metavar="N", help="cut an attempt after so many tokens, or none")
    add(
        "--max-response-length",
        type=_limit,
        metavar="N",
        help="tokens of all attempts together; none for what the model's context leaves, which is the default",
    )
    add("--temperature", type=float, help="of dialogues (default 0: greedy; fresh samples then take 1)")
    add("--policy", action="append", metavar="NAME=VALUE", help="of the grader, as in any_order=false")
    add(
        "--template-kwargs",
        action="append",
        metavar="KEY=JSON",
        help="an argument of the chat template, as in enable_thinking=false",
    )
    add("--chat-template", metavar="FILE", help="a chat template instead of the tokenizer's; none for the tokenizer's")
    group.add_argument("--trust-remote-code", action="store_true", help="run code that comes with a model")


def choose(arguments: argparse.Namespace, folders: Mapping[str, str]) -> Chosen:
    """The settings that all models are asked with.

    Args:
        arguments: as parsed.
        folders: where a model's own settings may be found, by its name.

    Raises:
        ValueError: a flag, the config or a file is wrong, or models that were trained differently are to be compared.
    """
    trusted = arguments.trust_remote_code
    if arguments.config_name:
        name, *overrides = arguments.config_name
        config = _compose(name, overrides)
        trusted = trusted or bool(config.actor_rollout_ref.model.get("trust_remote_code"))
        return Chosen(
            with_flags(from_config(config), arguments), f"--config-name {' '.join(arguments.config_name)}", trusted
        )
    found = {name: settings for name, folder in folders.items() if (settings := read(Path(folder))) is not None}
    if not found:
        return Chosen(
            with_flags(DialogueSettings(load_prompt_set(DEFAULT_PROMPTS)), arguments), "the defaults", trusted
        )
    asked = {name: with_flags(settings, arguments) for name, settings in found.items()}
    first, *others = asked
    for other in others:
        _must_agree(first, asked[first], other, asked[other])
    without = [name for name in folders if name not in found]
    also = f", also for {', '.join(without)}, which has none of its own" if without else ""
    return Chosen(asked[first], f"{find(Path(folders[first]))}{also}", trusted)


def _compose(name: str, overrides: Sequence[str]) -> Any:
    from verl_ext.checks.check_command import compose_config  # which imports verl: plain evaluations need none

    return compose_config(name, overrides)


def _must_agree(name: str, one: DialogueSettings, other_name: str, other: DialogueSettings) -> None:
    contents = one.to_dict(), other.to_dict()
    differing = [
        f"{_FLAGS.get(key, '--' + key.replace('_', '-'))} ({_first_difference(content, contents[1][key])})"
        for key, content in contents[0].items()
        if content != contents[1][key]
    ]
    if differing:
        raise ValueError(
            f"--model: {name} and {other_name} were trained with different settings, and can only be compared where "
            f"both are asked alike; say by flags or by --config-name how: {'; '.join(differing)}"
        )


def _first_difference(one: Any, other: Any) -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        key = next(key for key in dict.fromkeys([*one, *other]) if one.get(key) != other.get(key))
        return f"{key} is {_first_difference(one.get(key), other.get(key))}"
    return f"{one!r:.80} and {other!r:.80}"


# ---- Flags ----


def with_flags(base: DialogueSettings, arguments: argparse.Namespace) -> DialogueSettings:
    """Settings with what the flags say instead.

    Raises:
        ValueError: a flag is wrong; the message names it.
    """
    given = vars(arguments)
    plain = ("task", "reflect", "history", "max_tokens_per_attempt", "max_response_length", "temperature")
    changes: dict[str, Any] = {name: given[name] for name in plain if name in given}
    prompts = load_prompt_set(given["prompts"]) if "prompts" in given else base.prompts
    if "feedback_role" in given:
        prompts = replace(prompts, feedback_role=given["feedback_role"])
        changes["feedback_role"] = given["feedback_role"]
    if "feedback" in given:
        changes["feedback"] = None if given["feedback"] == [_NONE] else given["feedback"]
    if "reflection" in given:
        changes["reflection"] = replace(
            base.reflection, **_values(base.reflection, "--reflection", given["reflection"])
        )
    if "policy" in given:
        changes["policies"] = replace(base.policies, **_values(base.policies, "--policy", given["policy"]))
    if "task_setting" in given:
        changes["tasks"] = task_settings(given["task_setting"], base.tasks)
    if "template_kwargs" in given:
        own = dict(json_option("--template-kwargs", text) for text in given["template_kwargs"])
        changes["template_kwargs"] = {**base.template_kwargs, **own}
    if "chat_template" in given:
        changes["chat_template"] = _template(given["chat_template"])
    return replace(base, prompts=prompts, **changes)


def _limit(text: str) -> int | None:
    if text == _NONE:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of tokens nor none") from error


def _values(settings: Any, flag: str, texts: Sequence[str]) -> dict[str, Any]:
    """The values of fields of a settings class, each given as NAME=VALUE."""
    defaults, values = asdict(type(settings)()), {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in defaults:
            raise ValueError(f"{flag} = {text!r}: there is no {name!r}; there are {', '.join(defaults)}")
        values[name] = yaml.safe_load(value)
        if type(values[name]) is not type(defaults[name]):
            raise ValueError(f"{flag} = {text!r}: write a value like the default, {name}={json.dumps(defaults[name])}")
    return values


def _template(name: str) -> str | None:
    if name == _NONE:
        return None
    try:
        return Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"--chat-template = {name!r} cannot be read: {error}") from error


# ---- In words ----

_KEPT = {ANSWERS: "their answers alone", LAST: "the last alone"}


def in_words(settings: Mapping[str, Any]) -> str:
    """Settings for a person, as :meth:`DialogueSettings.to_dict` has them; what is as usual is left out."""
    words = [f"prompt set {settings['prompts']['name']}"]
    if settings["task"] != DEFAULT:
        words.insert(0, f"task {settings['task']}")
    words += [
        f"{name}.{key}={json.dumps(value)}" for name, given in settings["tasks"].items() for key, value in given.items()
    ]
    if settings["prompts"]["feedback_role"] != "user":
        words.append(f"feedback by the {settings['prompts']['feedback_role']}")
    if settings["feedback"] is not None:
        words.append(f"feedback of {', '.join(settings['feedback'])}")
    if settings["reflect"] == "self":
        words.append(f"reflections of at most {settings['reflection']['max_tokens']} tokens")
    elif settings["reflect"] == "judge":
        words.append(f"critique by {settings['reflection']['model']}")
    if settings["history"] != FULL:
        words.append(f"of earlier attempts {_KEPT[settings['history']]}")
    length, attempt = settings["max_response_length"], settings["max_tokens_per_attempt"]
    bounded = "dialogue" if settings["history"] == FULL else "sequence"
    words.append("as many tokens as the context holds" if length is None else f"at most {length} tokens a {bounded}")
    if attempt is not None:
        words.append(f"at most {attempt} tokens an attempt")
    if settings["chat_template"] is not None:
        words.append("a chat template of its own")
    words += [f"{name}={json.dumps(value)}" for name, value in settings["template_kwargs"].items()]
    defaults = {entry.name: entry.default for entry in fields(Policies)}
    words += [
        f"{name}={json.dumps(value)}"
        for name, value in settings["policies"].items()
        if value != defaults.get(name, value)
    ]
    return ", ".join(words)
