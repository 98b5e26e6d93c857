"""Roles as Faust apps, several in one process: one agent and one consumer group each, one event loop for all."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import ssl
import sys
import traceback
from typing import Any, Final, cast

import faust
from faust.app.base import BootStrategy
from faust.channels import Channel
from faust.types import TP
from faust.types.auth import CredentialsT
from mode.utils.queues import ThrowableQueue

from schemas.errors import PulsegraphError, Retry, Stop
from streams.kafka.transport import BatchConsumer, BatchTransport
from streams.runtime.roles import Batch, Commit, Offsets, Role, RoleRunner

__all__ = ["Batch", "Commit", "Committer", "Offsets", "Role", "RoleApp", "build_app", "run_worker", "serve"]

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_STOP: Final = 2
#: A fetch makes 20,000 record objects at once and drops them together: with Python's thresholds (700, 10, 10) the cycle
#: collector walks them again and again. 1,000,000 records through an empty role: 1.9 -> 1.3 CPU seconds. A checkpoint's
#: snapshots live until it is written: they should not be walked either, and most are gone by a million allocations.
GC_THRESHOLDS: Final = (1_000_000, 50, 100)

logger: Final = logging.getLogger(__name__)


class Committer:
    """A role's handle on its group's offsets; see :class:`streams.runtime.roles.Commit`."""

    def __init__(self, app: RoleApp) -> None:
        self._app = app

    async def commit(self, offsets: Offsets) -> bool:
        prefix = self._app.topic_prefix
        consumer = cast(BatchConsumer, self._app.consumer)
        return await consumer.commit_positions(
            {TP(prefix + topic, partition): offset for (topic, partition), offset in offsets.items()}
        )

    def is_caught_up(self, topic: str, partition: int) -> bool:
        place = TP(self._app.topic_prefix + topic, partition)
        return not self._app.runner.waits(place) and cast(BatchConsumer, self._app.consumer).is_caught_up(place)


class BatchChannel(Channel[Any]):
    """An in-memory channel with one queue that Faust's flow control does not empty.

    Faust clears its queues at every resume, also for a member that held nothing before and so was never suspended: a
    batch delivered meanwhile would be lost although its position has moved on. Stale batches are known by their
    generation.
    """

    @property
    def queue(self) -> ThrowableQueue[Any]:
        root = cast(BatchChannel, self._root or self)
        if root._queue is None:
            root._queue = ThrowableQueue(maxsize=0, flow_control=self.app.flow_control, clear_on_resume=False)
        return root._queue

    def offer(self, unit: Any) -> None:
        """Put without waiting; the runner bounds what is offered."""
        self.queue.put_nowait(unit)


class _Boot(BootStrategy):
    # Output goes through streams.kafka.outbox; there are no tables, replies or web views.
    enable_kafka_producer = False
    enable_web = False
    enable_sensors = False


class RoleApp(faust.App):
    """A Faust app of one role, whose consumer delivers partition batches."""

    BootStrategy = _Boot
    runner: RoleRunner
    topic_prefix: str
    topic_names: tuple[str, ...]
    bootstrap: str
    role_failed: asyncio.Event

    @property
    def batch_handler(self) -> RoleRunner:
        """Where :class:`streams.kafka.transport.BatchConsumer` delivers."""
        return self.runner

    def _new_transport(self) -> BatchTransport:
        return BatchTransport(self.conf.broker_consumer, self)

    def _create_directories(self) -> None:
        """Nothing: Faust's folders are for its tables, and there are none."""

    async def on_start(self) -> None:
        await super().on_start()
        # The agent's channel is not a topic, so the conductor has to be told what to subscribe to.
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
) -> RoleApp:
    """The Faust app that runs ``role`` as consumer group ``{prefix}pulsegraph-{role.name}``.

    Args:
        role: see :class:`streams.runtime.roles.Role`; it is bound to a :class:`Committer` here.
        bootstrap: ``host:port[,host:port]``.
        prefix: put before every topic name and the group's.
        session_timeout_ms: a silent member is expelled after this.
        rebalance_timeout_ms: how long a rebalance waits for a member; bounds one ``process`` plus ``on_revoked``.
        max_poll_interval_ms: a member that takes no records for this long leaves the group, except while it restores.
        max_poll_records: most records of one fetch, all partitions together; at most twice that is held undelivered.
        partition_fetch_bytes: most bytes of one partition in one fetch.
        tick_ms: distance of ``idle`` calls.
        credentials: Faust's, e.g. ``faust.SASLCredentials``.
        ssl_context: for TLS without credentials.
        group_instance_id: static membership: a restart within the session timeout causes no rebalance.
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
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=group_instance_id,
        # Faust's default waits for acks that never come here, and can hang at a rebalance (trap 9).
        stream_wait_empty=False,
        table_standby_replicas=0,
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_enabled=False,
        autodiscover=False,
    )
    app.bootstrap = bootstrap
    app.topic_prefix = prefix
    app.topic_names = tuple(prefix + topic for topic in role.topics)
    channel = BatchChannel(app)
    app.role_failed = failed = asyncio.Event()
    app.runner = runner = RoleRunner(
        role,
        prefix=prefix,
        prefetch_records=max_poll_records,
        offer=channel.offer,
        failed=lambda exc: failed.set(),
    )

    @app.agent(channel, name=role.name)
    async def run_role(stream: Any) -> None:
        async for unit in stream:
            await runner.handle(unit)

    @app.task  # type: ignore[untyped-decorator]
    async def tick() -> None:
        await runner.tick_for_ever(tick_ms / 1000)

    role.bind(Committer(app))
    return app


async def serve(*apps: RoleApp, stop: asyncio.Event, grace_s: float = 30.0, connect_timeout_s: float = 30.0) -> int:
    """Run apps until ``stop`` is set, a role raises or an app crashes; then stop all of them cleanly.

    Roles that did not fail flush and commit; every consumer leaves its group. What went wrong is told on stderr.

    Args:
        stop: set it to end the run.
        grace_s: how long the clean stop may take.
        connect_timeout_s: how long to wait for a broker at the start.

    Returns:
        The process's exit code: 0 where asked to stop, 2 for :class:`schemas.errors.Stop`, 1 for everything else.

    Raises:
        TimeoutError: the clean stop took longer than ``grace_s``; consumer threads may still be alive.
    """
    starts = {asyncio.ensure_future(_start(app, connect_timeout_s)): app for app in apps}
    events: list[Any] = [stop, *(app.role_failed for app in apps), *(app._crashed for app in apps)]
    ends = [asyncio.ensure_future(event.wait()) for event in events]
    waiting: set[asyncio.Future[Any]] = {*starts, *ends}
    while True:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for start in starts.keys() & done:
            if not start.cancelled() and (error := start.exception()):
                starts[start].runner.fail(error)
        if any(end in done for end in ends) or any(app.runner.failure for app in apps):
            break
    for app in apps:
        if app._crashed.is_set():
            app.runner.fail(app.crash_reason or RuntimeError(f"{app.conf.id} crashed"))
    codes = [_tell(app) for app in apps]
    told = [app.runner.failure for app in apps]
    for start, app in starts.items():
        if not app.started:
            start.cancel()
    await asyncio.wait_for(_stop(apps), grace_s)
    for task in (*starts, *ends):
        task.cancel()
    # What only failed while it flushed is told now.
    codes += [_tell(app) for app, before in zip(apps, told, strict=True) if app.runner.failure is not before]
    return max(codes)


async def _start(app: RoleApp, timeout_s: float) -> None:
    # Asked first, because Faust's consumer thread crashes loudly where nobody answers; and a broker may start with us.
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not await _answers(app.bootstrap):
        if asyncio.get_running_loop().time() > deadline:
            raise Retry(f"no broker answers at {app.bootstrap} within {timeout_s:g} s")
        await asyncio.sleep(0.2)
    await app.start()


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


def _tell(app: RoleApp) -> int:
    failure = app.runner.failure
    if failure is None:
        return EXIT_OK
    sys.stderr.write(f"pulsegraph {app.runner.role.name}: {str(failure) or type(failure).__name__}\n")
    if isinstance(failure, Stop):
        return EXIT_STOP
    if not isinstance(failure, PulsegraphError):
        traceback.print_exception(failure, file=sys.stderr)
    return EXIT_FAILED


def run_worker(*apps: RoleApp, grace_s: float = 30.0, connect_timeout_s: float = 30.0) -> int:
    """:func:`serve` until SIGTERM or SIGINT; a second signal ends the process at once.

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
        try:
            return await serve(*apps, stop=stop, grace_s=grace_s, connect_timeout_s=connect_timeout_s)
        except TimeoutError:
            sys.stderr.write(f"pulsegraph: not stopped after {grace_s:g} s; the last checkpoint may be read again\n")
            sys.stderr.flush()
            os._exit(EXIT_FAILED)  # whatever hangs would keep asyncio.run waiting too

    gc.set_threshold(*GC_THRESHOLDS)
    return asyncio.run(main())
