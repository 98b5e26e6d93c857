"""Event time where only one of four topics speaks, with a real worker: it stands until the others count as silent."""

from __future__ import annotations

import time

from support.pipeline import Pipeline
from support.small_model import save_small_model

from schemas import codec
from schemas.events import CLICKSTREAM, SOURCES, Clickstream
from streams.core.customer import Customer
from streams.sources.replay import OrderedProducer

IDLE_MS = 2_000


def test_topics_that_say_nothing_hold_event_time_back_for_a_while(broker, make_topics, tmp_path):
    prefix = make_topics(partitions=1)
    pipeline = Pipeline(
        broker.bootstrap,
        prefix,
        1,
        save_small_model(tmp_path / "model"),
        tmp_path,
        {
            "PULSEGRAPH_INGEST_IDLE_MS": str(IDLE_MS),
            "PULSEGRAPH_CORE_LATENESS_MS": "0",
            "PULSEGRAPH_CORE_SESSION_GAP_MS": "1",
        },
    )
    producer = OrderedProducer(broker.bootstrap)
    event = Clickstream(event="app_open", event_ts_ms=int(time.time() * 1_000))
    producer.send(prefix + SOURCES[CLICKSTREAM], b"c1", codec.json_encode(event), 0)
    producer.deliver()

    def waiting() -> list[int]:
        """After each checkpoint that changed the customer, how many of the events waited for their place."""
        records = [one.value() for one in pipeline.read("ingest-changelog") if one.key() == b"cc1"]
        return [len(Customer.decode(None, record).tail) for record in records]  # type: ignore[arg-type]

    try:
        pipeline.start_worker(roles="ingest")
        pipeline.await_taken(1)
        deadline = time.monotonic() + 60
        while waiting()[-1]:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert waiting()[0] == 1
    finally:
        pipeline.stop()
