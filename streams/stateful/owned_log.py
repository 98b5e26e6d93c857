"""One partition's changelog as its owner writes it, see :mod:`streams.state.ownership`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from streams.kafka.outbox import Outbox
from streams.state import keys, ownership
from streams.state.changelog import Changelog
from streams.state.checkpoints import read_meta
from streams.state.contract import KeyValue
from streams.state.ownership import Ownership, Pair
from streams.state.restore import read_range

logger: Final = logging.getLogger(__name__)

DELIVERY_TIMEOUT_S: Final = 60.0


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
        self._checkpoint = 0

    def send(self, records: Iterable[Pair]) -> int:
        """Put records on their way; returns how many. A meta record ends a checkpoint."""
        sent, name = 0, self._changelog.name
        written_by = ownership.headers(self.owner.fencing_token, self._checkpoint)
        for key, value in records:
            self._outbox.send(name, key, value, partition=self._partition, headers=written_by)
            sent += 1
            if key == keys.META:
                self._checkpoint += 1
                written_by = ownership.headers(self.owner.fencing_token, self._checkpoint)
        return sent

    async def claim(self, complete_to: int) -> bool:
        """Say whose partition this is from now on.

        Args:
            complete_to: see :func:`streams.state.ownership.claim`.

        Returns:
            False where somebody wrote since it was restored: the claim does not count.
        """
        self.send([ownership.claim(complete_to)])
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
        """Put our version of records behind those that do not count.

        Args:
            stale: keys of these.
            fresh: records newer than the store's.

        Raises:
            OwnershipLost: meanwhile somebody claimed the partition.
        """
        while stale:
            logger.warning("%s: %d records of a former owner do not count and are overwritten", self.where, len(stale))
            ours = await asyncio.to_thread(_versions, store, stale, fresh)
            if not ours:
                return
            sent = self.send(ours)
            await self._outbox.delivered(self._outbox.mark(), DELIVERY_TIMEOUT_S)
            stale = await self.zombie_writes(sent)

    def _foreign(self, sent: int) -> tuple[int, int] | None:
        reached = self._outbox.offset(self._changelog.name, self._partition)
        assert reached is not None
        return self.owner.reached(reached, sent)


def _versions(store: KeyValue, stale: Collection[bytes], fresh: Mapping[bytes, bytes | None]) -> list[Pair]:
    """The owner's records under these keys, as the changelog has them."""
    found: list[Pair] = []
    wanted = sorted(stale, key=lambda key: (key == keys.META, key))  # the meta record ends what is written here
    for key, value in zip(wanted, store.multi_get(wanted), strict=True):
        if key in fresh:
            found.append((key, fresh[key]))
        elif key != keys.META:
            found.append((key, value))
        elif (meta := read_meta(store).partition) is not None:
            found.append((key, meta))  # the store's own record holds more than the changelog's
    return found
