"""Both data sets go through Kafka and ingest, and come to the sums that their own files have.

What is expected is added up here from the rows of the files, not by the code that makes events of them.
``PULSEGRAPH_TEST_SUMS`` is how many events of each data set are replayed, of whole customers; 0 is all of them.
"""

from __future__ import annotations

import csv
import gzip
import os
from collections import defaultdict
from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import pyarrow.parquet
import pytest
from support.brokers import HasBootstrap
from support.pipeline import Pipeline, stored

from schemas.errors import ConfigError
from schemas.graph import GraphEdges
from schemas.snapshot import sessions
from streams.core.config import DAY_MS
from streams.core.customer import HISTORY, CustomerRecord, OlderSessions
from streams.sources.datasets import complete_journey_tables, online_retail
from streams.sources.replay import OrderedProducer, replay
from streams.sources.source import Source, load_source
from streams.state import keys

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(600)]

EVENTS: Final = int(os.environ.get("PULSEGRAPH_TEST_SUMS", "3000")) or None
PARTITIONS: Final = 2
NO_ARTICLES: Final = {"POST", "DOT", "C2", "BANK CHARGES", "AMAZONFEE", "CRUK", "D", "S", "M", "B"}

Line = tuple[str, str, int]
"""(customer, item, event ms)"""


class Sums(NamedTuple):
    purchases: set[Line]
    returns: set[Line]
    values: dict[str, float]
    """Customer -> what they spent, less what they got back."""


def complete_journey(customers: Collection[str]) -> Sums:
    """A line of the transactions is a purchase; those of more than 100 are fuel by the gallon or so, and left out."""
    names = ["household_id", "product_id", "transaction_timestamp", "quantity", "sales_value"]
    table = pyarrow.parquet.read_table(complete_journey_tables.data_directory() / "transactions.parquet", columns=names)
    sums = Sums(set(), set(), defaultdict(float))
    for household, product, at, quantity, value in zip(
        *(table.column(name).to_pylist() for name in names), strict=True
    ):
        customer = str(int(household))
        if customer in customers and quantity <= 100:
            sums.purchases.add((customer, str(int(product)), round(at.timestamp() * 1000)))
            sums.values[customer] += value
    return sums


def online_retail_sums(customers: Collection[str]) -> Sums:
    """A line of an invoice is a purchase, or a return where the invoice's number begins with C."""
    sums = Sums(set(), set(), defaultdict(float))
    with gzip.open(online_retail.data_file(), "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    began: dict[str, int] = {}
    priced: set[str] = set()
    for row in rows:
        local = datetime.fromisoformat(row["InvoiceDate"]).replace(tzinfo=ZoneInfo("Europe/London"))
        began.setdefault(row["InvoiceNo"], round(local.timestamp() * 1000))
        if row["CustomerID"] or float(row["UnitPrice"]):
            priced.add(row["InvoiceNo"])
    for row in rows:
        invoice, code, quantity = row["InvoiceNo"], row["StockCode"].upper(), float(row["Quantity"])
        customer = row["CustomerID"].removesuffix(".0") or f"guest-{invoice}"
        is_return = invoice.startswith("C")
        is_stock = invoice not in priced or (quantity < 0 and not is_return)
        if customer in customers and code not in NO_ARTICLES and not is_stock:
            (sums.returns if is_return else sums.purchases).add((customer, code, began[invoice]))
            sums.values[customer] += quantity * float(row["UnitPrice"])
    return sums


def ingested(pipeline: Pipeline) -> Sums:
    """What left with the edges, and what the customers' sessions are worth."""
    lines: dict[str, set[Line]] = {"purchase>item": set(), "returned>item": set()}
    for message in pipeline.read("graph-edges"):
        for edge in msgspec.msgpack.decode(message.value(), type=GraphEdges).edges:
            if edge.type in lines:
                lines[edge.type].add((edge.customer_id, edge.entity.removeprefix("item:"), edge.event_ts_ms))
    values: dict[str, float] = defaultdict(float)
    for (role, _, key), value in stored([pipeline.state_dir()]).items():
        if role == "ingest" and key.startswith(keys.RECORD):
            known = msgspec.msgpack.decode(value, type=CustomerRecord)
            assert not known.tail and not known.older, "the last heartbeat settles all of it"
            timeline = known.settled.timeline
            values[key.removeprefix(keys.RECORD).decode()] += timeline.tally.value + worth(timeline.history.fresh)
        elif role == "ingest" and key.startswith(keys.PIECE) and keys.parse_piece(key)[1] == HISTORY:
            values[keys.parse_piece(key)[0]] += worth(msgspec.msgpack.decode(value, type=OlderSessions).entries)
    return Sums(lines["purchase>item"], lines["returned>item"], values)


def worth(history: bytes) -> float:
    return sum(session.value for session in sessions(history))


def loaded(name: str) -> Source:
    try:
        return load_source(name)
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("name", "of_rows"), [("complete-journey", complete_journey), ("online-retail", online_retail_sums)]
)
def test_a_data_set_comes_to_the_sums_of_its_rows(
    name: str,
    of_rows: Callable[[Collection[str]], Sums],
    broker: HasBootstrap,
    make_topics: Callable[..., str],
    tmp_path: Path,
) -> None:
    source = loaded(name)
    records = list(source.records(source.from_ms, source.until_ms, EVENTS))
    customers = {record.key for record in records}
    prefix = make_topics(PARTITIONS)
    pipeline = Pipeline(broker.bootstrap, prefix, PARTITIONS, tmp_path / "none", tmp_path)
    producer = OrderedProducer(broker.bootstrap)
    try:
        pipeline.start_worker(roles="ingest")
        done = replay(
            records, producer, partitions=PARTITIONS, prefix=prefix, until_ms=source.until_ms + DAY_MS
        )  # fmt: skip
        pipeline.await_taken(sum(done.produced.values()) + done.heartbeats, timeout_s=500)
        pipeline.stop()
        found, expected = ingested(pipeline), of_rows(customers)
        assert pipeline.read("dead-letter") == []
    finally:
        pipeline.stop()
    assert len(expected.purchases) > 1000 and (name == "complete-journey" or len(expected.returns) > 100)
    assert found.purchases == expected.purchases
    assert found.returns == expected.returns
    assert found.values.keys() == customers
    for customer in customers:
        assert found.values[customer] == pytest.approx(expected.values[customer], abs=0.01), customer
    assert sum(found.values.values()) == pytest.approx(sum(expected.values.values()), abs=0.01)
