"""Training from a log of source events: vocabulary, outcomes, model. The shell around :mod:`models.training`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import torch

from models import canary, outcomes, saved_model, tokenizer
from models.continued import Base
from models.model import Model
from models.pretrained import PretrainedBody
from models.saved_model import Card
from models.tokenizer import Vocabulary
from models.training import TrainSettings, train
from schemas.catalog import CatalogEntry
from schemas.errors import ConfigError
from schemas.events import Body, Profile
from schemas.snapshot import Outcome
from schemas.words import Words, hash_of, split, words_of
from streams.core.config import DAY_MS, CoreConfig
from streams.core.context import Context
from streams.core.snapshots import attribute_words
from streams.core.timeline import event_words
from streams.offline.canary import made_up
from streams.offline.ingest import replay_checkpoints

Progress = Callable[[float, str], None]
SourceEvent = tuple[str, str, Body, int]
"""(topic, customer id, body, event ms)"""

_SHARES: Final = (0.1, 0.4)
"""Parts of the whole that counting words and making outcomes take, for the progress bar."""


def build_vocabulary(
    events: Iterable[SourceEvent], catalog: Mapping[str, CatalogEntry], config: CoreConfig
) -> Vocabulary:
    """Vocabulary of a log and of the catalog's titles, counted by the code that writes timelines and snapshots."""
    words, counts = Words(), Counter[bytes]()
    for _, customer_id, body, _ in events:
        context = Context(config, words, 0, customer_id)
        if isinstance(body, Profile):
            counts.update(split(attribute_words(body.attributes or {}, context)))
        else:
            counts.update(split(event_words(body, context)))
    return vocabulary_of(counts, {hash_of(word): word for word in words.take_new()}, catalog)


def vocabulary_of(
    counts: Counter[bytes], names: Mapping[bytes, str], catalog: Mapping[str, CatalogEntry]
) -> Vocabulary:
    """The vocabulary of hashed words that were counted.

    Args:
        names: what hashes stand for; a word whose name is not known gets no row.
    """
    found = Counter({names[hashed]: count for hashed, count in counts.items() if hashed in names})
    for entry in catalog.values():
        found.update(words_of(entry.title or ""))
    return Vocabulary(tokenizer.build(found))


def counted(found: Iterable[Outcome]) -> Counter[bytes]:
    """How often each word occurs in the timelines of outcomes."""
    counts = Counter[bytes]()
    for outcome in found:
        if (snapshot := outcome.snapshot) is not None:
            counts.update(split(snapshot.recent.words + snapshot.attributes))
    return counts


def outcomes_of(events: Sequence[SourceEvent], config: CoreConfig, until_ms: int, progress: Progress) -> list[Outcome]:
    """What the ingest role would have written to ``outcomes`` for these events."""
    found: list[Outcome] = []
    done, checkpoint_events = 0, 20_000
    for checkpoint in replay_checkpoints(events, config, until_ms=until_ms, checkpoint_events=checkpoint_events):
        found += checkpoint.outcomes
        done = min(len(events), done + checkpoint_events)
        progress(done / max(1, len(events)), f"replaying history: {done:,} events, {len(found):,} outcomes")
    return found


def train_on_events(
    events: Sequence[SourceEvent],
    catalog: Mapping[str, CatalogEntry],
    directory: Path,
    *,
    config: CoreConfig,
    until_ms: int,
    settings: TrainSettings,
    progress: Progress,
    body: PretrainedBody | None = None,
    base: Base | None = None,
    device: str | torch.device = "cpu",
    source: str = "",
    date: str = "",
) -> Card:
    """Train on everything that was known by ``until_ms`` and write a version below the model directory.

    Args:
        body: see :func:`models.training.train`, as for what follows.

    Raises:
        ConfigError: the churn horizon is no whole number of days, or there is nothing to learn from.
    """
    _horizon_days(config)
    first, second = _SHARES
    progress(0.0, "building the vocabulary")
    vocabulary = build_vocabulary(events, catalog, config)
    found = outcomes_of(events, config, until_ms, lambda share, text: progress(first + share * (second - first), text))
    ended = outcomes.matured(found, until_ms)
    return train_on_outcomes(
        ended,
        catalog,
        vocabulary,
        directory,
        config=config,
        settings=settings,
        progress=lambda share, text: progress(second + share * (1 - second), text),
        early=[outcome for outcome in found if outcome.due_ms > until_ms],
        body=body,
        base=base,
        device=device,
        source=source,
        date=date,
    )


def train_on_outcomes(
    found: Sequence[Outcome],
    catalog: Mapping[str, CatalogEntry],
    vocabulary: Vocabulary,
    directory: Path,
    *,
    config: CoreConfig,
    settings: TrainSettings,
    progress: Progress,
    early: Sequence[Outcome] = (),
    body: PretrainedBody | None = None,
    base: Base | None = None,
    device: str | torch.device = "cpu",
    source: str = "",
    date: str = "",
) -> Card:
    """Train on labelled snapshots and write a version below the model directory.

    Args:
        found: outcomes whose horizon has ended, see :func:`models.outcomes.matured`.
        vocabulary: the words that get a row of their own.
        early: outcomes whose horizon has not ended, see :func:`models.training.train`, as for what follows.

    Raises:
        ConfigError: the churn horizon is no whole number of days, or there is nothing to learn from.
    """
    model = train(
        found,
        catalog,
        vocabulary,
        clock=time.monotonic,
        settings=msgspec.structs.replace(settings, horizon_days=_horizon_days(config)),
        progress=progress,
        early=early,
        body=body,
        base=base,
        device=device,
        source=source,
        date=date,
    )
    return save_version(model, directory, catalog, config)


def save_version(model: Model, directory: Path, catalog: Mapping[str, CatalogEntry], config: CoreConfig) -> Card:
    """Write a model with its canary below a model directory, and make it the current one there.

    Raises:
        ConfigError: the directory holds something else.
        OSError: the disk.
    """
    made = canary.make(model, *made_up(model.vocabulary, catalog, config))
    return saved_model.save_version(model, directory, made)


def _horizon_days(config: CoreConfig) -> int:
    days, rest_ms = divmod(config.churn_horizon_ms, DAY_MS)
    if rest_ms:
        raise ConfigError(
            f"core.churn_horizon_ms is {config.churn_horizon_ms}: a model's horizon is a whole number of days, "
            f"such as {max(1, days) * DAY_MS} ms"
        )
    return days
