"""Ways from sequences to embeddings.

- :class:`TorchEmbedder`: any Hugging Face encoder, in groups of like length.
- :class:`NativeEmbedder`: the BERT family on a CPU, in C (:mod:`models.native`).
- :class:`models.device_embedding.DeviceEmbedder`: any Hugging Face encoder that is fed our vectors, on a GPU.

Which of them serves is decided in :mod:`models.precision`.
"""

from __future__ import annotations

from typing import Final, Protocol

import torch
from torch import Tensor

from models.encoder import CustomerEncoder
from models.native import NativeEncoder
from models.sequence import Sequences

#: Padded positions in one pass: small enough for a CPU's caches, large enough to fill a GPU.
CPU_POSITIONS: Final = 8_192
GPU_POSITIONS: Final = 131_072


class Embedder(Protocol):
    """Sequences of B customers → (B, H) float32 on the CPU."""

    @property
    def name(self) -> str:
        """For people and logs."""

    @property
    def runtime(self) -> str:
        """``native`` or ``torch``."""

    @property
    def dtype(self) -> torch.dtype:
        """Of products."""

    @property
    def device(self) -> torch.device:
        """That computes."""

    def __call__(self, batch: Sequences) -> Tensor: ...


class TorchEmbedder:
    """An encoder as transformers runs it, in groups of like length with little padding."""

    runtime = "torch"

    def __init__(self, encoder: CustomerEncoder, device: torch.device) -> None:
        self._encoder = encoder
        self.device = device
        self._most = CPU_POSITIONS if device.type == "cpu" else GPU_POSITIONS
        self.dtype = next(encoder.body.parameters()).dtype
        self.name = f"torch, {said(self.dtype)}"

    def __call__(self, batch: Sequences) -> Tensor:
        out = torch.zeros((len(batch), self._encoder.hidden), device=self.device)
        with torch.inference_mode():
            for rows in batch.batches(self._most):
                out[torch.from_numpy(rows)] = self._encoder(batch.take(rows))
        return out.cpu()


class NativeEmbedder:
    """The body in C; vectors of positions come from torch.

    Raises:
        Unavailable: see :class:`models.native.NativeEncoder`.
    """

    runtime = "native"
    device = torch.device("cpu")

    def __init__(self, encoder: CustomerEncoder, dtype: torch.dtype, threads: int = 1) -> None:
        self._input = encoder.input
        self._run = NativeEncoder(encoder, "float32" if dtype == torch.float32 else "bfloat16", threads)
        self.dtype = dtype
        self.name = f"native, {said(dtype)} ({self._run.origin})"

    def __call__(self, batch: Sequences) -> Tensor:
        if not len(batch):
            return torch.zeros((0, self._run.hidden))
        with torch.inference_mode():
            vectors = self._input.flat(batch).numpy()
        return torch.from_numpy(self._run(vectors, batch.lengths))


def said(dtype: torch.dtype) -> str:
    """A dtype in a word."""
    return str(dtype).removeprefix("torch.")
