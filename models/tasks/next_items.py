"""Next items: what the customer's next order holds, of what was bought before and of what would be new."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Final

import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from models import calibration, metrics, outcomes
from models.assortment import Assortment
from models.item_columns import ItemEdges
from models.item_lists import COLUMN, COLUMN_NAMES, Lists, ReadyItems, bought_before
from models.item_ranking import BEST, RATE, ItemsHead, Marked, best_of, fit_residual, mark, parts, ranking
from models.item_reasons import family_shares, item_reasons
from models.item_sales import sales_of
from models.item_tower import Choices, TowerTraining
from models.model import HeadReport, Model
from models.outcomes import Split
from models.probability import some
from models.task import Embed, Encoded, Evidence, Lesson, Moment, Scorer, Task, common, rounded
from models.wide import Doubles, Floats, Ints, fit
from schemas.predictions import NextItemsPrediction, RankedItem
from schemas.snapshot import DAY_MS, Outcome, SnapshotKind

VALID_MS: Final = 7 * DAY_MS
LISTS: Final = 6_000
"""Lists that are fitted on at most."""
KEPT_APART: Final = 600
"""Lists to stop at, to calibrate on and to report on, at most each."""
TOWER_ROWS: Final = 8_000
WIDE_ROWS: Final = 40_000
"""Candidates that the wide part is fitted on at most."""
CHUNK: Final = 512
MOST_OF_ORDER: Final = 16
"""New items of one order that the tower learns from."""
_MIN_LISTS: Final = 8


class NextItemsTask(Task):
    """Evidence weekly, after a sample of events, and in sweeps. Not within a session: it is about the next one."""

    name = "next-items"
    question = "churn"
    topic = "predictions.next-items"
    kinds: ClassVar[frozenset[SnapshotKind]] = frozenset({"refresh", "horizon", "sample"})
    looks_ahead = True

    def __init__(self, most: int = BEST) -> None:
        """
        Args:
            most: items of a record.
        """
        self.most = most

    def head(self, hidden: int) -> ItemsHead:
        return ItemsHead(hidden)

    def lesson(self, evidence: Evidence) -> NextItemsLesson:
        return NextItemsLesson(evidence)

    def scorer(self, model: Model, version: str) -> NextItemsScorer:
        return NextItemsScorer(model, version, self.most)


def order_of(outcome: Outcome) -> tuple[int, tuple[str, ...]] | None:
    """When the customer's next order came, in epoch ms, and its items; None where none came, or none is known."""
    items, after_ms = outcome.labels.get("order_items"), outcome.labels.get("order_after_ms")
    if not isinstance(items, tuple) or not items or not isinstance(after_ms, int | float):
        return None
    return outcome.as_of_ms + int(after_ms), items


class NextItemsLesson(Lesson):
    """Rows after which an order came.

    The encoder knows by heart what customers did next whom it was fitted on. So what is made of embeddings is not: the
    network reads the tower's columns on customers that the encoder was only stopped at.
    """

    def __init__(self, evidence: Evidence) -> None:
        self.rows, self._evidence = evidence.rows, evidence
        self._orders = [order_of(outcome) for outcome in evidence.outcomes]
        self._assortment = Assortment(evidence.catalog, evidence.word_rows)
        has_one = np.array([order is not None for order in self._orders], dtype=np.bool_)
        labels = np.where(has_one, 1.0, np.nan).astype(np.float32)
        ordered_ms = np.array([0 if order is None else order[0] for order in self._orders], dtype=np.int64)
        self.split = outcomes.split(self.rows, labels, np.maximum(self.rows.due_ms, ordered_ms))
        named = [() if order is None else order[1] for order in self._orders]
        self._items = [self._assortment.items(items) for items in named]
        self._wanted: Ints = np.array([len(items) for items in named], dtype=np.int64)
        self.missing = self._missing(has_one)

    def _missing(self, has_one: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> str | None:
        if not has_one.any():
            return "no outcomes" if not len(has_one) else "no outcome says what was ordered next"
        if not any(
            len(items) and "order_after_ms" in o.labels
            for items, o in zip(self._items, self._evidence.outcomes, strict=True)
        ):
            return "the catalog has none of the items that were ordered"
        short = {stage: len(getattr(self.split, stage)) for stage in outcomes.STAGES}
        least = min(short, key=lambda stage: short[stage])
        if short[least] < _MIN_LISTS:
            return f"only {short[least]} orders of customers to {least} on, and {_MIN_LISTS} are needed"
        return None

    def begin(self, model: Model, generator: np.random.Generator) -> nn.Module:
        head = model.heads[NextItemsTask.name]
        assert isinstance(head, ItemsHead)
        self._head, self._encoder = head, model.encoder
        return nn.ModuleList()  # the encoder learns items already, see models/pretrain.py

    def loss(self, embedding: Tensor, pick: Ints) -> Tensor:
        return 0.0 * embedding.sum()

    def alone(self, embeddings: Floats, pick: Ints) -> None:
        return None

    @torch.no_grad()
    def finish(self, embed: Embed, generator: np.random.Generator, *, seed: int) -> HeadReport:
        head, split = self._head, self.split
        head.eval()
        table = self._encoder.input.vectors(self._evidence.word_rows, np.arange(len(self._evidence.word_rows)))
        self._count()
        chosen = Split(
            some(split.fit, LISTS, generator),
            some(split.stop, KEPT_APART, generator),
            some(split.gate, KEPT_APART, generator),
            some(split.report, KEPT_APART, generator),
            split.by,
        )
        # Before there is a tower: from what every customer did, whoever the encoder was fitted on.
        self._ready = ReadyItems(self._assortment, table, head.tower, head.popularity)
        shown, stop = self._marked(chosen.fit, None), self._marked(chosen.stop, None)
        self._fit_wide(shown, generator)
        with torch.enable_grad():
            fit_residual(head, shown, stop, generator, RATE)
        del shown
        with torch.enable_grad():
            self._fit_tower(embed, table, generator)
        self._ready = ReadyItems(self._assortment, table, head.tower, head.popularity)
        # Customers of the gate are two groups: to stop at, and to calibrate on.
        halves = self.rows.customers[chosen.gate] % 2 == 0
        if min(halves.sum(), (~halves).sum()) < _MIN_LISTS // 2:
            halves = np.arange(len(chosen.gate)) % 2 == 0
        seen = self._marked(chosen.stop, embed)
        head.standardise_tower(seen.lists)
        with torch.enable_grad():
            fit_residual(head, seen, self._marked(chosen.gate[halves], embed), generator, RATE / 2)
        gate = self._marked(chosen.gate[~halves], embed)
        wide, deep = parts(head, gate.lists.columns)
        came, groups = gate.came.astype(np.float64), gate.groups[gate.lists.customer]
        found, visible = calibration.choose(came, wide, deep, groups)
        plain = calibration.Calibration(0.0, *calibration.platt(came, wide))
        for name, value in found._asdict().items():
            getattr(head, name).fill_(value)
        report = self._report(self._marked(chosen.report, embed), chosen, found, plain, seed)
        return replace(report, visible_gain=visible)

    def _report(
        self, said: Marked, chosen: Split, found: calibration.Calibration, plain: calibration.Calibration, seed: int
    ) -> HeadReport:
        wide, deep = parts(self._head, said.lists.columns)
        came, groups = said.came.astype(np.float64), said.groups[said.lists.customer]
        logits = found.apply(wide, deep)
        live = self.rows.live[chosen.report][said.lists.customer]
        return HeadReport(
            split=chosen.by,
            train_rows=len(chosen.fit),
            gate_rows=len(chosen.gate),
            wide=metrics.score(came, plain.apply(wide, deep), groups, seed=seed),
            model=metrics.score(came, logits, groups, seed=seed),
            live=metrics.score(came[live], logits[live], groups[live], seed=seed),
            gate=found.gate,
            embedding_auc=None,
            ranking=ranking(logits, said),
        )

    def _count(self) -> None:
        """What sold when; each order once, however many rows are before it."""
        orders: dict[tuple[int, int], Ints] = {}
        for row, order in enumerate(self._orders):
            if order is not None:
                orders[int(self.rows.customers[row]), order[0]] = self._items[row]
        at_ms = np.array([at_ms for _, at_ms in orders], dtype=np.int64)
        self._sales = sales_of(at_ms, list(orders.values()), len(self._assortment))
        self._head.popularity.load(self._assortment, self._sales)

    def _marked(self, rows: Ints, embed: Embed | None) -> Marked:
        parts_of: list[Lists] = []
        embeddings = None if embed is None else embed(self.rows.take(rows))
        for begin in range(0, len(rows), CHUNK):
            pick = rows[begin : begin + CHUNK]
            found = self._ready.lists(
                [self._evidence.outcomes[row].seen for row in pick.tolist()],
                None if embeddings is None else embeddings[begin : begin + CHUNK],
                self._sales,
            )
            parts_of.append(Lists(found.customers, found.customer + begin, found.item, found.columns))
        lists = Lists(
            len(rows),
            np.concatenate([np.zeros(0, dtype=np.int64), *(part.customer for part in parts_of)]),
            np.concatenate([np.zeros(0, dtype=np.int64), *(part.item for part in parts_of)]),
            np.concatenate([np.zeros((0, len(COLUMN_NAMES)), dtype=np.float32), *(p.columns for p in parts_of)]),
        )
        orders = [self._items[row] for row in rows.tolist()]
        return mark(lists, orders, self._wanted[rows], self.rows.customers[rows], len(self._assortment))

    def _fit_wide(self, shown: Marked, generator: np.random.Generator) -> None:
        pick = some(np.arange(len(shown.lists)), WIDE_ROWS, generator)
        came = shown.came[pick].astype(np.float32)
        self._head.wide.load(fit(shown.lists.columns[pick], came, shown.groups[shown.lists.customer[pick]]))

    def _fit_tower(self, embed: Embed, table: Tensor, generator: np.random.Generator) -> None:
        assortment, head = self._assortment, self._head
        training = TowerTraining(
            head.tower,
            table[torch.from_numpy(assortment.rows).to(table.device)],
            self._sales,
        )
        rows = some(self.split.fit, TOWER_ROWS, generator), some(self.split.stop, KEPT_APART, generator)
        shown, stop = (self._choices(of, embed, table, generator) for of in rows)
        if len(shown):
            training.fit(shown, stop, generator)

    def _choices(self, rows: Ints, embed: Embed, table: Tensor, generator: np.random.Generator) -> Choices:
        width = len(self._assortment)
        pasts, keys = [table.new_zeros((0, table.shape[1]))], [np.zeros(0, dtype=np.int64)]
        for begin in range(0, len(rows), CHUNK):
            pick = rows[begin : begin + CHUNK].tolist()
            edges = ItemEdges([self._evidence.outcomes[row].seen for row in pick], self._assortment)
            pasts.append(bought_before(edges, table))
            keys.append(edges.bought.keys + begin * width)
        bought_keys = np.concatenate(keys)
        row, item, weights = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
        for at, source in enumerate(rows.tolist()):
            items = self._items[source]
            new = items[~np.isin(at * width + items, bought_keys, assume_unique=True)] if len(items) else items
            new = some(new, MOST_OF_ORDER, generator)
            row.append(np.full(len(new), at))
            item.append(new)
            weights.append(np.full(len(new), 1 / np.sqrt(max(1, len(new)))))
        return Choices(
            torch.from_numpy(embed(self.rows.take(rows))).to(table.device),
            torch.cat(pasts),
            bought_keys,
            np.concatenate(row),
            np.concatenate(item),
            np.concatenate(weights).astype(np.float32),
            self._sales.week(self.rows.as_of_ms[rows]),
        )


class NextItemsScorer(Scorer):
    """See :meth:`models.task.Task.scorer`."""

    def __init__(self, model: Model, version: str, most: int) -> None:
        head = model.heads[NextItemsTask.name]
        assert isinstance(head, ItemsHead)
        self._model, self._head, self._version, self._most = model, head, version, most
        self._cached: tuple[int, ReadyItems] | None = None

    def ready(self, moment: Moment) -> ReadyItems:
        """The catalog's items, read once a version."""
        version, word_rows = moment.catalog_version, self._model.word_rows
        if self._cached is None or self._cached[0] != version or self._cached[1].assortment.word_rows is not word_rows:
            self._cached = version, self._made(Assortment(moment.catalog, word_rows))
        return self._cached[1]

    def _made(self, assortment: Assortment) -> ReadyItems:
        return ReadyItems(assortment, self._model.table(), self._head.tower, self._head.popularity)

    def scores(self, encoded: Encoded, rows: Sequence[int], ready: ReadyItems) -> tuple[Lists, Doubles]:
        """Candidates of some rows of a batch, and their calibrated logits, (C,)."""
        place = np.array(rows, dtype=np.int64)
        lists = ready.lists([encoded.snapshots[row] for row in rows], encoded.embeddings[place])
        wide, deep = parts(self._head, lists.columns)
        head = self._head
        return lists, float(head.scale) * (wide + float(head.gate) * deep) + float(head.shift)

    def predictions(self, encoded: Encoded, moment: Moment) -> Iterator[NextItemsPrediction]:
        rows = [row for row, snapshot in enumerate(encoded.snapshots) if snapshot.kind in NextItemsTask.kinds]
        if not rows:
            return
        ready = self.ready(moment)
        lists, logits = self.scores(encoded, rows, ready)
        top = best_of(logits, lists.customer, len(rows), self._most)
        columns = lists.columns[top]
        device = self._head.gate.device
        with torch.inference_mode():
            shown = torch.from_numpy(columns).to(device)
            said, by_tower = self._head(shown)[1].cpu().numpy(), self._head.of_tower(shown).cpu().numpy()
        shares, values = family_shares(said, by_tower).tolist(), columns.tolist()
        probability = 1 / (1 + np.exp(-np.clip(logits[top], -40, 40)))
        bounds = np.searchsorted(lists.customer[top], np.arange(len(rows) + 1)).tolist()
        for at, row in enumerate(rows):
            snapshot = encoded.snapshots[row]
            items = []
            for place in range(bounds[at], bounds[at + 1]):
                entry = ready.assortment.entries[int(lists.item[top[place]])]
                items.append(
                    RankedItem(
                        item_id=entry.id,
                        title=entry.title,
                        probability=rounded(probability[place]),
                        kind="again" if columns[place, COLUMN["bought"]] > 0 else "new",
                        reason_codes=item_reasons(values[place], shares[place], entry.category),
                    )
                )
            yield NextItemsPrediction(
                **common(NextItemsTask.name, snapshot, self._version, moment.now_ms),
                valid_until_ms=snapshot.as_of_ms + VALID_MS,
                items=items,
            )
