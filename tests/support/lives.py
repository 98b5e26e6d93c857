"""One customer's life through the fold alone, without a partition around it."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from schemas.events import CAMPAIGN_SENDS, CLICKSTREAM, REDEMPTIONS, type_by_source
from schemas.snapshot import Outcome, Snapshot
from schemas.words import Words
from streams.core.config import DAY_MS, CoreConfig
from streams.core.context import Context
from streams.core.event import Event
from streams.core.fold import fire_due, fold
from streams.core.labels import CARRIERS, Awaiting, Resolved
from streams.core.state import Effect, Folded

CONFIG: Final = CoreConfig(
    horizon_every_ms=DAY_MS,
    churn_horizon_ms=3 * DAY_MS,
    churn_active_ms=3 * DAY_MS,
    redemption_window_ms=2 * DAY_MS,
    sample_share=0.0,
)
TYPES: Final = tuple(type_by_source.values())


class Life:
    """One customer's events in order of event time; collects what they make known."""

    def __init__(self, config: CoreConfig = CONFIG) -> None:
        self.context = Context(config, Words(), 0, "c1")
        self.state = Folded()
        self.effects: list[Effect] = []
        self._offset = 0

    def event(self, source_index: int, ts_ms: int, **said: Any) -> None:
        body = msgspec.convert({"event_ts_ms": ts_ms} | said, TYPES[source_index])
        event = Event(ts_ms, source_index, f"e{self._offset}", self._offset, self._offset, ts_ms, body)
        self._offset += 1
        fold(self.state, event, self.context, self.effects)

    def purchase(self, ts_ms: int, item_id: str = "i", **said: Any) -> None:
        self.event(CLICKSTREAM, ts_ms, event="purchase", item_id=item_id, **said)

    def view(self, ts_ms: int) -> None:
        self.event(CLICKSTREAM, ts_ms, event="item_view", item_id="i")

    def send(self, ts_ms: int, campaign_id: str = "x", **said: Any) -> None:
        self.event(CAMPAIGN_SENDS, ts_ms, event="send", campaign_id=campaign_id, **said)

    def respond(self, name: str, ts_ms: int, campaign_id: str = "x", **said: Any) -> None:
        self.event(CAMPAIGN_SENDS, ts_ms, event=name, campaign_id=campaign_id, **said)

    def redeem(self, ts_ms: int, offer_id: str = "o", **said: Any) -> None:
        self.event(REDEMPTIONS, ts_ms, offer_id=offer_id, **said)

    def until(self, now_ms: int) -> None:
        fire_due(self.state, now_ms, self.context, self.effects)

    def outcomes(self, head: str) -> list[Outcome]:
        asked = {effect.pending.question_id: effect.snapshot for effect in self.effects if isinstance(effect, Awaiting)}
        return [
            effect.outcome("c1", asked[effect.pending.question_id] if effect.pending.head in CARRIERS else None)
            for effect in self.effects
            if isinstance(effect, Resolved) and effect.pending.head == head
        ]

    def awaiting_label(self, kind: str) -> list[Snapshot]:
        return [effect for effect in self.effects if isinstance(effect, Snapshot) and effect.kind == kind]

    def redemption_labels(self) -> list[tuple[str, int]]:
        """(send id, label), in the order in which they became known."""
        found = []
        for one in self.outcomes("redemption"):
            assert one.seen.candidate is not None
            found.append((one.seen.candidate.template_id or "", one.label))
        return found
