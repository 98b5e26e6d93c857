"""The catalog as it is now."""

from __future__ import annotations

from schemas.catalog import CatalogEntry
from streams.kafka.reader import TopicReader
from streams.serving.catalog import UNREADABLE, read_entry


def read_catalog(reader: TopicReader, prefix: str) -> dict[str, CatalogEntry]:
    """Entries by ``kind:id``; records that are none are left out."""
    entries: dict[str, CatalogEntry] = {}
    for message in reader.whole(prefix + "catalog"):
        try:
            name, entry = read_entry(message.key(), message.value())
        except UNREADABLE:
            continue
        entries.pop(name, None)
        if entry is not None:
            entries[name] = entry
    return entries
