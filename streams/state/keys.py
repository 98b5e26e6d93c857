"""Layout of a partition's store. Keys sort as bytes the way they are read.

======================  ===========================================================
``c`` + id              the customer's (or entity's) record
``p`` + id + name       a piece of it, see :class:`streams.core.durable.Piece`; the id's length comes before it, 2 bytes
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
PIECE: Final = b"p"

_DUE_BYTES: Final = 8


def record(identity: str) -> bytes:
    return RECORD + identity.encode()


def piece(identity: str, name: bytes) -> bytes:
    raw = identity.encode()
    return PIECE + len(raw).to_bytes(2, "big") + raw + name


def pieces(identity: str, kind: bytes) -> tuple[bytes, bytes]:
    """Bounds of the keys of all pieces whose name begins with ``kind``, one byte."""
    return piece(identity, kind), piece(identity, bytes([kind[0] + 1]))


def all_pieces(identity: str) -> tuple[bytes, bytes]:
    """Bounds of the keys of all pieces: names are ASCII at their beginning."""
    return piece(identity, b""), piece(identity, b"\xff")


def parse_piece(key: bytes) -> tuple[str, bytes]:
    """(id, name) of a piece's key."""
    end = 3 + int.from_bytes(key[1:3], "big")
    return key[3:end].decode(), key[end:]


def identity(key: bytes) -> str | None:
    """Whose record or piece a key leads to; None for any other key."""
    if key[:1] == RECORD:
        return key[1:].decode()
    return parse_piece(key)[0] if key[:1] == PIECE else None


def timer(due_ms: int, identity: str) -> bytes:
    return timer_at(due_ms) + identity.encode()


def timer_at(due_ms: int) -> bytes:
    """Smallest key of all timers due at or after a time."""
    return TIMER + due_ms.to_bytes(_DUE_BYTES, "big")


def parse_timer(key: bytes) -> tuple[int, str]:
    """(due ms, id) of a timer's key."""
    return int.from_bytes(key[1 : 1 + _DUE_BYTES], "big"), key[1 + _DUE_BYTES :].decode()
