"""Next best action: closed where it does not know, explainable, and a policy that can be evaluated afterwards."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any, Final

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.logs import START_MS
from support.snapshots import plain_snapshot

from schemas.catalog import CatalogEntry
from schemas.events import CAMPAIGN_SENDS, PROFILES, type_by_source
from schemas.predictions import RankedAction
from schemas.snapshot import SendCount, Snapshot
from schemas.words import Words
from streams.core.config import DAY_MS, CoreConfig
from streams.core.context import Context
from streams.core.decisions import (
    Decision,
    DecisionPolicy,
    Scored,
    active_campaigns,
    decide,
    offers_over,
    recent_sends,
    suppression,
)
from streams.core.event import Event
from streams.core.fold import fold
from streams.core.snapshots import snapshot_of
from streams.core.state import Folded

POLICY: Final = DecisionPolicy()
GREEDY: Final = 0.999


def campaign(name: str = "x", **said: Any) -> CatalogEntry:
    return CatalogEntry(**{"kind": "campaign", "id": name, "channel": "email"} | said)


def willing(**said: Any) -> Snapshot:
    made: Snapshot = plain_snapshot(**{"consent": ("email:marketing",)} | said)
    return made


def sent(*days_ago: float, channel: str = "email", campaigns: tuple[str, ...] | None = None) -> SendCount:
    times = tuple(START_MS - int(days * DAY_MS) for days in days_ago)
    return SendCount(channel, times, campaigns or tuple(f"old{at}" for at in range(len(times))))


def refused_by(snapshot: Snapshot, entry: CatalogEntry, policy: DecisionPolicy = POLICY) -> str | None:
    refused = suppression(snapshot, entry, policy)
    assert refused is None or (refused.campaign_id == entry.id and refused.detail)
    return refused.by if refused else None


def choices(decision: Decision) -> list[str]:
    return [action.campaign_id or "none" for action in (decision.chosen, *decision.alternatives)]


def test_what_is_known_to_be_allowed_is_allowed() -> None:
    assert refused_by(willing(), campaign()) is None


def test_no_profile_means_no() -> None:
    assert refused_by(plain_snapshot(), campaign()) == "no_consent"


@pytest.mark.parametrize(
    "consent",
    [(), ("sms:marketing",), ("email:service",), ("email",), ("email:marketing2",), ("mail:marketing",)],
)
def test_consent_is_for_this_channel_and_this_purpose(consent: tuple[str, ...]) -> None:
    assert refused_by(willing(consent=consent), campaign()) == "no_consent"


@pytest.mark.parametrize("spelt", ["EMAIL:Marketing", "e-mail:marketing", " E_Mail : MARKETING"])
def test_a_channel_is_the_same_however_it_is_spelt(spelt: str) -> None:
    assert refused_by(willing(consent=(spelt,)), campaign()) is None
    channel, _, purpose = spelt.partition(":")
    assert refused_by(willing(), campaign(channel=channel, purpose=purpose)) is None


def test_a_campaign_of_another_purpose_needs_that_consent() -> None:
    service = campaign(purpose="service")
    assert refused_by(willing(), service) == "no_consent"
    assert refused_by(willing(consent=("email:service",)), service) is None


def test_a_campaign_without_a_channel_cannot_be_sent() -> None:
    assert refused_by(willing(), campaign(channel=None)) == "no_channel"


@pytest.mark.parametrize(
    ("offers", "ends_ms", "over"),
    [
        (["gone"], (START_MS - 1,), True),
        (["gone", "gone too"], (START_MS - 1, START_MS), True),
        (["gone", "good"], (START_MS - 1, START_MS + 1), False),
        (["open"], (None,), False),
        (["gone", "unknown"], (START_MS - 1,), False),
        ([], (), False),
    ],
)
def test_a_campaign_whose_offers_are_over_is_not_sent(
    offers: list[str], ends_ms: tuple[int | None, ...], over: bool
) -> None:
    catalog = {
        f"offer:{name}": CatalogEntry(kind="offer", id=name, active_to_ms=end)
        for name, end in zip(offers, ends_ms, strict=False)
    }
    entry = campaign(offers=offers)
    assert offers_over(entry, catalog, START_MS) is over
    decision = decide(willing(), [Scored(entry, 0.9, over)], DecisionPolicy(epsilon=0.0), GREEDY)
    assert decision.chosen.action == ("none" if over else "send")
    assert [refused.by for refused in decision.suppressed] == (["offer_over"] if over else [])


def test_holdout_comes_before_everything() -> None:
    assert refused_by(willing(holdout=True), campaign()) == "holdout"
    assert refused_by(plain_snapshot(holdout=True), campaign(channel=None)) == "holdout"


@pytest.mark.parametrize(
    ("days_ago", "refused"),
    [((6, 3, 1), "send_cap"), ((6, 5, 3, 1), "send_cap"), ((3, 1), None), ((30, 20, 7), None), ((7, 3, 1), None)],
)
def test_the_cap_counts_sends_inside_the_window(days_ago: tuple[float, ...], refused: str | None) -> None:
    assert refused_by(willing(sends=(sent(*days_ago),)), campaign()) == refused


def test_the_cap_is_per_channel() -> None:
    assert refused_by(willing(sends=(sent(3, 2, 1, channel="sms"),)), campaign()) is None


def test_a_cap_of_zero_sends_nothing() -> None:
    assert refused_by(willing(), campaign(), DecisionPolicy(cap_sends=0)) == "send_cap"


@pytest.mark.parametrize("channel", ["email", "sms"])
def test_a_campaign_is_sent_once_on_whatever_channel(channel: str) -> None:
    before = willing(sends=(sent(40, channel=channel, campaigns=("x",)),))
    assert refused_by(before, campaign("x")) == "already_sent"
    assert refused_by(before, campaign("y")) is None


def test_recent_sends_looks_back_from_the_snapshot() -> None:
    seen = willing(sends=(sent(9, 7, 6.9, 0), sent(1, channel="sms")))
    assert recent_sends(seen, "email", 7 * DAY_MS) == 2
    assert recent_sends(seen, "sms", 7 * DAY_MS) == 1
    assert recent_sends(seen, "post", 7 * DAY_MS) == 0


def test_active_campaigns_are_those_whose_window_holds_the_time() -> None:
    at = START_MS
    entries = [
        campaign("z"),
        campaign("from", active_from_ms=at),
        campaign("not-yet", active_from_ms=at + 1),
        campaign("over", active_to_ms=at),
        campaign("last-ms", active_to_ms=at + 1),
        CatalogEntry(kind="item", id="a"),
    ]
    assert [entry.id for entry in active_campaigns(entries, at)] == ["from", "last-ms", "z"]


def test_doing_nothing_wins_where_nothing_is_running_or_allowed() -> None:
    for scored in ([], [Scored(campaign(channel=None), 0.9)]):
        decision = decide(willing(), scored, POLICY, GREEDY)
        assert decision.chosen.action == "none" and decision.chosen.value == 0.0
        assert decision.chosen.propensity == pytest.approx(1.0) and decision.chosen.propensity <= 1.0
        assert not decision.alternatives
        assert len(decision.suppressed) == len(scored)


def test_doing_nothing_beats_what_costs_more_than_it_brings() -> None:
    decision = decide(willing(), [Scored(campaign(value=2.0, cost=1.0), 0.4)], POLICY, GREEDY)
    assert choices(decision) == ["none", "x"]


def test_doing_nothing_wins_a_tie() -> None:
    assert choices(decide(willing(), [Scored(campaign(value=2.0, cost=1.0), 0.5)], POLICY, GREEDY)) == ["none", "x"]


def test_value_is_expected_worth_less_cost_less_fatigue() -> None:
    seen = willing(sends=(sent(2, 1),))
    policy = DecisionPolicy(fatigue=0.05)
    chosen = decide(seen, [Scored(campaign(value=4.0, cost=0.3), 0.25)], policy, GREEDY).chosen
    assert chosen.value == pytest.approx(0.25 * 4.0 - 0.3 - 0.05 * 2)
    assert chosen.probability == 0.25


def test_an_action_says_what_to_send() -> None:
    entry = campaign("x", offers=["o"], template_id="t")
    chosen = decide(willing(), [Scored(entry, 0.5)], POLICY, GREEDY).chosen
    assert (chosen.campaign_id, chosen.offer_id, chosen.template_id, chosen.channel) == ("x", "o", "t", "email")
    several = decide(willing(), [Scored(campaign("x", offers=["o", "p"]), 0.5)], POLICY, GREEDY).chosen
    assert several.offer_id is None, "which of several offers is not ours to guess"


CANDIDATES: Final = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from(["email", "sms", None]), st.floats(0, 5)), max_size=7
)


def scored_of(drawn: list[tuple[float, str | None, float]]) -> list[Scored]:
    return [
        Scored(campaign(f"x{at}", channel=channel, value=1.0, cost=cost), probability)
        for at, (probability, channel, cost) in enumerate(drawn)
    ]


def ranking(decision: Decision) -> list[RankedAction]:
    """All candidates, best first."""
    return sorted((decision.chosen, *decision.alternatives), key=lambda one: (-one.value, one.campaign_id or ""))


# Every share that the settings accept: subnormal ones, and those too small for a draw to fall below them, among them.
EPSILONS: Final = st.one_of(
    st.floats(0, 1), st.sampled_from([0.0, 5e-324, 1e-308, 2.0**-52, 1e-9, 1.0]), st.floats(0, 1e-8)
)
#: As decisions have them: multiples of 2**-52.
DRAWS: Final = st.one_of(st.floats(0, 1, exclude_max=True), st.integers(0, 2**52 - 1).map(lambda at: at / 2**52))


@example(drawn=[(0.5, "email", 0.0)], draw=0.0, epsilon=5e-324)
@example(drawn=[(0.5, "email", 0.0)], draw=5e-324, epsilon=1e-323)
@given(drawn=CANDIDATES, draw=DRAWS, epsilon=EPSILONS)
def test_laws_of_every_decision(drawn: list[tuple[float, str | None, float]], draw: float, epsilon: float) -> None:
    policy = DecisionPolicy(epsilon=epsilon, alternatives=100)
    scored = scored_of(drawn)
    decision = decide(willing(), scored, policy, draw)
    found = [decision.chosen, *decision.alternatives]
    # Every candidate is either ranked or named with the reason why not; doing nothing is always ranked.
    assert sorted(one.campaign_id or "" for one in found) == sorted(
        ["", *(one.campaign.id for one in scored if one.campaign.channel == "email")]
    )
    assert len(decision.suppressed) + len(found) == len(scored) + 1
    assert all(one.value >= other.value for one, other in itertools.pairwise(found[1:]))
    best = ranking(decision)[0]
    if not decision.explored:
        assert decision.chosen == best
    assert math.isclose(sum(one.propensity for one in found), 1.0, abs_tol=1e-12)
    assert all(0.0 <= one.propensity <= 1.0 for one in found)
    assert math.isfinite(1.0 / decision.chosen.propensity)
    # Where the share is too small to be drawn, none but the best is ever chosen.
    assert all(one.propensity > 0.0 for one in found) == (epsilon >= 1e-9 or len(found) == 1)
    assert max(found, key=lambda one: one.propensity).propensity == best.propensity
    assert decision.explored == (draw < epsilon and epsilon >= 1e-9)
    assert decide(willing(), scored, policy, draw) == decision
    # Candidates come from a dict of the catalog: their order is nobody's promise.
    assert msgspec.structs.replace(decide(willing(), scored[::-1], policy, draw), suppressed=[]) == (
        msgspec.structs.replace(decision, suppressed=[])
    )


@pytest.mark.parametrize("epsilon", [0.0, 0.02, 0.3, 1.0])
@pytest.mark.parametrize("campaigns", [0, 1, 2, 6])
def test_propensities_are_the_frequencies_of_choice(epsilon: float, campaigns: int) -> None:
    scored = [Scored(campaign(f"x{at}", value=1.0), 0.1 * at) for at in range(campaigns)]
    policy = DecisionPolicy(epsilon=epsilon, alternatives=100)
    draws = 4_000
    chosen: Counter[str | None] = Counter()
    for at in range(draws):
        chosen[decide(willing(), scored, policy, (at + 0.5) / draws).chosen.campaign_id] += 1
    decision = decide(willing(), scored, policy, GREEDY)
    for action in (decision.chosen, *decision.alternatives):
        # A regular grid of draws: each count is within two of what the propensity says.
        assert abs(chosen[action.campaign_id] - action.propensity * draws) <= 2


def test_alternatives_are_the_best_of_the_others() -> None:
    scored = [Scored(campaign(f"x{at}", value=1.0), 0.1 * at + 0.1) for at in range(6)]
    assert choices(decide(willing(), scored, DecisionPolicy(alternatives=2), GREEDY)) == ["x5", "x4", "x3"]
    assert choices(decide(willing(), scored, DecisionPolicy(alternatives=0), GREEDY)) == ["x5"]


def test_a_probability_that_is_no_number_never_wins() -> None:
    assert decide(willing(), [Scored(campaign(), math.nan)], POLICY, GREEDY).chosen.action == "none"


class Told:
    """A customer who said yes to everything, and what came afterwards, seen through the fold."""

    def __init__(self, **config: Any) -> None:
        self._context = Context(CoreConfig(**config), Words(), 0, "c1")
        self._state = Folded()
        self._events = 0
        consent = {channel: {"marketing": True} for channel in ("email", "sms")}
        self.tell(PROFILES, consent=consent)

    def tell(self, rank: int, **said: Any) -> None:
        ts_ms = START_MS + self._events
        body = msgspec.convert({"event_ts_ms": ts_ms} | said, tuple(type_by_source.values())[rank])
        event = Event(ts_ms, rank, f"e{self._events}", self._events, self._events, ts_ms, body)
        self._events += 1
        fold(self._state, event, self._context, [])

    def message(self, event: str, **said: Any) -> None:
        self.tell(CAMPAIGN_SENDS, **{"event": event, "campaign_id": f"old{self._events}"} | said)

    def refused_by(self, entry: CatalogEntry) -> str | None:
        seen = snapshot_of(self._state, "event", START_MS + self._events, self._context)
        return refused_by(seen, entry)


@pytest.mark.parametrize("event", ["unsubscribe", "complaint"])
def test_who_leaves_a_channel_is_not_written_to_there(event: str) -> None:
    told = Told()
    told.message(event, channel="email")
    assert told.refused_by(campaign()) == "no_consent"
    assert told.refused_by(campaign(channel="sms")) is None


@pytest.mark.parametrize("event", ["unsubscribe", "complaint"])
def test_who_leaves_without_saying_where_is_not_written_to_at_all(event: str) -> None:
    told = Told()
    told.message(event)
    assert told.refused_by(campaign()) == "no_consent"


def test_a_new_profile_is_the_last_word_on_consent() -> None:
    told = Told()
    told.message("unsubscribe", channel="email")
    told.tell(PROFILES, consent={"email": {"marketing": True}})
    assert told.refused_by(campaign()) is None
    told.tell(PROFILES, consent={"email": {"marketing": False}})
    assert told.refused_by(campaign()) == "no_consent"
    told.tell(PROFILES)
    assert told.refused_by(campaign()) == "no_consent"


def test_sends_fill_the_cap_of_their_channel() -> None:
    told = Told()
    for _ in range(POLICY.cap_sends):
        assert told.refused_by(campaign()) is None
        told.message("send", channel="email")
        told.message("open", channel="email")
    assert told.refused_by(campaign()) == "send_cap"
    assert told.refused_by(campaign(channel="sms")) is None


def test_a_busy_channel_does_not_lift_the_cap_of_another() -> None:
    told = Told(sends_kept=32)
    for _ in range(POLICY.cap_sends):
        told.message("send", channel="email")
    for _ in range(32):
        told.message("send", channel="sms")
    assert told.refused_by(campaign()) == "send_cap"


def test_sends_without_a_channel_count_on_every_channel() -> None:
    told = Told()
    for _ in range(POLICY.cap_sends):
        told.message("send")
    assert told.refused_by(campaign()) == "send_cap"
