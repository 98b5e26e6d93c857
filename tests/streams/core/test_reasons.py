"""Reasons of a decision are the numbers that decided it."""

from __future__ import annotations

from typing import Any, Final

from support.logs import START_MS
from support.snapshots import edge_block, plain_snapshot

from schemas.catalog import CatalogEntry
from schemas.snapshot import Snapshot
from streams.core.decisions import Decision, DecisionPolicy, Scored, decide
from streams.core.reasons import decision_reasons

POLICY: Final = DecisionPolicy(epsilon=0.1)
GREEDY: Final = 0.999
TITLES: Final = {"x": "Coffee week"}


def campaign(name: str, **said: Any) -> CatalogEntry:
    fields: dict[str, Any] = {"kind": "campaign", "id": name, "channel": "email", "value": 2.0}
    return CatalogEntry(**fields | said)


def willing(**said: Any) -> Snapshot:
    made: Snapshot = plain_snapshot(consent=("email:marketing",), **said)
    return made


def decided(*scored: Scored, draw: float = GREEDY, snapshot: Snapshot | None = None) -> Decision:
    return decide(snapshot or willing(), scored, POLICY, draw)


def codes(decision: Decision, snapshot: Snapshot | None = None) -> list[str]:
    return [reason.code for reason in decision_reasons(snapshot or willing(), decision, TITLES)]


def texts(decision: Decision, snapshot: Snapshot | None = None) -> str:
    return "\n".join(reason.text for reason in decision_reasons(snapshot or willing(), decision, TITLES))


def test_a_send_says_its_value_what_it_beat_and_that_it_may() -> None:
    decision = decided(Scored(campaign("x"), 0.5), Scored(campaign("y"), 0.25))
    assert codes(decision) == ["HIGHEST_VALUE", "BEATS_NEXT", "CONSENT_GIVEN"]
    said = texts(decision)
    assert "Coffee week is worth 1.00: 50.0% likely to be redeemed" in said
    assert "next is y with 0.50" in said, "a campaign without a title is named by its id"
    assert "agreed to email" in said


def test_the_only_candidate_beats_nothing() -> None:
    assert codes(decided(Scored(campaign("x"), 0.5))) == ["HIGHEST_VALUE", "CONSENT_GIVEN"]


def test_redemptions_before_are_a_reason() -> None:
    older = edge_block(START_MS, {"redeemed>campaign": {"a": 1.0, "b": 0.5}, "redeemed>offer": {"c": 1.0}})
    seen = willing(edges=(older, edge_block(START_MS, {"redeemed>campaign": {"a": 2.0}})))
    decision = decided(Scored(campaign("x"), 0.5), snapshot=seen)
    assert codes(decision, seen) == ["HIGHEST_VALUE", "REDEEMED_BEFORE", "CONSENT_GIVEN"]
    assert "2 earlier campaigns" in texts(decision, seen)


def test_other_edges_are_no_redemptions() -> None:
    seen = willing(edges=(edge_block(START_MS, {"received>campaign": {"a": 1.0}, "redeemed>campaign": {}}),))
    assert codes(decided(Scored(campaign("x"), 0.5), snapshot=seen), seen) == ["HIGHEST_VALUE", "CONSENT_GIVEN"]


def test_exploration_says_so_with_its_probability() -> None:
    decision = decided(Scored(campaign("x"), 0.5), Scored(campaign("y"), 0.25), draw=0.09)
    assert decision.explored
    assert codes(decision) == ["EXPLORATION"]
    assert f"{decision.chosen.propensity:.3f}" in texts(decision)


def test_doing_nothing_because_it_is_worth_more() -> None:
    decision = decided(Scored(campaign("x", cost=3.0), 0.5))
    assert codes(decision) == ["NOT_WORTH_IT"]
    assert "-2.00" in texts(decision)


def test_doing_nothing_because_nothing_is_allowed() -> None:
    decision = decided(Scored(campaign("x", channel=None), 0.5), Scored(campaign("y", channel="sms"), 0.5))
    assert codes(decision) == ["ALL_SUPPRESSED"]
    assert "2 campaigns are running, none is allowed: no_channel, no_consent" in texts(decision)


def test_doing_nothing_because_nothing_is_running() -> None:
    assert codes(decided()) == ["NOTHING_RUNNING"]


def test_what_is_not_worth_it_comes_before_what_is_not_allowed() -> None:
    decision = decided(Scored(campaign("x", cost=3.0), 0.5), Scored(campaign("y", channel=None), 0.9))
    assert codes(decision) == ["NOT_WORTH_IT"]
