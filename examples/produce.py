"""An example producer of ``clickstream``: somebody bought something.

    python examples/produce.py --bootstrap 127.0.0.1:9092 --customer 42 --item 1029743 --price 3.99

Needs ``pip install confluent-kafka`` and nothing of pulsegraph. It ends when the broker has the event, and says where.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import uuid

from confluent_kafka import KafkaError, Message, Producer

TOPIC = "clickstream"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bootstrap", default="127.0.0.1:9092", metavar="HOST:PORT")
    parser.add_argument("--prefix", default="", help="PULSEGRAPH_KAFKA_PREFIX of the deployment")
    parser.add_argument("--customer", required=True, metavar="ID")
    parser.add_argument("--item", required=True, metavar="ID")
    parser.add_argument("--price", type=float, required=True)
    args = parser.parse_args()
    producer = Producer(
        {
            "bootstrap.servers": args.bootstrap,
            "partitioner": "murmur2_random",  # librdkafka's default would put customers elsewhere: dead letters
            "enable.idempotence": True,
            "delivery.timeout.ms": 30_000,
        }
    )
    event = {
        "event": "purchase",
        "event_id": str(uuid.uuid4()),  # of the event: who sends it again sends the same id, and it counts once
        "event_ts_ms": int(time.time() * 1000),
        "item_id": args.item,
        "price": args.price,
        "quantity": 1,
    }
    producer.produce(args.prefix + TOPIC, key=args.customer, value=json.dumps(event), on_delivery=report)
    producer.flush()


def report(error: KafkaError | None, message: Message) -> None:
    if error is not None:
        raise SystemExit(f"not delivered: {error}")
    sys.stdout.write(f"{message.topic()} partition {message.partition()} offset {message.offset()}\n")


if __name__ == "__main__":
    main()
