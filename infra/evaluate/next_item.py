"""The next item of a sequence, one left out: a small transformer beside what is popular, on any file of sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np

from infra.bench.report import Say
from infra.evaluate.cache import code_of, file_hash, kept, versions_of
from infra.evaluate.report import EvaluationFindings, EvaluationOptions, Goal, estimate, goal
from infra.evaluate.sasrec import BEST, SasRecSettings, Trained, ndcg_of, train_sasrec
from infra.evaluate.sequences import Ints, LeaveOneOut, read_sequences
from infra.evaluate.statistics import Bootstrap, Doubles, mean
from models.device import training_device
from schemas import codec
from schemas.errors import ConfigError

ABOUT: Final = "the next item of sequences (--sequences FILE), one left out, beside what is popular"
OURS: Final = "SASRec, sampled softmax"
POPULAR: Final = "popularity"
NOTHING_HAD: Final = "without what the user had"


class Published(NamedTuple):
    """A set by its size, and what is to be reached on it."""

    name: str
    users: int
    items: int
    ndcg: float
    recall: float


PUBLISHED: Final = (
    Published("Amazon Beauty", 22_363, 12_101, 0.0540, 0.0930),
    Published("Amazon Sports", 35_598, 18_357, 0.0325, 0.0570),
)


def run(options: EvaluationOptions, say: Say, settings: SasRecSettings | None = None) -> EvaluationFindings:
    """NDCG and recall of the ten best items, over the whole catalog."""
    if options.sequences is None:
        raise ConfigError("evaluate next-item needs --sequences FILE: a line a user, its id and then item ids in order")
    path, settings = options.sequences, settings or SasRecSettings()
    data = read_sequences(path)
    say(f"{len(data):,} users, {data.items:,} items")
    ranks: dict[str, list[Ints]] = {POPULAR: [_popular(data)], OURS: [], f"{OURS}, {NOTHING_HAD}": []}
    trained: list[Trained] = []
    for seed in range(options.seeds):
        every, fresh, how = _ours(path, data, settings, seed, options, say)
        ranks[OURS].append(every)
        ranks[f"{OURS}, {NOTHING_HAD}"].append(fresh)
        trained.append(how)
    # A user's mean over seeds, so that an interval is of users and not of luck.
    scores = {
        (way, measure): np.mean([of(found) for found in of_way], axis=0)
        for way, of_way in ranks.items()
        for measure, of in ((f"NDCG@{BEST}", ndcg_of), (f"recall@{BEST}", _hits))
    }
    drawn = Bootstrap(
        {f"{way}|{measure}": mean(values) for (way, measure), values in scores.items()},
        np.arange(len(data)),
        rounds=options.rounds,
    )
    known = next((one for one in PUBLISHED if (one.users, one.items) == (len(data), data.items)), None)
    group = f"{known.name if known else path.name}: the last item of {len(data):,} users among {data.items:,}"
    results = [
        estimate(group, way, measure, drawn.interval(f"{way}|{measure}"), rows=len(data), role=_role(way))
        for way, measure in scores
    ]
    targets: list[Goal] = []
    if known:
        for measure, wanted in ((f"NDCG@{BEST}", known.ndcg), (f"recall@{BEST}", known.recall)):
            floor = drawn.values[f"{POPULAR}|{measure}"]
            targets.append(goal(f"{known.name}, {measure}", drawn.interval(f"{OURS}|{measure}"), wanted, floor=floor))
    seen = ", ".join(f"{one.best_epoch} of {one.epochs}" for one in trained)
    return EvaluationFindings(
        data=(
            "Users with three items or more. The last item of each is the test's, the one before it stops training, "
            "what is before both is trained on; all items are ranked, ties against the model."
        ),
        results=results,
        targets=targets,
        notes=[
            f"{options.seeds} seeds, whose mean for a user counts; the best epoch of those that were run: {seen}.",
            "Settings are fixed in infra/evaluate/sasrec.py: " + codec.json_encode(settings).decode(),
        ],
    )


def _role(way: str) -> str:
    return "floor" if way == POPULAR else "ours" if way == OURS else ""


def _hits(ranks: Ints) -> Doubles:
    return (ranks < BEST).astype(np.float64)


def _popular(data: LeaveOneOut) -> Ints:
    """Place of each test item by how often items are trained on; of equal ones the first by number."""
    order = np.argsort(-data.counts()[1:], kind="stable")
    place = np.empty(data.items + 1, dtype=np.int64)
    place[order + 1] = np.arange(data.items)
    return place[data.test]


def _ours(
    path: Path, data: LeaveOneOut, settings: SasRecSettings, seed: int, options: EvaluationOptions, say: Say
) -> tuple[Ints, Ints, Trained]:
    """Ranks of the test items by a model, kept once they are known; the model is thrown away."""
    device = training_device(options.device, say)

    def make(fresh: Path) -> None:
        say(f"training with seed {seed} on {device}")
        model, how = train_sasrec(data, settings, seed=seed, device=device, say=lambda at: say(f"seed {seed}, {at}"))
        every, new = (model.ranks(data.before_test(), data.test, had=had) for had in (True, False))
        np.savez(fresh / "ranks.npz", every=every, new=new)
        (fresh / "trained.json").write_bytes(codec.json_encode(how))

    key = {
        "sequences": file_hash(path),
        "settings": settings,
        "seed": seed,
        "device": device.type,
        "code": code_of("infra/evaluate/sasrec.py", "infra/evaluate/sequences.py"),
        "versions": versions_of("torch"),
    }
    folder = kept(options.folder, "next-item", key, make)
    with np.load(folder / "ranks.npz") as stored:
        every, new = stored["every"], stored["new"]
    return every, new, msgspec.json.decode((folder / "trained.json").read_bytes(), type=Trained)
