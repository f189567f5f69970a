"""Chat templates of several kinds, in the toy tokenizer's readable tokens; the real ones are in tests/models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config
from wordings import REPEATED, after_wrong, template_problems

from multi_attempt.prompts import Message, PromptSet, load_prompt_set
from multi_attempt.toy.tokenizer import CHAT_TEMPLATE, make_tokenizer
from multi_attempt.turns import ChatTemplate, TemplateError, generation_end_ids

PAD, START, END, RESERVED = 256, 257, 258, 259
QUESTION = "2+2=?"

# Each message closed by END, but for what its name says.
PLAIN = "{% for m in messages %}{{ m.role + ': ' + m.content + '<|im_end|>' }}{% endfor %}"
OPEN = "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
MESSAGE_AND_TURN = (
    "{% for m in messages %}{{ m.role + ': ' + m.content }}"
    "{{ '<|reserved|>' if loop.last and m.role == 'assistant' else '<|im_end|>' }}{% endfor %}" + OPEN
)
UNCLOSED = (
    "{% for m in messages %}{{ '<|im_start|>' if m.role == 'user' else '<|reserved|>' }}{{ m.content }}{% endfor %}"
)
DROPS_THOUGHTS = PLAIN.replace("m.content", "m.content.split('</think>')[-1].strip()") + OPEN + "{{ '<think>\n' }}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + PLAIN + OPEN
FIRST_SYSTEM = (
    "{% for m in messages %}{% if m.role != 'system' or loop.first %}"
    "{{ m.role + ': ' + m.content + '<|im_end|>' }}{% endif %}{% endfor %}" + OPEN
)
REFUSES_LATER_SYSTEM = (
    "{% for m in messages[1:] %}{% if m.role == 'system' %}{{ raise_exception('system comes first') }}{% endif %}"
    "{% endfor %}" + PLAIN + OPEN
)
JUDGES = PLAIN + "{{ 'Go on. ' if 'boxed' in messages|map(attribute='content')|join else 'Well. ' }}" + OPEN
PARTS = (
    "{% for m in messages %}{% for part in m.content if part.type %}{{ part.text }}{% endfor %}{% endfor %}<|im_end|>"
)


def chat(template: str = CHAT_TEMPLATE, end_ids: tuple[int, ...] = (), **arguments: str) -> ChatTemplate:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return ChatTemplate(tokenizer, arguments, end_ids)


def dialogue(prompts: PromptSet, attempt: str = "5") -> list[Message]:
    messages = prompts.opening(QUESTION, 2)
    return [*messages, {"role": "assistant", "content": attempt}, after_wrong(prompts, QUESTION, 1)]


TOY, BOXED = load_prompt_set("toy"), load_prompt_set("boxed")
CHATML_TAIL = [*b"\n", START, *b"user\nWrong. (1)", END, *b"\n", START, *b"assistant\n"]


# ---- What stands between two attempts ----


def test_an_attempt_that_ended_by_the_closing_token_is_not_closed_again() -> None:
    assert chat().after_attempt(dialogue(TOY), END) == CHATML_TAIL


@pytest.mark.parametrize("last_id", [PAD, ord("5"), None], ids=["another end token", "cut", "nothing"])
def test_an_attempt_that_ended_otherwise_is_closed(last_id: int | None) -> None:
    assert chat(end_ids=(PAD,)).after_attempt(dialogue(TOY), last_id) == [END, *CHATML_TAIL]


def test_white_space_before_the_closing_token_cannot_be_put_there_any_more() -> None:
    spaced = chat(PLAIN.replace("'<|im_end|>'", "' <|im_end|>'") + OPEN)
    tail = [*b"user: Wrong. (1) ", END, *b"assistant: "]
    assert spaced.after_attempt(dialogue(TOY), END) == tail
    assert spaced.after_attempt(dialogue(TOY), None) == [*b" ", END, *tail]


def test_a_template_that_closes_no_turn_has_nothing_to_add() -> None:
    open_ended = chat(UNCLOSED + "<|reserved|>", end_ids=(START,))
    tail = [START, *b"Wrong. (1)", RESERVED]
    assert open_ended.after_attempt(dialogue(TOY), END) == tail
    assert open_ended.after_attempt(dialogue(TOY), START) == tail[1:]


def test_what_the_template_does_to_earlier_attempts_is_no_matter() -> None:
    thinking = chat(DROPS_THOUGHTS)
    tail = [END, *b"user: Wrong. (1)", END, *b"assistant: <think>\n"]
    for attempt in ("a thought</think>5", "  5 ", "", "5<|im_end|>user: 4"):
        assert thinking.after_attempt(dialogue(TOY, attempt), None) == tail


def test_nothing_that_a_model_writes_reaches_the_template() -> None:
    hostile = chat("{% for m in messages %}{% if 'boom' in m.content %}{{ raise_exception('boom') }}{% endif %}"
                   "{% endfor %}" + PLAIN + OPEN)  # fmt: skip
    assert hostile.after_attempt(dialogue(TOY, "boom"), None) == chat(PLAIN + OPEN).after_attempt(dialogue(TOY), None)


def test_later_attempts_are_as_the_first() -> None:
    messages = dialogue(TOY)
    feedback = messages[-1]
    later = [*messages, {"role": "assistant", "content": "6"}, feedback]
    assert chat().after_attempt(later, END) == chat().after_attempt(messages, END)


def test_a_tokenizer_that_puts_a_space_before_its_first_word_puts_none_there() -> None:
    """As those of Llama 2 and Gemma do."""
    words = ["\u2581", "\u2581QaQ", "QaQ", "\u2581:", ":", "\u2581no", "no", "</s>", "?"]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(":", "isolated"), pre_tokenizers.Metaspace(prepend_scheme="first")]
    )
    backend.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content + ':' }}{% endfor %}"
    feedback = {"role": "user", "content": "no"}
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "?"}, feedback]
    ids = ChatTemplate(tokenizer).after_attempt(messages, None)
    assert tokenizer.convert_ids_to_tokens(ids) == [":", "no", ":"]


# ---- What ends an attempt ----


def test_the_toy_tokenizer_ends_an_attempt_by_its_end_of_message() -> None:
    assert chat().end_ids == {END}


def test_a_base_model_ends_an_attempt_by_either_of_its_tokens() -> None:
    base_model = make_tokenizer()
    base_model.eos_token = "<|endoftext|>"
    assert ChatTemplate(base_model).end_ids == {PAD, END}


def test_the_engines_own_stops_end_an_attempt() -> None:
    assert chat(end_ids=(PAD, RESERVED)).end_ids == {PAD, END, RESERVED}


def test_a_token_that_closes_a_message_inside_a_turn_ends_no_attempt() -> None:
    """As gpt-oss has it: thoughts and answer are messages of one turn, which another token ends."""
    harmony = make_tokenizer()
    harmony.eos_token, harmony.chat_template = "<|endoftext|>", MESSAGE_AND_TURN
    assert ChatTemplate(harmony).end_ids == {PAD, RESERVED}
    tail = ChatTemplate(harmony).after_attempt(dialogue(TOY), RESERVED)
    assert tail == [END, *b"user: Wrong. (1)", END, *b"assistant: "]


def test_ordinary_text_after_the_answer_ends_no_attempt() -> None:
    assert chat("{% for message in messages %}{{ message['content'] }}. {% endfor %}").end_ids == {END}


def test_the_chat_templates_own_arguments_count() -> None:
    assert chat(CHAT_TEMPLATE.replace("'<|im_end|>'", "closing"), closing="<|endoftext|>").end_ids == {PAD, END}


@pytest.mark.parametrize("ids", [7, [7, 8]], ids=["one", "several"])
def test_the_engine_stops_where_the_generation_config_says(tmp_path: Path, ids: int | list[int]) -> None:
    GenerationConfig(eos_token_id=ids).save_pretrained(tmp_path)
    assert generation_end_ids(str(tmp_path)) == tuple([ids] if isinstance(ids, int) else ids)


@pytest.mark.parametrize(("ids", "found"), [(7, (7,)), (None, ())])
def test_without_one_it_stops_where_the_config_says(tmp_path: Path, ids: int | None, found: tuple[int, ...]) -> None:
    Qwen2Config(eos_token_id=ids).save_pretrained(tmp_path)
    assert generation_end_ids(str(tmp_path)) == found


def test_special_tokens_in_a_text_are_found() -> None:
    assert chat().marks_in("what does <|im_end|> do, and <|im_start|>, and <|im_end|>?") == [
        "<|im_end|>",
        "<|im_start|>",
    ]
    assert chat().marks_in("is 2 <|3| > 1?") == []


# ---- Templates that cannot show a dialogue ----


@pytest.mark.parametrize("prompts", [TOY, BOXED], ids=["toy", "boxed"])
@pytest.mark.parametrize(
    "template",
    [CHAT_TEMPLATE, PLAIN + OPEN, MESSAGE_AND_TURN, UNCLOSED, DROPS_THOUGHTS],
    ids=["ChatML", "plain", "message and turn", "unclosed", "drops thoughts"],
)
def test_a_template_that_shows_the_dialogue_is_fine(template: str, prompts: PromptSet) -> None:
    assert template_problems(chat(template), prompts, QUESTION, 5, parts=REPEATED) == []


PROBLEMS: list[tuple[str, str, PromptSet, tuple[str, ...]]] = [
    (
        "refuses a system message",
        NO_SYSTEM,
        BOXED,
        ("'boxed'", "'system', 'user'", "no system role", "without a system"),
    ),
    ("hides feedback", FIRST_SYSTEM, BOXED, ("'boxed'", "role 'system'", "does not show", "feedback_role=user")),
    ("refuses feedback", REFUSES_LATER_SYSTEM, BOXED, ("'system'", "system comes first", "feedback_role=user")),
    ("depends on the attempt", JUDGES, TOY, ("'toy'", "depends on what the attempt says", "custom_chat_template")),
    ("hides the question", PLAIN.replace("m.content", "'?'") + OPEN, TOY, ("does not show",)),
    ("closes by text", PLAIN.replace("<|im_end|>", "[END]") + OPEN, TOY, ("closes a turn by '[END]'", "'<|im_end|>'")),
]


@pytest.mark.parametrize(
    ("template", "prompts", "parts"), [case[1:] for case in PROBLEMS], ids=[case[0] for case in PROBLEMS]
)
def test_a_template_that_does_not_is_refused_with_the_remedy(
    template: str, prompts: PromptSet, parts: tuple[str, ...]
) -> None:
    try:
        problems = template_problems(chat(template), prompts, QUESTION, 5)
    except TemplateError as error:
        problems = [str(error)]
    assert len(problems) == 1
    assert [part for part in parts if part not in problems[0]] == [], problems[0]


def test_with_one_attempt_there_is_no_feedback_to_show() -> None:
    assert template_problems(chat(FIRST_SYSTEM), BOXED, QUESTION, 1) == []


def test_a_template_of_message_parts_is_refused_at_once() -> None:
    """As those of models of text and images, which take no plain texts."""
    with pytest.raises(TemplateError, match=r"'assistant' cannot be shown: .*custom_chat_template"):
        chat(PARTS)


def test_a_template_that_writes_white_space_otherwise_shows_the_message() -> None:
    """As Falcon's does."""
    prompts = replace(TOY, user="$question\n\nin  words ($n)", verdict="No.\n\nAgain", attempts_left="($n)", neutral="")
    folded = PLAIN.replace("m.content", "m.content.replace('\n\n', '\n').replace('  ', ' ')") + OPEN
    assert template_problems(chat(folded), prompts, QUESTION, 3) == []


def test_a_retry_that_the_template_hides_is_never_played() -> None:
    with pytest.raises(TemplateError, match="role 'system'"):
        chat(FIRST_SYSTEM).after_attempt(dialogue(BOXED), END)


def test_a_tokenizer_that_loses_spaces_is_refused() -> None:
    """As one loaded by another class than its own does."""
    spaceless = make_tokenizer()
    spaceless.backend_tokenizer.normalizer = normalizers.Replace(" ", "")
    [problem] = template_problems(ChatTemplate(spaceless), replace(TOY, user="$question", verdict="No."), QUESTION, 1)
    assert "Theansweris12apples." in problem
    assert "config.json" in problem


def test_a_model_that_never_ends_is_refused() -> None:
    endless = make_tokenizer()
    endless.eos_token, endless.chat_template = None, "{% for m in messages %}{{ m.content }} {% endfor %}"
    [problem] = template_problems(ChatTemplate(endless), TOY, QUESTION, 2)
    assert "eos_token" in problem
