"""Ways from token ids to embeddings, and a memory of what was embedded lately.

- :class:`TorchEmbedder`: any Hugging Face encoder on any device, in groups of like length.
- :class:`NativeEmbedder`: the BERT family on a CPU, in C (:mod:`models.native`).
- :class:`Remembering`: around either of them.

Which of them serves is decided in :mod:`models.precision`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor

from models.encoder import CustomerEncoder, Sequences
from models.native import NativeEncoder
from models.wide import Floats

#: Padded tokens in one pass: small enough for a CPU's caches, large enough to fill a GPU.
CPU_TOKENS: Final = 8_192
GPU_TOKENS: Final = 131_072
ENTRY_BYTES: Final = 400
"""Of one remembered customer beside tokens and numbers: two objects and their place in a dictionary."""


class Embedder(Protocol):
    """uint16 little-endian ids of each customer, oldest first → (B, H) float32 on the model's device."""

    name: str
    """For people and logs."""
    dtype: torch.dtype
    """Of products."""

    def __call__(self, tokens: Sequence[bytes]) -> Tensor: ...


class TorchEmbedder:
    """An encoder as transformers runs it, in groups of like length with little padding."""

    def __init__(self, encoder: CustomerEncoder, device: torch.device) -> None:
        self._encoder = encoder
        self._device = device
        self._vocabulary = encoder.words().num_embeddings
        self._max_tokens = CPU_TOKENS if device.type == "cpu" else GPU_TOKENS
        self.dtype = encoder.words().weight.dtype
        self.name = f"torch, {_said(self.dtype)}"

    def __call__(self, tokens: Sequence[bytes]) -> Tensor:
        out = torch.zeros((len(tokens), self._encoder.hidden), device=self._device)
        sequences = Sequences(tokens, self._encoder.positions, self._vocabulary)
        with torch.inference_mode():
            for rows in sequences.batches(self._max_tokens):
                ids, mask = sequences.padded(rows)
                out[torch.from_numpy(rows)] = self._encoder(ids.to(self._device), mask.to(self._device))
        return out


class NativeEmbedder:
    """The encoder in C.

    Raises:
        Unavailable: see :class:`models.native.NativeEncoder`.
    """

    def __init__(self, encoder: CustomerEncoder, dtype: torch.dtype, threads: int = 1) -> None:
        self._run = NativeEncoder(encoder, "float32" if dtype == torch.float32 else "bfloat16", threads)
        self.dtype = dtype
        self.name = f"native, {_said(dtype)}"

    def __call__(self, tokens: Sequence[bytes]) -> Tensor:
        return torch.from_numpy(self._run(tokens))


class Remembering:
    """Equal tokens are embedded once while they are remembered; the least recently used go first.

    A weekly horizon often says what the customer's last event said, and a send, too. What is remembered is what was
    computed: answers are those of ``inner``, bit for bit where that does not depend on the batch.

    Args:
        inner: what embeds.
        positions: longest input of the encoder; what it does not see makes no difference.
        budget_bytes: bound of what is remembered.
    """

    def __init__(self, inner: Embedder, positions: int, budget_bytes: int) -> None:
        self._inner = inner
        self._newest = 2 * (positions - 1)
        self._budget_bytes = budget_bytes
        self._known: dict[bytes, Floats] = {}
        self.used_bytes = 0
        self.requested = 0
        self.embedded = 0
        """Of those requested, how many were computed."""
        self.dtype = inner.dtype
        self.name = inner.name

    def __len__(self) -> int:
        return len(self._known)

    def __call__(self, tokens: Sequence[bytes]) -> Tensor:
        seen = [one[-self._newest :] for one in tokens]
        fresh = [one for one in dict.fromkeys(seen) if one not in self._known]
        made = self._inner(fresh)
        self.requested += len(seen)
        self.embedded += len(fresh)
        rows = dict(zip(fresh, made.cpu().numpy(), strict=True))
        if len(fresh) < len(seen):
            for one in seen:
                if one not in rows:
                    rows[one] = self._known[one] = self._known.pop(one)  # put last: it was used now
            made = torch.from_numpy(np.stack([rows[one] for one in seen])).to(made.device)
        self._remember(fresh, rows)
        return made

    def _remember(self, fresh: list[bytes], rows: dict[bytes, Floats]) -> None:
        for one in fresh:
            self._known[one] = rows[one].copy()
            self.used_bytes += _entry_bytes(one, rows[one])
        while self.used_bytes > self._budget_bytes:
            oldest = next(iter(self._known))
            self.used_bytes -= _entry_bytes(oldest, self._known.pop(oldest))


def _entry_bytes(one: bytes, row: Floats) -> int:
    return ENTRY_BYTES + len(one) + row.nbytes


def _said(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
