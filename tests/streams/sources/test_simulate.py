"""The simulator's records agree with its truth; its faults are the faults they claim to be."""

from __future__ import annotations

from collections import Counter, defaultdict

import msgspec
import pytest

from schemas.codec import decode_event
from schemas.errors import ConfigError, DeadLetter
from schemas.events import SOURCE_INDEX, SOURCES, CampaignSend, Clickstream, Profile, Redemption
from streams.sources.datasets.record import SourceRecord, encoded, order
from streams.sources.simulate import FAULTS, CustomerTruth, Simulator, faults
from streams.sources.simulate.truth import (
    OPEN_COEFFICIENTS,
    OPEN_INTERCEPT,
    REDEEM_COEFFICIENTS,
    REDEEM_INTERCEPT,
    probability,
)

START_MS = 1_700_006_400_000
DAY_MS = 86_400_000


def _simulator(seed: int = 7, **options: float) -> Simulator:
    arguments = {"customers": 400, "days": 60, "erased_share": 0.05} | options
    return Simulator(
        seed,
        int(arguments["customers"]),
        START_MS,
        int(arguments["days"]),
        erased_share=arguments["erased_share"],
    )


@pytest.fixture(scope="module")
def simulator() -> Simulator:
    return _simulator()


@pytest.fixture(scope="module")
def records(simulator: Simulator) -> list[SourceRecord]:
    return list(simulator.records())


@pytest.fixture(scope="module")
def truth(simulator: Simulator) -> dict[str, CustomerTruth]:
    return {known.customer_id: known for known in simulator.truth()}


def test_same_seed_same_bytes(simulator: Simulator, records: list[SourceRecord]) -> None:
    raw = list(encoded(records))
    assert list(encoded(simulator.records())) == raw
    assert list(encoded(_simulator().records())) == raw
    assert list(encoded(_simulator(seed=8).records())) != raw
    assert _simulator().truth() == simulator.truth()


def test_a_run_covers_every_topic_and_event(simulator: Simulator, records: list[SourceRecord]) -> None:
    assert {record.topic for record in records} == set(SOURCES)
    assert all(simulator.start_ms <= record.event_ts_ms < simulator.end_ms for record in records)
    seen = Counter(record.body.event for record in records if isinstance(record.body, Clickstream | CampaignSend))
    assert set(seen) == {
        "page_view", "search", "item_view", "add_to_cart", "remove_from_cart", "purchase", "app_open",
        "send", "delivered", "open", "click", "bounce", "unsubscribe",
    }  # fmt: skip


def test_records_are_in_order_with_unique_ids(records: list[SourceRecord]) -> None:
    assert records == sorted(records, key=order)
    ids = [record.body.event_id for record in records if record.body is not None]
    assert None not in ids
    assert len(set(ids)) == len(ids)


def test_records_pass_the_contract(records: list[SourceRecord]) -> None:
    for record, raw in zip(records, encoded(records), strict=True):
        event = decode_event(SOURCE_INDEX[raw.topic], raw.key, raw.value, (), raw.event_ts_ms, 0)
        assert (event.customer_id, event.event_ts_ms, event.body) == (record.key, record.event_ts_ms, record.body)


def test_nobody_acts_before_joining_or_after_death(
    records: list[SourceRecord], truth: dict[str, CustomerTruth], simulator: Simulator
) -> None:
    """Only what a sender does goes on: sends, deliveries and bounces."""
    assert any(known.death_ms < simulator.end_ms for known in truth.values())
    after_death = Counter[str]()
    for record in records:
        known = truth[record.key]
        assert record.event_ts_ms >= known.joined_ms
        if record.event_ts_ms >= known.death_ms:
            after_death[record.body.event if isinstance(record.body, CampaignSend) else record.topic] += 1
    assert after_death["send"] > 0
    # An erasure is asked for by the dead as well: somebody else does it for them.
    assert set(after_death) <= {"send", "delivered", "bounce", "profiles"}


def test_nothing_follows_an_erasure(records: list[SourceRecord], truth: dict[str, CustomerTruth]) -> None:
    erased = {known.customer_id: known.erased_ms for known in truth.values() if known.erased_ms is not None}
    tombstones = {record.key: record.event_ts_ms for record in records if record.body is None}
    assert tombstones == erased
    assert erased
    last = {record.key: record for record in records}
    assert all(last[key].body is None for key in erased)
    assert all(record.body is not None for record in _simulator(erased_share=0.0, days=20).records())


def test_every_customer_has_a_profile_first(records: list[SourceRecord], truth: dict[str, CustomerTruth]) -> None:
    first: dict[str, SourceRecord] = {}
    for record in records:
        first.setdefault(record.key, record)
    assert set(first) == set(truth)
    for key, record in first.items():
        assert isinstance(record.body, Profile) and isinstance(record.body.consent, dict)
        assert {name: granted["marketing"] for name, granted in record.body.consent.items()} == truth[key].consent


def test_sends_respect_consent_as_of_their_time(records: list[SourceRecord]) -> None:
    consent: dict[str, dict[str, dict[str, bool]]] = {}
    revoked = 0
    for record in records:
        if isinstance(record.body, Profile) and isinstance(record.body.consent, dict):
            revoked += record.key in consent and record.body.consent != consent[record.key]
            consent[record.key] = record.body.consent
        elif isinstance(record.body, CampaignSend) and record.body.event == "send":
            assert record.body.channel is not None
            assert consent[record.key][record.body.channel]["marketing"]
    assert revoked > 0


def test_responses_are_the_records(
    records: list[SourceRecord], truth: dict[str, CustomerTruth], simulator: Simulator
) -> None:
    opened = {
        record.body.send_id
        for record in records
        if isinstance(record.body, CampaignSend) and record.body.event == "open"
    }
    redeemed = {record.body.send_id for record in records if isinstance(record.body, Redemption)}
    sent = {
        record.body.send_id: record
        for record in records
        if isinstance(record.body, CampaignSend) and record.body.event == "send"
    }
    responses = [response for known in truth.values() for response in known.responses]
    assert {response.send_id for response in responses} == set(sent)
    assert {response.send_id for response in responses if response.opened} == opened
    assert {response.send_id for response in responses if response.redeemed} == redeemed
    assert redeemed
    for response in responses:
        assert sent[response.send_id].event_ts_ms == response.send_ms
        terms = msgspec.structs.asdict(response)
        assert response.p_redeem == pytest.approx(probability(REDEEM_INTERCEPT, REDEEM_COEFFICIENTS, terms))
        assert response.p_open == pytest.approx(probability(OPEN_INTERCEPT, OPEN_COEFFICIENTS, terms))


def test_the_living_respond_as_often_as_the_truth_says(truth: dict[str, CustomerTruth], simulator: Simulator) -> None:
    alive = [
        response
        for known in truth.values()
        for response in known.responses
        if known.death_ms > simulator.end_ms and known.erased_ms is None
        if response.send_ms < simulator.end_ms - 11 * DAY_MS
    ]
    assert len(alive) > 500
    for happened, expected in (
        (sum(r.redeemed for r in alive), sum(r.p_redeem for r in alive)),
        (sum(r.opened for r in alive), sum(r.p_open for r in alive)),
    ):
        assert abs(happened - expected) < 4 * expected**0.5


def test_redemptions_come_with_a_purchase_of_the_offer(simulator: Simulator, records: list[SourceRecord]) -> None:
    items = {entry.id: set(entry.items) for entry in simulator.catalog() if entry.kind == "offer"}
    bought: dict[tuple[str, int], set[str | None]] = defaultdict(set)
    for record in records:
        if isinstance(record.body, Clickstream) and record.body.event == "purchase":
            bought[record.key, record.event_ts_ms].add(record.body.item_id)
        elif isinstance(record.body, Redemption):
            assert bought[record.key, record.event_ts_ms] & items[record.body.offer_id]


def test_catalog_names_what_events_name(simulator: Simulator, records: list[SourceRecord]) -> None:
    keys = {entry.key for entry in simulator.catalog()}
    for record in records:
        if isinstance(record.body, Clickstream) and record.body.item_id is not None:
            assert f"item:{record.body.item_id}" in keys
        elif isinstance(record.body, CampaignSend):
            assert {f"campaign:{record.body.campaign_id}", f"offer:{record.body.offer_id}"} <= keys
            assert {f"template:{record.body.template_id}", f"channel:{record.body.channel}"} <= keys


def test_a_start_within_a_day_is_refused() -> None:
    with pytest.raises(ConfigError, match="midnight"):
        Simulator(1, 1, START_MS + 1, 1)


def test_faults_deliver_every_record_within_the_bound(records: list[SourceRecord]) -> None:
    clean = list(encoded(records))
    faulty = list(faults(records, 3, duplicate=0.1, reorder_ms=60_000))
    assert set(map(_identity, faulty)) == set(map(_identity, clean))
    assert len(clean) * 1.08 < len(faulty) < len(clean) * 1.12
    newest_ms = overtaken = 0
    for record in faulty:
        assert record.event_ts_ms >= newest_ms - 60_000
        overtaken += record.event_ts_ms < newest_ms
        newest_ms = max(newest_ms, record.event_ts_ms)
    assert overtaken > len(clean) * 0.05
    assert faulty == list(faults(records, 3, duplicate=0.1, reorder_ms=60_000))


def test_without_faults_nothing_changes(records: list[SourceRecord]) -> None:
    assert list(faults(records, 3, duplicate=0.0, reorder_ms=0)) == list(encoded(records))


def test_late_records_come_past_the_bound(records: list[SourceRecord]) -> None:
    newest_ms = late = 0
    for record in faults(records, 3, duplicate=0.0, reorder_ms=1_000, late=0.01):
        late += record.event_ts_ms < newest_ms - 1_000
        newest_ms = max(newest_ms, record.event_ts_ms)
    assert 0.005 < late / len(records) < 0.015


def test_every_class_of_bad_record_is_refused_as_it_says(records: list[SourceRecord]) -> None:
    clean = set(map(_identity, encoded(records)))
    refused: Counter[type[DeadLetter]] = Counter()
    bad = [record for record in faults(records, 3, malformed=0.01) if _identity(record) not in clean]
    assert len(bad) > 2 * len(FAULTS)
    for record in bad:
        with pytest.raises(DeadLetter) as refusal:
            decode_event(SOURCE_INDEX[record.topic], record.key, record.value, (), record.event_ts_ms + DAY_MS, 600_000)
        refused[refusal.type] += 1
    assert set(refused) == {expected for expected, _ in FAULTS.values()}


@pytest.mark.parametrize("name", FAULTS)
def test_a_bad_record_of_each_class(name: str, records: list[SourceRecord]) -> None:
    expected, spoil = FAULTS[name]
    for topic in SOURCES:
        good = next(raw for raw in encoded(records) if raw.topic == topic and raw.value is not None)
        assert good.value is not None
        bad = spoil(good, msgspec.json.decode(good.value))
        with pytest.raises(expected):
            decode_event(SOURCE_INDEX[bad.topic], bad.key, bad.value, (), bad.event_ts_ms + DAY_MS, 600_000)


def _identity(record: object) -> bytes:
    return msgspec.msgpack.encode(record)
