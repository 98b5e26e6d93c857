"""Open: the probability that a customer opens a message, of a campaign with its template and by its channel."""

from __future__ import annotations

from models.candidate_task import CandidateTask
from schemas.snapshot import Outcome


class OpenTask(CandidateTask):
    """Whoever clicks has opened, also where nothing reported that."""

    name = "open"

    def label(self, outcome: Outcome) -> int | None:
        if "response" not in outcome.labels:
            return None
        return int("open_after_ms" in outcome.labels or "click_after_ms" in outcome.labels)
