"""Hours of the week and channels as inputs: when a customer is there, what they answer, and what people answer.

Everything is a share that is drawn towards everybody's (:mod:`models.shares`), so that a customer of whom nothing is
known is asked at the hour and by the channel of most answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from models.entities import word_of
from models.local_time import WEEK_S
from models.shares import STRENGTHS, drawn, likeliest, likelihoods, strength_of
from models.snapshot_columns import SESSION_DTYPE, Edges
from models.wide import Doubles, Floats, Ints
from schemas.channels import canonical
from schemas.snapshot import Snapshot
from schemas.words import hash_of

HOURS: Final = 168
SLOT: Final[dict[str, str]] = {
    "own_hour": "the customer's share of visits about that hour of the day, against an even one, log",
    "own_day": "the same of the day of the week",
    "people_hour": "share of messages of that hour of the week that are answered, against all, log odds",
    "own_channel": "share of messages by the channel that the customer answered, log odds",
    "people_channel": "the same of everybody, against all channels",
    "season_sin": "time of the year, sine; NaN where less than a year is known",
    "season_cos": "the same, cosine",
}
SLOT_NAMES: Final = tuple(SLOT)
SLOT_SIZE: Final = len(SLOT_NAMES)
OF_HOURS: Final = [at for at, name in enumerate(SLOT_NAMES) if not name.endswith("channel")]
OF_CHANNELS: Final = [at for at, name in enumerate(SLOT_NAMES) if name.endswith("channel")]

WIDTH_HOURS: Final = 1.5
"""Of the bell that spreads a visit over the hours about it."""
YEAR_S: Final = 365.2425 * 86_400
MOST_CHANNELS: Final = 32
MOST_SPELLINGS: Final = 128
_hour = np.arange(24)
_apart = np.minimum((_hour[:, None] - _hour) % 24, (_hour - _hour[:, None]) % 24)
_bell = np.exp(-0.5 * (_apart / WIDTH_HOURS) ** 2)
SPREAD: Final[Doubles] = _bell / _bell.sum(1, keepdims=True)
"""(24, 24), rows sum to 1."""


@dataclass
class SessionHours:
    """When customers' sessions began, row by row."""

    hours: Doubles
    """(B, 24) by local hour of the day."""
    days: Doubles
    """(B, 7) by day of the week, from Monday."""


def visits_of(snapshots: Sequence[Snapshot]) -> SessionHours:
    """Of the last year or so; a month that is pooled counts once, at the hour of most of its sessions."""
    flat = np.frombuffer(b"".join([snapshot.history for snapshot in snapshots]), dtype=SESSION_DTYPE)
    sizes = [len(snapshot.history) // SESSION_DTYPE.itemsize for snapshot in snapshots]
    row = np.repeat(np.arange(len(snapshots)), sizes)
    known = np.flatnonzero((flat["sessions"] > 0) & (flat["local_hour"] < HOURS))
    hour, row = flat["local_hour"][known].astype(np.int64), row[known]
    weight = np.ones(len(known))
    hours = np.bincount(row * 24 + hour % 24, weight, minlength=24 * len(snapshots)).reshape(-1, 24)
    days = np.bincount(row * 7 + hour // 24, weight, minlength=7 * len(snapshots)).reshape(-1, 7)
    return SessionHours(np.asarray(hours, dtype=np.float64), np.asarray(days, dtype=np.float64))


@dataclass(frozen=True)
class Channel:
    """A channel by whatever name."""

    name: str
    words: frozenset[int]
    """Of edges to it, one for each spelling."""
    place: int
    """Among the rates; -1 where no message of it was learned from."""


def answers_of(edges: Edges, channels: Sequence[Channel]) -> Doubles:
    """(B, C, 2): messages by each channel that a customer answered, and did not."""
    found = np.zeros((edges.customers, len(channels), 2))
    received, opened, clicked = (edges.of(f"{what}>channel") for what in ("received", "opened", "clicked"))
    for place, channel in enumerate(channels):
        words = np.fromiter(channel.words, dtype=np.uint32, count=len(channel.words))
        sent, opens, clicks = (
            np.bincount(of.customer, np.where(np.isin(of.words, words), of.count, 0), minlength=of.customers)
            for of in (received, opened, clicked)
        )
        answered = np.minimum(np.maximum(opens, clicks), sent)
        found[:, place, 0], found[:, place, 1] = answered, sent - answered
    return found


@dataclass
class SlotRates:
    """What everybody does, and how strongly customers are drawn towards it. All of it is kept with the model."""

    hours: Doubles
    """(24,) shares of visits."""
    days: Doubles
    """(7,)"""
    answered: Doubles
    """(168,) log odds of an answer by hour of the week, against all."""
    rate: float
    """Of messages that are answered."""
    channel_rates: Doubles
    """(MOST_CHANNELS,) the same of each channel; of the places behind the last one, that of all."""
    channels: dict[int, int]
    """Place among them, by the word of the channel's canonical name."""
    spellings: dict[int, int]
    """Word of an edge → place."""
    hours_strength: float
    days_strength: float
    channel_strength: float
    seasonal: bool
    """Whether messages of a whole year were learned from."""

    def channel(self, name: str) -> Channel:
        """By any spelling."""
        place = self.channels.get(_word(canonical(name)), -1)
        words = {_word(name), _word(canonical(name))} | {word for word, at in self.spellings.items() if at == place}
        return Channel(name, frozenset(words), place)

    def of_hours(self, visits: SessionHours, at_s: Ints, hour: Ints) -> Floats:
        """Inputs of hours, (B, S, len(OF_HOURS)).

        Args:
            at_s: (B, S) event time of each slot in seconds.
            hour: (B, S) local hour of the week.
        """
        own_hours = drawn(visits.hours, self.hours, self.hours_strength) @ SPREAD
        own_days = drawn(visits.days, self.days, self.days_strength)
        row = np.arange(len(hour))[:, None]
        year = 2 * np.pi * at_s / YEAR_S if self.seasonal else np.full(hour.shape, np.nan)
        found = [
            np.log(24 * own_hours[row, hour % 24]),
            np.log(7 * own_days[row, hour // 24]),
            self.answered[hour],
            np.sin(year),
            np.cos(year),
        ]
        return np.stack(found, axis=-1).astype(np.float32)

    def of_channels(self, answers: Doubles, channels: Sequence[Channel]) -> Floats:
        """Inputs of channels, (B, C, len(OF_CHANNELS)); ``answers`` from :func:`answers_of`."""
        places = [channel.place for channel in channels]
        rates = np.array([self.channel_rates[place] if place >= 0 else self.rate for place in places])
        base = np.stack([rates, 1 - rates], axis=-1)  # (C, 2)
        share = drawn(
            answers.reshape(-1, 2), np.broadcast_to(base, answers.shape).reshape(-1, 2), self.channel_strength
        )
        own = _log_odds(share[:, 0]).reshape(answers.shape[:2])
        people = np.broadcast_to(_log_odds(rates) - _log_odds(np.array(self.rate)), own.shape)
        return np.stack([own, people], axis=-1).astype(np.float32)


def rates_of(
    visits: SessionHours, hour: Ints, at_s: Ints, sent: Sequence[str | None], customer: Ints, labels: Floats
) -> SlotRates:
    """Everybody's rates, from messages whose answer is known.

    Args:
        visits: of the customers as of each message, (N, ·).
        hour: (N,) local hour of the week at which each was sent.
        at_s: (N,) when, in seconds.
        sent: by which channel, as its producer spelled it.
        customer: (N,) number of the customer.
        labels: (N,) whether it was answered.
    """
    newest = np.unique(customer[::-1], return_index=True)[1]
    newest = len(customer) - 1 - newest  # each customer's last row has all that is known of their visits
    shares = [_mean_share(of[newest]) for of in (visits.hours, visits.days)]
    hours, days = shares[0] @ SPREAD, shares[1]
    yes = labels.astype(np.float64)
    rate = float(np.clip(yes.mean(), 1e-3, 1 - 1e-3)) if len(yes) else 0.5
    overall = np.array([rate, 1 - rate])
    by_week = _counted(hour, yes, HOURS)
    by_day = by_week.reshape(7, 24, 2).sum(0)
    of_day = drawn(by_day, overall, strength_of(by_day, overall))
    base = np.tile(of_day, (7, 1))
    of_week = drawn(by_week, base, strength_of(by_week, base))
    names = sorted({canonical(name) for name in sent if name is not None})[:MOST_CHANNELS]
    channels = {_word(name): place for place, name in enumerate(names)}
    spellings: dict[int, int] = {}
    for name in sorted({name for name in sent if name is not None}):
        if len(spellings) < MOST_SPELLINGS and (at := channels.get(_word(canonical(name)))) is not None:
            spellings[_word(name)] = at
    place = np.array(
        [-1 if name is None else channels.get(_word(canonical(name)), -1) for name in sent], dtype=np.int64
    )
    by_channel = _counted(place[place >= 0], yes[place >= 0], MOST_CHANNELS)
    rates = drawn(by_channel, overall, strength_of(by_channel[: max(1, len(names))], overall))
    likely = np.zeros(len(STRENGTHS))
    for at in range(len(names)):
        chosen = place == at
        _, member = np.unique(customer[chosen], return_inverse=True)
        likely += likelihoods(
            _counted(member.astype(np.int64), yes[chosen], int(member.max(initial=-1)) + 1), rates[at]
        )
    return SlotRates(
        hours=hours,
        days=days,
        answered=_log_odds(of_week[:, 0]) - _log_odds(np.array(rate)),
        rate=rate,
        channel_rates=rates[:, 0],
        channels=channels,
        spellings=spellings,
        hours_strength=strength_of(visits.hours[newest], hours),
        days_strength=strength_of(visits.days[newest], days),
        channel_strength=likeliest(likely),
        seasonal=bool(len(at_s)) and int(at_s.max() - at_s.min()) >= YEAR_S - WEEK_S,
    )


def _counted(place: Ints, yes: Doubles, size: int) -> Doubles:
    """(size, 2): answered and not, by place."""
    answered = np.bincount(place, yes, minlength=size)
    return np.stack([answered, np.bincount(place, minlength=size) - answered], axis=-1)


def _mean_share(counts: Doubles) -> Doubles:
    """Of everybody, (K,), even where nothing was counted; each customer counts as one, the busy as the others."""
    total = counts.sum(1, keepdims=True)
    shares = counts[total[:, 0] > 0] / total[total[:, 0] > 0]
    size = counts.shape[1]
    return np.asarray((shares.sum(0) + 1 / size) / (len(shares) + 1))


def _log_odds(share: Doubles) -> Doubles:
    share = np.clip(share, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(share) - np.log1p(-share))


def _word(channel: str) -> int:
    return int.from_bytes(hash_of(word_of("channel", channel)), "little")
