"""What is remembered of one customer, and what its fold makes known."""

from __future__ import annotations

import msgspec

from schemas.snapshot import Outcome, Snapshot
from streams.core.counters import Counter
from streams.core.graph import Graph
from streams.core.labels import Awaiting, Bought, Pending, Resolved
from streams.core.orders import Orders
from streams.core.timeline import Timeline


class Folded(msgspec.Struct, array_like=True, gc=False):
    """Everything that is remembered of a customer's settled past. Bounded, whatever the history's length."""

    first_ms: int = 0
    last_ms: int = 0
    activity_ms: int = 0
    """Last event that counts as activity; 0 where there was none."""
    active_days: int = 0
    gap_weight: float = 0.0
    gap_sum_days: float = 0.0
    """Decayed count and sum of the days between active days, as of ``activity_ms``."""
    orders: Orders = {}
    """Orders that were counted, see :mod:`streams.core.orders`."""
    events: int = 0
    last_send_ms: int = 0
    last_redemption_ms: int = 0
    sends_total: int = 0
    redemptions_total: int = 0
    graph: Graph = msgspec.field(default_factory=Graph)
    timeline: Timeline = msgspec.field(default_factory=Timeline)
    counters: dict[str, Counter] = {}
    hours: dict[str, dict[int, int]] = {}
    """Channel -> hour of the week in local time (0 is Monday 00:00) -> customer's own actions there."""
    sends: list[tuple[int, str, str]] = []
    """(ms, channel, campaign id) of the last sends."""
    consent: tuple[str, ...] | None = None
    consent_ms: int = 0
    """Time of the profile that ``consent`` comes from."""
    opt_out_ms: int = 0
    """Time of the newest opt-out, whatever it took back."""
    timezone: str | None = None
    attributes: dict[str, str | bool | int | float | None] = {}
    pending: list[Pending] = []
    next_horizon_ms: int = 0
    applied: list[int] = msgspec.field(default_factory=lambda: [-1, -1, -1, -1])
    """Highest offset folded in, per source topic."""
    source: tuple[int, int, int] = (0, -1, 0)
    """(topic source_index, offset, record timestamp ms) of the newest event."""
    recent: list[tuple[int, int]] = []
    """(event time, id) of the last events folded in."""
    late: dict[str, int] = {}
    """Source topic -> events that came too late for their place."""
    unconverted: dict[str, Counter] = {}
    """Currency without a rate -> decayed sums of what was spent in it."""
    profile_ms: int = 0
    """Time of the profile that ``timezone`` and ``attributes`` come from."""

    bought: list[Bought] = []
    """In the open session, where an order is waited for."""

    def copy(self) -> Folded:
        """Independent copy: containers are copied, the immutable values in them are shared."""
        twin: Folded = msgspec.structs.replace(self)
        twin.graph = self.graph.copy()
        twin.timeline = self.timeline.copy()
        twin.orders = self.orders.copy()
        twin.counters = self.counters.copy()
        twin.unconverted = self.unconverted.copy()
        twin.hours = {channel: histogram.copy() for channel, histogram in self.hours.items()}
        twin.sends = self.sends.copy()
        twin.pending = self.pending.copy()
        twin.applied = self.applied.copy()
        twin.bought = self.bought.copy()
        twin.recent = self.recent.copy()
        twin.late = self.late.copy()
        return twin


Effect = Snapshot | Awaiting | Resolved | Outcome | Pending
"""What folding makes known: a snapshot, that it awaits its label, a label (an outcome, once its snapshot is at hand),
or a pending label that found no room."""
