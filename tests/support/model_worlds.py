"""A small made-up world for the models' tests: customers whose labels follow from what their snapshots say."""

from __future__ import annotations

import functools

import numpy as np

from models import tokenizer
from models.tokenizer import FastLexicon
from schemas import features, words
from schemas.catalog import CatalogEntry
from schemas.snapshot import Candidate, Outcome, Snapshot, SnapshotKind

DAY_MS = 86_400_000
START_MS = 1_483_228_800_000
ITEMS = 40
CATEGORIES = ("coffee", "frozen fish", "soap", "bread")


@functools.cache
def lexicon() -> FastLexicon:
    counts = {"evt:purchase": 100, "evt:item_view": 50, "chan:mail": 3}
    counts |= {f"item:{i}": 100 - i for i in range(ITEMS)} | {f"cat:{name}": 40 for name in CATEGORIES}
    counts |= {f"camp:{i}": 5 for i in range(4)}
    texts = {"dark roast coffee": 5, "frozen fish fingers": 3, "soap and bread week": 2}
    return FastLexicon(tokenizer.build(counts, texts, max_words=400))


def catalog() -> dict[str, CatalogEntry]:
    """40 items in 4 categories; one campaign a category, and one more, ``fresh``, for coffee."""
    entries = [
        CatalogEntry(kind="item", id=str(i), category=CATEGORIES[i % 4], price=1.0 + i % 4, title=CATEGORIES[i % 4])
        for i in range(ITEMS)
    ]
    for number, name in enumerate((*CATEGORIES, "coffee")):
        campaign_id = "fresh" if number == 4 else str(number)
        items = [str(i) for i in range(ITEMS) if CATEGORIES[i % 4] == name]
        offer = CatalogEntry(kind="offer", id=f"offer-{campaign_id}", items=items)
        campaign = CatalogEntry(
            kind="campaign", id=campaign_id, title=f"{name} week", category=name, channel="mail", offers=[offer.id],
            active_from_ms=START_MS, active_to_ms=START_MS + 30 * DAY_MS,
        )  # fmt: skip
        entries += [offer, campaign]
    return {entry.key: entry for entry in entries}


def vector(**values: float) -> bytes:
    out = np.zeros(features.SIZE, dtype="<f4")
    for name, value in values.items():
        out[features.INDEX[name]] = value
    return out.tobytes()


def timeline(items: list[int], lex: FastLexicon | None = None) -> bytes:
    lex = lex or lexicon()
    told: list[str] = []
    for item in items:
        told += [words.SESSION, "[GAP:3d]", "[HOUR:18]", "evt:purchase", f"cat:{CATEGORIES[item % 4]}", f"item:{item}"]
        told += ["price:p2", words.SESSION_END]
    return b"".join(lex.word(word) or b"" for word in told)


def snapshot(
    customer: int = 1,
    *,
    kind: SnapshotKind = "event",
    as_of_ms: int = START_MS,
    items: list[int] | None = None,
    days_since: float = 3.0,
    gap: float = 6.0,
    candidate: Candidate | None = None,
    hint: str | None = None,
) -> Snapshot:
    items = [0, 4, 1] if items is None else items
    orders = 28 / max(gap, 1)
    counts: dict[str, float] = {}
    for item in items:
        counts[str(item)] = counts.get(str(item), 0.0) + 1.0
    shelves: dict[str, float] = {}
    for item in items:
        shelves[CATEGORIES[item % 4]] = shelves.get(CATEGORIES[item % 4], 0.0) + 1.0
    return Snapshot(
        customer_id=str(customer),
        kind=kind,
        as_of_ms=as_of_ms,
        source=("clickstream", 0, customer),
        applied={"clickstream": customer},
        event_ts_ms=as_of_ms,
        ingest_ts_ms=as_of_ms,
        tokens=timeline(items),
        features=vector(
            days_since_activity=days_since, days_since_event=days_since, mean_gap_days=gap, gap_ratio=days_since / gap,
            days_since_first=90.0, days_since_send=-1.0, days_since_redemption=-1.0, events_total=len(items),
            orders_7d=orders / 3, orders_28d=orders, orders_84d=2 * orders, value_28d=20 * orders, hour_of_day=18,
        ),
        consent=None,
        sends=(),
        holdout=False,
        edges={"purchase>item": tuple(counts.items()), "purchase>category": tuple(shelves.items())},
        model_hint=lexicon().fingerprint if hint is None else hint,
        candidate=candidate,
    )  # fmt: skip


def outcomes(count: int = 600, seed: int = 0, hint: str | None = None) -> list[Outcome]:
    """Two thirds churn, which follows recency over the gap; the rest redemption, which follows a shared category."""
    random = np.random.default_rng(seed)
    found: list[Outcome] = []
    for number in range(count):
        customer = int(random.integers(0, max(2, count // 3)))
        as_of_ms = START_MS + int(random.integers(0, 90)) * DAY_MS
        taste = int(random.integers(0, 4))
        items = [taste + 4 * int(i) for i in random.integers(0, ITEMS // 4, int(random.integers(1, 8)))]
        gap, days_since = float(random.uniform(2, 14)), float(random.uniform(0, 27))
        if number % 3:
            risk = 1 / (1 + np.exp(-(1.2 * (days_since / gap) - 3)))
            label, candidate = int(random.random() < risk), None
        else:
            campaign = int(random.integers(0, 4))
            label = int(random.random() < (0.7 if campaign == taste else 0.08))
            candidate = Candidate(str(campaign), None, None, "mail")
        made = snapshot(
            customer,
            kind="horizon" if candidate is None else "send",
            as_of_ms=as_of_ms,
            items=items,
            days_since=days_since,
            gap=gap,
            candidate=candidate,
            hint=hint,
        )
        found.append(
            Outcome(
                outcome_id=f"o{number}",
                head="churn" if candidate is None else "redemption",
                label=label,
                due_ms=as_of_ms + 28 * DAY_MS,
                resolved_ms=as_of_ms + 28 * DAY_MS,
                snapshot=made,
            )
        )
    return found
