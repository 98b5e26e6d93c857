"""BG/NBD: how often customers of a shop without contracts buy, from three numbers each. The floor of CDNOW.

While customers are there, each buys at a rate of their own; after every purchase each leaves for good with a
probability of their own. Rates are Gamma distributed over customers, probabilities Beta. Source of the idea: Fader,
Hardie and Lee, "Counting your customers the easy way: an alternative to the Pareto/NBD model" (Marketing Science 24,
2005). Fitted by the package lifetimes.
"""

from __future__ import annotations

import warnings
from typing import Any, Final, NamedTuple

import numpy as np

from infra.evaluate.floors import OrdersByCustomer
from infra.evaluate.statistics import Doubles, Ints
from schemas.errors import ConfigError
from streams.core.config import DAY_MS

WEEK_DAYS: Final = 7


class Histories(NamedTuple):
    """What the model knows of customers, (N,) each; times in weeks."""

    repeats: Doubles
    """Days with a purchase after the first such day: x of the paper."""
    last: Doubles
    """From the first purchase to the last one: t_x."""
    age: Doubles
    """From the first purchase until now: T."""


def histories(visits: OrdersByCustomer, customer: Ints, as_of_ms: Ints) -> Histories:
    """Of customers at midnights, UTC, that come after their first purchase. Days count, as in the paper."""
    repeats, last, age = (np.zeros(len(customer)) for _ in range(3))
    for row, (number, at_ms) in enumerate(zip(customer.tolist(), as_of_ms.tolist(), strict=True)):
        ts_ms = visits.ts_ms[visits.of(number)]
        days = np.unique(ts_ms[ts_ms < at_ms] // DAY_MS)
        repeats[row] = len(days) - 1
        last[row] = (days[-1] - days[0]) / WEEK_DAYS
        age[row] = (at_ms // DAY_MS - 1 - days[0]) / WEEK_DAYS  # the day before is the last one that is known
    return Histories(repeats, last, age)


class BgNbd:
    """The model, fitted.

    Raises:
        ConfigError: lifetimes is not installed.
    """

    def __init__(self, known: Histories) -> None:
        self._fitter = _fitter()
        with warnings.catch_warnings():  # the package is of 2020, and its search passes infinities
            warnings.simplefilter("ignore")
            self._fitter.fit(known.repeats, known.last, known.age)

    @property
    def parameters(self) -> dict[str, float]:
        """r and alpha of the rates in a week, a and b of the probabilities."""
        return {name: float(value) for name, value in self._fitter.params_.items()}

    def expected(self, weeks: float, known: Histories) -> Doubles:
        """(N,) days with a purchase in the next weeks: equation 10 of the paper."""
        out: Doubles = self._fitter.conditional_expected_number_of_purchases_up_to_time(weeks, *known)
        return out

    def any(self, weeks: float, known: Histories) -> Doubles:
        """(N,) probability of a purchase in the next weeks.

        Who is still there leaves only after a purchase. So none comes from whoever has left, and from others with
        exp(-rate * weeks). Given the history and that the customer is there, the rate is Gamma distributed with the
        shape r + x and the rate alpha + T: the mean of that exponential is ((alpha + T) / (alpha + T + weeks))^(r + x).
        """
        found = self.parameters
        until_now = found["alpha"] + known.age
        none: Doubles = (until_now / (until_now + weeks)) ** (found["r"] + known.repeats)
        there: Doubles = self._fitter.conditional_probability_alive(*known)
        return there * (1.0 - none)


def _fitter() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from lifetimes import BetaGeoFitter
    except ImportError as error:
        raise ConfigError(
            "BG/NBD needs the package lifetimes: run `make install`, or pip install 'pulsegraph[datasets]'"
        ) from error
    return BetaGeoFitter()
