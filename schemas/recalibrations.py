"""What became of predictions, counted: plain numbers on the compacted topic ``recalibrations``, one record of each
partition."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

RECALIBRATIONS_VERSION: Final = 1
MOST_BIN: Final = 64

Bins = dict[
    Annotated[int, Meta(ge=-MOST_BIN, le=MOST_BIN)],
    tuple[Annotated[int, Meta(ge=1)], Annotated[int, Meta(ge=0)]],
]


class WeekTally(msgspec.Struct, frozen=True, kw_only=True):
    """Predictions of one head and model, about snapshots of one kind and week, by what the model said."""

    head: str
    """``churn`` or ``redemption``."""
    model_version: str
    """Which model said so."""
    snapshot_kind: str
    """As in predictions."""
    week: int
    """Of the snapshots' ``as_of_ms``, weeks since 1970-01-01."""
    bins: Bins
    """Logit of what the model said, in eighths and rounded -> predictions whose outcome is known, and those in which it
    happened."""


class OutcomeTallies(msgspec.Struct, frozen=True, kw_only=True):
    """All tallies of one partition of ``outcomes``, and the log that they account for. Those of partitions add up."""

    partition: int
    """Of ``outcomes`` and ``predictions.*``; the key is the same number."""
    next_offsets: dict[str, int]
    """Topic -> offset of the first record that is not accounted for."""
    newest_ms: int
    """Event time that outcomes had come to: what counts are predictions whose horizon had ended by then."""
    tallies: list[WeekTally]
    """Those of the newest 26 weeks."""
    version: int = RECALIBRATIONS_VERSION
    """Of this record."""
