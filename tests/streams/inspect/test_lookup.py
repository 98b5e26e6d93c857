"""Looking customers, entities and topics up: against a broker, with a changelog that the real core wrote."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import pytest
from confluent_kafka import Producer

from schemas import codec
from schemas.catalog import CatalogEntry
from schemas.errors import ConfigError, TopicMismatch
from schemas.events import CAMPAIGN_SENDS, CLICKSTREAM, PROFILES
from schemas.graph import GraphEdges
from schemas.predictions import ChurnPrediction, NextBestAction, RankedAction, Reason, Suppressed
from schemas.records import LogRecord
from schemas.words import SHARED_BY, Word, hash_of
from streams import cli
from streams.brokers.embedded import EmbeddedBroker
from streams.commands.customer import describe
from streams.core.config import DAY_MS, HOUR_MS, MINUTE_MS, CoreConfig
from streams.core.customer import EDGES, HISTORY, TAIL, Customer
from streams.core.entities import Entities
from streams.inspect import lookup
from streams.kafka import admin
from streams.kafka.partitioning import partition_for
from streams.kafka.reader import TopicReader
from streams.offline.ingest import OfflineIngest
from streams.state import keys
from streams.state.checkpoints import StoredRecords, changelog_records
from streams.state.memory import MemoryStore

PARTITIONS = 3
START_MS = 1_498_867_200_000  # 2017-07-01
CONFIG = CoreConfig(ids_kept_ms=DAY_MS)

PURCHASES = [
    {
        "event": "purchase",
        "item_id": f"i{number}",
        "category": "coffee",
        "value": 2.0 + number,
        "order_id": f"o{number}",
    }
    for number in range(3)
]
SEND = {"event": "send", "campaign_id": "c18", "channel": "mail", "offer_id": "o5", "send_id": "s1"}

VISITS = 20
"""Of carl, each a session: so many that older ones of them, and of his edges, are pieces of their own."""
BASKET = 5
WAITING = 70
"""Views of dora that are not settled: so many that the older ones of them are pieces, too."""


class Ingested(NamedTuple):
    """What some checkpoints left."""

    changelog: list[tuple[bytes, bytes | None]]
    words: list[str]
    """Those that were new."""
    edges: list[Any]
    """On their way to the entities."""
    carl: Customer
    dora: Customer


def _record(offset: int, customer: str, ts_ms: int, body: dict[str, Any] | None) -> LogRecord:
    value = None if body is None else codec.json_encode(body | {"event_ts_ms": ts_ms})
    return LogRecord(offset, customer.encode(), value, (), ts_ms)


def _visit(number: int) -> dict[str, Any]:
    lines = [{"item_id": f"x{number}-{place}", "category": "tea", "price": 1.0} for place in range(BASKET)]
    return {"event": "purchase", "items": lines, "channel": "app"}


def _before() -> list[LogRecord]:
    """What came before everything else: carl's visits, and what people searched for."""
    said = [("carl", START_MS - (VISITS - number) * DAY_MS, _visit(number)) for number in range(VISITS)]
    said.append(("carl", START_MS - HOUR_MS, {"event": "search", "query": "Secret wish, dark roast"}))
    # With carl's they are as many as it takes for words to be written down.
    said += [
        (f"k{number}", START_MS - HOUR_MS, {"event": "search", "query": "dark ROAST"})
        for number in range(SHARED_BY - 1)
    ]
    return [_record(offset, customer, ts_ms, body) for offset, (customer, ts_ms, body) in enumerate(said)]


def _ingested() -> Ingested:
    offline = OfflineIngest(CONFIG)
    changelog: list[tuple[bytes, bytes | None]] = []
    edges: list[Any] = []

    def checkpoint() -> None:
        done = offline.checkpoint()
        changelog.extend(changelog_records(done))
        edges.extend(done.edges)

    profile = {"consent": {"mail": {"marketing": True}}, "timezone": "Europe/Berlin", "attributes": {"tier": "gold"}}
    offline.ingest.take(PROFILES, [_record(0, "anna", START_MS, profile), _record(1, "ben", START_MS, {})], 0)
    before = _before()
    offline.ingest.take(CLICKSTREAM, before, 0)
    clicks = [
        _record(len(before) + number, "anna", START_MS + number * DAY_MS, body) for number, body in enumerate(PURCHASES)
    ]
    clicks.append(_record(len(before) + 3, "ben", START_MS + 3 * DAY_MS, PURCHASES[0]))
    offline.ingest.take(CLICKSTREAM, clicks[:2], 0)
    checkpoint()
    offline.ingest.take(CLICKSTREAM, clicks[2:], 0)
    offline.ingest.take(CAMPAIGN_SENDS, [_record(0, "anna", START_MS + 3 * DAY_MS, SEND)], 0)
    offline.ingest.take(PROFILES, [_record(2, "gone", START_MS + 3 * DAY_MS, {})], 0)
    checkpoint()
    erased = _record(3, "gone", START_MS + 3 * DAY_MS + 1, None)
    offline.ingest.take(PROFILES, [erased], 0)
    for until_ms in (START_MS + 4 * DAY_MS, START_MS + 5 * DAY_MS):
        for source_index in range(4):
            offline.ingest.watermark.observe(source_index, until_ms, 0)
        checkpoint()
    offline.ingest.take(PROFILES, [_record(4, "tombstone", START_MS + 5 * DAY_MS, None)], 0)
    views = [
        _record(len(before) + 4 + number, "dora", START_MS + 5 * DAY_MS - MINUTE_MS + number, {"event": "item_view"})
        for number in range(WAITING)
    ]
    offline.ingest.take(CLICKSTREAM, views, 0)
    checkpoint()
    carl, dora = offline.ingest.customer("carl"), offline.ingest.customer("dora")
    assert carl is not None and dora is not None
    return Ingested(changelog, offline.words.take_new(), edges, carl, dora)


def _entity_changelog(edges: list[Any]) -> list[tuple[bytes, bytes | None]]:
    core = Entities(0, StoredRecords(MemoryStore()), None)
    assert core.take([LogRecord(0, None, codec.msgpack_encode(GraphEdges(edges=tuple(edges))), (), 0)]) == []
    return list(changelog_records(core.checkpoint(0)))


def _common(customer: str, as_of_ms: int) -> dict[str, Any]:
    return {
        "prediction_id": f"p-{customer}-{as_of_ms}",
        "question_id": f"q-{customer}-{as_of_ms}",
        "customer_id": customer,
        "as_of_ms": as_of_ms,
        "model_version": "pg-test",
        "valid_until_ms": as_of_ms + DAY_MS,
        "source": ("clickstream", 0, 1),
        "event_ts_ms": as_of_ms,
        "latency_ms": 12,
    }


def _predictions() -> list[tuple[str, str, Any]]:
    reasons = [Reason("RECENCY_HIGH", "last bought 30 days ago", 0.4)]
    found: list[tuple[str, str, Any]] = [
        (
            "predictions.churn",
            customer,
            ChurnPrediction(**_common(customer, at_ms), probability=risk, horizon_days=28, reason_codes=reasons),
        )
        for customer, at_ms, risk in (("anna", 1, 0.1), ("ben", 2, 0.9), ("anna", START_MS, 0.25), ("anna", 2, 0.5))
    ]
    action = NextBestAction(
        **_common("anna", START_MS),
        chosen=RankedAction(action="none", value=0.0, propensity=0.99),
        propensity=0.99,
        reason_codes=[Reason("ALL_SUPPRESSED", "1 campaigns are running, none is allowed: send_cap")],
        suppressed_by=[Suppressed("c18", "send_cap", "3 sends on mail in 7 days, 3 allowed")],
    )
    return [*found, ("predictions.next-best-action", "anna", action)]


@pytest.fixture(scope="module")
def ingested() -> Ingested:
    return _ingested()


@pytest.fixture(scope="module")
def prefix(broker: Any, ingested: Ingested) -> Iterator[str]:
    """Topics as a worker would have left them, and a few sources."""
    prefix = f"t{uuid.uuid4().hex[:10]}."
    client = admin.connect({"bootstrap.servers": broker.bootstrap})
    admin.create_topics(client, prefix=prefix, partitions=PARTITIONS)
    producer = Producer({"bootstrap.servers": broker.bootstrap, "log_level": 0})

    def send(topic: str, key: bytes, value: bytes | None, by: bytes | None = None, headers: Any = None) -> None:
        producer.produce(prefix + topic, value, key, partition_for(by or key, PARTITIONS), headers=headers)

    for key, value in ingested.changelog:
        identity = keys.identity(key)
        places = range(PARTITIONS) if identity is None else [partition_for(identity.encode(), PARTITIONS)]
        for partition in places:
            producer.produce(f"{prefix}ingest-changelog", value, key, partition)
    send("ingest-changelog", keys.record("ben"), None, by=b"ben")  # of a checkpoint that is not finished
    for kind in (EDGES, HISTORY):
        send("ingest-changelog", keys.piece("carl", kind), b"of another merge", by=b"carl")  # the same
    for word in ingested.words:
        hashed = hash_of(word).hex()
        send("words", hashed.encode(), codec.json_encode(Word(hash=hashed, word=word)))
    for key, value in _entity_changelog(ingested.edges):
        send("entities-changelog", key, value, by=key[1:] or b"item:i0")
    for topic, customer, prediction in _predictions():
        send(topic, customer.encode(), codec.json_encode(prediction))
    entry = CatalogEntry(kind="item", id="i0", title="dark beans")
    send("catalog", entry.key.encode(), codec.json_encode(entry))
    send("catalog", b"campaign:c18", codec.json_encode(entry))  # of another name than its key
    for number in range(3):
        send("clickstream", b"anna", codec.json_encode(PURCHASES[number] | {"event_ts_ms": START_MS}))
    send("clickstream", b"\x00heartbeat", b'{"event_ts_ms":1498867200000}', by=b"anna")
    headers = [("dl_reason", b"malformed"), ("dl_error", b"Malformed"), ("dl_message", b"not JSON"), ("orig_x", b"1")]
    send("dead-letter", b"anna", b"\xff{", headers=headers)
    named = [("dl_id", b"clickstream-0-9"), ("dl_reason", b"invalid_field"), ("dl_message", b"no event name")]
    send("dead-letter", b"refused", b"{}", headers=named)
    assert producer.flush(20) == 0
    yield prefix
    admin.delete(client, prefix=prefix)


@pytest.fixture
def reader(broker: Any, prefix: str) -> Any:
    with TopicReader({"bootstrap.servers": broker.bootstrap}) as reader:
        yield reader


def test_a_customer_is_shown_as_of_the_newest_finished_checkpoint(reader: TopicReader, prefix: str) -> None:
    assert lookup.customer(reader, prefix, "ben", CONFIG).events == 2


def test_a_customer(reader: TopicReader, prefix: str) -> None:
    view = lookup.customer(reader, prefix, "anna", CONFIG)
    assert view.partition == partition_for(b"anna", PARTITIONS)
    assert (view.first_ms, view.last_ms) == (START_MS, START_MS + 3 * DAY_MS)
    assert view.as_of_ms == view.features_as_of_ms == view.last_ms
    assert view.events == 5
    assert view.consent == ("mail:marketing",)
    assert (view.timezone, view.attributes) == ("Europe/Berlin", {"tier": "gold"})
    assert view.features["purchases_28d"] == pytest.approx(3, rel=0.2)
    assert view.features["sends_total"] == 1
    assert [session.start_ms for session in view.sessions] == [START_MS + days * DAY_MS for days in (0, 1, 2, 3)]
    assert view.sessions[0].text.startswith(
        "[session, saturday, 0:00, the first] purchase coffee, item i0 (dark beans), "
    )
    assert view.sessions[1].text == (
        "[session, sunday, 2:00, 1 to 2 days after the one before] purchase coffee, item i1, price 2 to 4 "
        "[end of session]"
    )
    assert view.sessions[3].text == "send campaign c18, offer o5, channel mail"  # a message between sessions
    assert view.sequence.startswith("customer\n  as of 2017-07-04 00:00 UTC, tuesday 2:00 for the customer; ")
    assert (
        "\nrecent\n  3 days ago: [session, saturday, 0:00, the first] purchase coffee, item i0 (dark beans), "
        in view.sequence
    )
    assert "\n  purchase item i1: weight 0.95, once, last 46 hours ago\n" in view.sequence, "ages of edges are coarse"
    assert [session.is_open for session in view.sessions] == [False] * 4
    assert [(entry.start_s * 1000, entry.value, entry.sessions) for entry in view.history] == [
        (START_MS + days * DAY_MS, 2.0 + days, 1) for days in range(3)
    ]
    assert {entry.category for entry in view.history} == {int.from_bytes(hash_of("cat:coffee"), "little")}
    items = view.edges["purchase>item"]
    assert [edge.entity_id for edge in items] == ["i2", "i1", "i0"]
    assert items[0].weight == pytest.approx(2 ** (-1 / 28), rel=0.01)
    assert {entry.head: entry.campaign_id for entry in view.pending} == {
        "churn": None,
        "redemption": "c18",
        "response": "c18",
    }
    churn = view.predictions["predictions.churn"]
    assert isinstance(churn, ChurnPrediction) and churn.probability == 0.25  # the newest in event time
    assert "predictions.redemption" not in view.predictions


def test_a_customer_as_of_another_time(reader: TopicReader, prefix: str) -> None:
    early_ms, late_ms = START_MS + DAY_MS + MINUTE_MS, START_MS + 31 * DAY_MS
    early = lookup.customer(reader, prefix, "anna", CONFIG, early_ms)
    assert [edge.entity_id for edge in early.edges["purchase>item"]] == ["i1", "i0"]
    assert (len(early.sessions), len(early.history)) == (2, 2)
    assert (early.features, early.events, early.sends, early.pending, early.late) == ({}, 0, [], [], {})
    assert early.last_ms == early_ms and early.of_later and not late_ms < early.last_ms
    assert [edge.last_ms <= early_ms for found in early.edges.values() for edge in found].count(False) == 0
    assert early.consent == ("mail:marketing",), "the profile is of before"
    assert early.predictions["predictions.churn"].as_of_ms == START_MS
    before = lookup.customer(reader, prefix, "anna", CONFIG, START_MS - DAY_MS)
    assert (before.consent, before.attributes, before.edges, before.sessions) == (None, {}, {}, [])
    churn = before.predictions["predictions.churn"]
    assert churn.as_of_ms == 2 and "predictions.next-best-action" not in before.predictions
    assert any("cannot be wound back" in line for line in describe(early))
    assert not any("did you mean" in line for line in describe(early))
    said = lookup.SessionView(start_ms=0, end_ms=0, text="[SESSION] evt:loyalty_scan evt:purchse item:a [/SESSION]")
    shown = list(describe(msgspec.structs.replace(early, sessions=[*early.sessions, said])))
    assert [line for line in shown if "did you mean" in line] == [
        "  evt:purchse is a custom event: did you mean purchase?"
    ]
    late = lookup.customer(reader, prefix, "anna", CONFIG, late_ms)
    now = lookup.customer(reader, prefix, "anna", CONFIG)
    half = late.edges["purchase>item"][0].weight / now.edges["purchase>item"][0].weight
    assert half == pytest.approx(0.5, rel=0.01)
    assert late.features["days_since_event"] == pytest.approx(28)


def test_without_names_everything_but_the_words_is_there(
    reader: TopicReader, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = lookup.customer(reader, prefix, "anna", CONFIG)
    monkeypatch.setattr(lookup, "read_names", lambda reader, prefix: {})
    view = lookup.customer(reader, prefix, "anna", CONFIG)
    said, coffee = (f"#{hash_of(word).hex()}" for word in ("evt:purchase", "cat:coffee"))
    item = f"#{hash_of('item:i1').hex()}"
    assert view.sessions[1].text == (
        f"[session, sunday, 2:00, 1 to 2 days after the one before] {said}, {coffee}, {item}, price 2 to 4 "
        "[end of session]"
    ), "the grammar has no need of names"
    assert "coffee" not in view.sequence
    assert msgspec.structs.replace(view, sessions=named.sessions, sequence=named.sequence) == named
    assert any(f"#{hash_of('item:i1').hex()}" in line for line in describe(view))


def test_what_few_customers_typed_is_shown_as_its_hash(reader: TopicReader, prefix: str) -> None:
    searched = lookup.customer(reader, prefix, "carl", CONFIG).sessions[-1].text
    secret, wish = (f"#{hash_of(word).hex()}" for word in ("secret", "wish"))
    assert searched == (
        f"[session, friday, 23:00, 12 to 24 hours after the one before] search {secret}, {wish}, dark roast "
        "[end of session]"
    )


def test_pieces_of_a_customer_are_read_from_the_changelog(reader: TopicReader, prefix: str, ingested: Ingested) -> None:
    known = ingested.carl.view()
    assert known.graph.merges and known.timeline.history.merges, "or there are no pieces"
    view = lookup.customer(reader, prefix, "carl", CONFIG)
    assert view.events == VISITS + 1
    assert [entry.start_s * 1000 for entry in view.history] == [
        *(START_MS - (VISITS - number) * DAY_MS for number in range(VISITS)),
        START_MS - HOUR_MS,
    ]
    assert sum(entry.value for entry in view.history) == VISITS * BASKET
    assert {edge.entity_id for edge in view.edges["purchase>item"]} == {
        f"x{number}-{place}" for number in range(VISITS) for place in range(BASKET)
    }
    (tea,) = view.edges["purchase>category"]
    assert (tea.count, tea.first_ms, tea.last_ms) == (VISITS * BASKET, START_MS - VISITS * DAY_MS, START_MS - DAY_MS)
    assert view.features["value_28d"] > 0
    assert any(line.startswith(f"history: {VISITS + 1} sessions that ended since ") for line in describe(view))


def test_older_tail_events_of_a_customer_are_read_from_the_changelog(
    reader: TopicReader, prefix: str, ingested: Ingested
) -> None:
    assert len(ingested.dora.tail) == WAITING
    assert any(key.startswith(keys.piece("dora", TAIL)) for key, _ in ingested.changelog), "or there are no pieces"
    view = lookup.customer(reader, prefix, "dora", CONFIG)
    assert (view.events, view.unsettled, view.history) == (WAITING, WAITING, [])
    (session,) = view.sessions
    assert session.is_open and session.text.count("item view") == WAITING


@pytest.mark.parametrize(
    ("customer", "said"),
    [
        ("nobody", "nothing is known about customer 'nobody'.*never sent"),
        ("refused", "what came was refused; .*no event name.*`pulsegraph dead-letters show clickstream-0-9`"),
        ("gone", "nothing is known.*was erased"),
        ("tombstone", r"was erased at 2017-07-\d\d \d\d:\d\d UTC"),
    ],
)
def test_unknown_and_erased_customers(reader: TopicReader, prefix: str, customer: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        lookup.customer(reader, prefix, customer, CONFIG)


def test_an_entity(reader: TopicReader, prefix: str) -> None:
    view = lookup.entity(reader, prefix, "item:i0", CONFIG)
    assert view.catalog is not None and view.catalog.title == "dark beans"
    (edges,) = view.edges
    assert (edges.type, edges.count) == ("purchase>item", 2)
    assert edges.newest == [("ben", START_MS + 3 * DAY_MS), ("anna", START_MS)]
    assert 1.8 < edges.popularity < 2
    before = lookup.entity(reader, prefix, "item:i0", CONFIG, START_MS + DAY_MS)
    assert before.edges[0].newest == [("anna", START_MS)]
    assert lookup.entity(reader, prefix, "campaign:c18", CONFIG).catalog is None, "encode refuses that one, too"


def test_entities_that_are_none(reader: TopicReader, prefix: str) -> None:
    for name in ("i0", "page:home", "item:"):
        with pytest.raises(ConfigError, match="write it kind:id"):
            lookup.entity(reader, prefix, name, CONFIG)
    with pytest.raises(ConfigError, match="nothing is known about item:none"):
        lookup.entity(reader, prefix, "item:none", CONFIG)


def test_newest_searches_backwards_through_many_records(broker: Any, reader: TopicReader, prefix: str) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "log_level": 0, "linger.ms": 20})
    topic = prefix + "outcomes"
    producer.produce(topic, b"old", b"rare", 0)
    producer.produce(topic, b"newest", b"rare", 0)
    for number in range(24_000):
        producer.produce(topic, str(number).encode(), b"often", 0)
        if number % 5_000 == 0:
            producer.poll(0)
    assert producer.flush(20) == 0
    assert reader.ends([(topic, 0), (topic, 1)]) == {(topic, 0): 24_002, (topic, 1): 0}
    rare, often = reader.newest(topic, 0, b"rare", 24_002), reader.newest(topic, 0, b"often", 24_002)
    assert rare is not None and rare.value() == b"newest"
    assert often is not None and often.value() == b"23999"
    assert reader.newest(topic, 0, b"never", 24_002) is None
    assert reader.newest(topic, 1, b"rare", 0) is None
    assert [message.offset() for message in reader.range(topic, 0, 7_000, 7_003)] == [7_000, 7_001, 7_002]


def test_a_missing_topic(reader: TopicReader) -> None:
    with pytest.raises(TopicMismatch, match="pulsegraph topics create"):
        reader.partitions("no-such-topic")


def test_the_commands(broker: Any, prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--bootstrap", broker.bootstrap, "--prefix", prefix]
    assert cli.main(["customer", "anna", *where]) == 0
    said = capsys.readouterr().out
    for part in (
        "consent: mail:marketing",
        "history: 3 sessions that ended since 2017-07-01 00:00, worth 9.00",
        "timeline: 4 sessions and messages",
        "2017-07-02 00:00  [session, sunday, 2:00, 1 to 2 days after the one before] purchase coffee, item i1, "
        "price 2 to 4 [end of session]",
        "purchase>item: 3",
        "i0 (dark beans)",
        "purchase coffee, item i0 (dark beans), price 2 to 4",
        "redemption of campaign c18, as of 2017-07-04",
        "25.0% likely to stay away for 28 days",
        "because last bought 30 days ago  [RECENCY_HIGH] (+0.40)",
        "not c18: 3 sends on mail in 7 days, 3 allowed  [send_cap]",
    ):
        assert part in said
    assert cli.main(["customer", "anna", "--json", *where]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["history"][0]["item"] == hash_of("item:i0").hex()
    assert found["sessions"][0]["text"].startswith("[session, saturday, 0:00, the first] ")
    assert cli.main(["customer", "anna", "--sequence", *where]) == 0
    assert capsys.readouterr().out == found["sequence"] + "\n"
    assert found["predictions"]["predictions.churn"]["probability"] == 0.25
    assert found["edges"]["purchase>item"][0]["entity_id"] == "i2"
    assert cli.main(["customer", "nobody", *where]) == 2
    assert "nothing is known about customer 'nobody'" in capsys.readouterr().err
    assert cli.main(["entity", "item:i0", "--as-of", "2017-07-02", *where]) == 0
    assert "item:i0 (dark beans)" in capsys.readouterr().out
    assert cli.main(["entity", "item:i0", "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out)["edges"][0]["count"] == 2


def test_tail(broker: Any, prefix: str, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    where = ["--bootstrap", broker.bootstrap, "--prefix", prefix]

    def lines(*options: str) -> list[Any]:
        assert cli.main(["tail", *options, "--from-beginning", "--no-follow", *where]) == 0
        return [json.loads(line) for line in capsysbinary.readouterr().out.splitlines()]

    clicks = lines("clickstream")
    assert [line["value"]["item_id"] for line in clicks] == ["i0", "i1", "i2"]
    assert len(lines("clickstream", "--heartbeats")) == 4
    assert len(lines("clickstream", "-n", "2")) == 2
    assert lines("clickstream", "--customer", "ben") == []
    assert [line["value"]["probability"] for line in lines("predictions.churn", "--customer", "anna")] == [
        0.1,
        0.25,
        0.5,
    ]
    (dead_letter,) = lines("dead-letter", "--customer", "anna")
    assert (dead_letter["reason"], dead_letter["message"], dead_letter["headers"]) == (
        "malformed",
        "not JSON",
        {"x": "1"},
    )
    assert dead_letter["value"].startswith("base64:")
    written = lines("ingest-changelog", "--customer", "anna")
    state = [line["value"] for line in written if line["key"] == "canna"][-1]
    assert state["settled"]["consent"] == ["mail:marketing"]
    snapshot_key = "panna/s" + state["settled"]["pending"][0]["question_id"]
    (snapshot,) = [line["value"] for line in written if line["key"] == snapshot_key]
    assert snapshot["features"]["sends_total"] == 0
    assert snapshot["recent"][0]["words"][4:6] == [hash_of(word).hex() for word in ("evt:purchase", "cat:coffee")]
    assert snapshot["question_id"] == state["settled"]["pending"][0]["question_id"]
    assert lines("entities-changelog", "--key", "item:i0")[-1]["value"]["edges"]["purchase>item"]["count"] == 2
    assert {line["key"] for line in lines("ingest-changelog")} >= {"canna", "m"}
    (word,) = lines("words", "--key", hash_of("item:i1").hex())
    assert word["value"]["word"] == "item:i1"
    pieces = {line["key"]: line for line in lines("ingest-changelog", "--customer", "carl") if "unreadable" not in line}
    assert pieces["pcarl/g"]["value"]["edges"]["purchase>category"]["tea"][0] > 1
    assert pieces["pcarl/h"]["value"]["entries"][0]["category"] == hash_of("cat:tea").hex()
    assert cli.main(["tail", "clickstream", "--raw", "-n", "1", "--from-beginning", *where]) == 0
    assert json.loads(capsysbinary.readouterr().out)["item_id"] == "i0"


NESTED = b"[" * 100_000 + b"]" * 100_000  # deeper than any Python parses


def test_tail_shows_what_nobody_can_read(broker: Any, prefix: str, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "log_level": 0})
    producer.produce(prefix + "redemptions", NESTED, b"anna", partition_for(b"anna", PARTITIONS))
    assert producer.flush(20) == 0
    where = ["--bootstrap", broker.bootstrap, "--prefix", prefix]
    assert cli.main(["tail", "redemptions", "--from-beginning", "--no-follow", *where]) == 0
    line = json.loads(capsysbinary.readouterr().out)
    assert line["unreadable"]
    assert line["value"] == NESTED.decode()


def test_a_prediction_that_nobody_can_read_is_the_oldest() -> None:
    class Nested:
        def value(self) -> bytes:
            return b'{"other": ' + NESTED + b"}"

    assert lookup._as_of_ms(Nested()) == 0  # type: ignore[arg-type]


@pytest.mark.broker
def test_following_tells_when_the_broker_is_gone() -> None:
    with EmbeddedBroker() as broker:
        client = {"bootstrap.servers": broker.bootstrap}
        admin.create_topics(admin.connect(client), prefix="", partitions=1)
        said: list[str] = []
        with TopicReader(client) as reader:
            following = reader.follow("clickstream", {0: 0}, said.append, silence_s=0.5)
            for _ in range(8):
                assert next(following) is None
            assert said == []  # quiet, and there
            broker.stop()
            for _ in range(12):
                assert next(following) is None
            assert said == [f"the broker on {client['bootstrap.servers']} does not answer; still trying, Ctrl-C ends"]


def test_tail_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, said in (
        (["clickstreams"], "did you mean clickstream?"),
        (["clickstream", "-n", "0"], "number above 0"),
        (["clickstream", "--no-follow"], "needs --from-beginning"),
    ):
        assert cli.main(["tail", *argv]) == 2
        assert said in capsys.readouterr().err
