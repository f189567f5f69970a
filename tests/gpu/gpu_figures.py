"""The figures that the tests on a GPU print: kept as JSON lines, and put into the table of ``docs/gpu.md``.

``python tests/gpu/gpu_figures.py outputs/gpu/figures.jsonl`` prints the page's table with the last figures of each test
in its third column; a line whose test has none stays as it is.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "gpu.md"

# The last cell but one of a line names its test: `tests/gpu/FILE.py::TEST`.
_TEST = re.compile(r"`tests/gpu/\w+\.py::(\w+)`")


@dataclass(frozen=True)
class Figure:
    """One figure of a test.

    Attributes:
        date: in UTC, as in 2026-11-28.
        test: its name, with its parameters.
        device: the GPU's name, or that it was a rehearsal.
        name: of the figure.
        value: the figure.
        unit: its unit, with what else it depends on.
    """

    date: str
    test: str
    device: str
    name: str
    value: float
    unit: str

    def __str__(self) -> str:
        return f"{self.test} | {self.device} | {self.name} | {self.value:.6g} {self.unit}"

    def write(self, path: Path) -> None:
        """Add it to a file of JSON lines."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as sink:
            sink.write(json.dumps(asdict(self)) + "\n")


def read(lines: Iterable[str]) -> list[Figure]:
    """The figures in JSON lines; of one that was taken again, the last."""
    figures = [Figure(**json.loads(line)) for line in lines]
    last = {(each.test, each.device, each.name, each.unit): each for each in figures}
    return list(last.values())


def table(page: str, figures: Sequence[Figure]) -> list[str]:
    """The lines of the page's table that name a test, with the figures of that test in their third cell."""
    by_test: dict[str, list[Figure]] = {}
    for figure in figures:
        by_test.setdefault(figure.test.split("[")[0], []).append(figure)
    return [_filled(line, by_test) for line in page.splitlines() if line.startswith("|") and _TEST.search(line)]


def _filled(line: str, by_test: Mapping[str, Sequence[Figure]]) -> str:
    what, where, _ = line.strip("|").split("|")
    found = [figure for name in _TEST.findall(where) for figure in by_test.get(name, ())]
    return f"|{what}|{where}| {'; '.join(_said(found))} |" if found else line


def _said(figures: Sequence[Figure]) -> Iterator[str]:
    """The device and the date once, before the figures that they are of."""
    before = ""
    for figure in figures:
        taken = f"{figure.device}, {figure.date}: "
        yield f"{taken if taken != before else ''}{figure.name} {figure.value:.4g} {figure.unit}".rstrip()
        before = taken


def main() -> None:
    """Print the lines."""
    [path] = sys.argv[1:]
    print("\n".join(table(PAGE.read_text(), read(Path(path).read_text().splitlines()))))


if __name__ == "__main__":
    main()
