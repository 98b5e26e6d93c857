"""Writes the tables in these pages from the code: ``python docs/generate.py``. A test fails where a page is behind.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; NAME is a key of :data:`TABLES`. Not cog: pages
would hold code, for what is one regular expression here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

sys.path.insert(0, str(Path(__file__).parents[1]))  # infra is in the checkout and in no wheel

from infra.bench import report, sizing
from infra.evaluate import report as evaluation
from schemas import (
    audiences,
    catalog,
    embeddings,
    events,
    features,
    limits,
    model_versions,
    predictions,
    recalibrations,
    topics,
)
from schemas.graph import EDGE_TYPES
from streams.settings import reader as configuration
from streams.settings import schema as settings
from streams.telemetry import metric_table

PAGES: Final = Path(__file__).parent
#: One line of JSON a bench, as ``pulsegraph bench all --json`` prints them.
BENCHMARKS: Final = PAGES / "benchmarks.jsonl"
#: One line of JSON an evaluation, as ``pulsegraph evaluate --json`` prints them; the newest of each is shown.
EVALUATION: Final = PAGES / "evaluation.jsonl"
_BLOCK: Final = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)

_KINDS: Final[tuple[tuple[Any, str], ...]] = (
    (limits.Id, "text of 1 to 128 characters"),
    (limits.EventName, "1 to 64 characters: a letter, then letters, digits and `_ . : -`"),
    (limits.Word, "text of 1 to 64 characters"),
    (limits.Text, "text of at most 512 characters"),
    (limits.TimestampMs, "epoch milliseconds from 2000 to 2100, a whole number"),
    (limits.Quantity, "number from -1,000,000 to 1,000,000"),
    (limits.Money, "number from -1,000,000,000 to 1,000,000,000"),
    (limits.Currency, "three letters"),
    (limits.Probability, "number from 0 to 1"),
    (limits.Properties, "object of at most 64 text, number, boolean or null values"),
    (limits.Consent, "object of at most 16 objects of at most 8 booleans"),
    (str, "text"),
    (int, "whole number"),
    (float, "number"),
    (tuple[str, int, int], "array of topic, partition, offset"),
    (dict[str, int], "object of text to whole number"),
    (recalibrations.Bins, "object of whole number to array of two whole numbers"),
)


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
    """What a field means: the docstring below it, in the struct or one it inherits from; empty where there is none."""
    said = (configuration.field_docstrings(base).get(name, "") for base in struct.__mro__)
    return next(filter(None, said), "").replace("``", "`")


def _kind(hint: Any) -> str:
    for known, phrase in _KINDS:
        if hint == known:
            return phrase
    origin, arguments = get_origin(hint), get_args(hint)
    if hasattr(hint, "__metadata__"):
        bound = next((meta.max_length for meta in hint.__metadata__ if isinstance(meta, msgspec.Meta)), None)
        return _kind(hint.__origin__) + (f", at most {bound:,}" if bound else "")
    if origin in (Union, UnionType):
        (inner,) = (part for part in arguments if part not in (type(None), msgspec.UnsetType))
        return _kind(inner)
    if origin is Literal:
        return "one of " + ", ".join(f"`{name}`" for name in arguments)
    if origin is list or (origin is tuple and arguments[-1] is ...):
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
    return ", ".join(f"`{edge_type}`" for edge_type in EDGE_TYPES) + "\n"


_STRUCTS: Final[tuple[type[msgspec.Struct], ...]] = (
    events.Clickstream,
    events.Line,
    events.CampaignSend,
    events.Redemption,
    events.Profile,
    catalog.CatalogEntry,
    embeddings.CustomerEmbedding,
    audiences.AudienceMember,
    embeddings.EntityEmbedding,
    predictions.ChurnPrediction,
    predictions.BehaviourPrediction,
    predictions.RedemptionPrediction,
    predictions.AppliedRecalibration,
    model_versions.Announcement,
    model_versions.ModelVersion,
    recalibrations.OutcomeTallies,
    recalibrations.WeekTally,
    predictions.NextItemsPrediction,
    predictions.RankedItem,
    predictions.CampaignMatch,
    predictions.MatchedCampaign,
    predictions.SendTime,
    predictions.SendSlot,
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


def _evaluation() -> str:
    return "\n".join(line for found in evaluation.read_reports(EVALUATION) for line in evaluation.markdown(found))


TABLES: Final[dict[str, Callable[[], str]]] = {
    "benchmarks": _benchmarks,
    "evaluation": _evaluation,
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
