"""``pulsegraph customer``: everything that is known about one customer."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from streams.commands import Subparsers, add_settings_options, day_ms, new_parser, settings_from
from streams.inspect.moments import moment
from streams.inspect.titles import titled
from streams.settings import zones

if TYPE_CHECKING:
    from streams.inspect.lookup import CustomerView

_EDGES_SHOWN = 5
_SESSIONS_SHOWN = 12
_EVENT: Final = re.compile(r"(?<!\S)evt:(\S+)")


def add(subparsers: Subparsers) -> None:
    parser = new_parser(
        subparsers,
        "customer",
        "look up a customer: timeline, graph, pending labels, predictions and their reasons",
        "Reads the changelog topic, so no worker needs to run. Events of the last fraction of a second may be missing. "
        "What few customers typed is shown as the hash of its words.",
        "  pulsegraph customer 42\n  pulsegraph customer 42 --as-of 2017-10-01\n  pulsegraph customer 42 --sequence\n"
        "  pulsegraph customer 42 --json",
    )
    parser.add_argument("id", metavar="ID", help="the customer's id, as in the record key")
    parser.add_argument(
        "--as-of", metavar="DAY", help="decay edges and counters to this day or time, UTC (default: the last event)"
    )
    parser.add_argument(
        "--all", action="store_true", help="show all sessions, edges and features, not only the first few"
    )
    parser.add_argument(
        "--sequence", action="store_true", help="print what an encoder may see of the customer, in plain words"
    )
    parser.add_argument("--json", action="store_true", help="print everything as one line of JSON")
    add_settings_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from schemas.codec import json_encode
    from schemas.errors import ConfigError
    from streams.inspect import lookup
    from streams.inspect.render import plain
    from streams.kafka.reader import TopicReader
    from streams.settings.schema import kafka_client_config

    settings = settings_from(args)
    as_of_ms = None if args.as_of is None else day_ms(args.as_of)
    with TopicReader(kafka_client_config(settings)) as reader:
        view = lookup.customer(reader, settings.kafka.prefix, args.id, settings.core, as_of_ms)
    if args.json:
        print(json_encode(plain(view)).decode())
        return 0
    if args.sequence:
        if not view.sequence:
            raise ConfigError("what was seen before a customer's last event is not kept: give a later --as-of, or none")
        print(view.sequence)
        return 0
    for line in describe(view, everything=args.all):
        print(line)
    return 0


def describe(view: CustomerView, *, everything: bool = False) -> Iterator[str]:
    """The lookup for a person, line by line."""
    yield f"customer {view.customer_id}, partition {view.partition}, as of {moment(view.as_of_ms)} UTC"
    if view.erased_ms is not None:
        yield f"  erased: events up to {moment(view.erased_ms)} are refused"
    if view.of_later:
        yield (
            "  the customer's last event is later, and state cannot be wound back: only what had happened by then and "
            "was not touched since is shown; `pulsegraph replay-to` rebuilds what a prediction saw"
        )
    elif view.refused is not None:
        yield f"  no event was taken: {view.refused}"
    yield (
        f"  {view.events:,} events from {moment(view.first_ms)} to {moment(view.last_ms)}"
        if view.events
        else (
            f"  first seen {moment(view.first_ms)}"
            if view.of_later and view.first_ms <= view.as_of_ms
            else "  no events are kept"
        )
    )
    if view.unsettled:
        yield f"  {view.unsettled} of them younger than the lateness bound, so their order may still change"
    if view.late:
        yield "  too late to be put in place: " + ", ".join(f"{count} {name}" for name, count in view.late.items())
    yield ""
    yield from _profile(view)
    yield from _features(view, everything)
    yield from _timeline(view, everything)
    yield from _edges(view, everything)
    yield from _pending(view)
    yield from _predictions(view)


def _profile(view: CustomerView) -> Iterator[str]:
    yield "profile"
    consent = (
        ("changed since" if view.of_later else "no profile said so, so nothing may be sent")
        if view.consent is None
        else ", ".join(view.consent) or "none"
    )
    yield f"  consent: {consent}"
    if view.timezone:
        yield f"  timezone: {view.timezone}" + (
            "" if zones.known(view.timezone) else f" (not used, {zones.unknown(view.timezone)})"
        )
    for currency, spent in view.unconverted.items():
        yield f"  spent in {currency}, without a rate and not summed: {spent:,.2f}"
    for name, value in view.attributes.items():
        yield f"  {name}: {value}"
    if view.holdout:
        yield "  in the holdout: never contacted"


def _features(view: CustomerView, everything: bool) -> Iterator[str]:
    from schemas.features import MEANING

    if not view.features:
        return
    yield ""
    yield f"features as of {moment(view.features_as_of_ms)}"
    for name, value in view.features.items():
        # Zero and -1 say that nothing happened; of the windows, one is enough to get the idea.
        if everything or (value not in (0.0, -1.0) and not name.endswith(("_7d", "_84d"))):
            yield f"  {name:<24}{value:>12,.2f}  {MEANING[name]}"


def _timeline(view: CustomerView, everything: bool) -> Iterator[str]:
    yield ""
    hidden = 0 if everything else max(0, len(view.sessions) - _SESSIONS_SHOWN)
    if view.history:
        counted, value = sum(entry.sessions for entry in view.history), sum(entry.value for entry in view.history)
        since = moment(1000 * min(entry.start_s for entry in view.history))
        yield f"history: {counted:,} sessions that ended since {since}, worth {value:,.2f}"
    yield f"timeline: {len(view.sessions)} sessions and messages" + (f", the last {_SESSIONS_SHOWN}" if hidden else "")
    for session in view.sessions[hidden:]:
        mark = " (open)" if session.is_open else ""
        yield f"  {moment(session.start_ms)}{mark}  {session.text}"
    yield from _resembling(view)


def _resembling(view: CustomerView) -> Iterator[str]:
    """Custom events that may have been meant to be known ones."""
    from schemas.events import CLICKSTREAM_EVENTS
    from streams.core.oddities import known_name

    for name in sorted({name for session in view.sessions for name in _EVENT.findall(session.text)}):
        if name not in CLICKSTREAM_EVENTS and (meant := known_name(name)) is not None:
            yield f"  evt:{name} is a custom event: did you mean {meant}?"


def _edges(view: CustomerView, everything: bool) -> Iterator[str]:
    yield ""
    yield f"graph: {sum(map(len, view.edges.values()))} edges, weights as of {moment(view.as_of_ms)}"
    for edge_type, found in view.edges.items():
        shown = found if everything else found[:_EDGES_SHOWN]
        more = f", the {len(shown)} heaviest" if len(shown) < len(found) else ""
        yield f"  {edge_type}: {len(found)}{more}"
        for edge in shown:
            named = titled(edge.entity_id, f"{edge_type.partition('>')[2]}:{edge.entity_id}", view.titles)
            yield f"    {edge.weight:>9.3f}  {named}  ({edge.count}x, last {moment(edge.last_ms)})"


def _pending(view: CustomerView) -> Iterator[str]:
    yield ""
    yield f"pending labels: {len(view.pending)}"
    for entry in view.pending:
        about = f" of campaign {_campaign(entry.campaign_id, view)}" if entry.campaign_id else ""
        yield f"  {entry.head}{about}, as of {moment(entry.as_of_ms)}, known by {moment(entry.due_ms)}"


def _predictions(view: CustomerView) -> Iterator[str]:
    from streams.inspect.prediction_text import ranked, reasons, sentence, suppressed

    yield ""
    yield "last predictions" if view.predictions else "last predictions: none on the topics"
    for topic, prediction in view.predictions.items():
        yield f"  {topic}, as of {moment(prediction.as_of_ms)}, model {prediction.model_version}"
        yield f"    {sentence(prediction, view.titles)}"
        for line in (*reasons(prediction), *ranked(prediction, view.titles), *suppressed(prediction, view.titles)):
            yield f"    {line}"


def _campaign(campaign_id: str | None, view: CustomerView) -> str:
    return titled(str(campaign_id), f"campaign:{campaign_id}", view.titles)
