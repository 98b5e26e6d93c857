"""One stream, twice: undisturbed, and through a schedule of faults; then what differs."""

from __future__ import annotations

import signal
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from infra.faults import schedule as schedules
from infra.faults.cluster import Cluster, Fleet, GroupProgress, freeze_code
from infra.faults.compare import Check, compare, left_by
from infra.faults.schedule import KINDS, Action, Kind
from infra.faults.stream import RecordedStream, Sources, model, produce, publish_version, twin
from models import versions
from schemas.errors import Stop
from schemas.events import SOURCES
from schemas.topics import TOPICS
from streams.kafka import admin, offsets
from streams.sources.pacing import Pacer
from streams.sources.replay import OrderedProducer, publish_catalog

SESSION_TIMEOUT_S: Final = 10.0
PROGRESS_LIMIT_S: Final = 30.0
_GIVE_UP_S: Final = 240.0
_DRAIN_S: Final = 900.0
_QUIET_S: Final = 1.5
_RATES: Final = (50.0, 6_000.0)
_FAST: Final = 40_000.0
_ACTION_S: Final = 12.0
_SETTLE_S: Final = 20.0

Say = Callable[[str], None]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to run."""

    events: int
    kills: int
    seed: int = 0
    workers: int = 2
    nodes: int = 3
    broker: str = "apache"
    partitions: int = 4
    encode: bool = True
    erased: float = 0.0

    def command(self) -> str:
        """The command line that does the same again."""
        return (
            f"pulsegraph faults --events {self.events} --kills {self.kills} --seed {self.seed} "
            f"--workers {self.workers} --nodes {self.nodes} --broker {self.broker} --partitions {self.partitions}"
            f"{'' if self.encode else ' --no-encode'}{f' --erased {self.erased:g}' if self.erased else ''}"
        )


class Timing(msgspec.Struct, kw_only=True):
    """How long one kind of action held progress up, in seconds."""

    count: int
    kills: int
    p50_s: float
    max_s: float


class FaultsReport(msgspec.Struct, kw_only=True):
    """Everything the one JSON line says."""

    ok: bool
    command: str
    plan: Plan
    kills: int
    kill_to_progress_p50_s: float
    kill_to_progress_max_s: float
    actions: dict[str, Timing]
    sources: Sources
    repeated: dict[str, int]
    worker_exits: list[str]
    checks: dict[str, Check]
    problems: list[str]
    undisturbed_s: float
    disturbed_s: float
    wall_s: float


class Harness:
    """Runs a plan in a folder.

    Args:
        say: called with what happens, line by line.
    """

    def __init__(self, plan: Plan, folder: Path, say: Say) -> None:
        self._plan, self._folder, self._say = plan, folder, say
        self._problems: list[str] = []
        self._times: list[tuple[Action, float]] = []
        self._exits: list[str] = []
        self._swaps = 0

    def run(self) -> FaultsReport:
        plan, started_s = self._plan, time.monotonic()
        self._code = freeze_code(self._folder.resolve() / "code")
        self._model = versions.current(model(self._folder.resolve().parent))
        self._twin = twin(self._model)
        actions = schedules.build(
            plan.seed,
            plan.kills,
            workers=plan.workers,
            nodes=plan.nodes if plan.broker == "apache" and plan.nodes > 1 else 0,
            proxied=plan.broker == "apache",
            session_timeout_s=SESSION_TIMEOUT_S,
            swaps=plan.encode,
        )
        self._cluster = Cluster(plan.broker, plan.nodes, self._folder)
        try:
            self._cluster.start()
            self._client: dict[str, Any] = {"bootstrap.servers": self._cluster.direct, "log_level": 0}
            recorded = RecordedStream(
                plan.seed, plan.events, plan.partitions, int(time.time() * 1000) - 3_600_000, plan.erased
            )
            first_s = self._undisturbed(recorded)
            second_s = self._disturbed(recorded, actions)
            self._say("comparing")
            read = [
                left_by(self._client, prefix, plan.partitions, self._folder, predicted=plan.encode)
                for prefix in ("a.", "b.")
            ]
        finally:
            self._cluster.stop()
        checks = compare(*read)
        self._problems += [
            f"{name}: {check.different} of {check.compared} differ, e.g. {'; '.join(check.examples)}"
            for name, check in checks.items()
            if check.different
        ]
        self._problems += [
            f"{name}: there was nothing to compare" for name in read[0].predictions if not checks[name].compared
        ]
        answered = {said["model_version"] for found in read[1].predictions.values() for said in found.values()}
        if self._swaps and len(answered - {"none"}) < 2:
            self._problems.append(f"models were published, and only {sorted(answered)} answered")
        known = read[1].sources
        killed = [seconds for action, seconds in self._times if action.kills]
        return FaultsReport(
            ok=not self._problems,
            command=plan.command(),
            plan=plan,
            kills=sum(action.kills for action, _ in self._times),
            kill_to_progress_p50_s=round(statistics.median(killed), 2) if killed else 0.0,
            kill_to_progress_max_s=round(max(killed, default=0.0), 2),
            actions=self._timings(),
            sources=Sources(
                records=known.records - known.heartbeats,
                heartbeats=known.heartbeats,
                distinct_events=sum(known.events.values()),
                duplicates=known.duplicates,
                late=known.late,
                dead_letters=len(known.refused),
                erased_customers=len(known.erased),
            ),
            repeated=read[1].repeated,
            worker_exits=self._exits,
            checks=checks,
            problems=self._problems,
            undisturbed_s=round(first_s, 1),
            disturbed_s=round(second_s, 1),
            wall_s=round(time.monotonic() - started_s, 1),
        )

    def _timings(self) -> dict[str, Timing]:
        table: dict[str, Timing] = {}
        for kind in KINDS:
            times = [seconds for action, seconds in self._times if action.kind == kind]
            if times:
                table[kind] = Timing(
                    count=len(times),
                    kills=sum(action.kills for action, _ in self._times if action.kind == kind),
                    p50_s=round(statistics.median(times), 2),
                    max_s=round(max(times), 2),
                )
        return table

    def _prepare(self, prefix: str, recorded: RecordedStream) -> tuple[OrderedProducer, Fleet]:
        plan = self._plan
        admin.create_topics(admin.connect(self._client), prefix=prefix, partitions=plan.partitions)
        # One producer for the whole stream, idempotent: its log has no gap and no repetition, whatever befalls brokers.
        producer = OrderedProducer(
            self._cluster.direct, timeout_s=300.0, config={"enable.idempotence": True, "acks": "all"}
        )
        publish_catalog(recorded.catalog(), producer, partitions=plan.partitions, prefix=prefix)
        roles = "ingest,encode,entities" if plan.encode else "ingest,entities"
        fleet = Fleet(
            self._cluster.bootstrap,
            prefix,
            plan.partitions,
            roles,
            self._model,
            self._folder / prefix.strip("."),
            self._code,
        )
        return producer, fleet

    def _undisturbed(self, recorded: RecordedStream) -> float:
        self._say(f"undisturbed: {self._plan.events:,} records through one worker")
        started_s = time.monotonic()
        producer, fleet = self._prepare("a.", recorded)
        try:
            fleet.start()
            produce(recorded, producer, "a.", Pacer(), [0])
            self._await_drained("a.", fleet)
        finally:
            fleet.stop()
        if fleet.exits:
            raise Stop(f"the undisturbed worker ended by itself: {fleet.exits}")
        return time.monotonic() - started_s

    def _disturbed(self, recorded: RecordedStream, actions: list[Action]) -> float:
        plan, started_s = self._plan, time.monotonic()
        self._say(f"disturbed: {len(actions)} actions, {sum(action.kills for action in actions)} kills")
        producer, fleet = self._prepare("b.", recorded)
        group = "b.pulsegraph-ingest"
        pacer = Pacer(_rate(plan.events, len(actions), _ACTION_S))
        sent, failures = [0], list[BaseException]()

        def feed() -> None:
            try:
                produce(recorded, producer, "b.", pacer, sent)
            except BaseException as error:  # noqa: BLE001 - shown by the thread that waits
                failures.append(error)

        feeding = threading.Thread(target=feed, name="feed", daemon=True)
        progress = GroupProgress(self._cluster.direct, group, ["b.clickstream"], plan.partitions)
        try:
            for _ in range(plan.workers):
                fleet.start()
            feeding.start()
            since_s = time.monotonic()
            if progress.moved_at(since_s, _GIVE_UP_S, fleet.supervise) is None:
                raise Stop("the workers never began")
            begun_s = time.monotonic()
            for number, action in enumerate(actions):
                progress.await_stable(len(fleet.workers), _SETTLE_S)
                time.sleep(action.rest_s)
                fleet.supervise()
                if failures or not feeding.is_alive():
                    self._problems.append(f"the stream ended before action {number} of {len(actions)}: {failures}")
                    break
                self._act(action, number, len(actions), fleet, progress)
                spent_s = (time.monotonic() - begun_s) / (number + 1)
                pacer.rate = _rate(plan.events - sent[0], len(actions) - number - 1, spent_s)
            pacer.rate = _FAST
            self._say("schedule done, draining")
            while feeding.is_alive():
                feeding.join(1.0)
                fleet.supervise()
            if failures:
                raise failures[0]
            self._await_drained("b.", fleet)
        finally:
            self._exits = fleet.exits
            fleet.stop()
            progress.stop()
        return time.monotonic() - started_s

    def _act(self, action: Action, number: int, count: int, fleet: Fleet, progress: GroupProgress) -> None:
        since_s, after = self._strike(action, fleet)
        moved_s = progress.moved_at(since_s, _GIVE_UP_S, fleet.supervise)
        took_s = (time.monotonic() if moved_s is None else moved_s) - since_s
        self._times.append((action, took_s))
        self._say(f"{number + 1:3}/{count} {action.kind:<10} {took_s:6.1f} s, {len(fleet.workers)} workers")
        after()
        if moved_s is None:
            raise Stop(f"no progress for {_GIVE_UP_S:g} s after action {number + 1}, {action}: {fleet.exits[-3:]}")
        if action.kills and took_s > PROGRESS_LIMIT_S:
            self._problems.append(f"{action.kind} (action {number + 1}) held progress up for {took_s:.1f} s")

    def _strike(self, action: Action, fleet: Fleet) -> tuple[float, Callable[[], None]]:
        """Do it; when it was done, and what to do once progress was seen."""
        kind: Kind = action.kind
        cluster, since_s = self._cluster, time.monotonic()
        after: Callable[[], None] = _nothing
        match kind:
            case "kill":
                fleet.start(fleet.kill(action.worker))
            case "kill-empty":
                fleet.kill(action.worker)
                fleet.start()
            case "kill-all":
                for name in [fleet.kill(0) for _ in range(len(fleet.workers))]:
                    fleet.start(name)
            case "kill-twice":
                name = fleet.kill(action.worker)
                fleet.start(name)
                time.sleep(action.seconds)
                since_s = time.monotonic()
                fleet.start(fleet.kill(-1))
            case "pause":
                paused = fleet.child(action.worker)
                paused.send_signal(signal.SIGSTOP)

                def after() -> None:
                    time.sleep(max(0.0, since_s + action.seconds - time.monotonic()))
                    paused.send_signal(signal.SIGCONT)

            case "add":
                fleet.start()
            case "remove":
                _, child = fleet.take(action.worker)
                child.request_stop()
                after = child.stop
            case "broker":
                cluster.restart_node(action.node, clean=action.clean)
            case "brokers":
                cluster.restart_all()
            case "cut":
                assert cluster.proxy is not None
                cluster.proxy.cut()
            case "swap":
                self._swaps += 1
                publish_version(self._cluster.direct, "b.", self._twin if self._swaps % 2 else self._model)
            case "stall":
                assert cluster.proxy is not None
                cluster.proxy.stall()
                time.sleep(action.seconds)
                cluster.proxy.flow()
        return since_s, after

    def _await_drained(self, prefix: str, fleet: Fleet) -> None:
        groups = {"ingest": SOURCES, "entities": ("graph-edges",)}
        if self._plan.encode:
            groups["encode"] = ("session-snapshots",)
        assert all(topic in TOPICS for topics in groups.values() for topic in topics)
        deadline, quiet_since = time.monotonic() + _DRAIN_S, None
        lag: dict[str, int] = {}
        while quiet_since is None or time.monotonic() - quiet_since < _QUIET_S:
            for group, topics in groups.items():
                found = offsets.consumer_lag(
                    self._client, f"{prefix}pulsegraph-{group}", [prefix + topic for topic in topics]
                )
                lag[group] = sum(entry.lag for entry in found)
            quiet_since = None if any(lag.values()) else quiet_since or time.monotonic()
            fleet.supervise()
            if time.monotonic() > deadline:
                raise Stop(f"{prefix}: lag is still {lag} after {_DRAIN_S:g} s")
            time.sleep(0.2)


def _nothing() -> None:
    return None


def _rate(events: int, actions: int, action_s: float) -> float:
    """Records per second, so that the stream lasts as long as the schedule and a little longer."""
    least, most = _RATES
    return min(most, max(least, 0.95 * events / (max(1, actions) * action_s)))


def run(plan: Plan, folder: Path, say: Say) -> FaultsReport:
    """Run a plan; see :class:`Harness`. ``folder`` is emptied by nobody: give a new one."""
    folder.mkdir(parents=True, exist_ok=True)
    return Harness(plan, folder, say).run()
