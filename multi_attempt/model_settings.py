"""What a model's dialogues depend on: one object for training and evaluation.

Training writes it beside a model that it saves, and evaluation asks the model as it was trained:

    write(Path("checkpoints/global_step_8/actor/huggingface"), from_config(config))
    settings = read(Path("checkpoints/best"))           # None where the folder has none
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf

from multi_attempt.config import load_settings
from multi_attempt.history import History
from multi_attempt.prompts import PARTS, PromptSet
from multi_attempt.reflection import REFLECT, Critic, ReflectionSettings, critic_of
from multi_attempt.tasks import Words
from multi_attempt.tasks.load import DEFAULT, Tasks, changed_settings
from multi_attempt.tasks.math import Policies

FILE = "multi_attempt.json"
"""The name of the file, in a model's folder or in that of its checkpoint."""

# verl's folder of a checkpoint, in which a model's folder may lie (global_step_8/actor/huggingface).
_CHECKPOINT = re.compile(r"global_step_\d+")

_Settings = TypeVar("_Settings")


@dataclass(frozen=True)
class DialogueSettings:
    """What a model's dialogues depend on.

    Attributes:
        prompts: the wording itself, so that no file of it is needed later.
        feedback: the parts of the message between two attempts, in order; None for what the prompt set says.
        ruled_out_length: characters of an answer in the part ``ruled_out``.
        reflect: who says what went wrong before the next attempt: ``none``, ``self``, ``judge``.
        reflection: how.
        max_tokens_per_attempt: tokens that one attempt may have; None for all that are left.
        max_response_length: tokens of all attempts and the feedback between them; None for what the context leaves.
        temperature: of validation and evaluation; 0 is greedy.
        policies: what counts as equal where that is a judgement.
        template_kwargs: further arguments of the chat template (``data.apply_chat_template_kwargs``).
        chat_template: the template's text, if it is not the tokenizer's own.
        task: the task of questions that name none.
        tasks: of the tasks' settings, by name, those that are not the defaults.
        feedback_role: who gives feedback in the words of a task's own; None for whom these say. ``prompts`` has it.
        history: what stays of earlier attempts in the context of the next one, as in :mod:`multi_attempt.history`.
        history_answer_bytes: bytes of an answer that ``history = answers`` shows.

    Raises:
        ValueError: a number is out of range; the message names it.
    """

    prompts: PromptSet
    feedback: list[str] | None = None
    ruled_out_length: int = 80
    reflect: str = "none"
    reflection: ReflectionSettings = field(default_factory=ReflectionSettings)
    max_tokens_per_attempt: int | None = None
    max_response_length: int | None = None
    temperature: float = 0.0
    policies: Policies = field(default_factory=Policies)
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    chat_template: str | None = None
    task: str = DEFAULT
    tasks: dict[str, Any] = field(default_factory=dict)
    feedback_role: str | None = field(default=None, compare=False)
    history: str = "full"
    history_answer_bytes: int = 256

    def __post_init__(self) -> None:
        if self.feedback is not None and not all(part in PARTS for part in self.feedback):
            raise ValueError(f"feedback = {self.feedback!r}: a list of some of {', '.join(PARTS)}, or none")
        if self.reflect not in REFLECT:
            raise ValueError(f"reflect = {self.reflect!r}: use one of {', '.join(REFLECT)}")
        for name in ("max_tokens_per_attempt", "max_response_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} = {value} must be at least 1, or none")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature = {self.temperature} must be 0 (greedy) or a positive number")
        self.kept  # noqa: B018 - which says what makes no sense

    @property
    def kept(self) -> History:
        """What stays of earlier attempts."""
        return History(self.history, self.history_answer_bytes)

    @property
    def template_arguments(self) -> dict[str, Any]:
        """All arguments of the chat template that are the model's own."""
        own = {} if self.chat_template is None else {"chat_template": self.chat_template}
        return {**self.template_kwargs, **own}

    def make_critic(self) -> Critic | None:
        """The judge that says what is wrong with an attempt, if there is one."""
        return critic_of(self.reflect, self.reflection)

    def make_tasks(self) -> Tasks:
        """The tasks, worded and set so."""
        math = {"policies": asdict(self.policies)}
        words = Words(self.prompts, tuple(self.feedback or ()), self.ruled_out_length, self.feedback_role)
        return Tasks(self.task, {**self.tasks, DEFAULT: math}, words)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return content

    @classmethod
    def from_dict(cls, content: Any) -> DialogueSettings:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: a field is missing, unknown, of another type, or out of range; the message names it.
        """
        settings = dict(_checked(cls, content, ""))
        for name, kind in (("prompts", PromptSet), ("policies", Policies), ("reflection", ReflectionSettings)):
            if name in settings:
                settings[name] = _made(kind, settings[name], f"{name}.")
        return _made(cls, settings, "")


def from_config(config: DictConfig) -> DialogueSettings:
    """The settings of a training run, its validation's where they differ.

    Raises:
        ValueError: ``config.multi_attempt`` is missing or wrong.
    """
    settings = load_settings(config.get("multi_attempt"))
    actor = config.actor_rollout_ref
    # Resolved while the node still knows the config that its interpolations refer to.
    arguments: Any = config.data.get("apply_chat_template_kwargs") or OmegaConf.create({})
    return DialogueSettings(
        prompts=settings.prompt_set,
        feedback=settings.feedback,
        ruled_out_length=settings.ruled_out_length,
        reflect=settings.reflect,
        reflection=settings.reflection,
        max_tokens_per_attempt=settings.max_tokens_per_attempt,
        max_response_length=config.data.max_response_length,
        temperature=actor.rollout.val_kwargs.temperature,
        policies=settings.grader.policies,
        template_kwargs=OmegaConf.to_container(arguments, resolve=True),  # type: ignore[arg-type]
        chat_template=actor.model.get("custom_chat_template"),
        task=settings.task,
        tasks=changed_settings(settings.tasks),
        feedback_role=settings.feedback_role,
        history=settings.history,
        history_answer_bytes=settings.history_answer_bytes,
    )


# ---- The file beside a model ----


def write(folder: Path, settings: DialogueSettings) -> Path:
    """Write the settings into a model's or a checkpoint's folder."""
    path = folder / FILE
    unfinished = path.with_name(f"{FILE}.unfinished")
    unfinished.write_text(json.dumps(settings.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(unfinished, path)
    return path


def read(folder: Path) -> DialogueSettings | None:
    """The settings that a model was trained with; None where its folder, and the checkpoint that it lies in, have none.

    Raises:
        ValueError: the file is not as :func:`write` leaves it; the message names it and the field.
    """
    path = find(folder)
    if path is None:
        return None
    try:
        return DialogueSettings.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path}: {error}; correct it, or move it away and say the settings yourself") from error


def find(folder: Path) -> Path | None:
    """The settings file of a model: in its folder, or in one above it up to its checkpoint's."""
    folder = folder.absolute()
    checkpoint = next(
        (number for number, above in enumerate(folder.parents, 1) if _CHECKPOINT.fullmatch(above.name)), 0
    )
    places = [folder, *list(folder.parents)[:checkpoint]]
    return next((path for place in places if (path := place / FILE).is_file()), None)


def _made(kind: type[_Settings], content: Any, place: str) -> _Settings:
    try:
        return content if isinstance(content, kind) else kind(**_checked(kind, content, place))
    except TypeError as error:  # a field is missing
        raise ValueError(f"{place.removesuffix('.') or 'the content'}: {error}") from error


def _checked(kind: type[Any], content: Any, place: str) -> Mapping[str, Any]:
    """The fields of a settings class, if they are its fields and of their types."""
    if not isinstance(content, Mapping):
        raise ValueError(f"{place.removesuffix('.') or 'the content'} = {content!r:.80} is no object")
    known = [entry.name for entry in fields(kind)]
    hints = get_type_hints(kind)
    for name, value in content.items():
        if name not in known:
            raise ValueError(f"{place}{name} is not known; the fields are {', '.join(known)}")
        if not _is_of(value, hints[name]):
            raise ValueError(f"{place}{name} = {value!r:.80} is of another type")
    return content


def _is_of(value: Any, hint: Any) -> bool:
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for kind in kinds:
        plain = get_origin(kind) or kind
        # JSON writes whole floats as ints, and its bools are ints to Python; classes of ours are objects in it.
        if plain is float and type(value) in (int, float):
            return True
        if type(value) is plain or (hasattr(plain, "__dataclass_fields__") and isinstance(value, Mapping | plain)):
            return True
    return False
