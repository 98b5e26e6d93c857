"""A schedule is a pure function of its seed, and does what was asked."""

from __future__ import annotations

import pytest

from infra.faults.schedule import KINDS, MAX_WORKERS, build
from schemas.errors import ConfigError


def _build(seed: int, kills: int, **changes):
    options = {"workers": 2, "nodes": 3, "proxied": True, "session_timeout_s": 10.0, "swaps": True} | changes
    return build(seed, kills, **options)


@pytest.mark.parametrize("kills", [1, 4, 30, 100])
def test_a_seed_gives_the_same_schedule_again(kills):
    assert _build(3, kills) == _build(3, kills)
    assert _build(3, kills) != _build(4, kills)


@pytest.mark.parametrize("seed", range(20))
def test_there_are_as_many_kills_as_asked_for_and_never_too_many_workers(seed):
    actions = _build(seed, 100)
    assert sum(action.kills for action in actions) >= 100
    assert {action.kind for action in actions} == set(KINDS)
    running = 2
    for action in actions:
        running += {"add": 1, "remove": -1}.get(action.kind, 0)
        assert 2 <= running <= MAX_WORKERS
        if action.kind == "kill-all":
            assert action.kills == running


def test_pauses_outlast_the_session_timeout_and_stalls_do_not():
    actions = _build(0, 100, session_timeout_s=6.0)
    assert all(action.seconds > 6.0 for action in actions if action.kind == "pause")
    assert all(action.seconds < 6.0 for action in actions if action.kind == "stall")


def test_what_the_cluster_cannot_do_is_not_asked_of_it():
    kinds = {action.kind for action in _build(0, 100, nodes=0, proxied=False)}
    assert not kinds & {"broker", "brokers", "cut", "stall"}
    assert "swap" not in {action.kind for action in _build(0, 100, swaps=False)}
    assert "brokers" not in {action.kind for action in _build(0, 100, nodes=1)}


def test_a_schedule_without_kills_is_refused():
    with pytest.raises(ConfigError):
        _build(0, 0)
