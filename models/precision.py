"""Which way to embed, in bfloat16 or float32: measured once at start, on the machine that will serve."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from models.candidates import CROSS_SIZE, MAX_WORDS
from models.embedding import Embedder, NativeEmbedder, TorchEmbedder
from models.model import Model
from models.native import Unavailable
from models.tokenizer import SPECIALS

ROWS: Final = 16
CAMPAIGNS: Final = 8
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
    and what every head says of a customer is the same alone, in a batch, and in float32. A worker that restarts may
    choose otherwise; the bound keeps its predictions where they were.

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
    words = model.encoder.words()
    # In torch the whole encoder is rounded, and campaigns are made of its words.
    served = copy.deepcopy(words).to(rounded.dtype) if isinstance(rounded, TorchEmbedder) else words
    together = _logits(model, rounded(tokens), served)
    alone = _logits(model, torch.cat([rounded([one]) for one in tokens]), served)
    moved = max(float((other - together).abs().max()) for other in (alone, _logits(model, exact(tokens), words)))
    return moved / 4 < AGREES  # no probability moves by more than a quarter of its logit


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


def _logits(model: Model, embedding: Tensor, words: nn.Embedding) -> Tensor:
    """Of every head, for customers of whom nothing else is known: (B, 1 + CAMPAIGNS)."""
    device = embedding.device
    ids = np.random.default_rng(1).integers(1, max(words.num_embeddings, 2), (CAMPAIGNS, MAX_WORDS))
    columns = torch.full((len(embedding), len(model.churn.wide.mean)), float("nan"), device=device)
    cross = torch.full((len(embedding), CAMPAIGNS, CROSS_SIZE), float("nan"), device=device)
    with torch.inference_mode():
        churn, _ = model.churn(embedding, columns)
        vectors = model.redemption.tower(torch.from_numpy(ids).to(device), words)
        redemption, _, _ = model.redemption(embedding, columns, cross, vectors)
    return torch.cat([churn[:, None], redemption], dim=1)
