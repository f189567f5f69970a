"""Evaluation with tokenizers and templates of real models, as ``requirements/vocabularies.sh`` has fetched them."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from multi_attempt.cli import main
from multi_attempt.dialogue import play
from multi_attempt.evaluation import command
from multi_attempt.evaluation.engines import EngineLost, Generated, InProcess, Partner, Request, TokenStream, Vocabulary
from multi_attempt.model_settings import DialogueSettings
from multi_attempt.prompts import load_prompt_set
from multi_attempt.tasks import Verdict
from multi_attempt.tasks.math_episode import MathEpisode as Episode

_ROOT = Path(__file__).parents[2]
_VOCABULARIES = _ROOT / ".venv" / "vocabularies"
_TEMPLATES = _ROOT / "tests" / "models" / "templates"

_CONTEXT = 4096
# The longest prompt of the five benchmarks, of OlympiadBench, has so many tokens.
_LONGEST_PROMPT = 1338
_END_OF_TEXT, _IM_END = 151643, 151645


@pytest.fixture(scope="module")
def qwen_math(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen2.5-Math-1.5B without its weights."""
    folder = tmp_path_factory.mktemp("qwen") / "Qwen2.5-Math-1.5B"
    shutil.copytree(_VOCABULARIES / "npm" / "qwen2_5", folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["eos_token"] = "<|endoftext|>"
    settings["chat_template"] = (_TEMPLATES / "qwen2_5_math.jinja").read_text()
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2", "max_position_embeddings": _CONTEXT}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": _END_OF_TEXT, "max_new_tokens": 2048}))
    return folder


class CheckedEngine(InProcess):
    """vLLM in this process up to where it would start."""

    contexts: list[int | None] = []  # noqa: RUF012 - of the class, since the dataclass is frozen

    @asynccontextmanager
    async def open(self, partner: Partner) -> Any:
        self.contexts.append(partner.context)
        raise EngineLost("all was well")
        yield


def readme_commands() -> list[str]:
    """The evaluations of the README, a line each."""
    [section] = re.findall(r"^## Evaluation\n+```bash\n(.*?)```", (_ROOT / "README.md").read_text(), re.M | re.S)
    return re.findall(r"^multi-attempt (eval .*)$", section.replace("\\\n", " "), re.M)


def write_benchmarks(folder: Path, names: list[str], chat: Any) -> None:
    """Benchmarks of one question each, of which the last is as long as any of the real ones."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        question = "How much is 1 plus 1?"
        if name == names[-1]:
            opening = load_prompt_set("paper").opening("", 7)
            question = " one" * (_LONGEST_PROMPT - len(chat.opening(opening)))
        row = {"prompt": [{"role": "user", "content": question}], "reward_model": {"ground_truth": "2"}}
        (folder / f"{name}.jsonl").write_text(json.dumps({**row, "data_source": name}) + "\n")


@pytest.mark.parametrize("line", readme_commands())
def test_the_readme_s_evaluations_are_accepted(
    line: str,
    qwen_math: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = re.sub(r"(Qwen/[\w.-]+|checkpoints/\.\.\./best)", str(qwen_math), line)
    benchmarks = re.findall(r"data/\w+", line)
    assert len(benchmarks) == 5
    write_benchmarks(tmp_path, benchmarks, Vocabulary(str(qwen_math), DialogueSettings(load_prompt_set("paper"))).chat)
    arguments = shlex.split(re.sub(r"(data/\w+)", r"\1.jsonl", line))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "InProcess", CheckedEngine)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(command, "Replicas", lambda engine, devices: engine)
    CheckedEngine.contexts.clear()
    assert main(arguments) == command.FAILED
    assert capsys.readouterr().err.strip().endswith("multi-attempt eval: all was well")
    # By default a dialogue has the whole context, as in the paper's evaluation.
    assert CheckedEngine.contexts == [_CONTEXT]


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("smollm2_135m", ["<|im_end|>", None]),
        ("npm/llama3_1", ["<|eot_id|>", "<|end_of_text|>", None]),
        ("npm/qwen3", ["<|im_end|>", "<|endoftext|>", None]),
    ],
)
def test_retries_are_the_template_s_own_rendering(name: str, ends: list[str | None], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(_VOCABULARIES / name, folder)
    if not (folder / "config.json").is_file():
        (folder / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    dialogue = DialogueSettings(load_prompt_set("plain"), template_kwargs={"date_string": "27 Nov 2026"})
    vocabulary = Vocabulary(str(folder), dialogue)
    tokenizer = vocabulary.chat.tokenizer
    said = [*tokenizer.encode("So it is 5.", add_special_tokens=False)]
    asked: list[list[int]] = []

    async def wrong(response: str) -> Verdict:
        return Verdict(correct=False)

    async def generate(ids: list[int], limit: int, temperature: float, seed: int) -> Generated:
        asked.append(ids)
        end = ends[len(asked) % len(ends)]
        return Generated(said if end is None else [*said, tokenizer.convert_tokens_to_ids(end)], truncated=False)

    episode = Episode("2+2=?", 4, dialogue.prompts)
    asyncio.run(play(episode, TokenStream(vocabulary, generate, Request(0.0, "x"), 4096), judge=wrong, room=4096))
    assert len(asked) == 4
    messages = [message for message in episode.messages if message["role"] != "assistant"]
    opening = 1 if messages[0]["role"] == "user" else 2
    for number, ids in enumerate(asked):
        upto = opening + 2 * number
        rendered = vocabulary.chat.opening(episode.messages[:upto])
        # Where an attempt ended by another token, or by none, that token is all that differs.
        expected = tokenizer.decode(rendered)
        closing = tokenizer.decode([tokenizer.convert_tokens_to_ids(str(ends[0]))])
        got = tokenizer.decode(ids)
        for end in ends[1:]:
            got = got.replace(f"{end}{closing}", closing)
        assert got == expected
