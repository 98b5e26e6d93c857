"""Writes the tables in these pages from the code: ``python docs/generate.py``. A test fails where a page is behind.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; NAME is a key of :data:`TABLES`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from infra.bench import report, sizing
from schemas import catalog, events, features, limits, predictions, topics
from streams.core import graph
from streams.settings import reader as configuration
from streams.settings import schema as settings
from streams.telemetry import metric_table

PAGES: Final = Path(__file__).parent
#: One line of JSON a bench, as ``pulsegraph bench all --json`` prints them.
BENCHMARKS: Final = PAGES / "benchmarks.jsonl"
_BLOCK: Final = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)

_KINDS: Final[tuple[tuple[Any, str], ...]] = (
    (limits.Id, "text of 1 to 128 characters"),
    (limits.EventName, "1 to 64 characters: a letter, then letters, digits and `_ . : -`"),
    (limits.Word, "text of 1 to 64 characters"),
    (limits.Text, "text of at most 512 characters"),
    (limits.TimestampMs, "epoch milliseconds from 2000 to 2100, a whole number"),
    (limits.Quantity, "number from 0 to 1,000,000"),
    (limits.Money, "number from -1,000,000,000 to 1,000,000,000"),
    (limits.Probability, "number from 0 to 1"),
    (limits.Properties, "object of at most 64 text, number, boolean or null values"),
    (limits.Consent, "object of at most 16 objects of at most 8 booleans"),
    (str, "text"),
    (int, "whole number"),
    (float, "number"),
    (tuple[str, int, int], "array of topic, partition, offset"),
)

#: For fields that carry no docstring of their own.
_MEANINGS: Final[dict[str, str]] = {
    "event": "What happened.",
    "event_ts_ms": "When it happened: event time, not the time of sending.",
    "event_id": "Duplicate key; the `ce_id` header is read where it is absent.",
    "customer_id": "The customer. In an event it repeats the record key and must agree with it.",
    "item_id": "The item, as in the catalog.",
    "title": "Name for people; read by the model where it does not know the id.",
    "category": "Category.",
    "quantity": "How many units.",
    "order_id": "Lines of one purchase share it.",
    "page": "Name of the page or screen.",
    "query": "What was searched for.",
    "channel": "Where it happened, or by which channel a message goes.",
    "properties": "Anything else; kept out of the model.",
    "campaign_id": "The campaign, as in the catalog.",
    "template_id": "The template, as in the catalog.",
    "offer_id": "The offer, as in the catalog.",
    "send_id": "The one message; joins its opens, clicks and redemptions.",
    "decision_id": "`prediction_id` of the decision of ours that led to the send.",
    "propensity": "Probability with which the policy chose what was chosen.",
    "Redemption.value": "What the redemption was worth.",
    "attributes": "Anything known; shown, and kept out of the model.",
    "timezone": "IANA name, e.g. `Europe/Berlin`.",
    "kind": "What it is.",
    "id": "Its id; the record key is `kind:id`.",
    "price": "Price.",
    "active_from_ms": "Beginning of the window in which a campaign may be chosen; open where absent.",
    "active_to_ms": "End of that window; open where absent.",
    "offers": "Offers of a campaign.",
    "items": "Items of an offer or campaign.",
    "prediction_id": "Derived from head and snapshot: a repeated record has the same id, so drop what you have seen.",
    "as_of_ms": "Event time for which it holds.",
    "model_version": "Which model said so.",
    "valid_until_ms": "Event time after which it should not be used.",
    "source": "The newest event it rests on.",
    "Prediction.customer_id": "The customer.",
    "Erasure.customer_id": "Who was erased.",
    "Erasure.source": "The record that asked for it.",
    "Prediction.event_ts_ms": "Event time of that event.",
    "snapshot_kind": "`event`: something happened. `horizon`, `send`: a point at which the prediction is judged later.",
    "ChurnPrediction.probability": "Probability of no activity within the horizon.",
    "RedemptionPrediction.probability": "Probability that the offer sent is used inside its window.",
    "RankedAction.probability": "Probability that the offer is used.",
    "horizon_days": "Days without activity that count as churn.",
    "reason_codes": "Why, most telling first.",
    "chosen": "What to do.",
    "alternatives": "The next best ones, with their values.",
    "suppressed_by": "Every running campaign that was not allowed, and by what, 1,000 at most.",
    "experiment_arm": "`explore` where the action was drawn evenly, `greedy` where it was the best.",
    "action": "Send something, or do nothing.",
    "detail": "The same for a person, with the numbers.",
    "receipt_id": "Derived from customer and time.",
    "erased_ms": "Event time of the erasure; everything up to it is gone.",
}


def render(text: str) -> str:
    """A page with its tables as the code has them now.

    Raises:
        KeyError: a table that nobody makes.
    """
    return _BLOCK.sub(lambda found: found[1] + "\n" + TABLES[found[2]]() + "\n" + found[3], text)


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = [list(columns), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def struct_table(struct: type[msgspec.Struct]) -> str:
    """Fields of a record: name, type with limits, whether it must be there, meaning."""
    return table(("field", "type", "required", "meaning"), _fields(struct))


def _fields(struct: type[msgspec.Struct]) -> Iterator[tuple[str, str, str, str]]:
    hints = get_type_hints(struct, include_extras=True)
    for field in msgspec.structs.fields(struct):
        yield (
            f"`{field.name}`",
            _kind(hints[field.name]),
            "yes" if field.required else "",
            meaning(struct, field.name),
        )


def meaning(struct: type[msgspec.Struct], name: str) -> str:
    """What a field means: its docstring, else ours. Empty where nobody said."""
    for base in struct.__mro__:
        said = configuration._docstrings(base).get(name) if base is not msgspec.Struct else None
        said = said or _MEANINGS.get(f"{base.__name__}.{name}")
        if said:
            return said.replace("``", "`")
    return _MEANINGS.get(name, "")


def _kind(hint: Any) -> str:
    for known, phrase in _KINDS:
        if hint == known:
            return phrase
    origin, arguments = get_origin(hint), get_args(hint)
    if hasattr(hint, "__metadata__"):
        bound = next((meta.max_length for meta in hint.__metadata__ if isinstance(meta, msgspec.Meta)), None)
        return _kind(hint.__origin__) + (f", at most {bound:,}" if bound else "")
    if origin in (Union, UnionType):
        (inner,) = (part for part in arguments if part is not type(None))
        return _kind(inner)
    if origin is Literal:
        return "one of " + ", ".join(f"`{name}`" for name in arguments)
    if origin is list:
        return f"array of {_kind(arguments[0])}"
    return f"[`{hint.__name__}`](#{hint.__name__.lower()})"


def _topics() -> str:
    rows = (
        (
            f"`{topic.name}`",
            topic.key,
            topic.format,
            f"`{topic.record.__name__}`" if topic.record is not None else "",
            topic.kept,
            topic.purpose,
        )
        for topic in topics.TOPICS.values()
    )
    return table(("topic", "key", "value", "record", "kept", "purpose"), rows)


def _settings() -> str:
    parts = []
    groups: dict[str, list[settings.Described]] = {}
    for entry in settings.describe():
        groups.setdefault(entry.name.rpartition(".")[0] or "general", []).append(entry)
    for group, entries in groups.items():
        rows = (
            (
                f"`{entry.env}`",
                f"`{entry.default}`" if entry.default else "",
                _accepted(entry),
                entry.meaning.replace("``", "`"),
            )
            for entry in entries
        )
        parts.append(f"### {group}\n\n" + table(("variable", "default", "accepts", "meaning"), rows))
    return "\n".join(parts)


def _accepted(entry: settings.Described) -> str:
    phrase, matching, pattern = entry.accepted.partition("matching ")
    return f"{phrase}{matching}`{pattern}`" if matching else phrase.replace("Secret", "text, never shown")


def _metrics() -> str:
    rows = (
        (
            f"`{metric.full_name}`",
            metric.kind,
            metric.unit,
            ", ".join(f"`{name}`" for name in metric.labels),
            metric.meaning,
        )
        for metric in metric_table.METRICS.values()
    )
    return table(("metric", "kind", "unit", "labels", "meaning"), rows)


def _features() -> str:
    return table(("feature", "meaning"), ((f"`{name}`", text) for name, text in features.MEANING.items()))


def _edges() -> str:
    return ", ".join(f"`{edge_type}`" for edge_type in graph.EDGE_TYPES) + "\n"


_STRUCTS: Final[tuple[type[msgspec.Struct], ...]] = (
    events.Clickstream,
    events.CampaignSend,
    events.Redemption,
    events.Profile,
    catalog.CatalogEntry,
    predictions.ChurnPrediction,
    predictions.RedemptionPrediction,
    predictions.NextBestAction,
    predictions.RankedAction,
    predictions.Suppressed,
    predictions.Reason,
    predictions.Erasure,
)


def _maker(struct: type[msgspec.Struct]) -> Callable[[], str]:
    return lambda: struct_table(struct)


def _benchmarks() -> str:
    return "\n".join(line for found in sizing.read(BENCHMARKS) for line in report.table(found))


def _scaling() -> str:
    return "\n".join(sizing.tables(sizing.read(BENCHMARKS))) + "\n"


TABLES: Final[dict[str, Callable[[], str]]] = {
    "benchmarks": _benchmarks,
    "scaling": _scaling,
    "topics": _topics,
    "settings": _settings,
    "metrics": _metrics,
    "features": _features,
    "edges": _edges,
    **{struct.__name__: _maker(struct) for struct in _STRUCTS},
}


def main() -> None:
    for page in sorted(PAGES.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        page.write_text(render(text), encoding="utf-8")


if __name__ == "__main__":
    main()
