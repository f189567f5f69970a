"""The report's page in a real browser, without a network: what its filters show, and that no text of a model runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_files import (
    HOSTILE,
    RIGHT,
    WRONG,
    attempt,
    episode,
    evaluation,
    model,
    paper_evaluation,
    training_step,
    write_run,
)

from multi_attempt.evaluation.report import write_report

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
ARTIFACTS = Path(
    os.environ.get("TEST_ARTIFACTS", Path(__file__).resolve().parents[2] / "outputs" / "test-artifacts")
) / "report"  # fmt: skip

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (pip install '.[dev]')")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM.exists() and DRIVER.exists()),
    reason="Chromium is not installed (apt-get install chromium chromium-driver)",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        f"--disable-component-update --disable-sync --hide-scrollbars --user-data-dir={profile}"
    ).split():
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(str(DRIVER))
    driver = webdriver.Chrome(options=options, service=service)
    # What the page might ask of a network fails, and is in the browser's log.
    driver.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Iterator[View]:
    yield View(browser, write_report(made_up_run(tmp_path)))
    assert browser.get_log("browser") == [], "the browser's console has errors"


class View:
    """The page as a person sees it."""

    def __init__(self, browser: Any, path: Path) -> None:
        self.browser, self.path = browser, path
        self.resize(1280, 900)
        self.open()

    def open(self, address: str = "") -> None:
        self.browser.get("about:blank")  # so that another address of the same file is loaded, too
        self.browser.get(self.path.as_uri() + address)

    def resize(self, width: int, height: int) -> None:
        """Also to less than a window can be: the width of a telephone."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)

    def run(self, script: str) -> Any:
        return self.browser.execute_script(script)

    def all(self, selector: str) -> list[Any]:
        return [found for found in self.browser.find_elements("css selector", selector) if found.is_displayed()]

    def texts(self, selector: str) -> list[str]:
        return [found.text for found in self.all(selector)]

    def press(self, label: str) -> None:
        """Click the outcome whose words, without the count behind them, are these."""
        for button in self.all("#outcomes button"):
            if button.text.rsplit(maxsplit=1)[0] == label:
                button.click()
                return
        raise AssertionError(f"there is no button {label!r}")

    def choose(self, field: str, value: str) -> None:
        self.run(f"document.getElementById('{field}').scrollIntoView({{block: 'center'}})")
        self.browser.find_element("css selector", f"#{field} option[value='{value}']").click()

    def search(self, words: str) -> None:
        box = self.browser.find_element("id", "search")
        box.clear()
        box.send_keys(words)

    def shown(self) -> list[tuple[str, str]]:
        """Question's id and model of each dialogue shown."""
        found = self.run(
            "return [...document.querySelectorAll('article')].map((card) => "
            "[card.parentNode.querySelector('header .facts span').textContent, card.querySelector('b').textContent])"
        )
        return [(about.rsplit(maxsplit=1)[1], name) for about, name in found]

    def picture(self, name: str) -> None:
        """Save a picture of all of the page."""
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        width = self.run("return innerWidth")
        self.resize(width, self.run("return document.documentElement.scrollHeight"))
        self.browser.save_screenshot(str(ARTIFACTS / f"{name}.png"))
        self.resize(width, 900)


def made_up_run(folder: Path) -> Path:
    """Two models on five questions; the fifth holds texts that try to break out."""
    protocols = ("oracle", "blind", "independent")
    models = [model(name, [0.4, 0.5, 0.6], protocols=protocols) for name in ("before", "after")]
    content = evaluation(*models, attempts=(1, 2, 3), protocols=protocols)
    failed = {"error": "TimeoutError: no answer within 60 s", "stop": "aborted"}
    cut = attempt(None, truncated=True, well_formed=False)
    hostile = {"question": HOSTILE, "gold": HOSTILE, "text": HOSTILE, "error": ""}
    episodes = [
        episode(RIGHT, id="q1"),
        episode(RIGHT, id="q1", model="after"),
        episode(WRONG, RIGHT, id="q2"),
        episode(WRONG, attempt("5"), RIGHT, id="q2", model="after"),
        episode(WRONG, attempt(repeated=True), attempt("7"), id="q3"),
        episode(WRONG, cut, id="q3", model="after", stop="truncated"),
        episode(WRONG, id="q4", **failed),
        episode(WRONG, id="q4", model="after", budget=1),
        episode(attempt(HOSTILE), attempt(HOSTILE), id="q5", **hostile),
        episode(RIGHT, WRONG, RIGHT, id="q1", protocol="blind"),
        *(
            episode(attempt(str(4 + number)), id="q1", protocol="independent", budget=1, sample=number)
            for number in range(3)
        ),
    ]
    return write_run(folder, [training_step(step, step / 30) for step in range(1, 31)], content, episodes)


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        ("Solved at attempt 1", [("q1", "before"), ("q1", "after"), ("q1", "before")]),
        ("Solved at attempt 2", [("q2", "before")]),
        ("Solved at attempt 3", [("q1", "before"), ("q2", "after")]),
        (
            "Never solved",
            [("q1", "before")] * 2 + [("q3", "before"), ("q3", "after"), ("q4", "after"), ("q5", "before")],
        ),
        ("Repeated an answer", [("q3", "before")]),
        ("Truncated", [("q3", "after")]),
        ("Failed", [("q4", "before")]),
    ],
)
def test_outcomes_are_filtered(page: View, outcome: str, shown: list[tuple[str, str]]) -> None:
    page.press(outcome)
    assert sorted(page.shown()) == sorted(shown)
    assert page.texts("#count") == [f"Showing {len(shown)} of {len(shown)} dialogues"]
    assert f"{outcome} {len(shown)}" in page.texts("#outcomes button")
    page.press("All")
    assert page.texts("#count") == ["Showing 12 of 13 dialogues"]


def test_dialogues_about_a_question_stand_together(page: View) -> None:
    page.browser.find_element("id", "more").click()
    assert page.texts("#count") == ["Showing 13 of 13 dialogues"]
    ids = [name for name, _ in page.shown()]
    assert ids == ["q1"] * 6 + ["q2", "q2", "q3", "q3", "q4", "q4", "q5"]
    assert len(page.all(".question")) == len(set(ids)) == 5
    page.choose("protocol", "oracle")
    page.search("q2")
    assert page.shown() == [("q2", "before"), ("q2", "after")]
    assert page.texts(".badge") == [
        *("solved at attempt 2", "wrong", "right"),
        *("solved at attempt 3", "wrong", "wrong", "right"),
    ]


def test_other_filters_and_search(page: View) -> None:
    page.choose("model", "after")
    assert {name for _, name in page.shown()} == {"after"}
    page.choose("attempts", "1")
    assert page.shown() == [("q4", "after")]
    page.browser.find_element("id", "clear").click()
    page.choose("protocol", "independent")
    assert all(f"sample {number + 1}" in text for number, text in enumerate(page.texts("article .facts")))
    assert [len(card.find_elements("class name", "attempt")) for card in page.all("article")] == [1, 1, 1]
    page.browser.find_element("id", "clear").click()
    page.search("ALERT(1)")
    assert page.shown() == [("q5", "before")]
    page.search("nothing says this")
    assert page.texts("#count") == ["No dialogue matches."]
    # Of one benchmark there is nothing to choose.
    assert not page.all("#benchmark")


def test_a_view_can_be_linked_to(page: View) -> None:
    page.press("Solved at attempt 2")
    page.choose("model", "before")
    page.search("2 times 3")
    next(tab for tab in page.all("[role=tab]") if tab.text == "blind").click()
    address = page.run("return location.hash")
    for part in ("outcome=solved-2", "model=before", "search=2+times+3", "table=blind"):
        assert part in address
    for load in (page.browser.refresh, lambda: page.open(address)):
        load()
        assert page.shown() == [("q2", "before")]
        assert page.run("return document.getElementById('search').value") == "2 times 3"
        assert page.texts("[role=tab][aria-selected=true]") == ["blind"]
        assert len(page.all(".tables")) == 1
    # Going to another address without loading anew, and to one that names what is not there.
    page.run("location.hash = '#outcome=failed'")
    assert page.browser.execute_async_script("setTimeout(arguments[0], 50)") is None
    assert page.shown() == [("q4", "before")]
    page.open("#outcome=solved-99&model=nobody&attempts=x&table=none")
    assert page.texts("#count") == ["Showing 12 of 13 dialogues"]


def test_tables_are_shown_one_protocol_at_a_time(page: View) -> None:
    assert page.texts("[role=tab]") == ["oracle", "blind", "independent"]
    for tab in page.all("[role=tab]"):
        tab.click()
        assert [panel.get_attribute("data-protocol") for panel in page.all(".tables")] == [tab.text]
        assert f"What the model is told under {tab.text}." in page.texts(".tables p")


def test_hostile_text_is_shown_and_not_run(page: View) -> None:
    page.search("hacked")
    assert [text.split("{{")[1] for text in page.texts(".question h3")] == [HOSTILE.split("{{")[1]]
    assert all("<script>document.title" in text for text in page.texts("article .answer"))
    assert page.browser.title == "Multi-attempt training: report"
    assert page.run("return document.querySelectorAll('img:not(figure img)').length") == 0
    assert page.run("return [...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    # The page loads nothing: all it has came with it.
    assert (
        page.run("return performance.getEntriesByType('resource').filter((one) => !one.name.startsWith('data:'))") == []
    )


@pytest.mark.parametrize(("name", "width"), [("desktop", 1280), ("phone", 390)])
def test_page_fits_its_window(page: View, name: str, width: int) -> None:
    page.resize(width, 900)
    page.open()
    # Nothing but the boxes that scroll by themselves is wider than the window.
    assert page.run("return document.documentElement.scrollWidth") <= width
    page.picture(f"{name}-all")
    page.press("Solved at attempt 3")
    page.picture(f"{name}-solved-at-attempt-3")


@pytest.mark.parametrize(("name", "width"), [("desktop", 1280), ("phone", 390)])
def test_page_of_a_large_evaluation(browser: Any, tmp_path: Path, name: str, width: int) -> None:
    content = paper_evaluation()
    content["models"][1]["results"]["oracle"]["benchmarks"]["aime24"]["failed"] = 2
    view = View(browser, write_report(write_run(tmp_path / "paper", content=content)))
    view.resize(width, 900)
    assert view.run("return document.documentElement.scrollWidth") <= width
    assert "single-attempt training: questions that failed" in " ".join(view.texts(".tables .error"))
    assert len(view.all("figure img")) == 3
    # No row is so high that its name must have been squeezed into a narrow column.
    assert 20 < view.run("return Math.max(...[...document.querySelectorAll('tr')].map((row) => row.offsetHeight))") < 80
    view.picture(f"{name}-paper")
    assert browser.get_log("browser") == []
