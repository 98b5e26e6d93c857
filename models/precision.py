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
from models.model import Model
from models.native import Unavailable
from models.tokenizer import SPECIALS

ROWS: Final = 16
REPEATS: Final = 3
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
    and a customer's churn is the same alone, in a batch, and in float32. A worker that restarts may choose otherwise;
    the bound keeps its predictions where they were.

    Args:
        model: on ``device``, in float32. Its encoder becomes bfloat16 where torch is to run it so.
        half: bfloat16 or not; None: as the trial says.
        threads: customers at a time in C.
        clock: seconds, for the trial.
        compiled: whether C may be used.
    """
    plain = TorchEmbedder(model.encoder, device)
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
        rounded = TorchEmbedder(copy.deepcopy(model.encoder).to(torch.bfloat16), device)
    if half is None and not _worth(model, exact, rounded, trial, clock):
        return exact
    if isinstance(rounded, TorchEmbedder):
        # In its place, so that the copy and the float32 weights can go.
        rounded = TorchEmbedder(model.encoder.to(torch.bfloat16), device)
    return rounded


def _trial(model: Model) -> list[bytes]:
    """Customers of arbitrary words, half of them half as long as can be."""
    vocabulary, length = model.encoder.words().num_embeddings, model.encoder.positions
    ids = np.random.default_rng(0).integers(len(SPECIALS), max(vocabulary, len(SPECIALS) + 1), (ROWS, length), "<u2")
    return [row[: length // (2 if at < ROWS // 2 else 1)].tobytes() for at, row in enumerate(ids)]


def _worth(model: Model, exact: Embedder, rounded: Embedder, tokens: list[bytes], clock: Callable[[], float]) -> bool:
    if _seconds(rounded, tokens, clock) * FASTER > _seconds(exact, tokens, clock):
        return False
    together = _churn(model, rounded(tokens))
    alone = _churn(model, torch.cat([rounded([one]) for one in tokens]))
    moved = max(float((other - together).abs().max()) for other in (alone, _churn(model, exact(tokens))))
    return moved < AGREES


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # On a CPU without the instructions bfloat16 is emulated, and slower.
    return device.type == "cpu" and "AVX512" in torch.backends.cpu.get_cpu_capability()


def _seconds(embedder: Embedder, tokens: list[bytes], clock: Callable[[], float]) -> float:
    best = float("inf")
    embedder(tokens)
    for _ in range(REPEATS):
        begin_s = clock()
        float(embedder(tokens).sum())  # reading the number waits for the device
        best = min(best, clock() - begin_s)
    return best


def _churn(model: Model, embedding: Tensor) -> Tensor:
    with torch.inference_mode():
        unknown = torch.full((len(embedding), len(model.churn.wide.mean)), float("nan"), device=embedding.device)
        logits, _ = model.churn(embedding, unknown)
        return torch.sigmoid(logits)
