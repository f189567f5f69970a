"""Checkpoints that are whole, or not there.

verl writes a checkpoint in place, and deletes the one before it while the new one has no critic yet
(``max_actor_ckpt_to_keep=1``: ``checkpoint_manager.py``, line 181); it starts anew, without an error, where its record
of the last checkpoint is gone (``checkpoint_manager.py``, line 231). Here each finished checkpoint lists its files; a
run resumes only from one that has them all; and nothing old is deleted before the new one is finished.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig

_MANIFEST = "complete.json"
_TRACKER = "latest_checkpointed_iteration.txt"
_FOLDER = re.compile(r"global_step_(\d+)")
_DATA_ORDER = "data.pt"

_logger = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, or that a run cannot go on from."""


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: ``trainer.default_local_dir``.
        roles: the folders that a checkpoint has for its models (``actor``, ``critic``), each with how many to keep;
            None for all.
    """

    def __init__(self, folder: Path, roles: Mapping[str, int | None]) -> None:
        self._folder, self._roles = folder, roles
        self._tracker = folder / _TRACKER

    # ---- Going on ----

    def check_resume(self, mode: str, path: str | None) -> None:
        """See that the run goes on where it should.

        Args:
            mode: ``trainer.resume_mode``.
            path: ``trainer.resume_from_path``.

        Raises:
            CheckpointError: the checkpoint is damaged or missing; the message names the file, and what to do.
        """
        for former in self._folder.glob("global_step_*.former"):
            self._settle(former)
        if mode == "resume_path":
            self._check(Path(str(path)), f"trainer.resume_from_path = {path}")
        elif mode == "auto":
            latest = self._latest()
            if latest is not None:
                self._check(self._of(latest), f"{self._tracker} names step {latest}")

    def finished(self) -> list[int]:
        """The steps whose checkpoints have been finished, in order."""
        matches = (_FOLDER.fullmatch(path.parent.name) for path in self._folder.glob(f"*/{_MANIFEST}"))
        return sorted(int(match[1]) for match in matches if match)

    def _of(self, step: int) -> Path:
        return self._folder / f"global_step_{step}"

    def _latest(self) -> int | None:
        """The step in verl's record of the last checkpoint; None if no checkpoint was ever finished."""
        if self._tracker.is_file():
            text = self._tracker.read_text()
            if not text.strip().isdecimal():
                raise CheckpointError(f"{self._tracker} = {text!r} is not a step. {self._remedy()}")
            return int(text)
        if self.finished():
            raise CheckpointError(
                f"{self._tracker} is missing, and the run would start anew in a folder with checkpoints. "
                f"{self._remedy()}"
            )
        return None

    def _check(self, checkpoint: Path, why: str) -> None:
        if not checkpoint.is_dir():
            raise CheckpointError(f"{why}, but there is no folder {checkpoint}. {self._remedy(checkpoint)}")
        damages = list(damages_of(checkpoint, list(self._roles)))
        if damages:
            raise CheckpointError(
                f"{why}, but that checkpoint is damaged: {'; '.join(damages)}. {self._remedy(checkpoint)}"
            )
        if not (checkpoint / _MANIFEST).is_file():
            _logger.warning("%s has no %s, so its files cannot be checked for damage.", checkpoint, _MANIFEST)

    def _remedy(self, damaged: Path | None = None) -> str:
        whole = [self._of(step) for step in self.finished() if not any(damages_of(self._of(step), list(self._roles)))]
        whole = [checkpoint for checkpoint in whole if checkpoint != damaged]
        if not whole:
            return (
                "No other checkpoint there is whole. To start anew, choose another trainer.default_local_dir, or set "
                "trainer.resume_mode=disable."
            )
        return (
            f"The last whole checkpoint is {whole[-1]}; to go on from it, add trainer.resume_mode=resume_path "
            f"trainer.resume_from_path={whole[-1]}"
        )

    # ---- Saving ----

    @contextmanager
    def saving(self, step: int) -> Iterator[None]:
        """Around the writing of a step's checkpoint: makes it whole, or leaves things as they were.

        Raises:
            CheckpointError: it could not be written. The checkpoints before it are as they were.
        """
        target = self._of(step)
        former = target.with_name(f"{target.name}.former")
        record = self._tracker.read_text() if self._tracker.is_file() else None
        if target.is_dir():  # of an earlier try; its files may be linked elsewhere, so they are not written over
            shutil.rmtree(former, ignore_errors=True)
            target.rename(former)
        try:
            yield
            _write_manifest(target)
        except Exception as error:
            free = shutil.disk_usage(self._folder).free if self._folder.is_dir() else 0
            self._restore(target, former, record)
            raise CheckpointError(
                f"the checkpoint {target} could not be written, and was removed. {self._before()} When it failed, "
                f"{_mebibytes(free)} were free there. The reason: {str(error).strip().splitlines()[-1]}"
            ) from error
        shutil.rmtree(former, ignore_errors=True)
        self._prune(step)

    def _before(self) -> str:
        last = max(self.finished(), default=None)
        if last is None:
            return "There is none before it."
        size = sum(_files_of(self._of(last)).values())
        return (
            f"The one before it, {self._of(last)} ({_mebibytes(size)}), is whole, and the same command goes on from it."
        )

    def _settle(self, former: Path) -> None:
        """Undo a save that was killed: the new one if it was not finished, else the old one."""
        target = former.with_name(former.name.removesuffix(".former"))
        if not (target / _MANIFEST).is_file():
            shutil.rmtree(target, ignore_errors=True)
            former.rename(target)
        else:
            shutil.rmtree(former)

    def _restore(self, target: Path, former: Path, record: str | None) -> None:
        shutil.rmtree(target, ignore_errors=True)
        if former.is_dir():
            former.rename(target)
        # verl empties the record before it writes it (trainer_base.py, line 1025), which fails on a full disk.
        if record is None:
            self._tracker.unlink(missing_ok=True)
        elif self._tracker.read_text() != record:
            self._tracker.write_text(record)

    def _prune(self, step: int) -> None:
        """Delete what is more than is to be kept, of the checkpoints up to this step."""
        steps = [finished for finished in self.finished() if finished <= step]
        for role, keep in self._roles.items():
            for old in steps[:-keep] if keep else []:
                checkpoint = self._of(old)
                (checkpoint / _MANIFEST).unlink(missing_ok=True)  # first: from now on it is not whole
                shutil.rmtree(checkpoint / role, ignore_errors=True)
                if not any((checkpoint / other).is_dir() for other in self._roles):
                    shutil.rmtree(checkpoint, ignore_errors=True)


def checkpoints_of(config: DictConfig, *, critic: bool) -> Checkpoints:
    """The checkpoints of a run with this config, which has a critic or not."""
    trainer = config.trainer
    only_last = bool(trainer.get("remove_previous_ckpt_in_save", False))
    roles = ["actor", "critic"] if critic else ["actor"]
    keep = {role: 1 if only_last else trainer.get(f"max_{role}_ckpt_to_keep") for role in roles}
    return Checkpoints(Path(trainer.default_local_dir).absolute(), keep)


def damages_of(checkpoint: Path, roles: list[str]) -> Iterator[str]:
    """What is wrong with a checkpoint, file by file. One without a list of its files is only seen to have its parts."""
    manifest = checkpoint / _MANIFEST
    if not manifest.is_file():
        for part in (*roles, _DATA_ORDER):
            if not (checkpoint / part).exists():
                yield f"{checkpoint / part} is missing"
        return
    try:
        files = _files_of(checkpoint)
    except (ValueError, KeyError) as error:
        yield f"{manifest} cannot be read ({type(error).__name__}: {error})"
        return
    for name, size in files.items():
        path = checkpoint / name
        if not path.is_file():
            yield f"{path} is missing"
        elif path.stat().st_size != size:
            yield f"{path} has {path.stat().st_size} bytes, and had {size} when it was saved"


def _files_of(checkpoint: Path) -> dict[str, int]:
    """The files of a finished checkpoint as they were saved, with their sizes in bytes."""
    files: dict[str, int] = json.loads((checkpoint / _MANIFEST).read_text())["files"]
    return files


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def _write_manifest(checkpoint: Path) -> None:
    files = {str(path.relative_to(checkpoint)): path.stat().st_size for path in checkpoint.rglob("*") if path.is_file()}
    unfinished = checkpoint / f"{_MANIFEST}.unfinished"
    unfinished.write_text(json.dumps({"files": dict(sorted(files.items()))}, indent=1) + "\n")
    unfinished.rename(checkpoint / _MANIFEST)
