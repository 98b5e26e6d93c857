"""Which way to embed, in bfloat16 or float32: measured once at start, on the machine that will serve."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from torch import Tensor

from models.device_embedding import DeviceEmbedder, GuardedEmbedder
from models.embedding import Embedder, NativeEmbedder, TorchEmbedder
from models.encoder import CustomerEncoder
from models.model import Model, task_heads
from models.native_library import Unavailable
from models.sequence import AMOUNTS, SECTION_OF_KIND, UNKNOWN, Sequences
from models.text import TextEncoder
from models.wide import COLUMNS

ROWS: Final = 16
REPEATS: Final = 3
TRIAL_WORDS: Final = 4
DEVICE_ROWS: Final = 512
"""Customers that a device is timed with: with few of them it waits for us."""
FASTER: Final = 1.2
"""How much faster bfloat16 must be to be worth its rounding."""
AGREES: Final = 5e-4
"""How far a probability may move, between batch shapes and from float32: half of what replays are promised."""
SAME: Final = 1e-3
"""How far an embedding in C may be from transformers', both in float32; its numbers are about 1."""

logger: Final = logging.getLogger(__name__)


def choose(
    model: Model,
    device: torch.device,
    *,
    half: bool | None,
    threads: int,
    clock: Callable[[], float],
    compiled: bool = True,
) -> Embedder:
    """The fastest way to embed that is exact enough.

    On a CPU the encoder in C where it knows the model and a library fits the processor, else torch. bfloat16 where it
    is faster and what every head says of a customer is the same alone, in a batch, and in float32. A worker that
    restarts may choose otherwise; the bound keeps its predictions where they were. On a device all shapes of batches
    were run once; where it fails, now or later, the CPU embeds.

    Args:
        model: on the CPU, in float32. The body of its encoder becomes bfloat16 where torch is to run it so there.
        half: bfloat16 or not; None: as the trial says.
        threads: customers at a time in C.
        clock: seconds, for the trial.
        compiled: whether C may be used.
    """

    def on_cpu() -> Embedder:
        return _on_cpu(model, half=half, threads=threads, clock=clock, compiled=compiled)

    if device.type == "cpu":
        return on_cpu()
    try:
        found = GuardedEmbedder(_on_device(model, device, half=half, clock=clock), on_cpu)
    except RuntimeError as error:
        logger.error("%s cannot take the encoder, and the CPU embeds: %s", device, error)
        return on_cpu()
    warm(found, _trial(model))
    return found


def warm(embedder: GuardedEmbedder, trial: Sequences) -> None:
    """Have a device prepare every shape that a batch may have.

    Args:
        trial: customers, some of half of the longest sequence and some of all of it.
    """
    for rows, length in embedder.shapes():
        nearest = np.abs(trial.lengths - length).argmin()
        embedder(trial.take(np.full(rows, nearest)))


def _on_cpu(model: Model, *, half: bool | None, threads: int, clock: Callable[[], float], compiled: bool) -> Embedder:
    device = torch.device("cpu")
    plain = TorchEmbedder(model.encoder, device)
    if isinstance(model.encoder, TextEncoder):
        return plain
    trial = _trial(model)
    exact: Embedder = plain
    rounded: Embedder | None = None
    if compiled:
        try:
            native = NativeEmbedder(model.encoder, torch.float32, threads)
            apart = float((native(trial) - plain(trial)).abs().max())
            if not apart < SAME:
                raise Unavailable(f"its embeddings are {apart:g} from transformers'")
            exact = native
            rounded = NativeEmbedder(model.encoder, torch.bfloat16, threads)
        except Unavailable as reason:
            logger.warning("the encoder runs in torch, which is slower than C: %s", reason)
    if half is False or (half is None and rounded is None and not _has_bfloat16(device)):
        return exact
    if rounded is None:
        rounded = TorchEmbedder(_rounded(copy.deepcopy(model.encoder)), device)
    if half is None and not _worth(model, exact, rounded, trial, trial, clock):
        return exact
    if isinstance(rounded, TorchEmbedder):
        # In its place, so that the copy and the float32 weights can go.
        rounded = TorchEmbedder(_rounded(model.encoder), device)
    return rounded


def _on_device(model: Model, device: torch.device, *, half: bool | None, clock: Callable[[], float]) -> Embedder:
    if isinstance(model.encoder, TextEncoder):
        return TorchEmbedder(copy.deepcopy(model.encoder).to(device), device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32
    exact = DeviceEmbedder(model.encoder, device, torch.float32)
    if half is False or (half is None and not _has_bfloat16(device)):
        return exact
    rounded = DeviceEmbedder(model.encoder, device, torch.bfloat16)
    trial = _trial(model)
    many = trial.take(np.resize(np.arange(ROWS), DEVICE_ROWS))
    return rounded if half or _worth(model, exact, rounded, trial, many, clock) else exact


def _rounded(encoder: CustomerEncoder) -> CustomerEncoder:
    encoder.body.to(torch.bfloat16)
    return encoder


def _trial(model: Model) -> Sequences:
    """Customers of whom arbitrary things are known, half of them half as long as can be."""
    random, encoder = np.random.default_rng(0), model.encoder
    most = encoder.size.positions
    lengths = np.array([max(1, most // (2 if at < ROWS // 2 else 1)) for at in range(ROWS)])
    total = int(lengths.sum())
    most_of = np.array(encoder.size.sections)
    others = [kind for kind, section in enumerate(SECTION_OF_KIND) if section and most_of[section]]
    kind = random.choice(others, total) if others else np.zeros(total, dtype=np.int64)
    kind[np.cumsum(lengths) - lengths] = 0
    room = most_of[np.array(SECTION_OF_KIND)[kind]]
    return Sequences(
        numbers=np.full((ROWS, COLUMNS), np.nan, dtype=np.float32),
        lengths=lengths,
        kind=kind.astype(np.uint8),
        rank=random.integers(0, room).astype(np.uint8),
        age_days=random.exponential(60.0, total).astype(np.float32),
        gap_days=random.exponential(3.0, total).astype(np.float32),
        hour=np.full(total, UNKNOWN, dtype=np.float32),
        year=random.random(total, dtype=np.float32),
        amounts=random.random((total, len(AMOUNTS)), dtype=np.float32),
        counts=np.full(total, TRIAL_WORDS),
        words=random.integers(1, encoder.words().num_embeddings, total * TRIAL_WORDS).astype(np.uint32),
        weights=np.full(total * TRIAL_WORDS, TRIAL_WORDS**-0.5, dtype=np.float32),
    )


def _worth(
    model: Model,
    exact: Embedder,
    rounded: Embedder,
    trial: Sequences,
    timed: Sequences,
    clock: Callable[[], float],
) -> bool:
    if _seconds(rounded, timed, clock) * FASTER > _seconds(exact, timed, clock):
        return False
    together = _logits(model, rounded(trial))
    alone = _logits(model, torch.cat([rounded(trial.take(np.array([row]))) for row in range(len(trial))]))
    moved = max(float((other - together).abs().max()) for other in (alone, _logits(model, exact(trial))))
    return moved / 4 < AGREES  # no probability moves by more than a quarter of its logit


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # On a CPU without the instructions bfloat16 is emulated, and slower.
    return device.type == "cpu" and "AVX512" in torch.backends.cpu.get_cpu_capability()


def _seconds(embedder: Embedder, trial: Sequences, clock: Callable[[], float]) -> float:
    best = float("inf")
    embedder(trial)
    for _ in range(REPEATS):
        begin_s = clock()
        float(embedder(trial).sum())  # reading the number waits for the device
        best = min(best, clock() - begin_s)
    return best


def _logits(model: Model, embedding: Tensor) -> Tensor:
    """Of every task, for customers of whom nothing else is known: (B, ·)."""
    with torch.inference_mode():
        return torch.cat(
            [head.trial(embedding, model.encoder.words().weight) for head in task_heads(model).values()], dim=1
        )
