"""The one table of topics: key, record, partitions, retention and cleanup.

Names here are logical; a deployment may put a prefix before them. Every topic is created by
``pulsegraph topics create`` and never by the broker.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from schemas import (
    audiences,
    catalog,
    embeddings,
    events,
    graph,
    model_versions,
    predictions,
    recalibrations,
    snapshot,
    sweep,
    words,
)

DAY_MS: Final = 86_400_000

#: How long a worker may be away and still find every record of the source topics.
SOURCE_DAYS: Final = 30
#: What was predicted is kept until its outcome is known, with time to spare: 28 days for churn, 30 for offers.
_UNTIL_OUTCOME_DAYS: Final = 45
#: The same where it is about 56 days.
_UNTIL_LATE_OUTCOME_DAYS: Final = 75

Cleanup = Literal["delete", "compact", "compact,delete"]


class Topic(msgspec.Struct, frozen=True, kw_only=True):
    """One topic of the contract."""

    name: str
    key: str
    record: type | None
    format: Literal["json", "msgpack", "bytes"]
    cleanup: Cleanup
    retention_ms: int | None
    """None: for ever (compacted)."""
    replaced_ms: int | None
    """Compacted topics: how long at least a record stays that a newer one of its key replaced, and a null; None: not
    said."""
    purpose: str

    @property
    def kept(self) -> str:
        """How long records stay, in words."""
        if self.cleanup == "compact,delete" and self.retention_ms is not None:
            return f"the newest of each key, {_days(self.retention_ms)}"
        if self.cleanup == "compact":
            return "compacted" if self.replaced_ms is None else f"{_days(self.replaced_ms)}, then compacted"
        return "for ever" if self.retention_ms is None else _days(self.retention_ms)

    @property
    def is_changelog(self) -> bool:
        """Whether it keeps the state of a role; see :func:`changelog_of`."""
        return self.name.endswith(_CHANGELOG)


_CHANGELOG: Final = "-changelog"


def changelog_of(role: str) -> str:
    """Logical name of the topic that keeps a role's state.

    Example:
        >>> changelog_of("ingest")
        'ingest-changelog'
    """
    return role + _CHANGELOG


def _topic(
    name: str,
    record: type | None,
    purpose: str,
    *,
    key: str = "customer_id",
    format: Literal["json", "msgpack", "bytes"] = "json",
    cleanup: Cleanup = "delete",
    days: int | None = 7,
    replaced_days: int | None = None,
) -> Topic:
    return Topic(
        name=name,
        key=key,
        record=record,
        format=format,
        cleanup=cleanup,
        retention_ms=None if cleanup == "compact" or days is None else days * DAY_MS,
        replaced_ms=None if replaced_days is None else replaced_days * DAY_MS,
        purpose=purpose,
    )


def _days(duration_ms: int) -> str:
    days = duration_ms // DAY_MS
    return "1 day" if days == 1 else f"{days} days"


#: Keys of topics whose records hold something of a customer.
_OF_CUSTOMERS: Final = ("customer_id", "none", "as it came")


def kept_after_erasure() -> dict[str, int]:
    """Topic -> days for which what it holds of an erased customer stays there, receipts aside."""
    kept = {
        name: topic.replaced_ms if topic.retention_ms is None else topic.retention_ms
        for name, topic in TOPICS.items()
        if topic.key in _OF_CUSTOMERS and name != "erasures" and topic.cleanup != "compact,delete"
    }
    return {name: kept_ms // DAY_MS for name, kept_ms in kept.items() if kept_ms is not None}


TOPICS: Final[dict[str, Topic]] = {
    topic.name: topic
    for topic in (
        _topic("clickstream", events.Clickstream, "what customers do", days=SOURCE_DAYS),
        _topic("campaign-sends", events.CampaignSend, "what was sent and what became of it", days=SOURCE_DAYS),
        _topic("redemptions", events.Redemption, "offers used", days=SOURCE_DAYS),
        # Compaction alone would take an erasure, or what consent was meanwhile, from a worker that has not read it yet.
        _topic(
            "profiles",
            events.Profile,
            "attributes and consent; null erases the customer",
            cleanup="compact",
            replaced_days=SOURCE_DAYS,
        ),
        _topic("catalog", catalog.CatalogEntry, "items, campaigns, offers", key="kind:id", cleanup="compact"),
        _topic(
            model_versions.MODELS,
            model_versions.Announcement,
            "which model encode serves, and those before",
            key="role",
            cleanup="compact",
        ),
        _topic("sweeps", sweep.Sweep, "orders to emit snapshots anew", key="sweep_id"),
        _topic("words", words.Word, "what the hashes in snapshots stand for", key="hash", cleanup="compact"),
        _topic(
            "session-snapshots", snapshot.Snapshot, "what the encoder needs, null: erased", format="msgpack", days=1
        ),
        _topic("graph-edges", graph.GraphEdges, "edges for the entity side", key="none", format="msgpack", days=1),
        _topic("outcomes", snapshot.Outcome, "past snapshots with their labels", format="msgpack", days=400),
        _topic("predictions.churn", predictions.ChurnPrediction, "churn risk", days=_UNTIL_OUTCOME_DAYS),
        _topic(
            "predictions.behaviour",
            predictions.BehaviourPrediction,
            "when the next order comes, who stays",
            days=_UNTIL_LATE_OUTCOME_DAYS,
        ),
        _topic(
            "predictions.redemption",
            predictions.RedemptionPrediction,
            "P(redeem) of every send",
            days=_UNTIL_OUTCOME_DAYS,
        ),
        _topic(
            "predictions.next-items",
            predictions.NextItemsPrediction,
            "what the next order may hold, ranked, with reasons",
            days=_UNTIL_OUTCOME_DAYS,
        ),
        _topic(
            "predictions.campaign-match",
            predictions.CampaignMatch,
            "P(open), P(click), P(redeem) of every running campaign",
        ),
        _topic("predictions.send-time", predictions.SendTime, "hours and channels of the week, ranked by response"),
        _topic("predictions.next-best-action", predictions.NextBestAction, "the decision, ranked, with reasons"),
        _topic(
            "recalibrations",
            recalibrations.OutcomeTallies,
            "what became of predictions, counted",
            key="partition",
            cleanup="compact",
        ),
        _topic(
            "embeddings.customer",
            embeddings.CustomerEmbedding,
            "where a customer stands; null: erased",
            cleanup="compact,delete",
            days=400,
        ),
        _topic(
            "embeddings.entity",
            embeddings.EntityEmbedding,
            "where an item, campaign or page stands; null: taken out of the catalog",
            key="kind:id",
            cleanup="compact,delete",
            days=400,
        ),
        _topic("audiences", audiences.AudienceMember, "lists of look-alikes, a record a member"),
        _topic("erasures", predictions.Erasure, "receipts of erased customers", days=400),
        _topic("dead-letter", None, "refused records as they came", key="as it came", format="bytes", days=90),
        _topic("ingest-changelog", None, "customer state", format="msgpack", cleanup="compact"),
        _topic("entities-changelog", None, "entity state", key="kind:id", format="msgpack", cleanup="compact"),
    )
}

PREDICTION_TOPICS: Final = {
    name: topic.record
    for name, topic in TOPICS.items()
    if topic.record is not None and issubclass(topic.record, predictions.Prediction)
}
"""Topics of what is predicted of a customer, and their records."""
