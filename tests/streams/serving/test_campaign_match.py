"""Matches of campaigns: who may be sent what, with which template, and when a record says something new."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import model_worlds as worlds

from models.encoder import EncoderSize, default_config
from models.heads import Head
from models.inference import Predictor
from models.model import Model
from models.sequence import SequenceSize
from models.tasks import TASKS
from schemas.catalog import CatalogEntry
from schemas.predictions import CampaignMatch
from schemas.snapshot import DAY_MS, Snapshot
from streams.core.decisions import DecisionPolicy
from streams.serving.campaign_match import CAMPAIGN_MATCH, MOST_LISTED, VALID_MS, moved
from streams.serving.predict import Predictions

SMALL = EncoderSize(hidden=32, layers=1, heads=2, intermediate=32, sequence=SequenceSize(recent=12, history=6, graph=8))
EVERY = frozenset(task.name for task in TASKS)


def predictions(
    catalog: Mapping[str, CatalogEntry] | None = None, heads: frozenset[str] = EVERY, margin: float = 0.02
) -> Predictions:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = Model(
            default_config(SMALL), worlds.vocabulary(), SMALL.sequence, [task for task in TASKS if task.name in heads]
        )
        for name in {"redemption", "open", "click"} & heads:
            head = model.heads[name]
            assert isinstance(head, Head)
            torch.nn.init.normal_(head.wide.weight, std=0.2)
    predictor = Predictor(model, "test", device="cpu", half=False, compiled=False)
    known = SimpleNamespace(current=(worlds.catalog() if catalog is None else catalog, 1))
    return Predictions(predictor, known, DecisionPolicy(), lambda: worlds.START_MS, margin=margin)


def said(predict: Predictions, snapshots: list[Snapshot]) -> list[CampaignMatch]:
    records = [record for record in predict(snapshots).records if record.topic == CAMPAIGN_MATCH]
    return [msgspec.json.decode(record.value or b"", type=CampaignMatch) for record in records]


def willing(customer: int = 1, *, at_ms: int = worlds.START_MS, kind: str = "event", items: list[int] | None = None,
            consent: tuple[str, ...] | None = ("mail:marketing",), days_since: float = 3.0) -> Snapshot:  # fmt: skip
    made = worlds.snapshot(customer, as_of_ms=at_ms, items=items, days_since=days_since)
    told: Snapshot = msgspec.structs.replace(made, kind=kind, consent=consent)
    return told


def test_each_running_campaign_is_ranked_with_three_probabilities_and_reasons() -> None:
    (match,) = said(predictions(), [willing()])
    assert {one.campaign_id for one in match.campaigns} == {"0", "1", "2", "3", "fresh"}
    assert match.ranked_by == "redeem"
    told = [one.redeem for one in match.campaigns]
    assert told == sorted(told, key=lambda value: -(value or 0))
    assert match.probability == told[0]
    for one in match.campaigns:
        assert None not in (one.open, one.click, one.redeem)
        assert (one.channel, one.offer_id) == ("mail", f"offer-{one.campaign_id}")
        assert one.reason_codes


def test_it_agrees_with_the_decision_and_with_one_by_one() -> None:
    everyone = [willing(n, items=[n, n + 4, n + 9]) for n in range(6)]
    together = {match.customer_id: match for match in said(predictions(), everyone)}
    for snapshot in everyone:
        (alone,) = said(predictions(), [snapshot])
        other = together[snapshot.customer_id]
        assert [one.campaign_id for one in alone.campaigns] == [one.campaign_id for one in other.campaigns]
        assert [one.redeem for one in alone.campaigns] == pytest.approx(
            [one.redeem for one in other.campaigns], abs=1e-4
        )


@pytest.mark.parametrize(
    ("consent", "holdout"), [(None, False), (("sms:marketing",), False), (("mail:service",), False),
                             (("mail:marketing",), True)],
)  # fmt: skip
def test_nothing_is_listed_that_is_not_allowed(consent: tuple[str, ...] | None, holdout: bool) -> None:
    asked = msgspec.structs.replace(willing(consent=consent), holdout=holdout)
    (match,) = said(predictions(), [asked])
    assert (match.campaigns, match.probability) == ([], 0.0)


def test_nothing_is_said_where_nothing_was_learned_and_the_rest_where_some_was() -> None:
    assert said(predictions(heads=frozenset({"churn"})), [willing()]) == []
    (match,) = said(predictions(heads=frozenset({"churn", "open"})), [willing()])
    assert match.ranked_by == "open"
    assert all(one.redeem is None and one.open is not None for one in match.campaigns)


def test_a_campaign_takes_the_best_template_of_the_channels_that_are_allowed() -> None:
    campaign = CatalogEntry(kind="campaign", id="any", title="soap week")
    templates = [CatalogEntry(kind="template", id=f"t-{name}", channel=name) for name in ("mail", "push", "sms")]
    catalog = {entry.key: entry for entry in (campaign, *templates)}
    consents: tuple[tuple[str, ...], ...] = (
        ("mail:marketing",),
        ("sms:marketing",),
        ("mail:marketing", "push:marketing", "sms:marketing"),
    )
    found = {}
    for consent in consents:
        (match,) = said(predictions(catalog), [willing(consent=consent)])
        (one,) = match.campaigns
        assert f"{one.channel}:marketing" in consent
        assert one.template_id == f"t-{one.channel}"
        found[consent] = match.probability
    assert found[consents[2]] >= max(found[consents[0]], found[consents[1]]) - 1e-6


def test_an_event_that_moves_nothing_sends_nothing() -> None:
    predict = predictions()
    assert len(said(predict, [willing()])) == 1
    assert said(predict, [willing(at_ms=worlds.START_MS + 60_000)]) == []
    assert len(said(predict, [willing(at_ms=worlds.START_MS + 60_000, kind="refresh")])) == 1
    assert len(said(predict, [willing(at_ms=worlds.START_MS + 60_000, kind="horizon")])) == 1
    assert len(said(predict, [willing(at_ms=worlds.START_MS + VALID_MS + 120_000)])) == 1, "the old one has expired"
    assert len(said(predict, [willing(at_ms=worlds.START_MS + VALID_MS + 130_000, items=[2] * 9)])) == 1, "it moved"


def test_a_question_of_earlier_does_not_hide_what_readers_hold() -> None:
    predict = predictions()
    said(predict, [willing(at_ms=worlds.START_MS + 60_000, items=[2] * 9)])
    assert len(said(predict, [willing(kind="horizon")])) == 1
    assert said(predict, [willing(at_ms=worlds.START_MS + 120_000, items=[2] * 9)]) == []
    assert len(said(predict, [willing(at_ms=worlds.START_MS + 130_000)])) == 1, "readers hold another one"
    predict.matches.clear()
    assert len(said(predict, [willing(at_ms=worlds.START_MS + 140_000)])) == 1


def test_what_is_not_allowed_any_more_and_what_has_ended_is_taken_back_at_once() -> None:
    predict = predictions(margin=2.0)
    said(predict, [willing()])
    (match,) = said(predict, [willing(at_ms=worlds.START_MS + 1, consent=())])
    assert match.campaigns == []
    (match,) = said(predict, [willing(at_ms=worlds.START_MS + 2)])
    assert len(match.campaigns) == 5
    assert predict(([]), ["1"]).records == []
    assert len(said(predict, [willing(at_ms=worlds.START_MS + 3)])) == 1, "nothing is remembered of who was erased"
    (match,) = said(predict, [willing(at_ms=worlds.START_MS + 31 * DAY_MS, kind="refresh")])
    assert match.campaigns == []


def test_no_more_are_listed_than_a_record_should_hold() -> None:
    many = {f"campaign:{n}": CatalogEntry(kind="campaign", id=str(n), channel="mail") for n in range(40)}
    (match,) = said(predictions(many), [willing()])
    assert (len(match.campaigns), match.left_out) == (MOST_LISTED, 30)


probabilities = st.floats(0, 1).map(lambda value: (value, value / 2))


@given(st.dictionaries(st.integers(0, 15).map(str), probabilities, max_size=MOST_LISTED), st.floats(0, 0.5))
def test_nothing_has_moved_where_all_is_as_before(before: dict[str, tuple[float, ...]], margin: float) -> None:
    assert not moved(before, dict(reversed(before.items())), margin)


@given(
    st.dictionaries(st.integers(0, 15).map(str), probabilities, min_size=1, max_size=MOST_LISTED),
    st.data(),
    st.floats(0, 0.4),
)
def test_whatever_moves_by_more_has_moved(
    before: dict[str, tuple[float, ...]], data: st.DataObject, margin: float
) -> None:
    name = data.draw(st.sampled_from(sorted(before)))
    now = before | {name: (before[name][0] + margin + 0.01, before[name][1])}
    assert moved(before, now, margin)
    if len(before) < MOST_LISTED:
        assert moved(before, {other: value for other, value in before.items() if other != name}, margin)
