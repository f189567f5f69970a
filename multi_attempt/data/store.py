"""A source's folder: its Parquet files, and the manifest that says what is in them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from multi_attempt.data.files import parquet_fields
from multi_attempt.data.rows import write_parquet

# Written last, and removed before anything is replaced: where it is, the folder is whole.
MANIFEST = "manifest.json"
TEST = "test.parquet"
TEST_WITH_ATTEMPTS = "test_with_attempts.parquet"
_FILES = ("train.parquet", "validation.parquet", TEST, TEST_WITH_ATTEMPTS)


_LOCK = ".lock"


@contextlib.contextmanager
def sole_writer(output: Path) -> Iterator[None]:
    """Keep other processes from writing to an output folder; the lock of one that is killed ends with it.

    Raises:
        ValueError: another process is writing to it.
    """
    output.mkdir(parents=True, exist_ok=True)
    lock = output / _LOCK
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.path.samestat(os.fstat(file.fileno()), lock.stat())  # and not one that is just being removed
        except (BlockingIOError, FileNotFoundError):
            held = False
        if not held:
            raise ValueError(
                f"--output = {output}: another multi-attempt data is writing to it; wait for it, or name another folder"
            )
        try:
            yield
        finally:
            lock.unlink()
            if not any(output.iterdir()):
                output.rmdir()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What a finished folder says of itself; None where there is none."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and isinstance(manifest.get("outputs"), dict) else None


def is_untouched(folder: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether the files are the ones that were written."""
    outputs = manifest["outputs"]
    return all((folder / name).is_file() and _sha256(folder / name) == digest for name, digest in outputs.items())


def evaluation_sets(output: Path, but: Collection[str] = ()) -> dict[str, str]:
    """The evaluation sets in an output folder, but those named, with a hash of each.

    Raises:
        ValueError: one was changed since it was written.
    """
    sets = {}
    for file in sorted(output.glob(f"*/{TEST}")):
        manifest = read_manifest(file.parent)
        if manifest is None or file.parent.name in but:
            continue
        if not is_untouched(file.parent, manifest):
            raise ValueError(
                f"{file} was changed since it was written, so that nothing can be compared with it; prepare "
                f"{file.parent.name} again, or remove its folder"
            )
        sets[file.parent.name] = str(manifest["outputs"][TEST])
    return sets


def evaluation_questions(output: Path, name: str) -> list[str]:
    """The questions of an evaluation set in an output folder."""
    return [str(row["prompt"][-1]["content"]) for row in parquet_fields(output / name / TEST)]


def write(folder: Path, outputs: Mapping[str, Sequence[dict[str, Any]]], manifest: Mapping[str, Any]) -> None:
    """Put files and manifest in a folder's place, all or none: what was there stays until they are whole."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = {name: folder / f"{name}.unfinished" for name in (*outputs, MANIFEST)}
    try:
        for name, rows in outputs.items():
            write_parquet(rows, unfinished[name])
        hashes = {name: _sha256(unfinished[name]) for name in outputs}
        text = json.dumps({**manifest, "outputs": hashes}, indent=2, ensure_ascii=False) + "\n"
        unfinished[MANIFEST].write_text(text, "utf-8")
        _replace(folder, unfinished)
    finally:
        for file in unfinished.values():
            file.unlink(missing_ok=True)


def _replace(folder: Path, unfinished: Mapping[str, Path]) -> None:
    (folder / MANIFEST).unlink(missing_ok=True)
    for name in _FILES:
        if name not in unfinished:
            (folder / name).unlink(missing_ok=True)  # of an earlier run, with other options
    for name, file in unfinished.items():
        os.replace(file, folder / name)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
