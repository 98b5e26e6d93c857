"""Outcomes as arrays: what training reads, and how it is split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from zlib import crc32

import numpy as np
import torch

from models.candidates import CROSS_SIZE, Candidates, named
from models.heads import usable
from models.snapshot_columns import features_of
from models.tokenizer import Vocabulary
from models.wide import COLUMNS, Floats, Ints, columns
from schemas.catalog import CatalogEntry
from schemas.snapshot import Head, Outcome

CHUNK: Final = 2048
VALIDATION_IN: Final = 5
MIN_CAMPAIGNS: Final = 4
MIN_POSITIVES: Final = 8


@dataclass(frozen=True)
class Rows:
    """Outcomes of one head, row by row."""

    tokens: list[bytes]
    """uint16 rows of the vocabulary, oldest first."""
    columns: Floats
    """(N, COLUMNS), raw."""
    labels: Floats
    """(N,)"""
    customers: Ints
    """(N,) a number for each customer."""
    held_out: Ints
    """(N,) 1 where the customer belongs to the fifth that is kept for validation."""
    as_of_ms: Ints
    cross: Floats
    """(N, CROSS_SIZE), or (N, 0) where the head has no candidate."""
    campaign: Ints
    """(N,) column in the candidates, or 0."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Ints) -> Rows:
        return Rows(
            tokens=[self.tokens[i] for i in rows],
            columns=self.columns[rows],
            labels=self.labels[rows],
            customers=self.customers[rows],
            held_out=self.held_out[rows],
            as_of_ms=self.as_of_ms[rows],
            cross=self.cross[rows],
            campaign=self.campaign[rows],
        )

    def inputs(self) -> Floats:
        """Columns of the wide part: all of churn's; of redemption's the plain ones and the cross features."""
        if not self.cross.shape[1]:
            return self.columns
        plain = usable(torch.from_numpy(self.columns)).numpy()
        return np.concatenate([plain, self.cross], axis=1)


def matured(outcomes: Iterable[Outcome], until_ms: int) -> list[Outcome]:
    """Outcomes whose horizon had ended by ``until_ms``, the event time up to which everything is known.

    A customer who comes back is known at once, one who churns only when the horizon ends. Among younger outcomes
    only one of the two labels is known, so none of them may count.
    """
    return [outcome for outcome in outcomes if outcome.due_ms <= until_ms]


def read(
    outcomes: Iterable[Outcome], catalog: Mapping[str, CatalogEntry], vocabulary: Vocabulary
) -> tuple[dict[Head, Rows], Candidates]:
    """Sort outcomes by head and time, and put them into arrays.

    Redemptions whose snapshot names no candidate are left out.
    """
    by_head: dict[Head, list[Outcome]] = {"churn": [], "redemption": []}
    for outcome in outcomes:
        if outcome.head == "redemption" and outcome.snapshot.candidate is None:
            continue
        by_head[outcome.head].append(outcome)
    for of_head in by_head.values():
        of_head.sort(key=lambda o: (o.snapshot.as_of_ms, o.outcome_id))
    campaigns: dict[str, CatalogEntry] = {}
    for outcome in by_head["redemption"]:
        candidate = outcome.snapshot.candidate
        if candidate is not None and candidate.campaign_id not in campaigns:
            campaigns[candidate.campaign_id] = named(candidate, catalog)
    candidates = Candidates(list(campaigns.values()), catalog, vocabulary)
    numbers: dict[str, int] = {}
    return {head: _rows(found, candidates, vocabulary, numbers) for head, found in by_head.items()}, candidates


def _rows(outcomes: list[Outcome], candidates: Candidates, vocabulary: Vocabulary, numbers: dict[str, int]) -> Rows:
    wanted = [o.snapshot.candidate.campaign_id if o.snapshot.candidate else "" for o in outcomes]
    paired = bool(outcomes) and outcomes[0].head == "redemption"
    campaign = np.array([candidates.column.get(name, 0) if paired else 0 for name in wanted], dtype=np.int64)
    wide, cross = [np.zeros((0, COLUMNS), dtype=np.float32)], [np.zeros((0, CROSS_SIZE * paired), dtype=np.float32)]
    for begin in range(0, len(outcomes), CHUNK):
        snapshots = [o.snapshot for o in outcomes[begin : begin + CHUNK]]
        wide.append(columns(features_of(snapshots)))
        if paired:
            pick = campaign[begin : begin + CHUNK]
            cross.append(candidates.cross(snapshots)[np.arange(len(pick)), pick])
    customers = [o.snapshot.customer_id for o in outcomes]
    return Rows(
        tokens=[vocabulary.rows(o.snapshot.recent.words).tobytes() for o in outcomes],
        columns=np.concatenate(wide),
        labels=np.array([o.label for o in outcomes], dtype=np.float32),
        customers=np.array([numbers.setdefault(name, len(numbers)) for name in customers], dtype=np.int64),
        held_out=np.array([is_held_out(name) for name in customers], dtype=np.int64),
        as_of_ms=np.array([o.snapshot.as_of_ms for o in outcomes], dtype=np.int64),
        cross=np.concatenate(cross) if paired else np.zeros((len(outcomes), 0), dtype=np.float32),
        campaign=campaign,
    )


def is_held_out(customer_id: str) -> bool:
    """Whether the customer is in the fifth that training never fits on, the same in every run."""
    return crc32(b"validation:" + customer_id.encode("utf-8", "surrogatepass")) % VALIDATION_IN == 0


def split(rows: Rows, head: Head) -> tuple[Ints, Ints, str]:
    """Row numbers for fitting and for validation, and the split's name.

    Redemption is validated on its newest campaigns where there are enough, as new campaigns are what it will score.
    Otherwise other customers are measured, on the later half of the days where that holds enough of both classes.
    """
    everything = np.arange(len(rows))
    if head == "redemption":
        first = {int(c): int(rows.as_of_ms[rows.campaign == c].min()) for c in np.unique(rows.campaign)}
        newest = sorted(first, key=lambda c: (-first[c], c))
        if len(newest) >= MIN_CAMPAIGNS:
            for count in range(1, len(newest) // 2 + 1):
                later = np.isin(rows.campaign, newest[:count])
                if later.mean() >= 0.15 and _both_classes(rows.labels[later]) and _both_classes(rows.labels[~later]):
                    return everything[~later], everything[later], "campaigns"
    held_out = rows.held_out == 1
    later = held_out & (rows.as_of_ms >= np.median(rows.as_of_ms)) if len(rows) else held_out
    if _both_classes(rows.labels[later]):
        return everything[~held_out], everything[later], "customers"
    return everything[~held_out], everything[held_out], "customers"


def one_sided(rows: Rows, chosen: Ints) -> str | None:
    """Why nothing can be fitted on the ``chosen`` rows; None where it can."""
    for what, labels in (("", rows.labels), (" to fit on", rows.labels[chosen])):
        if not len(labels):
            return f"no outcomes{what}"
        if labels.min() == labels.max():
            return f"no outcome{what} has the label {1 - int(labels[0])}"
    return None


def _both_classes(labels: Floats) -> bool:
    return min(float(labels.sum()), float(len(labels) - labels.sum())) >= MIN_POSITIVES
