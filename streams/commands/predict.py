"""``pulsegraph predict``: what every task says of a customer, now, at a past time, or with events added."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from streams.commands import Subparsers, add_settings_options, day_ms, new_parser, settings_from
from streams.inspect.moments import moment

if TYPE_CHECKING:
    from streams.offline.ask import Answered


def add(subparsers: Subparsers) -> None:
    parser = new_parser(
        subparsers,
        "predict",
        "predict a customer now, at a past time, or with events added",
        "Reads the customer's state from the changelog, or for a past time from the source topics; runs the model "
        "here, and writes nothing. Records are those that encode would write of the same question, with the same ids. "
        "The catalog is that of now. Needs the settings and the model of the workers; a past time needs the log from "
        "its beginning. Events are lines of JSON as on their topics, with the topic's name beside the fields: "
        '{"topic": "clickstream", "event": "purchase", "event_ts_ms": 1498867200000, "item_id": "5"}.',
        "  pulsegraph predict --customer 42\n  pulsegraph predict --customer 42 --as-of 2017-06-01T18:00\n"
        "  pulsegraph predict --customer 42 --events visit.jsonl --json",
    )
    parser.add_argument("--customer", required=True, metavar="ID", help="the customer's id, as in the record key")
    parser.add_argument(
        "--as-of",
        metavar="TIME",
        help="day or time, UTC, or epoch ms (default: as far as event time has come in the customer's partition)",
    )
    parser.add_argument(
        "--events", type=Path, metavar="FILE", help="events to add before the question, a line of JSON each"
    )
    parser.add_argument("--json", action="store_true", help="print everything as one line of JSON")
    add_settings_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import time

    from schemas.codec import json_encode
    from schemas.errors import ConfigError
    from schemas.model_versions import MODELS
    from streams.inspect.catalog_now import read_catalog
    from streams.inspect.titles import titles_of
    from streams.kafka.reader import TopicReader
    from streams.offline.ask import answer, ask_customer
    from streams.serving.announcements import newest_announcement
    from streams.serving.model_swap import first_model
    from streams.settings.schema import kafka_client_config
    from streams.telemetry.metrics import Metrics

    settings = settings_from(args)
    lines: list[bytes] = []
    if args.events:
        try:
            lines = args.events.read_bytes().splitlines()
        except OSError as error:
            raise ConfigError(f"--events {args.events} cannot be read ({error.strerror})") from error
    with TopicReader(kafka_client_config(settings)) as reader:
        prefix = settings.kafka.prefix
        as_of_ms = None if args.as_of is None else _time_ms(args.as_of)
        question = ask_customer(reader, prefix, args.customer, settings.core, as_of_ms, lines)
        catalog = read_catalog(reader, prefix)
        announced, _ = newest_announcement(reader, prefix + MODELS)
    predictor = first_model(announced, settings, Metrics())
    wall_ms = int(time.time() * 1000)
    found = answer(question, predictor, catalog, settings.decide, settings.core, lambda: wall_ms)
    if args.json:
        print(json_encode(found).decode())
    else:
        for line in describe(found, titles_of(catalog)):
            print(line)
    return 0


def describe(found: Answered, titles: Mapping[str, str]) -> Iterator[str]:
    """The answers for a person, a block a record."""
    from streams.inspect.prediction_text import block
    from streams.offline.ask import decoded

    added = f", {found.added} event{'s' * (found.added != 1)} added" if found.added else ""
    yield f"customer {found.customer_id} as of {moment(found.as_of_ms)} UTC, model {found.model_version}{added}"
    for topic, from_ms in found.kept_from.items():
        yield f"  {topic} is kept from {moment(from_ms)} UTC on: what happened before is missing from this state"
    for line in found.refused:
        yield f"  line {line.line} changes nothing: {line.message}  [{line.reason}]"
    for topic, prediction in decoded(found):
        yield ""
        yield from block(topic, prediction, titles)
    for task, why in found.not_predicted.items():
        yield ""
        yield f"{task}: {why}"


def _time_ms(text: str) -> int:
    """As records say it, or as people do."""
    return int(text) if text.isdigit() and len(text) > 8 else day_ms(text)
