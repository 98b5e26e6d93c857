"""``pulsegraph dead-letters``: look at refused records, and send them back."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from heapq import nlargest
from typing import TYPE_CHECKING, Any

from streams.commands import Subparsers, add_settings_options, day_ms, new_parser, settings_from
from streams.inspect.moments import moment

if TYPE_CHECKING:
    from streams.inspect.dead_letters import Filter, StoredDeadLetter
    from streams.settings.schema import Settings

_SHOWN: int = 20
_HEX_BYTES: int = 4_096


def add(subparsers: Subparsers) -> None:
    parser = new_parser(
        subparsers,
        "dead-letters",
        "list, show and replay refused records",
        "A record that cannot be applied goes unchanged to the dead-letter topic, with the reason in headers. Its id "
        "names its origin: topic-partition-offset.",
        "  pulsegraph dead-letters list --reason invalid_field --since 2026-07-01\n"
        "  pulsegraph dead-letters show clickstream-0-1042\n"
        "  pulsegraph dead-letters replay clickstream-0-1042 --dry-run",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = new_parser(
        actions,
        "list",
        "the newest dead letters, and how many there are of each reason",
        "",
        "  pulsegraph dead-letters list --topic clickstream -n 50",
    )
    listing.add_argument("-n", dest="count", type=int, default=_SHOWN, help=f"show the newest N (default {_SHOWN})")
    listing.add_argument("--json", action="store_true", help="one line of JSON per dead letter, the value included")
    show = new_parser(
        actions,
        "show",
        "one dead letter: why, where from, headers and the bytes as they came",
        "Bytes that are not text are shown in hex.",
        "  pulsegraph dead-letters show clickstream-0-1042\n"
        "  pulsegraph dead-letters show clickstream-0-1042 --raw > event.json",
    )
    show.add_argument("ids", nargs=1, metavar="ID", help="as `list` shows it")
    show.add_argument("--raw", action="store_true", help="write only the bytes of the value")
    replay = new_parser(
        actions,
        "replay",
        "send refused records back to their topics, once the cause is corrected",
        "Copies are produced; the dead letters stay. Name ids, or filter; `--all` takes every one. A record that is "
        "refused again becomes a new dead letter, which counts its attempts.",
        "  pulsegraph dead-letters replay --reason out_of_time --since 2026-07-01 --dry-run",
    )
    replay.add_argument("ids", nargs="*", metavar="ID", help="dead letters to replay")
    replay.add_argument("--all", action="store_true", help="every dead letter that was not replayed yet")
    replay.add_argument("--max-attempts", type=int, metavar="N", help="leave records replayed N times (default 3)")
    replay.add_argument("--dry-run", action="store_true", help="say what would be sent, and send nothing")
    for action in (listing, replay):
        action.add_argument("--reason", help="only with this reason, e.g. malformed")
        action.add_argument("--topic", help="only from this topic")
        action.add_argument(
            "--since", metavar="TIME", help="only records with this timestamp or later (2026-07-01T18:00)"
        )
        action.add_argument("--until", metavar="TIME", help="only records with an earlier timestamp")
    for action in (listing, show, replay):
        add_settings_options(action)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from streams.inspect import dead_letters as inspect
    from streams.settings.schema import kafka_client_config

    settings = settings_from(args)
    wanted = _filter(args, settings)
    dead_letters = inspect.read(kafka_client_config(settings), settings.kafka.prefix)
    if args.action == "list":
        return _list(dead_letters, wanted, args)
    if args.action == "show":
        return _show(dead_letters, args.ids[0], args.raw)
    return _replay(dead_letters, wanted, args, settings)


def _filter(args: argparse.Namespace, settings: Settings) -> Filter:
    from schemas.errors import ConfigError
    from schemas.topics import TOPICS
    from streams.inspect.dead_letters import Filter
    from streams.settings.reader import suggestion

    if args.action == "show":
        return Filter()
    topic = args.topic and args.topic.removeprefix(settings.kafka.prefix)
    if topic is not None and topic not in TOPICS:
        raise ConfigError(f"there is no topic {topic!r}{suggestion(topic, list(TOPICS))}")
    if args.reason is not None and args.reason not in _reasons():
        known = _reasons()
        raise ConfigError(
            f"there is no reason {args.reason!r}{suggestion(args.reason, known)}; choose from {', '.join(known)}"
        )
    return Filter(
        ids=frozenset(getattr(args, "ids", ())),
        reason=args.reason,
        topic=topic,
        since_ms=None if args.since is None else day_ms(args.since),
        until_ms=None if args.until is None else day_ms(args.until),
    )


def _reasons() -> list[str]:
    from schemas.errors import DeadLetter

    return sorted(kind.reason for kind in DeadLetter.__subclasses__())


def _list(dead_letters: Iterable[StoredDeadLetter], wanted: Filter, args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from schemas.errors import ConfigError

    if args.count < 1:
        raise ConfigError(f"-n {args.count}: give a number above 0")
    found: Counter[tuple[str, str]] = Counter()

    def counted() -> Iterator[StoredDeadLetter]:
        for dead_letter in filter(wanted.matches, dead_letters):
            found[dead_letter.topic, dead_letter.reason] += 1
            yield dead_letter

    shown = nlargest(args.count, counted(), key=lambda dead_letter: dead_letter.record_ts_ms)[::-1]
    if args.json:
        for dead_letter in shown:
            sys.stdout.buffer.write(_json(dead_letter) + b"\n")
        return 0
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    table = Table(box=None, pad_edge=False)
    for column in ("id", "record time (UTC)", "reason", "tries", "key", "message"):
        table.add_column(column, no_wrap=column != "message")
    for dead_letter in shown:
        row = (dead_letter.dl_id, moment(dead_letter.record_ts_ms), dead_letter.reason, str(dead_letter.attempt))
        table.add_row(*row, escape(_short(dead_letter.key, 24)), escape(_printable(dead_letter.message)))
    if shown:
        console.print(table)
    for (topic, reason), count in found.most_common():
        console.print(f"{count:>10,}  {topic}  {reason}")
    console.print(f"{found.total():>10,}  dead letters in all")
    return 0


def _show(dead_letters: Iterable[StoredDeadLetter], dl_id: str, raw: bool) -> int:
    from schemas.errors import ConfigError

    dead_letter = next((dead_letter for dead_letter in dead_letters if dead_letter.dl_id == dl_id), None)
    if dead_letter is None:
        raise ConfigError(f"there is no dead letter {dl_id!r}; `pulsegraph dead-letters list` shows them")
    if raw:
        sys.stdout.buffer.write(dead_letter.value or b"")
        return 0
    print(f"id          {dead_letter.dl_id}")
    print(f"reason      {dead_letter.reason} ({dead_letter.error})")
    print(f"message     {_printable(dead_letter.message)}")
    print(f"from        {dead_letter.topic}, partition {dead_letter.partition}, offset {dead_letter.offset}")
    print(f"record time {moment(dead_letter.record_ts_ms)} UTC ({dead_letter.record_ts_ms})")
    origin = f", last from {dead_letter.replayed_from}" if dead_letter.replayed_from else ""
    print(f"attempts    {dead_letter.attempt}{origin}")
    print(f"key         {_readable(dead_letter.key)}")
    for name, content in dead_letter.headers:
        print(f"header      {_printable(name)}: {_readable(content)}")
    size = "" if dead_letter.value is None else f" ({len(dead_letter.value):,} bytes)"
    print(f"value{size}:\n{_readable(dead_letter.value)}")
    return 0


def _replay(
    dead_letters: Iterable[StoredDeadLetter], wanted: Filter, args: argparse.Namespace, settings: Settings
) -> int:
    from schemas.errors import ConfigError
    from streams.inspect import dead_letters as inspect
    from streams.settings.schema import kafka_client_config
    from streams.sources.replay import OrderedProducer

    if wanted == inspect.Filter() and not args.all:
        raise ConfigError("name ids, or give a filter (--reason, --topic, --since, --until) or --all")
    limit = inspect.MAX_ATTEMPTS if args.max_attempts is None else args.max_attempts
    if limit < 1:
        raise ConfigError(f"--max-attempts {limit}: give a number above 0")
    plan = inspect.choose(dead_letters, wanted, limit)
    there = {one.dl_id for one in (*plan.dead_letters, *(kept for kept, _ in plan.kept))}
    missing = sorted(wanted.ids - there)
    if missing:
        raise ConfigError(f"there is no dead letter {', '.join(missing)} that matches; nothing was sent")
    for dead_letter, why in plan.kept:
        print(f"kept {dead_letter.dl_id}: {why}", file=sys.stderr)
    if args.dry_run:
        for dead_letter in plan.dead_letters:
            print(f"would send {dead_letter.dl_id} to {dead_letter.topic}, attempt {dead_letter.attempt + 1}")
        print(f"{len(plan.dead_letters):,} dead letters would be sent, {len(plan.kept):,} kept; nothing was done")
        return 0
    sent: dict[str, int] = {}
    if plan.dead_letters:
        client, prefix = kafka_client_config(settings), settings.kafka.prefix
        producer = OrderedProducer(settings.kafka.bootstrap, config=client)
        sent = inspect.send(plan.dead_letters, producer, partitions=producer.partitions(prefix), prefix=prefix)
    for topic, count in sorted(sent.items()):
        print(f"{count:>10,}  sent to {topic}, all acknowledged")
    print(f"{len(plan.kept):>10,}  kept")
    return 1 if wanted.ids and plan.kept else 0


def _json(dead_letter: StoredDeadLetter) -> bytes:
    from schemas.codec import json_encode
    from streams.inspect.render import key_text

    shown: dict[str, Any] = dead_letter._asdict()
    shown |= {
        "key": key_text(dead_letter.key),
        "value": key_text(dead_letter.value),
        "headers": [[name, key_text(content)] for name, content in dead_letter.headers],
    }
    return json_encode(shown)


def _readable(content: bytes | None) -> str:
    """Text where it is text, else hex: nothing in it may steer a terminal."""
    if content is None:
        return "null"
    try:
        return _printable(content.decode())
    except UnicodeDecodeError:
        left = len(content) - _HEX_BYTES
        more = f" and {left:,} bytes more (--raw writes all)" if left > 0 else ""
        return f"hex {content[:_HEX_BYTES].hex(' ', -4)}{more}"


def _short(content: bytes | None, width: int) -> str:
    text = _readable(None if content is None else content[: width * 4])
    return text if len(text) <= width else text[: width - 1] + "…"


def _printable(text: str) -> str:
    """Control characters and other invisible ones as escapes; line ends and tabs stay."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode() for char in text
    )
