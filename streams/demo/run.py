"""The demo's stages: model, broker, topics, warm-up without the model, workers, replay, drain, sums."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import msgspec

from schemas.errors import ModelRefused, Stop
from streams.brokers.processes import Child, free_port, tail_of, worker_environment
from streams.core.config import CoreConfig
from streams.core.quality import Quality
from streams.demo.collector import Collector, percentile
from streams.demo.scrape import WorkerNumbers, scrape
from streams.demo.view import View, open_view
from streams.kafka import admin
from streams.kafka.clients import ClientConfig
from streams.kafka.skip import skip_to_end
from streams.sources.datasets.complete_journey import CompleteJourney
from streams.sources.datasets.record import SourceRecord
from streams.sources.pacing import Pacer
from streams.sources.replay import OrderedProducer, ReplayReport, publish_catalog, replay

SPLIT_MS: Final = 1_498_867_200_000  # 2017-07-01: trained on what came before, measured on what comes after
END_MS: Final = 1_514_764_800_000  # 2018-01-01
PARTITIONS: Final = 4
CHURN_AUC_FLOOR: Final = 0.80
_ENOUGH_SCORED: Final = 2_000

_TRAIN_EVENTS_SMALL: Final = 100_000
_STALL_S: Final = 90.0
_QUIET_S: Final = 1.5
_QUEUE_AIM: Final = 48
_HEARTBEAT_MS: Final = 6 * 3_600_000
_RATES: Final = (400.0, 20_000.0)
_WARM_ROLES: Final = (("ingest", "entities"),)
_LIVE_ROLES: Final = (("ingest", "entities", "learn"), ("encode",))
"""A process for encode: in one, a model that computes all the time and the event loop wait for each other's interpreter
lock."""
_REPLAY_S: Final = 600.0  # fresh or not, the demo ends


class EncoderShare(msgspec.Struct, frozen=True, kw_only=True):
    """A head with and without the encoder, AUC, and the embedding alone."""

    without: float | None
    beside: float | None
    alone: float | None
    gate: float


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The last line of ``pulsegraph demo --json``."""

    events: int
    applied: int
    duplicates: int
    dead_lettered: int
    predictions: dict[str, int]
    events_per_s: float
    freshness_p50_ms: float | None
    freshness_p95_ms: float | None
    churn_auc: float | None
    wall_s: float
    churn_scored: int
    redemption_auc: float | None
    redemption_scored: int
    snapshots: int
    encoded: int
    coalesced: int
    late: int
    model_version: str
    broker: str
    warm_events: int
    """The first half's, which state was warmed up with; what stands above is of the second half alone."""
    warm_applied: int
    warm_duplicates: int
    warm_dead_lettered: int
    warm_snapshots: int
    """Passed over: no prediction was made of them."""
    warm_s: float
    quality: dict[str, dict[str, Quality]]
    """Head -> kind of snapshot -> how good its predictions were."""
    encoder: dict[str, EncoderShare]
    """Head -> what the encoder adds, by the model's card: on customers or campaigns that training did not see."""

    @property
    def problems(self) -> list[str]:
        """What does not add up; empty for a demo that worked."""
        found = []
        if self.events != self.applied + self.duplicates + self.dead_lettered:
            found.append("events produced are not applied + duplicates + dead-lettered")
        if self.warm_events != self.warm_applied + self.warm_duplicates + self.warm_dead_lettered:
            found.append("events of the warm-up are not applied + duplicates + dead-lettered")
        if self.snapshots != self.encoded + self.coalesced:
            found.append("snapshots emitted are not encoded + coalesced")
        if self.churn_auc is not None and self.churn_scored >= _ENOUGH_SCORED and self.churn_auc < CHURN_AUC_FLOOR:
            found.append(f"the live churn AUC {self.churn_auc:.3f} is below {CHURN_AUC_FLOOR}")
        return found


def say(text: str) -> None:
    """One line of progress, where it does not disturb a JSON reader."""
    print(text, file=sys.stderr, flush=True)


def ensure_model(cache: Path, small: bool, fresh: bool, bar: Callable[[], object]) -> Path:
    """The demo's model directory, trained on the first half of the year where none is cached.

    Args:
        small: train on a part of the households and for a shorter time; a full model is taken where there is one.
        fresh: train even though a model is cached.
        bar: opens a progress bar, see :func:`streams.telemetry.progress_bars.training_bar`.
    """
    from models.saved_model import load
    from models.training import RECIPE

    for name in ("model", "model-small") if small else ("model",):
        directory = cache / name
        if directory.exists() and not fresh:
            try:
                _, card = load(directory)
            except ModelRefused as refused:
                say(f"the cached model is trained again: {refused}")
                continue
            if card.report.recipe == RECIPE:
                say(f"model: {directory} (cached)")
                return directory
            say(f"the cached model is trained again: {directory} was made by another release")
    directory = cache / ("model-small" if small else "model")
    _train(directory, small, bar)
    return directory


def _train(directory: Path, small: bool, bar: Callable[[], object]) -> None:
    from models.training import TrainSettings
    from streams.offline.training import train_on_events

    say("training a model on January to June" + (" (a part of the households)" if small else ""))
    started = time.monotonic()
    with bar() as progress:  # type: ignore[attr-defined]
        progress(0.0, "reading Complete Journey")
        journey = CompleteJourney.load()
        households = journey.households_for(_TRAIN_EVENTS_SMALL, journey.from_ms, SPLIT_MS) if small else None
        events = [
            (record.topic, record.key, record.body, record.event_ts_ms)
            for record in journey.events(journey.from_ms, SPLIT_MS, households)
            if record.body is not None
        ]
        card = train_on_events(
            events,
            {entry.key: entry for entry in journey.catalog()},
            directory,
            config=CoreConfig(),
            until_ms=SPLIT_MS,
            settings=TrainSettings(epochs=1) if small else TrainSettings(),
            progress=progress,
        )
    say(f"model {card.model_version} trained in {time.monotonic() - started:.0f} s: {directory}")


class DemoRun:
    """One run, from an empty broker to the summary.

    Args:
        limit: about this many events, of whole households; None for all of them.
        rate: events/s; None for as fast as predictions stay fresh.
    """

    def __init__(self, *, cache: Path, model: Path, broker: str, limit: int | None, rate: float | None) -> None:
        self.produced = 0
        self.total = 0
        self.event_time_ms = 0
        self.events_per_s = 0.0
        self.numbers = WorkerNumbers()
        self.collector: Collector
        self._cache = cache
        self._model = model
        self._broker = broker
        self._limit = limit
        self._rate = rate
        self._report: ReplayReport | None = None
        self._failure: BaseException | None = None

    def run(self, json_only: bool) -> Summary:
        """All stages; returns the sums.

        Raises:
            Stop: the worker died or stood still; the message shows the end of its log.
        """
        started = time.monotonic()
        say("reading Complete Journey")
        journey = CompleteJourney.load()
        households = journey.households_for(self._limit, SPLIT_MS, END_MS) if self._limit else None
        with ExitStack() as stack:
            bootstrap = stack.enter_context(self._start_broker())
            client: dict[str, str | int | float | bool] = {"bootstrap.servers": bootstrap, "log_level": 0}
            admin.create_topics(admin.connect(client), partitions=PARTITIONS)
            producer = OrderedProducer(bootstrap, config={"log_level": 0})
            entries = publish_catalog(journey.catalog(), producer, partitions=PARTITIONS)
            say(f"broker {self._broker} on {bootstrap}: topics created, {entries:,} catalog entries published")
            self._clear()
            self.collector = Collector(client, "", PARTITIONS)
            view = stack.enter_context(open_view(json_only))
            source = _Source(journey, households, producer)
            warm = self._warm_up(source, bootstrap, client, view)
            with self._start_workers(bootstrap, _LIVE_ROLES) as workers:
                self.collector.start()
                self._replay(_SECOND_HALF, source, workers, view, Pacer(self._rate or _RATES[0] * 4))
                self.collector.stop()
                workers.end()
        if self.collector.failure is not None:
            raise Stop(f"predictions could not be read: {self.collector.failure}")
        return self._summary(warm, time.monotonic() - started)

    @contextmanager
    def _start_broker(self) -> Iterator[str]:
        from streams.brokers.apache import ApacheBroker
        from streams.brokers.embedded import EmbeddedBroker

        if self._broker == "apache":
            folder = self._cache / "kafka"
            shutil.rmtree(folder, ignore_errors=True)
            with ApacheBroker(data_dir=folder) as broker:
                yield broker.bootstrap
        else:
            with EmbeddedBroker() as embedded:
                yield embedded.bootstrap

    def _clear(self) -> None:
        """What an earlier demo left: its broker is gone, so its state belongs to nothing."""
        shutil.rmtree(self._cache / "state", ignore_errors=True)
        for log in self._cache.glob("worker*.log"):
            log.unlink()

    @contextmanager
    def _start_workers(self, bootstrap: str, roles: Sequence[tuple[str, ...]]) -> Iterator[_Workers]:
        """A process for each of these sets of roles."""
        with ExitStack() as stack:
            workers = _Workers([self._start_worker(bootstrap, of_worker, stack) for of_worker in roles])
            deadline = time.monotonic() + _STALL_S
            while (known := workers.numbers()) is None or known.partitions < PARTITIONS:
                workers.check()
                if time.monotonic() > deadline:
                    raise Stop(f"the workers did not start: {workers.tails()}")
                time.sleep(0.2)
            for of_worker in roles:
                say(f"worker with roles {', '.join(of_worker)} started")
            yield workers

    def _start_worker(self, bootstrap: str, roles: tuple[str, ...], stack: ExitStack) -> _WorkerProcess:
        port, log = free_port(), self._cache / f"worker-{roles[0]}.log"
        settings = {
            "kafka.bootstrap": bootstrap,
            "kafka.partitions": PARTITIONS,
            # On the embedded broker a group forms in half the session timeout.
            "kafka.session_timeout_ms": 6_000,
            "state_dir": self._cache / "state",
            "model_dir": self._model,
            "metrics_port": port,
            # Heartbeats come from the replay: no topic is ever idle, and every run settles alike.
            "ingest.idle_ms": 0,
            "encode.threads": 1,
        }
        argv = [sys.executable, "-m", "streams.cli", "worker", "--verbose", "--roles", ",".join(roles)]
        child = Child(argv, log, env=worker_environment(settings))
        stack.callback(child.stop)
        return _WorkerProcess(child, log, port)

    def _warm_up(self, source: _Source, bootstrap: str, client: ClientConfig, view: View) -> _Warmed:
        """The first half through ingest alone: who is judged afterwards is known, as customers of long standing are.

        Half a year of old snapshots needs no prediction, so encode goes on behind them; their outcomes join nothing.
        """
        started = time.monotonic()
        with self._start_workers(bootstrap, _WARM_ROLES) as workers:
            self._replay(_FIRST_HALF, source, workers, view, Pacer())
            workers.end()
        skip_to_end(client, "pulsegraph-encode", "session-snapshots")
        assert self._report is not None
        seconds = time.monotonic() - started
        say(f"state is warm after {seconds:.0f} s")
        return _Warmed(self._report.events, self.numbers, seconds)

    def _replay(self, part: _Part, source: _Source, workers: _Workers, view: View, pacer: Pacer) -> None:
        """Produce a part of the year, and return when the workers are done with it."""
        self._reset(source.journey.count(part.from_ms, part.to_ms, source.households))
        say(f"replaying {self.total:,} events, {part.title}")
        thread = threading.Thread(target=self._produce, args=(part, source, pacer), name="replay", daemon=True)
        started = moved = quiet = time.monotonic()
        thread.start()
        while True:
            time.sleep(0.25)
            known = workers.numbers()
            now = time.monotonic()
            workers.check()
            if self._failure is not None:
                raise Stop(f"the replay failed: {self._failure}") from self._failure
            if known is not None and known != self.numbers:
                moved = quiet = now
                self.events_per_s = known.events / (now - started)
                self.numbers = known
            if known is not None and part.predicted and self._rate is None:
                slowest = max(_RATES[0], self.total / _REPLAY_S)
                pacer.rate = max(slowest, _steer(pacer.rate or slowest, known.queue, self.produced - known.events))
            view.show(self)
            done = self._report is not None and self.numbers.events >= self._report.events
            if part.predicted:
                # The collector may still be reading what the worker is long done with.
                quiet = max(quiet, self.collector.heard_s)
                done = done and self.numbers.snapshots_waiting == 0
            if done and now - quiet > _QUIET_S:
                return
            if now - moved > _STALL_S:
                raise Stop(
                    f"nothing moved for {_STALL_S:.0f} s: {self.produced:,} events produced, {self.numbers}; "
                    f"{workers.tails()}"
                )

    def _reset(self, total: int) -> None:
        self.total, self.produced = total, 0
        self.numbers, self._report = WorkerNumbers(), None

    def _produce(self, part: _Part, source: _Source, pacer: Pacer) -> None:
        def counted() -> Iterator[SourceRecord]:
            for record in source.journey.events(part.from_ms, part.to_ms, source.households):
                yield record
                self.produced += 1
                self.event_time_ms = record.event_ts_ms

        try:
            self._report = replay(
                counted(),
                source.producer,
                partitions=PARTITIONS,
                heartbeat_ms=_HEARTBEAT_MS,
                until_ms=part.until_ms,
                pacer=pacer,
            )
        except Exception as error:  # noqa: BLE001 - shown by the thread that waits for this one
            self._failure = error

    def _summary(self, warm: _Warmed, wall_s: float) -> Summary:
        from models.saved_model import read_card

        assert self._report is not None
        card = read_card(self._model)
        scores = self.collector.score(END_MS)
        fresh, numbers = list(self.collector.freshness_ms), self.numbers
        return Summary(
            events=self._report.events,
            applied=numbers.applied,
            duplicates=numbers.duplicates,
            dead_lettered=numbers.dead_lettered,
            predictions=dict(sorted(self.collector.predictions.items())),
            events_per_s=round(self.events_per_s, 1),
            freshness_p50_ms=percentile(fresh, 0.5),
            freshness_p95_ms=percentile(fresh, 0.95),
            churn_auc=scores["churn"][0],
            wall_s=round(wall_s, 1),
            churn_scored=scores["churn"][1],
            redemption_auc=scores["redemption"][0],
            redemption_scored=scores["redemption"][1],
            snapshots=numbers.snapshots,
            encoded=numbers.encoded,
            coalesced=numbers.coalesced,
            late=numbers.late,
            model_version=card.model_version,
            broker=self._broker,
            warm_events=warm.events,
            warm_applied=warm.numbers.applied,
            warm_duplicates=warm.numbers.duplicates,
            warm_dead_lettered=warm.numbers.dead_lettered,
            warm_snapshots=warm.numbers.snapshots,
            warm_s=round(warm.wall_s, 1),
            quality=self.collector.qualities(END_MS),
            encoder={
                name: EncoderShare(
                    without=head.wide.auc, beside=head.model.auc, alone=head.embedding_auc, gate=head.gate
                )
                for name, head in card.report.heads.items()
            },
        )


class _WorkerProcess(msgspec.Struct, frozen=True):
    child: Child
    log: Path
    port: int

    def check(self) -> None:
        """
        Raises:
            Stop: it is not running any more.
        """
        if not self.child.running:
            raise Stop(f"the worker ended with {self.child.returncode}: {tail_of(self.log)}")

    def end(self) -> None:
        """Have it write what it has, and leave its groups.

        Raises:
            Stop: it did not end well.
        """
        self.child.stop(timeout_s=30.0)
        if self.child.returncode != 0:
            raise Stop(f"the worker ended with {self.child.returncode}: {tail_of(self.log)}")


class _Workers(msgspec.Struct, frozen=True):
    """Those that run side by side."""

    workers: list[_WorkerProcess]

    def numbers(self) -> WorkerNumbers | None:
        """All together; None while one of them does not answer yet."""
        return scrape(*(worker.port for worker in self.workers))

    def check(self) -> None:
        """Raises as :meth:`_WorkerProcess.check`, as does :meth:`end`."""
        for worker in self.workers:
            worker.check()

    def end(self) -> None:
        for worker in self.workers:
            worker.end()

    def tails(self) -> str:
        """How their logs end."""
        return "; ".join(f"{worker.log.name} ends with: {tail_of(worker.log)}" for worker in self.workers)


class _Source(msgspec.Struct, frozen=True):
    """What is replayed, and by whom."""

    journey: CompleteJourney
    households: frozenset[str] | None
    producer: OrderedProducer


class _Part(msgspec.Struct, frozen=True):
    """A part of the year."""

    title: str
    from_ms: int | None
    to_ms: int
    until_ms: int
    """Event time goes on to this at the end."""
    predicted: bool


class _Warmed(msgspec.Struct, frozen=True):
    """What became of the first part."""

    events: int
    numbers: WorkerNumbers
    wall_s: float


_FIRST_HALF: Final = _Part("January to June 2017, without the model", None, SPLIT_MS, SPLIT_MS, predicted=False)
_SECOND_HALF: Final = _Part(
    "July to December 2017", SPLIT_MS, END_MS, END_MS + CoreConfig().lateness_ms, predicted=True
)


def _steer(rate: float, queue: int, lag: int) -> float:
    """Faster while predictions are fresh, slower when snapshots or events pile up."""
    behind = queue > _QUEUE_AIM * 3 or lag > rate * 0.4
    step = 0.8 if behind else 1.02 if queue > _QUEUE_AIM else 1.1
    return min(_RATES[1], max(_RATES[0], rate * step))
