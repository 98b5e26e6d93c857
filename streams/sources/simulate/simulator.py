"""A seeded world that yields source records day by day, and the truth behind them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np

from schemas.catalog import CatalogEntry
from schemas.errors import ConfigError
from streams.sources.datasets.record import SourceRecord, order
from streams.sources.simulate import population, world
from streams.sources.simulate.campaigns import Launcher, RedeemingVisit, launched, profile
from streams.sources.simulate.sessions import Visits
from streams.sources.simulate.truth import CustomerTruth, ResponseTruth
from streams.sources.simulate.world import DAY_MS

_PEAK_SHARE: Final = 0.8
_PEAK_WIDTH_HOURS: Final = 2.0
_WEEKEND: Final = 1.3
# One random stream for each concern, so that more sessions do not change who is sent what.
_WORLD, _POPULATION, _CAMPAIGNS, _DAYS, _VISITS = range(5)


class Simulator:
    """Customers who browse, buy, are sent offers, use them, and one day come no more.

    Pure: the same arguments give the same records, byte for byte, every time.

    Args:
        seed: of every random number.
        customers: how many there are in the end; a third joins during the first half.
        start_ms: event time of the beginning, a UTC midnight.
        days: length of the simulation.
        items: items in the shop, spread over its categories.
        campaign_every_days: days between two campaigns; 0 for none.
        erased_share: share of the customers who are erased at some point: a null profile, nothing after it.

    Raises:
        ConfigError: an argument cannot be.

    Example:
        >>> simulator = Simulator(seed=1, customers=20, start_ms=1_700_006_400_000, days=3)
        >>> next(simulator.records()).topic
        'profiles'
    """

    def __init__(
        self,
        seed: int,
        customers: int,
        start_ms: int,
        days: int,
        *,
        items: int = 240,
        campaign_every_days: int = 7,
        erased_share: float = 0.0,
    ) -> None:
        if start_ms % DAY_MS:
            raise ConfigError(f"start_ms {start_ms} is no UTC midnight: {start_ms - start_ms % DAY_MS} is")
        if customers < 1 or days < 1 or items < 1:
            raise ConfigError("a simulation needs at least one customer, one day and one item")
        self._seed = seed
        self.start_ms: Final = start_ms
        self.end_ms: Final = start_ms + days * DAY_MS
        self._world = world.build(self._rng(_WORLD), items, start_ms, days, campaign_every_days)
        self._customers = population.draw(self._rng(_POPULATION), self._world, customers, start_ms, days, erased_share)
        known = [customer.truth for customer in self._customers]
        self._rates = np.array([one.sessions_per_day for one in known])
        self._joined_ms = np.array([one.joined_ms for one in known])
        self._gold_ms = np.array([customer.gold_ms for customer in self._customers])
        self._gone_ms = np.array([customer.gone_ms for customer in self._customers])
        self._erased_ms = np.array([self.end_ms if one.erased_ms is None else one.erased_ms for one in known])

    def catalog(self) -> list[CatalogEntry]:
        """Items, campaigns, offers, templates and channels."""
        return self._world.catalog()

    def truth(self) -> list[CustomerTruth]:
        """What is true of every customer, with the response to every send in the order of sending."""
        launcher = self._launcher()
        responses = [response for campaign in self._world.campaigns for response in launcher.launch(campaign).responses]
        by_customer: dict[int, list[ResponseTruth]] = {}
        for number, response in responses:
            by_customer.setdefault(number, []).append(response)
        return [
            msgspec.structs.replace(customer.truth, responses=tuple(by_customer.get(number, ())))
            for number, customer in enumerate(self._customers)
        ]

    def records(self) -> Iterator[SourceRecord]:
        """Every record with ``start_ms <= event time < end_ms``, ordered; about a day of them in memory."""
        launcher = self._launcher()
        visits = Visits(self._rng(_VISITS), self._world)
        rng = self._rng(_DAYS)
        pending: list[SourceRecord] = []
        redeeming: dict[int, list[RedeemingVisit]] = {}
        for day_ms in range(self.start_ms, self.end_ms, DAY_MS):
            next_ms = day_ms + DAY_MS
            for campaign in launched(self._world.campaigns, day_ms, next_ms):
                launch = launcher.launch(campaign)
                pending += launch.records
                for visit in launch.visits:
                    redeeming.setdefault(visit.start_ms // DAY_MS, []).append(visit)
            for visit in redeeming.pop(day_ms // DAY_MS, ()):
                pending += visits.redeem(self._customers[visit.customer], visit)
            pending += self._profiles(launcher, day_ms)
            for number, start_ms in self._arrivals(rng, day_ms):
                pending += visits.browse(self._customers[number], start_ms)
            pending.sort(key=order)
            later = []
            for record in pending:
                if record.event_ts_ms < next_ms:
                    yield record
                else:
                    later.append(record)
            pending = later

    def _rng(self, stream: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self._seed, stream])))

    def _launcher(self) -> Launcher:
        return Launcher(self._rng(_CAMPAIGNS), self._customers, self.end_ms)

    def _arrivals(self, rng: np.random.Generator, day_ms: int) -> Iterator[tuple[int, int]]:
        """(customer, start) of the day's sessions of those who are there."""
        weekend = (day_ms // DAY_MS + 3) % 7 >= 5  # 1970-01-01 was a Thursday
        counts = rng.poisson(self._rates * (_WEEKEND if weekend else 1.0))
        numbers = np.repeat(np.arange(len(counts)), counts)
        at_peak = rng.random(len(numbers)) < _PEAK_SHARE
        beside = rng.normal(0.0, _PEAK_WIDTH_HOURS, len(numbers))
        anywhere = rng.random(len(numbers)) * 24
        for number, peak, aside, hour in zip(
            numbers.tolist(), at_peak.tolist(), beside.tolist(), anywhere.tolist(), strict=True
        ):
            customer = self._customers[number]
            local = (customer.truth.peak_hour + aside) % 24 if peak else hour
            start_ms = population.at_local_hour(day_ms, customer.truth.timezone, local)
            if customer.truth.joined_ms < start_ms < customer.gone_ms:
                yield number, start_ms

    def _profiles(self, launcher: Launcher, day_ms: int) -> Iterator[SourceRecord]:
        """The day's first profiles, changes of tier, and erasures."""
        next_ms = day_ms + DAY_MS
        for moments in (self._joined_ms, self._gold_ms):
            for number in np.flatnonzero((day_ms <= moments) & (moments < np.minimum(next_ms, self._gone_ms))).tolist():
                yield self._profile(launcher, number, int(moments[number]))
        for number in np.flatnonzero((day_ms <= self._erased_ms) & (self._erased_ms < next_ms)).tolist():
            yield SourceRecord("profiles", self._customers[number].id, None, int(self._erased_ms[number]))

    def _profile(self, launcher: Launcher, number: int, ts_ms: int) -> SourceRecord:
        customer = self._customers[number]
        granted = launcher.consents.granted(customer, number, ts_ms)
        return profile(customer, granted, ts_ms, f"profile-{customer.id}-{ts_ms}")
