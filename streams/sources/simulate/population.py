"""Customers: who joins when, what they like, how long they stay."""

from __future__ import annotations

from bisect import bisect_left
from datetime import UTC, datetime
from functools import lru_cache
from itertools import accumulate
from typing import Final
from zoneinfo import ZoneInfo

import msgspec
import numpy as np

from streams.sources.simulate.truth import CustomerTruth
from streams.sources.simulate.world import CATEGORIES, CHANNELS, DAY_MS, Item, World

_TIMEZONES: Final = ("Europe/London", "Europe/Berlin", "America/New_York", "America/Los_Angeles", "Asia/Tokyo")
_PEAK_HOURS: Final = (8.0, 12.5, 18.0, 21.0)
_CONSENT_SHARE: Final = {"email": 0.9, "push": 0.6, "sms": 0.4}
_JOIN_LATER_SHARE: Final = 0.3
_MEAN_HAZARD_PER_DAY: Final = 1 / 120
_MEAN_DAYS_TO_GOLD: Final = 500.0
_FAVOURITES: Final = 6
_FAVOURITE_SHARE: Final = 0.5


class SimulatedCustomer(msgspec.Struct, frozen=True, kw_only=True):
    """A customer's truth, and the tables that make drawing from it quick."""

    truth: CustomerTruth
    gone_ms: int
    """Own actions end here: death or erasure, whichever is first."""
    cumulative_share: tuple[float, ...]
    favourites: tuple[Item, ...]
    gold_ms: int
    """From then on the profile says ``gold``; may lie past the end."""
    buys: float
    """Probability that a session with something in the cart ends with an order."""
    app_share: float

    @property
    def id(self) -> str:
        return self.truth.customer_id

    def pick(self, world: World, which: float, uniform: float) -> Item:
        """An item from two uniform numbers: a favourite for half of the first, else by interest and popularity."""
        if which < _FAVOURITE_SHARE:
            return self.favourites[int(uniform * len(self.favourites))]
        category = self.category((which - _FAVOURITE_SHARE) / (1 - _FAVOURITE_SHARE))
        return world.items[category][bisect_left(world.popularity[category], uniform)]

    def category(self, uniform: float) -> int:
        return bisect_left(self.cumulative_share, uniform)


def draw(
    rng: np.random.Generator, world: World, customers: int, start_ms: int, days: int, erased_share: float
) -> tuple[SimulatedCustomer, ...]:
    """Draw the customers. About a third joins during the first half; ``erased_share`` of them is erased later."""
    end_ms = start_ms + days * DAY_MS
    joins_later = rng.random(customers) < _JOIN_LATER_SHARE
    joined = start_ms + (joins_later * rng.random(customers) * days / 2 * DAY_MS).astype(np.int64)
    hazard = rng.gamma(1.5, _MEAN_HAZARD_PER_DAY / 1.5, customers) + 1e-5
    life_ms = np.minimum(rng.exponential(1 / hazard), 36_500) * DAY_MS
    death = joined + life_ms.astype(np.int64)
    erased = joined + ((0.1 + 0.9 * rng.random(customers)) * (end_ms - joined)).astype(np.int64) - 1
    is_erased = rng.random(customers) < erased_share
    sessions = np.exp(rng.normal(-1.2, 0.7, customers))
    share = rng.dirichlet(np.full(len(CATEGORIES), 0.25), customers)
    preference = rng.dirichlet(np.full(len(CHANNELS), 0.7), customers)
    consent = rng.random((customers, len(CHANNELS))) < [_CONSENT_SHARE[channel] for channel in CHANNELS]
    zone = rng.integers(len(_TIMEZONES), size=customers)
    peak = rng.choice(_PEAK_HOURS, customers) + rng.normal(0, 0.75, customers)
    sensitivity = rng.random(customers)
    buys = 0.3 + 0.6 * rng.random(customers)
    app = rng.random(customers)
    gold = joined + (rng.exponential(_MEAN_DAYS_TO_GOLD, customers) * DAY_MS).astype(np.int64) + 1
    picks = rng.random((customers, _FAVOURITES, 2))
    width = max(5, len(str(customers - 1)))

    drawn = []
    for n in range(customers):
        cumulative = (*list(accumulate(share[n].tolist()))[:-1], 1.0)
        favourites = []
        for which, uniform in picks[n].tolist():
            category = bisect_left(cumulative, which)
            favourites.append(world.items[category][bisect_left(world.popularity[category], uniform)])
        erased_ms = int(erased[n]) if is_erased[n] else None
        truth = CustomerTruth(
            customer_id=f"c{n:0{width}d}",
            joined_ms=int(joined[n]),
            hazard_per_day=float(hazard[n]),
            death_ms=int(death[n]),
            erased_ms=erased_ms,
            sessions_per_day=float(sessions[n]),
            timezone=_TIMEZONES[zone[n]],
            peak_hour=float(peak[n] % 24),
            price_sensitivity=float(sensitivity[n]),
            category_share=tuple(share[n].tolist()),
            channel_preference=dict(zip(CHANNELS, preference[n].tolist(), strict=True)),
            consent=dict(zip(CHANNELS, consent[n].tolist(), strict=True)),
            favourites=tuple(item.id for item in favourites),
        )
        drawn.append(
            SimulatedCustomer(
                truth=truth,
                gone_ms=min(truth.death_ms, erased_ms if erased_ms is not None else truth.death_ms),
                cumulative_share=cumulative,
                favourites=tuple(favourites),
                gold_ms=int(gold[n]),
                buys=float(buys[n]),
                app_share=float(app[n]),
            )
        )
    return tuple(drawn)


@lru_cache(maxsize=4_096)
def utc_offset_ms(timezone: str, day: int) -> int:
    """Offset of local time from UTC at noon of the ``day``-th day since 1970."""
    moment = datetime.fromtimestamp(day * DAY_MS // 1000 + 43_200, UTC).astimezone(ZoneInfo(timezone))
    offset = moment.utcoffset()
    return 0 if offset is None else int(offset.total_seconds()) * 1000


def at_local_hour(day_ms: int, timezone: str, hour: float) -> int:
    """The instant of the UTC day beginning at ``day_ms`` at which the local clock shows ``hour``."""
    local_ms = int(hour * 3_600_000) - utc_offset_ms(timezone, day_ms // DAY_MS)
    return day_ms + local_ms % DAY_MS
