"""Why an hour and a channel: what the customer does, and what everybody does."""

from __future__ import annotations

from typing import Final

import numpy as np

from models.reasons import SMALLEST, TOP
from models.send_slots import OF_CHANNELS, OF_HOURS, SLOT_NAMES, SlotRates
from models.wide import Doubles, Floats
from schemas.predictions import Reason, SendSlot

SLOT_FAMILIES: Final[dict[str, tuple[str, ...]]] = {
    "OWN_HOURS": ("own_hour", "own_day"),
    "OWN_CHANNEL": ("own_channel",),
    "PEOPLE_HOURS": ("people_hour",),
    "PEOPLE_CHANNEL": ("people_channel",),
    "SEASON": ("season_sin", "season_cos"),
}
"""Code → its inputs; every one is in one."""
_ABOUT: Final = 2
"""Hours on either side that are about one."""
_ORDER: Final = [SLOT_NAMES[at] for at in (*OF_HOURS, *OF_CHANNELS)]


def slot_reasons(
    slot: SendSlot, parts: Floats, hours: Doubles, answers: Doubles, rates: SlotRates, top: int = TOP
) -> list[Reason]:
    """The families that set a slot apart most, strongest first.

    Args:
        parts: what the inputs of its hour and then those of its channel add to the logit, (SLOT_SIZE,).
        hours: the customer's visits by hour of the day, (24,).
        answers: messages by its channel that the customer answered, and did not: (2,).
        rates: everybody's.
    """
    value = dict(zip(_ORDER, parts.tolist(), strict=True))
    shares = {code: sum(value[name] for name in names) for code, names in SLOT_FAMILIES.items()}
    ranked = sorted(shares.items(), key=lambda one: (-abs(one[1]), one[0]))[:top]
    return [
        Reason(code, _said(code, slot, hours, answers, rates), weight=round(share, 4))
        for code, share in ranked
        if abs(share) >= SMALLEST
    ]


def _said(code: str, slot: SendSlot, hours: Doubles, answers: Doubles, rates: SlotRates) -> str:
    about = [(slot.hour + near) % 24 for near in range(-_ABOUT, _ABOUT + 1)]
    span = f"between {about[0]}:00 and {(about[-1] + 1) % 24}:00"
    everybody = f"{rates.hours[about].sum():.0%} of everybody's"
    match code:
        case "OWN_HOURS":
            visits = float(hours.sum())
            if not visits:
                return f"no visit is known yet; {everybody} begin {span}"
            return f"{hours[about].sum() / visits:.0%} of {visits:.0f} visits began {span}, {everybody}"
        case "OWN_CHANNEL":
            return f"answered {answers[0]:.0f} of {answers.sum():.0f} messages by {slot.channel}"
        case "PEOPLE_HOURS":
            odds = float(np.exp(rates.answered[_hour_of_week(slot)]))
            return f"messages of that hour on a {slot.weekday} are answered {odds:.2f} times as often as others (odds)"
        case "PEOPLE_CHANNEL":
            place = rates.channel(slot.channel).place
            share = rates.channel_rates[place] if place >= 0 else rates.rate
            return f"{share:.0%} of messages by {slot.channel} are answered, {rates.rate:.0%} of all"
    return "the time of the year"


WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def _hour_of_week(slot: SendSlot) -> int:
    return 24 * WEEKDAYS.index(slot.weekday) + slot.hour
