"""A small made-up world for the models' tests: customers whose labels follow from what their snapshots say."""

from __future__ import annotations

import functools

import msgspec
import numpy as np
from support.snapshots import edge_block, hashes, recent

from models import tokenizer
from models.tokenizer import Vocabulary
from schemas import features, ids, words
from schemas.catalog import CatalogEntry
from schemas.snapshot import SESSION, Candidate, Head, Label, Outcome, Recent, Snapshot, SnapshotKind

DAY_MS = 86_400_000
START_MS = 1_483_228_800_000
ITEMS = 40
CATEGORIES = ("coffee", "frozen fish", "soap", "bread")


@functools.cache
def vocabulary() -> Vocabulary:
    counts = {"evt:purchase": 100, "evt:item_view": 50, "chan:mail": 3}
    counts |= {f"item:{i}": 100 - i for i in range(ITEMS)} | {f"cat:{name}": 40 for name in CATEGORIES}
    counts |= {f"camp:{i}": 5 for i in range(4)}
    counts |= {"dark": 5, "roast": 5, "coffee": 5, "frozen": 3, "fish": 3, "soap": 2, "bread": 2, "week": 2}
    return Vocabulary(tokenizer.build(counts, max_words=400))


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


def category(item: int) -> str:
    return CATEGORIES[item % 4]


def sold(item: int) -> list[str]:
    """The words of a session in which an item was bought; from ``ITEMS`` on, the vocabulary does not know its name."""
    told = [words.SESSION, "[GAP:3d]", "[HOUR:18]", "evt:purchase", f"cat:{category(item)}", f"item:{item}"]
    return [*told, "price:p2", words.SESSION_END]


def shown(items: list[int]) -> int:
    """Words that an encoder with room for all is shown of :func:`snapshot`: of events, of sessions and of edges."""
    return len(items) * (len(sold(0)) + 2) + len(set(items)) + len({category(item) for item in items})


def timeline(items: list[int], as_of_ms: int = START_MS) -> Recent:
    """One purchase every three days, the last one now."""
    begins_ms = max(0, as_of_ms - 3 * DAY_MS * (len(items) - 1))
    told: Recent = recent((begins_ms + 3 * DAY_MS * at, hashes(*sold(item))) for at, item in enumerate(items))
    return told


def _history(items: list[int], as_of_ms: int) -> bytes:
    """The same in brief."""
    begins_s = max(0, as_of_ms // 1000 - 3 * 86_400 * (len(items) - 1))

    def entry(at: int, item: int) -> bytes:
        shelf, product = (int.from_bytes(hashes(word), "little") for word in sold(item)[4:6])
        return SESSION.pack(begins_s + 3 * 86_400 * at, 5, 1, 20.0, 0, 18, 1, 0, 0, shelf, 0, 0, product, 0)

    return b"".join(entry(at, item) for at, item in enumerate(items))


def snapshot(
    customer: int = 1,
    *,
    kind: SnapshotKind = "event",
    as_of_ms: int = START_MS,
    items: list[int] | None = None,
    days_since: float = 3.0,
    gap: float = 6.0,
    candidate: Candidate | None = None,
) -> Snapshot:
    items = [0, 4, 1] if items is None else items
    orders = 28 / max(gap, 1)
    counts: dict[str, float] = {}
    shelves: dict[str, float] = {}
    for item in items:
        counts[str(item)] = counts.get(str(item), 0.0) + 1.0
        shelves[category(item)] = shelves.get(category(item), 0.0) + 1.0
    source, applied = ("clickstream", 0, customer), {"clickstream": customer}
    return Snapshot(
        question_id=ids.question_id(str(customer), kind, as_of_ms, source, applied, len(items), None, candidate),
        customer_id=str(customer),
        kind=kind,
        as_of_ms=as_of_ms,
        source=source,
        applied=applied,
        event_ts_ms=as_of_ms,
        ingest_ts_ms=as_of_ms,
        features=vector(
            days_since_activity=days_since, days_since_event=days_since, mean_gap_days=gap, gap_ratio=days_since / gap,
            days_since_first=90.0, days_since_send=-1.0, days_since_redemption=-1.0, events_total=len(items),
            orders_7d=orders / 3, orders_28d=orders, orders_84d=2 * orders, value_28d=20 * orders, hour_of_day=18,
        ),
        recent=timeline(items, as_of_ms),
        history=_history(items, as_of_ms),
        edges=(edge_block(as_of_ms, {"purchase>item": counts, "purchase>category": shelves}),),
        edge_half_life_ms=28 * DAY_MS,
        consent=None,
        sends=(),
        holdout=False,
        candidate=candidate,
    )  # fmt: skip


def outcomes(count: int = 600, seed: int = 0) -> list[Outcome]:
    """Two thirds churn, which follows recency over the gap; the rest redemption, which follows a shared category.

    Beside churn it is known when the next order came; beside a redemption whether the message was answered, which those
    do who come often.
    """
    random, clock = np.random.default_rng(seed), np.random.default_rng(1_000 + seed)
    answers = np.random.default_rng([seed, 1])
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
        )
        said = outcome(f"o{number}", made, label)
        if candidate is None:
            said = msgspec.structs.replace(said, labels={**said.labels, **_next_order(label, gap, clock)})
        else:
            opened = answers.random() < (0.92 if gap < 8 else 0.08)
            said = answered(said, opened=opened, clicked=opened and answers.random() < 0.9)
        found.append(said)
    return found


def _next_order(churned: int, gap: float, random: np.random.Generator) -> dict[str, Label]:
    """When the next purchase came, which is all that is activity: within four weeks, after them, or never."""
    days = min(27.9, float(random.exponential(gap))) if not churned else float(random.uniform(28.1, 80.0))
    if days >= 56:
        return {"order": 0}
    return {"order": 1, "order_after_ms": int(days * DAY_MS), "active_after_ms": int(days * DAY_MS)}


def answered(said: Outcome, *, opened: bool, clicked: bool) -> Outcome:
    """With what became of the message."""
    labels: dict[str, Label] = {**said.labels, "response": int(opened or clicked)}
    labels |= {"open_after_ms": 3_600_000} if opened else {}
    labels |= {"click_after_ms": 3_700_000} if clicked else {}
    made: Outcome = msgspec.structs.replace(said, labels=labels)
    return made


def outcome(name: str, made: Snapshot, label: int, *, due_ms: int | None = None, resolved_ms: int = -1) -> Outcome:
    """What became of a snapshot: of a send the redemption, else churn; known when its four weeks had ended."""
    head: Head = "churn" if made.candidate is None else "redemption"
    due_ms = made.as_of_ms + 28 * DAY_MS if due_ms is None else due_ms
    labels: dict[str, Label] = {head: label}
    return Outcome(
        question_id=name,
        head=head,
        labels=labels,
        due_ms=due_ms,
        resolved_ms=due_ms if resolved_ms < 0 else resolved_ms,
        customer_id=made.customer_id,
        as_of_ms=made.as_of_ms,
        snapshot=msgspec.structs.replace(made, question_id=name),
    )


def with_orders(found: list[Outcome], seed: int = 0) -> list[Outcome]:
    """The same, where what was asked of whoever is active says what was ordered next: items of before, and new ones.

    Who came back within the four weeks ordered then; of the others half did later, the others did not.
    """
    random = np.random.default_rng(seed)

    def ordered(made: Outcome) -> Outcome:
        if made.head != "churn":
            return made
        labels: dict[str, Label] = dict(made.labels)
        late = bool(made.label)
        labels["order"] = int(not late or random.random() < 0.5)
        if labels["order"]:
            before = [int(item) for item in bought(made.seen)]
            taste = before[0] % 4
            again = {item for item in before if random.random() < 0.5}
            new = {taste + 4 * int(i) for i in random.integers(0, ITEMS // 4, 2)}
            labels["order_items"] = tuple(sorted(str(item) for item in again | new))
            labels["order_after_ms"] = int(random.integers(28 if late else 1, 56 if late else 28)) * DAY_MS
        return msgspec.structs.replace(made, labels=labels)

    return [ordered(made) for made in found]


def bought(made: Snapshot) -> list[str]:
    """Items that :func:`snapshot` was made of."""
    names = {hashes(f"item:{i}"): str(i) for i in range(ITEMS)}
    at = 5  # of the item's word among those of :func:`sold`
    return [names[said[4 * at : 4 * at + 4]] for _, said in made.recent]
