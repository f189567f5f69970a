"""Answers that stand in no box: statements, lines of hashes and last numbers; and that the grader reads them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multi_attempt.answers import EXTRACTORS, extractor
from multi_attempt.answers.statements import final_statement, hash_line, last_number
from multi_attempt.grading import Grader

# A generous bound for work of seconds, on a machine that has other work: what is quadratic takes hours.
SECONDS_FOR_LINEAR_WORK = 120


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    grader = Grader(deadline=30.0)
    yield grader
    grader.close()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("5 * 11 = 55. The answer is 55.", "55"),
        ("The final answer: 55", "55"),
        ("Therefore, the answer is **55**", "55"),
        ("**The answer is 55.**", "55"),
        ("**Answer:** 55", "55"),
        ("**Final Answer**: 55", "55"),
        ("answer: 55", "55"),
        ("Answer = 55", "55"),
        ("Final Answer: $55$", "55"),
        ("Final Answer: The final answer is $55$. I hope it is correct.", "55"),
        ("The final answer is: $\\boxed{55}$", "55"),
        ("So the final result is 55.", "55"),
        ("The answer must be 55!", "55"),
        ("The answer to the question is 55.", "55"),
        ("The answer in simplest form is 5/6.", "5/6"),
        ("The answer is about 55.", "55"),
        ("The answer is therefore 55.", "55"),
        ("The answer is the number 55.", "55"),
        ("The answer is that the total is 55.", "55"),
        ("The answer is as follows: 55", "55"),
        ("The answer is 55</answer>", "55"),
        ('"The answer is 55"', "55"),
        ("The answer is:\n\n55\n", "55"),
        ("### Final Answer\n\n55", "55"),
        ("## Answer:\n$$\n55\n$$", "55"),
        ("Answer:\n- 55", "55"),
        # The value ends with the sentence, not within a number.
        ("The answer is 3.5.", "3.5"),
        ("The answer is 1,234.", "1,234"),
        ("The answer is 1,234.50. That is all.", "1,234.50"),
        ("The answer is -3.", "-3"),
        ("The answer is $12,000.", "$12,000"),
        ("The answer is $55 and she has $20 left.", "$55"),
        ("The answer is 5! = 120.", "5! = 120"),
        # A reason, a remark and what goes on are no part of it.
        ("The answer is 55, because 5 * 11 is 55.", "55"),
        ("The answer is 55 since she has 5 of 11.", "55"),
        ("The answer is 55 and the rest is 3.", "55"),
        ("The answer is 55 (fifty-five).", "55"),
        ("The answer is 55, which is odd.", "55"),
        # Mathematics.
        (r"The answer is \(55\).", "55"),
        (r"The answer is $\frac{1}{2}$.", r"\frac{1}{2}"),
        (r"The answer is \frac{1}{2}.", r"\frac{1}{2}"),
        ("The answer is: \\[\n x = 5. \n\\]", "x = 5."),
        ("The answer is x = 5", "x = 5"),
        ("The answers are x = 5 and x = -3.", "x = 5 and x = -3"),
        ("The answer is 55, 60, and 65.", "55, 60, and 65"),
        ("The answer is (1, 2).", "(1, 2)"),
        ("The answer is 5 x 11 = 55.", r"5 \times 11 = 55"),
        # Words after a number are its unit.
        ("The answer is 55 dollars.", r"55\text{ dollars}"),
        ("The answer is 55 crayons, because.", r"55\text{ crayons}"),
        ("The answer is $5.50 per week.", r"$5.50\text{ per week}"),
        ("The answer is 5 m^2.", r"5\text{ m}^2"),
        # Several values.
        (r"The answer is \(3\) and \(4\).", r"\(3\) and \(4\)"),
        (r"The answer is \boxed{3} and \boxed{4}.", r"\boxed{3} and \boxed{4}"),
        ("If we add 5 and 6, the answer is 11.", "11"),
        # Choices and words.
        ("the correct answer is (B)", "B"),
        ("The answer is B.", "B"),
        ("The answer is A.", "A"),
        ("Answer: A) 55", "A"),
        ("The answer is option C.", "C"),
        ("The answer is no.", "no"),
        ("The answer is: no solution", "no solution"),
        # Two answers are two, so that neither of them is right.
        ("The answer is 5 or 6.", "5 or 6"),
        # The last statement counts, and what states nothing takes nothing from it.
        ("My answer is 54. Wait, the answer is 55.", "55"),
        ("The answer is 6. The answer is not 5.", "6"),
        ("The answer is 6. If the answer is 5, then 5 = 6.", "6"),
        ("The answer is 6. Is the answer 5?", "6"),
        ("The answer is 6. That answer is correct.", "6"),
        ("The answer is 6. Answer:", "6"),
    ],
)
def test_last_sentence_that_states_an_answer_holds_it(text: str, answer: str) -> None:
    assert final_statement(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "",
        "55",
        "I got 55.",
        r"\boxed{55}",
        "The answer is not 5.",
        "The answer isn't 5.",
        "the answer is 5 or 6?",
        "If the answer is 55, then x = 5.",
        "Let me check whether the answer is 55.",
        "What is the answer? I think 55.",
        "The answer is correct.",
        "Your answer is wrong.",
        "The answer is unknown.",
        "The answer is obtained by adding 5 and 6.",
        "The answer is a number between 5 and 6.",
        "The answer is in the box.",
        "the answer: the train takes a long time to get there.",
        "Answer:\n1. First, add 5 and 6.\n2. Done.",
        "Answer:\nFirst of all",
        "The answer is",
        "The answer is ...",
        "The answer is ____.",
        "answering 5: is fine",
    ],
)
def test_text_that_states_no_answer_has_none(text: str) -> None:
    assert final_statement(text) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("#### 55", "55"),
        ("5 * 11 = <<5*11=55>>55\n#### 55", "55"),
        ("He has 55. #### 55", "55"),
        ("####55", "55"),
        ("#### 55.", "55"),
        ("#### -3", "-3"),
        ("#### 1,234\n", "1,234"),
        ("#### 3.5", "3.5"),
        ("#### $55", "$55"),
        ("#### **55**", "55"),
        ("#### 55%", "55%"),
        (r"#### $\frac{1}{2}$", r"\frac{1}{2}"),
        (r"#### \boxed{55}", "55"),
        ("#### 55 dollars", r"55\text{ dollars}"),
        ("#### 55</s>", "55"),
        ("#### Final Answer: 55", "55"),
        ("#### The answer is 55.", "55"),
        ("#### 5\n#### 6", "6"),
        # A heading is no answer, and takes nothing from it.
        ("#### 6\n#### Notes", "6"),
        ("#### 6\n####", "6"),
    ],
)
def test_last_line_of_hashes_with_a_value_holds_the_answer(text: str, answer: str) -> None:
    assert hash_line(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "",
        "55",
        "### 55",
        "##### 55",
        "####",
        "#### \n55",
        "#### Step 1: add 5 and 6",
        "#### 2. Add them",
        "#### 2 Methods",
        "#### adding the numbers",
        "The answer is 55.",
    ],
)
def test_heading_is_no_line_with_an_answer(text: str) -> None:
    assert hash_line(text) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("It makes **55**", "55"),
        ("5 * 11 = 55.", "55"),
        ("5 * 11 = 55. Done!", "55"),
        ("She pays $1,234.50.", "1,234.50"),
        ("It loses -$5", "-5"),
        (r"It costs \$55", "55"),
        ("x = -3", "-3"),
        ("x = \u22123.5", "-3.5"),
        ("5-3", "3"),
        ("(5)-3", "3"),
        ("10 - 3", "3"),
        ("pages 3-5", "5"),
        (".5", ".5"),
        ("1/2", "1/2"),
        ("-1/2", "-1/2"),
        ("1 1/2 cups", "1 1/2"),
        (r"$\frac{1}{2}$", r"\frac{1}{2}"),
        (r"$\frac{-1}{2}$", r"\frac{-1}{2}"),
        (r"\dfrac12", r"\dfrac12"),
        ("55%", "55%"),
        (r"55 \%", r"55\%"),
        ("3:4", "3:4"),
        ("at 4:30", "4:30"),
        ("2^{5}", "2^{5}"),
        (r"1.2 \times 10^{5}", r"1.2 \times 10^{5}"),
        ("5e3", "5e3"),
        (r"1{,}234", r"1{,}234"),
        ("1, 2, 3", "3"),
        ("1,2,3", "3"),
        (r"\boxed{55}", "55"),
        ("<<5*11=55>>55", "55"),
        ("55km", "55"),
        (r"90^\circ", "90"),
        # What is not a number of its own takes nothing from the one before.
        ("55 m^2", "55"),
        ("55 of the 3rd kind, x1 and x_2, H2O", "55"),
        ("1. Add.\n2. That is 55.\n3. Done", "55"),
    ],
)
def test_last_number_of_a_text(text: str, answer: str) -> None:
    assert last_number(text) == answer


@pytest.mark.parametrize("text", ["", "none", "the 3rd and the 13th", "x1", "m^2", "H2O", "1. Add", "٣", "-", "$", "%"])
def test_text_without_a_number_has_none(text: str) -> None:
    assert last_number(text) is None


PLACES = "boxed hash_line final_statement last_number"

# What models write that were trained on GSM8K, and chat models, in our own words; each with its gold answer.
RIGHT = [
    ("Amy has 5 boxes of 11 pens. 5 * 11 = <<5*11=55>>55 pens.\n#### 55", "55"),
    ("She saves $12 a week for 8 weeks.\n12 * 8 = $<<12*8=96>>96\n#### $96", "96"),
    ("They drive 2 hours at 60 mph, which is 120 miles.\n#### 1,120 miles\n\n", "1120"),
    ("5 * 11 = 55. The answer is 55.", "55"),
    ("27 + 8 = 35", "35"),
    ("To find the total, add 15 and 21.\n\n15 + 21 = 36\n\nSo, Tom has 36 apples.", "36"),
    ("1. Tom has 6 apples.\n2. He buys 20 more.\n3. 6 + 20 = 26\n\nTherefore, the answer is 26 apples.", "26"),
    ("**Step 1:** 12 x 3 = 36\n\n**Step 2:** 36 / 2 = 18\n\n**Answer:** 18", "18"),
    ("### Step 1\nMultiply.\n\n#### Step 2\nDivide.\n\n### Final Answer\n\nThe total cost is **$1,250.00**.", "1250"),
    ("Let $x$ be the price. Then $3x = 12$, so $x = 4$.\n\nThe final answer is $\\boxed{4}$.", "4"),
    ("Therefore:\n\n$$\n\\boxed{\\frac{3}{4}}\n$$", "3/4"),
    ("Thus \\boxed 7.", "7"),
    ("Final Answer: The final answer is $-6$. I hope it is correct.", "-6"),
    ("The probability is 3/8, so the answer is 0.375.", "3/8"),
    ("The answer is 3/4 cup.", "0.75"),
    ("He paid 20% less, so he paid $80.", "80"),
    ("She needs 2 more hours. The answer is: 2 hours.", "2"),
    ("The answer is 25 more stickers than Ann has.", "25"),
    ("Hence, the train is 90 km/h fast. The answer is 90 km/h", "90"),
    ("The area is 5 * 4 = 20. The answer is 20 square meters.", "20"),
    ("The answer is 20 m^2.", "20"),
    ("We look at each choice.\n\nThe correct answer is (B) 15.", "B"),
    ("The answer is \\(x = 5\\).", "5"),
    ("The solutions are x = 5 and x = -3. The answer is x = 5 or x = -3.", "5, -3"),
    ("The answer is yes.", "Yes"),
    ("Is 17 prime? It has no divisor. Final answer: **Yes**", "yes"),
    ("The answer is obtained by adding 5 and 6: 5 + 6 = 11", "11"),
    (r"The answer is \(3\) and \(4\).", "3, 4"),
    ("I think that it is 7, but the answer is not 7. It is 8.", "8"),
]
WRONG = [
    ("The answer is 5 or 6.", "6"),
    ("The answer is 5 or 6.", "5"),
    (r"\boxed{5} or \boxed{6}", "6"),
    ("The answer is not 5, so it is 6.", "5"),
    ("The answer is -5.", "5"),
    ("The answer is 55.5.", "55"),
    ("#### 1,234", "234"),
    ("It is 3.5.", "5"),
    ("It is 1/2.", "2"),
    ("It is 20 cents. The answer is 20 cents.", r"20\text{ dollars}"),
    ("The area is 5 m^2.", "2"),
    (r"Fill in \boxed{}. The answer is 6.", "5"),
]
NOTHING = ["", "I do not know.", "What is the answer?", "Let us think it over.", "The answer is ...", "####", "x = y"]


@pytest.mark.parametrize(("text", "gold"), RIGHT)
def test_right_answer_is_found_and_read_by_the_grader(text: str, gold: str, grader: Grader) -> None:
    assert grader.grade(extractor(PLACES)(text), gold).correct


@pytest.mark.parametrize(("text", "gold"), WRONG)
def test_no_other_answer_is_made_of_a_wrong_one(text: str, gold: str, grader: Grader) -> None:
    assert not grader.grade(extractor(PLACES)(text), gold).correct


@pytest.mark.parametrize("text", NOTHING)
def test_text_without_an_answer_has_none_anywhere(text: str) -> None:
    assert extractor(PLACES)(text) is None


_VALUES = ["55", "$55", "-3", "1,234.50", "1/2", r"\frac{1}{2}", "$x = 5$", "(1, 2)", "B", "yes"]
_PARTS = [
    *("The answer is ", "Final answer: ", "**Answer:** ", "## Answer\n", "#### ", "the answer", "answer", " is "),
    *("not ", ". ", "?", "!", "\n", " because ", ", ", " or ", " and ", "if ", " dollars", " m^2", " crayons", "3rd"),
    *("$", "\\(", "\\)", "$$", "\\[", "\\boxed{", "\\boxed ", "{", "}", "\\text{", "**", "_", "1. ", "- ", "%", "^"),
    *("<answer>", "</"),
    *_VALUES,
]


@given(st.lists(st.sampled_from(_PARTS), max_size=20).map("".join) | st.text())
def test_every_rule_takes_any_text(text: str) -> None:
    for extract in EXTRACTORS.values():
        answer = extract(text)
        assert answer is None or (answer != "" and answer == answer.strip())


@given(
    before=st.text().filter(lambda text: "answer" not in text.lower()),
    value=st.integers(0, 10**7).map(str) | st.decimals(0, 10**4, places=2).map(str),
    mark=st.sampled_from(["", "**", "$", '"']),
)
def test_stated_number_is_found_after_any_text(before: str, value: str, mark: str) -> None:
    text = f"{before}\nThe answer is {mark}{value}{mark}."
    assert final_statement(text) == last_number(text) == hash_line(f"{before}\n#### {mark}{value}{mark}") == value


def test_statements_and_numbers_are_looked_for_in_linear_time() -> None:
    # In a process of its own, so that a regression fails instead of holding up the whole run.
    program = r"""
from multi_attempt.answers.statements import final_statement, hash_line, last_number
pieces = [
    *("answer", "answer ", "answer:", "The answer is ", "answer*", "Answer\n", "answer to the ", "answer is 1 "),
    *("if answer is ", "####", "#", "#### ", "#### 1. ", "#### answer is ", "####\n", "* ", "*", "_", " ", "\n", "\t"),
    *("1", "1,", "1,111", "1 ", "1 1/", ".1", "1.", "-", "$", "1/", "1:", "\\frac{1}{", "1^{", "1 \\times 10^", "1st"),
    *("is ", "is: ", " and ", ", ab", " - ab", " (ab", "\\(", "$1", "$$", "\\[", "**a", "a.", "a' ", "1 a", "1 ab "),
    *(">", "\n1. "),
]
for extract in (final_statement, hash_line, last_number):
    for piece in pieces:
        long = piece * (150_000 // len(piece))
        for text in (long, "The answer is " + long, long + "!\0x"):
            extract(text)
    extract("The answer is" + " " * 150_000 + "5")
    extract("answer" + " " * 150_000 + "5")
    extract("#### " + "a" * 150_000)
print("finished")
"""
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=SECONDS_FOR_LINEAR_WORK
    )
    assert finished.stdout == "finished\n", finished.stderr
