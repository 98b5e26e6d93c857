"""``pulsegraph simulate``: customers with known truth, to Kafka or to a file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from streams.commands import (
    MOST_CUSTOMERS,
    Subparsers,
    add_settings_options,
    day_ms,
    new_parser,
    rate,
    settings_from,
    whole,
)

if TYPE_CHECKING:
    from streams.sources.simulate import Simulator

_MALFORMED = 0.01


def add(subparsers: Subparsers) -> None:
    parser = new_parser(
        subparsers,
        "simulate",
        "produce the events of simulated customers whose true behaviour is known",
        "They browse, buy, get offers by email, push and sms, use them, and one day stop coming. All four source "
        "topics and the catalog are written. Equal arguments give equal events. --truth writes what the events do not "
        "show: each customer's hazard, tastes, favourite hour and channel, and the true probabilities of every send.",
        "  pulsegraph simulate --customers 500 --days 60 --rate 500\n"
        "  pulsegraph simulate --customers 100 --days 7 --out events.jsonl --truth truth.jsonl",
    )
    parser.add_argument(
        "--customers",
        type=whole(1, MOST_CUSTOMERS),
        default=500,
        metavar="N",
        help="number of customers at the end (default 500)",
    )
    parser.add_argument(
        "--days", type=whole(1, 36_500), default=60, metavar="N", help="days of event time (default 60)"
    )
    parser.add_argument("--start", default="2017-01-01", metavar="DAY", help="first day, UTC (default 2017-01-01)")
    parser.add_argument("--seed", type=whole(0), default=0, help="seed of every random choice (default 0)")
    parser.add_argument(
        "--erased",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of customers that are erased at some point, 0 to 1",
    )
    parser.add_argument(
        "--faults", action="store_true", help="add faults: 5%% duplicates, disorder, 1%% malformed records"
    )
    parser.add_argument("--rate", type=rate, metavar="N", help="events per second (default: as fast as possible)")
    parser.add_argument("--out", metavar="FILE", help="write JSON lines to this file (- is stdout) instead of to Kafka")
    parser.add_argument(
        "--truth", type=Path, metavar="FILE", help="write each customer's truth to this file, as JSON lines"
    )
    parser.add_argument("--json", action="store_true", help="print the report as one line of JSON")
    add_settings_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from schemas.codec import json_encode
    from schemas.errors import ConfigError
    from streams.sources.simulate import Simulator, faults

    if not 0 <= args.erased <= 1:
        raise ConfigError(f"--erased {args.erased:g}: give a share from 0 to 1")
    simulator = Simulator(args.seed, args.customers, day_ms(args.start), args.days, erased_share=args.erased)
    if args.truth is not None:
        with _opened(str(args.truth)) as file:
            file.writelines(json_encode(truth) + b"\n" for truth in simulator.truth())
    if args.out is not None:
        if args.faults or args.rate is not None:
            raise ConfigError("--faults and --rate work with Kafka only: leave them out with --out")
        with _opened(args.out) as file:
            file.writelines(_lines(simulator))
        return 0
    from streams.commands.replay import produce, show

    settings = settings_from(args)
    records = simulator.records()
    produced = faults(records, args.seed, malformed=_MALFORMED) if args.faults else records
    done = produce(settings, produced, simulator.catalog(), simulator.start_ms, simulator.end_ms, args.rate)
    show(done, simulator.end_ms, args.json)
    return 0


def _lines(simulator: Simulator) -> Iterator[bytes]:
    """The catalog, then every event: topic, key, value; what a producer would send, in order."""
    from schemas.codec import json_encode

    for entry in simulator.catalog():
        yield json_encode({"topic": "catalog", "key": entry.key, "value": entry}) + b"\n"
    for record in simulator.records():
        line = {"topic": record.topic, "key": record.key, "event_ts_ms": record.event_ts_ms, "value": record.body}
        yield json_encode(line) + b"\n"


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    from schemas.errors import ConfigError

    if name == "-":
        yield sys.stdout.buffer
        return
    try:
        with open(name, "wb") as file:
            yield file
    except OSError as error:
        raise ConfigError(f"{name} cannot be written: {error.strerror}") from error
