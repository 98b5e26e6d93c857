"""bfloat16 or float32 for the encoder: measured once at start, on the machine that will serve."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from models.encoder import CustomerEncoder
from models.model import Model
from models.tokenizer import SPECIALS

ROWS: Final = 16
REPEATS: Final = 3
FASTER: Final = 1.2
"""How much faster bfloat16 must be to be worth its rounding."""
AGREES: Final = 5e-4
"""How far a probability may move, between batch shapes and from float32: half of what replays are promised."""


def prefer_half(model: Model, device: torch.device, clock: Callable[[], float]) -> bool:
    """Whether bfloat16 is faster here, and a customer's churn is the same alone, in a batch, and in float32.

    A worker that restarts may measure otherwise; the bound keeps its predictions where they were.

    Args:
        model: on ``device``.
        clock: seconds.
    """
    if not _native(device):
        return False
    vocabulary, length = model.encoder.words().num_embeddings, model.encoder.positions
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(len(SPECIALS), vocabulary, (ROWS, length), generator=generator).to(device)
    mask = torch.ones_like(ids)
    mask[: ROWS // 2, length // 2 :] = 0
    half = copy.deepcopy(model.encoder).to(torch.bfloat16)
    with torch.inference_mode():
        full_s, half_s = _seconds(model.encoder, ids, mask, clock), _seconds(half, ids, mask, clock)
        if half_s * FASTER > full_s:
            return False
        together = _churn(model, half(ids, mask))[: ROWS // 2]
        exact = _churn(model, model.encoder(ids, mask))[: ROWS // 2]
        alone = torch.cat(
            [half(ids[i : i + 1, : length // 2], mask[i : i + 1, : length // 2]) for i in range(ROWS // 2)]
        )
        moved = max(float((other - together).abs().max()) for other in (_churn(model, alone), exact))
        return moved < AGREES


def _native(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # On a CPU without the instructions bfloat16 is emulated, and slower.
    return device.type == "cpu" and "AVX512" in torch.backends.cpu.get_cpu_capability()


def _seconds(encoder: CustomerEncoder, ids: Tensor, mask: Tensor, clock: Callable[[], float]) -> float:
    best = float("inf")
    encoder(ids, mask)
    for _ in range(REPEATS):
        begin_s = clock()
        float(encoder(ids, mask).sum())  # reading the number waits for the device
        best = min(best, clock() - begin_s)
    return best


def _churn(model: Model, embedding: Tensor) -> Tensor:
    unknown = torch.full((len(embedding), len(model.churn.wide.mean)), float("nan"), device=embedding.device)
    logits, _ = model.churn(embedding, unknown)
    return torch.sigmoid(logits)
