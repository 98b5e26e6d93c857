"""Click: the probability that a customer clicks in a message, of a campaign with its template and by its channel."""

from __future__ import annotations

from models.candidate_task import CandidateTask
from schemas.snapshot import Outcome


class ClickTask(CandidateTask):
    """Not given that it was opened: of every send."""

    name = "click"

    def label(self, outcome: Outcome) -> int | None:
        return int("click_after_ms" in outcome.labels) if "response" in outcome.labels else None
