"""How hazards are learned and measured, in the steps of :mod:`models.probability`.

A row is a row for each bin that it was seen through: what is fitted, gated and calibrated are these, so a row that was
followed for a part of the time counts for that part. Customers, not bins, are kept apart and count in intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from models import calibration, metrics, outcomes
from models.hazards import Hazard, HazardHead
from models.metrics import Score
from models.model import HeadReport, Model
from models.outcomes import Rows
from models.probability import FIT_ROWS, some
from models.survival import BINS, EDGES_DAYS, INTERVAL, MOST_DAYS, days_until, happened, seen, survival, within
from models.task import Embed, Evidence, Lesson
from models.trees import fit_trees, refit_trees
from models.wide import PLAIN, Doubles, Fitted, Floats, Ints, fit
from schemas.snapshot import DAY_MS

LEAST: Final = 8
"""Rows of each kind that a bin's weights are fitted on at least; of fewer its rate is said."""
PRIOR: Final = 10.0
"""Rows that the rate of all bins counts for in the rate of such a bin."""
FOREST_ROWS: Final = 400
"""Rows that a forest scores at once, in every bin."""
_LEAST_RATE: Final = 1e-6


class Times(NamedTuple):
    """When an event came, row by row; as in :func:`models.survival.seen`."""

    after_days: Doubles
    followed_days: Doubles


class Said(NamedTuple):
    """One probability that is measured: that an event comes within so many days."""

    name: str
    event: str
    days: float
    absent: bool = False
    """That it does not come."""


class HazardLesson(Lesson):
    """Rows that were followed until events came.

    Args:
        name: of the task.
        times: of each event, all of the rows.
        said: what is measured; the first one is what rows are split by, and what is reported before the others. How
            often the 80 % interval of its event's time holds what came is measured, too.
    """

    def __init__(self, name: str, evidence: Evidence, times: Mapping[str, Times], said: Sequence[Said]) -> None:
        self.name, self.rows, self.times, self.said = name, evidence.rows, times, tuple(said)
        self.seen = {event: seen(*of_event) for event, of_event in times.items()}
        labels = np.full(len(self.rows), np.nan, dtype=np.float32)
        for one in said:  # where the first says nothing, as of who never bought, what comes next says
            labels = np.where(np.isfinite(labels), labels, happened(self.seen[one.event], one.days))
        self.split = outcomes.split(self.rows, labels)
        first = happened(self.seen[said[0].event], said[0].days)
        self.missing = outcomes.one_sided(first, self.split.fit)
        before = {event: _before(of_event, self.rows, self.split.by) for event, of_event in times.items()}
        self._targets = {event: np.full_like(of_event, np.nan) for event, of_event in before.items()}
        """What was seen of the rows that are fitted on and stopped at."""
        for shown in (self.split.fit, self.split.stop):
            for event, of_event in before.items():
                self._targets[event][shown] = of_event[shown]
        self.head: HazardHead
        self.fitted: dict[str, list[Fitted]] = {}

    @property
    def events(self) -> dict[str, Hazard]:
        """Those that can be learned."""
        return {event: hazard for event, hazard in self.head.events.items() if event in self.fitted}

    def begin(self, model: Model, generator: np.random.Generator) -> nn.Module:
        head = model.heads[self.name]
        assert isinstance(head, HazardHead)
        self.head = head
        for event, of_event in self._targets.items():
            chosen = some(_followed(of_event, self.split.fit), FIT_ROWS, generator)
            _, _, labels = cells(of_event, chosen)
            if not LEAST <= labels.sum() <= len(labels) - LEAST:
                continue
            hazard = head.events[event]
            if (twin := self._twin(event)) is not None:
                self.fitted[event] = self.fitted[twin]
                hazard.load_state_dict(head.events[twin].state_dict())
                continue
            self.fitted[event] = _fit(self._columns(chosen), of_event[chosen], self.rows.customers[chosen])
            hazard.known.fill_(True)
            stop = self._by_bin(of_event, _followed(of_event, self.split.stop))
            hazard.trees.load(fit_trees(*self._by_bin(of_event, chosen), stop))
            _load(hazard, self.fitted[event])
        return head.deep

    def _twin(self, event: str) -> str | None:
        """An event before it that came of the same rows at the same times: where purchases are all that is activity."""
        same = (other for other in self.fitted if np.array_equal(self.seen[other], self.seen[event], equal_nan=True))
        return next((other for other in same if other != event), None)

    def loss(self, embedding: Tensor, pick: Ints) -> Tensor:
        targets = np.concatenate([of_event[pick] for of_event in self._targets.values()], axis=1)  # (B, E * BINS)
        known = torch.from_numpy(np.isfinite(targets)).to(embedding.device)
        if not bool(known.any()):
            return embedding.new_zeros(())
        labels = torch.from_numpy(np.nan_to_num(targets)).to(embedding.device)
        return nn.functional.binary_cross_entropy_with_logits(self.head.deep(embedding)[known], labels[known])

    def alone(self, embeddings: Floats, pick: Ints) -> float | None:
        return self._alone(happened(self._targets[self.said[0].event][pick], self.said[0].days), embeddings)

    @torch.no_grad()
    def finish(self, embed: Embed, generator: np.random.Generator, *, seed: int) -> HeadReport:
        rows, split = self.rows, self.split
        self.head.eval()
        gate = embed(rows.take(split.gate))
        plain: dict[str, calibration.Calibration] = {}
        visible: dict[str, float | None] = {}
        for event, hazard in self.events.items():
            chosen = _followed(self.seen[event], split.gate)
            at = np.searchsorted(split.gate, chosen)
            row, bins, labels = cells(self.seen[event], chosen)
            customers = rows.customers[chosen][row]
            linear, forest = self._linear(event, chosen), self._forest(event, chosen)
            mean = (linear + forest) / 2
            if calibration.better(labels, mean[row, bins], linear[row, bins]):
                hazard.share.fill_(0.5)
            wide = self._wide(event, chosen)[row, bins]
            found, visible[event] = calibration.choose(labels, wide, self._deep(event, gate[at])[row, bins], customers)
            plain[event] = calibration.Calibration(0.0, *calibration.platt(labels, wide))
            for name, value in found._asdict().items():
                getattr(hazard, name).fill_(value)
        report = self._report(embed(rows.take(split.report)), plain, seed)
        report = replace(report, visible_gain=visible[self.said[0].event])
        self._refit(embed)
        return report

    def _report(self, embeddings: Floats, plain: Mapping[str, calibration.Calibration], seed: int) -> HeadReport:
        chosen, first = self.split.report, self.said[0]
        live = self.rows.live[chosen]
        with_deep, without = (self._curves(chosen, embeddings, only) for only in (None, plain))

        def measured(one: Said, curves: Mapping[str, Doubles], kept: Ints) -> Score:
            labels = happened(self.seen[one.event][chosen], one.days).astype(np.float64)
            kept = kept[np.isfinite(labels[kept])]
            probability, label = within(curves[one.event], one.days)[kept], labels[kept]
            if one.absent:
                probability, label = 1 - probability, 1 - label
            return metrics.score(label, _logit(probability), self.rows.customers[chosen][kept], seed=seed)

        everybody = np.arange(len(chosen))
        return HeadReport(
            split=self.split.by,
            train_rows=len(self.split.fit),
            gate_rows=len(self.split.gate),
            wide=measured(first, without, everybody),
            model=measured(first, with_deep, everybody),
            live=measured(first, with_deep, np.flatnonzero(live)),
            trees=self.head.forest_share,
            gate=max(float(hazard.gate) for hazard in self.events.values()),
            embedding_auc=self._alone(happened(self.seen[first.event][chosen], first.days), embeddings),
            others={one.name: measured(one, with_deep, everybody) for one in self.said[1:] if one.event in with_deep},
            measures=self._held(chosen, with_deep[first.event]),
        )

    def _held(self, chosen: Ints, curve: Doubles) -> dict[str, float]:
        """How often the interval holds what came, over rows that were followed to the end."""
        after_days, followed_days = (part[chosen] for part in self.times[self.said[0].event])
        whole = followed_days >= MOST_DAYS
        if not whole.any():
            return {}
        low, high = (days_until(curve[whole], share) for share in INTERVAL)
        after = np.where(after_days[whole] < MOST_DAYS, after_days[whole], np.inf)
        held = float(((low <= after) & (after <= high)).mean())
        return {f"{self.said[0].event}: share held by the 80 % interval": round(held, 4)}

    def _refit(self, embed: Embed) -> None:
        """On all rows; then the newest set the level, as of every probability."""
        before, self.fitted = self.fitted, {}
        for event, fits in before.items():
            of_event, hazard = self.seen[event], self.head.events[event]
            chosen = _followed(of_event, np.arange(len(of_event)))
            if (twin := self._twin(event)) is not None and hazard.share == self.head.events[twin].share:
                self.fitted[event] = self.fitted[twin]
                hazard.trees.load_state_dict(self.head.events[twin].trees.state_dict())
            else:
                self.fitted[event] = _refitted(fits, self._columns(chosen), of_event[chosen])
                if hazard.share:
                    hazard.trees.load(refit_trees(*self._by_bin(of_event, chosen), hazard.trees.grown))
            _load(hazard, self.fitted[event])
            newest = outcomes.newest(self.rows, chosen)
            row, bins, labels = cells(of_event, newest)
            if not 0 < labels.sum() < len(labels):
                continue
            logits = self._wide(event, newest)
            if gate := float(hazard.gate):
                logits = logits + gate * self._deep(event, embed(self.rows.take(newest)))
            hazard.shift.fill_(calibration.level(labels, float(hazard.scale) * logits[row, bins]))

    def _curves(
        self, chosen: Ints, embeddings: Floats, only: Mapping[str, calibration.Calibration] | None
    ) -> dict[str, Doubles]:
        """(n, BINS + 1) of each event, calibrated as the head is, or otherwise."""
        found = {}
        for event, hazard in self.events.items():
            said = (
                only[event]
                if only is not None
                else calibration.Calibration(
                    *(float(getattr(hazard, name)) for name in calibration.Calibration._fields)
                )
            )
            logits = said.apply(self._wide(event, chosen), self._deep(event, embeddings))
            found[event] = survival(1 / (1 + np.exp(-logits)))
        return found

    def _columns(self, chosen: Ints) -> Floats:
        return self.rows.sequences.numbers[chosen]

    def _by_bin(self, of_event: Floats, chosen: Ints) -> tuple[Floats, Floats]:
        """What a forest is fitted on: a row for each bin that was seen."""
        row, bins, labels = cells(of_event, chosen)
        columns = self._columns(chosen)[row, :PLAIN]
        return np.concatenate([columns, bins[:, None]], axis=1, dtype=np.float32), labels.astype(np.float32)

    def _linear(self, event: str, chosen: Ints) -> Doubles:
        columns = self._columns(chosen)
        return np.stack([fitted.logits(columns) for fitted in self.fitted[event]], axis=1)

    def _forest(self, event: str, chosen: Ints) -> Doubles:
        trees = self.head.events[event].trees
        parts = [np.zeros((0, BINS))]
        for begin in range(0, len(chosen), FOREST_ROWS):
            columns = torch.from_numpy(self._columns(chosen[begin : begin + FOREST_ROWS])).to(trees.value.device)
            parts.append(self.head.events[event].of_trees(columns).double().cpu().numpy())
        return np.concatenate(parts)

    def _wide(self, event: str, chosen: Ints) -> Doubles:
        linear, share = self._linear(event, chosen), float(self.head.events[event].share)
        return linear + share * (self._forest(event, chosen) - linear) if share else linear

    @torch.no_grad()
    def _deep(self, event: str, embeddings: Floats) -> Doubles:
        on_device = torch.from_numpy(embeddings).to(self.head.deep.weight.device)
        found: Doubles = self.head.said_by(on_device)[event].double().cpu().numpy()
        return found

    def _alone(self, labels: Floats, embeddings: Floats) -> float | None:
        """AUC of what the embedding says by itself."""
        first, known = self.said[0], np.isfinite(labels)
        curve = survival(1 / (1 + np.exp(-self._deep(first.event, embeddings[known]))))
        return metrics.auc(labels[known].astype(np.float64), within(curve, first.days))


def cells(of_event: Floats, chosen: Ints) -> tuple[Ints, Ints, Doubles]:
    """Of the ``chosen`` rows of (N, BINS) what was seen: place among the chosen, bin, label."""
    of_chosen = of_event[chosen]
    row, bins = np.nonzero(np.isfinite(of_chosen))
    return row, bins, of_chosen[row, bins].astype(np.float64)


def _before(times: Times, rows: Rows, by: str) -> Floats:
    """What was seen of each bin before gate and report begin, where these are kept apart in time."""
    if by == "customers":
        return seen(*times)
    until_days = (rows.cut_ms - rows.as_of_ms) / DAY_MS
    return seen(times.after_days, np.minimum(times.followed_days, until_days))


def _followed(of_event: Floats, chosen: Ints) -> Ints:
    """Those of the rows of which something was seen."""
    found: Ints = chosen[np.isfinite(of_event[chosen, 0])]
    return found


def _fit(columns: Floats, of_event: Floats, groups: Ints) -> list[Fitted]:
    found = []
    for at in range(BINS):
        known = np.isfinite(of_event[:, at])
        labels = of_event[known, at]
        if LEAST <= labels.sum() <= len(labels) - LEAST:
            found.append(fit(columns[known], labels, groups[known]))
        else:
            nothing = np.zeros(columns.shape[1])
            found.append(Fitted(nothing, nothing + 1.0, nothing, _rate_logit(of_event, at), 0.0))
    return found


def _rate_logit(of_event: Floats, at: int) -> float:
    """Of a bin with few rows: its rate, drawn to that of all bins."""
    days = np.diff(EDGES_DAYS)
    known = np.isfinite(of_event)
    per_day = np.nansum(of_event) / max(1.0, float((known * days).sum()))
    everywhere = -np.expm1(-per_day * days[at])
    rate = (float(np.nansum(of_event[:, at])) + PRIOR * everywhere) / (float(known[:, at].sum()) + PRIOR)
    rate = min(max(rate, _LEAST_RATE), 1 - _LEAST_RATE)
    return float(np.log(rate) - np.log1p(-rate))


def _refitted(fits: Sequence[Fitted], columns: Floats, of_event: Floats) -> list[Fitted]:
    found = []
    for at, before in enumerate(fits):
        known = np.isfinite(of_event[:, at])
        found.append(before.refitted(columns[known], of_event[known, at]) if before.weight.any() else before)
    return found


def _load(hazard: Hazard, fits: Sequence[Fitted]) -> None:
    for name in ("mean", "deviation", "weight"):
        stacked = np.stack([getattr(fitted, name) for fitted in fits])
        getattr(hazard, name).copy_(torch.from_numpy(stacked).float())
    hazard.bias.copy_(torch.tensor([fitted.bias for fitted in fits]))


def _logit(probability: Doubles) -> Doubles:
    bounded = np.clip(probability, 1e-7, 1 - 1e-7)
    out: Doubles = np.log(bounded) - np.log1p(-bounded)
    return out
