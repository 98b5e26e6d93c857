"""Derived ids: the same input gives the same id on every machine and in every run."""

from __future__ import annotations

from hashlib import blake2b

from schemas.snapshot import Snapshot


def _digest(*parts: object) -> str:
    return blake2b("\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def prediction_id(head: str, snapshot: Snapshot, subject: str = "") -> str:
    """Id of what ``head`` says about ``snapshot``; ``subject`` is the campaign of a redemption.

    Derived from what the snapshot contains (customer, kind, time, source and applied offsets, consent), so that a
    snapshot that is emitted again after a crash gives the same record again. Consent, because an opt-out that comes
    late changes nothing else: what corrects a decision must not pass for a repetition of it.
    """
    return _digest(
        head,
        subject,
        snapshot.customer_id,
        snapshot.kind,
        snapshot.as_of_ms,
        *snapshot.source,
        *sorted(snapshot.applied.items()),
        *(() if snapshot.consent is None else ("consent", *snapshot.consent)),
    )


def event_uid(source_index: int, event_id: str) -> int:
    """64 bits of an event's id within its topic, for the bounded set of recent ids."""
    name = f"{source_index}:{event_id}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "little")


def refused_id(topic: str, partition: int, offset: int) -> str:
    """Id of a dead letter: its origin."""
    return f"{topic}-{partition}-{offset}"


def receipt_id(customer_id: str, erased_ms: int) -> str:
    return _digest("erasure", customer_id, erased_ms)
