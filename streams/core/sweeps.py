"""Sweeps of one partition: which are waiting, how far the first of them has come, and whom it names."""

from __future__ import annotations

from typing import Final

import msgspec

from schemas.channels import canonical
from schemas.errors import InvalidField, Malformed
from schemas.limits import MAX_PAYLOAD_BYTES
from schemas.nesting import too_deep
from schemas.sweep import SWEEP_VERSION, Sweep
from streams.core.state import Folded

MOST_WAITING: Final = 16

_decode: Final = msgspec.json.Decoder(Sweep).decode


class Sweeps(msgspec.Struct, array_like=True):
    """Stored with the partition, so that a sweep goes on where it was, whoever goes on with it."""

    next_offset: int = 0
    """First one of the topic that was not taken in."""
    waiting: list[Sweep] = []
    """The first one is under way."""
    after: str = ""
    """Customers up to this one are done."""

    def copy(self) -> Sweeps:
        return Sweeps(self.next_offset, self.waiting.copy(), self.after)

    def add(self, value: bytes | None) -> None:
        """One more order.

        Raises:
            DeadLetter: it cannot be read, or too many are waiting.
        """
        if value is not None and (len(value) > MAX_PAYLOAD_BYTES or too_deep(value)):
            raise Malformed("no sweep: it is too large, or nested too deeply")
        try:
            sweep = _decode(value or b"")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Malformed(f"no sweep: {error}") from None
        if sweep.version != SWEEP_VERSION:
            raise InvalidField(f"sweep version {sweep.version}, this worker knows {SWEEP_VERSION}")
        if len(self.waiting) >= MOST_WAITING:
            raise InvalidField(
                f"{MOST_WAITING} sweeps are waiting already: send {sweep.sweep_id} again when they are done"
            )
        self.waiting.append(sweep)

    def end(self) -> None:
        """The first one has come to the last customer."""
        del self.waiting[0]
        self.after = ""


class Conditions:
    """Whether a sweep is about a customer."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._channels = {canonical(channel) for channel in sweep.channels}
        self._wanted: dict[str, set[str]] = {}
        for entity in sweep.entities:
            kind, _, entity_id = entity.partition(":")
            self._wanted.setdefault(kind, set()).add(entity_id)

    def __call__(self, seen: Folded, now_ms: int) -> bool:
        """
        Args:
            seen: what is known of the customer.
            now_ms: event time.
        """
        sweep = self._sweep
        if not seen.events:
            return False
        if sweep.active_within_ms is not None and now_ms - seen.last_ms > sweep.active_within_ms:
            return False
        if self._channels and not any(
            canonical(pair.rpartition(":")[0]) in self._channels for pair in seen.consent or ()
        ):
            return False
        return not self._wanted or any(
            not wanted.isdisjoint(seen.graph.edges(edge_type))
            for edge_type in seen.graph
            if (wanted := self._wanted.get(edge_type.partition(">")[2])) is not None
        )
