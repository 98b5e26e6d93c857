"""Redemption of mailed campaigns on Complete Journey: what the served model says at the send, beside boosted trees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from infra.bench.report import Say
from infra.evaluate import calibrated, journey, trained
from infra.evaluate.cache import code_of, kept
from infra.evaluate.floors import FEATURES, boosted, hand_made, visits_of
from infra.evaluate.purchases import Purchases
from infra.evaluate.replays import Replay, ReplayPlan, replay
from infra.evaluate.report import Curve, Estimate, EvaluationFindings, EvaluationOptions, estimate, goal, steps_of
from infra.evaluate.statistics import Bootstrap, Doubles, Ints, Measure, auc, log_loss, logit, sigmoid
from models.inference import Predictor
from models.saved_model import read_card
from schemas.catalog import CatalogEntry
from schemas.snapshot import Outcome, Snapshot
from streams.core.config import DAY_MS

_KNOWN: Final = 0.811
"""What LightGBM reached when the protocol was written, with features that are not all in the events."""
ABOUT: Final = "redemption of campaigns, beside boosted trees"
SHUFFLES: Final = 20
_FLOOR: Final = "LightGBM, 12 hand-made features"
_OPTIONS: Final[Mapping[str, object]] = {"min_data_in_leaf": 40, "num_leaves": 4}
_SIZE: Final = 256


@dataclass(frozen=True)
class RedemptionSpans:
    """What a test replaces by a simulation."""

    plan: ReplayPlan
    split_ms: int
    """Sends before it are trained on, those after it judged."""
    trees: int = 150


SPANS: Final = RedemptionSpans(plan=journey.PLAN, split_ms=journey.day_ms("2017-08-01"))


@dataclass(frozen=True)
class _Sends:
    snapshots: list[Snapshot]
    campaigns: list[str]
    customer: Ints
    as_of_ms: Ints
    due_ms: Ints
    labels: Doubles

    @property
    def clusters(self) -> Ints:
        return np.unique(self.campaigns, return_inverse=True)[1].astype(np.int64)


def run(options: EvaluationOptions, say: Say, spans: RedemptionSpans = SPANS) -> EvaluationFindings:
    """Judge the model on campaigns that began after it was trained."""
    found = replay(spans.plan, options.folder, say)
    catalog = found.catalog()
    outcomes = [outcome for outcome in found.outcomes if outcome.head == "redemption" and outcome.seen.candidate]
    train = _sends(found, [outcome for outcome in outcomes if outcome.as_of_ms < spans.split_ms])
    test = _sends(found, [outcome for outcome in outcomes if outcome.as_of_ms >= spans.split_ms])
    say(f"{len(train.labels):,} sends to train on, {len(test.labels):,} to test on, {test.labels.mean():.1%} redeemed")
    history = _History(found.purchases, catalog)
    columns, judged = history.columns(train), history.columns(test)
    logits: dict[str, tuple[str, Doubles]] = {}
    for seed in range(options.seeds):
        plan = trained.ModelPlan(
            until_ms=spans.split_ms,
            sends_before_ms=spans.split_ms,
            seed=seed,
            epochs=options.epochs,
            size=options.size,
        )
        directory = trained.trained(found, plan, options.folder, say)
        if seed == 0:
            first = directory
        name = "served model" if seed == 0 else f"served model, seed {seed}"
        logits[name] = ("ours", _served(found, directory, test, catalog, options.folder, say))
    random = trained.randomised(first, 0, options.folder)
    logits["random encoder"] = ("control", _served(found, random, test, catalog, options.folder, say))
    logits[_FLOOR] = ("floor", boosted(columns, train.labels, judged, trees=spans.trees, options=_OPTIONS))
    for place, feature in ((9, "decayed lines of its items"), (5, "rate of redeemed campaigns")):
        logits[f"{feature} alone"] = ("floor", judged[:, place].astype(np.float64))
    drawn = _bootstrap(test, logits, options)
    count = len(test.labels)
    group = f"{count:,} sends of {len(set(test.campaigns))} campaigns, {test.labels.mean():.1%} redeemed"
    results = [estimate(group, name, "AUC", drawn.interval(name), rows=count, role=logits[name][0]) for name in logits]
    for name, other in (("served model", _FLOOR), ("served model", "random encoder")):
        both = f"{name} less {other}"
        results.append(estimate(group, both, "AUC", drawn.difference(name, other), rows=count, role="difference"))
    results.append(_shuffled(columns, train, judged, test, group))
    for name in ("served model", _FLOOR):
        role, scores = logits[name]
        results.append(estimate(group, name, "log loss", drawn.interval(f"{name}: log loss"), rows=count, role=role))
        binned = calibrated.Binned(test.labels, sigmoid(scores), test.clusters)
        error = binned.error(rounds=options.rounds)
        results.append(estimate(group, name, "calibration error", error, rows=count, role=role))
    of_households = Bootstrap(
        {name: auc(test.labels, logits[name][1]) for name in ("served model", _FLOOR)},
        test.customer,
        rounds=options.rounds,
    ).difference("served model", _FLOOR)
    results.append(
        estimate(
            group,
            f"served model less {_FLOOR}",
            "AUC",
            of_households,
            rows=count,
            role="difference",
            note="households drawn, campaigns as they are",
        )
    )
    served = calibrated.Binned(test.labels, sigmoid(logits["served model"][1]), test.clusters)
    return EvaluationFindings(
        data=(
            f"{spans.plan.data}: each send of a campaign, as of the moment before it; redeemed within its window or "
            f"not. Trained on sends before {journey.day_of(spans.split_ms)}, tested on those after."
        ),
        results=results,
        targets=[
            goal("served model, AUC", drawn.interval("served model"), _KNOWN, floor=drawn.values[_FLOOR]),
            goal(
                "served model less LightGBM, AUC",
                drawn.difference("served model", _FLOOR),
                0.0,
                floor=drawn.values[_FLOOR],
            ),
        ],
        curves=[Curve(name="served model", bins=served.curve())],
        notes=[
            "Campaigns are drawn with replacement, all sends of one together. There are few of them, so these "
            "intervals are rough, and more likely too narrow than too wide.",
            "The floor here is below the 0.811 of the protocol, which was not reproduced: of five sets of 12 features "
            "and four sizes of trees, that with the best AUC on these very rows was taken. What the tills say of "
            "coupons (coupon_disc) is in no event. So beating this floor is less than beating the protocol's.",
            "As in the protocol, both learn from every send before the split, also where its window ended later. Who "
            "got a campaign was not randomised: no uplift is claimed.",
            f"Model: {steps_of(first)}.",
        ],
        models={"model": read_card(first).model_version},
    )


def _sends(found: Replay, outcomes: Sequence[Outcome]) -> _Sends:
    ordered = sorted(outcomes, key=lambda outcome: (outcome.as_of_ms, outcome.outcome_id))
    snapshots = [outcome.seen for outcome in ordered]
    return _Sends(
        snapshots,
        [snapshot.candidate.campaign_id if snapshot.candidate else "" for snapshot in snapshots],
        found.purchases.number_of(snapshot.customer_id for snapshot in snapshots),
        np.array([snapshot.as_of_ms for snapshot in snapshots], dtype=np.int64),
        np.array([outcome.due_ms for outcome in ordered], dtype=np.int64),
        np.array([outcome.label for outcome in ordered], dtype=np.float64),
    )


def _served(
    found: Replay, directory: Path, sends: _Sends, catalog: Mapping[str, CatalogEntry], folder: Path, say: Say
) -> Doubles:
    """Logits of each send's own campaign, as decisions would get them."""
    version = read_card(directory).model_version

    def make(fresh: Path) -> None:
        say(f"scoring {len(sends.snapshots):,} sends with {version}")
        predictor = Predictor.load(directory, device="cpu", threads=1)
        predictor.know(catalog)
        ids = sorted(set(sends.campaigns))
        campaigns = predictor.redemption.campaigns(catalog, ids)
        column = {name: place for place, name in enumerate(ids)}
        chosen: list[float] = []
        for begin in range(0, len(sends.snapshots), _SIZE):
            batch = sends.snapshots[begin : begin + _SIZE]
            scored = predictor.redemption(predictor.encode(batch), campaigns).probability
            chosen += [
                float(row[column[name]])
                for row, name in zip(scored, sends.campaigns[begin : begin + _SIZE], strict=True)
            ]
        np.savez(fresh / "redemption.npz", logits=logit(chosen))

    key = {
        "model": version,
        "replay": found.name,
        "span": (int(sends.as_of_ms[0]), int(sends.as_of_ms[-1]), len(sends.snapshots)),
        "code": code_of("models", "schemas", "infra/evaluate/redemption.py"),
    }
    with np.load(kept(folder, "redemptions", key, make) / "redemption.npz") as stored:
        logits: Doubles = stored["logits"]
        return logits


class _History:
    """What a person would count of a household and a campaign before the send."""

    def __init__(self, bought: Purchases, catalog: Mapping[str, CatalogEntry]) -> None:
        self._bought, self._catalog = bought, catalog
        self._visits = visits_of(bought)
        order = np.lexsort((bought.ts_ms, bought.customer))
        self._ts_ms, self._item = bought.ts_ms[order], bought.item[order]
        self._start = np.searchsorted(bought.customer[order], np.arange(len(bought.customers) + 1))
        self._numbers = {name: number for number, name in enumerate(bought.items.tolist())}

    def columns(self, sends: _Sends) -> Doubles:
        """(N, 12)."""
        general = hand_made(self._visits, sends.customer, sends.as_of_ms)
        visits, value = (general[:, FEATURES.index(f"{what}, half-life 56 d")] for what in ("visits", "value"))
        items = {name: self._items(name) for name in set(sends.campaigns)}
        out = np.zeros((len(sends.labels), 12))
        for row, (name, customer, at_ms) in enumerate(
            zip(sends.campaigns, sends.customer.tolist(), sends.as_of_ms.tolist(), strict=True)
        ):
            entry = self._catalog[f"campaign:{name}"]
            sent = self._before(self._bought.sent, customer, at_ms)
            redeemed = self._before(self._bought.redeemed, customer, at_ms)
            begin, end = int(self._start[customer]), int(self._start[customer + 1])
            last = begin + int(np.searchsorted(self._ts_ms[begin:end], at_ms))
            of_it = np.isin(self._item[begin:last], items[name])
            age = (at_ms - self._ts_ms[begin:last]) / DAY_MS
            out[row] = (
                ord(str((entry.attributes or {}).get("type", "?"))[-1]),
                len(items[name]),
                (sends.due_ms[row] - at_ms) / DAY_MS,
                len(sent),
                len(redeemed),
                (len(np.unique(redeemed[:, 2])) + 0.2) / (len(sent) + 1.0),
                of_it.sum(),
                len(np.unique(self._item[begin:last][of_it])),
                of_it.sum() / max(1, last - begin),
                (of_it * np.exp2(-age / 28)).sum(),
                visits[row],
                value[row],
            )
        return out

    def _before(self, events: Ints, customer: int, at_ms: int) -> Ints:
        chosen: Ints = events[(events[:, 1] == customer) & (events[:, 0] < at_ms)]
        return chosen

    def _items(self, campaign: str) -> Ints:
        entry = self._catalog[f"campaign:{campaign}"]
        names = set(entry.items)
        for offer in entry.offers:
            names |= set(self._catalog[f"offer:{offer}"].items) if f"offer:{offer}" in self._catalog else set()
        return np.array(sorted(self._numbers[name] for name in names if name in self._numbers), dtype=np.int64)


def _bootstrap(test: _Sends, logits: Mapping[str, tuple[str, Doubles]], options: EvaluationOptions) -> Bootstrap:
    measures: dict[str, Measure] = {name: auc(test.labels, scores) for name, (_, scores) in logits.items()}
    for name in ("served model", _FLOOR):
        measures[f"{name}: log loss"] = log_loss(test.labels, logits[name][1])
    return Bootstrap(measures, test.clusters, rounds=options.rounds)


def _shuffled(columns: Doubles, train: _Sends, judged: Doubles, test: _Sends, group: str) -> Estimate:
    """Labels dealt out anew among all training sends: nothing can be learned from them."""
    generator = np.random.default_rng(0)
    chance = []
    for _ in range(SHUFFLES):
        labels = generator.permutation(train.labels)
        scores = boosted(columns, labels, judged, trees=50, options=_OPTIONS)
        chance.append(auc(test.labels, scores)(np.ones(len(test.labels))))
    return Estimate(
        group=group,
        name="LightGBM, shuffled labels",
        measure="AUC",
        value=float(np.mean(chance)),
        low=float(np.min(chance)),
        high=float(np.max(chance)),
        rows=len(test.labels),
        role="control",
        note=f"mean, least and most of {SHUFFLES} shuffles",
    )
