"""A customer's snapshot with nothing in it but what a test says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from support.logs import START_MS

from schemas.graph import EDGE_INDEX
from schemas.snapshot import EDGE, EdgeBlock, Recent, Snapshot, age_code
from schemas.words import HASH_BYTES, Words, hash_of
from streams.core.config import DAY_MS

_WORDS_OF = Words().of_kind

_PLAIN = Snapshot(
    question_id="0" * 32,
    customer_id="c1",
    kind="event",
    as_of_ms=START_MS,
    source=("clickstream", 0, 0),
    applied={"clickstream": 0},
    event_ts_ms=START_MS,
    ingest_ts_ms=START_MS,
    features=b"",
    recent=Recent(),
    history=b"",
    edges=(),
    edge_half_life_ms=28 * DAY_MS,
    consent=None,
    sends=(),
    holdout=False,
)


def plain_snapshot(**said: Any) -> Snapshot:
    """A live snapshot of customer ``c1`` at ``START_MS``, of whom no profile was seen."""
    made: Snapshot = msgspec.structs.replace(_PLAIN, **said)
    return made


def hashes(*words: str) -> bytes:
    """The column of some words."""
    return b"".join(map(hash_of, words))


def recent(events: Iterable[tuple[int, bytes]]) -> Recent:
    """Events as (ms, hashes of words), oldest first."""
    told = list(events)
    return Recent(
        at_s=b"".join((at_ms // 1000).to_bytes(4, "little") for at_ms, _ in told),
        lengths=bytes(len(words) // HASH_BYTES for _, words in told),
        words=b"".join(words for _, words in told),
    )


def edge_block(as_of_ms: int, edges: Mapping[str, Mapping[str, float]], *, often: bool = False) -> EdgeBlock:
    """Edges by type, as entity -> weight; each was drawn once, now, or as ``often`` as it weighs."""
    return EdgeBlock(
        as_of_ms,
        {
            EDGE_INDEX[edge_type]: b"".join(
                EDGE.pack(
                    _WORDS_OF[edge_type.partition(">")[2]][entity], weight, int(weight) if often else 1, age_code(0)
                )
                for entity, weight in of_type.items()
            )
            for edge_type, of_type in edges.items()
        },
    )
