"""Where the answer of an attempt is found."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multi_attempt.answers import EXTRACTORS, answer_tag, boxed, extractor, stated
from multi_attempt.answers.places import _boxed_in_one_pass

# A generous bound for work of seconds, on a machine that has other work: what is quadratic takes hours.
SECONDS_FOR_LINEAR_WORK = 120


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{3}.", "3"),
        (r"\boxed{3} and then \boxed{4}", "4"),
        (r"\boxed{3} and then \boxed{4", "3"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{x^{2^{3}}} end }", "x^{2^{3}}"),
        (r"\boxed{ 3 }", "3"),
        ("\\boxed{\n3\n}", "3"),
        (r"\boxed {3}", "3"),
        ("\\boxed\n{3}", "3"),
        (r"\fbox{3}", "3"),
        (r"\boxed{3} \fbox{4}", "4"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed{1 + \boxed{3} + 2}", "3"),
    ],
)
def test_last_complete_box_holds_the_answer(text: str, answer: str) -> None:
    assert boxed(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1} and \boxed{2}", "1, 2"),
        (r"\boxed{1},\boxed{2}, \boxed{3}.", "1, 2, 3"),
        (r"\[\boxed{-2} \quad \text{and} \quad \boxed{1}\]", "-2, 1"),
        (r"\(x = \boxed{3}\) and \(y_1 = \boxed{4}\)", "3, 4"),
        (r"\boxed{3} apples and \boxed{4} pears", "3, 4"),
        (r"first \boxed{7}. Then \boxed{1} and \boxed{2}", "1, 2"),
        # Whoever gives two answers has not decided for the second one.
        (r"\boxed{1} or \boxed{2}", "1, 2"),
        (r"\(x = \boxed{1}\) or \(x = \boxed{2}\)", "1, 2"),
        (r"\boxed{1} \quad \text{or} \quad \boxed{2}", "1, 2"),
        (r"\boxed 1 and \boxed 2", "1, 2"),
        (r"\boxed 1, \boxed{2}", "1, 2"),
        (r"\boxed{1}, \boxed 2", "1, 2"),
        # Another box is another try.
        (r"\boxed{1}\boxed{2}", "2"),
        (r"\boxed{1} \boxed{2}", "2"),
        (r"\boxed{1}. No, \boxed{2}", "2"),
        (r"\boxed{1} and not \boxed{2}", "2"),
        (r"\boxed{1}\,\boxed{2}", "2"),
        (r"\boxed{1} = \boxed{2}", "2"),
    ],
)
def test_boxes_with_only_and_or_commas_between_them_are_one_answer(text: str, answer: str) -> None:
    assert boxed(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 42", "42"),
        ("so the largest $n$ is 34.", "34"),
        ("Therefore $x \\geq 5$ is the solution.", r"x \geq 5"),
        ("There are 12 distinct sequences.", r"12\text{ distinct sequences}"),
        ("42 because geometry proves it", "42"),
        ("First compute 6*7.\n42", "42"),
        ("Final answer: The final answer is $(-6, 10)$. I hope it is correct.", "(-6, 10)"),
        (r"The total is \boxed{28\%} of it.", r"28\%"),
        ("I do not know what to say", None),
        ("either forty one or forty two", None),
    ],
)
def test_sentences_state_an_answer_at_their_end(text: str, answer: str | None) -> None:
    assert stated(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\boxed{x \} y}", r"x \} y"),
        (r"\boxed{1 \\ {2}}", r"1 \\ {2}"),
    ],
)
def test_escaped_braces_open_and_close_nothing(text: str, answer: str) -> None:
    assert boxed(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no box, but {braces} and 3",
        r"\boxed",
        r"\boxed{",
        r"\boxed{3",
        r"\boxed{\frac{1}{2}",
        r"\boxed{3\}",
        r"\boxed{}",
        r"\boxed{   }",
        r"\boxed{\boxed{}}",
        r"\boxedin{3}",
        r"\boxedin 3",
        # Words about a box.
        r"the answer goes into \boxed.",
        r"the answer goes into `\boxed`, or so",
        r"the answer goes into \boxed notation",
        # Not written together.
        r"\boxed (1, 2)",
        r"\boxed\quad 3",
        "boxed{3}",
        "\\",
        "\\boxed{3\\",
    ],
)
def test_no_complete_box_or_an_empty_one_is_no_answer(text: str) -> None:
    assert boxed(text) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"The answer is \boxed 5.", "5"),
        (r"\boxed7", "7"),
        (r"$\boxed 5$.", "5"),
        (r"\(\boxed 5\)", "5"),
        (r"(So \boxed 5).", "5"),
        (r"**\boxed 5**", "5"),
        (r"\boxed 5</answer>", "5"),
        (r"\fbox 5", "5"),
        (r"\\boxed 5", "5"),
        # TeX would box the first character alone; whoever writes these means the whole.
        (r"\boxed 42", "42"),
        (r"\boxed -3", "-3"),
        (r"\boxed 1,234.", "1,234"),
        (r"\boxed 3.5.", "3.5"),
        (r"\boxed 1/2", "1/2"),
        (r"\boxed 50\%", r"50\%"),
        (r"\boxed 2\pi", r"2\pi"),
        (r"\boxed x^{2}+1", "x^{2}+1"),
        (r"\boxed (1,2)", "(1,2)"),
        (r"\boxed 5cm", "5cm"),
        (r"\boxed 5 dollars", "5"),
        (r"\boxed B", "B"),
        # And a command with its arguments, on which TeX would fail.
        (r"\boxed\frac{1}{2}", r"\frac{1}{2}"),
        (r"\boxed\frac12", r"\frac12"),
        (r"\boxed \frac 1 2", r"\frac 1 2"),
        (r"\boxed\dfrac{\sqrt{3}}{2}.", r"\dfrac{\sqrt{3}}{2}"),
        (r"\boxed\sqrt 3", r"\sqrt 3"),
        (r"\boxed\pi", r"\pi"),
        (r"\boxed\text{Yes}", r"\text{Yes}"),
        (r"\boxed\{1,2\}", r"\{1,2\}"),
        # The last one counts.
        (r"\boxed{3} and then \boxed 4", "4"),
        (r"\boxed 3 and then \boxed{4}", "4"),
        (r"\boxed 3 and then \boxed{4", "3"),
        (r"\boxed{\boxed 3}", "3"),
        (r"\boxed{3} is in \boxed", "3"),
    ],
)
def test_box_without_braces_holds_what_is_written_together(text: str, answer: str) -> None:
    assert boxed(text) == answer


@pytest.mark.parametrize("text", [r"\boxed{3} but no, \boxed{}", r"Thus \boxed{3}. Fill in: \boxed{ }"])
def test_empty_box_takes_nothing_from_the_one_before(text: str) -> None:
    assert boxed(text) == "3"


@pytest.mark.parametrize("text", [r"} \boxed{3}", r"}}} \boxed{3} }}}", r"{ \boxed{3}", r"{ { } \boxed{3} {"])
def test_stray_braces_around_the_box_change_nothing(text: str) -> None:
    assert boxed(text) == "3"


def test_stray_brace_in_the_box_leaves_it_unclosed() -> None:
    assert boxed(r"\boxed{3 { 4}") is None


@given(before=st.text(), inside=st.text(alphabet="0123456789abc+-*/ "), after=st.text(alphabet="abc $\n"))
def test_box_after_any_text_without_open_box_is_found(before: str, inside: str, after: str) -> None:
    # A backslash just before the box would escape it.
    text = f"{before} \\boxed{{{inside}}}{after}"
    assert boxed(text) == (inside.strip() or None)


@pytest.mark.parametrize("character", ["\x0c", "\x1e", "\x85", "\u2028"])
def test_a_program_keeps_the_characters_of_its_texts(character: str) -> None:
    program = f"print({character!a})\nprint('{character}')"
    assert EXTRACTORS["code_block"](f"Here:\r\n```python\r\n{program}\r\n```\n") == program + "\r"


@given(st.text(alphabet=r"\boxed{}fb answer</>3"))
def test_extractors_take_any_text(text: str) -> None:
    for extract in EXTRACTORS.values():
        answer = extract(text)
        assert answer is None or (answer != "" and answer == answer.strip())


@given(st.text(alphabet=r"\boxed{}fb ar</>3"))
def test_box_or_tag_holds_a_part_of_the_text(text: str) -> None:
    for extract in (boxed, answer_tag):
        answer = extract(text)
        assert answer is None or answer in text


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>3</answer>", "3"),
        ("<answer>\n 3 \n</answer>", "3"),
        ("<answer>3</answer> no: <answer>4</answer>", "4"),
        ("<answer>3</answer> no: <answer>4", "3"),
        ("<answer>3 <answer>4</answer>", "4"),
        (r"\boxed{5} <answer>It is \boxed{4}.</answer>", "4"),
        (r"<answer>\boxed{3}, no, \boxed{\frac{1}{2}}</answer> \boxed{6}", r"\frac{1}{2}"),
        (r"<answer>\boxed 5</answer>", "5"),
        (r"<answer>5 (no \boxed here)</answer>", r"5 (no \boxed here)"),
        ("<answer>3</answer></answer>", "3"),
        ("<answer>3</answer> that is all </answer>", "3"),
    ],
)
def test_last_complete_answer_tag_holds_the_answer(text: str, answer: str) -> None:
    assert answer_tag(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        r"\boxed{3}",
        "<answer>3",
        "3</answer>",
        "<answer></answer>",
        "<answer> \n </answer>",
        "</answer><answer>",
    ],
)
def test_no_complete_answer_tag_or_an_empty_one_is_no_answer(text: str) -> None:
    assert answer_tag(text) is None


def test_empty_box_in_an_answer_tag_is_no_answer() -> None:
    assert answer_tag(r"<answer> \boxed{} </answer>") is None


def test_box_and_tag_are_looked_for_in_linear_time() -> None:
    # In a process of its own, so that a regression fails instead of holding up the whole run.
    program = r"""
from multi_attempt.answers import answer_tag, boxed
pieces = [
    *("\\boxed{", "{", "}", "\\", "\\boxed", "\\boxed ", "\\boxed{}", "\\boxed{3} ", "<answer>", "</answer>"),
    *("\\boxed 3 ", "\\boxed\\frac{", "\\boxed{ ", "\\boxed\\frac", "\\boxed 3, ", "\\boxed 3 and "),
]
for extract in (boxed, answer_tag):
    for piece in pieces:
        extract(piece * (500_000 // len(piece)))
    extract("\\boxed" + " " * 500_000)
    extract("\\boxed{" * 100_000 + "3" + "}" * 100_000)
print("finished")
"""
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=SECONDS_FOR_LINEAR_WORK
    )
    assert finished.stdout == "finished\n", finished.stderr


def test_deepest_of_many_nested_boxes_is_found() -> None:
    assert boxed("\\boxed{" * 10_000 + "3" + "}" * 10_000) == "3"


_COMMANDS = r"and or \boxed{ \fbox{ \boxed \{ \} \text{ \text{and} \text{or} \quad $ \boxed{1} }and\boxed{2"
_PARTS = [*"{} ,;=xy12", "\\", *_COMMANDS.split(), r"\boxed3", r"\boxed{}"]


@given(st.lists(st.sampled_from(_PARTS), max_size=25).map("".join))
def test_the_short_way_to_the_last_box_finds_what_the_long_way_does(text: str) -> None:
    assert boxed(text) == _boxed_in_one_pass(text)


@pytest.mark.parametrize(
    ("names", "text", "answer"),
    [
        ("boxed", r"\boxed{1} #### 2", "1"),
        ("boxed hash_line", r"\boxed{1} #### 2", "1"),
        ("hash_line boxed", r"\boxed{1} #### 2", "2"),
        ("boxed hash_line", "#### 2", "2"),
        ("boxed  hash_line\tfinal_statement last_number ", "The answer is 3. Not 4.", "3"),
        ("boxed hash_line final_statement last_number", "3 and 1 are 4.", "4"),
        ("boxed hash_line final_statement last_number", r"\boxed{}", None),
        ("answer_tag boxed", r"<answer> </answer> \boxed{1}", "1"),
    ],
)
def test_first_of_several_places_that_holds_an_answer_counts(names: str, text: str, answer: str | None) -> None:
    assert extractor(names)(text) == answer


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("box", "unknown 'box'"),
        ("boxed tag hash_line box", "unknown 'tag', 'box'"),
        ("boxed,hash_line", "unknown 'boxed,hash_line'"),
        ("", "no name"),
        (" \n", "no name"),
    ],
)
def test_unknown_place_is_named_with_the_known_ones(names: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        extractor(names)
    assert all(name in str(caught.value) for name in EXTRACTORS)
