"""Reading stored records: what cannot be read, or what another version wrote, must never pass for state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

import msgspec

from schemas.errors import StateCorrupt


class Versioned(Protocol):
    """A record that says which version of the code wrote it."""

    @property
    def version(self) -> int: ...


_Record = TypeVar("_Record")
_VersionedRecord = TypeVar("_VersionedRecord", bound=Versioned)


def read(decode: Callable[[bytes], _Record], raw: bytes, what: str) -> _Record:
    """Decode a stored record.

    Args:
        what: the record in an error's words, for people: ``the stored state of a customer``.

    Raises:
        StateCorrupt: it cannot be read.

    Example:
        >>> read(msgspec.json.Decoder(int).decode, b"7", "the number")
        7
    """
    try:
        return decode(raw)
    except msgspec.DecodeError as error:
        raise StateCorrupt(f"{what} cannot be read: {error}") from error


def read_version(
    decode: Callable[[bytes], _VersionedRecord],
    raw: bytes,
    version: int,
    what: str,
    *,
    written_as: str,
    newer: str = "",
    older: str = "",
    also: Sequence[int] = (),
) -> _VersionedRecord:
    """Decode a stored record of one version, which is its first field.

    Args:
        version: the one that this code writes.
        what: as for :func:`read`.
        written_as: what has another version, in that error's words: ``stored state``.
        newer: the end of that error where a newer release wrote it: what to do.
        older: the same where an older one did.
        also: other versions that have the same fields, but for some at the end that have defaults.

    Raises:
        StateCorrupt: it cannot be read, or another version wrote it.
    """
    try:
        record = decode(raw)
        written = record.version
    except msgspec.DecodeError as error:
        # Another version may have other fields: what it is comes before what is wrong with it.
        written = _version_of(raw, version)
        if written == version or written in also:
            raise StateCorrupt(f"{what} cannot be read: {error}") from error
    if written != version and written not in also:
        advice = newer if written > version else older
        raise StateCorrupt(f"{written_as} has version {written}, this worker knows {version}{advice}")
    return record


class _Head(msgspec.Struct, array_like=True):
    version: int


_decode_head: Final = msgspec.msgpack.Decoder(_Head).decode


def _version_of(raw: bytes, otherwise: int) -> int:
    try:
        return _decode_head(raw).version
    except msgspec.DecodeError:
        return otherwise
