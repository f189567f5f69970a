"""The rooms of ``verl_ext``: which may import which. An arrow more, or a circle, fails here."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import verl_ext

# What each room or module on the ground floor may import; what is named later may import what is named before.
ALLOWED = {
    "names": set(),
    "model": set(),
    "cpu": set(),
    "memory": {"model"},
    "algorithms": {"names"},
    "rollout": {"names", "model"},
    "training": {"names", "algorithms", "rollout"},
    "reward_manager": {"names", "rollout"},
    "checks": {"names", "algorithms", "model", "cpu", "memory", "rollout", "training"},
    "plugin": {"names", "model", "cpu", "algorithms", "rollout", "training", "reward_manager"},
}

_ROOT = Path(verl_ext.__file__).parent


def arrows() -> dict[str, set[str]]:
    """The rooms that each room imports."""
    found: dict[str, set[str]] = defaultdict(set)
    for file in _ROOT.rglob("*.py"):
        place = file.relative_to(_ROOT).with_suffix("").parts
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "verl_ext":
                path = str(node.module).split(".")[1:]
                found[place[0]] |= {path[0]} if path else {alias.name for alias in node.names}
    return {room: imported - {room} for room, imported in found.items()}


def test_no_room_imports_another_than_it_may() -> None:
    assert {room: rooms - ALLOWED[room] for room, rooms in arrows().items() if rooms - ALLOWED[room]} == {}


def test_every_arrow_that_is_allowed_is_there_and_leads_down() -> None:
    found = arrows()
    names = list(ALLOWED)
    for room, rooms in ALLOWED.items():
        assert rooms == found.get(room, set())
        assert all(names.index(other) < names.index(room) for other in rooms)
