"""Look-alikes of a planted segment, on the simulator, whose truth is known; and what sharing scores costs.

A segment is planted by a trait that no event names: a taste for one category, a favourite hour, how often a customer
comes. Some of its members are the seed, the others are to be found among everybody else. An audience is as large as
there are members to find, so precision is recall.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from infra.bench.report import Say
from infra.evaluate import trained
from infra.evaluate.floors import Activity, visits_of
from infra.evaluate.prototypes import shared_scores
from infra.evaluate.purchases import Purchases
from infra.evaluate.replays import ReplayPlan, replay
from infra.evaluate.report import Estimate, EvaluationFindings, EvaluationOptions, Goal, estimate, goal, steps_of
from infra.evaluate.statistics import Bootstrap, Doubles, Ints, Measure, auc
from models.neighbours import SeedIndex, Whitened
from models.saved_model import read_card
from models.wide import Floats
from streams.core.config import DAY_MS
from streams.sources.simulate.truth import CustomerTruth
from streams.sources.simulate.world import CATEGORIES
from streams.sources.source import SIMULATION_START_MS, SimulationSource

ABOUT: Final = "look-alikes of a planted segment, beside random and recency-frequency-value neighbours"
OURS: Final = "embedding"
RANDOM: Final = "random encoder"
RFV: Final = "recency, frequency, value"
BOUGHT: Final = "shares of categories bought"
CHANCE: Final = "drawn at random"
_ROLES: Final = {OURS: "ours", RANDOM: "control", RFV: "floor", BOUGHT: "floor", CHANCE: "floor"}
_LABEL_DAYS: Final = 28
_SEED_SHARE: Final = 0.4
_DRAWS: Final = 5
_TASTE: Final = 0.4


@dataclass(frozen=True)
class AudienceSpans:
    """What a test replaces by a few customers."""

    plan: ReplayPlan
    prototypes: tuple[int, ...] = (10, 30, 100, 300)
    least: int = 10
    """Members of a segment, below which it is none."""

    @property
    def at_ms(self) -> int:
        """When everybody is asked about."""
        return self.plan.days_ms[0]


def spans_of(customers: int, days: int) -> AudienceSpans:
    """Customers of a simulation, asked about after so many days."""
    at_ms = SIMULATION_START_MS + days * DAY_MS
    plan = ReplayPlan(
        data="simulation",
        seed=1,  # how vectors are compared was chosen on seed 0
        customers=customers,
        sim_days=days + _LABEL_DAYS,
        days_ms=(at_ms,),
        active_within_ms=_LABEL_DAYS * DAY_MS,
    )
    return AudienceSpans(plan=plan)


SPANS: Final = spans_of(1_000, 100)

Segments = dict[str, dict[str, Ints]]
"""Kind of segment -> name -> rows of its members."""


@dataclass(frozen=True)
class _Case:
    """One segment and one seed of it."""

    rest: Ints
    """Rows of those who are compared."""
    labels: Doubles
    """Whether they are members, by row of ``rest``."""
    orders: dict[str, Ints]
    """What ranked them -> places in ``rest``, most alike first."""


def run(options: EvaluationOptions, say: Say, spans: AudienceSpans = SPANS) -> EvaluationFindings:
    """Judge neighbours by embeddings, and the floors, on every kind of segment."""
    found = replay(spans.plan, options.folder, say)
    source = found.source
    assert isinstance(source, SimulationSource)
    names = [snapshot.customer_id for snapshot in found.asked]
    truths = {truth.customer_id: truth for truth in source.simulator.truth()}
    plan = trained.ModelPlan(until_ms=spans.at_ms, epochs=options.epochs, size=options.size)
    directory = trained.trained(found, plan, options.folder, say)
    random = trained.randomised(directory, 0, options.folder)
    said = {
        name: trained.answers(where, found, found.asked, "everybody", options.folder, say)
        for name, where in ((OURS, directory), (RANDOM, random))
    }
    known: dict[str, Floats] = {name: answers.embeddings for name, answers in said.items()}
    known |= hand_made_vectors(found.purchases, names, spans.at_ms)
    segments = planted([truths[name] for name in names], spans.least)
    results: list[Estimate] = []
    targets: list[Goal] = []
    for kind, members in segments.items():
        cases = list(_cases(members, known, len(names)))
        if not cases:
            continue
        say(f"{kind}: {len(members)} segments, {len(cases)} seeds")
        measures = {name: precision(cases, name) for name in (*known, CHANCE)}
        drawn = Bootstrap(measures, np.arange(len(names)), rounds=options.rounds)
        group = f"{kind}: {len(members)} segments of {len(names):,} customers, {len(cases)} seeds"
        results += [
            estimate(group, name, "precision", drawn.interval(name), rows=len(names), role=_ROLES[name])
            for name in (*known, CHANCE)
        ]
        for name in (RFV, RANDOM, BOUGHT):
            both = drawn.difference(OURS, name)
            results.append(
                estimate(group, f"{OURS} less {name}", "precision", both, rows=len(names), role="difference")
            )
        for name in (name for name in (RFV, CHANCE) if drawn.values[name]):
            lift = drawn.ratio(OURS, name)
            results.append(estimate(group, f"{OURS} over {name}", "lift", lift, rows=len(names), role="ours"))
        if kind == "taste":
            targets = [
                goal(
                    f"taste: {OURS} less {name}, precision",
                    drawn.difference(OURS, name),
                    0.0,
                    floor=drawn.values[name],
                    surely=True,
                )
                for name in (RFV, RANDOM)
            ]
    results += _shared(said[OURS], found.purchases, names, spans, options)
    return EvaluationFindings(
        data=(
            f"simulation, {spans.plan.customers:,} customers, seed {spans.plan.seed}: those with an event in the last "
            f"{_LABEL_DAYS} days, as of the end of day {(spans.at_ms - SIMULATION_START_MS) // DAY_MS}. The seed is "
            f"{_SEED_SHARE:.0%} of a segment, drawn {_DRAWS} times; as many are chosen as there are members to find."
        ),
        results=results,
        targets=targets,
        notes=[
            f"Taste: an interest of {_TASTE:.0%} or more in one of {len(CATEGORIES)} categories. Pace: the tenth who "
            "come most often. Hour: a favourite hour within one hour of 21. Price: a sensitivity above 0.85, which "
            "shows in redemptions alone. Everything is ranked as `pulsegraph audience` ranks: whitened, mean cosine "
            "with the 20 nearest of the seed. Recency-frequency-value: logarithms of days since the last order, orders "
            "and value. Intervals are over customers, given the seeds.",
            "Shared scores: customers take the churn score of the nearest of so many prototypes (k-means on the "
            f"embeddings). AUC of no purchase in the {_LABEL_DAYS} days after. It saves heads and no encoder: the "
            "embedding has to be there to know who is near.",
            f"Model: {steps_of(directory)}.",
        ],
        models={"model": read_card(directory).model_version},
    )


def planted(truths: Sequence[CustomerTruth], least: int) -> Segments:
    """Rows of those who have a trait; segments of less than ``least`` customers are none."""
    share = np.array([truth.category_share for truth in truths])
    pace = np.array([truth.sessions_per_day for truth in truths])
    hour = np.array([truth.peak_hour for truth in truths])
    price = np.array([truth.price_sensitivity for truth in truths])
    chosen = {
        "taste": {category: share[:, place] >= _TASTE for place, category in enumerate(CATEGORIES)},
        "pace": {"often": pace >= np.quantile(pace, 0.9)},
        "hour": {"evening": np.abs(hour - 21) < 1},
        "price": {"sensitive": price > 0.85},
    }
    return {
        kind: {name: rows for name, mask in of_kind.items() if len(rows := np.flatnonzero(mask)) >= least}
        for kind, of_kind in chosen.items()
    }


def hand_made_vectors(bought: Purchases, names: Sequence[str], at_ms: int) -> dict[str, Floats]:
    """What anybody would compare customers by: (N, 3), and (N, categories)."""
    number = bought.number_of(names)
    visits = visits_of(bought)
    rfv = np.zeros((len(names), 3))
    shares = np.zeros((len(names), len(bought.categories)))
    for row, customer in enumerate(number.tolist()):
        part = visits.of(customer) if customer >= 0 else slice(0, 0)
        past = visits.ts_ms[part] < at_ms
        last_ms = visits.ts_ms[part][past].max(initial=SIMULATION_START_MS)
        value = float(visits.value[part][past].sum())
        rfv[row] = np.log1p([(at_ms - last_ms) / DAY_MS, float(past.sum()), max(0.0, value)])
    place = {customer: row for row, customer in enumerate(number.tolist()) if customer >= 0}
    for customer, category, ts_ms in zip(
        bought.customer.tolist(), bought.category.tolist(), bought.ts_ms.tolist(), strict=True
    ):
        if ts_ms < at_ms and category >= 0 and customer in place:
            shares[place[customer], category] += 1
    shares = np.sqrt(shares / np.maximum(shares.sum(axis=1, keepdims=True), 1.0))
    return {RFV: rfv.astype(np.float32), BOUGHT: shares.astype(np.float32)}


def _cases(members: Mapping[str, Ints], known: Mapping[str, Floats], count: int) -> Iterator[_Case]:
    generator = np.random.default_rng(0)
    spaces = {name: Whitened(vectors)(vectors) for name, vectors in known.items()}
    for rows in members.values():
        for _ in range(_DRAWS):
            seed = generator.choice(rows, max(1, round(_SEED_SHARE * len(rows))), replace=False)
            rest = np.setdiff1d(np.arange(count), seed)
            orders = {
                name: np.argsort(-SeedIndex(unit[seed]).scores(unit[rest]), kind="stable")
                for name, unit in spaces.items()
            }
            yield _Case(rest, np.isin(rest, rows).astype(np.float64), orders)


def precision(cases: Sequence[_Case], name: str) -> Measure:
    """Mean over seeds of the share of members among the first of those who are ranked, as many as there are members.

    Of :data:`CHANCE`, the share among all.
    """

    def measure(weights: Doubles) -> float:
        found = []
        for case in cases:
            if name == CHANCE:
                found.append(float(weights[case.rest] @ case.labels / weights[case.rest].sum()))
                continue
            order = case.orders[name]
            weight, label = weights[case.rest][order], case.labels[order]
            wanted = float(weight @ label)
            if wanted > 0:
                taken = np.minimum(weight, np.maximum(0.0, wanted - (np.cumsum(weight) - weight)))
                found.append(float(taken @ label) / wanted)
        return float(np.mean(found)) if found else float("nan")

    return measure


def _shared(
    said: trained.Answers, bought: Purchases, names: Sequence[str], spans: AudienceSpans, options: EvaluationOptions
) -> Iterator[Estimate]:
    """AUC of churn where near customers share a score, by the share of customers who are scored."""
    number, count = bought.number_of(names), len(names)
    until_ms = spans.at_ms + _LABEL_DAYS * DAY_MS
    active = Activity(bought).any(np.maximum(number, 0), spans.at_ms, until_ms) & (number >= 0)
    labels = (~active).astype(np.float64)
    logits = said.churn_logits.astype(np.float64)
    scores = {"everybody is scored": logits}
    for prototypes in spans.prototypes:
        if prototypes < count:
            scores[f"{prototypes} prototypes"] = shared_scores(said.embeddings, logits, prototypes)
    drawn = Bootstrap(
        {name: auc(labels, scored) for name, scored in scores.items()}, np.arange(count), rounds=options.rounds
    )
    group = f"churn with shared scores: {count:,} customers, {labels.mean():.0%} positive"
    for name in scores:
        cost = 1.0 if name == "everybody is scored" else int(name.partition(" ")[0]) / count
        yield estimate(
            group, name, "AUC", drawn.interval(name), rows=count, role="ours", note=f"heads run for {cost:.0%}"
        )
    for name in list(scores)[1:]:
        loss = drawn.difference(name, "everybody is scored")
        yield estimate(group, f"{name} less everybody", "AUC", loss, rows=count, role="difference")
