"""An example consumer of ``embeddings.entity``: what is most like an item, a campaign or a category.

    python examples/similar_items.py --bootstrap 127.0.0.1:9092 --entity item:1029743

It reads the topic once from its beginning to its present end, forgets what was taken out of the catalog, and compares
vectors of one model and of one kind only. Without sales an item is known by its title; so new ones are found, too.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from lookalikes import nearest, newest

TOPIC = "embeddings.entity"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bootstrap", default="127.0.0.1:9092", metavar="HOST:PORT")
    parser.add_argument("--prefix", default="", help="PULSEGRAPH_KAFKA_PREFIX of the deployment")
    parser.add_argument("--entity", required=True, metavar="KIND:ID")
    parser.add_argument("--top", type=int, default=10, metavar="N")
    args = parser.parse_args()
    for name, title, cosine in similar(newest(args.bootstrap, args.prefix + TOPIC), args.entity, args.top):
        sys.stdout.write(f"{cosine:.3f}  {name}  {title}\n")


def similar(known: dict[str, dict[str, Any]], entity: str, top: int) -> list[tuple[str, str, float]]:
    """Name, title and cosine of the nearest of the same kind, nearest first, among vectors of the same model."""
    if entity not in known:
        raise SystemExit(f"{TOPIC} has no embedding of {entity}")
    asked = known[entity]
    names = [
        name
        for name, record in known.items()
        if (record["model_version"], record["kind"]) == (asked["model_version"], asked["kind"])
    ]
    return [(name, known[name]["title"] or "", cosine) for name, cosine in nearest(known, names, entity, top)]


if __name__ == "__main__":
    main()
