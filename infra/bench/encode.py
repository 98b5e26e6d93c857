"""Encoder and heads: snapshots a second, against transformers used plainly and against the processor's limit.

What is encoded is recorded in the run: a part of Complete Journey through the ingest core, in checkpoints of about as
many events as a worker's tenth of a second would hold of those customers. The model is of the default size, trained on
the same events for one epoch; its head is made to listen to the embedding, so that a difference is seen in the
probability.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from infra.bench.report import Findings, Measured, Options, Say, Target, ratio, take_turns
from models import saved_model
from models.encoder import EncoderSize, flops_of, pool
from models.heads import CustomerHead
from models.inference import Predictor
from models.model import Model
from models.sequence import Sequences, concatenated, sequences_of
from models.training import TrainSettings
from models.wide import Floats
from schemas.catalog import CatalogEntry
from schemas.snapshot import Snapshot
from streams.core.config import CoreConfig
from streams.offline.ingest import replay_checkpoints
from streams.offline.training import train_on_events
from streams.sources.source import load_source

ABOUT: Final = "snapshots a second through encoder and heads, against transformers used plainly and the matmul peak"

BATCH: Final = 64
"""Snapshots in one run of the model: the encode role's default, and what ``transformers`` is given."""
_EVENTS: Final = 30_000
_CHECKPOINT: Final = 4
"""Events of one checkpoint: 2,000 a second in tenths of a second, for the share of customers that is replayed."""
_SAMPLE: Final = 16
"""Batches that every contender encodes, evenly spread over the record; the one as served is given all."""
_PEAK_SIZES: Final = (1024, 2048)
_PEAK_REPEATS: Final = 5

LONGEST, MAXIMUM = "transformers, padded to the longest", "transformers, padded to the model's length"
SORTED, SORTED_HALF = "torch, float32, sorted", "torch, bfloat16, sorted"
EXACT, ROUNDED, SERVED = "native, float32", "native, bfloat16", "as served"
BUILDING, INPUT = "sequences from snapshots", "input layer"
PEAK, PEAK_HALF = "matmul, float32", "matmul, bfloat16"


class Plain:
    """What a reader of transformers' pages would write: vectors to ``AutoModel``, batches as they come, float32.

    The vectors of positions are made by our input layer, as no other can: only the body differs.
    """

    def __init__(self, directory: Path, model: Model, *, longest: bool) -> None:
        from transformers import AutoModel

        self._body: Any = AutoModel.from_pretrained(directory).eval()
        self._model = model
        self._longest = longest

    @torch.inference_mode()
    def __call__(self, snapshots: Sequence[Snapshot]) -> Floats:
        batch = _sequences(self._model, snapshots)
        vectors, mask = self._model.encoder.input(batch)
        if not self._longest:
            more = self._model.encoder.size.positions - mask.shape[1]
            vectors, mask = torch.nn.functional.pad(vectors, (0, 0, 0, more)), torch.nn.functional.pad(mask, (0, more))
        states: Tensor = self._body(inputs_embeds=vectors, attention_mask=mask).last_hidden_state
        logits, _ = _churn(self._model)(pool(states, mask), torch.from_numpy(batch.numbers))
        churn: Floats = torch.sigmoid(logits).numpy()
        return churn


def run(options: Options, say: Say) -> Findings:
    """One thread each, one after the other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _run(options, say)
    finally:
        torch.set_num_threads(threads)


def _run(options: Options, say: Say) -> Findings:
    folder = options.folder / "encode"
    folder.mkdir(parents=True, exist_ok=True)
    catalog = load_source("complete-journey").catalog()
    snapshots = _record(options, catalog, folder / "model", say)
    batches = [snapshots[at : at + BATCH] for at in range(0, len(snapshots), BATCH)]
    model, size = _known(folder, catalog), EncoderSize()
    lengths = np.concatenate([_sequences(model, batch).lengths for batch in batches])
    kinds = Counter(s.kind for s in snapshots)
    say(
        f"{len(snapshots):,} snapshots, {lengths.mean():.1f} positions: "
        + ", ".join(f"{n:,} {k}" for k, n in kinds.items())
    )
    wanted = options.scaled(_SAMPLE, 2)
    spread = (np.arange(min(wanted, len(batches))) + 0.5) * (len(batches) / min(wanted, len(batches)))
    sample = [batches[int(at)] for at in spread]
    sampled = concatenated([_sequences(model, batch) for batch in sample]).lengths
    flops = sum(flops_of(int(length), size) for length in sampled) / len(sampled)

    plain = {
        LONGEST: Plain(folder / "model", _known(folder, catalog), longest=True),
        MAXIMUM: Plain(folder / "model", _known(folder, catalog), longest=False),
    }
    ours = {
        SORTED: _predictor(folder, catalog, half=False, compiled=False),
        SORTED_HALF: _predictor(folder, catalog, half=True, compiled=False),
        EXACT: _predictor(folder, catalog, half=False),
        ROUNDED: _predictor(folder, catalog, half=True),
    }
    ways: dict[str, Callable[[Sequence[Snapshot]], Floats]] = dict(plain)
    for name, predictor in ours.items():
        ways[name] = lambda batch, predictor=predictor: predictor.churn(predictor.encode(batch)).probability  # type: ignore[misc]
    found = {name: np.concatenate([way(batch) for batch in sample]) for name, way in ways.items()}
    moved = {name: float(np.abs(churn - found[LONGEST]).max()) for name, churn in found.items()}

    contenders: dict[str, Callable[[], float]] = {
        name: lambda way=way: _rate(way, sample)  # type: ignore[misc]
        for name, way in ways.items()
    }
    served = _predictor(folder, catalog)
    contenders[SERVED] = lambda: _rate(lambda batch: served.churn(served.encode(batch)).probability, batches)
    contenders[BUILDING] = lambda: _rate(lambda batch: _sequences(model, batch).numbers, sample)
    built = [_sequences(model, batch) for batch in sample]
    contenders[INPUT] = lambda: _input_rate(model, built)
    contenders[PEAK] = lambda: _peak(torch.float32)
    contenders[PEAK_HALF] = lambda: _peak(torch.bfloat16)
    values = take_turns(contenders, options.rounds, say, unit="/s")
    achieved = [rate * flops for rate in values[ROUNDED]]
    whole = np.mean(lengths == size.sequence.positions)

    def note(name: str) -> str:
        return "the baseline" if name == LONGEST else f"churn at most {moved[name]:.1e} from the baseline's"

    results = [Measured(name=name, unit="snapshots/s", values=values[name], note=note(name)) for name in ways]
    results += [
        Measured(
            name=SERVED,
            unit="snapshots/s",
            values=values[SERVED],
            note=f"{served.embed.name}; the whole record",
        ),
        *(
            Measured(name=name, unit="µs/snapshot", values=[1e6 / rate for rate in values[name]], note=text)
            for name, text in ((BUILDING, "snapshots to arrays"), (INPUT, "arrays to vectors of positions, in torch"))
        ),
        *(
            Measured(name=name, unit="GFLOP/s", values=[v / 1e9 for v in values[name]], note="the best of two sizes")
            for name in (PEAK, PEAK_HALF)
        ),
        Measured(
            name=f"{ROUNDED}: products of real positions",
            unit="GFLOP/s",
            values=[value / 1e9 for value in achieved],
            note=f"{flops / 1e6:.1f} MFLOP and {sampled.mean():.1f} positions a snapshot; {whole:.0%} of all are full",
        ),
    ]
    return Findings(
        results=results,
        targets=[
            Target(name="as served / transformers", value=ratio(values[SERVED], values[LONGEST]), target=20.0),
            Target(name="share of the bfloat16 matmul peak", value=ratio(achieved, values[PEAK_HALF]), target=0.6),
        ],
        left_out=["CUDA, and more than one thread."],
    )


def _record(options: Options, catalog: Mapping[str, CatalogEntry], directory: Path, say: Say) -> list[Snapshot]:
    """Snapshots in the order in which a worker would publish them; a model trained on their events is left behind."""
    say("reading Complete Journey")
    source, config = load_source("complete-journey"), CoreConfig()
    wanted = options.scaled(_EVENTS, 2_000)
    events = [
        (record.topic, record.key, record.body, record.event_ts_ms)
        for record in source.records(source.from_ms, source.until_ms, wanted)
        if record.body is not None
    ]
    say(f"training on {len(events):,} events")
    train_on_events(
        events,
        catalog,
        directory,
        config=config,
        until_ms=source.until_ms,
        settings=TrainSettings(epochs=1),
        progress=lambda share, text: None,
    )
    say("recording snapshots")
    return list(_snapshots(events, config, source.until_ms))


def _snapshots(events: list[Any], config: CoreConfig, until_ms: int) -> Iterator[Snapshot]:
    for checkpoint in replay_checkpoints(events, config, until_ms=until_ms, checkpoint_events=_CHECKPOINT):
        yield from checkpoint.snapshots
        yield from checkpoint.awaiting_label


@torch.no_grad()
def _opened(folder: Path) -> Model:
    """The model with a deep part that speaks: training leaves it silent where it does not help."""
    model, _ = saved_model.load(folder / "model")
    head = _churn(model)
    head.gate.fill_(1.0)
    last = head.deep
    last.weight.copy_(torch.randn(last.weight.shape, generator=torch.Generator().manual_seed(0)) * 0.3)
    return model


def _churn(model: Model) -> CustomerHead:
    head = model.heads["churn"]
    assert isinstance(head, CustomerHead)
    return head


def _known(folder: Path, catalog: Mapping[str, CatalogEntry]) -> Model:
    model = _opened(folder)
    model.know(catalog)
    model.table()
    return model


def _predictor(
    folder: Path, catalog: Mapping[str, CatalogEntry], *, half: bool | None = None, compiled: bool = True
) -> Predictor:
    found = Predictor(_opened(folder), "bench", device="cpu", threads=1, half=half, compiled=compiled)
    found.know(catalog)
    return found


def _sequences(model: Model, snapshots: Sequence[Snapshot]) -> Sequences:
    return sequences_of(snapshots, model.word_rows, model.encoder.size)


@torch.inference_mode()
def _input_rate(model: Model, batches: Sequence[Sequences]) -> float:
    begin_s = time.perf_counter()
    for batch in batches:
        model.encoder.input.flat(batch)
    return sum(map(len, batches)) / (time.perf_counter() - begin_s)


def _rate(way: Callable[[Sequence[Snapshot]], Floats], batches: Sequence[Sequence[Snapshot]]) -> float:
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
