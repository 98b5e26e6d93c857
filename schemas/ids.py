"""Derived ids: the same input gives the same id on every machine and in every run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final

from schemas.events import SOURCES
from schemas.snapshot import Candidate, SnapshotKind

# Copying a digest takes half of the time of making one.
_EMPTY: Final = blake2b(digest_size=16)
_OF_SOURCE: Final = tuple(blake2b(b"%d:" % source_index, digest_size=8) for source_index in range(len(SOURCES)))


def _digest(*parts: object) -> str:
    digest = _EMPTY.copy()
    digest.update("\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def question_id(
    customer_id: str,
    kind: SnapshotKind,
    as_of_ms: int,
    source: tuple[str, int, int],
    applied: Mapping[str, int],
    events: int,
    consent: tuple[str, ...] | None,
    candidate: Candidate | None,
) -> str:
    """Id of a snapshot, derived from what it contains, so that one that is made again after a crash has it again.

    The number of events is part of it, because an erasure takes some without moving anything else; and consent, because
    an opt-out that comes late changes nothing else: what corrects a decision must not pass for a repetition of it.
    """
    about = () if candidate is None else (candidate.campaign_id, candidate.offer_id, candidate.template_id)
    return _digest(
        customer_id,
        kind,
        as_of_ms,
        *source,
        *sorted(applied.items()),
        events,
        *(() if consent is None else ("consent", *consent)),
        *about,
    )


def prediction_id(head: str, question: str, model_version: str) -> str:
    """Id of what a model's ``head`` says about a snapshot: two models say two things about one question."""
    return _digest(head, question, model_version)


def event_uid(source_index: int, event_id: str) -> int:
    """64 bits of an event's id within its topic, for the bounded set of recent ids."""
    digest = _OF_SOURCE[source_index].copy()
    digest.update(event_id.encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest.digest(), "little")


def refused_id(topic: str, partition: int, offset: int) -> str:
    """Id of a dead letter: its origin."""
    return f"{topic}-{partition}-{offset}"


def revocation_id(customer_id: str, source: tuple[str, int, int]) -> str:
    """Id of what a record revokes."""
    return _digest("revocation", customer_id, *source)


def receipt_id(customer_id: str, erased_ms: int) -> str:
    return _digest("erasure", customer_id, erased_ms)


def audience_id(name: str, like: str, seed: Sequence[str], size: int, model_version: str, read: Sequence[int]) -> str:
    """Id of a list of customers.

    Args:
        seed: sorted.
        read: offset up to which each partition of the embeddings was read.
    """
    return _digest("audience", name, like, len(seed), *seed, size, model_version, *read)


def member_id(audience_id: str, customer_id: str) -> str:
    return _digest("member", audience_id, customer_id)
