"""``pulsegraph broker``: a Kafka broker to try things with."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from streams.commands import Subparsers, new_parser

if TYPE_CHECKING:
    from streams.brokers.apache import ApacheBroker
    from streams.brokers.embedded import EmbeddedBroker


_FIRST_CONSUMER = (
    "the first consumer of a group waits here for half its session timeout, 23 s with librdkafka's default: "
    "session.timeout.ms=6000 makes it 3"
)


def add(subparsers: Subparsers) -> None:
    parser = new_parser(
        subparsers,
        "broker",
        "run a Kafka broker on this machine until Ctrl-C",
        "The default is an embedded broker, which needs no installation and keeps everything in memory. --apache runs "
        "Apache Kafka 4.3, which keeps its data in a folder. It needs Java 17 and, the first time, Maven (to fetch "
        "45 MB). The address is printed on stdout.",
        "  pulsegraph broker --port 9092\n  pulsegraph broker --apache --nodes 3 --data /var/tmp/kafka",
    )
    parser.add_argument("--port", type=int, default=9092, help="port on 127.0.0.1; 0 takes a free one (default 9092)")
    parser.add_argument("--apache", action="store_true", help="run Apache Kafka instead of the embedded broker")
    parser.add_argument(
        "--nodes", type=int, choices=(1, 3), default=1, help="with --apache: nodes of the cluster (default 1)"
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="with --apache: folder for the data (default: a temporary one)"
    )
    parser.add_argument(
        "--log", type=Path, metavar="FILE", help="log of the embedded broker (default: a temporary file)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from schemas.errors import ConfigError, Stop
    from streams.brokers.processes import tail_of

    if not 0 <= args.port <= 65_535:
        raise ConfigError(f"--port {args.port}: use a number from 0 to 65535")
    received: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        # No threading.Event: set here, it would wait for the lock that a wait interrupted by this very signal holds.
        received.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    broker = _apache(args) if args.apache else _embedded(args)
    try:
        broker.start()
        print(broker.bootstrap, flush=True)
        print(f"broker ready; stop it with Ctrl-C; log: {broker.log_path}", file=sys.stderr)
        if not args.apache:
            print(_FIRST_CONSUMER, file=sys.stderr)
        while not received:
            time.sleep(0.1)
            if not received and not _alive(broker):
                # Its words and not its log's path: a temporary log goes with the broker.
                raise Stop(f"the broker ended by itself; its last log lines: {tail_of(broker.log_path, 3) or 'none'}")
    finally:
        broker.stop()
    return 130 if received[0] == signal.SIGINT else 0


def _embedded(args: argparse.Namespace) -> EmbeddedBroker:
    from schemas.errors import ConfigError
    from streams.brokers.embedded import EmbeddedBroker

    if args.data is not None or args.nodes != 1:
        raise ConfigError(
            "--data and --nodes need --apache: the embedded broker has one node and keeps nothing on disk"
        )
    return EmbeddedBroker(port=args.port, log_path=args.log)


def _apache(args: argparse.Namespace) -> ApacheBroker:
    from schemas.errors import ConfigError
    from streams.brokers.apache import KAFKA_VERSION, ApacheBroker, jars_present, missing_tools

    lacking = missing_tools()
    if lacking is not None:
        raise ConfigError(f"{lacking}. Install it, or leave --apache out for the embedded broker")
    if not jars_present():
        print(f"fetching Apache Kafka {KAFKA_VERSION} with Maven (45 MB, once) ...", file=sys.stderr)
    return ApacheBroker(nodes=args.nodes, data_dir=args.data, port=args.port)


def _alive(broker: EmbeddedBroker | ApacheBroker) -> bool:
    from streams.brokers.embedded import EmbeddedBroker

    if isinstance(broker, EmbeddedBroker):
        return broker.running
    return all(broker.running(node) for node in range(broker.nodes))
