"""The registry of roles: one file in this folder and one entry here make a role.

Importing it costs little: the role's own file, which brings Faust and perhaps torch, is imported when a worker builds
it. Where a role keeps state, its topic ``{name}-changelog`` is one of :data:`schemas.topics.TOPICS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import msgspec

from schemas.topics import changelog_of
from streams.core.customer import PIECES, CustomerRecord
from streams.core.durable import PartitionMeta
from streams.core.entities import Entity

if TYPE_CHECKING:
    from streams.runtime.context import RoleContext
    from streams.runtime.runner import Role


class StoredTypes(msgspec.Struct, frozen=True):
    """What a role's store and changelog hold, in msgpack."""

    record: type[msgspec.Struct]
    """Of one customer or entity."""
    meta: type
    """Of the partition as a whole, under :data:`streams.state.keys.META`."""
    pieces: Mapping[bytes, type] = {}
    """Of the pieces of a record, by the first byte of their names."""

    def piece_decoders(self) -> dict[bytes, Callable[[bytes], Any]]:
        """What reads a piece, by the first byte of its name."""
        return {kind: msgspec.msgpack.Decoder(of_kind).decode for kind, of_kind in self.pieces.items()}


class RoleEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One role, as everybody but its own file knows it."""

    name: str
    """Also of its file here, whose ``build`` makes it."""
    does: str
    """For ``--help``."""
    stored: StoredTypes | None = None
    """None: it keeps no state."""
    commits: bool = True
    """Whether its group's offsets say how far it has come, so that there is a lag to tell."""

    @property
    def changelog(self) -> str | None:
        """Logical name of the topic that keeps its state."""
        return changelog_of(self.name) if self.stored is not None else None

    def build(self, context: RoleContext) -> Role:
        """The role, ready to be bound.

        Raises:
            ConfigError: a setting does not fit.
            ModelRefused: the model directory is broken.
        """
        make: Callable[[RoleContext], Role] = import_module(f"{__package__}.{self.name}").build
        return make(context)


ROLES: Final = {
    entry.name: entry
    for entry in (
        RoleEntry(
            name="ingest",
            does="keeps every customer's state and emits snapshots",
            stored=StoredTypes(CustomerRecord, PartitionMeta, PIECES),
        ),
        RoleEntry(name="encode", does="runs the model on them and publishes predictions"),
        RoleEntry(name="entities", does="keeps the graph's other side", stored=StoredTypes(Entity, int)),
        RoleEntry(name="learn", does="scores predictions by their outcomes", commits=False),
    )
}
"""By name, in the order in which an event meets them."""

STATEFUL: Final = {entry.name: entry.stored for entry in ROLES.values() if entry.stored is not None}
"""What roles that keep state have stored, by name."""
