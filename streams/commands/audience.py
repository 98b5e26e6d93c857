"""``pulsegraph audience``: the customers who are most like some others."""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from streams.commands import (
    MOST_CUSTOMERS,
    Subparsers,
    above_zero,
    add_settings_options,
    new_parser,
    settings_from,
    whole,
)

if TYPE_CHECKING:
    from schemas.audiences import AudienceMember
    from streams.kafka.clients import ClientConfig
    from streams.kafka.reader import TopicReader
    from streams.serving.audience import Audience, Seed
    from streams.serving.known_embeddings import KnownEmbeddings


def add(subparsers: Subparsers) -> None:
    parser = new_parser(
        subparsers,
        "audience",
        "find the customers who are most like some others",
        "Reads the embeddings, compares everybody with the nearest customers of the seed, and writes those who are "
        "most alike as CSV: customer_id, score, rank. The seed is not among them. Embeddings of one model are "
        "compared. An "
        "audience is no permission to send: ask the decision in force.",
        "  pulsegraph audience --like vip.csv --size 500 --out audience.csv\n"
        "  pulsegraph audience --campaign 26 --size 500 --publish spring\n"
        "  pulsegraph audience --like vip.csv --size 500 --out audience.csv --follow 60",
    )
    seed = parser.add_mutually_exclusive_group(required=True)
    seed.add_argument(
        "--like",
        type=Path,
        metavar="FILE",
        help="ids of the seed: one a line, or a CSV file whose first column, or column customer_id, has them",
    )
    seed.add_argument(
        "--campaign", metavar="ID", help="the seed is who redeemed, opened or clicked this campaign, as topics say"
    )
    parser.add_argument(
        "--size", type=whole(1, MOST_CUSTOMERS), required=True, metavar="N", help="how many customers to find"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write (default: to the terminal)")
    parser.add_argument(
        "--publish",
        metavar="NAME",
        help="also write a record for each member to the topic audiences, as a list of this name",
    )
    parser.add_argument(
        "--model", metavar="VERSION", help="compare embeddings of this model (default: the one that was at work last)"
    )
    parser.add_argument(
        "--follow",
        type=above_zero("seconds", 1e6),
        metavar="S",
        help="go on until Ctrl-C: every so many seconds, write the list anew if embeddings have changed it",
    )
    add_settings_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from schemas.errors import ConfigError
    from streams.inspect.seeds import campaign_seed
    from streams.kafka.reader import TopicReader
    from streams.serving.embeddings import CUSTOMER_EMBEDDINGS
    from streams.serving.known_embeddings import KnownEmbeddings
    from streams.settings.schema import kafka_client_config

    if args.follow and not args.out:
        raise ConfigError("--follow writes a file again and again: say which by --out")
    if args.publish is not None and not 0 < len(args.publish) <= 128:
        raise ConfigError("--publish: give a name of 1 to 128 characters")
    settings = settings_from(args)
    client, prefix = kafka_client_config(settings), settings.kafka.prefix
    known = KnownEmbeddings()
    with TopicReader(client) as reader:
        seed = (
            _file_seed(args.like)
            if args.like
            else campaign_seed(reader, prefix, args.campaign, settings.core.machine_open_ms)
        )
        topic = prefix + CUSTOMER_EMBEDDINGS
        ends = reader.ends_of(topic)
        for message in reader.up_to(ends):
            known.take(message)
        if known.unreadable:
            _say(f"{known.unreadable:,} records of {topic} are no embeddings and were left out")
        starts = {partition: end for (_, partition), end in ends.items()}
        last = _once(args, known, seed, client, prefix, starts, None)
        _report(last, len(known))
        if args.follow:
            _follow(args, reader, known, seed, client, prefix, starts, last)
    return 0


def _file_seed(path: Path) -> Seed:
    from streams.inspect.seeds import read_seed_file
    from streams.serving.audience import Seed

    found = read_seed_file(path)
    if found.repeated or found.blank:
        _say(f"{path}: {found.repeated:,} ids stand there again, {found.blank:,} lines are blank; left out")
    return Seed(found.customers, f"file:{path.name}")


def _once(
    args: argparse.Namespace,
    known: KnownEmbeddings,
    seed: Seed,
    client: ClientConfig,
    prefix: str,
    read: Mapping[int, int],
    last: Audience | None,
) -> Audience:
    """Find the audience, and write it where it is not the last one."""
    from streams.serving.audience import find_audience, member_records

    found = find_audience(known, seed, args.size, args.model)
    if last is not None and found.members == last.members:
        return found
    if args.out:
        write_file(args.out, found)
    else:
        write(sys.stdout, found)
    if args.publish is not None:
        offsets = [offset for _, offset in sorted(read.items())]
        now_ms = int(time.time() * 1000)
        _publish(list(member_records(found, seed, args.publish, offsets, now_ms)), client, prefix)
    return found


def _follow(
    args: argparse.Namespace,
    reader: TopicReader,
    known: KnownEmbeddings,
    seed: Seed,
    client: ClientConfig,
    prefix: str,
    starts: Mapping[int, int],
    last: Audience,
) -> None:
    """Keep known what the topic says, and the file what follows from it."""
    from schemas.errors import ConfigError
    from streams.serving.embeddings import CUSTOMER_EMBEDDINGS

    read, changed, due_s = dict(starts), False, time.monotonic() + args.follow
    for message in reader.follow(prefix + CUSTOMER_EMBEDDINGS, starts, _say):
        if message is not None:
            known.take(message)
            read[message.partition() or 0] = (message.offset() or 0) + 1
            changed = True
        if changed and time.monotonic() >= due_s:
            try:
                last = _once(args, known, seed, client, prefix, read, last)
            except ConfigError as error:  # of a moment, as when a new model has embedded few: the last list stays
                _say(f"the list stays as it was: {error}")
            changed, due_s = False, time.monotonic() + args.follow


def write(out: TextIO, found: Audience) -> None:
    """The members as CSV."""
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(("customer_id", "score", "rank"))
    rows.writerows((member.customer_id, f"{member.score:.6f}", member.rank) for member in found.members)


def write_file(path: Path, found: Audience) -> None:
    """The same into a file, whole or not at all: who reads it while it is written anew sees the old one.

    Raises:
        ConfigError: it cannot be written.
    """
    from schemas.errors import ConfigError

    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with fresh.open("w", encoding="utf-8", newline="") as out:
            write(out, found)
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise ConfigError(f"--out {path} cannot be written ({error.strerror}): give another file") from error


def _publish(members: list[AudienceMember], client: ClientConfig, prefix: str) -> None:
    from schemas.audiences import AUDIENCES, member_record
    from streams.kafka.partitioning import partition_for
    from streams.kafka.reader import TopicReader
    from streams.sources.replay import OrderedProducer

    with TopicReader(client) as reader:
        partitions = reader.partitions(prefix + AUDIENCES)
    producer = OrderedProducer(str(client["bootstrap.servers"]), config=client)
    for member in members:
        key, record = member.customer_id.encode(), member_record(member)
        producer.send(prefix + AUDIENCES, key, record.value, partition_for(key, partitions), record.headers)
    producer.deliver()
    _say(f"{len(members):,} members of {members[0].name} were written to {prefix}{AUDIENCES}, {members[0].audience_id}")


def _report(found: Audience, known: int) -> None:
    from streams.serving.audience import names_of

    _say(
        f"{len(found.members):,} of {known:,} customers, most like {len(found.seed):,} of the seed; model "
        f"{found.model_version}"
    )
    for what, names in (
        ("were erased", found.erased),
        ("have no embedding, so they are not known or not active since encode runs", found.unknown),
        ("have an embedding of another model: `pulsegraph sweep` embeds them anew", found.of_other_models),
    ):
        if names:
            _say(f"left out of the seed: {len(names):,} {what}: {names_of(names)}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
