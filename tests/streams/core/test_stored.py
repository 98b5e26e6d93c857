"""Every kind of stored record is refused alike: what cannot be read, and what another version wrote."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
import pytest
from support.logs import CONFIG, START_MS, Sent, Worker, log_of

from schemas.errors import StateCorrupt
from schemas.events import PROFILES
from schemas.words import Words
from streams.core.config import DAY_MS
from streams.core.context import Context
from streams.core.customer import RECORD_VERSION, Customer, due_of
from streams.core.durable import PartitionMeta
from streams.core.entities import Entities, Entity, decode_entity, encode_entity
from streams.core.state import Folded
from streams.state import keys
from streams.state.checkpoints import LocalMeta, StoredRecords, read_meta
from streams.state.contract import WriteBatch
from streams.state.memory import MemoryStore

CONTEXT: Final = Context(CONFIG, Words(), 0, "c1")


def read_customer(raw: bytes) -> Customer:
    return Customer.decode(CONTEXT, raw)


def read_entities_meta(raw: bytes) -> Entities:
    return Entities(0, StoredRecords(MemoryStore()), raw)


def read_local_meta(raw: bytes) -> LocalMeta:
    store, batch = MemoryStore(), WriteBatch()
    batch.put(keys.META, raw)
    store.write(batch)
    return read_meta(store)


UNREADABLE: Final[dict[Callable[[bytes], Any], str]] = {
    read_customer: "the stored state of a customer cannot be read: ",
    due_of: "the stored state of a customer cannot be read: ",
    decode_entity: "the stored state of an entity cannot be read: ",
    PartitionMeta.decode: "the stored meta record of a partition cannot be read: ",
    read_entities_meta: "the stored meta record of a partition of entities cannot be read: ",
    read_local_meta: "the store's meta record cannot be read: ",
}
VERSIONED: Final[dict[Callable[[bytes], Any], tuple[bytes, str]]] = {
    read_customer: (
        Customer(CONTEXT).encode().record,
        "stored state has version 7, this worker knows 6: run the newer release",
    ),
    decode_entity: (encode_entity(Entity()), "stored entity has version 7, this worker knows 2"),
    PartitionMeta.decode: (PartitionMeta().encode(), "the store has version 7, this worker knows 3"),
    read_local_meta: (msgspec.msgpack.encode(LocalMeta(1, 5, None)), "the store has version 7, this worker knows 1"),
}


@pytest.mark.parametrize(("read", "message"), UNREADABLE.items())
@pytest.mark.parametrize("raw", [b"", b"\xc1", b"\x93\x01", b"\xa3abc"])
def test_what_cannot_be_read_is_refused(read: Callable[[bytes], Any], message: str, raw: bytes) -> None:
    with pytest.raises(StateCorrupt) as refused:
        read(raw)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(("read", "raw", "message"), [(read, *known) for read, known in VERSIONED.items()])
def test_another_version_is_refused(read: Callable[[bytes], Any], raw: bytes, message: str) -> None:
    read(raw)
    with pytest.raises(StateCorrupt) as refused:
        read(msgspec.msgpack.encode([7, *msgspec.msgpack.decode(raw)[1:]]))
    assert str(refused.value) == message


def test_a_record_of_an_older_version_is_refused_by_its_version_whatever_its_fields() -> None:
    """Version 1 had a text where version 2 has a map of orders."""
    fields = msgspec.msgpack.decode(Customer(CONTEXT).encode().record)
    settled = fields[-1]
    at = next(place for place, field in enumerate(Folded.__struct_fields__) if field == "orders")
    raw = msgspec.msgpack.encode([1, *fields[1:-1], [*settled[:at], "order-7", *settled[at + 1 :]]])
    with pytest.raises(StateCorrupt) as refused:
        read_customer(raw)
    assert str(refused.value) == (
        "stored state has version 1, this worker knows 6: no release reads it any more, so replay the events under "
        "another PULSEGRAPH_KAFKA_PREFIX"
    )


@pytest.mark.parametrize(("version", "lacks"), [(5, 1), (4, 2)])
def test_a_customer_of_a_version_before_is_read_and_written_as_the_newest(version: int, lacks: int) -> None:
    worker = Worker()
    body = {"event_ts_ms": START_MS, "event_id": "p", "consent": {"email": {"marketing": True}}, "attributes": {"a": 1}}
    worker.take(PROFILES, log_of([Sent(PROFILES, "c1", START_MS, body)], until_ms=START_MS + DAY_MS)[PROFILES])
    known = worker.ingest.customer("c1")
    assert known is not None
    known.advance(START_MS + DAY_MS, observed=False)
    written = msgspec.msgpack.decode(known.encode().record)
    assert written[0] == RECORD_VERSION
    before = [version, *written[1:-1], written[-1][:-lacks]]
    read = Customer.decode(known.context, msgspec.msgpack.encode(before))
    assert read.settled.profile_ms == START_MS
    assert read.encode().record == known.encode().record
