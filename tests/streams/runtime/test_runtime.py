"""Roles on a broker: once, in order, from the commit on; through rebalances, signals and errors."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiokafka.errors import TopicAuthorizationFailedError
from confluent_kafka import ConsumerGroupTopicPartitions, Producer
from confluent_kafka.admin import NewTopic

from schemas.errors import StateCorrupt
from streams.kafka import admin, transport
from streams.runtime.app import build_app, serve

ROOT = Path(__file__).parents[3]
TOPICS = ("clickstream", "campaign-sends")
#: Tansu waits half the session timeout in every rebalance; this is the least that Kafka allows by default.
SESSION_MS = 6_000


class Ledger:
    """A role that remembers every record, and commits all that it took when it has to let go."""

    topics = TOPICS

    def __init__(self, name: str, *, commits: bool = True, starts: dict[tuple[str, int], int] | None = None) -> None:
        self.name = name
        self.seen: list[tuple[str, int, int]] = []
        self.events: list[tuple[str, set[int]]] = []
        self.commits = commits
        self.starts = starts
        self.positions: dict[tuple[str, int], int] = {}
        self.committed: list[bool] = []
        self.idles = 0
        self.delay_s = 0.0

    def bind(self, committer: Any) -> None:
        self.committer = committer

    async def on_assigned(self, partitions: set[int]) -> dict[tuple[str, int], int] | None:
        self.events.append(("assigned", partitions))
        self.positions = {}
        return self.starts

    async def on_revoked(self, partitions: set[int]) -> None:
        self.events.append(("revoked", partitions))
        if self.commits and self.positions:
            self.committed.append(await self.committer.commit(self.positions))

    async def process(self, batch: Any) -> None:
        if self.delay_s:
            delay_s, self.delay_s = self.delay_s, 0.0
            time.sleep(delay_s)  # holds the event loop, as computing does
        for record in batch.records:
            self.seen.append((batch.topic, batch.partition, record.offset))
        self.positions[batch.topic, batch.partition] = batch.records[-1].offset + 1

    async def idle(self) -> None:
        self.idles += 1

    async def stop(self) -> None:
        self.events.append(("stop", set()))

    def in_order(self) -> bool:
        newest: dict[tuple[str, int], int] = {}
        for topic, partition, offset in self.seen:
            if offset <= newest.get((topic, partition), -1):
                return False
            newest[topic, partition] = offset
        return True


class Run:
    """An app served in this loop until ``end``."""

    def __init__(self, broker: Any, prefix: str, *roles: Ledger, **settings: Any) -> None:
        self.stop = asyncio.Event()
        apps = [
            build_app(role, bootstrap=broker.bootstrap, prefix=prefix, session_timeout_ms=SESSION_MS, **settings)
            for role in roles
        ]
        self.task = asyncio.create_task(serve(*apps, stop=self.stop))

    async def until(self, condition: Callable[[], bool], timeout_s: float = 40) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert not self.task.done(), "ended too early"
            assert time.monotonic() < deadline, "took too long"
            await asyncio.sleep(0.02)

    async def end(self) -> int:
        self.stop.set()
        return await self.task


def fill(broker: Any, prefix: str, count: int, first: int = 0) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 5, "log_level": 0})
    for number in range(first, first + count):
        producer.produce(prefix + TOPICS[number % 2], b"%d" % number, b"c%d" % (number % 97))
    assert producer.flush(30) == 0


def committed(broker: Any, prefix: str, name: str) -> dict[tuple[str, int], int]:
    """What the broker has for the role's group."""
    group = f"{prefix}pulsegraph-{name}"
    client = admin.connect({"bootstrap.servers": broker.bootstrap})
    answer = client.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result()
    found = answer.topic_partitions or []
    return {(tp.topic.removeprefix(prefix), tp.partition): tp.offset for tp in found if tp.offset >= 0}


def test_once_in_order_from_the_commit_or_the_given_start(broker, make_topics):
    count = 6_000
    prefix = make_topics(partitions=2)
    fill(broker, prefix, count)

    async def main() -> None:
        silent, keeper = Ledger("silent", commits=False), Ledger("keeper")
        run = Run(broker, prefix, silent, keeper, max_poll_records=500)
        await run.until(lambda: len(silent.seen) == len(keeper.seen) == count)
        await run.until(lambda: silent.idles > 3)
        assert await run.end() == 0
        assert silent.in_order()
        assert keeper.in_order()
        assert silent.events == [("assigned", {0, 1}), ("revoked", {0, 1}), ("stop", set())]
        assert keeper.committed == [True]
        assert committed(broker, prefix, "silent") == {}
        assert committed(broker, prefix, "keeper") == keeper.positions
        ends = dict(keeper.positions)

        fill(broker, prefix, 200, first=count)
        again, resumed = Ledger("silent"), Ledger("keeper")
        sought = Ledger("sought", starts={key: end - 10 for key, end in ends.items()})
        run = Run(broker, prefix, again, resumed, sought)
        await run.until(lambda: len(again.seen) >= count + 200 and len(resumed.seen) >= 200 and len(sought.seen) >= 240)
        await asyncio.sleep(0.3)
        assert await run.end() == 0
        assert again.in_order() and len(again.seen) == count + 200
        assert resumed.in_order() and len(resumed.seen) == 200
        assert min(offset - ends[topic, partition] for topic, partition, offset in resumed.seen) == 0
        assert sought.in_order() and len(sought.seen) == 240

    asyncio.run(main())


def test_two_workers_share_partitions_and_a_rebalance_loses_and_repeats_nothing(broker, make_topics):
    prefix = make_topics(partitions=3)
    sent = 0

    async def main() -> None:
        nonlocal sent
        first, second = Ledger("shared"), Ledger("shared")
        going = True

        async def produce() -> None:
            nonlocal sent
            while going:
                fill(broker, prefix, 100, first=sent)
                sent += 100
                await asyncio.sleep(0.05)

        feed = asyncio.create_task(produce())
        one = Run(broker, prefix, first)
        await one.until(lambda: len(first.seen) > 100)
        two = Run(broker, prefix, second)
        await two.until(lambda: len(second.seen) > 200)
        share_one, share_two = first.events[-1], second.events[-1]
        assert share_one[0] == share_two[0] == "assigned"
        assert share_one[1] | share_two[1] == {0, 1, 2} and not share_one[1] & share_two[1]
        assert await two.end() == 0
        await one.until(lambda: first.events[-1] == ("assigned", {0, 1, 2}))
        going = False
        await feed
        await one.until(lambda: len(first.seen) + len(second.seen) >= sent)
        await asyncio.sleep(0.3)
        assert await one.end() == 0
        assert all(first.committed) and all(second.committed)
        both = first.seen + second.seen
        assert len(both) == len(set(both)) == sent
        # A member holds the same partitions of both topics, so each partition's records have one writer at a time.
        for ledger in (first, second):
            assert ledger.in_order()

    asyncio.run(main())


@pytest.mark.slow
def test_a_batch_longer_than_the_session_timeout_costs_no_membership(broker, make_topics):
    prefix = make_topics(partitions=2)
    fill(broker, prefix, 1_000)

    async def main() -> None:
        role = Ledger("slow")
        role.delay_s = SESSION_MS / 1000 + 2
        run = Run(broker, prefix, role, max_poll_records=50)
        await run.until(lambda: len(role.seen) == 1_000)
        assert await run.end() == 0
        assert [name for name, _ in role.events] == ["assigned", "revoked", "stop"]
        assert role.committed == [True]
        assert role.in_order()

    asyncio.run(main())


def test_a_worker_without_partitions_waits_and_takes_over(broker, make_topics, monkeypatch):
    monkeypatch.setattr(transport, "KEEPALIVE_S", 1.0)
    prefix = make_topics(partitions=1)
    fill(broker, prefix, 50)

    async def main() -> None:
        ledgers = Ledger("pair"), Ledger("pair")
        runs = [Run(broker, prefix, ledger, max_poll_interval_ms=4_000) for ledger in ledgers]
        await runs[0].until(lambda: max(len(ledger.seen) for ledger in ledgers) == 50)
        await asyncio.sleep(8)  # nobody may fetch for longer than the interval and stay, if he does not report in
        owner = 0 if ledgers[0].events and ledgers[0].events[-1][0] == "assigned" else 1
        spare = 1 - owner
        assert await runs[owner].end() == 0
        fill(broker, prefix, 50, first=50)
        await runs[spare].until(lambda: len(ledgers[spare].seen) >= 50, timeout_s=20)
        assert await runs[spare].end() == 0
        assert len(set(ledgers[0].seen + ledgers[1].seen)) == 100

    asyncio.run(main())


def test_a_batch_longer_than_the_poll_interval_costs_no_membership(broker, make_topics, monkeypatch):
    monkeypatch.setattr(transport, "KEEPALIVE_S", 1.0)
    prefix = make_topics(partitions=1)
    fill(broker, prefix, 100)

    class Slow(Ledger):
        async def process(self, batch: Any) -> None:
            if not self.seen:
                await asyncio.sleep(7)  # as waiting for the encoder does
            await super().process(batch)

    async def main() -> None:
        slow = Slow("slow")
        run = Run(broker, prefix, slow, max_poll_interval_ms=4_000, max_poll_records=50)
        await run.until(lambda: len(slow.seen) == 100)
        fill(broker, prefix, 10, first=100)
        await run.until(lambda: len(slow.seen) == 110)
        assert await run.end() == 0
        assert [event for event, _ in slow.events] == ["assigned", "revoked", "stop"]

    asyncio.run(main())


def test_it_is_known_when_a_partition_is_read_to_its_end(broker, make_topics):
    prefix = make_topics(partitions=1)
    fill(broker, prefix, 20)
    known: list[bool] = []

    class Asks(Ledger):
        async def on_assigned(self, partitions: set[int]) -> None:
            known.append(any(self.committer.is_caught_up(topic, 0) for topic in TOPICS))

        async def process(self, batch: Any) -> None:
            known.append(self.committer.is_caught_up(batch.topic, 0))
            await super().process(batch)

    async def main() -> None:
        role = Asks("asks")
        run = Run(broker, prefix, role)
        await run.until(lambda: len(role.seen) == 20)
        # What is being worked on is not read yet, nor is anything before the first fetch.
        assert not any(known)
        await run.until(lambda: all(role.committer.is_caught_up(topic, 0) for topic in TOPICS), timeout_s=5)
        assert not role.committer.is_caught_up("redemptions", 0)  # another role's
        assert await run.end() == 0

    asyncio.run(main())


def test_a_topic_with_many_records_an_hour_is_not_left_behind(broker, make_topics, monkeypatch):
    monkeypatch.setattr(transport, "RECORDS_AHEAD", 20)
    prefix = make_topics(partitions=1)
    fill(broker, prefix, 1_000)
    apart_ms = {"clickstream": 1, "campaign-sends": 10}  # of two records

    class ByEventTime(Ledger):
        async def on_assigned(self, partitions: set[int]) -> None:
            for topic in TOPICS:
                self.committer.reached(topic, 0, 0)

        async def process(self, batch: Any) -> None:
            if not self.seen:
                await asyncio.sleep(1)  # until both topics are fetched
            await super().process(batch)
            self.committer.reached(batch.topic, 0, apart_ms[batch.topic] * batch.records[-1].offset)

    async def main() -> None:
        role = ByEventTime("by-time")
        run = Run(broker, prefix, role)
        await run.until(lambda: len(role.seen) == 1_000)
        assert await run.end() == 0
        assert role.in_order()
        dense_is_read = max(at for at, (topic, _, _) in enumerate(role.seen) if topic == "clickstream")
        ahead = [offset for topic, _, offset in role.seen[:dense_is_read] if topic == "campaign-sends"]
        assert len(ahead) <= 50 + 2 * 20  # as many as lie in the time of the dense topic, and a little

    asyncio.run(main())


def test_stopping_before_the_first_assignment(broker, make_topics):
    prefix = make_topics(partitions=2)

    async def main() -> None:
        role = Ledger("early")
        run = Run(broker, prefix, role)
        await asyncio.sleep(1.5)  # Faust subscribes after one second
        started = time.monotonic()
        assert await run.end() == 0
        assert time.monotonic() - started < 10
        assert role.events[-1] == ("stop", set())

    asyncio.run(main())


def test_one_failing_role_stops_the_others_cleanly(broker, make_topics, capsys):
    prefix = make_topics(partitions=2)
    fill(broker, prefix, 100)

    class Failing(Ledger):
        async def process(self, batch: Any) -> None:
            pass

        async def idle(self) -> None:
            if len(healthy.seen) == 100:
                raise StateCorrupt("the store is broken")

    healthy = Ledger("healthy")

    async def main() -> None:
        failing = Failing("failing")
        run = Run(broker, prefix, healthy, failing)
        assert await asyncio.wait_for(run.task, 40) == 2
        assert failing.events[-1] == ("stop", set())
        assert "revoked" not in [name for name, _ in failing.events]
        assert healthy.committed == [True]

    asyncio.run(main())
    assert committed(broker, prefix, "failing") == {}
    assert sum(committed(broker, prefix, "healthy").values()) == 100
    assert "pulsegraph failing: the store is broken" in capsys.readouterr().err


@pytest.mark.parametrize("error", [TopicAuthorizationFailedError("clickstream"), asyncio.CancelledError()])
def test_an_agent_that_crashes_ends_the_process(broker, make_topics, monkeypatch, capsys, error):
    """Faust's default is to restart it, on a batch of which the role may have applied a part."""
    prefix = make_topics(partitions=1)
    fill(broker, prefix, 20)

    async def main() -> None:
        role = Ledger("crashing")
        run = Run(broker, prefix, role)
        await run.until(lambda: len(role.seen) == 20)

        async def fetch(*_: Any) -> None:
            raise error

        monkeypatch.setattr(transport.BatchConsumerThread, "fetch", fetch)
        assert await asyncio.wait_for(run.task, 20) == 1
        assert role.events[-1] == ("stop", set()) and role.committed == []

    asyncio.run(main())
    assert "pulsegraph crashing: " + (str(error) or "CancelledError") in capsys.readouterr().err


def test_without_a_broker_the_process_says_so(capsys):
    async def main() -> None:
        app = build_app(Ledger("alone"), bootstrap="127.0.0.1:9", session_timeout_ms=SESSION_MS)
        assert await asyncio.wait_for(serve(app, stop=asyncio.Event(), connect_timeout_s=0.3), 30) == 1

    asyncio.run(main())
    assert "no broker answers at 127.0.0.1:9" in capsys.readouterr().err


WORKER = """
import sys
from schemas.errors import StateCorrupt
from streams.runtime.app import build_app, run_worker

class Role:
    topics = ("clickstream", "campaign-sends")

    def __init__(self, name):
        self.name, self.count, self.positions = name, 0, {}

    def bind(self, committer):
        self.committer = committer

    async def on_assigned(self, partitions):
        print("assigned", flush=True)

    async def on_revoked(self, partitions):
        print("flushed", await self.committer.commit(self.positions), flush=True)

    async def process(self, batch):
        self.count += len(batch.records)
        self.positions[batch.topic, batch.partition] = batch.records[-1].offset + 1
        if self.count >= 300:
            if self.name == "stopping":
                raise StateCorrupt("cannot trust the store")
            if self.name == "crashing":
                raise ZeroDivisionError("a bug")
            print("all", flush=True)

    async def idle(self):
        pass

    async def stop(self):
        print("stopped", flush=True)

role = Role(sys.argv[3])
raise SystemExit(run_worker(build_app(role, bootstrap=sys.argv[1], prefix=sys.argv[2], session_timeout_ms=6_000)))
"""


class Ended(NamedTuple):
    code: int
    out: str
    err: str
    offsets: dict[tuple[str, int], int]
    left_behind: list[str]


@pytest.fixture(scope="module")
def ended(broker, tmp_path_factory) -> Iterator[dict[str, Ended]]:
    """Three worker processes side by side, by role: one gets SIGTERM, one raises Stop, one has a bug."""
    prefix = "signals."
    client = admin.connect({"bootstrap.servers": broker.bootstrap})
    for created in client.create_topics([NewTopic(prefix + topic, 2, 1) for topic in TOPICS]).values():
        created.result()
    fill(broker, prefix, 300)
    folder = tmp_path_factory.mktemp("started-here")
    workers = {
        name: subprocess.Popen(
            [sys.executable, "-c", WORKER, broker.bootstrap, prefix, name],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for name in ("signalled", "stopping", "crashing")
    }
    try:
        out = workers["signalled"].stdout
        assert out is not None
        seen = ""
        while "all\n" not in seen:
            line = out.readline()
            assert line, "the worker ended too early"
            seen += line
        workers["signalled"].send_signal(signal.SIGTERM)
        result = {}
        for name, worker in workers.items():
            rest, err = worker.communicate(timeout=40)
            left_behind = [path.name for path in folder.iterdir()]
            result[name] = Ended(worker.returncode, rest, err, committed(broker, prefix, name), left_behind)
        yield result
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()
        admin.delete(client, prefix=prefix)


def test_sigterm_flushes_commits_and_ends_with_0(ended):
    assert ended["signalled"].code == 0, ended["signalled"].err
    assert ended["signalled"].out.split() == ["flushed", "True", "stopped"]
    assert sum(ended["signalled"].offsets.values()) == 300


def test_stop_ends_with_2_and_its_message_and_commits_nothing(ended):
    assert ended["stopping"].code == 2
    assert ended["stopping"].out.split()[-1] == "stopped" and "flushed" not in ended["stopping"].out
    assert "pulsegraph stopping: cannot trust the store" in ended["stopping"].err
    assert "Traceback" not in ended["stopping"].err
    assert ended["stopping"].offsets == {}


def test_another_error_ends_with_1_and_a_traceback_and_commits_nothing(ended):
    assert ended["crashing"].code == 1
    assert "ZeroDivisionError: a bug" in ended["crashing"].err and "Traceback" in ended["crashing"].err
    assert ended["crashing"].offsets == {}


def test_nothing_is_written_where_a_worker_was_started(ended):
    assert [worker.left_behind for worker in ended.values()] == [[], [], []]
