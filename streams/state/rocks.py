"""RocksDB behind the :class:`streams.state.contract.KeyValue` contract."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    Rdict,
    RdictIter,
    ReadOptions,
    WriteBufferManager,
)
from rocksdict import WriteBatch as RocksBatch

from schemas.errors import ConfigError, DiskFailed, PulsegraphError, StateCorrupt
from streams.state.contract import WriteBatch

_BLOCK_BYTES = 4 * 1024  # a read of one cold customer unpacks a whole block
_WRITE_BUFFER_BYTES = 32 * 1024 * 1024
_BLOOM_BITS_PER_KEY = 10
#: What a worker gives all its databases together.
WORKER_BYTES: Final = 128 << 20
_CORRUPT: Final = "FOUND-CORRUPT"
_LOCKED: Final = re.compile(r"lock hold by current process|Resource temporarily unavailable")
_DISK: Final = re.compile(r"^IO error|\(os error \d+\)")
_LOST: Final = re.compile(r"No such file or directory")

logger: Final = logging.getLogger(__name__)


class Memory(NamedTuple):
    """What all databases of a process share: a bound per process, not per partition."""

    blocks: Cache
    buffers: WriteBufferManager


def shared_memory(budget_bytes: int) -> Memory:
    """A block cache of so many bytes; writes that are not in a file yet take at most half of it."""
    blocks = Cache(budget_bytes)
    return Memory(
        blocks,
        WriteBufferManager.new_write_buffer_manager_with_cache(budget_bytes // 2, allow_stall=False, cache=blocks),
    )


class RocksStore:
    """One database folder, held exclusively until :meth:`close`.

    Args:
        path: folder, created where absent.
        memory: see :func:`shared_memory`.

    Raises:
        ConfigError: another process holds the folder.
        DiskFailed: the disk is full, read-only or broken. Every method but ``close`` may raise it too.
        StateCorrupt: what is in the folder cannot be trusted. Once a read said so, the folder stays refused.
    """

    def __init__(self, path: Path, memory: Memory) -> None:
        self.path = path
        self._db: Rdict | None = None
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DiskFailed(f"the state folder {path} cannot be created: {error.strerror}") from error
        if (path / _CORRUPT).exists():
            raise StateCorrupt(f"{path} was found corrupt while it was in use")
        with self._mapped("opened"):
            self._db = Rdict(str(path), _options(memory))

    @property
    def _open(self) -> Rdict:
        if self._db is None:
            raise StateCorrupt(f"the store {self.path} is closed")
        return self._db

    def get(self, key: bytes) -> bytes | None:
        with self._mapped("read"):
            value: bytes | None = self._open.get(key)
            return value

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._mapped("read"):
            values = self._open.get(list(keys))
            return list(values) if values is not None else []

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        options = ReadOptions()
        options.set_iterate_upper_bound(stop)
        with self._mapped("read"):
            cursor = self._open.iter(options)
            cursor.seek(start)
        return self._pairs(cursor, options)

    def _pairs(self, cursor: RdictIter, _alive: ReadOptions) -> Iterator[tuple[bytes, bytes]]:
        # The upper bound lives in the options, and the iterator does not hold them.
        while cursor.valid():
            yield cursor.key(), cursor.value()
            cursor.next()
        with self._mapped("read"):
            cursor.status()

    def write(self, batch: WriteBatch) -> None:
        together = RocksBatch(raw_mode=True)
        for key, value in batch.operations.items():
            if value is None:
                together.delete(key)
            else:
                together.put(key, value)
        with self._mapped("written"):
            self._open.write(together)

    def size_bytes(self) -> int:
        tables = self._open.property_int_value("rocksdb.total-sst-files-size") or 0
        memory = self._open.property_int_value("rocksdb.cur-size-all-mem-tables") or 0
        return int(tables) + int(memory)

    def close(self) -> None:
        if self._db is not None:
            database, self._db = self._db, None
            try:
                database.close()
            except Exception as error:  # noqa: BLE001 - see _mapped; the lock is gone all the same
                logger.warning("closing %s: %s", self.path, error)

    @contextmanager
    def _mapped(self, done: str) -> Iterator[None]:
        """RocksDB's complaints as errors of ours. rocksdict raises bare exceptions: their text is all there is."""
        try:
            yield
        except PulsegraphError:
            raise
        except Exception as error:
            text = str(error)
            if _LOCKED.search(text):
                raise ConfigError(
                    f"the state folder {self.path} is in use by another worker: give this one its own"
                ) from error
            if _DISK.search(text) and not _LOST.search(text):
                raise DiskFailed(
                    f"the state folder {self.path} cannot be {done}: {text}. Nothing is lost: free the disk, or give "
                    "another --state-dir, and start the worker again"
                ) from error
            if done != "opened":
                # Opening would succeed and the same read fail again: the next start has to know.
                with suppress(OSError):
                    (self.path / _CORRUPT).touch()
            raise StateCorrupt(f"{self.path} cannot be {done}: {text}") from error


def _options(memory: Memory) -> Options:
    table = BlockBasedOptions()
    table.set_block_cache(memory.blocks)
    table.set_block_size(_BLOCK_BYTES)
    table.set_bloom_filter(_BLOOM_BITS_PER_KEY, False)
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(table)
    options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
    options.set_write_buffer_manager(memory.buffers)
    options.set_max_write_buffer_number(3)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_level_compaction_dynamic_level_bytes(True)
    options.set_max_background_jobs(2)
    options.set_keep_log_file_num(2)
    options.set_max_open_files(256)
    return options
