"""What is done to a cluster, in which order: a pure function of a seed."""

from __future__ import annotations

import random
from typing import Final, Literal

import msgspec

from schemas.errors import ConfigError

Kind = Literal[
    "kill",
    "kill-empty",
    "kill-all",
    "kill-twice",
    "pause",
    "add",
    "remove",
    "broker",
    "brokers",
    "cut",
    "stall",
    "swap",
]

#: Kind -> what it does, for tables and docs.
KINDS: Final[dict[Kind, str]] = {
    "kill": "SIGKILL one worker, replace it on its folder",
    "kill-empty": "SIGKILL one worker, replace it on an empty folder",
    "kill-all": "SIGKILL all workers, replace them",
    "kill-twice": "SIGKILL one worker, and its replacement while it joins",
    "pause": "SIGSTOP one worker past the session timeout, SIGCONT",
    "add": "one worker more",
    "remove": "SIGTERM one worker",
    "broker": "restart one broker node",
    "brokers": "SIGKILL all broker nodes, start them",
    "cut": "reset every connection between workers and brokers",
    "stall": "carry no bytes between workers and brokers for a while",
    "swap": "publish another model",
}
MAX_WORKERS: Final = 4
_KILLS: Final[dict[Kind, float]] = {"kill": 0.3, "kill-empty": 0.15, "kill-all": 0.35, "kill-twice": 0.2}
_KILLS_PER_OTHER: Final = 24
"""One pause, one broker restart and so on comes with so many kills, and at least one of each."""


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is done, once the one before has been got over and ``rest_s`` has passed."""

    kind: Kind
    rest_s: float
    worker: int = 0
    """Which of those running, modulo their number."""
    node: int = 0
    seconds: float = 0.0
    """How long it lasts; for ``kill-twice``: after which the replacement dies."""
    clean: bool = False
    """``broker``: SIGTERM, and not SIGKILL."""
    kills: int = 0
    """SIGKILLs to workers."""


def build(
    seed: int,
    kills: int,
    *,
    workers: int,
    nodes: int,
    proxied: bool,
    session_timeout_s: float,
    rest_s: float = 2.0,
    swaps: bool = False,
) -> list[Action]:
    """Actions with at least ``kills`` SIGKILLs of workers among all other kinds of faults.

    Args:
        workers: how many run at the beginning.
        nodes: brokers that can be restarted; 0 for none.
        proxied: connections can be cut and stalled.
        session_timeout_s: of the workers' groups; pauses last longer.
        swaps: models are published: twice at least, so that one is taken back.
        rest_s: mean of the undisturbed time between two actions.
    """
    if kills < 1 or not 1 <= workers <= MAX_WORKERS:
        raise ConfigError(f"a schedule needs a kill or more and 1 to {MAX_WORKERS} workers")
    rng = random.Random(f"pulsegraph-faults-{seed}")
    kinds: list[Kind] = []
    done = 0
    while done < kills:
        kind = rng.choices(list(_KILLS), list(_KILLS.values()))[0]
        if kind == "kill-twice" and kills - done < 2:
            kind = "kill"
        if kind == "kill-all" and kills - done < workers:
            kind = "kill-empty"
        kinds.append(kind)
        done += {"kill-all": workers, "kill-twice": 2}.get(kind, 1)
    often = max(1, round(kills / _KILLS_PER_OTHER))
    others: list[Kind] = ["pause" for _ in range(often)]
    if nodes:
        others.extend("broker" for _ in range(often))
    if nodes > 1 and kills >= 10:
        others.extend("brokers" for _ in range(max(1, often // 2)))
    if proxied:
        for _ in range(often):
            others += ["cut", "stall"]
    if swaps:
        others += ["swap"] * (2 * often)
    kinds.extend(others)
    rng.shuffle(kinds)
    if kills >= 10:
        # Each comes with its opposite, so that kills happen to two workers, to three and to four.
        for _ in range(often):
            joins = rng.randrange(len(kinds))
            leaves = rng.randrange(joins + 1, len(kinds) + 1)
            kinds.insert(leaves, "remove")
            kinds.insert(joins, "add")
    return list(_actions(rng, kinds, workers, nodes, session_timeout_s, rest_s))


def _actions(
    rng: random.Random, kinds: list[Kind], workers: int, nodes: int, session_timeout_s: float, rest_s: float
) -> list[Action]:
    actions: list[Action] = []
    running = workers
    for kind in kinds:
        if kind == "add":
            if running >= MAX_WORKERS:
                continue
            running += 1
        elif kind == "remove":
            if running <= workers:
                continue
            running -= 1
        seconds = {
            "pause": session_timeout_s + rng.uniform(2.0, 6.0),
            "stall": rng.uniform(1.0, session_timeout_s * 0.8),
            "kill-twice": rng.uniform(1.5, 8.0),
        }.get(kind, 0.0)
        killed = {"kill": 1, "kill-empty": 1, "kill-twice": 2, "kill-all": running}.get(kind, 0)
        actions.append(
            Action(
                kind=kind,
                rest_s=round(rng.uniform(0.2, 2 * rest_s), 2),
                worker=rng.randrange(MAX_WORKERS),
                node=rng.randrange(max(1, nodes)),
                seconds=round(seconds, 2),
                clean=rng.random() < 0.5,
                kills=killed,
            )
        )
    return actions
