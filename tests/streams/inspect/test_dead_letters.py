"""Refused records looked at and sent back: nothing is lost, nothing counts twice, and attempts come to an end."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from support.logs import CONFIG, START_MS

from schemas.events import CLICKSTREAM, PROFILES, SOURCES
from schemas.records import LogRecord
from schemas.words import Words
from streams.cli import main
from streams.core.partition import IngestPartition
from streams.inspect import dead_letters
from streams.inspect.dead_letters import Filter, choose, parse, replayed_headers
from streams.kafka.reader import TopicReader
from streams.sources.replay import OrderedProducer
from streams.state.checkpoints import StoredRecords, local_batch, read_meta
from streams.state.memory import MemoryStore

Client = dict[str, Any]


class OnePartition:
    """The real ingest core on a single partition; its dead letters go to their topic."""

    def __init__(self, client: Client, prefix: str) -> None:
        self.client, self.prefix = client, prefix
        self.store = MemoryStore()
        records, meta = StoredRecords(self.store), read_meta(self.store).partition
        options: Any = {"cache_bytes": 1 << 30, "idle_ms": 0, "now_ms": 0}
        self.ingest = IngestPartition(0, CONFIG, Words(), records, meta, **options)
        self.producer = OrderedProducer(client["bootstrap.servers"])

    def produce(self, topic: str, key: bytes | None, value: bytes | None, headers: Any = (), at_ms: int = 0) -> None:
        self.producer.send(self.prefix + topic, key, value, 0, headers, at_ms)
        self.producer.deliver()

    def run(self) -> int:
        """Take in what is new; how many dead letters came of it."""
        written = 0
        with TopicReader(self.client) as reader:
            ends = reader.ends((self.prefix + topic, 0) for topic in SOURCES)
            for source_index, topic in enumerate(SOURCES):
                name = self.prefix + topic
                end = ends[name, 0]
                messages = list(reader.range(name, 0, self.ingest.next_offsets.get(topic, 0), end))
                batch = [_record(message) for message in messages]
                for dead_letter in self.ingest.take(source_index, batch, 0):
                    self.producer.send(
                        self.prefix + "dead-letter", dead_letter.key, dead_letter.value, 0, dead_letter.headers
                    )
                    written += 1
        self.producer.deliver()
        self.store.write(local_batch(self.ingest.checkpoint(0), -1))
        self.ingest.written()
        return written

    def events(self, customer_id: str) -> int:
        customer = self.ingest.customer(customer_id)
        return 0 if customer is None else customer.view().events

    def stored(self) -> list[dead_letters.StoredDeadLetter]:
        return list(dead_letters.read(self.client, self.prefix))


def _record(message: Any) -> LogRecord:
    headers = tuple(message.headers() or ())
    return LogRecord(message.offset(), message.key(), message.value(), headers, message.timestamp()[1])


@pytest.fixture
def here(broker: Any, make_topics: Callable[..., str]) -> OnePartition:
    return OnePartition({"bootstrap.servers": broker.bootstrap}, make_topics(partitions=1))


@pytest.fixture
def named(here: OnePartition, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands find the deployment in the environment."""
    monkeypatch.setenv("PULSEGRAPH_KAFKA_BOOTSTRAP", here.client["bootstrap.servers"])
    monkeypatch.setenv("PULSEGRAPH_KAFKA_PREFIX", here.prefix)


@pytest.fixture
def command(named: None, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["dead-letters", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def body(**fields: Any) -> bytes:
    return json.dumps({"event": "purchase", "event_ts_ms": START_MS, "item_id": "a"} | fields).encode()


TOO_EARLY = 9 * 3_600_000
"""An event's lead on its record's clock, beyond what is accepted."""


def test_a_dead_letter_reads_as_it_was_written(here: OnePartition) -> None:
    headers = [("trace", b"\xff\x00"), ("trace", b"2"), ("x", b"")]
    here.produce("clickstream", b"c\x001", b"\xff{", headers, START_MS)
    assert here.run() == 1
    (dead_letter,) = here.stored()
    assert (dead_letter.dl_id, dead_letter.topic, dead_letter.partition, dead_letter.offset) == (
        "clickstream-0-0",
        "clickstream",
        0,
        0,
    )
    assert (dead_letter.reason, dead_letter.error, dead_letter.record_ts_ms) == ("invalid_key", "InvalidKey", START_MS)
    assert (dead_letter.key, dead_letter.value, list(dead_letter.headers)) == (b"c\x001", b"\xff{", headers)
    assert (dead_letter.attempt, dead_letter.replayed_from) == (0, None)


def test_replaying_is_counted_until_the_limit_and_loses_nothing(
    here: OnePartition, command: Callable[..., tuple[int, str, str]]
) -> None:
    here.produce("clickstream", b"c1", b"{no json", [("trace", b"7")])
    here.run()
    for attempt in (1, 2, 3):
        newest = here.stored()[-1].dl_id
        code, out, _ = command("replay", newest)
        assert code == 0
        assert re.search(r"1  sent to clickstream", out)
        assert here.run() == 1
        dead_letter = here.stored()[-1]
        assert (dead_letter.attempt, dead_letter.replayed_from) == (attempt, newest)
        assert (dead_letter.key, dead_letter.value) == (b"c1", b"{no json")
        assert dict(dead_letter.headers) == {"trace": b"7", "ce_id": b"clickstream-0-0"}
    code, out, err = command("replay", here.stored()[-1].dl_id)
    assert code == 1
    assert "was replayed 3 times, and --max-attempts is 3" in err
    code, out, err = command("replay", "clickstream-0-0", "--max-attempts", "9")
    assert "was replayed before and refused again as clickstream-0-1" in err
    assert here.run() == 0
    assert len(here.stored()) == 4


def test_what_was_corrected_is_applied_once_however_often_it_is_replayed(
    here: OnePartition, command: Callable[..., tuple[int, str, str]]
) -> None:
    here.produce("clickstream", b"c1", body(), at_ms=START_MS - TOO_EARLY)  # the producer's record clock was behind
    assert here.run() == 1
    for _ in range(3):
        assert command("replay", "--reason", "out_of_time")[0] == 0
        assert here.run() == 0
    assert here.ingest.counts["duplicates"] == 2
    assert here.events("c1") == 1
    assert len(here.stored()) == 1


def test_a_dry_run_sends_nothing(here: OnePartition, command: Callable[..., tuple[int, str, str]]) -> None:
    here.produce("clickstream", None, body(), at_ms=START_MS)
    here.run()
    code, out, _ = command("replay", "--all", "--dry-run")
    assert code == 0
    assert "would send clickstream-0-0 to clickstream, attempt 1" in out
    assert here.run() == 0
    assert here.ingest.next_offsets == {"clickstream": 1}


def test_listing_filters_and_sums_up(here: OnePartition, command: Callable[..., tuple[int, str, str]]) -> None:
    day = 86_400_000
    for number in range(5):
        here.produce("clickstream", b"c1", b"{", at_ms=START_MS + number * day)
    here.produce("redemptions", b"\x1b[31mred", body(), at_ms=START_MS)
    assert here.run() == 6
    code, out, _ = command("list", "-n", "3")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:4]] == [f"clickstream-0-{offset}" for offset in (2, 3, 4)]
    assert "5  clickstream  malformed" in out
    assert "6  dead letters in all" in out
    _, out, _ = command("list", "--reason", "invalid_key")
    assert "\x1b" not in out
    assert "\\x1b[31mred" in out
    _, out, _ = command("list", "--since", "2017-07-16", "--until", "2017-07-17", "--json")
    assert [json.loads(line)["offset"] for line in out.splitlines()] == [2]


@pytest.mark.usefixtures("named")
def test_showing_one(here: OnePartition, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    here.produce("clickstream", b"c1", b"\xffabc", [("trace", b"t")], START_MS)
    here.produce("clickstream", b"c1", b'{"event":\x1b', (), START_MS)
    here.run()
    code = main(["dead-letters", "show", "clickstream-0-0"])
    out = capfdbinary.readouterr().out.decode()
    assert code == 0
    for part in ("malformed (Malformed)", "clickstream, partition 0", "trace: t", "hex ff616263", "(4 bytes)"):
        assert part in out
    main(["dead-letters", "show", "clickstream-0-1"])
    assert '{"event":\\x1b' in capfdbinary.readouterr().out.decode()
    main(["dead-letters", "show", "clickstream-0-0", "--raw"])
    assert capfdbinary.readouterr().out == b"\xffabc"


@pytest.mark.parametrize("at_ms", [253_402_300_800_000, 9 * 10**18])
def test_a_time_that_no_calendar_has_is_shown_as_it_is(
    at_ms: int, here: OnePartition, command: Callable[..., tuple[int, str, str]]
) -> None:
    here.produce("clickstream", b"c1", b"{", at_ms=at_ms)
    here.run()
    code, out, _ = command("list")
    assert code == 0
    assert f"{at_ms} ms" in out
    code, out, _ = command("show", "clickstream-0-0")
    assert code == 0
    assert f"record time {at_ms} ms" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "clickstream-0-99"], "no dead letter 'clickstream-0-99'"),
        (["replay", "clickstream-0-99"], "no dead letter clickstream-0-99"),
        (["replay"], "or --all"),
        (["replay", "--all", "--max-attempts", "0"], "above 0"),
        (["list", "--reason", "malformd"], "did you mean malformed"),
        (["list", "--topic", "clickstreams"], "did you mean clickstream"),
        (["list", "-n", "0"], "above 0"),
        (["list", "--since", "yesterday"], "'yesterday' is not a date"),
    ],
)
def test_wrong_arguments_are_explained(
    arguments: list[str], message: str, command: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = command(*arguments)
    assert code == 2
    assert message in err


def dead_letter(value: bytes | None = b"{", **named: str) -> dead_letters.StoredDeadLetter:
    named = {"dl_id": "clickstream-0-5", "dl_topic": "clickstream", "dl_partition": "0", "dl_offset": "5"} | named
    named = {"dl_reason": "malformed", "dl_record_ts_ms": str(START_MS)} | named
    found = parse(b"c1", value, [(name, raw.encode()) for name, raw in named.items()])
    assert found is not None
    return found


def test_an_erasure_keeps_its_time() -> None:
    erasure = dead_letter(dl_topic="profiles", value=None)
    assert dict(replayed_headers(erasure))["ce_time"] == b"2017-07-14T02:40:00.000+00:00"
    record = LogRecord(0, b"c1", None, tuple(replayed_headers(erasure)), START_MS + 86_400_000)
    ingest = IngestPartition(
        0, CONFIG, Words(), StoredRecords(MemoryStore()), None, cache_bytes=1 << 20, idle_ms=0, now_ms=0
    )
    assert ingest.take(PROFILES, [record], 0) == []
    assert ingest.checkpoint(0).erasures[0].erased_ms == START_MS


def test_a_catalog_entry_is_not_brought_back() -> None:
    plan = choose([dead_letter(dl_topic="catalog", dl_id="catalog-0-5")], Filter())
    assert plan.dead_letters == []
    assert "which an old one could undo" in plan.kept[0][1]


def test_what_is_no_dead_letter_is_passed_over() -> None:
    assert parse(b"c1", b"{", []) is None
    assert parse(b"c1", b"{", [("dl_id", b"x"), ("dl_partition", b"many")]) is None


def test_a_sender_cannot_spend_or_renew_attempts() -> None:
    ingest = IngestPartition(
        0, CONFIG, Words(), StoredRecords(MemoryStore()), None, cache_bytes=1 << 20, idle_ms=0, now_ms=0
    )
    hostile = (("dl_attempt", b"9" * 5_000), ("dl_id", b"clickstream-0-0"), ("orig_dl_reason", b"mine"))
    (refused,) = ingest.take(CLICKSTREAM, [LogRecord(7, b"c1", b"{", hostile, START_MS)], 0)
    found = parse(refused.key, refused.value, refused.headers)
    assert found is not None
    assert (found.dl_id, found.attempt) == ("clickstream-0-7", 0)
    assert found.headers == (("dl_id", b"clickstream-0-0"), ("orig_dl_reason", b"mine"))
