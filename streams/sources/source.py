"""Where events come from when no upstream application produces them: a data set, or the simulator.

One shape for both, so that ``train``, ``replay`` and ``demo`` do not care.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from schemas.catalog import CatalogEntry
from schemas.errors import ConfigError
from schemas.events import Body, Profile
from streams.sources.datasets.record import SourceRecord

if TYPE_CHECKING:
    from streams.sources.datasets.cdnow import Cdnow
    from streams.sources.datasets.complete_journey import CompleteJourney
    from streams.sources.datasets.online_retail import OnlineRetail
    from streams.sources.simulate.simulator import Simulator

NAMES: Final = ("complete-journey", "online-retail", "cdnow", "simulation")
SIMULATION_START_MS: Final = 1_483_228_800_000  # 2017-01-01T00:00:00Z, the year of Complete Journey
SIMULATION_DAYS: Final = 365

SourceEvent = tuple[str, str, Body, int]
"""(topic, customer id, body, event ms)"""


class Source(Protocol):
    """A finite log of source events in event-time order, and the catalog they speak of."""

    @property
    def name(self) -> str: ...

    @property
    def from_ms(self) -> int:
        """Event time at which it begins; profiles may come a second earlier."""

    @property
    def until_ms(self) -> int:
        """Event time just past its last event."""

    def history(self, until_ms: int) -> list[SourceEvent]:
        """Everything before ``until_ms`` that has a body, for training."""

    def catalog(self) -> dict[str, CatalogEntry]:
        """All entries by ``kind:id``."""

    def records(self, from_ms: int, to_ms: int, limit: int | None = None) -> Iterator[SourceRecord]:
        """Events with ``from_ms <= event time < to_ms``, led by the profiles that hold at ``from_ms``.

        Args:
            limit: take whole customers, as many as have together about this many events in the range, so that
                the histories of those who are taken stay complete.
        """

    def count(self, from_ms: int, to_ms: int, limit: int | None = None) -> int | None:
        """Number of records that :meth:`records` yields; None where counting costs as much as making them."""


def load_source(
    name: str,
    *,
    seed: int = 0,
    customers: int = 2_000,
    days: int = SIMULATION_DAYS,
    campaign_every_days: int = 7,
) -> Source:
    """A source by name.

    Args:
        name: one of :data:`NAMES`.
        seed: of the simulation, and of the choice of customers that ``limit`` makes.
        customers: of the simulation.
        days: of the simulation, which begins on 2017-01-01 and by default lasts a year.
        campaign_every_days: between two campaigns of the simulation.

    Raises:
        ConfigError: an unknown name, or the data set is not there.

    Example:
        >>> next(load_source("simulation", customers=5, days=2).records(SIMULATION_START_MS, 1 << 42)).topic
        'profiles'
    """
    if name == "complete-journey":
        from streams.sources.datasets.complete_journey import CompleteJourney

        return JourneySource(CompleteJourney.load(), seed)
    if name == "online-retail":
        from streams.sources.datasets.online_retail import OnlineRetail

        return DatasetSource(name, OnlineRetail.load(), seed)
    if name == "cdnow":
        from streams.sources.datasets.cdnow import Cdnow

        return DatasetSource(name, Cdnow.load(), seed)
    if name == "simulation":
        from streams.sources.simulate.simulator import Simulator

        simulator = Simulator(seed, customers, SIMULATION_START_MS, days, campaign_every_days=campaign_every_days)
        return SimulationSource(simulator, seed)
    raise ConfigError(f"there is no source {name!r}: choose from {', '.join(NAMES)}")


class JourneySource:
    """Complete Journey: 1.5 million purchase lines, sends and redemptions of 2,467 households in 2017."""

    name = "complete-journey"

    def __init__(self, journey: CompleteJourney, seed: int = 0) -> None:
        self._journey = journey
        self._seed = seed

    @property
    def from_ms(self) -> int:
        return self._journey.from_ms

    @property
    def until_ms(self) -> int:
        return self._journey.until_ms

    def history(self, until_ms: int) -> list[SourceEvent]:
        return _with_body(self._journey.events(to_ms=until_ms))

    def catalog(self) -> dict[str, CatalogEntry]:
        return {entry.key: entry for entry in self._journey.catalog()}

    def records(self, from_ms: int, to_ms: int, limit: int | None = None) -> Iterator[SourceRecord]:
        return self._journey.events(from_ms, to_ms, self._households(from_ms, to_ms, limit))

    def count(self, from_ms: int, to_ms: int, limit: int | None = None) -> int | None:
        return self._journey.count(from_ms, to_ms, self._households(from_ms, to_ms, limit))

    def _households(self, from_ms: int, to_ms: int, limit: int | None) -> frozenset[str] | None:
        return None if limit is None else self._journey.households_for(limit, from_ms, to_ms, seed=self._seed)


class DatasetSource:
    """Online Retail: invoices of a gift shop from December 2010 to December 2011, returns and guests among them. Or
    CDNOW: who bought records on which day of 18 months."""

    def __init__(self, name: str, data: OnlineRetail | Cdnow, seed: int = 0) -> None:
        self.name: Final = name
        self._data = data
        self._seed = seed

    @property
    def from_ms(self) -> int:
        return self._data.from_ms

    @property
    def until_ms(self) -> int:
        return self._data.until_ms

    def history(self, until_ms: int) -> list[SourceEvent]:
        return _with_body(self._data.events(to_ms=until_ms))

    def catalog(self) -> dict[str, CatalogEntry]:
        return {entry.key: entry for entry in self._data.catalog()}

    def records(self, from_ms: int, to_ms: int, limit: int | None = None) -> Iterator[SourceRecord]:
        return self._data.events(from_ms, to_ms, self._customers(from_ms, to_ms, limit))

    def count(self, from_ms: int, to_ms: int, limit: int | None = None) -> int | None:
        return self._data.count(from_ms, to_ms, self._customers(from_ms, to_ms, limit))

    def _customers(self, from_ms: int, to_ms: int, limit: int | None) -> frozenset[str] | None:
        if limit is None:
            return None
        return _whole_customers(self._data.events_by_customer(from_ms, to_ms), limit, self._seed)


class SimulationSource:
    """The simulator from its first day on; every call draws the same records again."""

    name = "simulation"

    def __init__(self, simulator: Simulator, seed: int = 0) -> None:
        self.simulator: Final = simulator
        self._seed = seed

    @property
    def from_ms(self) -> int:
        return self.simulator.start_ms

    @property
    def until_ms(self) -> int:
        return self.simulator.end_ms

    def history(self, until_ms: int) -> list[SourceEvent]:
        return _with_body(self._before(until_ms))

    def catalog(self) -> dict[str, CatalogEntry]:
        return {entry.key: entry for entry in self.simulator.catalog()}

    def records(self, from_ms: int, to_ms: int, limit: int | None = None) -> Iterator[SourceRecord]:
        chosen = None if limit is None else self._chosen(from_ms, to_ms, limit)
        profiles: dict[str, Profile] = {}
        restated = False
        for record in self._before(to_ms):
            if chosen is not None and record.key not in chosen:
                continue
            if record.event_ts_ms >= from_ms:
                if not restated:
                    yield from _restated(profiles, from_ms)
                    restated = True
                yield record
            elif isinstance(record.body, Profile):
                profiles[record.key] = record.body
            elif record.body is None:
                profiles.pop(record.key, None)

    def count(self, from_ms: int, to_ms: int, limit: int | None = None) -> int | None:
        return None

    def _before(self, until_ms: int) -> Iterator[SourceRecord]:
        for record in self.simulator.records():
            if record.event_ts_ms >= until_ms:
                return
            yield record

    def _chosen(self, from_ms: int, to_ms: int, limit: int) -> frozenset[str]:
        counted = Counter(record.key for record in self._before(to_ms) if record.event_ts_ms >= from_ms)
        return _whole_customers(counted, limit, self._seed)


def _restated(profiles: Mapping[str, Profile], at_ms: int) -> Iterator[SourceRecord]:
    """The profiles in force at a time, as a compacted topic would still have them."""
    for key in sorted(profiles):
        body = msgspec.structs.replace(profiles[key], event_ts_ms=at_ms, event_id=f"profile-{key}-{at_ms}")
        yield SourceRecord("profiles", key, body, at_ms)


def _whole_customers(counted: Mapping[str, int], limit: int, seed: int) -> frozenset[str]:
    """Customers in the order of a seeded hash, as many as fit, at least one."""
    chosen: list[str] = []
    total = 0
    for key in sorted(counted, key=lambda key: blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()):
        total += counted[key]
        if chosen and total > limit:
            break
        chosen.append(key)
    return frozenset(chosen)


def _with_body(records: Iterable[SourceRecord]) -> list[SourceEvent]:
    return [
        (record.topic, record.key, record.body, record.event_ts_ms) for record in records if record.body is not None
    ]
