"""Which model encode serves: the compacted ``models`` topic. The newest record of the key :data:`KEY` holds."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from schemas.errors import ConfigError
from schemas.limits import Id, TimestampMs

MODELS: Final = "models"
"""Logical name of the topic."""
KEY: Final = b"encode"
"""The role that serves it."""
FOLDER_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
"""One component of a path, and no hidden one: below a worker's model directory, it leads nowhere else."""
MOST_BEFORE: Final = 16

#: What :func:`read_announcement` raises for a record that is no announcement.
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class ModelVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A model as it was published."""

    model_version: Id
    """As predictions name it."""
    folder: Annotated[str, Meta(pattern=FOLDER_NAME)]
    """Name of its folder below the model directory."""
    card_sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    """Of the folder's ``pulsegraph.json``, which has the hashes of all other files."""


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """One record."""

    at_ms: TimestampMs
    """Wall clock of whoever published; for people, nothing goes by it."""
    serve: ModelVersion
    """What is to be served from now on."""
    before: Annotated[tuple[ModelVersion, ...], Meta(max_length=MOST_BEFORE)] = ()
    """What was to be served before, the newest first, as compaction leaves no older record."""

    def then(self, version: ModelVersion, at_ms: int) -> Announcement:
        """What is announced next. The same version again changes no history."""
        same = version.model_version == self.serve.model_version
        before = self.before if same else (self.serve, *self.before)[:MOST_BEFORE]
        return Announcement(at_ms=at_ms, serve=version, before=before)

    def back(self, at_ms: int) -> Announcement:
        """The one before again; once more goes one further back.

        Raises:
            ConfigError: there is none.
        """
        if not self.before:
            raise ConfigError(
                f"no model was announced before {self.serve.model_version}: publish the one that is to be served"
            )
        return Announcement(at_ms=at_ms, serve=self.before[0], before=self.before[1:])


_decode: Final = msgspec.json.Decoder(Announcement).decode


def read_announcement(value: bytes) -> Announcement:
    """A record's value.

    Raises:
        msgspec.DecodeError, UnicodeDecodeError, RecursionError: it is none, see :data:`UNREADABLE`.
    """
    announcement: Announcement = _decode(value)
    return announcement
