"""Tasks that say what becomes of a send: of a customer and a campaign with its offers, template and channel.

The head has two towers, of the customer and of the candidate, beside a wide part on cross features. Its deep part has
to know the candidate, so it is fitted after the encoder, on embeddings that stay as they are.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Final

import numpy as np
import torch
from torch import Tensor, nn

from models import calibration, outcomes
from models.candidate_head import CandidateHead, usable
from models.candidate_scorer import CandidateScorer
from models.candidates import ANSWERED, CROSS_SIZE, Candidates, as_sent, named
from models.metrics import log_loss
from models.model import Model
from models.probability import ProbabilityLesson, Stage, some, weights_of
from models.snapshot_columns import Edges
from models.task import Embed, Evidence, Task
from models.wide import Doubles, Floats, Ints
from schemas.graph import EDGE_INDEX
from schemas.snapshot import Candidate, Outcome, SnapshotKind

CROSSED: Final = 1_024
"""Rows whose cross features are made at once."""
DEEP_ROWS: Final = 20_000
"""Rows that the deep part is fitted on at most."""
DEEP_EPOCHS: Final = 12
DEEP_BATCH: Final = 512
DEEP_RATE: Final = 1e-3
_ANSWERS: Final = [EDGE_INDEX[name] for name in ("opened>campaign", "opened>channel", "clicked>channel")]


class CandidateTask(Task):
    """What is left to say is the label, and the record where there is one: by itself such a task publishes nothing."""

    question = "redemption"
    topic: ClassVar[str | None] = None
    kinds: ClassVar[frozenset[SnapshotKind]] = frozenset()

    @abstractmethod
    def label(self, outcome: Outcome) -> int | None:
        """0 or 1 of a send; None of what says nothing."""

    def head(self, hidden: int) -> CandidateHead:
        return CandidateHead(hidden)

    def lesson(self, evidence: Evidence) -> CandidateLesson:
        said = [self.label(outcome) if outcome.seen.candidate else None for outcome in evidence.outcomes]
        labels = np.array([np.nan if label is None else label for label in said], dtype=np.float32)
        return CandidateLesson(self.name, evidence, labels)

    def scorer(self, model: Model, version: str) -> CandidateScorer:
        return CandidateScorer(self, model, version)


class CandidateLesson(ProbabilityLesson):
    """Sends and what became of them.

    Those that are chosen and reported on are of the newest campaigns where there are enough, as new campaigns are what
    will be scored; the two of different customers, and the encoder learns from neither.

    Args:
        labels: (N,), NaN of rows that are left out, those of no candidate among them.
    """

    def __init__(self, name: str, evidence: Evidence, labels: Floats) -> None:
        sent = [
            as_sent(outcome.seen.candidate, evidence.catalog) if outcome.seen.candidate else None
            for outcome in evidence.outcomes
        ]
        distinct = list(dict.fromkeys(candidate for candidate in sent if candidate is not None))
        self.candidates = Candidates(
            [named(candidate, evidence.catalog) for candidate in distinct], evidence.catalog, evidence.word_rows
        )
        self.column = _numbers(sent, {candidate: place for place, candidate in enumerate(distinct)})
        """(N,) of the row's candidate, -1 where it has none."""
        campaigns = dict.fromkeys(candidate.campaign_id for candidate in distinct)
        by_id = {campaign_id: place for place, campaign_id in enumerate(campaigns)}
        self.campaign = _numbers(sent, {candidate: by_id[candidate.campaign_id] for candidate in distinct})
        """(N,) of its campaign, with whatever template and by whatever channel."""
        self._cross = _cross(evidence, self.candidates, self.column)
        split = outcomes.split_by_campaigns(evidence.rows, labels, self.campaign)
        super().__init__(name, evidence, labels, split or outcomes.split(evidence.rows, labels))

    def inputs(self, chosen: Ints) -> Floats:
        plain = usable(torch.from_numpy(self.rows.sequences.numbers[chosen])).numpy()
        return np.concatenate([plain, self._cross[chosen]], axis=1)

    def groups(self, chosen: Ints) -> Ints:
        # New campaigns are what is scored, so the ridge must hold across campaigns.
        across = len(np.unique(self.campaign[chosen])) >= outcomes.MIN_CAMPAIGNS
        return self.campaign[chosen] if across else super().groups(chosen)

    def layer_of(self, model: Model) -> nn.Module:
        self._encoder = model.encoder
        # Thrown away after the encoder's training: the deep part has to know the candidate.
        return nn.Linear(model.encoder.hidden, 1).to(model.encoder.words().weight.device)

    def deepen(self, embed: Embed, generator: np.random.Generator) -> None:
        """Fit the towers to what the wide part leaves; keep what is best on the rows to stop at, if any is better."""
        fit = Stage(self, some(self.split.fit, DEEP_ROWS, generator), embed)
        stop = Stage(self, self.split.stop, embed)
        head = self._candidate_head
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
    def _candidate_head(self) -> CandidateHead:
        assert isinstance(self.head, CandidateHead)
        return self.head

    def _residual(self, embeddings: Floats, chosen: Ints) -> Tensor:
        head = self._candidate_head
        device = head.gate.device
        vectors = head.tower(torch.from_numpy(self.candidates.words).to(device), self._table)
        of_rows = vectors[torch.from_numpy(self.column[chosen]).to(device)]
        columns = torch.from_numpy(self.rows.sequences.numbers[chosen]).to(device)
        return head.residual(torch.from_numpy(embeddings).to(device), columns, of_rows[:, None]).squeeze(1)

    def _loss_at(self, stage: Stage) -> float:
        """Log loss with the best scale and shift."""
        if not len(stage):
            return float("inf")
        logits = stage.wide + self.deep(stage)
        scale, shift = calibration.platt(stage.labels, logits)
        return log_loss(stage.labels, scale * logits + shift)


def _numbers(sent: Sequence[Candidate | None], number: dict[Candidate, int]) -> Ints:
    return np.array([-1 if candidate is None else number[candidate] for candidate in sent], dtype=np.int64)


def _cross(evidence: Evidence, candidates: Candidates, column: Ints) -> Floats:
    """(N, CROSS_SIZE) of each outcome's own candidate, NaN where it names none.

    Where nobody is known to have opened anything, ratios of answers to sends say how much was sent and nothing else:
    they are not known.
    """
    out = np.full((len(column), CROSS_SIZE), np.nan, dtype=np.float32)
    answers = False
    for begin in range(0, len(column), CROSSED):
        own = begin + np.flatnonzero(column[begin : begin + CROSSED] >= 0)
        snapshots = [evidence.outcomes[row].seen for row in own.tolist()]
        # Rows come by time, so those of a chunk are of a few campaigns.
        there, place = np.unique(column[own], return_inverse=True)
        few = [candidates.campaigns[at] for at in there.tolist()]
        crossed = Candidates(few, evidence.catalog, evidence.word_rows).cross(snapshots)
        out[own] = crossed[np.arange(len(own)), place]
        answers = answers or bool(np.isin(Edges(snapshots).type, _ANSWERS).any())
    if not answers:
        out[:, ANSWERED] = np.nan
    return out
