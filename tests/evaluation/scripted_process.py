"""What stands for vLLM in a replica's process: it answers by the seed. Imports little, since each process does so."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from multi_attempt.evaluation.engines import Continue, EngineLost, Generated, InProcess, Partner, Vocabulary
from multi_attempt.evaluation.replicas import VISIBLE
from multi_attempt.model_settings import DialogueSettings

_END = 258  # the toy tokenizer's <|im_end|>


@dataclass(frozen=True)
class ScriptedProcess(InProcess):
    """Notes what it is asked.

    Attributes:
        folder: where each process has a file of its GPUs and of what it was asked.
        vocabulary: the folder of the tokenizer.
        dies: the GPUs on which it is killed when it is asked.
        starts: whether it does.
    """

    folder: str = ""
    vocabulary: str = ""
    dies: str = ""
    starts: bool = True

    def prepare(self, model: str, dialogue: DialogueSettings) -> Partner:
        return Partner(model, dialogue, Vocabulary(self.vocabulary, dialogue), context=1024)

    @contextmanager
    def started(self, model: str, context: int, end_ids: Collection[int]) -> Iterator[Continue]:
        gpus = os.environ.get(VISIBLE, "")
        if not self.starts:
            raise EngineLost(f"no memory for {context} tokens")

        async def continue_(ids: list[int], limit: int, temperature: float, seed: int) -> Generated:
            with (Path(self.folder) / str(os.getpid())).open("a") as notes:
                notes.write(json.dumps([gpus, bytes(id for id in ids if id < 256).decode()]) + "\n")
            if self.dies and gpus == self.dies:
                os.kill(os.getpid(), signal.SIGKILL)
            return Generated([*rf"\boxed{{{seed % 6}}}".encode(), _END], truncated=False)

        yield continue_


def notes(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """By process, its GPUs and what it was asked."""
    return {file.name: [tuple(json.loads(line)) for line in file.open()] for file in folder.iterdir()}
