"""What one checkpoint writes, and how a partition is read back.

The same bytes go to the changelog (keyed like the store) and to the local database. Timers are derived
from the records, so they are not in the changelog and are rebuilt on restore.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, Protocol

import msgspec

from streams.core import stored
from streams.core.durable import Piece, RecordChange
from streams.state import keys
from streams.state.contract import KeyValue, WriteBatch

LOCAL_VERSION: Final = 1


class StateCheckpoint(Protocol):
    """What every role's checkpoint has."""

    @property
    def changes(self) -> list[RecordChange]: ...

    @property
    def pieces(self) -> Sequence[Piece]: ...

    @property
    def meta(self) -> bytes: ...

    @property
    def next_offsets(self) -> dict[str, int]: ...

    @property
    def is_news(self) -> bool: ...


class LocalMeta(msgspec.Struct, array_like=True):
    """The store's own record under :data:`keys.META`: the partition's meta, and how far the changelog is in it."""

    version: int
    changelog_offset: int
    """Next changelog offset to read; -1 where nothing of it is known."""
    partition: bytes | None
    """The encoded meta of the role, None before its first checkpoint."""
    fencing_token: int = 0
    """Highest fencing token of an owner up to there, see :mod:`streams.state.ownership`."""
    written_ms: int = 0
    """Wall clock of the last write: a store that rested for long may have missed deletions."""


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(LocalMeta).decode


class StoredRecords:
    """The :class:`streams.core.durable.Records` of one partition's store."""

    def __init__(self, store: KeyValue) -> None:
        self._store = store

    def load(self, identities: Sequence[str]) -> list[bytes | None]:
        return self._store.multi_get([keys.record(identity) for identity in identities])

    def due(self, from_ms: int, until_ms: int, limit: int) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        if until_ms < from_ms:
            return found
        for key, _ in self._store.scan(keys.timer_at(from_ms), keys.timer_at(until_ms + 1)):
            timer = keys.parse_timer(key)
            if len(found) >= limit and timer[0] != found[-1][0]:
                break
            found.append(timer)
        return found

    def scan(self, after: str, limit: int) -> list[tuple[str, bytes]]:
        start = keys.record(after) + b"\0" if after else keys.RECORD
        pairs = islice(self._store.scan(start, keys.RECORDS_STOP), limit)
        return [(key[len(keys.RECORD) :].decode(), record) for key, record in pairs]

    def pieces(self, identity: str, kind: bytes) -> list[bytes]:
        return [value for _, value in self._store.scan(*keys.pieces(identity, kind))]

    def load_pieces(self, wanted: Sequence[tuple[str, bytes]]) -> list[bytes | None]:
        return self._store.multi_get([keys.piece(identity, name) for identity, name in wanted])


def read_meta(store: KeyValue) -> LocalMeta:
    """The store's own record; a fresh one for an empty store.

    Raises:
        StateCorrupt: it cannot be read, or another version wrote it.
    """
    raw = store.get(keys.META)
    if raw is None:
        return LocalMeta(LOCAL_VERSION, -1, None)
    return stored.read_version(_decode, raw, LOCAL_VERSION, "the store's meta record", written_as="the store")


def changelog_records(checkpoint: StateCheckpoint) -> Iterator[tuple[bytes, bytes | None]]:
    """Key and value of each changelog record of a checkpoint; the meta record ends it."""
    yield from changed_records(checkpoint)
    yield keys.META, checkpoint.meta


def changed_records(checkpoint: StateCheckpoint) -> Iterator[tuple[bytes, bytes | None]]:
    """The same without the record that ends it."""
    for change in checkpoint.changes:
        yield keys.record(change.identity), change.record
    for piece in checkpoint.pieces:
        yield keys.piece(piece.identity, piece.name), piece.value


def local_batch(
    checkpoint: StateCheckpoint, changelog_offset: int, fencing_token: int = 0, written_ms: int = 0
) -> WriteBatch:
    """The same checkpoint for the local store, with the changelog offset reached, the
    owner's fencing token and the wall clock."""
    batch = WriteBatch()
    for change in checkpoint.changes:
        _put_change(batch, change)
    for piece in checkpoint.pieces:
        _put_or_delete(batch, keys.piece(piece.identity, piece.name), piece.value)
    batch.put(
        keys.META, _encode(LocalMeta(LOCAL_VERSION, changelog_offset, checkpoint.meta, fencing_token, written_ms))
    )
    return batch


def restore_batch(
    store: KeyValue,
    records: Iterable[tuple[bytes, bytes | None]],
    changelog_offset: int,
    due_ms: Callable[[bytes], int],
    fencing_token: int,
    written_ms: int = 0,
) -> WriteBatch:
    """Changelog records read back, with the timers they imply; later records win."""
    newest = dict(records)
    meta = newest.pop(keys.META, None)
    known = read_meta(store)
    batch = WriteBatch()
    records_of = [key for key in newest if key.startswith(keys.RECORD)]
    for key, old in zip(records_of, store.multi_get(records_of), strict=True):
        new = newest.pop(key)
        identity = key[1:].decode()
        old_due_ms = due_ms(old) if old is not None else -1
        _put_change(batch, RecordChange(identity, new, old_due_ms, due_ms(new) if new is not None else -1))
    for key, value in newest.items():
        _put_or_delete(batch, key, value)
    batch.put(
        keys.META,
        _encode(LocalMeta(LOCAL_VERSION, changelog_offset, meta or known.partition, fencing_token, written_ms)),
    )
    return batch


def _put_change(batch: WriteBatch, change: RecordChange) -> None:
    _put_or_delete(batch, keys.record(change.identity), change.record)
    if change.old_due_ms != change.new_due_ms:
        if change.old_due_ms >= 0:
            batch.delete(keys.timer(change.old_due_ms, change.identity))
        if change.new_due_ms >= 0:
            batch.put(keys.timer(change.new_due_ms, change.identity), b"")


def _put_or_delete(batch: WriteBatch, key: bytes, value: bytes | None) -> None:
    if value is None:
        batch.delete(key)
    else:
        batch.put(key, value)
