"""Rows of a local file, each with the line it stands on."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tqdm import tqdm


@dataclass(frozen=True)
class RawRow:
    """A row as it stands in its file.

    Attributes:
        fields: its fields.
        line: its number, from 1; in a JSON array, in a Parquet file or on the hub, of the row.
        place: the file and the line, for messages.
        part: the config and split that it is of; empty in a file.
    """

    fields: dict[str, Any]
    line: int
    place: str
    part: str = ""


@dataclass(frozen=True)
class LocalFile:
    """A file of JSON lines, of a JSON array, or a Parquet file, read once."""

    path: Path

    def origin(self) -> dict[str, str]:
        """What the manifest says of it: its name, and what it holds as a hash."""
        return {"file": self.path.name, "sha256": hashlib.sha256(self._content).hexdigest()}

    def matches(self, recorded: dict[str, Any]) -> bool:
        """Whether the origin of an earlier run is this."""
        return recorded.get("sha256") == self.origin()["sha256"]

    def read(self) -> list[RawRow]:
        """All rows.

        Raises:
            ValueError: the file is empty, of an unknown kind, or not what it says.
        """
        readers = {".jsonl": _line_rows, ".json": _json_rows, ".parquet": _parquet_rows}
        if self.path.suffix not in readers:
            raise ValueError(f"--from = {self.path}: its kind is not known; use a {', '.join(readers)} file")
        rows = list(readers[self.path.suffix](self.path, self._content))
        if not rows:
            raise ValueError(f"--from = {self.path}: there are no rows in it; name a file that has some")
        return rows

    @cached_property
    def _content(self) -> bytes:
        if not self.path.is_file():
            raise ValueError(f"--from = {self.path}: there is no such file; name one that exists")
        return self.path.read_bytes()


def _json_rows(path: Path, content: bytes) -> Iterator[RawRow]:
    """Files called ``.json`` hold one array of all rows, or lines all the same."""
    return _array_rows(path, content) if content.lstrip().startswith(b"[") else _line_rows(path, content)


def _array_rows(path: Path, content: bytes) -> Iterator[RawRow]:
    values = _parsed(content, str(path), "correct the file")
    for number, value in enumerate(tqdm(values, desc=f"Reading {path.name}", unit="row"), start=1):
        place = f"{path}, row {number}"
        yield RawRow(_object(value, place), number, place)


def _line_rows(path: Path, content: bytes) -> Iterator[RawRow]:
    for number, line in enumerate(tqdm(content.split(b"\n"), desc=f"Reading {path.name}", unit="line"), start=1):
        if line.strip():
            place = f"{path}, line {number}"
            yield RawRow(_object(_parsed(line, place, "correct or remove the line"), place), number, place)


def _parsed(text: bytes, place: str, remedy: str) -> Any:
    try:
        return json.loads(text.decode())
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{place}: not UTF-8 ({error.reason} at byte {error.start}); save the file as UTF-8"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: not JSON ({error}): {text[:80]!r}; {remedy}") from error


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(
            f"{place}: {json.dumps(value)[:80]} is no JSON object; each row must be one, its fields by name"
        )
    return value


def _parquet_rows(path: Path, content: bytes) -> Iterator[RawRow]:
    for number, fields in enumerate(parquet_fields(path, content), start=1):
        yield RawRow(fields, number, f"{path}, row {number}")


def parquet_fields(path: Path, content: bytes | None = None) -> list[dict[str, Any]]:
    """The rows of a Parquet file.

    Raises:
        ValueError: it is none.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path if content is None else io.BytesIO(content))
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a Parquet file ({error}); name one that is") from error
    return table.to_pylist()
