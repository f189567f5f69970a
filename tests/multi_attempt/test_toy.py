"""The toy task: questions, tokenizer, dialogues, model and build. No full warm-up here, which takes minutes."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from multi_attempt.grading import grade
from multi_attempt.prompts import Message, load_prompt_set
from multi_attempt.toy.build import build_toy
from multi_attempt.toy.dialogues import demonstrate, encode_dialogue
from multi_attempt.toy.model import make_model
from multi_attempt.toy.play import play
from multi_attempt.toy.questions import KINDS, Split, ToyQuestion, draw_questions, slipped_solution, solution
from multi_attempt.toy.settings import ToySettings
from multi_attempt.toy.tokenizer import make_tokenizer
from multi_attempt.toy.warm_up import collate, warm_up

PROMPTS = load_prompt_set("toy")
TINY = ToySettings(hidden_size=64, layers=1, heads=2, intermediate_size=64, steps=3, batch_size=4, batches_per_pool=2)
PAD, START, END = 256, 257, 258

DIALOGUE = [
    Message(role="user", content="1+1 (2)"),
    Message(role="assistant", content="\\boxed{3}"),
    Message(role="user", content="Wrong. (1)"),
    Message(role="assistant", content="é"),
]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as a build leaves it: tokenizer and model side by side, since one's config affects the other."""
    directory = tmp_path_factory.mktemp("model")
    tokenizer = make_tokenizer()
    make_model(tokenizer, TINY, seed=0).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def tokenizer(model_dir: Path) -> PreTrainedTokenizerFast:
    loaded = AutoTokenizer.from_pretrained(model_dir)
    assert isinstance(loaded, PreTrainedTokenizerFast)
    return loaded


def test_each_byte_is_one_token(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) == 260
    assert tokenizer.encode("\n") == [10]
    assert tokenizer.encode(" a\r\n é") == [32, 97, 13, 10, 32, 0xC3, 0xA9]
    assert tokenizer.encode("<|endoftext|><|im_start|>x<|im_end|>") == [PAD, START, ord("x"), END]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (PAD, END)


def test_characters_are_composed_before_and_after_saving(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.encode("e\u0301") == make_tokenizer().encode("e\u0301") == list("\u00e9".encode())


@settings(max_examples=100, deadline=None)
@given(text=st.text() | st.text("e\u0301\ufb01 \n\tA<|im_end|>.,'s"))
def test_round_trip(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    text = normalizers.NFC().normalize_str(text)
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert tokens == make_tokenizer().encode(text)
    if "<|" not in text:
        assert tokens == list(text.encode())


def test_chat_template(tokenizer: PreTrainedTokenizerFast) -> None:
    user = [START, *b"user\n", *b"1+1 (2)", END, 10]
    first = [START, *b"assistant\n", *b"\\boxed{3}", END, 10]
    feedback = [START, *b"user\n", *b"Wrong. (1)", END, 10]
    second = [START, *b"assistant\n", 0xC3, 0xA9, END, 10]
    assert _template(tokenizer, DIALOGUE) == [*user, *first, *feedback, *second]
    assert _template(tokenizer, DIALOGUE[:1], add_generation_prompt=True) == [*user, START, *b"assistant\n"]
    late_system = [*DIALOGUE[:1], Message(role="system", content="s")]
    assert _template(tokenizer, late_system) == [*user, START, *b"system\n", *b"s", END, 10]


def test_learned_are_the_assistants_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = encode_dialogue(DIALOGUE, tokenizer)
    assert encoded.tokens == _template(tokenizer, DIALOGUE)
    # <|im_start|>user\n 1+1 (2) <|im_end|>\n <|im_start|>assistant\n | \boxed{3} <|im_end|> | \n ...
    lengths = [(1 + 5 + 7 + 2 + 1 + 10, False), (9 + 1, True), (1 + 1 + 5 + 10 + 2 + 1 + 10, False), (2 + 1, True)]
    assert encoded.trained == [learned for length, learned in [*lengths, (1, False)] for _ in range(length)]
    learned = [token for token, own in zip(encoded.tokens, encoded.trained, strict=True) if own]
    assert learned == [*b"\\boxed{3}", END, 0xC3, 0xA9, END]

    short = replace(encoded, tokens=[1, 2, 3], trained=[False, True, True])
    tokens, labels = collate([encoded, short], padding=PAD)
    assert tokens[1].tolist() == [1, 2, 3] + [PAD] * (len(encoded.tokens) - 3)
    assert labels[1].tolist() == [-100, 2, 3] + [-100] * (len(encoded.tokens) - 3)
    assert labels[0][labels[0] != -100].tolist() == learned


SPLITS = {"train": Split(4096), "validation": Split(128), "heldout": Split(512), "hard": Split(256, hard=True)}


def questions(count: int) -> list[ToyQuestion]:
    return draw_questions({"train": Split(count)}, seed=0)["train"]


def test_questions_are_apart_and_the_same_for_a_seed() -> None:
    drawn = draw_questions(SPLITS, seed=3)
    assert {name: len(split) for name, split in drawn.items()} == {name: split.count for name, split in SPLITS.items()}
    everything = [question for split in drawn.values() for question in split]
    asked = {question.question for question in everything}
    assert len(asked) == len(everything)
    assert draw_questions(SPLITS, seed=3) == drawn
    assert draw_questions(SPLITS, seed=4) != drawn
    with pytest.raises(ValueError, match="hard = 9000 questions: only"):
        draw_questions({"hard": Split(9000, hard=True)}, seed=0)


def test_hard_questions_are_harder_than_any_other() -> None:
    drawn = draw_questions(SPLITS, seed=3)
    assert all(min(question.left, question.right) >= 70 for question in drawn["hard"])
    others = [question for name in ("train", "validation", "heldout") for question in drawn[name]]
    assert all(min(question.left, question.right) < 70 for question in others)


def test_questions_that_leave_something_open_mean_one_reading_more_often() -> None:
    drawn = questions(4096)
    for name, kind in KINDS.items():
        meant = [question.plus for question in drawn if question.kind == name]
        assert len(meant) == 1024
        assert sum(meant) / len(meant) == pytest.approx(kind.plus, abs=0.05)


def test_guessing_the_answer_does_not_pay() -> None:
    drawn = draw_questions(SPLITS, seed=0)["heldout"]
    answers = [question.answer for question in drawn]
    assert max(map(answers.count, answers)) / len(answers) < 0.03


def test_solutions_grade_as_they_should() -> None:
    for question in questions(100):
        assert grade(solution(question, question.plus), question.answer).correct
        assert not grade(solution(question, not question.plus), question.answer).correct


def test_solutions_go_digit_by_digit() -> None:
    question = ToyQuestion("gap", 47, 38, plus=True)
    assert (question.question, question.answer) == ("47?38", "85")
    assert replace(question, plus=False).answer == "9"
    assert replace(question, kind="distance").question == "|x-47|=38"
    assert solution(question, plus=True) == r"47+38 7+8=15 4+3+1=8 \boxed{85}"
    assert solution(question, plus=False) == r"47-38 17-8=9 4-3-1=0 \boxed{9}"


def test_a_slip_leads_to_its_answer() -> None:
    question = ToyQuestion("blot", 47, 38, plus=True)
    assert {slipped_solution(question, True, random.Random(seed)) for seed in range(50)} == {
        r"47+38 7+8=14 4+3+1=8 \boxed{84}",
        r"47+38 7+8=16 4+3+1=8 \boxed{86}",
        r"47+38 7+8=15 4+3+1=7 \boxed{75}",
        r"47+38 7+8=15 4+3+1=9 \boxed{95}",
    }
    assert r"38-37 8-7=1 3-3=1 \boxed{11}" in {
        slipped_solution(ToyQuestion("gap", 38, 37, plus=False), False, random.Random(seed)) for seed in range(50)
    }


def test_demonstrated_are_likelier_readings_then_insistence_and_sometimes_the_right_one() -> None:
    generator = random.Random(0)
    first, later, repeats = [], [], []
    for question in questions(2000):
        said = [message["content"] for message in demonstrate(question, PROMPTS, ToySettings(), generator)[1::2]]
        right = [grade(attempt, question.answer).correct for attempt in said]
        assert not any(right[:-1])
        assert 1 <= len(said) <= 5
        first.append(right[0])
        later += right[1:]
        repeats += [said[index] in said[:index] for index in range(1, len(said))]
    settings = ToySettings()
    likelier = sum(max(kind.plus, 1 - kind.plus) for kind in KINDS.values()) / len(KINDS)
    assert sum(first) / len(first) == pytest.approx((1 - settings.slips) * likelier, abs=0.03)
    # Who insists is right, too, where the attempt before only slipped.
    assert sum(later) / len(later) == pytest.approx(settings.retry_right, abs=0.07)
    assert sum(repeats) / len(repeats) == pytest.approx(1 - settings.retry_right, abs=0.07)


def test_saved_model(model_dir: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    assert model.config.vocab_size == 260
    assert model.config.dtype == model.dtype == torch.float32
    assert model.generation_config.eos_token_id == END
    assert model.config.tie_word_embeddings
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert json.loads((model_dir / "config.json").read_text())["dtype"] == "float32"
    assert model.model.layers[0].self_attn.head_dim == 32


def test_default_model_suits_the_engines() -> None:
    defaults = ToySettings()
    model = make_model(make_tokenizer(), defaults, seed=0)
    assert model.model.layers[0].self_attn.head_dim % 32 == 0
    assert defaults.heads % 2 == defaults.key_value_heads % 2 == 0
    assert model.config.vocab_size == len(make_tokenizer())
    assert model.config.vocab_size % 4 == 0


def test_warm_up_is_a_function_of_its_seed() -> None:
    tokenizer = make_tokenizer()
    asked = questions(50)

    def weights(seed: int) -> list[torch.Tensor]:
        model = make_model(tokenizer, TINY, seed=0)
        warm_up(model, tokenizer, asked, [PROMPTS], TINY, seed)
        return list(model.parameters())

    once, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(once, other, strict=True))


def test_play_counts_attempts_and_the_end_token() -> None:
    """A model that always says "1", then stops, plays three attempts of two tokens each."""
    tokenizer = make_tokenizer()

    class Parrot:
        def generate(self, input_ids: torch.Tensor, **_: object) -> torch.Tensor:
            said = torch.tensor([ord("1"), END, PAD]).expand(len(input_ids), 3)
            return torch.cat([input_ids, said], dim=1)

    asked = [ToyQuestion("blot", 10, 11, plus=True), ToyQuestion("blot", 10, 12, plus=True)]
    options = {"attempts": 3, "max_new_tokens": 8, "seed": 0}
    transcripts = play(Parrot(), tokenizer, asked, PROMPTS, **options)  # type: ignore[arg-type]
    assert [[attempt.span for attempt in transcript.attempts] for transcript in transcripts] == [[(0, 2)] * 3] * 2
    assert not any(attempt.truncated or attempt.well_formed for t in transcripts for attempt in t.attempts)


def test_build_writes_once_and_notices_an_interrupted_build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {
        "train_questions": 8,
        "heldout_questions": 4,
        "hard_questions": 4,
        "settings": replace(TINY, max_new_tokens=4),
    }
    record = build_toy(tmp_path / "toy", **options)  # type: ignore[arg-type]
    assert record == json.loads((tmp_path / "toy" / "toy.json").read_text())
    assert set(record["measured"]) >= {"first_attempt_accuracy", "first_attempt_format_rate"}

    train, heldout = (
        load_dataset(
            "parquet", data_files=str(tmp_path / "toy" / f"{split}.parquet"), cache_dir=str(tmp_path / "cache")
        )
        for split in ("train", "heldout")
    )
    drawn = draw_questions({"train": Split(8), "validation": Split(128), "heldout": Split(4)}, seed=0)
    assert train["train"][1] == {
        "data_source": "toy",
        "prompt": [{"role": "user", "content": drawn["train"][1].question}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": drawn["train"][1].answer, "tolerance": ""},
        "extra_info": {"id": "1", "index": 1, "split": "train", "attempts": None},
    }
    assert [row["data_source"] for row in heldout["train"]] == list(KINDS)
    assert [row["extra_info"] for row in heldout["train"]] == [
        {"id": str(index), "index": index, "split": "heldout", "attempts": None} for index in range(4)
    ]

    capsys.readouterr()
    assert build_toy(tmp_path / "toy", **options) == record  # type: ignore[arg-type]
    assert "already there" in capsys.readouterr().out

    (tmp_path / "toy" / "toy.json").unlink()
    (tmp_path / "toy" / "train.parquet").unlink()
    build_toy(tmp_path / "toy", **options)  # type: ignore[arg-type]
    assert (tmp_path / "toy" / "train.parquet").exists()
    assert "already there" not in capsys.readouterr().out


def _template(tokenizer: PreTrainedTokenizerFast, messages: list[Message], **options: bool) -> list[int]:
    tokens: Any = tokenizer.apply_chat_template(messages, return_dict=False, **options)  # type: ignore[arg-type]
    assert isinstance(tokens, list)
    return tokens
