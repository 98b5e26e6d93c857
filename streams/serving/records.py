"""What becomes of a batch of snapshots: the records on their way out, and their counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from schemas.records import OutputRecord
from schemas.snapshot import Snapshot


class Predicted(NamedTuple):
    """What became of a batch."""

    records: list[OutputRecord]
    """Predictions, each for its topic."""
    words: int
    """Words that the encoder was shown."""
    unknown_words: int
    """Of these, those that the model does not know."""


Predict = Callable[[list[Snapshot], list[str]], Predicted]
"""Snapshots, and customers who were erased before them, to records. Called in a thread; see
:class:`streams.serving.predict.Predictions`."""
