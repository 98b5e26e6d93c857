"""Titles of what is named, from the catalog."""

from __future__ import annotations

from collections.abc import Mapping

from schemas.catalog import CatalogEntry


def titles_of(entries: Mapping[str, CatalogEntry]) -> dict[str, str]:
    """``kind:id`` -> title."""
    return {name: entry.title for name, entry in entries.items() if entry.title}


def titled(shown: str, name: str, titles: Mapping[str, str]) -> str:
    """With the title that the catalog has for it.

    Example:
        >>> titled("5", "item:5", {"item:5": "milk"}), titled("6", "item:6", {})
        ('5 (milk)', '6')
    """
    return f"{shown} ({titles[name]})" if name in titles else shown
