"""Which way to embed, in bfloat16 or float32: measured once at start, on the machine that will serve."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from torch import Tensor

from models.embedding import Embedder, NativeEmbedder, TorchEmbedder
from models.encoder import CustomerEncoder
from models.model import Model, task_heads
from models.native import Unavailable
from models.sequence import AMOUNTS, SECTION_OF_KIND, UNKNOWN, Sequences
from models.text import TextEncoder
from models.wide import COLUMNS

ROWS: Final = 16
REPEATS: Final = 3
TRIAL_WORDS: Final = 4
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

    The encoder in C where it knows the model and the machine has a compiler, else torch. bfloat16 where it is faster
    and what every head says of a customer is the same alone, in a batch, and in float32. A worker that restarts may
    choose otherwise; the bound keeps its predictions where they were.

    Args:
        model: on ``device``, in float32. The body of its encoder becomes bfloat16 where torch is to run it so.
        half: bfloat16 or not; None: as the trial says.
        threads: customers at a time in C.
        clock: seconds, for the trial.
        compiled: whether C may be used.
    """
    plain = TorchEmbedder(model.encoder, device)
    if isinstance(model.encoder, TextEncoder):
        return plain
    trial = _trial(model)
    exact: Embedder = plain
    rounded: Embedder | None = None
    if compiled and device.type == "cpu":
        try:
            native = NativeEmbedder(model.encoder, torch.float32, threads)
            apart = float((native(trial) - plain(trial)).abs().max())
            if not apart < SAME:
                raise Unavailable(f"its embeddings are {apart:g} from transformers'")
            exact = native
            rounded = NativeEmbedder(model.encoder, torch.bfloat16, threads)
        except Unavailable as reason:
            logger.info("not in C: %s", reason)
    if half is False or (half is None and rounded is None and not _has_bfloat16(device)):
        return exact
    if rounded is None:
        rounded = TorchEmbedder(_rounded(copy.deepcopy(model.encoder)), device)
    if half is None and not _worth(model, exact, rounded, trial, clock):
        return exact
    if isinstance(rounded, TorchEmbedder):
        # In its place, so that the copy and the float32 weights can go.
        rounded = TorchEmbedder(_rounded(model.encoder), device)
    return rounded


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


def _worth(model: Model, exact: Embedder, rounded: Embedder, trial: Sequences, clock: Callable[[], float]) -> bool:
    if _seconds(rounded, trial, clock) * FASTER > _seconds(exact, trial, clock):
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
