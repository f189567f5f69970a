"""The files of an evaluation: what was asked, every episode as it ends, and the figures.

``run.json`` says what the episodes of ``episodes.jsonl`` depend on; ``eval.json`` has the figures made of them. A run
that was killed loses the episodes under way, and goes on with the others where it is started again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from multi_attempt.evaluation.protocols import Kind, Outcome, Played, Told
from multi_attempt.evaluation.run_files import (
    EPISODES_FILE,
    EVALUATION_FILE,
    SETTINGS_FILE,
    parse_episode,
    read_settings,
)


class Place(NamedTuple):
    """Which episode: of which model, on which question, of which kind."""

    model: str
    benchmark: str
    question: str
    kind: Kind


class Records:
    """The folder of an evaluation, open for writing by one process at a time.

    Attributes:
        folder: where it is.
        played: the episodes that ended, without those that failed; their texts stay in the file.

    Args:
        folder: made if it is not there.
        settings: what all episodes depend on.
        models: for each model what tells its weights from others.
        contexts: for each model the tokens that prompt and response can have, if they are known.
        restart: throw away what the folder holds of an earlier evaluation.

    Raises:
        ValueError: the folder's episodes were made with other settings, or of other weights under the same name, or
            nobody knows with which, or a file was changed into what is none of an evaluation, or another process writes
            to it.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        models: Mapping[str, str],
        contexts: Mapping[str, int | None],
        restart: bool = False,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._file = (folder / EPISODES_FILE).open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise ValueError(f"--output = {str(folder)!r}: another evaluation is writing there") from error
        try:
            if restart:
                self._clear()
            self._check(json.loads(json.dumps(settings)), models, contexts)
            self.played = self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Records:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, place: Place, row: Mapping[str, Any]) -> None:
        """Append an episode; it is in the file when this returns."""
        line = {
            **{"model": place.model, "benchmark": place.benchmark, "id": place.question},
            **{"protocol": place.kind.protocol, "budget": place.kind.budget, "sample": place.kind.sample},
            **row,
        }
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        _note(self.played, place, line)

    def write_figures(self, figures: Mapping[str, Any]) -> Path:
        """Write ``eval.json``."""
        return _write(self.folder / EVALUATION_FILE, figures)

    def _clear(self) -> None:
        """Throw away an earlier evaluation. Its file stays, since others find by it whether this one is writing."""
        self._file.truncate(0)
        for name in (SETTINGS_FILE, EVALUATION_FILE):
            (self.folder / name).unlink(missing_ok=True)

    def _check(self, settings: dict[str, Any], models: Mapping[str, str], contexts: Mapping[str, int | None]) -> None:
        path = self.folder / SETTINGS_FILE
        anew = "name another folder, or --restart to begin anew there"
        if not path.is_file() and os.fstat(self._file.fileno()).st_size:
            raise ValueError(
                f"--output = {str(self.folder)!r} holds episodes, but no {SETTINGS_FILE}, which says how they were "
                f"made; put it back, or {anew}"
            )
        known = read_settings(path) if path.is_file() else {**settings, "models": {}, "contexts": {}}
        for name, value in settings.items():
            if known.get(name) != value:
                raise ValueError(
                    f"--output = {str(self.folder)!r} was made with {name} = {known.get(name)!r}, not {value!r}; {anew}"
                )
        for name, digest in models.items():
            if known["models"].get(name, digest) != digest:
                raise ValueError(
                    f"--output = {str(self.folder)!r} holds episodes of a model called {name!r} with other weights; "
                    "name another folder or call it otherwise (--model NAME=PATH), or --restart to begin anew there"
                )
        for name, context in contexts.items():
            before = known["contexts"].get(name, context)
            if before != context:
                raise ValueError(
                    f"--output = {str(self.folder)!r} holds episodes of {name!r} with a context of {before} tokens, "
                    f"not {context}; {anew}"
                )
        merged = {"models": {**known["models"], **models}, "contexts": {**known["contexts"], **contexts}}
        _write(path, {**settings, **merged})

    def _read(self) -> dict[Place, Played]:
        """The episodes so far; a line that a killed run left half-written is cut off."""
        self._file.seek(0)
        played: dict[Place, Played] = {}
        whole = 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            if not line.strip():
                continue
            key, row = parse_episode(line, f"{self.folder / EPISODES_FILE}, line {number}", ended=True)
            _note(played, Place(key.model, key.benchmark, key.id, Kind(key.protocol, key.budget, key.sample)), row)
        self._file.truncate(whole)
        return played


def outcomes(attempts: tuple[Outcome, ...]) -> list[dict[str, Any]]:
    """Attempts as they stand in a row."""
    return [asdict(attempt) for attempt in attempts]


def _note(played: dict[Place, Played], place: Place, row: Mapping[str, Any]) -> None:
    """Take over an episode; of several at one place the last counts, and one that failed counts as not played."""
    if row["error"]:
        played.pop(place, None)
    else:
        attempts = tuple(Outcome(**attempt) for attempt in row["attempts"])
        told = Told(**row["told"]) if "told" in row else None
        played[place] = Played(attempts, truncated=row["stop"] == "truncated", room=row["room"], told=told)


def _write(path: Path, content: Any) -> Path:
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, path)
    return path
