"""What the benches of the encoder embed: snapshots as a worker would meet them, and a model of each size.

What is encoded is recorded in the run: a part of Complete Journey through the ingest core, in checkpoints of about as
many events as a worker's tenth of a second would hold of those customers. The models are trained on the same events for
one epoch; the head of churn is made to listen to the embedding, so that a difference is seen in the probability.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from msgspec import Struct

from infra.bench.report import Options, Say
from models import saved_model, versions
from models.encoder import SIZES
from models.heads import CustomerHead
from models.inference import Predictor
from models.model import Model
from models.sequence import Sequences, sequences_of
from models.training import TrainSettings
from schemas.catalog import CatalogEntry
from schemas.snapshot import Snapshot
from streams.core.config import CoreConfig
from streams.offline.ingest import replay_checkpoints
from streams.offline.training import train_on_events
from streams.sources.source import load_source

TIMED: Final = ("demo", "cpu")
"""Of the sizes of encoders."""
_EVENTS: Final = 30_000
_CHECKPOINT: Final = 4
"""Events of one checkpoint: 2,000 a second in tenths of a second, for the share of customers that is replayed."""


class Recorded(Struct, frozen=True):
    """Snapshots in the order in which a worker would publish them, and a model of every size."""

    snapshots: list[Snapshot]
    catalog: Mapping[str, CatalogEntry]
    folders: dict[str, Path]
    """Size → folder of its model."""

    def model(self, size: str) -> Model:
        """One that knows the catalog."""
        found = _opened(self.folders[size])
        found.know(self.catalog)
        found.table()
        return found

    def predictor(
        self, size: str, *, device: str = "cpu", half: bool | None = None, compiled: bool = True
    ) -> Predictor:
        """One thread of it."""
        model = _opened(self.folders[size])
        found = Predictor(model, "bench", device=device, threads=1, half=half, compiled=compiled)
        found.know(self.catalog)
        return found


def record(options: Options, folder: Path, say: Say) -> Recorded:
    """Replay, and train."""
    say("reading Complete Journey")
    source, config = load_source("complete-journey"), CoreConfig()
    catalog, wanted = source.catalog(), options.scaled(_EVENTS, 2_000)
    events = [
        (record.topic, record.key, record.body, record.event_ts_ms)
        for record in source.records(source.from_ms, source.until_ms, wanted)
        if record.body is not None
    ]
    folders = {}
    for size in TIMED:
        say(f"training a model of size {size} on {len(events):,} events")
        train_on_events(
            events,
            catalog,
            folder / size,
            config=config,
            until_ms=source.until_ms,
            settings=TrainSettings(epochs=1, size=SIZES[size]),
            progress=lambda share, text: None,
        )
        folders[size] = versions.current(folder / size)
    say("recording snapshots")
    return Recorded(list(_snapshots(events, config, source.until_ms)), catalog, folders)


def sequences(model: Model, snapshots: Sequence[Snapshot]) -> Sequences:
    """What the model is shown of them."""
    return sequences_of(snapshots, model.word_rows, model.encoder.size)


def churn_head(model: Model) -> CustomerHead:
    """The head that outputs are compared by."""
    head = model.heads["churn"]
    assert isinstance(head, CustomerHead)
    return head


def _snapshots(events: list[Any], config: CoreConfig, until_ms: int) -> Iterator[Snapshot]:
    for checkpoint in replay_checkpoints(events, config, until_ms=until_ms, checkpoint_events=_CHECKPOINT):
        yield from checkpoint.snapshots
        yield from checkpoint.awaiting_label


@torch.no_grad()
def _opened(folder: Path) -> Model:
    """The model with a deep part that speaks: training leaves it silent where it does not help."""
    model, _ = saved_model.load(folder)
    head = churn_head(model)
    head.gate.fill_(1.0)
    last = head.deep
    last.weight.copy_(torch.randn(last.weight.shape, generator=torch.Generator().manual_seed(0)) * 0.3)
    return model
