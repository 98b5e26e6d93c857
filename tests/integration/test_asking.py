"""`predict` and `audience` against a deployment: what is printed is what was served, and lists come from its topics."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.pipeline import Pipeline
from support.small_model import save_small_model

from streams import cli
from streams.brokers.embedded import EmbeddedBroker
from streams.kafka import admin
from streams.kafka.partitioning import partition_for
from streams.sources.replay import OrderedProducer

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(180)]

PARTITIONS = 2
CUSTOMERS = 12


class Shop:
    """Twelve customers who bought twice; c00 was erased since, and c01 redeemed an offer of campaign 26."""

    def __init__(self, bootstrap: str, folder: Path) -> None:
        self.bootstrap, self.folder = bootstrap, folder
        self.model = save_small_model(folder / "model")
        self.pipeline = Pipeline(bootstrap, "", PARTITIONS, self.model, folder)
        self.producer = OrderedProducer(bootstrap)
        self.start_ms = int(time.time() * 1000) - 3_600_000
        self.sent = 0

    def send(self, topic: str, key: str, body: dict[str, Any] | None) -> None:
        value = None if body is None else json.dumps(body).encode()
        self.producer.send(topic, key.encode(), value, partition_for(key.encode(), PARTITIONS))
        self.sent += topic != "catalog"

    def taken(self) -> None:
        self.producer.deliver()
        self.pipeline.await_taken(self.sent)
        self.pipeline.await_drained()

    def argv(self, command: str, *more: str) -> list[str]:
        return [command, "--bootstrap", self.bootstrap, *more]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with EmbeddedBroker() as kafka:
        admin.create_topics(admin.connect({"bootstrap.servers": kafka.bootstrap}), partitions=PARTITIONS)
        there = Shop(kafka.bootstrap, tmp_path_factory.mktemp("shop"))
        campaign = {"kind": "campaign", "id": "26", "title": "tea week", "channel": "email", "value": 9}
        there.send("catalog", "campaign:26", campaign)
        there.producer.deliver()
        try:
            there.pipeline.start_worker()
            for visit in range(2):
                for number in range(CUSTOMERS):
                    at_ms = there.start_ms + 60_000 * visit + number
                    if not visit:
                        granted = {"event_ts_ms": at_ms - 1, "consent": {"email": {"marketing": True}}}
                        there.send("profiles", f"c{number:02}", granted)
                    bought = {"event": "purchase", "event_ts_ms": at_ms, "item_id": f"i{number % (2 + visit)}"}
                    there.send("clickstream", f"c{number:02}", bought)
                there.taken()
            used = {"event_ts_ms": there.start_ms + 90_000, "offer_id": "o1", "campaign_id": "26"}
            there.send("redemptions", "c01", used)
            there.send("profiles", "c00", None)
            there.taken()
        finally:
            there.pipeline.stop()
        yield there


def answered(shop: Shop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *more: str) -> Any:
    monkeypatch.setenv("PULSEGRAPH_MODEL_DIR", str(shop.model))
    assert cli.main(shop.argv("predict", "--json", *more)) == 0
    return json.loads(capsys.readouterr().out)


def test_what_is_printed_is_what_was_served(
    shop: Shop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the time of each live prediction: the newest state, from the changelog, and one of before, from the log."""
    for topic in ("predictions.churn", "predictions.next-best-action"):
        live = [
            record
            for record in shop.pipeline.predictions(topic).values()
            if record["customer_id"] in ("c05", "c06") and record.get("snapshot_kind", "event") == "event"
        ]
        assert len({record["as_of_ms"] for record in live}) >= 4, "two visits of two customers"
        newest = {(record["customer_id"], record["as_of_ms"]): record for record in live}
        for (customer, as_of_ms), record in newest.items():
            said = answered(shop, capsys, monkeypatch, "--customer", customer, "--as-of", str(as_of_ms))
            assert (said["snapshot_kind"], said["as_of_ms"], said["kept_from"]) == ("event", as_of_ms, {})
            (found,) = said["predictions"][topic]
            numbers = ("probability", "latency_ms", "chosen", "alternatives", "reason_codes")
            assert {k: v for k, v in found.items() if k not in numbers} == {
                k: v for k, v in record.items() if k not in numbers
            }
            if topic == "predictions.churn":
                assert found["probability"] == pytest.approx(record["probability"], abs=2e-3)
            else:
                assert found["chosen"]["action"] == record["chosen"]["action"]


def test_events_are_added_and_refused(
    shop: Shop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    at_ms = shop.start_ms + 7_200_000
    path = tmp_path / "visit.jsonl"
    lines = [
        {"topic": "clickstream", "event": "purchase", "event_ts_ms": at_ms, "item_id": "i1"},
        {"topic": "clickstream", "event": "purchase", "item_id": "i1"},
        {"topic": "campaign-sends", "event": "send", "event_ts_ms": at_ms + 5, "campaign_id": "26", "channel": "email"},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = answered(shop, capsys, monkeypatch, "--customer", "c05", "--events", str(path))
    plain = answered(shop, capsys, monkeypatch, "--customer", "c05")
    assert (said["added"], plain["added"]) == (2, 0)
    assert [(one["line"], one["reason"]) for one in said["refused"]] == [(2, "invalid_field")]
    (churn,), (before,) = said["predictions"]["predictions.churn"], plain["predictions"]["predictions.churn"]
    assert churn["prediction_id"] != before["prediction_id"] and churn["last_activity_ms"] > before["last_activity_ms"]
    monkeypatch.setenv("PULSEGRAPH_MODEL_DIR", str(shop.model))
    assert cli.main(shop.argv("predict", "--customer", "c05", "--events", str(path))) == 0
    text = capsys.readouterr().out
    assert "line 2 changes nothing" in text and "campaign 26 (tea week)" in text and "valid until" in text
    assert text.startswith("customer c05 as of ")


def test_what_cannot_be_answered_says_why(
    shop: Shop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PULSEGRAPH_MODEL_DIR", str(shop.model))
    for more, said in (
        (("--customer", "nobody"), "nothing is known about customer 'nobody'"),
        (("--customer", "c00"), "customer 'c00' was erased at"),
        (("--customer", "c00", "--as-of", str(shop.start_ms + 1)), "customer 'c00' was erased at"),
        (("--customer", "c05", "--as-of", "2016-01-01"), "has no event up to 2016-01-01 00:00 UTC: the first one was"),
        (("--customer", "c05", "--as-of", "soon"), "'soon' is not a date"),
        (("--customer", "c05", "--events", str(tmp_path / "absent")), "cannot be read"),
    ):
        assert cli.main(shop.argv("predict", *more)) == 2
        assert said in capsys.readouterr().err
    monkeypatch.setenv("PULSEGRAPH_MODEL_DIR", str(tmp_path))
    assert cli.main(shop.argv("predict", "--customer", "c05")) == 2
    assert "pulsegraph train" in capsys.readouterr().err


def test_an_audience_of_a_file_and_of_a_campaign(
    shop: Shop, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    seed, out = tmp_path / "vip.csv", tmp_path / "audience.csv"
    seed.write_text("customer_id\nc02\n\nc00\nc99\nc02\n")
    argv = shop.argv("audience", "--like", str(seed), "--size", "4", "--out", str(out), "--publish", "vip")
    assert cli.main(argv) == 0
    said = capsys.readouterr().err
    assert "1 ids stand there again, 1 lines are blank" in said
    assert "1 were erased: c00" in said and "1 have no embedding" in said and ": c99" in said
    rows = rows_of(out)
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    customers = [row["customer_id"] for row in rows]
    assert not {"c02", "c00"} & set(customers)
    members = [json.loads(message.value()) for message in shop.pipeline.read("audiences")]
    members.sort(key=lambda member: member["rank"])
    assert [member["customer_id"] for member in members] == customers
    assert {(m["name"], m["size"], m["like"], m["seed"]) for m in members} == {("vip", 4, "file:vip.csv", 1)}
    assert cli.main(shop.argv("audience", "--campaign", "26", "--size", "10")) == 0
    found = capsys.readouterr()
    assert len(found.out.splitlines()) == 11 and "c01," not in found.out
    assert cli.main(shop.argv("audience", "--campaign", "27", "--size", "1")) == 2
    assert "nobody has answered campaign '27'" in capsys.readouterr().err
    assert cli.main(shop.argv("audience", "--campaign", "26", "--size", "11")) == 2
    assert "only 10 customers outside the seed" in capsys.readouterr().err


def test_a_list_that_is_followed_forgets_who_is_erased(shop: Shop, tmp_path: Path) -> None:
    seed, out = tmp_path / "vip.csv", tmp_path / "audience.csv"
    seed.write_text("c02\n")
    argv = shop.argv("audience", "--like", str(seed), "--size", "3", "--out", str(out), "--follow", "0.2")
    follower = subprocess.Popen([sys.executable, "-m", "streams.cli", *argv])
    try:
        deadline = time.monotonic() + 60
        while not out.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        first = rows_of(out)[0]["customer_id"]
        shop.producer.send("embeddings.customer", first.encode(), None, partition_for(first.encode(), PARTITIONS))
        shop.producer.deliver()
        while first in {row["customer_id"] for row in rows_of(out)}:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(rows_of(out)) == 3
    finally:
        follower.send_signal(signal.SIGINT)
        assert follower.wait(30) == cli.EXIT_INTERRUPTED


def rows_of(path: Path) -> list[dict[str, str]]:
    """What a list holds."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
