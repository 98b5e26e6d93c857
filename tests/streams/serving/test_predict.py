"""From snapshots to records: what was not learned is not told, and no record depends on its neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, get_args

import msgspec
import pytest
import torch
from support import model_worlds as worlds

from models.encoder import EncoderSize, default_config
from models.inference import Predictor
from models.model import Model
from models.sequence import SequenceSize
from models.tasks import TASKS
from schemas.catalog import CatalogEntry
from schemas.ids import prediction_id
from schemas.snapshot import Candidate, Head, Snapshot, SnapshotKind
from streams.core.config import DAY_MS
from streams.core.decisions import DecisionPolicy
from streams.core.recalibration import Recalibration
from streams.serving.predict import Predictions
from streams.serving.recalibrated import Recalibrations

SMALL = EncoderSize(hidden=32, layers=1, heads=2, intermediate=32, sequence=SequenceSize(recent=12, history=6, graph=8))
BOTH: frozenset[Head] = frozenset({"churn", "redemption"})


def said(
    snapshots: list[Snapshot],
    topic: str,
    catalog: Mapping[str, CatalogEntry] | None = None,
    heads: frozenset[Head] = BOTH,
    version: str = "test",
    epsilon: float = 0.0,
    recalibrations: Recalibrations | None = None,
) -> list[dict[str, Any]]:
    """Records of a topic, by a model that has learned these heads."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = Model(
            default_config(SMALL), worlds.vocabulary(), SMALL.sequence, [task for task in TASKS if task.name in heads]
        )
    predictor = Predictor(model, version, device="cpu", half=False, compiled=False)
    known = SimpleNamespace(current=(worlds.catalog() if catalog is None else catalog, 1))
    predict = Predictions(
        predictor,
        known,
        DecisionPolicy(epsilon=epsilon),
        lambda: worlds.START_MS,
        recalibrations=lambda: recalibrations or {},
    )
    records = [record for record in predict(snapshots).records if record.topic == f"predictions.{topic}"]
    return [msgspec.json.decode(record.value or b"") for record in records]


def willing(as_of_ms: int = worlds.START_MS) -> Snapshot:
    made: Snapshot = msgspec.structs.replace(worlds.snapshot(1, as_of_ms=as_of_ms), consent=("mail:marketing",))
    return made


def strange(customer: int, offer: str, channel: str) -> Snapshot:
    """Just before a send of a campaign that the catalog does not have."""
    made: Snapshot = worlds.snapshot(customer, kind="send", candidate=Candidate("strange", offer, "t1", channel))
    return made


def test_a_model_with_both_heads_says_all() -> None:
    assert len(said([willing()], "churn")) == 1
    (action,) = said([willing()], "next-best-action")
    assert action["chosen"]["action"] == "send"
    assert len(said([strange(1, "offer-0", "mail")], "redemption")) == 1


@pytest.mark.parametrize("heads", [frozenset({"churn"}), frozenset({"redemption"})])
def test_what_was_not_learned_is_not_told(heads: frozenset[Head]) -> None:
    assert len(said([willing()], "churn", heads=heads)) == ("churn" in heads)
    assert len(said([strange(1, "offer-0", "mail")], "redemption", heads=heads)) == ("redemption" in heads)
    (action,) = said([willing()], "next-best-action", heads=heads)
    if "redemption" in heads:
        assert action["chosen"]["action"] == "send"
    else:
        assert action["chosen"]["action"] == "none"
        assert [reason["code"] for reason in action["reason_codes"]] == ["NOTHING_LEARNED"]


def test_a_decision_does_not_outlive_its_campaign() -> None:
    catalog = worlds.catalog()
    ends_ms = {entry.active_to_ms for entry in catalog.values() if entry.kind == "campaign"}
    (end_ms,) = ends_ms
    assert end_ms is not None
    (early,) = said([willing(end_ms - 3 * DAY_MS)], "next-best-action", catalog)
    assert early["valid_until_ms"] == end_ms - 2 * DAY_MS
    (late,) = said([willing(end_ms - 60_000)], "next-best-action", catalog)
    assert late["chosen"]["action"] == "send"
    assert late["valid_until_ms"] == end_ms


def test_a_campaign_whose_offers_are_over_is_named_and_not_sent() -> None:
    catalog = {
        key: msgspec.structs.replace(entry, active_to_ms=worlds.START_MS - 1) if entry.kind == "offer" else entry
        for key, entry in worlds.catalog().items()
    }
    (action,) = said([willing()], "next-best-action", catalog)
    assert action["chosen"]["action"] == "none"
    assert {refused["by"] for refused in action["suppressed_by"]} == {"offer_over"}


def test_a_strange_campaign_is_scored_by_its_own_send() -> None:
    one, other = strange(1, "offer-0", "mail"), strange(2, "offer-1", "sms")
    alone = {found["customer_id"]: found for snapshot in (one, other) for found in said([snapshot], "redemption")}
    assert len(alone) == 2
    for batch in ([one, other], [other, one], [one, other, strange(3, "offer-0", "mail")]):
        for found in said(batch, "redemption"):
            if (before := alone.get(found["customer_id"])) is not None:
                assert found["prediction_id"] == before["prediction_id"]
                assert found["probability"] == pytest.approx(before["probability"], abs=1e-5)
                assert (found["offer_id"], found["channel"]) == (before["offer_id"], before["channel"])


def test_what_was_refused_is_named_up_to_a_bound() -> None:
    many = {f"campaign:{n}": CatalogEntry(kind="campaign", id=str(n), channel="mail") for n in range(1_200)}
    (action,) = said([worlds.snapshot(1)], "next-best-action", many)
    assert len(action["suppressed_by"]) == 1_000


TOPICS = {"churn": willing(), "next-best-action": willing(), "redemption": strange(1, "offer-0", "mail")}


@pytest.mark.parametrize("topic", TOPICS)
def test_two_models_say_two_things_about_one_question(topic: str) -> None:
    asked = TOPICS[topic]
    (one,), (again,), (other,) = (said([asked], topic, version=version) for version in ("one", "one", "other"))
    assert one == again
    assert one["question_id"] == other["question_id"] == asked.question_id
    assert one["prediction_id"] != other["prediction_id"]
    assert one["prediction_id"] == prediction_id(topic, asked.question_id, "one")


def test_every_prediction_has_an_id_of_its_own() -> None:
    found = [said([asked], topic)[0]["prediction_id"] for topic, asked in TOPICS.items()]
    found += [
        said([willing(worlds.START_MS + 1)], topic)[0]["prediction_id"] for topic in ("churn", "next-best-action")
    ]
    assert len(set(found)) == 5
    assert all(bytes.fromhex(name) for name in found)


def test_a_decision_is_drawn_for_the_question_whatever_the_model() -> None:
    asked = [msgspec.structs.replace(willing(), question_id=f"q{number}") for number in range(200)]
    arms = [
        [
            found.get("experiment_arm", "greedy")
            for found in said(asked, "next-best-action", version=version, epsilon=0.5)
        ]
        for version in ("one", "other")
    ]
    assert arms[0] == arms[1]
    assert 70 < arms[0].count("explore") < 130


KINDS: dict[SnapshotKind, tuple[str, ...]] = {
    "event": ("churn", "next-best-action"),
    "refresh": ("churn", "next-best-action"),
    "horizon": ("churn",),
    "sample": ("churn",),
    "send": ("redemption",),
}


@pytest.mark.parametrize("kind", get_args(SnapshotKind))
def test_each_kind_of_snapshot_has_its_predictions(kind: SnapshotKind) -> None:
    candidate = Candidate("0", None, None, "mail") if kind == "send" else None
    asked = worlds.snapshot(1, kind=kind, candidate=candidate)
    found = {topic: said([asked], topic) for topic in TOPICS}
    assert tuple(topic for topic in TOPICS if found[topic]) == KINDS[kind]
    for topic in KINDS[kind]:
        (prediction,) = found[topic]
        assert prediction.get("snapshot_kind", "event") == kind
        assert prediction["question_id"] == asked.question_id


def test_words_are_counted_for_the_batch() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = Model(default_config(SMALL), worlds.vocabulary(), SMALL.sequence, TASKS)
    predictor = Predictor(model, "test", device="cpu", half=False, compiled=False)
    predict = Predictions(predictor, SimpleNamespace(current=({}, 0)), DecisionPolicy(), lambda: worlds.START_MS)
    found = predict(
        [worlds.snapshot(1, items=[1]), worlds.snapshot(2, items=[worlds.ITEMS]), worlds.snapshot(3, items=[])]
    )
    assert (found.words, found.unknown_words) == (2 * worlds.shown([1]), 3)
    assert predict([]) == ([], 0, 0)


RARER = Recalibration(0.8, 0.9, -1.0)


def test_outcomes_change_what_is_published() -> None:
    (before,) = said([willing()], "churn")
    (after,) = said([willing()], "churn", recalibrations={("churn", "event"): RARER})
    assert after["probability"] == pytest.approx(RARER(before["probability"]), abs=2e-6)
    assert after["recalibration"] == {
        "model_probability": before["probability"],
        "low_slope": 0.8,
        "high_slope": 0.9,
        "shift": -1.0,
    }
    assert after | {"probability": 0, "recalibration": 0} == before | {"probability": 0, "recalibration": 0}
    for other in (("churn", "horizon"), ("redemption", "event")):
        assert said([willing()], "churn", recalibrations={other: RARER}) == [before]


def test_outcomes_of_sends_change_decisions_and_matches() -> None:
    known: Recalibrations = {("redemption", "send"): RARER}
    send = strange(1, "offer-0", "mail")
    (one,), (other,) = said([send], "redemption"), said([send], "redemption", recalibrations=known)
    assert other["probability"] == pytest.approx(RARER(one["probability"]), abs=2e-6)
    one, other = (said([willing()], "next-best-action", recalibrations=found)[0] for found in ({}, known))
    was, is_ = ({found["campaign_id"]: found["probability"] for found in _campaigns(record)} for record in (one, other))
    assert was and is_.keys() == was.keys()
    for campaign, probability in was.items():
        assert is_[campaign] == pytest.approx(RARER(probability), abs=2e-6)
    (one,), (other,) = said([willing()], "campaign-match"), said([willing()], "campaign-match", recalibrations=known)
    for before, after in zip(one["campaigns"], other["campaigns"], strict=True):
        assert after["redeem"] == pytest.approx(RARER(before["redeem"]), abs=2e-6)


def _campaigns(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [found for found in (record["chosen"], *record["alternatives"]) if "campaign_id" in found]
