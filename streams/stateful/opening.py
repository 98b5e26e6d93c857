"""Opening a partition: its state restored from the changelog, and the changelog claimed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from schemas.errors import StateCorrupt
from streams.kafka.outbox import Outbox
from streams.state.changelog import Changelog
from streams.state.contract import KeyValue, Stores
from streams.state.ownership import Ownership, OwnershipLost
from streams.state.progress import RestoreProgress
from streams.state.restore import Restored, restore
from streams.stateful.owned_log import OwnedLog

logger: Final = logging.getLogger(__name__)

_CLAIM_ATTEMPTS: Final = 5


class Opened(NamedTuple):
    """A partition that is ours: its store holds all that the changelog has."""

    store: KeyValue
    log: OwnedLog
    restored: Restored


class Opening:
    """Opens partitions of one role.

    Args:
        wall_ms: wall clock in ms.
        restoring: called with (partition, records read, records at most to be read); from threads.
    """

    def __init__(
        self,
        changelog: Changelog,
        stores: Stores,
        outbox: Outbox,
        *,
        wall_ms: Callable[[], int],
        restoring: Callable[[int, int, int], None],
    ) -> None:
        self._changelog = changelog
        self._stores = stores
        self._outbox = outbox
        self._wall_ms = wall_ms
        self._restoring = restoring

    async def open(self, partition: int) -> Opened:
        """Restore, then claim; again where somebody wrote between the two.

        Raises:
            OwnershipLost: others keep writing to the changelog.
            StateCorrupt: a store that was made afresh cannot be restored either.
        """
        store, what = await asyncio.to_thread(self._restored, partition)
        for _ in range(_CLAIM_ATTEMPTS):
            owner = Ownership(what.fencing_token + 1, what.next_offset)
            log = OwnedLog(self._outbox, self._changelog, partition, owner)
            if await log.claim(what.complete_to):
                break
            again = await asyncio.to_thread(self._read_back, store, partition)
            what = again._replace(fencing_token=max(what.fencing_token, again.fencing_token))
        else:
            raise OwnershipLost(f"{self._changelog.place(partition)} could not be claimed: others keep writing to it")
        await log.overwrite(store, what.stale, {})
        return Opened(store, log, what)

    def _restored(self, partition: int) -> tuple[KeyValue, Restored]:
        try:
            return self._open_restored(partition)
        except StateCorrupt as error:
            aside, where = self._stores.quarantine(partition), self._changelog.place(partition)
            logger.error("local state of %s was set aside as %s and is rebuilt: %s", where, aside, error)
            return self._open_restored(partition)

    def _open_restored(self, partition: int) -> tuple[KeyValue, Restored]:
        store = self._stores.open(partition)
        try:
            return store, self._read_back(store, partition)
        except StateCorrupt:
            store.close()
            raise

    def _read_back(self, store: KeyValue, partition: int) -> Restored:
        log = self._changelog
        return restore(
            store,
            log.client,
            log.topic,
            partition,
            log.due_ms,
            now_ms=self._wall_ms(),
            progress=RestoreProgress(log.place(partition), partial(self._restoring, partition)),
        )
