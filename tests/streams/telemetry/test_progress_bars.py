"""Progress: a bar on a terminal, few lines in a log."""

from __future__ import annotations

import io

from streams.telemetry.progress_bars import training_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_come_with_change_or_time() -> None:
    now_s = 0.0
    log = io.StringIO()
    with training_bar("training", log, clock=lambda: now_s) as progress:
        for step in range(1_001):
            now_s += 0.001
            progress(step / 1_000, f"step {step}")
    lines = log.getvalue().splitlines()
    assert lines[0] == "training   0 %  step 0"
    assert lines[-1] == "training 100 %  step 1000"
    assert len(lines) == 21


def test_a_long_step_still_says_something() -> None:
    now_s = 0.0
    log = io.StringIO()
    with training_bar("training", log, clock=lambda: now_s) as progress:
        for _ in range(120):
            now_s += 0.1
            progress(0.5, "still at it")
    assert 2 <= len(log.getvalue().splitlines()) <= 4


def test_a_bar_on_a_terminal() -> None:
    screen = Terminal()
    with training_bar("training", screen) as progress:
        progress(0.5, "halfway [there]")
        progress(1.0, "done")
    assert "100%" in screen.getvalue()
