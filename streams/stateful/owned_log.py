"""One partition's changelog as its owner writes it, see :mod:`streams.state.ownership`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from streams.kafka.outbox import Outbox
from streams.state import keys, ownership
from streams.state.changelog import Changelog
from streams.state.checkpoints import read_meta
from streams.state.contract import KeyValue
from streams.state.ownership import Ownership
from streams.state.restore import read_range

logger: Final = logging.getLogger(__name__)

DELIVERY_TIMEOUT_S: Final = 60.0

Change = tuple[bytes, bytes | None]
"""Key and value of a changelog record; a null deletes."""


class OwnedLog:
    """Sends the owner's records, and finds and overwrites those of workers that had lost the partition.

    Args:
        owner: whose fencing token every record carries.
    """

    def __init__(self, outbox: Outbox, changelog: Changelog, partition: int, owner: Ownership) -> None:
        self.owner = owner
        self.where = changelog.place(partition)
        self._outbox = outbox
        self._changelog = changelog
        self._partition = partition
        self._headers = ownership.headers(owner.fencing_token)

    def send(self, records: Iterable[Change]) -> int:
        """Put records on their way; returns how many."""
        sent, name = 0, self._changelog.name
        for key, value in records:
            self._outbox.send(name, key, value, partition=self._partition, headers=self._headers)
            sent += 1
        return sent

    async def claim(self) -> bool:
        """Say whose partition this is from now on.

        Returns:
            False where somebody wrote since it was restored: the claim does not count.
        """
        self.send([(keys.CLAIM, b"")])
        await self._outbox.delivered(self._outbox.mark(), DELIVERY_TIMEOUT_S)
        return self._foreign(1) is None

    async def zombie_writes(self, sent: int) -> set[bytes]:
        """Keys that others wrote while our last ``sent`` records, all acknowledged by now, were on their way.

        Raises:
            OwnershipLost: one of them claimed the partition.
        """
        foreign = self._foreign(sent)
        if foreign is None:
            return set()
        log = self._changelog
        records = await asyncio.to_thread(read_range, log.client, log.topic, self._partition, *foreign)
        return self.owner.zombie_writes(records)

    async def overwrite(self, store: KeyValue, stale: set[bytes], fresh: Mapping[bytes, bytes | None]) -> None:
        """Put our version of records behind those of a worker that had lost the partition.

        Args:
            stale: keys of its records.
            fresh: records newer than the store's.

        Raises:
            OwnershipLost: meanwhile somebody claimed the partition.
        """
        while stale:
            logger.warning("%s: %d records of a former owner are overwritten", self.where, len(stale))
            ours = await asyncio.to_thread(_versions, store, sorted(stale), fresh)
            if not ours:
                return
            sent = self.send(ours)
            await self._outbox.delivered(self._outbox.mark(), DELIVERY_TIMEOUT_S)
            stale = await self.zombie_writes(sent)

    def _foreign(self, sent: int) -> tuple[int, int] | None:
        reached = self._outbox.offset(self._changelog.name, self._partition)
        assert reached is not None
        return self.owner.reached(reached, sent)


def _versions(store: KeyValue, wanted: Sequence[bytes], fresh: Mapping[bytes, bytes | None]) -> list[Change]:
    """The owner's records under these keys, as the changelog has them."""
    found: list[Change] = []
    for key, value in zip(wanted, store.multi_get(wanted), strict=True):
        if key in fresh:
            found.append((key, fresh[key]))
        elif key != keys.META:
            found.append((key, value))
        elif (meta := read_meta(store).partition) is not None:
            found.append((key, meta))  # the store's own record holds more than the changelog's
    return found
