"""Judging: live predictions get the labels that the events say, whatever the order, and whoever they are."""

from __future__ import annotations

import random
import struct
from bisect import bisect_right
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.snapshots import plain_snapshot

from schemas.events import Clickstream
from schemas.features import NAMES
from schemas.snapshot import LIVE_KINDS, Outcome, Snapshot
from streams.core import counters
from streams.core.config import DAY_MS, CoreConfig
from streams.core.judge import Judge, ScoredPrediction
from streams.core.live_answers import Answer, LiveAnswers, Made, Silence
from streams.core.scoring import key_of
from streams.offline.ingest import replay_checkpoints
from streams.sources.datasets.complete_journey import CompleteJourney

UNTIL_MS = 1_498_867_200_000  # 2017-07-01
CONFIG = CoreConfig()
H, WEEK = CONFIG.churn_horizon_ms, CONFIG.horizon_every_ms


class Replayed:
    """Half a year of some households: what was asked of them, what became of it, and when they bought."""

    def __init__(self) -> None:
        journey = CompleteJourney.load()
        households = journey.households_for(4_000, None, UNTIL_MS)
        events = [
            (record.topic, record.key, record.body, record.event_ts_ms)
            for record in journey.events(None, UNTIL_MS, households)
            if record.body is not None
        ]
        self.bought_ms: dict[str, list[int]] = {}
        for _, customer_id, body, at_ms in events:
            if isinstance(body, Clickstream) and body.event == "purchase":
                self.bought_ms.setdefault(customer_id, []).append(at_ms)
        self.snapshots: list[Snapshot] = []
        self.outcomes: list[Outcome] = []
        for done in replay_checkpoints(events, CONFIG, until_ms=UNTIL_MS, checkpoint_events=16):
            self.snapshots += [*done.snapshots, *done.awaiting_label]
            self.outcomes += done.outcomes

    def churned(self, snapshot: Snapshot) -> int:
        bought_ms = self.bought_ms.get(snapshot.customer_id, [])
        at = bisect_right(bought_ms, snapshot.as_of_ms)
        return int(at == len(bought_ms) or bought_ms[at] > snapshot.as_of_ms + H)


@pytest.fixture(scope="module")
def replayed() -> Replayed:
    return Replayed()


def said_of(snapshot: Snapshot, probability: float = 0.5) -> ScoredPrediction:
    return ScoredPrediction(
        question_id=snapshot.question_id,
        probability=probability,
        customer_id=snapshot.customer_id,
        as_of_ms=snapshot.as_of_ms,
        snapshot_kind=snapshot.kind,
        horizon_days=H // DAY_MS,
        last_activity_ms=snapshot.last_activity_ms,
    )


def judged(replayed: Replayed, seed: int | None, kept: int = 1_000_000) -> Judge:
    """All of it, in its order or any other."""
    records: list[Snapshot | Outcome] = [*replayed.snapshots, *replayed.outcomes]
    if seed is not None:
        random.Random(seed).shuffle(records)
    judge = Judge(CONFIG, window=None, kept=kept)
    for record in records:
        if isinstance(record, Outcome):
            judge.answered(record)
        else:
            # The label goes where the probability is, so that pairs say which they are.
            judge.predicted("churn", said_of(record, replayed.churned(record)))
    judge.pass_time(UNTIL_MS)
    return judge


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_live_predictions_get_the_labels_that_the_events_say(replayed: Replayed, seed: int | None) -> None:
    pairs = judged(replayed, seed).scores["churn", "event"].pairs
    assert {label for _, label in pairs} == {0, 1}
    assert all(truth == label for truth, label in pairs)


def test_all_of_whom_an_outcome_must_follow_are_judged(replayed: Replayed) -> None:
    """Whatever became of them: else returns, which are known early and of everybody, would count for too much."""
    sure = {
        snapshot.question_id: replayed.churned(snapshot)
        for snapshot in replayed.snapshots
        if snapshot.kind == "event"
        and (active_ms := snapshot.last_activity_ms) is not None
        and snapshot.as_of_ms - active_ms <= CONFIG.churn_active_ms - WEEK
        and snapshot.as_of_ms + H + WEEK <= UNTIL_MS
    }
    pairs = judged(replayed, None).scores["churn", "event"].pairs
    assert sorted(label for _, label in pairs) == sorted(sure.values())
    assert sum(sure.values()) > 10


def test_where_there_are_too_many_an_even_sample_of_them_is_judged(replayed: Replayed) -> None:
    answers = LiveAnswers(active_ms=CONFIG.churn_active_ms, every_ms=WEEK, kept=60)
    for snapshot in replayed.snapshots:
        said = said_of(snapshot)
        if snapshot.kind == "event" and said.last_activity_ms is not None:
            made = Made(said.question_id, said.customer_id, snapshot.as_of_ms, said.last_activity_ms, H)
            if answers.judges(made):
                assert key_of(said.customer_id) < answers.share * 2**64
                assert answers.predicted(made) is None
            assert answers.open <= 60
    assert answers.share < 1


def test_a_horizon_and_a_sample_are_judged_by_their_own_outcomes(replayed: Replayed) -> None:
    scores = judged(replayed, None).scores
    for kind in ("horizon", "sample"):
        ended = [
            one for one in replayed.outcomes if one.head == "churn" and one.seen.kind == kind and one.due_ms <= UNTIL_MS
        ]
        assert sorted(label for _, label in scores["churn", kind].pairs) == sorted(one.label for one in ended)


def test_outcomes_of_a_warm_up_join_nothing(replayed: Replayed) -> None:
    """Nothing was predicted then: what is judged afterwards is the same with them and without."""
    middle_ms = UNTIL_MS - 90 * DAY_MS
    pairs = []
    for since_ms in (0, middle_ms):
        judge = Judge(CONFIG, window=None, kept=1_000_000)
        for outcome in replayed.outcomes:
            if outcome.as_of_ms >= since_ms:
                judge.answered(outcome)
        for snapshot in replayed.snapshots:
            if snapshot.as_of_ms >= middle_ms:
                judge.predicted("churn", said_of(snapshot))
        judge.pass_time(UNTIL_MS)
        pairs.append({key: score.pairs for key, score in judge.scores.items()})
    assert pairs[0] == pairs[1]
    assert len(pairs[0]["churn", "event"]) > 100


def seen(as_of_ms: int, active_ms: int) -> Snapshot:
    days = (as_of_ms - active_ms) / DAY_MS
    features = counters.pack([days] + [0.0] * 16, {}, as_of_ms)
    assert len(features) == 4 * len(NAMES)
    made: Snapshot = plain_snapshot(kind="horizon", as_of_ms=as_of_ms, features=features)
    return made


START_MS = 1_500_000_000_000
NO_NUMBER = struct.pack("<f", float("nan"))
TIMES = st.integers(0, 60 * 24).map(lambda hours: START_MS + hours * 3_600_000)


@given(active_ms=st.lists(TIMES, unique=True), begin_ms=TIMES, asked_ms=TIMES)
def test_an_outcome_gives_the_label_or_none(active_ms: Sequence[int], begin_ms: int, asked_ms: int) -> None:
    """By the definition, of any activity and any time that is asked for."""
    before = [at for at in active_ms if at <= asked_ms]
    if not before:
        return
    after = [at for at in active_ms if asked_ms < at <= asked_ms + H]
    answers = LiveAnswers(active_ms=10 * H, every_ms=WEEK, kept=10)
    silence = Silence(asked_ms, asked_ms + H, max(before), min(after, default=None))
    made = Made("q", "c", begin_ms, begin_ms - DAY_MS, H)
    assert answers.judges(made)
    assert answers.predicted(made) is None
    found = answers.resolved("c", silence, asked_ms + H)
    if begin_ms <= asked_ms <= begin_ms + WEEK:
        label = int(not any(begin_ms < at <= begin_ms + H for at in active_ms))
        assert found == [Answer("q", label, begin_ms + H + WEEK, begin_ms, "event")]
    else:
        assert found == []
    assert answers.resolved("c", silence, asked_ms + H) == [], "once is enough"
    assert answers.resolved("another", silence, asked_ms + H) == []


def test_what_tells_nothing_of_the_time_is_no_answer() -> None:
    answers = LiveAnswers(active_ms=CONFIG.churn_active_ms, every_ms=WEEK, kept=10)
    made = Made("q", "c", START_MS, START_MS, H)
    assert answers.predicted(made) is None
    assert answers.resolved("c", Silence(START_MS, START_MS + H, START_MS - DAY_MS, START_MS), START_MS) == []
    shorter = Silence(START_MS, START_MS + H - 1, START_MS - DAY_MS, None)
    assert answers.resolved("c", shorter, START_MS + H) == []
    assert answers.open == 3


@pytest.mark.parametrize(
    "made",
    [
        Made("q", "c", START_MS, None, H),
        Made("q", "c", START_MS, START_MS - CONFIG.churn_active_ms + WEEK - 1, H),
        Made("q", "c", START_MS, START_MS, WEEK - 1),
    ],
)
def test_of_whom_no_outcome_is_sure_to_follow_nothing_is_judged(made: Made) -> None:
    assert not LiveAnswers(active_ms=CONFIG.churn_active_ms, every_ms=WEEK, kept=10).judges(made)


def test_what_cannot_be_joined_any_more_is_forgotten_first() -> None:
    answers = LiveAnswers(active_ms=CONFIG.churn_active_ms, every_ms=WEEK, kept=10)
    for week in range(30):
        at_ms = START_MS + week * WEEK
        made = Made(f"q{week}", "c", at_ms, at_ms, H)
        assert answers.predicted(made) is None
        answers.resolved("d", Silence(at_ms, at_ms + H, at_ms, None), at_ms + H)
    assert answers.open <= 10
    assert answers.share == 1


def test_its_length_is_what_it_remembers() -> None:
    """Of each live prediction what waits for a horizon to end, of each of a horizon what waits for its outcome."""
    judge = Judge(CONFIG, window=None, kept=100)
    assert len(judge) == 0
    for number in range(5):
        asked = ScoredPrediction(f"h{number}", 0.5, f"c{number}", START_MS + 1, "horizon")
        judge.predicted("churn", asked)
    assert len(judge) == 5
    for number in range(3):
        live = ScoredPrediction(f"l{number}", 0.5, f"c{number}", START_MS, LIVE_KINDS[0], 28, START_MS)
        judge.predicted("churn", live)
    assert len(judge) > 5
    assert len(judge) == sum(len(score) + score.open for score in judge.scores.values()) + 3


def test_an_outcome_of_another_release_judges_its_own_question_alone() -> None:
    """One without features, and one whose label does not say when."""
    judge = Judge(CONFIG, window=None, kept=100)
    for kind in LIVE_KINDS:
        judge.predicted("churn", ScoredPrediction("live", 0.5, "c1", START_MS, kind, 28, START_MS))
    judge.predicted("churn", ScoredPrediction("asked", 0.5, "c1", START_MS + 1, "horizon"))
    plain = seen(START_MS + 1, START_MS - DAY_MS)
    for snapshot, labels in (
        (msgspec.structs.replace(plain, features=b""), {"churn": 1}),
        (msgspec.structs.replace(plain, features=NO_NUMBER + plain.features[4:]), {"churn": 1}),
        (plain, {"churn": 0}),
    ):
        judge.answered(
            Outcome(
                question_id="asked",
                head="churn",
                labels=labels,  # type: ignore[arg-type]
                due_ms=START_MS + 1 + H,
                resolved_ms=START_MS + 1 + H,
                customer_id=snapshot.customer_id,
                as_of_ms=snapshot.as_of_ms,
                snapshot=snapshot,
            )
        )
    judge.pass_time(START_MS + 100 * DAY_MS)
    assert {judged: len(score) for judged, score in judge.scores.items() if len(score)} == {("churn", "horizon"): 1}
