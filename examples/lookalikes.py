"""An example consumer of ``embeddings.customer``: who is most like a customer.

    python examples/lookalikes.py --bootstrap 127.0.0.1:9092 --customer 1228

It reads the topic once from its beginning to its present end, keeps the newest vector of everybody, forgets who was
erased, and compares vectors of one model only.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np
from reading import records

TOPIC = "embeddings.customer"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bootstrap", default="127.0.0.1:9092", metavar="HOST:PORT")
    parser.add_argument("--prefix", default="", help="PULSEGRAPH_KAFKA_PREFIX of the deployment")
    parser.add_argument("--customer", required=True, metavar="ID")
    parser.add_argument("--top", type=int, default=10, metavar="N")
    args = parser.parse_args()
    for customer_id, cosine in lookalikes(newest(args.bootstrap, args.prefix + TOPIC), args.customer, args.top):
        sys.stdout.write(f"{cosine:.3f}  {customer_id}\n")


def newest(bootstrap: str, topic: str) -> dict[str, dict[str, Any]]:
    """Key -> the newest record."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in records(bootstrap, topic):
        if value is None:
            found.pop(name, None)  # erased, or taken out of the catalog
        else:
            found[name] = json.loads(value)
    return found


def lookalikes(known: dict[str, dict[str, Any]], customer_id: str, top: int) -> list[tuple[str, float]]:
    """Those nearest to a customer by cosine, nearest first, among vectors of the same model."""
    if customer_id not in known:
        raise SystemExit(f"{TOPIC} has no embedding of customer {customer_id}")
    model = known[customer_id]["model_version"]
    names = [name for name, record in known.items() if record["model_version"] == model]
    return nearest(known, names, customer_id, top)


def nearest(known: dict[str, dict[str, Any]], names: list[str], name: str, top: int) -> list[tuple[str, float]]:
    """Of ``names``, which hold ``name``, those nearest to it, with their cosine."""
    vectors = np.array([known[other]["embedding"] for other in names])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = vectors @ vectors[names.index(name)]
    order = np.argsort(-cosine, kind="stable")
    return [(names[at], float(cosine[at])) for at in order if names[at] != name][:top]


if __name__ == "__main__":
    main()
