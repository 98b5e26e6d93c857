"""Roles as Faust apps, several in one process: one agent and one consumer group each, one event loop for all."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import ssl
import sys
import traceback
from collections.abc import Callable, Collection
from typing import Any, Final, cast

import faust
from faust.app.base import BootStrategy
from faust.channels import Channel
from faust.types import TP
from faust.types.auth import CredentialsT
from mode.supervisors import CrashingSupervisor

from schemas.errors import PulsegraphError, Retry, Stop
from streams.kafka.transport import BatchConsumer, BatchTransport
from streams.runtime.runner import Batch, Commit, Missed, Offsets, Role, RoleRunner

__all__ = ["Batch", "Commit", "Committer", "Offsets", "Role", "RoleApp", "build_app", "run_worker", "serve"]

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_STOP: Final = 2
_BEAT_S: Final = 1.0
#: A fetch makes 20,000 record objects at once and drops them together: with Python's thresholds (700, 10, 10) the cycle
#: collector walks them again and again. 1,000,000 records through an empty role: 1.9 -> 1.3 CPU seconds. A checkpoint's
#: snapshots live until it is written: they should not be walked either, and most are gone by a million allocations.
GC_THRESHOLDS: Final = (1_000_000, 50, 100)
#: What batches make of Faust's settings: nothing is acked, declared, kept in tables or shown by a web server.
_FIXED_SETTINGS: Final[dict[str, Any]] = {
    "consumer_auto_offset_reset": "earliest",
    # Faust's default waits at a rebalance for acks, which never come here.
    "stream_wait_empty": False,
    "table_standby_replicas": 0,
    "topic_disable_leader": True,
    "topic_allow_declare": False,
    "web_enabled": False,
    "autodiscover": False,
}


class Committer:
    """A role's handle on its group's offsets; see :class:`streams.runtime.runner.Commit`."""

    def __init__(self, app: RoleApp) -> None:
        self._app = app

    async def commit(self, offsets: Offsets) -> bool:
        prefix = self._app.topic_prefix
        return await self._app.batch_consumer.commit_positions(
            {TP(prefix + topic, partition): offset for (topic, partition), offset in offsets.items()}
        )

    def is_caught_up(self, topic: str, partition: int) -> bool:
        return self._app.batch_consumer.is_caught_up(TP(self._app.topic_prefix + topic, partition))

    async def pause(self, topic: str, partitions: Collection[int]) -> None:
        name = self._app.topic_prefix + topic
        await self._app.batch_consumer.pause_within({TP(name, partition) for partition in partitions})

    def reached(self, topic: str, partition: int, event_ms: int) -> None:
        self._app.batch_consumer.reached(TP(self._app.topic_prefix + topic, partition), event_ms)


class BatchChannel(Channel[Any]):
    """What the role's agent iterates: every value is a partition and its records, fetched when the agent asks for it.

    A channel, because Faust's agents take nothing else, but one whose queue stays empty. Faust clears queues at every
    resume, also for a member that held nothing before and so was never suspended: what is in them then is lost.
    """

    async def __anext__(self) -> Any:
        return await cast(RoleApp, self.app).batch_consumer.next_batch()


class _Boot(BootStrategy):
    # Output goes through streams.kafka.outbox; there are no tables, replies or web views.
    enable_kafka_producer = False
    enable_web = False
    enable_sensors = False


class RoleApp(faust.App):
    """A Faust app of one role, whose agent works on partition batches."""

    BootStrategy = _Boot
    runner: RoleRunner
    topic_prefix: str
    topic_names: tuple[str, ...]
    bootstrap: str
    commits_positions: bool
    """Whether the group's offsets say how far the role has come."""
    role_failed: asyncio.Event

    @property
    def assignment_handler(self) -> RoleRunner:
        """Whom :class:`streams.kafka.transport.BatchConsumer` tells of rebalances."""
        return self.runner

    @property
    def batch_consumer(self) -> BatchConsumer:
        return cast(BatchConsumer, self.consumer)

    def _create_directories(self) -> None:
        """Nothing: Faust's folders are for its tables, and there are none."""

    async def on_start(self) -> None:
        await super().on_start()
        # The agent's channel is not a topic, so Faust's conductor has to know what to subscribe to.
        self.topics.add(self.topic(*self.topic_names, internal=False))

    async def on_stop(self) -> None:
        await self.runner.shutdown()
        await super().on_stop()


def build_app(
    role: Role,
    *,
    bootstrap: str,
    prefix: str = "",
    session_timeout_ms: int = 30_000,
    rebalance_timeout_ms: int = 300_000,
    max_poll_interval_ms: int = 300_000,
    max_poll_records: int = 20_000,
    partition_fetch_bytes: int = 4 * 1024 * 1024,
    tick_ms: int = 20,
    credentials: CredentialsT | None = None,
    ssl_context: ssl.SSLContext | None = None,
    group_instance_id: str | None = None,
    partitions: int | None = None,
    commits: bool = True,
    missed: Missed = lambda *_: None,
) -> RoleApp:
    """The Faust app that runs ``role`` as consumer group ``{prefix}pulsegraph-{role.name}``.

    Args:
        role: see :class:`streams.runtime.runner.Role`; it is bound to a :class:`Committer` here.
        bootstrap: ``host:port[,host:port]``.
        prefix: put before every topic name and the group's.
        session_timeout_ms: a silent member is expelled after this.
        rebalance_timeout_ms: how long a rebalance waits for a member; bounds one ``process`` plus ``on_revoked``.
        max_poll_interval_ms: a member that takes no records for this long leaves the group, except while it restores.
        max_poll_records: most records of one fetch, all partitions together.
        partition_fetch_bytes: most bytes of one partition in one fetch.
        tick_ms: distance of ``idle`` calls.
        credentials: Faust's, e.g. ``faust.SASLCredentials``.
        ssl_context: for TLS without credentials.
        group_instance_id: static membership: a restart within the session timeout causes no rebalance.
        partitions: of every topic: a role that is given others stops. None takes what there is.
        commits: whether the role commits offsets at all.
        missed: see :class:`streams.runtime.runner.RoleRunner`.
    """
    session_s = session_timeout_ms / 1000
    group = f"{prefix}pulsegraph-{role.name}"
    app = RoleApp(
        group,
        broker=[f"aiokafka://{host.strip()}" for host in bootstrap.split(",")],
        broker_credentials=credentials,
        ssl_context=ssl_context,
        broker_client_id=group,
        broker_session_timeout=session_s,
        broker_heartbeat_interval=min(3.0, session_s / 3),
        broker_rebalance_timeout=rebalance_timeout_ms / 1000,
        broker_max_poll_interval=max_poll_interval_ms / 1000,
        broker_max_poll_records=max_poll_records,
        broker_request_timeout=max(90.0, session_s),
        consumer_max_fetch_size=partition_fetch_bytes,
        consumer_group_instance_id=group_instance_id,
        **_FIXED_SETTINGS,
    )
    app.transport = BatchTransport(app.conf.broker_consumer, app)
    app.bootstrap = bootstrap
    app.topic_prefix = prefix
    app.topic_names = tuple(prefix + topic for topic in role.topics)
    app.role_failed = failed = asyncio.Event()
    app.commits_positions = commits
    app.runner = RoleRunner(role, prefix=prefix, failed=lambda exc: failed.set(), missed=missed, partitions=partitions)
    _add_agent(app)
    _add_ticks(app, tick_ms / 1000)
    role.bind(Committer(app))
    return app


def _add_agent(app: RoleApp) -> None:
    runner = app.runner

    # Faust would restart an agent that crashed, on a batch that the role may have applied in part: end the app instead.
    @app.agent(BatchChannel(app), name=runner.role.name, supervisor_strategy=CrashingSupervisor)
    async def run_role(batches: Any) -> None:
        async for partition, records in batches:
            await runner.process(partition, records)
            if runner.closed:
                return
            app.batch_consumer.handled(partition)


def _add_ticks(app: RoleApp, tick_s: float) -> None:
    @app.task  # type: ignore[untyped-decorator]
    async def tick() -> None:
        await app.runner.tick_for_ever(tick_s)


async def serve(*apps: RoleApp, stop: asyncio.Event, grace_s: float = 30.0, connect_timeout_s: float = 30.0) -> int:
    """Run apps until ``stop`` is set, a role raises or an app crashes; then stop all of them cleanly.

    Roles that did not fail flush and commit; every consumer leaves its group. Failures are written to stderr.

    Args:
        stop: set it to end the run.
        grace_s: how long the clean stop may take.
        connect_timeout_s: how long to wait for a broker at the start.

    Returns:
        The process's exit code: 0 where asked to stop, 2 for :class:`schemas.errors.Stop`, 1 for everything else.

    Raises:
        TimeoutError: the clean stop took longer than ``grace_s``; consumer threads may still be alive.
    """
    starts = [asyncio.create_task(_start(app, connect_timeout_s)) for app in apps]
    await _first_end(apps, stop)
    _note_crashes(apps)
    codes = [_report(app) for app in apps]
    reported = [app.runner.failure for app in apps]
    for app, start in zip(apps, starts, strict=True):
        if not app.started:
            start.cancel()
    await asyncio.wait_for(_stop(apps), grace_s)
    for start in starts:
        start.cancel()
    # What failed only while it flushed.
    codes += [_report(app) for app, before in zip(apps, reported, strict=True) if app.runner.failure is not before]
    return max(codes)


async def _first_end(apps: tuple[RoleApp, ...], stop: asyncio.Event) -> None:
    """Wait for ``stop``, a role's failure or an app's crash."""
    events: list[Any] = [stop, *(app.role_failed for app in apps), *(app._crashed for app in apps)]
    ends = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for end in ends:
        end.cancel()


def _note_crashes(apps: tuple[RoleApp, ...]) -> None:
    for app in apps:
        if app.crashed:
            app.runner.fail(app.crash_reason or RuntimeError(f"{app.conf.id} crashed"))


async def _start(app: RoleApp, timeout_s: float) -> None:
    try:
        await _until_answered(app.bootstrap, timeout_s)
        await app.start()
    except Exception as error:  # noqa: BLE001 - an app that does not start has failed, whatever kept it
        if not app.runner.closed:
            app.runner.fail(error)


async def _until_answered(bootstrap: str, timeout_s: float) -> None:
    """Ask before Faust does, whose consumer thread crashes loudly where nobody answers; a broker may start with us."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not await _answers(bootstrap):
        if asyncio.get_running_loop().time() > deadline:
            raise Retry(f"no broker answers at {bootstrap} within {timeout_s:g} s")
        await asyncio.sleep(0.2)


async def _answers(bootstrap: str) -> bool:
    for address in bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        with contextlib.suppress(OSError, TimeoutError):
            _, writer = await asyncio.wait_for(asyncio.open_connection(host.strip("[]"), int(port)), 2)
            writer.close()
            return True
    return False


async def _stop(apps: tuple[RoleApp, ...]) -> None:
    # Roles first: they commit through the consumers, and Faust closes a consumer whose app is stopping when a
    # rebalance comes in between.
    await asyncio.gather(*(app.runner.shutdown() for app in apps))
    await asyncio.gather(*(app.stop() for app in apps if app.started))


def _report(app: RoleApp) -> int:
    failure = app.runner.failure
    if failure is None:
        return EXIT_OK
    sys.stderr.write(f"pulsegraph {app.runner.role.name}: {str(failure) or type(failure).__name__}\n")
    if isinstance(failure, Stop):
        return EXIT_STOP
    if not isinstance(failure, PulsegraphError):
        traceback.print_exception(failure, file=sys.stderr)
    return EXIT_FAILED


def run_worker(
    *apps: RoleApp, grace_s: float = 30.0, connect_timeout_s: float = 30.0, beat: Callable[[], None] = lambda: None
) -> int:
    """:func:`serve` until SIGTERM or SIGINT; a second signal ends the process at once.

    Args:
        beat: called by the event loop every second: as long as it is, the loop does not hang.

    Example:
        >>> raise SystemExit(run_worker(build_app(role, bootstrap="127.0.0.1:9092")))  # doctest: +SKIP
    """

    async def main() -> int:
        stop = asyncio.Event()

        def on_signal() -> None:
            if stop.is_set():
                os._exit(EXIT_FAILED)
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, on_signal)

        async def beats() -> None:
            while True:
                beat()
                await asyncio.sleep(_BEAT_S)

        beating = asyncio.create_task(beats())
        try:
            return await serve(*apps, stop=stop, grace_s=grace_s, connect_timeout_s=connect_timeout_s)
        except TimeoutError:
            sys.stderr.write(f"pulsegraph: not stopped after {grace_s:g} s; the last checkpoint may be read again\n")
            sys.stderr.flush()
            os._exit(EXIT_FAILED)  # whatever hangs would keep asyncio.run waiting too
        finally:
            beating.cancel()

    gc.set_threshold(*GC_THRESHOLDS)
    return asyncio.run(main())
