"""What the model says of live customers and the campaigns that run: scored once, for decisions and for matches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from models.candidate_scorer import CandidateAnswers, CandidateScorer, as_listed
from models.candidates import variants
from models.inference import Predictor
from models.task import Encoded, Moment
from schemas.catalog import CatalogEntry
from schemas.snapshot import Candidate
from streams.core.decisions import active_campaigns


@dataclass(frozen=True)
class RunningScores:
    """A batch's chosen customers against all campaigns that run for any of them."""

    running: Mapping[int, list[CatalogEntry]]
    """Row of the batch → campaigns that run as of its snapshot, by id."""
    row: Mapping[int, int]
    """Row of the batch → row of the answers."""
    column: Mapping[Candidate, int]
    """Of the answers."""
    answers: Mapping[str, CandidateAnswers]
    """By task, of those that the model has learned; empty where no campaign runs."""


class RunningCampaigns:
    """Scores running campaigns by the tasks that are named and learned.

    Every campaign is a candidate as the catalog lists it, and with each template and channel that it can be sent with.
    """

    def __init__(self, predictor: Predictor, tasks: Iterable[str]) -> None:
        self.scorers: Final[dict[str, CandidateScorer]] = {
            name: predictor.candidate(name) for name in tasks if name in predictor.scorers
        }
        self._version: object = None
        self.campaigns: list[CatalogEntry] = []
        """Of the catalog, as it was asked about last."""
        self.variants: dict[str, list[Candidate]] = {}
        """By campaign: what it can be sent with."""

    def __call__(self, encoded: Encoded, moment: Moment, rows: list[int]) -> RunningScores:
        """Scores of these rows of a batch."""
        self._know(moment)
        snapshots = encoded.snapshots
        running = {row: active_campaigns(self.campaigns, snapshots[row].as_of_ms) for row in rows}
        entries = sorted({entry.id: entry for active in running.values() for entry in active}.items())
        sent = dict.fromkeys(
            candidate for name, entry in entries for candidate in (as_listed(entry), *self.variants[name])
        )
        column = {candidate: place for place, candidate in enumerate(sent)}
        answers: dict[str, CandidateAnswers] = {}
        if sent and self.scorers:
            chosen = encoded.take(rows)
            sets = next(iter(self.scorers.values())).sets
            candidates = sets(list(sent), moment.catalog, moment.catalog_version)
            cross = candidates.cross(chosen.snapshots)
            answers = {name: scorer(chosen, candidates, cross) for name, scorer in self.scorers.items()}
        return RunningScores(running, {row: place for place, row in enumerate(rows)}, column, answers)

    def _know(self, moment: Moment) -> None:
        """Read the catalog, where it is another one than before."""
        if moment.catalog_version == self._version:
            return
        self._version = moment.catalog_version
        self.campaigns = [entry for entry in moment.catalog.values() if entry.kind == "campaign"]
        templates = sorted(
            (entry for entry in moment.catalog.values() if entry.kind == "template"), key=lambda entry: entry.id
        )
        self.variants = {campaign.id: variants(campaign, templates) for campaign in self.campaigns}
