"""How well each running campaign suits a customer: one record, and another one when it says something new."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from models.task import Moment, common, rounded
from models.tasks.clicked import ClickTask
from models.tasks.opened import OpenTask
from models.tasks.redemption import RedemptionTask
from schemas.catalog import CatalogEntry
from schemas.channels import DEFAULT_PURPOSE, granted
from schemas.predictions import CampaignMatch, MatchedCampaign, prediction_record
from schemas.records import OutputRecord
from schemas.snapshot import Candidate, Snapshot, SnapshotKind
from streams.core.config import DAY_MS
from streams.core.decisions import offers_over
from streams.serving.running import RunningCampaigns, RunningScores

CAMPAIGN_MATCH: Final = "predictions.campaign-match"
KINDS: Final[frozenset[SnapshotKind]] = frozenset({"event", "refresh", "horizon"})
VALID_MS: Final = 7 * DAY_MS
"""Until the next weekly point."""
MOST_LISTED: Final = 10
"""Campaigns of a record."""
REMEMBERED: Final = 20_000
"""Customers of whom it is known what was sent last; each takes about 2 KB."""

_Field = Literal["redeem", "click", "open"]
_FIELDS: Final[dict[str, _Field]] = {RedemptionTask.name: "redeem", ClickTask.name: "click", OpenTask.name: "open"}
"""By task; campaigns are ranked by the first that the model has learned."""
TASKS: Final = tuple(_FIELDS)


Said = tuple[float, ...]
"""Probabilities of a campaign, the one first that it is ranked by."""


class _Match(NamedTuple):
    campaign: CatalogEntry
    sent: Candidate
    column: int
    """Of the candidate among the scores."""
    said: Said


class _Sent(NamedTuple):
    """What was sent of a customer last."""

    said: dict[str, Said]
    """By campaign, best first."""
    consent: tuple[str, ...] | None
    """What is not allowed any more must not stand in the last record."""
    valid_until_ms: int


class CampaignMatches:
    """Records of customers against the campaigns that run and that they may be sent.

    What was sent last is a hint and no state: of who is not remembered a record is sent, so a restart costs records and
    nothing else.

    Args:
        margin: after an event, a record is sent when a probability has moved by more since the last one.
    """

    def __init__(self, running: RunningCampaigns, version: str, margin: float) -> None:
        self._running, self._version, self._margin = running, version, margin
        self._sent: dict[str, _Sent] = {}

    def __len__(self) -> int:
        """Customers that are remembered."""
        return len(self._sent)

    def clear(self) -> None:
        """Another worker may have sent something since: all that is said next is sent."""
        self._sent.clear()

    def forget(self, customer_id: str) -> None:
        """The customer was erased."""
        self._sent.pop(customer_id, None)

    def __call__(
        self, rows: list[int], snapshots: Sequence[Snapshot], scores: RunningScores, moment: Moment
    ) -> Iterator[OutputRecord]:
        """Records of these rows of a batch, as far as they say something new."""
        learned = [task for task in TASKS if task in self._running.scorers]
        if not learned:
            return
        for row in rows:
            snapshot = snapshots[row]
            found = self._ranked(row, snapshot, scores, moment, learned)
            if not self._is_new(snapshot, found[:MOST_LISTED]):
                continue
            # Reasons cost more than all before: they are made of what is sent.
            listed = [self._matched(scores.row[row], snapshot, scores, one, learned) for one in found[:MOST_LISTED]]
            match = CampaignMatch(
                **common("campaign-match", snapshot, self._version, moment.now_ms),
                valid_until_ms=snapshot.as_of_ms + VALID_MS,
                ranked_by=_FIELDS[learned[0]],
                probability=found[0].said[0] if found else 0.0,
                campaigns=listed,
                left_out=len(found) - len(listed),
            )
            yield prediction_record(CAMPAIGN_MATCH, match)

    def _ranked(
        self, row: int, snapshot: Snapshot, scores: RunningScores, moment: Moment, learned: list[str]
    ) -> list[_Match]:
        """Every running campaign that the customer may be sent, best first."""
        if snapshot.holdout or not scores.running[row]:
            return []
        may: dict[tuple[str | None, str], bool] = {}
        place, found = scores.row[row], []
        of_row = [scores.answers[task].probability[place] for task in learned]
        for campaign in scores.running[row]:
            purpose = campaign.purpose or DEFAULT_PURPOSE
            allowed: list[int] = []
            sent_at: dict[int, Candidate] = {}
            for sent in self._running.variants[campaign.id]:
                if (key := (sent.channel, purpose)) not in may:
                    may[key] = sent.channel is not None and granted(snapshot.consent, sent.channel, purpose)
                if may[key]:
                    allowed.append(scores.column[sent])
                    sent_at[scores.column[sent]] = sent
            if allowed and not offers_over(campaign, moment.catalog, snapshot.as_of_ms):
                best = max(allowed, key=lambda at: float(of_row[0][at]))
                found.append(_Match(campaign, sent_at[best], best, tuple(rounded(of[best]) for of in of_row)))
        return sorted(found, key=lambda one: (-one.said[0], one.campaign.id))

    def _matched(
        self, place: int, snapshot: Snapshot, scores: RunningScores, match: _Match, learned: list[str]
    ) -> MatchedCampaign:
        said = {_FIELDS[task]: value for task, value in zip(learned, match.said, strict=True)}
        ranking, campaign = learned[0], match.campaign
        reasons = self._running.scorers[ranking].reasons(snapshot, scores.answers[ranking], place, match.column)
        return MatchedCampaign(
            campaign_id=campaign.id,
            template_id=match.sent.template_id,
            channel=match.sent.channel,
            offer_id=campaign.offers[0] if len(campaign.offers) == 1 else None,
            open=said.get("open"),
            click=said.get("click"),
            redeem=said.get("redeem"),
            ends_ms=campaign.active_to_ms,
            reason_codes=reasons,
        )

    def _is_new(self, snapshot: Snapshot, listed: Sequence[_Match]) -> bool:
        said = {one.campaign.id: one.said for one in listed}
        sent = self._sent.pop(snapshot.customer_id, None)
        if (
            snapshot.kind == "event"
            and sent is not None
            and snapshot.as_of_ms < sent.valid_until_ms
            and snapshot.consent == sent.consent
            and not moved(sent.said, said, self._margin)
        ):
            self._sent[snapshot.customer_id] = sent
            return False
        if sent is not None and snapshot.as_of_ms + VALID_MS < sent.valid_until_ms:
            # Asked of settled state, behind a live record that is of later: readers go on with that one.
            self._sent[snapshot.customer_id] = sent
            return True
        self._sent[snapshot.customer_id] = _Sent(said, snapshot.consent, snapshot.as_of_ms + VALID_MS)
        if len(self._sent) > REMEMBERED:
            del self._sent[next(iter(self._sent))]
        return True


def moved(before: Mapping[str, Said], now: Mapping[str, Said], margin: float) -> bool:
    """Whether a campaign came or went, or a probability moved by more than a margin.

    Where the list is full, campaigns of nearly equal probabilities come and go at its end: one that came is compared
    with one that went.

    Args:
        before: campaign → its probabilities, best first; so is ``now``.
    """
    came = [name for name in now if name not in before]
    went = [name for name in before if name not in now]
    if (came or went) and (len(before) < MOST_LISTED or len(now) < MOST_LISTED):
        return True
    stayed = [name for name in now if name in before]
    pairs = [(before[one], now[other]) for one, other in zip([*stayed, *went], [*stayed, *came], strict=True)]
    return any(abs(x - y) > margin for one, other in pairs for x, y in zip(one, other, strict=True))
