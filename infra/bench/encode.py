"""Snapshots a second to embeddings, against transformers used plainly and against the processor's limit.

On a CPU one thread each, for the sizes ``demo`` and ``cpu``; with ``--device cuda`` see
:mod:`infra.bench.encode_device`. What is encoded: :mod:`infra.bench.encode_data`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from infra.bench import encode_device
from infra.bench.encode_data import TIMED, Recorded, churn_head, record, sequences
from infra.bench.report import Findings, Measured, Options, Say, Target, ratio, take_turns
from models.encoder import SIZES, flops_of, pool
from models.inference import Predictor
from models.model import Model
from models.native import NativeEncoder
from models.native_library import Unavailable
from models.sequence import concatenated
from models.wide import Floats
from schemas.errors import ConfigError
from schemas.snapshot import Snapshot

ABOUT: Final = "snapshots a second to embeddings, against transformers used plainly and the matmul peak"

BATCH: Final = 64
"""Snapshots in one run of the model: the encode role's default, and what ``transformers`` is given."""
_SAMPLE: Final = 16
"""Batches that every contender encodes, evenly spread over the record; the one as served is given all."""
_PEAK_SIZES: Final = (1024, 2048)
_PEAK_REPEATS: Final = 5

LONGEST, MAXIMUM = "transformers, padded to the longest", "transformers, padded to the model's length"
SORTED, SORTED_HALF = "torch, float32, sorted", "torch, bfloat16, sorted"
EXACT, ROUNDED, SERVED = "native, float32", "native, bfloat16", "as served"
BUILDING, INPUT, BODY = "sequences from snapshots", "input layer", "native, the body alone"
PEAK, PEAK_HALF = "matmul, float32", "matmul, bfloat16"

Way = Callable[[Sequence[Snapshot]], Floats]
"""Snapshots of B customers → embeddings, (B, H)."""


class Plain:
    """What a reader of transformers' pages would write: vectors to ``AutoModel``, batches as they come, float32.

    The vectors of positions are made by our input layer, as no other can: only the body differs.
    """

    def __init__(self, folder: Path, model: Model, *, longest: bool) -> None:
        from transformers import AutoModel

        self._body: Any = AutoModel.from_pretrained(folder).eval()
        self._model = model
        self._longest = longest

    @torch.inference_mode()
    def __call__(self, snapshots: Sequence[Snapshot]) -> Floats:
        vectors, mask = self._model.encoder.input(sequences(self._model, snapshots))
        if not self._longest:
            more = self._model.encoder.size.positions - mask.shape[1]
            vectors, mask = torch.nn.functional.pad(vectors, (0, 0, 0, more)), torch.nn.functional.pad(mask, (0, more))
        states: Tensor = self._body(inputs_embeds=vectors, attention_mask=mask).last_hidden_state
        embeddings: Floats = pool(states, mask).numpy()
        return embeddings


class Contest:
    """The ways to embed with a model of one size."""

    def __init__(self, size: str, recorded: Recorded, sample: list[list[Snapshot]]) -> None:
        self._size = size
        self._sample = sample
        self._record = [recorded.snapshots[at : at + BATCH] for at in range(0, len(recorded.snapshots), BATCH)]
        self._model = recorded.model(size)
        self._served = recorded.predictor(size)
        folder = recorded.folders[size]
        self._ways: dict[str, Way] = {
            LONGEST: Plain(folder, self._model, longest=True),
            MAXIMUM: Plain(folder, self._model, longest=False),
            SORTED: _way(recorded.predictor(size, half=False, compiled=False)),
            SORTED_HALF: _way(recorded.predictor(size, half=True, compiled=False)),
            EXACT: _way(recorded.predictor(size, half=False)),
            ROUNDED: _way(recorded.predictor(size, half=True)),
        }
        self._built = [sequences(self._model, batch) for batch in sample]
        with torch.inference_mode():
            self._vectors = [self._model.encoder.input.flat(batch).numpy() for batch in self._built]
        self._body = _native(self._model)
        lengths = concatenated(self._built).lengths
        self._flops = sum(flops_of(int(length), SIZES[size]) for length in lengths) / len(lengths)
        self._about = (
            f"{self._flops / 1e6:.1f} MFLOP and {lengths.mean():.1f} positions a snapshot; "
            f"{np.mean(lengths == SIZES[size].sequence.positions):.0%} are full"
        )

    def name(self, way: str) -> str:
        return f"{self._size}: {way}"

    def contenders(self) -> dict[str, Callable[[], float]]:
        """By name, a run that returns snapshots a second."""
        runs: dict[str, Callable[[], float]] = {
            name: lambda way=way: _rate(way, self._sample)  # type: ignore[misc]
            for name, way in self._ways.items()
        }
        runs[SERVED] = lambda: _rate(_way(self._served), self._record)
        runs[BUILDING] = lambda: _rate(lambda batch: sequences(self._model, batch).numbers, self._sample)
        runs[INPUT] = self._input_rate
        runs[BODY] = self._body_rate
        return {self.name(name): run for name, run in runs.items()}

    def results(self, values: dict[str, list[float]]) -> list[Measured]:
        """Of the runs."""
        churn = {
            name: np.concatenate([self._churn(way, batch) for batch in self._sample])
            for name, way in self._ways.items()
        }
        notes = {
            name: f"churn at most {np.abs(found - churn[LONGEST]).max():.1e} from the baseline's"
            for name, found in churn.items()
        }
        notes |= {LONGEST: "the baseline", SERVED: f"{self._served.embed.name}; the whole record"}
        rates = [
            Measured(name=self.name(name), unit="snapshots/s", values=values[self.name(name)], note=note)
            for name, note in notes.items()
        ]
        parts = {
            BUILDING: "snapshots to arrays",
            INPUT: "arrays to vectors of positions, in torch",
            BODY: f"vectors to embeddings, {self._body.precision}",
        }
        return [
            *rates,
            *(
                Measured(
                    name=self.name(name),
                    unit="µs/snapshot",
                    values=[1e6 / rate for rate in values[self.name(name)]],
                    note=note,
                )
                for name, note in parts.items()
            ),
            Measured(
                name=self.name(f"{BODY}: products of real positions"),
                unit="GFLOP/s",
                values=[value / 1e9 for value in self.achieved(values)],
                note=self._about,
            ),
        ]

    def achieved(self, values: dict[str, list[float]]) -> list[float]:
        """FLOP/s of the body in C."""
        return [rate * self._flops for rate in values[self.name(BODY)]]

    @torch.inference_mode()
    def _churn(self, way: Way, batch: list[Snapshot]) -> Floats:
        numbers = torch.from_numpy(sequences(self._model, batch).numbers)
        logits, _ = churn_head(self._model)(torch.from_numpy(way(batch)), numbers)
        churn: Floats = torch.sigmoid(logits).numpy()
        return churn

    def _body_rate(self) -> float:
        begin_s = time.perf_counter()
        for batch, vectors in zip(self._built, self._vectors, strict=True):
            self._body(vectors, batch.lengths)
        return sum(map(len, self._built)) / (time.perf_counter() - begin_s)

    @torch.inference_mode()
    def _input_rate(self) -> float:
        begin_s = time.perf_counter()
        for batch in self._built:
            self._model.encoder.input.flat(batch)
        return sum(map(len, self._built)) / (time.perf_counter() - begin_s)


def run(options: Options, say: Say) -> Findings:
    """One after the other.

    Raises:
        ConfigError: a device that is not there.
    """
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("there is no GPU that torch can use: leave --device out")
    folder = options.folder / "encode"
    folder.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        recorded = record(options, folder, say)
        kinds = Counter(snapshot.kind for snapshot in recorded.snapshots)
        say(f"{len(recorded.snapshots):,} snapshots: " + ", ".join(f"{n:,} {kind}" for kind, n in kinds.items()))
        if options.device != "cpu":
            return encode_device.run(options.device, recorded, options, say)
        return _on_cpu(recorded, options, say)
    finally:
        torch.set_num_threads(threads)


def _on_cpu(recorded: Recorded, options: Options, say: Say) -> Findings:
    batches = [recorded.snapshots[at : at + BATCH] for at in range(0, len(recorded.snapshots), BATCH)]
    wanted = min(options.scaled(_SAMPLE, 2), len(batches))
    sample = [batches[int(at)] for at in (np.arange(wanted) + 0.5) * (len(batches) / wanted)]
    contests = [Contest(size, recorded, sample) for size in TIMED]
    contenders = {name: run for contest in contests for name, run in contest.contenders().items()}
    contenders |= {PEAK: lambda: _peak(torch.float32), PEAK_HALF: lambda: _peak(torch.bfloat16)}
    values = take_turns(contenders, options.rounds, say, unit="/s")
    results = [result for contest in contests for result in contest.results(values)]
    results += [
        Measured(name=name, unit="GFLOP/s", values=[v / 1e9 for v in values[name]], note="the best of two sizes")
        for name in (PEAK, PEAK_HALF)
    ]
    return Findings(
        results=results,
        targets=[
            Target(
                name=contest.name("as served / transformers"),
                value=ratio(values[contest.name(SERVED)], values[contest.name(LONGEST)]),
                target=2.0,
            )
            for contest in contests
        ]
        + [
            Target(
                name=contest.name("share of the bfloat16 matmul peak"),
                value=ratio(contest.achieved(values), values[PEAK_HALF]),
                target=0.6,
            )
            for contest in contests
        ],
        left_out=["CUDA (`--device cuda`), and more than one thread."],
    )


def _native(model: Model) -> NativeEncoder:
    try:
        return NativeEncoder(model.encoder, "bfloat16")
    except Unavailable:
        return NativeEncoder(model.encoder, "float32")


def _way(predictor: Predictor) -> Way:
    return lambda batch: predictor.encode(batch).embeddings


def _rate(way: Way, batches: Sequence[Sequence[Snapshot]]) -> float:
    begin_s = time.perf_counter()
    for batch in batches:
        way(batch)
    return sum(map(len, batches)) / (time.perf_counter() - begin_s)


def _peak(dtype: torch.dtype) -> float:
    """FLOP/s of a product of large square matrices: the best size's median."""
    best = 0.0
    for size in _PEAK_SIZES:
        left, right = (torch.randn(size, size).to(dtype) for _ in range(2))
        times = []
        for _ in range(_PEAK_REPEATS + 1):
            begin_s = time.perf_counter()
            torch.mm(left, right)
            times.append(time.perf_counter() - begin_s)
        best = max(best, 2 * size**3 / float(np.median(times[1:])))
    return best
