"""Layout of a partition's store. Keys sort as bytes the way they are read.

======================  ===========================================================
``c`` + id              the customer's (or entity's) record
``t`` + due + id        empty; due time in ms as 8 bytes big-endian, so timers sort by it
``m``                   what is known about the whole partition, see :mod:`streams.state.checkpoints`
``o``                   in the changelog only: a claim, see :mod:`streams.state.ownership`
======================  ===========================================================
"""

from __future__ import annotations

from typing import Final

RECORD: Final = b"c"
TIMER: Final = b"t"
META: Final = b"m"
CLAIM: Final = b"o"
RECORDS_STOP: Final = b"d"

_DUE_BYTES: Final = 8


def record(identity: str) -> bytes:
    return RECORD + identity.encode()


def timer(due_ms: int, identity: str) -> bytes:
    return timer_at(due_ms) + identity.encode()


def timer_at(due_ms: int) -> bytes:
    """Smallest key of all timers due at or after a time."""
    return TIMER + due_ms.to_bytes(_DUE_BYTES, "big")


def parse_timer(key: bytes) -> tuple[int, str]:
    """(due ms, id) of a timer's key."""
    return int.from_bytes(key[1 : 1 + _DUE_BYTES], "big"), key[1 + _DUE_BYTES :].decode()
