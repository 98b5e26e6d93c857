"""``pulsegraph replay-to``: rebuild the snapshot behind a prediction, and say whether it is the same."""

from __future__ import annotations

import argparse

from schemas.topics import PREDICTION_TOPICS
from streams.commands import Subparsers, add_settings_options, new_parser, settings_from
from streams.inspect.moments import moment


def add(subparsers: Subparsers) -> None:
    parser = new_parser(
        subparsers,
        "replay-to",
        "rebuild the snapshot behind a prediction from the log, and compare it byte for byte",
        "Finds the prediction and its snapshot, reads the source topics up to the snapshot's applied offsets, builds "
        "the snapshot again with the serving code, and compares the two. Exit code 0: equal; 1: different. Needs the "
        "settings of the worker that made the snapshot, and the log from its beginning.",
        "  pulsegraph replay-to 4be0643f1d98573b97cdca98a65347dd --customer 42\n"
        "  pulsegraph replay-to 4be0643f1d98573b97cdca98a65347dd --topic predictions.churn --json",
    )
    parser.add_argument("prediction_id", metavar="PREDICTION_ID", help="from the prediction, or from its ce_id header")
    parser.add_argument("--customer", metavar="ID", help="the prediction's customer: searches one partition only")
    parser.add_argument(
        "--topic",
        choices=tuple(PREDICTION_TOPICS),
        help="where it was published (default: search all)",
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    add_settings_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from schemas.codec import json_encode
    from streams.kafka.reader import TopicReader
    from streams.offline.rebuild import check
    from streams.settings.schema import kafka_client_config

    settings = settings_from(args)
    with TopicReader(kafka_client_config(settings)) as reader:
        found = check(
            reader,
            settings.kafka.prefix,
            args.prediction_id,
            settings.core,
            customer_id=args.customer,
            topic=args.topic,
        )
    if args.json:
        print(json_encode(found).decode())
    else:
        applied = ", ".join(f"{topic} {offset}" for topic, offset in found.applied.items())
        print(f"{found.topic} of customer {found.customer_id}, {found.kind} as of {moment(found.as_of_ms)} UTC")
        print(f"  rebuilt from {found.records_read:,} records up to {applied}")
        print("  the same, byte for byte" if found.same else f"  NOT the same: {', '.join(found.differs_in)}")
    return 0 if found.same else 1
