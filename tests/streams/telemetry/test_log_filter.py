"""A library that repeats itself is heard once in a while; nobody else is held back."""

from __future__ import annotations

import logging

from streams.telemetry.log_filter import EVERY_S, OnceInAWhile


def test_repetitions_are_counted_instead_of_told():
    now_s, told = 0.0, []
    quiet = OnceInAWhile("aiokafka", lambda: now_s)

    def say(name: str, text: str, *args: object) -> None:
        record = logging.LogRecord(name, logging.ERROR, "", 0, text, args, None)
        if quiet.filter(record):
            told.append(record.getMessage())

    for node in range(100):
        say("aiokafka.conn", "no answer from node %s", node)
    say("aiokafka.conn", "another thing")
    say("aiokafka.cluster", "no answer from node %s", 1)
    for _ in range(2):
        say("streams.worker", "ours")
    now_s += EVERY_S
    say("aiokafka.conn", "no answer from node %s", 7)
    say("aiokafka.conn", "no answer from node %s", 8)
    assert told == [
        "no answer from node 0",
        "another thing",
        "no answer from node 1",
        "ours",
        "ours",
        "no answer from node 7 (and 99 more like it)",
    ]
