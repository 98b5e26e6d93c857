"""An example of embedding in Python: a model's folder, and snapshots from a deployment.

    python examples/embed.py --bootstrap 127.0.0.1:9092 --model .cache/model

It reads the newest snapshot of everybody, and the catalog, which says what items and campaigns are. Each line of its
output is a customer with a vector, as JSON. It needs pulsegraph itself; the other consumers do not.
"""

from __future__ import annotations

import argparse
import json
import sys

from reading import records

from models.inference import Predictor
from schemas.catalog import CatalogEntry
from schemas.codec import decoder
from schemas.snapshot import Snapshot
from streams.serving.catalog import read_entry

BATCH = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bootstrap", default="127.0.0.1:9092", metavar="HOST:PORT")
    parser.add_argument("--prefix", default="", help="PULSEGRAPH_KAFKA_PREFIX of the deployment")
    parser.add_argument("--model", required=True, metavar="DIR", help="folder of a model, or a model directory")
    args = parser.parse_args()
    predictor = Predictor.load(args.model)
    predictor.know(catalog(args.bootstrap, args.prefix + "catalog"))
    snapshots = newest(args.bootstrap, args.prefix + "session-snapshots")
    for begin in range(0, len(snapshots), BATCH):
        batch = snapshots[begin : begin + BATCH]
        for snapshot, vector in zip(batch, predictor.encode(batch).embeddings.tolist(), strict=True):
            said = {"customer_id": snapshot.customer_id, "as_of_ms": snapshot.as_of_ms, "embedding": vector}
            sys.stdout.write(json.dumps(said | {"model_version": predictor.version}) + "\n")


def newest(bootstrap: str, topic: str) -> list[Snapshot]:
    """Of everybody but those who were erased."""
    decode, found = decoder(Snapshot), dict[str, Snapshot]()
    for customer_id, value in records(bootstrap, topic):
        if value is None:
            found.pop(customer_id, None)
        else:
            found[customer_id] = decode(value)
    return list(found.values())


def catalog(bootstrap: str, topic: str) -> dict[str, CatalogEntry]:
    """``kind:id`` -> the newest entry."""
    found: dict[str, CatalogEntry] = {}
    for key, value in records(bootstrap, topic):
        name, entry = read_entry(key.encode(), value)
        found.pop(name, None)
        if entry is not None:
            found[name] = entry
    return found


if __name__ == "__main__":
    main()
