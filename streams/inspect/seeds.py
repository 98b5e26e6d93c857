"""Whom an audience shall be like: ids of a file, or those who answered a campaign."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from confluent_kafka import Message

from schemas import codec
from schemas.codec import decode_key
from schemas.errors import ConfigError, DeadLetter
from schemas.snapshot import Outcome
from streams.kafka.reader import TopicReader
from streams.serving.audience import Seed

_HEADER: Final = frozenset({"customer_id", "customerid", "customer", "id"})
_DELIMITERS: Final = (",", ";", "\t")
_outcome: Final = codec.decoder(Outcome)


class SeedFile(NamedTuple):
    """What a file of ids holds."""

    customers: list[str]
    """Each once, in the order of the file."""
    repeated: int
    blank: int
    """Lines without an id."""


class _Redeemed(msgspec.Struct):
    campaign_id: str | None = None


_redeemed: Final = msgspec.json.Decoder(_Redeemed).decode


def read_seed_file(path: Path) -> SeedFile:
    """Ids of a text file, one a line, or of the first column of a CSV file; of the one that a header line calls so.

    Raises:
        ConfigError: it cannot be read, is no text, or holds no id.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"--like {path} cannot be read ({error.strerror}): give a file with an id a line") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--like {path} is not UTF-8 text ({error.reason} at byte {error.start})") from error
    try:
        found = seed_of_lines(text.removesuffix("\n").split("\n"))  # ids may hold what splitlines splits at
    except (csv.Error, DeadLetter) as error:
        raise ConfigError(f"--like {path}: {error}") from error
    if not found.customers:
        raise ConfigError(f"--like {path} holds no id: write one a line, or in a column customer_id")
    return found


def seed_of_lines(lines: Iterable[str]) -> SeedFile:
    """See :func:`read_seed_file`.

    Raises:
        csv.Error: a line is no CSV.
        DeadLetter: an id that no customer can have.

    Example:
        >>> seed_of_lines(["name;customer_id", 'Ann;"7"', "", "Bob;8", "Ann;7"])
        SeedFile(customers=['7', '8'], repeated=1, blank=1)
    """
    rows = list(lines)
    first = next((line for line in rows if line.strip()), "")
    column, delimiter, has_header = _column(first)
    found: dict[str, None] = {}
    repeated = blank = 0
    for row in csv.reader(rows, delimiter=delimiter, skipinitialspace=True, strict=True):
        name = row[column].strip() if column < len(row) else ""
        if not name:
            blank += 1
        elif has_header:
            has_header = False
        elif name in found:
            repeated += 1
        else:
            decode_key(name.encode())
            found[name] = None
    return SeedFile(list(found), repeated, blank)


def _column(first: str) -> tuple[int, str, bool]:
    """Where ids stand, what separates columns, and whether the first line is a header."""
    for delimiter in _DELIMITERS:
        cells = [cell.strip().lower() for cell in next(csv.reader([first], delimiter=delimiter), [])]
        for column, cell in enumerate(cells):
            if cell in _HEADER:
                return column, delimiter, True
    return 0, ",", False


def campaign_seed(reader: TopicReader, prefix: str, campaign_id: str) -> Seed:
    """Customers who used an offer of a campaign, or opened or clicked it, as far as topics still say so.

    ``redemptions`` names the campaign where producers do; ``outcomes`` knows it of every send.

    Raises:
        ConfigError: nobody did.
        TopicMismatch, Retry: as :class:`TopicReader`.
    """
    found: set[str] = set()
    sent: set[str] = set()
    for message in _records(reader, prefix + "redemptions"):
        try:
            if _redeemed(message.value() or b"{}").campaign_id == campaign_id:
                found.add(decode_key(message.key()))
        except (msgspec.DecodeError, DeadLetter):
            continue  # what ingest refuses, too
    responded: dict[str, str] = {}
    for outcome in _outcomes(reader, prefix):
        snapshot = outcome.snapshot
        if snapshot.candidate is not None and snapshot.candidate.campaign_id == campaign_id and outcome.label:
            found.add(snapshot.customer_id)
    found.update(customer for question, customer in responded.items() if question in sent)
    if not found:
        raise ConfigError(
            f"nobody has answered campaign {campaign_id!r}, as far as redemptions (kept 30 days) and outcomes (400 "
            f"days) say: is it the id? `pulsegraph entity campaign:{campaign_id}` shows what is known of it"
        )
    return Seed(sorted(found), f"campaign:{campaign_id}")


def _outcomes(reader: TopicReader, prefix: str) -> Iterator[Outcome]:
    for message in _records(reader, prefix + "outcomes"):
        try:
            yield _outcome(message.value() or b"")
        except msgspec.DecodeError:  # of a release with other fields
            continue


def _records(reader: TopicReader, topic: str) -> Iterator[Message]:
    for place, end in reader.ends([(topic, partition) for partition in range(reader.partitions(topic))]).items():
        yield from reader.range(*place, 0, end)
