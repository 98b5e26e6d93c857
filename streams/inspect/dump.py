"""The canonical form of state: one line of JSON per customer and entity, the same bytes wherever it was read.

Lines are sorted by role and id. A line names every field, with keys sorted and bytes as base64; ``digest`` is of the
stored record and its pieces, so that equal lines mean equal bytes even where JSON rounds or reorders. Before the
records come the positions: how far each partition's source topics are in the state. Where ``entities`` stand in
``graph-edges`` is left out, since edges that are emitted again after a crash move it and change nothing. Tombstones,
which remember an erasure until nothing can be replayed, are left out too: they are dropped a checkpoint earlier or
later.
"""

from __future__ import annotations

import contextlib
import heapq
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from schemas.errors import ConfigError, StateCorrupt
from schemas.events import SOURCES
from schemas.topics import changelog_of
from streams.agents.registry import STATEFUL
from streams.core.customer import CustomerRecord
from streams.core.durable import PartitionMeta
from streams.core.entities import Entity, decode_entity
from streams.kafka.reader import TopicReader
from streams.state import keys
from streams.state.checkpoints import read_meta
from streams.state.contract import KeyValue
from streams.state.restore import restore
from streams.state.rocks import RocksStore, shared_memory

_ROLES: Final = sorted(STATEFUL)
_BLOCK_CACHE_BYTES: Final = 64 << 20

_read: Final[dict[str, Callable[[bytes], msgspec.Struct]]] = {
    role: decode_entity if stored.record is Entity else msgspec.msgpack.Decoder(stored.record).decode
    for role, stored in STATEFUL.items()
}
_read_piece: Final = {role: stored.piece_decoders() for role, stored in STATEFUL.items()}
_read_meta: Final = msgspec.msgpack.Decoder(PartitionMeta).decode
_encode: Final = msgspec.json.Encoder(order="sorted").encode


class Part(NamedTuple):
    """The store of one partition of a role."""

    role: str
    partition: int
    store: KeyValue


def lines(parts: Iterable[Part]) -> Iterator[bytes]:
    """The canonical form, line by line, without line ends. Memory does not grow with the customers."""
    known = sorted(parts, key=lambda part: (part.role, part.partition))
    for part in known:
        of_sources = STATEFUL[part.role].meta is PartitionMeta
        if of_sources and (raw := read_meta(part.store).partition) is not None:
            yield _encode({"partition": part.partition, "role": part.role} | _positions(raw))
    stores = {part[:2]: part.store for part in known}
    for role in _ROLES:
        scans = [_records(part) for part in known if part.role == role]
        for identity, partition, record in heapq.merge(*scans):
            readable = _readable(role, record)
            if readable is not None:
                digest = blake2b(record, digest_size=16)
                pieces: dict[str, Any] = {}
                for name, value in _pieces(stores[role, partition], identity.decode()):
                    digest.update(name + value)
                    pieces[name.hex()] = canonical(_read_piece[role][name[:1]](value))
                line = {"role": role, "id": identity.decode(), "partition": partition, "digest": digest.hexdigest()}
                yield _encode(line | {"state": readable} | ({"pieces": pieces} if pieces else {}))


@contextlib.contextmanager
def opened_folders(folders: Sequence[Path]) -> Iterator[list[Part]]:
    """The stores in state folders of stopped workers; of a partition that several hold, the newest.

    Raises:
        ConfigError: a folder is no state folder, or a running worker holds it.
    """
    newest: dict[tuple[str, int], Part] = {}
    cache = shared_memory(_BLOCK_CACHE_BYTES)
    opened: list[KeyValue] = []
    try:
        for folder in folders:
            found = [(role, path) for role in _ROLES for path in sorted((folder / role).glob("p[0-9]*[0-9]"))]
            if not found:
                raise ConfigError(f"{folder} holds no state of {' or '.join(_ROLES)}: give a worker's --state-dir")
            for role, path in found:
                part = Part(role, int(path.name[1:]), RocksStore(path, cache))
                opened.append(part.store)
                other = newest.get(part[:2])
                if other is None or _reached(part) > _reached(other):
                    newest[part[:2]] = part
        yield list(newest.values())
    finally:
        for store in opened:
            store.close()


@contextlib.contextmanager
def opened_changelogs(client: Mapping[str, Any], prefix: str) -> Iterator[list[Part]]:
    """The same, read from the changelog topics into a temporary folder.

    Raises:
        TopicMismatch: there are no such topics.
        DeliveryFailed: the broker does not answer.
    """
    cache = shared_memory(_BLOCK_CACHE_BYTES)
    parts: list[Part] = []
    with tempfile.TemporaryDirectory(prefix="pulsegraph-dump-") as scratch, contextlib.ExitStack() as closing:
        with TopicReader(client) as reader:
            counts = {role: reader.partitions(prefix + changelog_of(role)) for role in _ROLES}
        for role in _ROLES:
            for partition in range(counts[role]):
                store = RocksStore(Path(scratch) / f"{role}-{partition}", cache)
                closing.callback(store.close)
                restore(store, client, prefix + changelog_of(role), partition, _never_due)
                parts.append(Part(role, partition, store))
        yield parts


def _never_due(record: bytes) -> int:
    return -1


def _reached(part: Part) -> int:
    return read_meta(part.store).changelog_offset


def _records(part: Part) -> Iterator[tuple[bytes, int, bytes]]:
    for key, record in part.store.scan(keys.RECORD, keys.RECORDS_STOP):
        yield key[len(keys.RECORD) :], part.partition, record


def _pieces(store: KeyValue, identity: str) -> Iterator[tuple[bytes, bytes]]:
    for key, value in store.scan(*keys.all_pieces(identity)):
        yield keys.parse_piece(key)[1], value


def _positions(raw: bytes) -> dict[str, Any]:
    meta = _read_meta(raw)
    return {
        "next_offsets": dict(zip(SOURCES, meta.next_offsets, strict=True)),
        "newest_ms": dict(zip(SOURCES, meta.newest_ms, strict=True)),
        "watermark_ms": meta.watermark_ms,
    }


def _readable(role: str, record: bytes) -> Any:
    """The record with names; None for a tombstone."""
    try:
        known = _read[role](record)
    except msgspec.DecodeError as error:
        raise StateCorrupt(f"a stored record of {role} cannot be read: {error}") from error
    if isinstance(known, CustomerRecord) and known.is_tombstone:
        return None
    return canonical(known)


def canonical(value: Any) -> Any:
    """JSON values of a stored record: structs by field name, bytes as base64."""
    match value:
        case msgspec.Raw():
            return canonical(msgspec.msgpack.decode(value))
        case msgspec.Struct():
            return {name: canonical(getattr(value, name)) for name in value.__struct_fields__}
        case Mapping():
            return {str(canonical(key)): canonical(inner) for key, inner in value.items()}
        case list() | tuple():
            return [canonical(inner) for inner in value]
        case bytes():
            return b64encode(value).decode()
        case _:
            return value
