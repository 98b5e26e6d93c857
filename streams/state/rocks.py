"""RocksDB behind the :class:`streams.state.contract.KeyValue` contract."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options, Rdict, ReadOptions
from rocksdict import WriteBatch as RocksBatch

from schemas.errors import ConfigError, StateCorrupt
from streams.state.contract import WriteBatch

_BLOCK_BYTES = 16 * 1024
_WRITE_BUFFER_BYTES = 32 * 1024 * 1024
_BLOOM_BITS_PER_KEY = 10


def block_cache(budget_bytes: int) -> Cache:
    """One block cache for all partitions of a process: a bound per process, not per partition."""
    return Cache(budget_bytes)


class RocksStore:
    """One database folder, held exclusively until :meth:`close`.

    Args:
        path: folder, created where absent.
        cache: see :func:`block_cache`.

    Raises:
        ConfigError: another process holds the folder, or it cannot be created.
        StateCorrupt: RocksDB cannot read it.
    """

    def __init__(self, path: Path, cache: Cache) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._db: Rdict | None = Rdict(str(path), _options(cache))
        except OSError as error:
            raise ConfigError(f"the state folder {path} cannot be used: {error}") from error
        except Exception as error:  # rocksdict raises bare exceptions: their text is all there is
            if "lock" in str(error).lower():
                raise ConfigError(
                    f"the state folder {path} is in use by another worker: give this one its own"
                ) from error
            raise StateCorrupt(f"RocksDB cannot open {path}: {error}") from error

    @property
    def _open(self) -> Rdict:
        if self._db is None:
            raise StateCorrupt(f"the store {self.path} is closed")
        return self._db

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._open.get(key)
        return value

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        values = self._open.get(list(keys))
        return list(values) if values is not None else []

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        options = ReadOptions()
        options.set_iterate_upper_bound(stop)
        cursor = self._open.iter(options)
        cursor.seek(start)
        while cursor.valid():
            yield cursor.key(), cursor.value()
            cursor.next()
        cursor.status()

    def write(self, batch: WriteBatch) -> None:
        together = RocksBatch(raw_mode=True)
        for key, value in batch.operations.items():
            if value is None:
                together.delete(key)
            else:
                together.put(key, value)
        self._open.write(together)

    def size_bytes(self) -> int:
        tables = self._open.property_int_value("rocksdb.total-sst-files-size") or 0
        memory = self._open.property_int_value("rocksdb.cur-size-all-mem-tables") or 0
        return int(tables) + int(memory)

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


def _options(cache: Cache) -> Options:
    table = BlockBasedOptions()
    table.set_block_cache(cache)
    table.set_block_size(_BLOCK_BYTES)
    table.set_bloom_filter(_BLOOM_BITS_PER_KEY, False)
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(table)
    options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(3)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_level_compaction_dynamic_level_bytes(True)
    options.set_max_background_jobs(2)
    options.set_keep_log_file_num(2)
    options.set_max_open_files(256)
    return options
