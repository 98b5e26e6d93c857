"""A state that goes on where the log has nothing, or nothing yet, is told."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import TopicPartition
from support.owners import fill

from schemas.errors import TopicMismatch
from streams.brokers.apache import ApacheBroker
from streams.kafka import admin
from streams.kafka.positions import continuation


def test_where_the_log_goes_on(broker: Any, make_topics: Any) -> None:
    prefix = make_topics(partitions=2)
    fill(broker.bootstrap, prefix, 20)
    client = {"bootstrap.servers": broker.bootstrap}
    clickstream = prefix + "clickstream"
    for start in (0, 20):
        found = continuation(client, "group", {(clickstream, 0): start, (clickstream, 1): 0})
        assert (found.missed, found.firsts, found.open_since) == ({}, {}, {})
    with pytest.raises(TopicMismatch, match=r"clickstream-0 ends at 20, and the state .* before 21: the topic"):
        continuation(client, "group", {(clickstream, 0): 21}, patience_s=0.1)


@pytest.mark.apache
def test_what_retention_took_is_counted() -> None:
    with ApacheBroker() as kafka:
        client: dict[str, Any] = {"bootstrap.servers": kafka.bootstrap}
        connected = admin.connect(client)
        admin.create_topics(connected, partitions=1)
        fill(kafka.bootstrap, "", 20)
        (removed,) = connected.delete_records([TopicPartition("clickstream", 0, 12)], request_timeout=60).values()
        removed.result(60)
        found = continuation(client, "group", {("clickstream", 0): 5, ("redemptions", 0): 0})
        assert (found.missed, found.firsts) == ({("clickstream", 0): 7}, {("clickstream", 0): 12})
        assert continuation(client, "group", {("clickstream", 0): 12}).missed == {}
