"""A partition that a role owns, while it is open."""

from __future__ import annotations

from typing import Generic, NamedTuple, Protocol, TypeVar

from streams.state.checkpoints import StateCheckpoint
from streams.state.contract import KeyValue
from streams.stateful.owned_log import OwnedLog

CheckpointT_co = TypeVar("CheckpointT_co", bound=StateCheckpoint, covariant=True)


class Core(Protocol[CheckpointT_co]):
    """The pure part of a role's partition."""

    @property
    def next_offsets(self) -> dict[str, int]:
        """First offset of each topic that has not been taken in; absent where none was."""

    def checkpoint(self, now_ms: int) -> CheckpointT_co:
        """Hand over everything that changed since the last call."""

    def written(self) -> None:
        """The last checkpoint is durable: what it held may be dropped from memory."""


CoreT_co = TypeVar("CoreT_co", bound=Core[StateCheckpoint], covariant=True)


class Held(NamedTuple, Generic[CoreT_co]):
    """A partition this worker owns."""

    store: KeyValue
    core: CoreT_co
    log: OwnedLog
