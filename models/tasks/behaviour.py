"""Behaviour: when the next order and the next activity come, of whoever is active.

Three hazards (:mod:`models.hazards`): of the next order of who has bought before, of the first order of who has not,
and of activity, which may be more than orders. Every probability of a record is read from one of three curves: so churn
never falls with the horizon, and the expected time of the next order agrees with the probability of a purchase.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt
import torch

from models import survival
from models.hazard_lesson import HazardLesson, Said, Times
from models.hazards import HazardHead
from models.model import Model
from models.reasons import customer_reasons
from models.snapshot_columns import features_of
from models.survival import BINS, EDGES_DAYS, MOST_DAYS
from models.task import Encoded, Evidence, Moment, Scorer, Task, common, on_device, rounded
from models.wide import Doubles, Floats, by_feature, typical
from schemas import features
from schemas.predictions import BehaviourPrediction, Reason
from schemas.snapshot import DAY_MS, Outcome, Snapshot, SnapshotKind

Bools = npt.NDArray[np.bool_]

VALID_MS: Final = 7 * DAY_MS
ORDER, FIRST, ACTIVITY = EVENTS = ("order", "first_order", "activity")
FIRST_DAYS: Final = 14
REPEAT_DAYS: Final = (28, 14, 7)
CHURN_DAYS: Final = (14, 28, 56)
SAID: Final = (
    *(Said(f"repeat_purchase_{days}d", ORDER, days) for days in REPEAT_DAYS),
    *(Said(f"churn_{days}d", ACTIVITY, days, absent=True) for days in CHURN_DAYS),
    Said(f"first_purchase_{FIRST_DAYS}d", FIRST, FIRST_DAYS),
)
_EXPLAINED: Final = int(np.searchsorted(EDGES_DAYS, REPEAT_DAYS[0]))
"""Bins whose hazards reasons are of."""
_ORDERS: Final = features.INDEX["orders_84d"]


class BehaviourTask(Task):
    """Evidence weekly and after a sample of events, as churn's."""

    name = "behaviour"
    question = "churn"
    topic = "predictions.behaviour"
    kinds: ClassVar[frozenset[SnapshotKind]] = frozenset({"event", "refresh", "horizon", "sample"})
    sent_when_moved = True
    looks_ahead = True

    def head(self, hidden: int) -> HazardHead:
        return HazardHead(hidden, EVENTS)

    def lesson(self, evidence: Evidence) -> HazardLesson:
        return HazardLesson(self.name, evidence, times(evidence.outcomes), SAID)

    def scorer(self, model: Model, version: str) -> BehaviourScorer:
        return BehaviourScorer(model, version)


def times(outcomes: Sequence[Outcome]) -> dict[str, Times]:
    """When the events of each outcome came.

    Orders are known for 56 days or not at all, activity for the churn horizon at least. Where every order that is known
    came with the first activity, activity is orders: then what is known of it is known of them.
    """
    activity = Times(*_columns([_activity(outcome) for outcome in outcomes]))
    order = Times(*_columns([_order(outcome) for outcome in outcomes]))
    known = np.isfinite(order.followed_days)
    if known.any() and np.array_equal(order.after_days[known], activity.after_days[known]):
        order = activity
    bought = has_bought([outcome.seen for outcome in outcomes])
    return {
        ORDER: Times(order.after_days, np.where(bought, order.followed_days, np.nan)),
        FIRST: Times(order.after_days, np.where(bought, np.nan, order.followed_days)),
        ACTIVITY: activity,
    }


def _order(outcome: Outcome) -> tuple[float, float]:
    if "order" not in outcome.labels:
        return np.inf, np.nan
    return _days(outcome, "order_after_ms"), MOST_DAYS


def _activity(outcome: Outcome) -> tuple[float, float]:
    """From the 56 days of the orders where they are known, else from the churn horizon.

    A customer whose order came is not followed any further, so where orders are no activity, the horizon is all.
    """
    after = min(_days(outcome, "after_ms"), _days(outcome, "active_after_ms"))
    if "order" in outcome.labels and (not outcome.labels["order"] or np.isfinite(after)):
        return after, MOST_DAYS
    return after, (outcome.due_ms - outcome.as_of_ms) / DAY_MS


def _days(outcome: Outcome, label: str) -> float:
    after_ms = outcome.labels.get(label)
    return float(after_ms) / DAY_MS if isinstance(after_ms, int | float) else np.inf


def _columns(pairs: Sequence[tuple[float, float]]) -> Doubles:
    return np.array(pairs, dtype=np.float64).reshape(-1, 2).T


def has_bought(snapshots: Sequence[Snapshot]) -> Bools:
    """(B,) whether there was an order; of whom nothing is known counts as if. A decayed count never reaches 0."""
    found: Bools = features_of(snapshots)[:, _ORDERS] != 0.0
    return found


@dataclass(frozen=True)
class BehaviourAnswers:
    """A batch of customers, row by row."""

    curves: dict[str, Doubles]
    """Event → probability that it has not come by each edge, (B, BINS + 1); see :mod:`models.survival`."""
    bought: Bools
    """(B,)"""
    contributions: Floats
    """What each feature adds to the mean logit of the next order's hazards in 28 days, weighted by them, (B, SIZE)."""

    def within(self, event: str, days: float) -> Doubles:
        """(B,) probability that the event comes in so many days."""
        return survival.within(self.curves[event], days)


class BehaviourScorer(Scorer):
    """See :meth:`models.task.Task.scorer`."""

    def __init__(self, model: Model, version: str) -> None:
        head = model.heads[BehaviourTask.name]
        assert isinstance(head, HazardHead)
        self._model, self._head, self._version = model, head, version
        self._typical = typical(head.events[ORDER].mean[0].cpu().numpy())

    def __call__(self, encoded: Encoded) -> BehaviourAnswers:
        """Score a batch."""
        bought = has_bought(encoded.snapshots)
        with torch.inference_mode():
            embedding, columns = on_device(self._model, encoded.embeddings, encoded.columns)
            deep = self._head.said_by(embedding)
            logits, parts = {}, {}
            for event, hazard in self._head.events.items():
                if event in (ORDER, FIRST) and hazard.known:
                    logits[event], of_columns = hazard.explained(columns, deep[event], _soon)
                    parts[event] = by_feature(of_columns.cpu().numpy())
                else:
                    logits[event] = hazard(columns, deep[event])
                    parts[event] = np.zeros((len(columns), features.SIZE), dtype=np.float32)
        hazards = {event: torch.sigmoid(of_event.double()).cpu().numpy() for event, of_event in logits.items()}
        return BehaviourAnswers(
            curves={event: survival.survival(of_event) for event, of_event in hazards.items()},
            bought=bought,
            contributions=np.where(bought[:, None], parts[ORDER], parts[FIRST]),
        )

    def predictions(self, encoded: Encoded, moment: Moment) -> Iterator[BehaviourPrediction]:
        rows = [row for row, snapshot in enumerate(encoded.snapshots) if snapshot.kind in BehaviourTask.kinds]
        if not rows:
            return
        answers = self(encoded)
        known = {event: bool(hazard.known) for event, hazard in self._head.events.items()}
        repeat = {days: answers.within(ORDER, days) for days in REPEAT_DAYS}
        churn = {days: 1.0 - answers.within(ACTIVITY, days) for days in CHURN_DAYS}
        first = answers.within(FIRST, FIRST_DAYS)
        days = {
            event: [survival.days_until(answers.curves[event], share) for share in (0.5, *survival.INTERVAL)]
            for event in (ORDER, FIRST)
        }
        for row in rows:
            snapshot, bought = encoded.snapshots[row], bool(answers.bought[row])
            event = ORDER if bought else FIRST
            middle, low, high = (_shown(part[row]) if known[event] else None for part in days[event])
            yield BehaviourPrediction(
                **common(BehaviourTask.name, snapshot, self._version, moment.now_ms),
                valid_until_ms=snapshot.as_of_ms + VALID_MS,
                churn_14d=rounded(churn[14][row]),
                churn_28d=rounded(churn[28][row]),
                churn_56d=rounded(churn[56][row]),
                repeat_purchase_7d=rounded(repeat[7][row]) if bought else None,
                repeat_purchase_14d=rounded(repeat[14][row]) if bought else None,
                repeat_purchase_28d=rounded(repeat[28][row]) if bought else None,
                first_purchase_14d=rounded(first[row]) if not bought and known[FIRST] else None,
                next_order_days=middle,
                next_order_from_days=low,
                next_order_to_days=high,
                last_activity_ms=snapshot.last_activity_ms,
                reason_codes=self._reasons(snapshot, answers.contributions[row]),
            )

    def _reasons(self, snapshot: Snapshot, contributions: Floats) -> list[Reason]:
        """In the words of churn, which looks at the same from the other side; weights are of a purchase."""
        found = customer_reasons(snapshot, -contributions, self._typical)
        return [Reason(reason.code, reason.text, weight=-reason.weight) for reason in found]


def _soon(logits: torch.Tensor) -> torch.Tensor:
    """Weights of the bins, (B, BINS): of each hazard by itself, as far as the reasons look ahead."""
    hazards = torch.sigmoid(logits)
    weights = hazards * (torch.arange(BINS, device=hazards.device) < _EXPLAINED)
    return weights / weights.sum(1, keepdim=True).clamp(min=1e-9)


def _shown(days: float) -> float | None:
    """To a tenth of a day; None beyond what is told apart."""
    return round(float(days), 1) if np.isfinite(days) else None
