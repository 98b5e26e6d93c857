"""An example consumer of ``predictions.next-best-action``: whom to send what, now.

    python examples/decisions.py --bootstrap 127.0.0.1:9092

It prints a line of JSON for every decision that is in force, still valid, and to send something. Run it when you are
about to send: a newer decision replaces those before it, and whoever took consent back has one that says none.
Return ``decision_id`` and ``propensity`` in the ``send`` event.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from reading import records

TOPIC = "predictions.next-best-action"
OF_THE_SEND = ("campaign_id", "offer_id", "template_id", "channel")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bootstrap", default="127.0.0.1:9092", metavar="HOST:PORT")
    parser.add_argument("--prefix", default="", help="PULSEGRAPH_KAFKA_PREFIX of the deployment")
    parser.add_argument("--now-ms", type=int, default=int(time.time() * 1000), metavar="MS", help="event time")
    args = parser.parse_args()
    for line in to_send(in_force(records(args.bootstrap, args.prefix + TOPIC)).values(), args.now_ms):
        sys.stdout.write(json.dumps(line) + "\n")


def in_force(decisions: Iterable[tuple[str, bytes | None]]) -> dict[str, dict[str, Any]]:
    """Customer -> the decision with the highest ``as_of_ms``; of equal ones, the last."""
    found: dict[str, dict[str, Any]] = {}
    for customer_id, value in decisions:
        decision = json.loads(value or b"{}")
        if decision and decision["as_of_ms"] >= found.get(customer_id, decision)["as_of_ms"]:
            found[customer_id] = decision
    return found


def to_send(decisions: Iterable[dict[str, Any]], now_ms: int) -> Iterator[dict[str, Any]]:
    """What a campaign system needs of each decision that says send. Fields that equal their default are left out."""
    for decision in decisions:
        chosen = decision["chosen"]
        if chosen["action"] == "send" and now_ms <= decision["valid_until_ms"]:
            yield {
                "customer_id": decision["customer_id"],
                **{name: chosen[name] for name in OF_THE_SEND if name in chosen},
                "decision_id": decision["prediction_id"],
                "propensity": decision["propensity"],
                "why": [reason["text"] for reason in decision.get("reason_codes", [])],
            }


if __name__ == "__main__":
    main()
