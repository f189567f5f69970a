"""Rows of a dataset on the Hugging Face hub, at one revision."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tqdm import tqdm

from multi_attempt.data.files import RawRow
from multi_attempt.data.sources import Source


@dataclass(frozen=True)
class HubDataset:
    """The dataset of a source on the hub.

    Attributes:
        source: what is read, and of which dataset.
        revision: the revision asked for; None for the newest.
        refresh: whether to ask the hub for the newest even where an earlier run has read it.
    """

    source: Source
    revision: str | None = None
    refresh: bool = False

    def origin(self) -> dict[str, str | None]:
        """What the manifest says of it: the dataset, the revision asked for, and the one that this is."""
        return {"hub": self.source.hub, "asked": self.revision, "revision": self._commit}

    def matches(self, recorded: dict[str, Any]) -> bool:
        """Whether the origin of an earlier run is this; the hub is asked only to refresh."""
        if recorded.get("hub") != self.source.hub:
            return False
        if self.refresh:
            return recorded.get("revision") == self._commit
        return self.revision in (recorded.get("asked"), recorded.get("revision"))

    def read(self) -> list[RawRow]:
        """All rows of all configs and splits.

        Raises:
            ValueError: the hub has no such dataset, or cannot be reached.
        """
        return [
            row
            for config in self.source.configs or (None,)
            for split in self.source.splits
            for row in self._read_split(config, split)
        ]

    def _read_split(self, config: str | None, split: str) -> list[RawRow]:
        from datasets import load_dataset  # seconds to import

        revision = self._commit
        try:
            loaded = load_dataset(self.source.hub, config, split=split, revision=revision)
        except Exception as error:
            raise self._unreachable(error) from error
        part = f"{config}/{split}" if config else split
        place = f"{self.source.hub} {part}"
        rows = tqdm(loaded, desc=f"Reading {place}", unit="row")
        return [RawRow(dict(fields), line, f"{place}, row {line}", part) for line, fields in enumerate(rows, start=1)]

    @cached_property
    def _commit(self) -> str:
        from huggingface_hub import HfApi

        try:
            return str(HfApi().dataset_info(self.source.hub, revision=self.revision).sha)
        except Exception as error:  # HTTP clients and the hub's own code have errors of no common class
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> ValueError:
        asked = f" at --revision {self.revision}" if self.revision else ""
        return ValueError(
            f"{self.source.name}: {self.source.hub}{asked} could not be loaded from the Hugging Face hub "
            f"({type(error).__name__}: {error}); where there is no network, give its rows as a file: "
            f"--from {self.source.name}=FILE"
        )
