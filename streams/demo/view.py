"""What the demo shows while it runs: a live screen on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from schemas.predictions import NextBestAction
from streams.demo.collector import ACTIONS, CHURN, Collector, Riser, percentile
from streams.demo.scrape import WorkerNumbers

_ROWS: Final = 6
_PLAIN_EVERY_S: Final = 5.0


class DemoProgress(Protocol):
    """What the view needs to know of the run."""

    @property
    def produced(self) -> int: ...

    @property
    def total(self) -> int: ...

    @property
    def event_time_ms(self) -> int: ...

    @property
    def numbers(self) -> WorkerNumbers: ...

    @property
    def collector(self) -> Collector: ...

    @property
    def events_per_s(self) -> float: ...


class View(Protocol):
    """Somewhere to show progress."""

    def show(self, run: DemoProgress) -> None: ...


@contextmanager
def open_view(quiet: bool) -> Iterator[View]:
    """A live screen where stderr is a terminal, else a line every few seconds; nothing but that with ``quiet``."""
    console = Console(stderr=True)
    if console.is_terminal and not quiet:
        with Live(console=console, refresh_per_second=4, transient=True) as live:
            yield _Screen(live)
    else:
        yield _LineView()


class _LineView:
    def __init__(self) -> None:
        self._shown_s = time.monotonic()

    def show(self, run: DemoProgress) -> None:
        now_s = time.monotonic()
        if now_s - self._shown_s < _PLAIN_EVERY_S:
            return
        self._shown_s = now_s
        print(_headline(run), file=sys.stderr)
        risen = sorted_risers(run.collector)[:1]
        for riser in risen:
            print(
                f"  churn risk of {riser.customer_id}: {riser.before:.0%} -> {riser.now:.0%}: {riser.why}",
                file=sys.stderr,
            )
        if run.collector.actions:
            print(f"  {_action_line(run.collector.actions[-1])}", file=sys.stderr)


class _Screen:
    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, run: DemoProgress) -> None:
        self._live.update(Group(Text(_headline(run)), _risers(run.collector), _actions(run.collector)))


def sorted_risers(collector: Collector) -> list[Riser]:
    """Of the newest changes, the largest first, one per customer."""
    newest = {riser.customer_id: riser for riser in list(collector.risers)}
    return sorted(newest.values(), key=lambda riser: riser.before - riser.now)


def _headline(run: DemoProgress) -> str:
    fresh = run.collector.recent_freshness_ms
    p50, p95 = percentile(list(fresh), 0.5), percentile(list(fresh), 0.95)
    day = datetime.fromtimestamp(run.event_time_ms / 1000, UTC).strftime("%d %b %Y") if run.event_time_ms else "-"
    ages = f"p50 {p50:,.0f} ms, p95 {p95:,.0f} ms" if p50 is not None and p95 is not None else "-"
    predicted = run.collector.predictions
    return (
        f"{day}  {run.numbers.events:,}/{run.total:,} events  {run.events_per_s:,.0f}/s  event to prediction: {ages}  "
        f"{predicted[CHURN]:,} churn, {predicted[ACTIONS]:,} actions"
    )


def _risers(collector: Collector) -> Panel:
    table = Table(box=None, expand=True, pad_edge=False)
    for column in ("customer", "risk", "why"):
        table.add_column(column, no_wrap=column != "why")
    for riser in sorted_risers(collector)[:_ROWS]:
        table.add_row(riser.customer_id, f"{riser.before:.0%} -> {riser.now:.0%}", riser.why)
    return Panel(table, title="churn risk rose most", title_align="left")


def _actions(collector: Collector) -> Panel:
    table = Table(box=None, expand=True, pad_edge=False)
    for column in ("customer", "action", "why"):
        table.add_column(column, no_wrap=column != "why")
    for action in list(collector.actions)[-_ROWS:]:
        table.add_row(action.customer_id, _what(action), _why(action))
    return Panel(table, title="latest next best actions", title_align="left")


def _action_line(action: NextBestAction) -> str:
    return f"next best action for {action.customer_id}: {_what(action)}: {_why(action)}"


def _what(action: NextBestAction) -> str:
    chosen = action.chosen
    return f"send campaign {chosen.campaign_id} by {chosen.channel}" if chosen.action == "send" else "do nothing"


def _why(action: NextBestAction) -> str:
    return "; ".join(reason.text for reason in action.reason_codes[:2])
