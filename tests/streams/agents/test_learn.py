"""learn: what it tells of the partitions it holds, and what it still knows after a rebalance."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Iterable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer
from support import model_worlds as worlds

from schemas import codec
from schemas.recalibrations import OutcomeTallies, WeekTally
from schemas.records import OutputRecord
from schemas.snapshot import LIVE_KINDS, Head, Outcome, SnapshotKind
from streams.agents import learn
from streams.agents.learn import LearnRole
from streams.core.config import DAY_MS, CoreConfig
from streams.core.judge import SCORED
from streams.runtime.app import build_app, serve
from streams.runtime.runner import Batch
from streams.telemetry.metrics import Metrics

CHURN = "predictions.churn"


class Published:
    """The topic ``recalibrations`` in memory: the newest record of each partition, and all of them."""

    def __init__(self) -> None:
        self.newest: dict[int, OutcomeTallies] = {}
        self.all: list[OutcomeTallies] = []

    def send_all(self, records: Iterable[OutputRecord]) -> None:
        for record in records:
            counted = msgspec.json.decode(record.value or b"", type=OutcomeTallies)
            assert (record.topic, record.key, record.partition) == (
                "recalibrations",
                b"%d" % counted.partition,
                counted.partition,
            )
            self.newest[counted.partition] = counted
            self.all.append(counted)

    def mark(self) -> int:
        return len(self.all)

    async def delivered(self, mark: int, timeout_s: float) -> None:
        assert mark <= len(self.all)

    def __call__(self, partitions: Collection[int]) -> dict[int, OutcomeTallies]:
        return {partition: self.newest[partition] for partition in partitions if partition in self.newest}


class Log:
    """A LearnRole and the topics it reads, in memory: reads where the role says, as the transport does."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, int], list[bytes]] = {}
        self.positions: dict[tuple[str, int], int] = {}
        self.read: list[tuple[str, int, int]] = []
        self.metrics = Metrics()
        self.now_ms = 0
        self.published = Published()
        self.kill()

    def kill(self) -> None:
        """A new worker in the place of the one before, which had no time to say anything."""
        self.positions = {}
        self.role = LearnRole(
            config=CoreConfig(),
            metrics=self.metrics,
            monotonic_ms=lambda: self.now_ms,
            outbox=self.published,
            counted=self.published,
        )

    def predict(self, partition: int, name: str, probability: float, day: int = 0, **more: Any) -> None:
        judged = {"question_id": name, "probability": probability, "as_of_ms": day * DAY_MS, "customer_id": "c1"}
        body = codec.json_encode(judged | {"snapshot_kind": "horizon"} | more)
        self.records.setdefault((CHURN, partition), []).append(body)

    def answer(
        self,
        partition: int,
        name: str,
        label: int,
        due: int,
        resolved: int | None = None,
        head: Head = "churn",
        kind: SnapshotKind = "horizon",
    ) -> None:
        seen = worlds.snapshot(as_of_ms=(due - 28) * DAY_MS, kind=kind)
        outcome = Outcome(
            question_id=name,
            head=head,
            labels={head: label},
            due_ms=due * DAY_MS,
            resolved_ms=(due if resolved is None else resolved) * DAY_MS,
            customer_id=seen.customer_id,
            as_of_ms=seen.as_of_ms,
            snapshot=msgspec.structs.replace(seen, question_id=name),
        )
        self.records.setdefault(("outcomes", partition), []).append(codec.msgpack_encode(outcome))

    def assign(self, *partitions: int) -> None:
        """As the runtime does it: everything is revoked before every rebalance."""
        held = {partition for _, partition in self.positions}
        if held:
            asyncio.run(self.role.on_revoked(held))
        # Whoever gets nothing is not called.
        self.positions = asyncio.run(self.role.on_assigned(set(partitions))) if partitions else {}

    def poll(self, most: Callable[[], int] = lambda: 1_000_000) -> None:
        for (topic, partition), position in self.positions.items():
            values = self.records.get((topic, partition), [])[position : position + most()]
            if values:
                records: list[Any] = [
                    SimpleNamespace(offset=position + at, value=value) for at, value in enumerate(values)
                ]
                asyncio.run(self.role.process(Batch(topic, partition, records)))
                self.read += [(topic, partition, record.offset) for record in records]
                self.positions[topic, partition] = position + len(values)
        self.tell()

    def tell(self) -> None:
        self.now_ms += 60_000
        for _ in SCORED:
            asyncio.run(self.role.idle())

    def told(self, head: str = "churn", kind: str = "horizon") -> tuple[float, float]:
        value = self.metrics.value
        return value(Metrics.live_auc_ratio, head=head, kind=kind), value(Metrics.live_auc_pairs, head=head, kind=kind)


@pytest.fixture
def log() -> Log:
    log = Log()
    for partition, pairs in {0: [(0.9, 1), (0.8, 0)], 1: [(0.7, 1), (0.1, 0)], 2: [(0.2, 1), (0.3, 0)]}.items():
        for at, (probability, label) in enumerate(pairs):
            log.predict(partition, f"{partition}-{at}", probability)
            log.answer(partition, f"{partition}-{at}", label, due=28)
    return log


def test_the_auc_is_of_all_held_partitions_together(log: Log) -> None:
    log.assign(0, 1)
    log.poll()
    assert log.told() == (0.75, 4)
    assert log.told("redemption", "send") == (0.0, 0)


def test_partitions_that_stay_are_read_on_where_they_were(log: Log) -> None:
    log.assign(0, 1)
    log.poll()
    read = len(log.read)
    log.predict(0, "next", 0.95, day=1)
    log.answer(0, "next", 1, due=29)
    log.assign(0, 2)
    assert log.positions == {
        ("outcomes", 0): 2, (CHURN, 0): 2, ("predictions.redemption", 0): 0,
        ("outcomes", 2): 0, (CHURN, 2): 0, ("predictions.redemption", 2): 0,
    }  # fmt: skip
    log.poll()
    assert sorted(log.read[read:]) == sorted(
        [("outcomes", 0, 2), (CHURN, 0, 2), *[(topic, 2, at) for topic in ("outcomes", CHURN) for at in (0, 1)]]
    )
    # 0.9, 0.95 and 0.2 against 0.8 and 0.3
    ratio, pairs = log.told()
    assert ratio == pytest.approx(4 / 6)
    assert pairs == 5


def test_a_partition_that_comes_back_begins_afresh(log: Log) -> None:
    log.assign(0, 1)
    log.poll()
    log.assign(1)
    log.poll()
    assert log.told() == (1.0, 2)
    log.assign(0, 1)
    assert log.positions["outcomes", 0] == log.positions[CHURN, 0] == 0
    assert log.positions["outcomes", 1] == log.positions[CHURN, 1] == 2
    log.poll()
    assert log.told() == (0.75, 4)


def test_a_prediction_meets_its_outcome_across_a_rebalance(log: Log) -> None:
    log.assign(0)
    log.predict(0, "waiting", 0.99)
    log.poll()
    log.answer(0, "waiting", 0, due=28)
    log.assign(0, 1)
    log.poll()
    assert log.told()[1] == 5


def test_who_loses_everything_tells_nothing(log: Log) -> None:
    log.assign(0, 1)
    log.poll()
    log.assign()
    log.tell()
    assert log.told()[1] == 0
    log.assign(0)
    assert log.positions["outcomes", 0] == 2, "it was never said that it was lost"
    log.poll()
    assert log.told()[1] == 2


def test_what_is_read_again_changes_nothing(log: Log) -> None:
    log.assign(0, 1)
    log.poll()
    log.positions = dict.fromkeys(log.positions, 0)  # out of range: the consumer began at the beginning
    log.poll()
    assert log.told() == (0.75, 4)


def test_a_partition_that_is_behind_counts_by_its_own_time(log: Log) -> None:
    """Of partition 1 only what was answered at once is read so far: it must wait, however late it is elsewhere."""
    log.answer(0, "elsewhere", 1, due=400)
    for at in range(10):
        log.predict(1, f"early {at}", 0.9, day=30)
        log.answer(1, f"early {at}", 0, due=58, resolved=31)
    log.assign(0, 1)
    log.poll()
    assert log.told() == (0.75, 4)
    log.predict(1, "stayed away", 0.1, day=30)
    log.answer(1, "stayed away", 1, due=58)
    log.poll()
    assert log.told()[1] == 4 + 11


def test_all_partitions_share_one_window(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learn, "_WINDOW", 4)
    for partition in (0, 1):
        for at in range(5):
            log.predict(partition, f"{partition}-more-{at}", 0.5, day=1)
            log.answer(partition, f"{partition}-more-{at}", at % 2, due=29)
    log.assign(0)
    log.poll()
    assert log.told() == (0.5, 4)
    log.assign(0, 1)
    log.poll()
    assert log.told()[1] == 4


def test_nonsense_is_counted(log: Log) -> None:
    log.predict(0, "unheard of", 0.5, snapshot_kind="dream")
    log.records[CHURN, 0].append(b"{")
    log.records["outcomes", 0].append(b"\xff")
    log.assign(0)
    log.poll()
    assert log.told()[1] == 2
    for topic in (CHURN, "outcomes"):
        assert log.metrics.value(Metrics.dead_letters_total, topic=topic, reason="malformed") == 1
    assert log.positions[CHURN, 0] == 4
    log.assign(0, 1)
    assert log.positions[CHURN, 0] == 4, "they are not read again"


def test_samples_are_judged_beside_horizons(log: Log) -> None:
    for name, label in {"sampled": 1, "another": 0}.items():
        log.predict(0, name, 0.05 + label / 2, snapshot_kind="sample")
        log.answer(0, name, label, due=28, kind="sample")
    log.assign(0)
    log.poll()
    assert log.told() == (1.0, 2)
    assert log.told(kind="sample") == (1.0, 2)


@pytest.mark.parametrize("kind", LIVE_KINDS)
def test_live_predictions_are_judged_by_the_outcomes_that_follow(log: Log, kind: str) -> None:
    """Of customer "1", the test world's: asked three days after the last activity, on day 30 and again on day 70."""
    live: dict[str, Any] = {"customer_id": "1", "snapshot_kind": kind, "horizon_days": 28}
    log.predict(0, "before", 0.1, day=26, last_activity_ms=20 * DAY_MS, **live)
    log.predict(0, "after", 0.8, day=68, last_activity_ms=67 * DAY_MS, **live)
    log.predict(0, "asleep", 0.5, day=68, last_activity_ms=46 * DAY_MS, **live)
    log.predict(0, "never active", 0.5, day=68, **live)
    log.answer(0, "asked", 1, due=58)
    log.answer(0, "again", 1, due=98)
    log.answer(1, "time goes on", 1, due=68 + 28 + 6)
    log.assign(0)
    log.poll()
    assert log.told(kind=kind)[1] == 1, "the end of a horizon and of the week in which an outcome must follow"
    log.answer(0, "later", 1, due=68 + 28 + 7)
    log.poll()
    assert log.told(kind=kind) == (1.0, 2)
    measured = {
        metric.name: log.metrics.value(metric, head="churn", kind=kind)
        for metric in (Metrics.live_predicted_ratio, Metrics.live_observed_ratio)
    }
    assert measured == {"live_predicted_ratio": pytest.approx(0.45), "live_observed_ratio": 0.5}
    assert log.metrics.value(Metrics.live_log_loss_nats, head="churn", kind=kind) > 0.1
    assert log.metrics.value(Metrics.live_calibration_error_ratio, head="churn", kind=kind) == pytest.approx(0.15)


def test_one_question_has_an_answer_for_each_head(log: Log) -> None:
    """Both outcomes name the question alone: what one head said must not be judged by the other's label."""
    log.predict(0, "both", 0.05)
    log.answer(0, "both", 0, due=28)
    log.answer(0, "both", 1, due=28, head="redemption", kind="send")
    body = codec.json_encode(
        {"question_id": "both", "probability": 0.05, "snapshot_kind": "send", "customer_id": "1", "as_of_ms": 0}
    )
    log.records["predictions.redemption", 0] = [body]
    log.assign(0)
    log.poll()
    assert log.told() == (1.0, 3)
    assert log.told("redemption", "send")[1] == 1


def test_what_two_models_say_of_one_question_is_judged_once(log: Log) -> None:
    log.predict(0, "0-0", 0.1, prediction_id="of another model")
    log.assign(0)
    log.poll()
    assert log.told() == (1.0, 2), "the first one counts"


def lived(log: Log, seed: int) -> Log:
    """Half a year of partition 0, known to ``log``: some ask and are answered weekly, some live, some twice."""
    draws = random.Random(seed)
    for day in range(0, 180, 3):
        for customer in range(3):
            name, last_ms = f"{day}-{customer}", (day - draws.choice((1, 40))) * DAY_MS
            kind: SnapshotKind = draws.choice(("horizon", "sample", "event"))
            live: dict[str, Any] = {"customer_id": "1", "horizon_days": 28, "last_activity_ms": last_ms}
            more = live if kind == "event" else {}
            for _ in range(draws.choice((1, 1, 1, 2))):
                log.predict(0, name, draws.random(), day=day, snapshot_kind=kind, model_version="pg-1", **more)
            if kind != "event":
                label = draws.randrange(2)
                resolved = day + 28 if label else day + draws.randrange(28)
                log.answer(0, name, label, due=day + 28, resolved=resolved, kind=kind)
    return log


def read_all(log: Log, draws: random.Random | None = None, deaths: int = 0) -> list[WeekTally]:
    """Everything read, in steps where they are drawn, with so many deaths in between; what is published in the end."""
    total = sum(len(values) for values in log.records.values())
    log.assign(0)
    while sum(log.positions.values()) < total:
        if draws is None:
            log.poll()
            continue
        log.poll(lambda: draws.choice((0, 1, 5, 40)))
        if deaths and draws.random() < 0.2:
            deaths -= 1
            log.kill()
            log.assign(0)
    log.poll()
    return log.published.newest[0].tallies


@pytest.mark.parametrize("seed", range(8))
def test_what_was_counted_is_the_same_wherever_the_worker_was_killed(seed: int) -> None:
    whole = read_all(lived(Log(), seed))
    assert sum(count for tally in whole for count, _ in tally.bins.values()) > 60
    assert {tally.snapshot_kind for tally in whole} == {"horizon", "sample", "event"}
    draws = random.Random(seed)
    assert read_all(lived(Log(), seed), draws) == whole
    assert read_all(lived(Log(), seed), draws, deaths=5) == whole


def test_a_former_owner_that_writes_late_makes_nothing_wrong() -> None:
    whole = read_all(lived(Log(), 1))
    log = lived(Log(), 1)
    read_all(log, random.Random(1))
    for early in log.published.all[:: max(1, len(log.published.all) // 4)]:
        log.published.newest[0] = early
        log.kill()
        assert read_all(log) == whole


def test_nothing_is_published_of_a_log_that_is_read_again_until_all_of_it_is(log: Log) -> None:
    log = lived(Log(), 2)
    read_all(log)
    told = len(log.published.all)
    log.kill()
    log.assign(0)
    log.poll(lambda: 20)
    assert len(log.published.all) == told
    read_all(log)
    assert len(log.published.all) == told, "it says what was said"


def test_what_is_counted_is_published_once_a_minute_at_most() -> None:
    log = Log()
    log.assign(0)
    for at in range(4):
        log.predict(0, f"{at}", 0.5)
        log.answer(0, f"{at}", 1, due=28)
        log.poll()
        log.now_ms -= 40_000
    assert len(log.published.all) == 2
    log.tell()
    assert [one.next_offsets["outcomes"] for one in log.published.all] == [1, 4, 4][: len(log.published.all)]


def test_outcomes_count_for_what_the_model_said_and_not_for_what_was_published(log: Log) -> None:
    """Or recalibration would feed on itself."""
    log = Log()
    applied = {"model_probability": 0.5, "low_slope": 1.0, "high_slope": 1.0, "shift": 3.0}
    log.predict(0, "asked", 0.953, model_version="pg-1", recalibration=applied)
    log.answer(0, "asked", 1, due=28)
    log.assign(0)
    log.poll()
    (tally,) = log.published.newest[0].tallies
    assert tally == WeekTally(head="churn", model_version="pg-1", snapshot_kind="horizon", week=0, bins={0: (1, 1)})
    value = log.metrics.value
    assert value(Metrics.live_calibration_error_ratio, head="churn", kind="horizon") == pytest.approx(0.047)
    assert value(Metrics.live_model_calibration_error_ratio, head="churn", kind="horizon") == pytest.approx(0.5)


def test_a_drift_is_told_of() -> None:
    log = Log()
    for at in range(4_000):
        day = 7 * (at // 500)
        log.predict(0, f"{at}", 0.1, day=day, model_version="pg-1")
        log.answer(0, f"{at}", int(at % 10 < (1 if day < 28 else 6)), due=day + 28)
    log.assign(0)
    log.poll()
    value = log.metrics.value
    assert value(Metrics.live_error_drift_ratio, head="churn", kind="horizon") > 1
    assert value(Metrics.live_input_drift_ratio, head="churn", kind="horizon") < 1
    assert value(Metrics.live_error_drift_ratio, head="churn", kind="sample") == 0


class Reader(LearnRole):
    """Remembers what it was given to read."""

    def __init__(self) -> None:
        published = Published()
        super().__init__(
            config=CoreConfig(),
            metrics=Metrics(),
            monotonic_ms=lambda: int(time.time() * 1000),
            outbox=published,
            counted=published,
        )
        self.assigned: list[set[int]] = []
        self.read: list[tuple[str, int, int]] = []

    async def on_assigned(self, partitions: set[int]) -> dict[tuple[str, int], int]:
        self.assigned.append(partitions)
        return await super().on_assigned(partitions)

    async def process(self, batch: Batch) -> None:
        self.read += [(batch.topic, batch.partition, record.offset) for record in batch.records]
        await super().process(batch)

    def pairs(self, held: set[int]) -> int:
        return sum(len(self._known[partition].judge.scores["churn", "horizon"]) for partition in held)


def test_on_a_broker_a_worker_that_joins_makes_nobody_read_again(broker: Any, make_topics: Any) -> None:
    prefix, partitions, count = make_topics(partitions=3), 3, 20
    producer = Producer({"bootstrap.servers": broker.bootstrap, "log_level": 0})
    log = Log()
    for partition in range(partitions):
        for at in range(count):
            log.predict(partition, f"{partition}-{at}", 0.5)
            log.answer(partition, f"{partition}-{at}", at % 2, due=28)

    def publish(half: slice) -> None:
        for (topic, partition), values in log.records.items():
            for value in values[half]:
                producer.produce(prefix + topic, value, b"k", partition)
        assert producer.flush(30) == 0

    async def main() -> None:
        stops = [asyncio.Event(), asyncio.Event()]
        first, second = Reader(), Reader()

        def start(role: Reader, stop: asyncio.Event) -> asyncio.Task[int]:
            app = build_app(role, bootstrap=broker.bootstrap, prefix=prefix, session_timeout_ms=6_000)
            return asyncio.create_task(serve(app, stop=stop))

        async def until(condition: Callable[[], bool]) -> None:
            deadline = time.monotonic() + 40
            while not condition():
                assert time.monotonic() < deadline, (first.assigned, second.assigned, len(first.read))
                await asyncio.sleep(0.05)

        publish(slice(0, count // 2))
        one = start(first, stops[0])
        await until(lambda: len(first.read) == partitions * count)
        two = start(second, stops[1])
        await until(lambda: len(first.assigned) > 1 and len(second.assigned) > 0)
        await until(lambda: len(second.read) >= len(second.assigned[-1]) * count)
        publish(slice(count // 2, count))
        kept, given = first.assigned[-1], second.assigned[-1]
        assert kept | given == {0, 1, 2} and not kept & given and kept and given
        await until(lambda: first.pairs(kept) == count * len(kept) and second.pairs(given) == count * len(given))
        for stop, task in zip(stops, (one, two), strict=True):
            stop.set()
            assert await task == 0
        for partition in kept:
            assert sorted(read for read in first.read if read[1] == partition) == sorted(
                (topic, partition, offset) for topic in ("outcomes", CHURN) for offset in range(count)
            )

    asyncio.run(main())
