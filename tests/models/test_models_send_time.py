"""Hours and channels: the customer's clock, shares that are drawn towards everybody's, and who gets no slot."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import model_worlds as worlds
from support.snapshots import edge_block

from models import training
from models.encoder import EncoderSize
from models.inference import Predictor
from models.local_time import hour_of_week, offset_s
from models.send_slots import visits_of
from models.send_time_head import SendTimeHead
from models.sequence import SequenceSize
from models.shares import drawn, strength_of
from models.task import Moment
from models.tasks.send_time import LISTED, SendTimeScorer, SendTimeTask, consented
from schemas.predictions import SendTime
from schemas.snapshot import DAY_MS, HOUR_MS, SESSION, Candidate, Outcome, Snapshot

SMALL = EncoderSize(hidden=32, layers=1, heads=2, intermediate=32, sequence=SequenceSize(recent=12, history=6, graph=8))
MOMENT = Moment(worlds.catalog(), 1, worlds.START_MS)
_MONDAY_S = 3 * 86_400


def on_clock(offset: int, starts_s: Sequence[int], as_of_ms: int = worlds.START_MS) -> Snapshot:
    """A customer whose clock is ahead of UTC by so many seconds, and whose sessions began then."""
    history = b"".join(
        SESSION.pack(at, 5, 1, 0.0, 0, (at + offset + _MONDAY_S) // 3600 % 168, 1, 0, 0, 0, 0, 0, 0, 0)
        for at in starts_s
    )
    last_s = max([*starts_s, 1])
    told: Snapshot = msgspec.structs.replace(
        worlds.snapshot(as_of_ms=as_of_ms),
        history=history,
        event_ts_ms=1000 * last_s,
        features=worlds.vector(
            hour_of_day=(last_s + offset) // 3600 % 24,
            day_of_week=((as_of_ms // 1000 + offset + _MONDAY_S) // 86_400) % 7,
            days_since_activity=3.0,
            mean_gap_days=6.0,
        ),
    )
    return told


whole_hours = st.integers(-11, 13).map(lambda hours: 3600 * hours)
times = st.lists(st.integers(worlds.START_MS // 1000 - 300 * 86_400, worlds.START_MS // 1000), max_size=30).map(sorted)


@given(whole_hours, times, st.integers(0, 7 * 24 * 60))
def test_a_clock_of_whole_hours_is_known_from_any_event(offset: int, starts_s: list[int], later_min: int) -> None:
    snapshot = on_clock(offset, starts_s, worlds.START_MS + 60_000 * later_min)
    found = offset_s(snapshot)
    if starts_s:
        # One event alone may leave two days open where the clock is far from UTC.
        assert (found - offset) % 86_400 == 0
        assert found == offset or abs(found) <= abs(offset)
        if abs(offset) <= 9 * 3600:
            assert found == offset


def test_half_hours_are_found_once_enough_is_known() -> None:
    starts_s = [worlds.START_MS // 1000 - day * 86_400 - 613 * day for day in range(20, 0, -1)]
    assert offset_s(on_clock(19_800, starts_s)) == 19_800  # India
    assert offset_s(on_clock(-12_600, starts_s)) == -12_600  # Newfoundland


@given(st.binary(min_size=160, max_size=160), st.integers(-(2**40), 2**45))
def test_any_bytes_give_an_offset(raw: bytes, event_ms: int) -> None:
    base = worlds.snapshot()
    features = (raw * 4)[: len(base.features)].ljust(len(base.features), b"\xff")
    wild = msgspec.structs.replace(base, features=features, history=raw, event_ts_ms=event_ms)
    assert -12 * 3600 <= offset_s(wild) <= 14 * 3600
    assert np.isfinite(visits_of([wild]).hours).all()


@given(st.integers(0, 30), st.integers(0, 30), st.floats(0.05, 0.95), st.floats(0.5, 100))
def test_a_drawn_share_lies_between_what_was_counted_and_the_base(yes: int, no: int, base: float, by: float) -> None:
    mean = np.array([base, 1 - base])
    ((share, other),) = drawn(np.array([[yes, no]], dtype=np.float64), mean, by)
    counted = yes / (yes + no) if yes + no else base
    assert min(counted, base) - 1e-9 <= share <= max(counted, base) + 1e-9
    assert share + other == pytest.approx(1)


def test_customers_who_differ_are_drawn_less() -> None:
    random = np.random.default_rng(0)
    base = np.array([0.3, 0.7])
    alike = random.binomial(20, 0.3, 400)
    apart = random.binomial(20, random.beta(0.6, 1.4, 400))
    strong, weak = (strength_of(np.stack([yes, 20 - yes], axis=1).astype(np.float64), base) for yes in (alike, apart))
    assert strong >= 128
    assert 1 <= weak <= 4


def rhythmic(count: int = 900) -> list[Outcome]:
    """Messages that are answered near the customer's hour, and on the channel of their liking."""
    random = np.random.default_rng(5)
    found: list[Outcome] = []
    for number in range(count):
        customer = int(random.integers(0, 120))
        peak, likes = (8, 20)[customer % 2], ("mail", "push")[customer // 2 % 2]
        hour, channel = int(random.integers(0, 24)), ("mail", "push")[int(random.integers(0, 2))]
        as_of_ms = worlds.START_MS + int(random.integers(0, 60)) * DAY_MS + hour * HOUR_MS
        chance = 0.05 + 0.4 * (abs(hour - peak) <= 3) + 0.45 * (channel == likes)
        made = willing(customer, peak, likes, as_of_ms)
        made = msgspec.structs.replace(made, kind="send", candidate=Candidate("0", None, None, channel))
        told = worlds.outcome(f"r{number}", made, number % 2)
        found.append(worlds.answered(told, opened=random.random() < chance, clicked=False))
    return found


def willing(customer: int, peak: int, likes: str, as_of_ms: int = worlds.START_MS) -> Snapshot:
    day_s = as_of_ms // 1000 - as_of_ms // 1000 % 86_400
    starts_s = [day_s - day * 86_400 + peak * 3600 + 60 * day for day in range(20, 0, -1)]
    other = "mail" if likes == "push" else "push"
    answers = edge_block(
        as_of_ms,
        {"received>channel": {likes: 10.0, other: 10.0}, "opened>channel": {likes: 8.0, other: 1.0}},
        often=True,
    )
    made: Snapshot = msgspec.structs.replace(
        on_clock(0, starts_s, as_of_ms),
        customer_id=str(customer),
        edges=(answers,),
        consent=("mail:marketing", "push:marketing", "sms:service"),
    )
    return made


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    ticks = itertools.count()
    model = training.train(
        rhythmic(), worlds.catalog(), worlds.vocabulary(), clock=lambda: float(next(ticks)),
        settings=training.TrainSettings(epochs=1, size=SMALL), tasks=(SendTimeTask(),),
    )  # fmt: skip
    return Predictor(model, "test", half=False)


def told(predictor: Predictor, snapshots: list[Snapshot]) -> list[SendTime]:
    asked = [msgspec.structs.replace(snapshot, kind="refresh") for snapshot in snapshots]
    return list(predictor.scorers["send-time"].predictions(predictor.encode(asked), MOMENT))  # type: ignore[arg-type]


@pytest.mark.parametrize(("peak", "likes"), [(8, "mail"), (8, "push"), (20, "mail"), (20, "push")])
def test_the_first_slots_are_the_customers_own_hour_and_channel(predictor: Predictor, peak: int, likes: str) -> None:
    (record,) = told(predictor, [willing(7, peak, likes)])
    assert len(record.slots) == LISTED
    assert {slot.channel for slot in record.slots[:5]} == {likes}
    assert all(abs(slot.hour - peak) <= 3 for slot in record.slots[:5])
    chances = [slot.probability for slot in record.slots]
    assert chances == sorted(chances, reverse=True)
    assert record.probability == chances[0]
    assert {reason.code for reason in record.reason_codes} & {"OWN_HOURS", "OWN_CHANNEL"}


def test_slots_lie_in_the_week_to_come_on_the_customers_clock(predictor: Predictor) -> None:
    snapshot = willing(7, 8, "mail")
    (record,) = told(predictor, [snapshot])
    for slot in record.slots:
        assert 0 < slot.from_ms - snapshot.as_of_ms <= 168 * HOUR_MS
        local = int(hour_of_week(np.array(slot.from_ms // 1000), np.array(60 * record.utc_offset_minutes)))
        assert slot.hour == local % 24
    assert record.soonest is not None
    assert record.soonest.from_ms - snapshot.as_of_ms <= DAY_MS


@pytest.mark.parametrize(
    ("consent", "holdout", "channels"),
    [
        (None, False, []),
        ((), False, []),
        (("mail:service",), False, []),
        (("mail:marketing", "push:marketing"), True, []),
        (("Mail:Marketing", "mail:marketing"), False, ["Mail"]),
        (("carrier pigeon:marketing",), False, ["carrier pigeon"]),
    ],
)
def test_only_what_was_agreed_to_is_proposed(
    predictor: Predictor, consent: tuple[str, ...] | None, holdout: bool, channels: list[str]
) -> None:
    asked = msgspec.structs.replace(willing(7, 8, "mail"), consent=consent, holdout=holdout)
    assert consented(asked) == channels
    (record,) = told(predictor, [asked])
    assert {slot.channel for slot in record.slots} == set(channels)
    assert (record.probability > 0) == bool(channels)
    assert (record.soonest is None) == (not channels)


def test_a_batch_says_what_one_by_one_says(predictor: Predictor) -> None:
    everyone = [willing(n, (8, 20)[n % 2], ("mail", "push")[n // 2 % 2]) for n in range(4)]
    everyone[1] = msgspec.structs.replace(everyone[1], consent=("push:marketing",))
    for snapshot, together in zip(everyone, told(predictor, everyone), strict=True):
        (alone,) = told(predictor, [snapshot])
        chances = [slot.probability for slot in together.slots]
        assert [slot.probability for slot in alone.slots] == pytest.approx(chances, abs=1e-4)


def test_rates_are_kept_with_the_head(predictor: Predictor) -> None:
    head, fresh = predictor.model.heads["send-time"], SendTimeHead(32)
    assert isinstance(head, SendTimeHead)
    fresh.load_rates(head.rates())
    for name, value in fresh.rates().__dict__.items():
        assert np.array_equal(value, getattr(head.rates(), name)), name
    scorer = predictor.scorers["send-time"]
    assert isinstance(scorer, SendTimeScorer)
    assert scorer.rates.channel("MAIL").place == scorer.rates.channel("mail").place >= 0
    assert scorer.rates.channel("nowhere").place == -1
