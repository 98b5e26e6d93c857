"""``pulsegraph tail``: records of any topic as lines of JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from streams.commands import Subparsers, add_settings_options, new_parser, settings_from

if TYPE_CHECKING:
    from confluent_kafka import Message

    from schemas.topics import Topic
    from streams.kafka.reader import TopicReader


def add(subparsers: Subparsers) -> None:
    parser = new_parser(
        subparsers,
        "tail",
        "follow a topic and print its records, one line of JSON each",
        "Reads JSON and msgpack, and names every field. Starts with the next record, or with the oldest one kept "
        "(--from-beginning), and runs until -n records are printed or Ctrl-C. Joins no consumer group. Dead letters "
        "show why they were refused.",
        "  pulsegraph tail predictions.next-best-action\n"
        "  pulsegraph tail clickstream --customer 42 --from-beginning --no-follow\n"
        "  pulsegraph tail dead-letter --from-beginning -n 5",
    )
    parser.add_argument("topic", metavar="TOPIC", help="logical name, see `pulsegraph topics list`")
    parser.add_argument(
        "--customer", "--key", dest="key", metavar="ID", help="only records with this key: a customer, or kind:id"
    )
    parser.add_argument("--from-beginning", action="store_true", help="start with the oldest record that is kept")
    parser.add_argument("--no-follow", action="store_true", help="stop after the records that are there now")
    parser.add_argument("-n", dest="count", type=int, metavar="N", help="stop after N records")
    parser.add_argument("--raw", action="store_true", help="print only the values, unchanged")
    parser.add_argument("--heartbeats", action="store_true", help="print heartbeats too")
    add_settings_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from schemas.errors import ConfigError
    from schemas.topics import TOPICS
    from streams.kafka.reader import TopicReader
    from streams.settings.reader import suggestion
    from streams.settings.schema import kafka_client_config

    settings = settings_from(args)
    name = args.topic.removeprefix(settings.kafka.prefix)
    topic = TOPICS.get(name)
    if topic is None:
        raise ConfigError(
            f"there is no topic {name!r}{suggestion(name, list(TOPICS))}; choose from {', '.join(TOPICS)}"
        )
    if args.count is not None and args.count < 1:
        raise ConfigError(f"-n {args.count}: give a number above 0, or omit it")
    if args.no_follow and not args.from_beginning:
        raise ConfigError("--no-follow prints the records that are there now, so it needs --from-beginning")
    with TopicReader(kafka_client_config(settings)) as reader:
        full_name = settings.kafka.prefix + name
        messages = _messages(reader, full_name, _partitions(reader, topic, full_name, args.key), args)
        wanted = (message for message in messages if _is_wanted(message, topic, args.key, args.heartbeats))
        for message in islice(wanted, args.count):
            line = message.value() or b"null" if args.raw else _line(topic, message)
            sys.stdout.buffer.write(line + b"\n")
            sys.stdout.buffer.flush()
    return 0


def _partitions(reader: TopicReader, topic: Topic, full_name: str, key: str | None) -> list[int]:
    from streams.kafka.partitioning import partition_for

    count = reader.partitions(full_name)
    if key is None or topic.format == "bytes":
        return list(range(count))
    return [partition_for(key.encode(), count)]


def _messages(reader: TopicReader, topic: str, partitions: list[int], args: argparse.Namespace) -> Iterator[Message]:
    found = reader.ends((topic, partition) for partition in partitions)
    ends = {partition: end for (_, partition), end in found.items()}
    if args.no_follow:
        for partition, end in ends.items():
            yield from reader.range(topic, partition, 0, end)
        return
    starts = dict.fromkeys(partitions, 0) if args.from_beginning else ends
    yield from (message for message in reader.follow(topic, starts, _say) if message is not None)


def _say(text: str) -> None:
    print(f"pulsegraph tail: {text}", file=sys.stderr, flush=True)


def _is_wanted(message: Message, topic: Topic, key: str | None, with_heartbeats: bool) -> bool:
    from schemas.heartbeat import HEARTBEAT_KEY
    from streams.state import keys

    found = message.key()
    if found == HEARTBEAT_KEY and topic.format != "bytes":
        return with_heartbeats
    if key is None:
        return True
    if topic.is_changelog:
        return keys.identity(found or b"") == key
    return bool(found == key.encode())


def _line(topic: Topic, message: Message) -> bytes:
    from schemas.codec import json_encode
    from streams.inspect.render import key_text, refused_value, stored_key_text, value_of
    from streams.serving.catalog import UNREADABLE

    key, value = message.key(), message.value()
    place: dict[str, Any] = {
        "partition": message.partition(),
        "offset": message.offset(),
        "timestamp_ms": message.timestamp()[1],
        "key": stored_key_text(key) if topic.is_changelog else key_text(key),
    }
    if topic.format == "bytes":
        headers = message.headers() or {}
        pairs = list(headers.items() if isinstance(headers, dict) else headers)
        return json_encode(place | refused_value(value, pairs))
    try:
        return json_encode(place | {"value": value_of(topic.name, key, value)})
    except UNREADABLE as error:
        shown = key_text(value)
        return json_encode(place | {"unreadable": str(error), "value": shown})
