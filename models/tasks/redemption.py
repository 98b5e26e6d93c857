"""Redemption: the probability that a customer uses what a campaign offers in its window.

The head has two towers, of the customer and of the campaign, beside a wide part on cross features. Its deep part has to
know the campaign, so it is fitted after the encoder, on embeddings that stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import torch
from torch import Tensor, nn

from models import calibration, outcomes
from models.candidates import CROSS_NAMES, CROSS_SIZE, MAX_WORDS, Candidates, named
from models.heads import Head, start_at_zero
from models.metrics import log_loss
from models.model import Model
from models.probability import ProbabilityLesson, Stage, some, weights_of
from models.reasons import TOP, redemption_reasons
from models.task import Embed, Encoded, Evidence, Moment, Scorer, Task, common, on_device, rounded
from models.wide import COLUMN_FEATURE, COLUMNS, PLAIN, Doubles, Floats, Ints, by_feature, typical
from schemas import features
from schemas.catalog import CatalogEntry
from schemas.predictions import Reason, RedemptionPrediction
from schemas.snapshot import DAY_MS, Candidate, Outcome, Snapshot, SnapshotKind

DEEP: Final = 64
TOWER: Final = 32
CACHED: Final = 8
"""Sets of campaigns whose vectors are remembered."""
CROSSED: Final = 2_048
"""Rows whose cross features are made at once."""
DEEP_ROWS: Final = 20_000
"""Rows that the deep part is fitted on at most."""
DEEP_EPOCHS: Final = 12
DEEP_BATCH: Final = 512
DEEP_RATE: Final = 1e-3
_TRIED: Final = 8

_NOT_USED: Final = ("days_since_event", "days_since_send", "hour_of_day", "day_of_week")
_LEFT_OUT: Final = [at for at in range(PLAIN) if features.NAMES[COLUMN_FEATURE[at]] in _NOT_USED]


class RedemptionTask(Task):
    """Evidence of every send; of what could be sent, by decisions."""

    name = "redemption"
    question = "redemption"
    topic = "predictions.redemption"
    kinds: ClassVar[frozenset[SnapshotKind]] = frozenset({"send"})

    def head(self, hidden: int) -> RedemptionHead:
        return RedemptionHead(hidden)

    def lesson(self, evidence: Evidence) -> RedemptionLesson:
        return RedemptionLesson(evidence)

    def scorer(self, model: Model, version: str) -> RedemptionScorer:
        return RedemptionScorer(model, version)


class RedemptionHead(Head):
    """Logit that the customer uses the campaign's offer in its window: cross features, and two towers."""

    def __init__(self, hidden: int) -> None:
        super().__init__(PLAIN + CROSS_SIZE)
        self.customer = nn.Linear(hidden + PLAIN, TOWER)
        self.candidate = nn.Sequential(nn.Linear(hidden, DEEP), nn.GELU(), nn.Linear(DEEP, TOWER))
        start_at_zero(self.candidate[-1])

    def tower(self, words: Tensor, table: Tensor) -> Tensor:
        """Words (C, W) as places in a table (R, H), 0 for none → candidate vectors (C, TOWER).

        The table is not trained here.
        """
        mask = (words > 0).float()[:, :, None]  # (C, W, 1)
        vectors = nn.functional.embedding(words, table.detach()).float()  # (C, W, H)
        mean = (vectors * mask).sum(1) / mask.sum(1).clamp(min=1)
        normal = nn.functional.normalize(mean, dim=-1) * math.sqrt(mean.shape[-1])
        out: Tensor = self.candidate(normal)
        return out

    def forward(
        self, embedding: Tensor, columns: Tensor, cross: Tensor, vectors: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Customers against campaigns.

        Args:
            embedding: (B, H).
            columns: raw columns of the customers, (B, COLUMNS).
            cross: raw cross features, (B, C, CROSS_SIZE).
            vectors: from :meth:`tower`, (C, TOWER); or one campaign a customer, (B, 1, TOWER).

        Returns:
            Calibrated logits (B, C), and the wide contributions of the customer (B, PLAIN) and of the pair
            (B, C, CROSS_SIZE).
        """
        z = self.wide.standardise(usable(columns), end=PLAIN)  # (B, PLAIN)
        pair = self.wide.standardise(cross, begin=PLAIN)  # (B, C, CROSS_SIZE)
        own, crossed = z * self.wide.weight[:PLAIN], pair * self.wide.weight[PLAIN:]
        wide = own.sum(-1)[:, None] + crossed.sum(-1) + self.wide.bias  # (B, C)
        return self.calibrated(wide + self.gate * self.residual(embedding, columns, vectors)), own, crossed

    def deep_weights(self) -> list[nn.Parameter]:
        """What :meth:`residual` and :meth:`tower` learn."""
        return [*self.customer.parameters(), *self.candidate.parameters()]

    def residual(self, embedding: Tensor, columns: Tensor, vectors: Tensor) -> Tensor:
        """Both towers' product before the gate, arguments as in :meth:`forward`: (B, C)."""
        z = self.wide.standardise(usable(columns), end=PLAIN)  # (B, PLAIN)
        customer = self.customer(torch.cat([embedding, z], dim=-1)) / math.sqrt(TOWER)  # (B, TOWER)
        out: Tensor = (customer[:, None, :] * vectors).sum(-1)
        return out

    def trial(self, embedding: Tensor, table: Tensor) -> Tensor:
        device = embedding.device
        ids = np.random.default_rng(1).integers(1, len(table), (_TRIED, MAX_WORDS))
        columns = torch.full((len(embedding), COLUMNS), float("nan"), device=device)
        cross = torch.full((len(embedding), _TRIED, CROSS_SIZE), float("nan"), device=device)
        logits: Tensor = self(embedding, columns, cross, self.tower(torch.from_numpy(ids).to(device), table))[0]
        return logits


def usable(columns: Tensor) -> Tensor:
    """Of the columns (B, COLUMNS), those a redemption is scored on (B, PLAIN).

    No squares, as rows are few. Not known is what the last send has just moved, as training scores a customer just
    before a send and serving mostly just after one; and the last event's hour and weekday, which followed noise
    (Complete Journey, log loss 0.359 without this and the choice of ridge across campaigns, 0.350 with both).
    """
    kept = columns[:, :PLAIN].clone()
    kept[:, _LEFT_OUT] = float("nan")
    return kept


class RedemptionLesson(ProbabilityLesson):
    """Sends and whether their offer was used.

    Those that are chosen and reported on are of the newest campaigns where there are enough, as new campaigns are what
    will be scored; the two of different customers, and the encoder learns from neither.
    """

    def __init__(self, evidence: Evidence) -> None:
        rows, sent = evidence.rows, [outcome.seen.candidate for outcome in evidence.outcomes]
        said = [outcome.label if outcome.seen.candidate else np.nan for outcome in evidence.outcomes]
        labels = np.array(said, dtype=np.float32)
        campaigns: dict[str, CatalogEntry] = {}
        for candidate in sent:
            if candidate is not None and candidate.campaign_id not in campaigns:
                campaigns[candidate.campaign_id] = named(candidate, evidence.catalog)
        self.candidates = Candidates(list(campaigns.values()), evidence.catalog, evidence.word_rows)
        self.campaign: Ints = np.array(
            [self.candidates.column[candidate.campaign_id] if candidate else -1 for candidate in sent], dtype=np.int64
        )
        self._cross = _cross(evidence.outcomes, self.candidates, self.campaign)
        split = outcomes.split_by_campaigns(rows, labels, self.campaign) or outcomes.split(rows, labels)
        super().__init__(RedemptionTask.name, evidence, labels, split)

    def inputs(self, chosen: Ints) -> Floats:
        plain = usable(torch.from_numpy(self.rows.sequences.numbers[chosen])).numpy()
        return np.concatenate([plain, self._cross[chosen]], axis=1)

    def groups(self, chosen: Ints) -> Ints:
        # New campaigns are what is scored, so the ridge must hold across campaigns.
        across = len(np.unique(self.campaign[chosen])) >= outcomes.MIN_CAMPAIGNS
        return self.campaign[chosen] if across else super().groups(chosen)

    def layer_of(self, model: Model) -> nn.Module:
        self._encoder = model.encoder
        # Thrown away after the encoder's training: the deep part has to know the campaign.
        return nn.Linear(model.encoder.hidden, 1).to(model.encoder.words().weight.device)

    def deepen(self, embed: Embed, generator: np.random.Generator) -> None:
        """Fit the towers to what the wide part leaves; keep what is best on the rows to stop at, if any is better."""
        fit = Stage(self, some(self.split.fit, DEEP_ROWS, generator), embed)
        stop = Stage(self, self.split.stop, embed)
        head = self._redemption
        word_rows = self.candidates.word_rows
        with torch.no_grad():  # the encoder is trained by now
            self._table = self._encoder.input.vectors(word_rows, np.arange(len(word_rows)))
        optimiser = torch.optim.AdamW(head.deep_weights(), lr=DEEP_RATE, weight_decay=0.05)
        device = head.gate.device
        wide, labels = (torch.from_numpy(array).float().to(device) for array in (fit.wide, fit.labels))
        least, best = self._loss_at(stop), weights_of(head)
        for epoch in range(DEEP_EPOCHS):
            head.train()
            for group in optimiser.param_groups:
                group["lr"] = DEEP_RATE * (1 - epoch / DEEP_EPOCHS)
            order = generator.permutation(len(fit))
            for begin in range(0, len(order), DEEP_BATCH):
                pick = order[begin : begin + DEEP_BATCH]
                place = torch.from_numpy(pick).to(device)
                logits = wide[place] + self._residual(fit.embeddings[pick], fit.chosen[pick])
                loss = nn.functional.binary_cross_entropy_with_logits(logits, labels[place])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            loss_now = self._loss_at(stop)
            if loss_now < least:
                least, best = loss_now, weights_of(head)
        head.load_state_dict(best)
        head.eval()

    @torch.no_grad()
    def deep(self, stage: Stage) -> Doubles:
        self.head.eval()
        found: Doubles = self._residual(stage.embeddings, stage.chosen).double().cpu().numpy()
        return found

    @property
    def _redemption(self) -> RedemptionHead:
        assert isinstance(self.head, RedemptionHead)
        return self.head

    def _residual(self, embeddings: Floats, chosen: Ints) -> Tensor:
        head = self._redemption
        device = head.gate.device
        vectors = head.tower(torch.from_numpy(self.candidates.words).to(device), self._table)
        of_rows = vectors[torch.from_numpy(self.campaign[chosen]).to(device)]
        columns = torch.from_numpy(self.rows.sequences.numbers[chosen]).to(device)
        return head.residual(torch.from_numpy(embeddings).to(device), columns, of_rows[:, None]).squeeze(1)

    def _loss_at(self, stage: Stage) -> float:
        """Log loss with the best scale and shift."""
        if not len(stage):
            return float("inf")
        logits = stage.wide + self.deep(stage)
        scale, shift = calibration.platt(stage.labels, logits)
        return log_loss(stage.labels, scale * logits + shift)


def _cross(found: Sequence[Outcome], candidates: Candidates, campaign: Ints) -> Floats:
    """(N, CROSS_SIZE) of each outcome's own campaign, NaN where it names none."""
    out = np.full((len(found), CROSS_SIZE), np.nan, dtype=np.float32)
    for begin in range(0, len(found), CROSSED):
        own = begin + np.flatnonzero(campaign[begin : begin + CROSSED] >= 0)
        crossed = candidates.cross([found[row].seen for row in own.tolist()])
        out[own] = crossed[np.arange(len(own)), campaign[own]]
    return out


@dataclass(frozen=True)
class Campaigns:
    """Candidates with their vectors; immutable, made by :meth:`RedemptionScorer.campaigns`."""

    candidates: Candidates
    vectors: Tensor
    """(C, TOWER)"""

    def __len__(self) -> int:
        return len(self.candidates)

    @property
    def ids(self) -> tuple[str, ...]:
        """Campaign of each column."""
        return tuple(entry.id for entry in self.candidates.campaigns)


@dataclass(frozen=True)
class RedemptionAnswers:
    """A batch of customers against a set of campaigns."""

    probability: Floats
    """Calibrated, (B, C)."""
    customer: Floats
    """What each feature adds to the calibrated logit, (B, SIZE)."""
    cross: Floats
    """What each cross feature adds, (B, C, CROSS_SIZE), in the order of ``CROSS_NAMES``."""
    values: Floats
    """The cross features, raw, (B, C, CROSS_SIZE)."""


class RedemptionScorer(Scorer):
    """See :meth:`models.task.Task.scorer`."""

    def __init__(self, model: Model, version: str) -> None:
        head = model.heads[RedemptionTask.name]
        assert isinstance(head, RedemptionHead)
        self._model, self._head, self._version = model, head, version
        self._typical = typical(head.wide.mean[:PLAIN].cpu().numpy())
        self._cached: dict[tuple[object, tuple[str, ...]], Campaigns] = {}

    def campaigns(self, catalog: Mapping[str, CatalogEntry], ids: Sequence[str], version: object = None) -> Campaigns:
        """Campaigns ready to be scored.

        Args:
            catalog: ``kind:id`` -> entry; what the model was not told to know has an id and no text.
            ids: campaigns in the order of the score's columns; one that the catalog lacks is a KeyError.
            version: anything hashable that changes when the catalog does; results are kept per version and ids.
        """
        key = (version, tuple(ids))
        found = self._cached.get(key) if version is not None else None
        if found is None or found.candidates.word_rows is not self._model.word_rows:
            entries = [catalog[f"campaign:{name}"] for name in ids]
            found = self._ready(Candidates(entries, catalog, self._model.word_rows))
            if version is not None:
                if len(self._cached) >= CACHED:
                    del self._cached[next(iter(self._cached))]
                self._cached[key] = found
        elif version is not None:
            self._cached[key] = self._cached.pop(key)  # the one that is used most, of live decisions, has to stay
        return found

    def _ready(self, candidates: Candidates) -> Campaigns:
        table = self._model.table()
        with torch.inference_mode():
            words = torch.from_numpy(candidates.words).to(table.device)
            return Campaigns(candidates, self._head.tower(words, table))

    def __call__(self, encoded: Encoded, campaigns: Campaigns) -> RedemptionAnswers:
        """Score every customer of a batch with every campaign."""
        cross = campaigns.candidates.cross(encoded.snapshots)
        with torch.inference_mode():
            logits, own, pair = self._head(
                *on_device(self._model, encoded.embeddings, encoded.columns, cross), campaigns.vectors
            )
            scaled = (torch.sigmoid(logits), own * self._head.scale, pair * self._head.scale)
        probability, customer, crossed = (part.cpu().numpy() for part in scaled)
        assert crossed.shape[-1] == len(CROSS_NAMES)
        return RedemptionAnswers(probability=probability, customer=by_feature(customer), cross=crossed, values=cross)

    def reasons(
        self, snapshot: Snapshot, answers: RedemptionAnswers, row: int, column: int, top: int = TOP
    ) -> list[Reason]:
        """Why this probability: the customer at ``row``, the campaign at ``column``."""
        parts = answers.customer[row], answers.cross[row, column], answers.values[row, column]
        return redemption_reasons(snapshot, *parts, self._typical, top)

    def predictions(self, encoded: Encoded, moment: Moment) -> Iterator[RedemptionPrediction]:
        for sent, rows in _rounds(encoded.snapshots, moment.catalog):
            yield from self._of_sends(encoded, moment, sent, rows)

    def _of_sends(
        self, encoded: Encoded, moment: Moment, sent: Mapping[str, Candidate], rows: Sequence[int]
    ) -> Iterator[RedemptionPrediction]:
        strange = {
            f"campaign:{name}": named(candidate, moment.catalog)
            for name, candidate in sent.items()
            if f"campaign:{name}" not in moment.catalog
        }
        names = sorted(sent)
        column = {name: place for place, name in enumerate(names)}
        entries = {**moment.catalog, **strange} if strange else moment.catalog
        campaigns = self.campaigns(entries, names, None if strange else moment.catalog_version)
        answers = self(encoded, campaigns)
        for row in rows:
            snapshot, candidate = encoded.snapshots[row], encoded.snapshots[row].candidate
            assert candidate is not None
            place = column[candidate.campaign_id]
            ends_ms = entries[f"campaign:{candidate.campaign_id}"].active_to_ms
            yield RedemptionPrediction(
                **common(RedemptionTask.name, snapshot, self._version, moment.now_ms),
                valid_until_ms=ends_ms if ends_ms is not None else snapshot.as_of_ms + DAY_MS,
                campaign_id=candidate.campaign_id,
                offer_id=candidate.offer_id,
                channel=candidate.channel,
                probability=rounded(answers.probability[row, place]),
                reason_codes=self.reasons(snapshot, answers, row, place),
            )


def _rounds(
    snapshots: Sequence[Snapshot], catalog: Mapping[str, CatalogEntry]
) -> Iterable[tuple[dict[str, Candidate], list[int]]]:
    """Sends that can be scored together, and their rows.

    A campaign that the catalog does not have is scored by what its send said of it, and two sends may say different
    things: they do not share a round, or what is published of one would depend on who else is in the batch.
    """
    rounds: list[tuple[dict[str, Candidate], list[int]]] = []
    for row, snapshot in enumerate(snapshots):
        candidate = snapshot.candidate
        if candidate is None:
            continue
        known = f"campaign:{candidate.campaign_id}" in catalog
        for sent, members in rounds:
            if sent.setdefault(candidate.campaign_id, candidate) == candidate or known:
                members.append(row)
                break
        else:
            rounds.append(({candidate.campaign_id: candidate}, [row]))
    return rounds
