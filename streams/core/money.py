"""Amounts of several currencies: what can be converted counts in the company's, what cannot is kept apart."""

from __future__ import annotations

from typing import Final

from streams.core import counters
from streams.core.config import CoreConfig
from streams.core.counters import Counter

_CURRENCIES_KEPT: Final = 8  # a producer that invents currencies must not blow up the state


def rate_of(currency: str | None, config: CoreConfig) -> float | None:
    """What one unit is worth in the company's currency, None where no rate is set; absent is the company's own."""
    if currency is None or currency == config.currency:
        return 1.0
    return config.rates.get(currency)


def keep_apart(unconverted: dict[str, Counter], currency: str, ts_ms: int, amount: float) -> None:
    """Add an amount to those of its currency, of the first few that a customer pays in; times never decrease."""
    if currency in unconverted or len(unconverted) < _CURRENCIES_KEPT:
        counters.add(unconverted, currency, ts_ms, amount)
