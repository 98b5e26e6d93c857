"""Sends and what becomes of them, decided by the logistic model in :mod:`streams.sources.simulate.truth`."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp
from typing import Final, NamedTuple

import numpy as np

from schemas.events import CampaignSend, Profile
from streams.sources.datasets.record import SourceRecord
from streams.sources.simulate import truth
from streams.sources.simulate.population import SimulatedCustomer, at_local_hour
from streams.sources.simulate.truth import ResponseTruth
from streams.sources.simulate.world import CHANNELS, DAY_MS, SimulatedCampaign, template_id

_TARGETED_SHARE: Final = 0.5
_FATIGUE_MS: Final = 7 * DAY_MS
_MINUTE_MS: Final = 60_000
_HOUR_WIDTH: Final = 3.0
#: Local hours between which sends are drawn, all day long as far as quiet hours would allow.
_FIRST_HOUR: Final = 8.0
_LAST_HOUR: Final = 22.0


class RedeemingVisit(NamedTuple):
    """A session that will use an offer."""

    customer: int
    start_ms: int
    campaign: SimulatedCampaign
    send_id: str


class Launch(NamedTuple):
    """Everything one campaign causes."""

    records: list[SourceRecord]
    visits: list[RedeemingVisit]
    responses: list[tuple[int, ResponseTruth]]
    """(customer, response)."""


class Consents:
    """Marketing consent as it changes: what was granted when joining, until it is revoked."""

    def __init__(self) -> None:
        self._revoked_ms: dict[tuple[int, str], int] = {}

    def revoke(self, customer: int, channel: str, at_ms: int) -> None:
        self._revoked_ms[customer, channel] = min(at_ms, self._revoked_ms.get((customer, channel), at_ms))

    def granted(self, customer: SimulatedCustomer, number: int, at_ms: int) -> list[str]:
        return [
            channel
            for channel in CHANNELS
            if customer.truth.consent[channel] and at_ms < self._revoked_ms.get((number, channel), at_ms + 1)
        ]


def profile(customer: SimulatedCustomer, granted: list[str], event_ts_ms: int, event_id: str) -> SourceRecord:
    """The profile of a customer who grants marketing on some channels and service messages on all."""
    tier = "gold" if event_ts_ms >= customer.gold_ms else "basic"
    body = Profile(
        event_ts_ms=event_ts_ms,
        event_id=event_id,
        attributes={"tier": tier},
        timezone=customer.truth.timezone,
        consent={channel: {"marketing": channel in granted, "service": True} for channel in CHANNELS},
    )
    return SourceRecord("profiles", customer.id, body, event_ts_ms)


class Launcher:
    """Launches the campaigns of one run in their order, remembering sends and consents."""

    def __init__(self, rng: np.random.Generator, customers: tuple[SimulatedCustomer, ...], end_ms: int) -> None:
        self._rng = rng
        self._customers = customers
        self._end_ms = end_ms
        self._sent_ms: dict[int, list[int]] = {}
        self.consents = Consents()

    def launch(self, campaign: SimulatedCampaign) -> Launch:
        """Send ``campaign`` on its first day to half of those who may be sent to, on a channel drawn evenly."""
        launch = Launch([], [], [])
        targeted = self._rng.random(len(self._customers)) < _TARGETED_SHARE
        numbers = np.flatnonzero(targeted).tolist()
        for number, uniform in zip(numbers, self._rng.random((len(numbers), 10)).tolist(), strict=True):
            self._send(campaign, number, uniform, launch)
        return launch

    def _send(self, campaign: SimulatedCampaign, number: int, uniform: list[float], launch: Launch) -> None:
        customer = self._customers[number]
        known = customer.truth
        hour = _FIRST_HOUR + uniform[0] * (_LAST_HOUR - _FIRST_HOUR)
        send_ms = at_local_hour(campaign.from_ms, known.timezone, hour)
        erased_ms = known.erased_ms if known.erased_ms is not None else self._end_ms
        granted = self.consents.granted(customer, number, send_ms)
        if not granted or send_ms <= known.joined_ms or send_ms >= min(erased_ms, self._end_ms):
            return
        channel = granted[int(uniform[1] * len(granted))]
        sent_ms = [ts_ms for ts_ms in self._sent_ms.get(number, ()) if ts_ms > send_ms - _FATIGUE_MS]
        self._sent_ms[number] = [*sent_ms, send_ms]
        terms = {
            "affinity": known.category_share[campaign.category],
            "discount": campaign.discount * known.price_sensitivity,
            "channel_match": known.channel_preference[channel],
            "hour_match": hour_match(hour, known.peak_hour),
            "recent_sends": len(sent_ms),
        }
        p_open = truth.probability(truth.OPEN_INTERCEPT, truth.OPEN_COEFFICIENTS, terms)
        p_redeem = truth.probability(truth.REDEEM_INTERCEPT, truth.REDEEM_COEFFICIENTS, terms)
        stays_ms = min(customer.gone_ms, self._end_ms)
        bounced = uniform[2] < truth.BOUNCE
        open_ms = send_ms + int(_MINUTE_MS * (1 + 180 * uniform[3] ** 2))
        opened = not bounced and uniform[4] < p_open and open_ms < stays_ms
        visit_ms = send_ms + int(_MINUTE_MS * 60 + uniform[5] * (campaign.to_ms - send_ms - 4 * 60 * _MINUTE_MS))
        redeemed = not bounced and uniform[6] < p_redeem and visit_ms + 10 * _MINUTE_MS < stays_ms
        send_id = f"{campaign.id}-{customer.id}"
        steps = [("send", send_ms), ("bounce" if bounced else "delivered", send_ms + 2_000)]
        if opened:
            steps.append(("open", open_ms))
            if uniform[7] < truth.CLICK_AFTER_OPEN and open_ms + 20_000 < stays_ms:
                steps.append(("click", open_ms + 20_000))
            if uniform[8] < truth.UNSUBSCRIBE_AFTER_OPEN and open_ms + 61_000 < stays_ms:
                steps.append(("unsubscribe", open_ms + 60_000))
                self.consents.revoke(number, channel, open_ms + 60_000)
                left = self.consents.granted(customer, number, open_ms + 60_000)
                launch.records.append(profile(customer, left, open_ms + 61_000, f"{send_id}-profile"))
        # A customer that is erased, unlike one that has died, is not heard of from any side.
        launch.records.extend(
            _step(campaign, customer, channel, send_id, event, ts_ms, 1 / len(granted))
            for event, ts_ms in steps
            if ts_ms < min(erased_ms, self._end_ms)
        )
        if redeemed:
            launch.visits.append(RedeemingVisit(number, visit_ms, campaign, send_id))
        response = ResponseTruth(
            campaign_id=campaign.id,
            send_id=send_id,
            channel=channel,
            send_ms=send_ms,
            affinity=terms["affinity"],
            discount=terms["discount"],
            channel_match=terms["channel_match"],
            hour_match=terms["hour_match"],
            recent_sends=len(sent_ms),
            p_open=p_open,
            p_redeem=p_redeem,
            opened=opened,
            redeemed=redeemed,
        )
        launch.responses.append((number, response))


def _step(
    campaign: SimulatedCampaign,
    customer: SimulatedCustomer,
    channel: str,
    send_id: str,
    event: str,
    ts_ms: int,
    propensity: float,
) -> SourceRecord:
    sent = event == "send"
    body = CampaignSend(
        event=event,
        event_ts_ms=ts_ms,
        campaign_id=campaign.id,
        event_id=f"{send_id}-{event}",
        template_id=template_id(channel),
        channel=channel,
        offer_id=campaign.offer_id,
        send_id=send_id,
        window_end_ms=campaign.to_ms if sent else None,
        propensity=_TARGETED_SHARE * propensity if sent else None,
    )
    return SourceRecord("campaign-sends", customer.id, body, ts_ms)


def hour_match(hour: float, peak: float) -> float:
    """1 at a customer's favourite hour of the day, towards 0 away from it."""
    distance = abs(hour - peak) % 24
    return exp(-0.5 * (min(distance, 24 - distance) / _HOUR_WIDTH) ** 2)


def launched(campaigns: tuple[SimulatedCampaign, ...], from_ms: int, to_ms: int) -> Iterator[SimulatedCampaign]:
    """Campaigns that start in the range."""
    return (campaign for campaign in campaigns if from_ms <= campaign.from_ms < to_ms)
