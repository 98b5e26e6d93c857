"""The local stores of one role on disk, a folder for each partition."""

from __future__ import annotations

import shutil
from pathlib import Path

from streams.state.contract import KeyValue
from streams.state.rocks import Memory, RocksStore


class RocksStores:
    """RocksDB in ``folder/p00000``, ``folder/p00001``, ...

    Args:
        memory: shared by all stores of the process.
    """

    def __init__(self, folder: Path, memory: Memory) -> None:
        self._folder = folder
        self._memory = memory

    def open(self, partition: int) -> KeyValue:
        return RocksStore(self._path(partition), self._memory)

    def quarantine(self, partition: int) -> Path:
        """The newest one quarantined is kept, older ones go."""
        path = self._path(partition)
        aside = path.with_name(path.name + ".quarantine")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        return aside

    def _path(self, partition: int) -> Path:
        return self._folder / f"p{partition:05d}"
