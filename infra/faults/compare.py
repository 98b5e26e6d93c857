"""What a run left behind, and how it differs from what another left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import msgspec

from infra.faults.stream import Expected, Wire
from models.tasks import TASKS
from schemas.events import SOURCES
from schemas.predictions import MatchedCampaign, RankedItem, SendSlot, probability_fields
from schemas.snapshot import Outcome, Snapshot
from schemas.topics import PREDICTION_TOPICS
from streams.core.config import CoreConfig
from streams.inspect import dump
from streams.kafka.reader import TopicReader
from streams.serving.campaign_match import CAMPAIGN_MATCH
from streams.settings.schema import EncodeSettings

TOLERANCE: Final = 1e-3
_SHOWN: Final = 5
_LABELLED: Final = ("horizon", "send", "sample")
_RECORDS: Final = (*PREDICTION_TOPICS.values(), RankedItem, MatchedCampaign, SendSlot)
_PROBABILITIES: Final = sorted({name for record in _RECORDS for name in probability_fields(record)})
_RANKED: Final = ("items", "campaigns", "slots")
#: Topics on which only what has moved is sent; workers of this harness have the default margin.
_WHEN_MOVED: Final = (CAMPAIGN_MATCH, *(task.topic for task in TASKS if task.sent_when_moved))
_MARGINS: Final = dict.fromkeys(_WHEN_MOVED, EncodeSettings().prediction_margin)

_snapshot: Final = msgspec.msgpack.Decoder(Snapshot).decode
_outcome: Final = msgspec.msgpack.Decoder(Outcome).decode


class Check(msgspec.Struct, kw_only=True):
    """One thing that was compared."""

    compared: int
    different: int
    examples: list[str] = []


class Left(msgspec.Struct, kw_only=True):
    """Everything a run left on topics; state lies in ``dump_path``."""

    dump_path: Path
    sources: Expected
    outcomes: dict[str, str]
    snapshots: dict[str, str]
    """``customer kind`` -> digest of the last one."""
    predictions: dict[str, dict[str, dict[str, Any]]]
    dead_letters: set[str]
    repeated: dict[str, int]
    """Topic -> records beyond the first of their id: written again after a crash."""
    contradictions: list[str]
    """Ids under which two records differ."""


def left_by(client: Mapping[str, Any], prefix: str, partitions: int, folder: Path, *, predicted: bool) -> Left:
    """Read everything a run left behind."""
    folder.mkdir(parents=True, exist_ok=True)
    dump_path = folder / f"{prefix.strip('.')}.jsonl"
    with dump.opened_changelogs(client, prefix) as parts, open(dump_path, "wb") as out:
        out.writelines(line + b"\n" for line in dump.lines(parts))
    left = Left(
        dump_path=dump_path,
        sources=Expected(CoreConfig()),
        outcomes={},
        snapshots={},
        predictions={},
        dead_letters=set(),
        repeated={},
        contradictions=[],
    )
    with TopicReader(client) as reader:
        for topic in SOURCES:
            for partition, message in _records(reader, prefix + topic, partitions):
                headers = tuple(message.headers() or ())
                wire = Wire(topic, partition, message.key(), message.value(), headers, message.timestamp()[1])
                left.sources.take(topic, partition, message.offset(), wire)
        for _, message in _records(reader, prefix + "outcomes", partitions):
            _note(left, "outcomes", left.outcomes, _outcome(message.value()).outcome_id, message.value())
        for _, message in _records(reader, prefix + "session-snapshots", partitions):
            if message.value() is None:
                left.snapshots[f"{message.key().decode()} erased"] = ""
                continue
            snapshot = _snapshot(message.value())
            left.snapshots[f"{snapshot.customer_id} {snapshot.kind}"] = _digest(message.value())
        for _, message in _records(reader, prefix + "dead-letter", partitions):
            named = dict(message.headers() or ())
            dl_id = named.get("dl_id", b"?").decode()
            left.repeated["dead-letter"] = left.repeated.get("dead-letter", 0) + (dl_id in left.dead_letters)
            left.dead_letters.add(dl_id)
        for topic in PREDICTION_TOPICS if predicted else ():
            found: dict[str, dict[str, Any]] = {}
            for _, message in _records(reader, prefix + topic, partitions):
                prediction = msgspec.json.decode(message.value())
                # Not by their ids, which say the model too. In the order of their last publication.
                found.pop(prediction["question_id"], None)
                found[prediction["question_id"]] = prediction
            left.predictions[topic] = found
    return left


def _note(left: Left, topic: str, known: dict[str, str], identity: str, value: bytes) -> None:
    digest = _digest(value)
    if identity in known:
        left.repeated[topic] = left.repeated.get(topic, 0) + 1
        if known[identity] != digest:
            left.contradictions.append(f"{topic} {identity}")
    known[identity] = digest


def _records(reader: TopicReader, topic: str, partitions: int) -> Iterator[tuple[int, Any]]:
    ends = reader.ends([(topic, partition) for partition in range(partitions)])
    for (_, partition), end in ends.items():
        for message in reader.range(topic, partition, 0, end):
            yield partition, message


def _digest(value: bytes) -> str:
    return blake2b(value, digest_size=16).hexdigest()


def compare(undisturbed: Left, disturbed: Left) -> dict[str, Check]:
    """Every promise as a check; all of them hold where nothing is ``different``."""
    erased = undisturbed.sources.erased
    checks = {
        "log": same(undisturbed.sources.digests(), disturbed.sources.digests()),
        "state": same_lines(undisturbed.dump_path, disturbed.dump_path),
        "outcomes": same(undisturbed.outcomes, disturbed.outcomes),
        # Of who is erased, the last snapshot is one that the erasure had not reached yet: that is timing.
        "last_snapshots": same(_kept(undisturbed.snapshots, erased), _kept(disturbed.snapshots, erased)),
        "dead_letters": same_set(undisturbed.dead_letters, disturbed.dead_letters),
        "contradictions": Check(
            compared=sum(disturbed.repeated.values()),
            different=len(disturbed.contradictions),
            examples=disturbed.contradictions[:_SHOWN],
        ),
        "refused_as_expected": same_set(disturbed.sources.refused, disturbed.dead_letters),
        "counted_once": counted_once(disturbed),
        "all_taken": all_taken(disturbed),
    }
    for topic in undisturbed.predictions:
        checks[topic] = same_predictions(
            undisturbed.predictions[topic], disturbed.predictions[topic], erased, _MARGINS.get(topic)
        )
    return checks


def _kept(snapshots: dict[str, str], erased: set[str]) -> dict[str, str]:
    return {name: digest for name, digest in snapshots.items() if name.rsplit(" ", 1)[0] not in erased}


def same(expected: Mapping[Any, Any], found: Mapping[Any, Any]) -> Check:
    """Equal values under equal keys."""
    wrong = [
        f"{key}: {'missing' if key not in found else 'too much' if key not in expected else 'differs'}"
        for key in sorted(expected.keys() | found.keys(), key=str)
        if expected.get(key) != found.get(key)
    ]
    return Check(compared=len(expected), different=len(wrong), examples=wrong[:_SHOWN])


def same_set(expected: set[str], found: set[str]) -> Check:
    return same(dict.fromkeys(expected, True), dict.fromkeys(found, True))


def same_lines(expected: Path, found: Path) -> Check:
    """Two dumps, line by line; both are sorted, so what one lacks is named."""
    compared, wrong = 0, []
    with open(expected, "rb") as left, open(found, "rb") as right:
        a, b = next(left, b""), next(right, b"")
        while a or b:
            if a == b:
                compared += 1
                a, b = next(left, b""), next(right, b"")
                continue
            of_a, of_b = _place(a), _place(b)
            if of_a == of_b:
                compared += 1
                wrong.append(f"{' '.join(of_a[1:])}: differs in {', '.join(_paths(a, b)[:6])}")
                a, b = next(left, b""), next(right, b"")
            elif not b or (a and of_a < of_b):
                compared += 1
                wrong.append(f"{' '.join(of_a[1:])}: missing")
                a = next(left, b"")
            else:
                wrong.append(f"{' '.join(of_b[1:])}: too much")
                b = next(right, b"")
    return Check(compared=compared, different=len(wrong), examples=wrong[:_SHOWN])


def _place(line: bytes) -> tuple[str, str, str]:
    if not line:
        return "", "", ""
    record = msgspec.json.decode(line)
    if "id" not in record:
        return "0", record["role"], f"partition {record['partition']}"
    return "1", record["role"], record["id"]


def _paths(a: bytes, b: bytes) -> list[str]:
    """Where two lines differ."""
    found: list[str] = []

    def walk(x: Any, y: Any, path: str) -> None:
        if x == y:
            return
        if isinstance(x, dict) and isinstance(y, dict):
            for key in sorted(x.keys() | y.keys()):
                walk(x.get(key), y.get(key), f"{path}.{key}")
        else:
            found.append(f"{path[1:]} ({str(x)[:60]} / {str(y)[:60]})")

    one, other = msgspec.json.decode(a), msgspec.json.decode(b)
    one.pop("digest", None)
    other.pop("digest", None)
    walk(one, other, "")
    return found or ["the order of its fields"]


def counted_once(left: Left) -> Check:
    """Customers' event counts in the state against the ids in the log, worked out without the core."""
    expected = left.sources
    wrong: list[str] = []
    seen = late = 0
    with open(left.dump_path, "rb") as lines:
        for line in lines:
            record = msgspec.json.decode(line)
            if record["role"] != "ingest" or "id" not in record or record["id"] in expected.erased:
                continue
            seen += 1
            counted = record["state"]["settled"]["events"] + len(record["state"]["tail"])
            late += sum(record["state"]["settled"]["late"].values())
            if counted != expected.events.get(record["id"], 0):
                wrong.append(
                    f"{record['id']}: {counted} events counted, {expected.events.get(record['id'], 0)} in the log"
                )
    known = len(expected.events.keys() - expected.erased)
    if seen < known:
        wrong.append(f"{known - seen} customers are missing")
    if late > expected.late:
        wrong.append(f"{late} late events counted, {expected.late} in the log")
    return Check(compared=seen, different=len(wrong), examples=wrong[:_SHOWN])


def all_taken(left: Left) -> Check:
    """Every partition was read to its end."""
    found: dict[tuple[str, int], int] = {}
    with open(left.dump_path, "rb") as lines:
        for line in lines:
            record = msgspec.json.decode(line)
            if record["role"] == "ingest" and "id" not in record:
                found |= {(topic, record["partition"]): offset for topic, offset in record["next_offsets"].items()}
            elif "id" in record:
                break
    return same(left.sources.ends, found)


def same_predictions(
    expected: dict[str, dict[str, Any]], found: dict[str, dict[str, Any]], erased: set[str], margin: float | None = None
) -> Check:
    """Labelled ones are the same set; each customer's live one in force is the same; all agree within the tolerance.

    Live ones in between may be missing on either side: the encoder scores the newest snapshot of who waits.

    Args:
        margin: of a topic on which only what has moved is sent. What is in force may be another record then, which is
            within the margin of what the newest would say; so two runs are within twice as much of each other.
    """
    wrong = [f"{key}: in one run only" for key in sorted(_labelled(expected) ^ _labelled(found))]
    kinds = ("event",) if margin is None else ("event", *_LABELLED)
    in_force, others = _in_force(expected, erased, kinds), _in_force(found, erased, kinds)
    for customer in sorted(in_force.keys() | others.keys()):
        one, other = in_force.get(customer), others.get(customer)
        if _id(one) == _id(other):
            continue
        if one is None or other is None or margin is None:
            wrong.append(f"{customer}: another live prediction is in force, {_said(one)} and {_said(other)}")
        elif (worst := _apart(one, other)) > 2 * margin + TOLERANCE:
            wrong.append(f"{customer}: what is in force is {worst:.4f} apart, {_said(one)} and {_said(other)}")
    both = expected.keys() & found.keys()
    wrong += [
        f"{key}: {_numbers(expected[key])} and {_numbers(found[key])}"
        for key in sorted(both)
        if _apart(expected[key], found[key]) > TOLERANCE
    ]
    return Check(compared=len(both), different=len(wrong), examples=wrong[:_SHOWN])


def _apart(one: dict[str, Any], other: dict[str, Any]) -> float:
    """How far the probabilities of two records are apart at most; infinitely where one says what the other does not."""
    said, others = _numbers(one), _numbers(other)
    if said.keys() != others.keys():
        return float("inf")
    return max((abs(said[name] - others[name]) for name in said), default=0.0)


def _numbers(prediction: dict[str, Any]) -> dict[str, float]:
    """What has to agree: of what is ranked by rank, as things that are alike may change places.

    Campaigns go by name: each has several probabilities, and is ranked by one of them.
    """
    found = {name: float(prediction[name]) for name in _PROBABILITIES if name in prediction}
    for ranked in _RANKED:
        for place, listed in enumerate(prediction.get(ranked, [])):
            which = listed.get("campaign_id", place)
            found |= {f"{ranked}.{which}.{name}": number for name, number in _numbers(listed).items()}
    return found


def _labelled(predictions: dict[str, dict[str, Any]]) -> set[str]:
    return {key for key, record in predictions.items() if record.get("snapshot_kind") in _LABELLED}


def _in_force(
    predictions: dict[str, dict[str, Any]], erased: set[str], kinds: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    """Customer -> its prediction of these kinds that holds, as docs/predictions.md says: of equal times the last."""
    found: dict[str, dict[str, Any]] = {}
    for record in predictions.values():
        customer_id = record["customer_id"]
        if record.get("snapshot_kind", "event") not in kinds or customer_id in erased:
            continue
        if customer_id not in found or record["as_of_ms"] >= found[customer_id]["as_of_ms"]:
            found[customer_id] = record
    return found


def _id(prediction: dict[str, Any] | None) -> str | None:
    return None if prediction is None else str(prediction["question_id"])


def _said(prediction: dict[str, Any] | None) -> str:
    if prediction is None:
        return "none"
    return f"as of {prediction['as_of_ms']} by {prediction['model_version']} on {prediction['source']}"
