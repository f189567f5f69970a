"""What tests of evaluation share."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from fake_server import END, OTHER_END, FakeServer, serving

from multi_attempt.toy.tokenizer import make_tokenizer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """A server that answers as it should, but for the faults that a test gives it."""
    with serving() as fake:
        yield fake


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [END, OTHER_END]}))
    return str(folder)
