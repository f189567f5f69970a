"""What real models have between an attempt and the next one, before the first one, and where they stop: in words."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from families import VOCABULARIES, Family, family
from transformers import GenerationConfig
from wordings import after_wrong, template_problems

from multi_attempt.history import History
from multi_attempt.prompts import Message, load_prompt_set
from multi_attempt.turns import ChatTemplate, generation_end_ids

PAPER, BOXED, PLAIN = (load_prompt_set(name) for name in ("paper", "boxed", "plain"))
ASKED, TOLD = {"role": "user", "content": "2+2?"}, {"role": "user", "content": "No."}
RETRY = [ASKED, {"role": "assistant", "content": "5"}, TOLD]


@pytest.fixture
def made(request: pytest.FixtureRequest) -> Family:
    return family(request.param)


@pytest.fixture
def chat(made: Family) -> ChatTemplate:
    return ChatTemplate(made.tokenizer, generation_end_ids=made.engine_ends)


def of(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("made", names, indirect=True)


def between(chat: ChatTemplate, last: str | None, messages: list[Message] = RETRY) -> str:
    """The text between an attempt that ended on this token and the next attempt."""
    last_id = None if last is None else chat.tokenizer.convert_tokens_to_ids(last)
    text: str = chat.tokenizer.decode(chat.after_attempt(messages, last_id))
    return text


def problems(chat: ChatTemplate, prompts: Any) -> list[str]:
    return template_problems(chat, prompts, "2+2?", attempts=5)


# ---- The boundary ----


@of("smollm2")
def test_smollm2_has_a_newline_between_its_turns(chat: ChatTemplate) -> None:
    assert between(chat, "<|im_end|>") == "\n<|im_start|>user\nNo.<|im_end|>\n<|im_start|>assistant\n"


@of("gemma3")
def test_gemma_3_takes_retries_with_feedback_by_the_user(chat: ChatTemplate) -> None:
    tail = "\n<start_of_turn>user\nNo.<end_of_turn>\n<start_of_turn>model\n"
    assert between(chat, "<end_of_turn>") == tail
    assert between(chat, "<end_of_turn>", [*RETRY, *RETRY[1:]]) == tail
    assert problems(chat, PAPER) == []
    (problem,) = problems(chat, BOXED)  # no turn of a role that Gemma has not
    assert "prompt set 'boxed', feedback of the role 'system'" in problem
    assert problems(chat, replace(BOXED, feedback_role="user")) == []


@of("gemma")
def test_the_opening_of_gemma_2_begins_as_it_was_trained_and_has_no_system_turn(chat: ChatTemplate) -> None:
    opening = chat.tokenizer.decode(chat.opening([ASKED]))
    assert opening == "<bos><start_of_turn>user\n2+2?<end_of_turn>\n<start_of_turn>model\n"
    (problem,) = problems(chat, PAPER)
    assert "choose a prompt set without a system message" in problem
    assert problems(chat, PLAIN) == []


@of("deepseek_v3", "qwen3_6")
def test_feedback_by_the_system_that_cannot_be_shown_is_refused_with_the_remedy(chat: ChatTemplate) -> None:
    (problem,) = problems(chat, BOXED)
    assert "prompt set 'boxed', feedback of the role 'system'" in problem
    assert "`feedback_role: user`" in problem
    assert problems(chat, replace(BOXED, feedback_role="user")) == []


@of("deepseek_r1_distill_qwen")
def test_r1_distill_needs_no_token_of_chatml(chat: ChatTemplate) -> None:
    assert "<|im_end|>" not in chat.tokenizer.get_vocab()
    # Written with the numbers of the full-width bar and the low block that DeepSeek's marks have.
    user, assistant = "<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>"
    end = chat.tokenizer.eos_token
    assert between(chat, end) == f"{user}No.{assistant}<think>\n"
    assert between(chat, None) == f"{end}{user}No.{assistant}<think>\n"
    assert problems(chat, PAPER) == []


@of("qwen2_5_math")
def test_an_attempt_of_qwen2_5_math_that_ends_otherwise_is_closed(chat: ChatTemplate) -> None:
    tail = "\n<|im_start|>user\nNo.<|im_end|>\n<|im_start|>assistant\n"
    assert between(chat, "<|im_end|>") == tail
    assert between(chat, "<|endoftext|>") == f"<|im_end|>{tail}"
    assert between(chat, None) == f"<|im_end|>{tail}"
    assert [chat.tokenizer.decode([token]) for token in sorted(chat.end_ids)] == ["<|endoftext|>", "<|im_end|>"]


@of("llama2")
def test_a_space_before_the_closing_token_is_not_put_behind_it(chat: ChatTemplate) -> None:
    assert chat.tokenizer.convert_ids_to_tokens(chat.after_attempt(RETRY, None))[:3] == ["▁", "</s>", "<s>"]
    assert chat.tokenizer.convert_ids_to_tokens(chat.after_attempt(RETRY, chat.tokenizer.eos_token_id))[0] == "<s>"


@of("glm4moe")
def test_the_next_turn_closes_an_attempt_of_glm(chat: ChatTemplate) -> None:
    assert between(chat, "<|user|>") == "\nNo.<|assistant|>"
    assert between(chat, "<|endoftext|>") == "<|user|>\nNo.<|assistant|>"


@of("qwen3_thinking_2507")
def test_every_retry_of_a_thinking_model_opens_a_thought(chat: ChatTemplate) -> None:
    assert between(chat, "<|im_end|>").endswith("<|im_start|>assistant\n<think>\n")


# ---- A dialogue that is rendered anew ----

THOUGHT = [ASKED, {"role": "assistant", "content": "<think>\nOdd.\n</think>\n\nIt is \\boxed{3}."}, TOLD]
HELD = [*THOUGHT, {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nIt is \\boxed{5}."}, TOLD]


def before_third(chat: ChatTemplate, policy: str) -> str:
    """The text before a third attempt, where less than all stays of the first two."""
    context = History(policy).context(HELD, 1, [PLAIN.response("3"), PLAIN.response("5")])
    text: str = chat.tokenizer.decode(chat.opening(context))
    return text


@of("qwen3")
def test_qwen3_reads_of_its_last_attempt_what_it_said_and_not_what_it_thought(chat: ChatTemplate) -> None:
    asked, told = "<|im_start|>user\n2+2?<|im_end|>\n", "<|im_start|>user\nNo.<|im_end|>\n"
    said = "<|im_start|>assistant\nIt is \\boxed{5}.<|im_end|>\n"
    assert before_third(chat, "last") == f"{asked}{said}{told}<|im_start|>assistant\n"
    answers = [f"<|im_start|>assistant\n{PLAIN.response(answer)}<|im_end|>\n{told}" for answer in ("3", "5")]
    assert before_third(chat, "answers") == f"{asked}{''.join(answers)}<|im_start|>assistant\n"


@of("qwen3_thinking_2507")
def test_qwen3_thinking_begins_its_next_attempt_with_a_thought(chat: ChatTemplate) -> None:
    assert before_third(chat, "last") == (
        "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\nIt is \\boxed{5}.<|im_end|>\n"
        "<|im_start|>user\nNo.<|im_end|>\n<|im_start|>assistant\n<think>\n"
    )


@of("gemma3")
def test_gemma_3_drops_no_thoughts(chat: ChatTemplate) -> None:
    assert before_third(chat, "last") == (
        "<bos><start_of_turn>user\n2+2?<end_of_turn>\n"
        "<start_of_turn>model\n<think>\nHm.\n</think>\n\nIt is \\boxed{5}.<end_of_turn>\n"
        "<start_of_turn>user\nNo.<end_of_turn>\n<start_of_turn>model\n"
    )


@of("qwen3", "gemma3", "mistral_nemo", "llama3_1")
def test_marks_that_an_attempt_spells_open_no_turn_where_it_is_read_again(chat: ChatTemplate) -> None:
    mark = chat.tokenizer.decode([max(chat.end_ids)])
    honest, hostile = ([ASKED, {"role": "assistant", "content": f"a{text}b"}, TOLD] for text in ("", mark))
    end = max(chat.end_ids)
    assert chat.opening(hostile).count(end) == chat.opening(honest).count(end)
    assert mark[1:] in chat.tokenizer.decode(chat.opening(hostile))


# ---- Where an engine stops ----


@pytest.mark.parametrize(
    ("made", "ends"),
    [
        ("qwen3", {151643, 151645}),
        ("qwen2_5", {151643, 151645}),
        ("llama3_1", {128001, 128008, 128009}),
        ("gemma3", {1, 106}),
        ("smollm2", {2}),
    ],
    indirect=["made"],
)
def test_an_attempt_ends_wherever_the_engine_stops(made: Family, ends: set[int], tmp_path: Path) -> None:
    GenerationConfig(eos_token_id=list(made.engine_ends)).save_pretrained(tmp_path)
    assert ChatTemplate(made.tokenizer, generation_end_ids=generation_end_ids(str(tmp_path))).end_ids == ends


@pytest.mark.parametrize("made", ["qwen2_5_math"], indirect=True)
def test_four_feedbacks_are_what_published_has_room_for(made: Family) -> None:
    # config/published.yaml: the paper's 3,000 tokens, and four feedbacks of 27.
    dialogue = [*BOXED.opening("Why?", 5), {"role": "assistant", "content": "So."}, after_wrong(BOXED, "Why?", 4)]
    assert len(ChatTemplate(made.tokenizer).after_attempt(dialogue, None)) == 27
    config = yaml.safe_load(files("verl_ext.config").joinpath("published.yaml").read_text("utf-8"))
    assert config["data"]["max_response_length"] == 3000 + 4 * 27


def test_the_ends_of_a_real_folder_are_read() -> None:
    assert generation_end_ids(str(VOCABULARIES / "smollm2_135m")) == (2,)
