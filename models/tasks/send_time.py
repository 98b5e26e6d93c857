"""Send time: the hours of the week to come, and the channels, ranked by how likely a message sent then is answered.

``logit = level(customer) + rhythm(customer, hour) + habit(customer, channel)``: one logistic regression on messages
whose answer is known. Rhythm and habit are shares that are drawn towards everybody's (:mod:`models.send_slots`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Final

import numpy as np
import torch
from torch import nn

from models import outcomes
from models.candidate_head import usable
from models.heads import Head
from models.local_time import HOUR_S, hour_of_week, offsets_s
from models.model import Model
from models.probability import ProbabilityLesson
from models.send_slots import (
    HOURS,
    OF_CHANNELS,
    OF_HOURS,
    SLOT_SIZE,
    Channel,
    SessionHours,
    answers_of,
    rates_of,
    visits_of,
)
from models.send_time_head import SendTimeHead
from models.send_time_reasons import WEEKDAYS, slot_reasons
from models.snapshot_columns import Edges
from models.task import Encoded, Evidence, Moment, Scorer, Task, common, on_device, rounded
from models.wide import Doubles, Floats, Ints
from schemas.channels import DEFAULT_PURPOSE, canonical
from schemas.predictions import Reason, SendSlot, SendTime
from schemas.snapshot import DAY_MS, Outcome, Snapshot, SnapshotKind

VALID_MS: Final = 7 * DAY_MS
LISTED: Final = 24
"""Slots of a record."""
DAY_HOURS: Final = 24
READ: Final = 2_048
"""Rows whose snapshots are read at once."""


class SendTimeTask(Task):
    """Evidence of every send whose answer is known; asked once a week of who is active, and in sweeps."""

    name = "send-time"
    question = "redemption"
    topic: ClassVar[str] = "predictions.send-time"
    kinds: ClassVar[frozenset[SnapshotKind]] = frozenset({"refresh", "horizon"})

    def head(self, hidden: int) -> SendTimeHead:
        return SendTimeHead(hidden)

    def lesson(self, evidence: Evidence) -> SendTimeLesson:
        said = [answered(outcome) for outcome in evidence.outcomes]
        labels = np.array([np.nan if label is None else label for label in said], dtype=np.float32)
        return SendTimeLesson(self.name, evidence, labels)

    def scorer(self, model: Model, version: str) -> SendTimeScorer:
        return SendTimeScorer(model, version)


def answered(outcome: Outcome) -> int | None:
    """Whether a message was opened or clicked by somebody, not by a machine; None where that is not known."""
    label = outcome.labels.get("response")
    return None if label is None or outcome.seen.candidate is None else int(label)  # type: ignore[arg-type]


class SendTimeLesson(ProbabilityLesson):
    """Messages, when and by which channel they were sent, and whether they were answered."""

    def __init__(self, name: str, evidence: Evidence, labels: Floats) -> None:
        rows = evidence.rows
        super().__init__(name, evidence, labels, outcomes.split(rows, labels))
        snapshots = [outcome.seen for outcome in evidence.outcomes]
        sent = [snapshot.candidate.channel if snapshot.candidate else None for snapshot in snapshots]
        at_s = rows.as_of_ms // 1000
        hour = hour_of_week(at_s, offsets_s(snapshots))
        parts = [visits_of(snapshots[begin : begin + READ]) for begin in range(0, len(snapshots), READ)]
        visits = SessionHours(
            np.concatenate([np.zeros((0, 24)), *(part.hours for part in parts)]),
            np.concatenate([np.zeros((0, 7)), *(part.days for part in parts)]),
        )
        fit = self.split.fit
        self.rates = rates_of(
            SessionHours(visits.hours[fit], visits.days[fit]),
            hour[fit],
            at_s[fit],
            [sent[row] for row in fit.tolist()],
            rows.customers[fit],
            labels[fit],
        )
        self._slots = np.full((len(rows), SLOT_SIZE), np.nan, dtype=np.float32)
        self._slots[:, OF_HOURS] = self.rates.of_hours(visits, at_s[:, None], hour[:, None])[:, 0]
        for begin in range(0, len(rows), READ):
            edges = Edges(snapshots[begin : begin + READ])
            own = sent[begin : begin + READ]
            channels = [self.rates.channel(name) for name in sorted({name for name in own if name is not None})]
            inputs = self.rates.of_channels(answers_of(edges, channels), channels)
            for place, channel in enumerate(channels):
                by = np.flatnonzero([name == channel.name for name in own])
                self._slots[begin + by[:, None], OF_CHANNELS] = inputs[by, place]

    def inputs(self, chosen: Ints) -> Floats:
        plain = usable(torch.from_numpy(self.rows.sequences.numbers[chosen])).numpy()
        return np.concatenate([plain, self._slots[chosen]], axis=1)

    def begin(self, model: Model, generator: np.random.Generator) -> nn.Module:
        layer = super().begin(model, generator)
        self._send_time_head.load_rates(self.rates)
        return layer

    def layer_of(self, model: Model) -> nn.Module:
        return self._send_time_head.deep

    @property
    def _send_time_head(self) -> SendTimeHead:
        head: Head = self.head
        assert isinstance(head, SendTimeHead)
        return head


class SendTimeAnswers:
    """A batch of customers against the next week's hours and some channels.

    Attributes:
        probability: calibrated, (B, HOURS, C).
        from_s: (B, HOURS) event time in seconds at which each hour begins.
        hour: (B, HOURS) local hour of the week.
        offset_s: (B,) what local time is ahead of UTC.
        of_hours: what the inputs of hours add to the logit, (B, HOURS, ·).
        of_channels: what those of channels add, (B, C, ·).
        visits: of the customers.
        answers: see :func:`models.send_slots.answers_of`.
    """

    def __init__(self, probability: Floats, from_s: Ints, hour: Ints, offset_s: Ints, of_hours: Floats,
                 of_channels: Floats, visits: SessionHours, answers: Doubles) -> None:  # fmt: skip
        self.probability, self.from_s, self.hour, self.offset_s = probability, from_s, hour, offset_s
        self.of_hours, self.of_channels, self.visits, self.answers = of_hours, of_channels, visits, answers


class SendTimeScorer(Scorer):
    """See :meth:`models.task.Task.scorer`."""

    def __init__(self, model: Model, version: str) -> None:
        head = model.heads[SendTimeTask.name]
        assert isinstance(head, SendTimeHead)
        self._model, self._head, self._version = model, head, version
        self.rates = head.rates()

    def __call__(self, encoded: Encoded, channels: Sequence[Channel]) -> SendTimeAnswers:
        """Score every hour of the week after each snapshot, by every channel."""
        snapshots = encoded.snapshots
        offset = offsets_s(snapshots)
        local_s = np.array([snapshot.as_of_ms // 1000 for snapshot in snapshots], dtype=np.int64) + offset
        first_s = (local_s // HOUR_S + 1) * HOUR_S - offset  # the next hour on the customer's clock
        from_s = first_s[:, None] + HOUR_S * np.arange(HOURS)
        hour = hour_of_week(from_s, offset[:, None])
        visits, answers = visits_of(snapshots), answers_of(Edges(snapshots), channels)
        inputs = self.rates.of_hours(visits, from_s, hour), self.rates.of_channels(answers, channels)
        with torch.inference_mode():
            logits, *parts = self._head(*on_device(self._model, encoded.embeddings, encoded.columns, *inputs))
            probability = torch.sigmoid(logits).cpu().numpy()
        of_hours, of_channels = (part.cpu().numpy() for part in parts)
        return SendTimeAnswers(probability, from_s, hour, offset, of_hours, of_channels, visits, answers)

    def of_sends(self, encoded: Encoded) -> Floats:
        """(B,) probability that each send of a batch is answered, at its own time and by its own channel."""
        snapshots = encoded.snapshots
        at_s = np.array([snapshot.as_of_ms // 1000 for snapshot in snapshots], dtype=np.int64)
        hour = hour_of_week(at_s, offsets_s(snapshots))
        sent = [(snapshot.candidate.channel or "") if snapshot.candidate else "" for snapshot in snapshots]
        names = sorted(set(sent))
        channels = [self.rates.channel(name) for name in names]
        inputs = (
            self.rates.of_hours(visits_of(snapshots), at_s[:, None], hour[:, None]),
            self.rates.of_channels(answers_of(Edges(snapshots), channels), channels),
        )
        with torch.inference_mode():
            logits, *_ = self._head(*on_device(self._model, encoded.embeddings, encoded.columns, *inputs))
            probability: Floats = torch.sigmoid(logits[:, 0]).cpu().numpy()
        return probability[np.arange(len(sent)), [names.index(name) for name in sent]]

    def predictions(self, encoded: Encoded, moment: Moment) -> Iterator[SendTime]:
        rows = [row for row, snapshot in enumerate(encoded.snapshots) if snapshot.kind in SendTimeTask.kinds]
        if not rows:
            return
        chosen = encoded.take(rows)
        allowed = [consented(snapshot) for snapshot in chosen.snapshots]
        channels = [self.rates.channel(name) for name in sorted(set().union(*allowed))]
        column = {channel.name: place for place, channel in enumerate(channels)}
        answers = self(chosen, channels)
        for row, snapshot in enumerate(chosen.snapshots):
            own = [column[name] for name in allowed[row]]
            chances = answers.probability[row][:, own]  # (HOURS, own channels)
            order = np.argsort(-chances, axis=None, kind="stable")  # of equal ones the earliest
            soon = order[order < DAY_HOURS * len(own)]
            best = [self._slot(answers, row, channels, own, place) for place in order[:LISTED].tolist()]
            yield SendTime(
                **common(SendTimeTask.name, snapshot, self._version, moment.now_ms),
                valid_until_ms=snapshot.as_of_ms + VALID_MS,
                probability=best[0].probability if best else 0.0,
                slots=best,
                soonest=self._slot(answers, row, channels, own, int(soon[0])) if best else None,
                utc_offset_minutes=int(answers.offset_s[row]) // 60,
                reason_codes=self._reasons(answers, row, best[0], divmod(int(order[0]), len(own)), own) if best else [],
            )

    def _slot(
        self, answers: SendTimeAnswers, row: int, channels: Sequence[Channel], own: Sequence[int], place: int
    ) -> SendSlot:
        """Of a customer, at a place among hours and the customer's own channels."""
        at, of_own = divmod(place, len(own))
        hour = int(answers.hour[row, at])
        return SendSlot(
            from_ms=1000 * int(answers.from_s[row, at]),
            channel=channels[own[of_own]].name,
            weekday=WEEKDAYS[hour // 24],
            hour=hour % 24,
            probability=rounded(answers.probability[row, at, own[of_own]]),
        )

    def _reasons(
        self, answers: SendTimeAnswers, row: int, slot: SendSlot, place: tuple[int, int], own: Sequence[int]
    ) -> list[Reason]:
        at, channel = place[0], own[place[1]]
        parts = np.concatenate([answers.of_hours[row, at], answers.of_channels[row, channel]])
        return slot_reasons(slot, parts, answers.visits.hours[row], answers.answers[row, channel], self.rates)


def consented(snapshot: Snapshot) -> list[str]:
    """Channels by which marketing may be sent, as the profile spells them, one name each; none where that is not known.

    Fails closed: neither who is never contacted nor who has not said yes is proposed anything.
    """
    if snapshot.holdout:
        return []
    found: dict[str, str] = {}
    for pair in snapshot.consent or ():
        channel, _, purpose = pair.rpartition(":")
        if channel and canonical(purpose) == DEFAULT_PURPOSE:
            found.setdefault(canonical(channel), channel)
    return sorted(found.values())
