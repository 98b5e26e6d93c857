"""Whom an audience shall be like: ids of a file, or those who answered a campaign."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

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


class _Step(msgspec.Struct):
    """What is read of an event about a campaign, whichever topic it is on."""

    campaign_id: str | None = None
    event: str = ""
    event_ts_ms: int = 0


_step: Final = msgspec.json.Decoder(_Step).decode


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


def campaign_seed(reader: TopicReader, prefix: str, campaign_id: str, machine_open_ms: int) -> Seed:
    """Customers who used an offer of a campaign, or opened or clicked it, as far as topics still say so.

    ``redemptions`` names the campaign where producers do; ``outcomes`` knows it of every send.

    Args:
        machine_open_ms: see :attr:`streams.core.config.CoreConfig.machine_open_ms`.

    Raises:
        ConfigError: nobody did.
        TopicMismatch, Retry: as :class:`TopicReader`.
    """
    found = redeemed(_pairs(reader, prefix + "redemptions"), campaign_id)
    found |= responded(_pairs(reader, prefix + "campaign-sends"), campaign_id, machine_open_ms)
    found |= labelled(lambda: _outcomes(reader, prefix), campaign_id)
    if not found:
        raise ConfigError(
            f"nobody has answered campaign {campaign_id!r}, as far as sends and redemptions (kept 30 days) and "
            f"outcomes (400 days) say: is it the id? `pulsegraph entity campaign:{campaign_id}` shows what is known"
        )
    return Seed(sorted(found), f"campaign:{campaign_id}")


def labelled(outcomes: Callable[[], Iterable[Outcome]], campaign_id: str) -> set[str]:
    """Customers of whom outcomes say that they used the offer of a campaign, opened it or clicked it.

    Args:
        outcomes: gives all of them, each time that it is called: a response may be known before its send's campaign is.
    """
    found: set[str] = set()
    sent: set[str] = set()
    for outcome in outcomes():
        candidate = None if outcome.snapshot is None else outcome.snapshot.candidate
        if outcome.head == "redemption" and candidate is not None and candidate.campaign_id == campaign_id:
            sent.add(outcome.question_id)
            if outcome.label:
                found.add(outcome.customer_id)
    if sent:
        found.update(
            outcome.customer_id
            for outcome in outcomes()
            if outcome.head == "response" and outcome.question_id in sent and outcome.label
        )
    return found


Pair = tuple[bytes | None, bytes | None]
"""Key and value of a record."""


def redeemed(records: Iterable[Pair], campaign_id: str) -> set[str]:
    """Customers whose redemption names a campaign."""
    return {customer_id for customer_id, _ in _steps(records, campaign_id)}


def responded(records: Iterable[Pair], campaign_id: str, machine_open_ms: int) -> set[str]:
    """Customers who opened or clicked a campaign; an open by a machine counts as none.

    Args:
        records: of ``campaign-sends``, each customer's in the order of their partition.
        machine_open_ms: an open is a machine's when it comes so soon after the message.
    """
    found: set[str] = set()
    arrived_ms: dict[str, int] = {}

    def machine_until(customer_id: str) -> int:
        arrived = arrived_ms.get(customer_id)
        return -1 if arrived is None else arrived + machine_open_ms

    for customer_id, step in _steps(records, campaign_id):
        if step.event in ("send", "delivered"):
            arrived_ms[customer_id] = max(step.event_ts_ms, arrived_ms.get(customer_id, 0))
        elif step.event == "click" or (step.event == "open" and step.event_ts_ms > machine_until(customer_id)):
            found.add(customer_id)
    return found


def _steps(records: Iterable[Pair], campaign_id: str) -> Iterator[tuple[str, _Step]]:
    """What is about a campaign, with its customer; what ingest refuses is left out."""
    for key, value in records:
        try:
            step = _step(value or b"{}")
            if step.campaign_id == campaign_id:
                yield decode_key(key), step
        except (msgspec.DecodeError, UnicodeDecodeError, DeadLetter):
            continue


def _outcomes(reader: TopicReader, prefix: str) -> Iterator[Outcome]:
    for message in reader.whole(prefix + "outcomes"):
        try:
            yield _outcome(message.value() or b"")
        except msgspec.DecodeError:  # of a release with other fields
            continue


def _pairs(reader: TopicReader, topic: str) -> Iterator[Pair]:
    return ((message.key(), message.value()) for message in reader.whole(topic))
