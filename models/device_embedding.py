"""Embedding on a GPU: few shapes, copies that wait for nothing, and the CPU where the GPU fails.

The model itself stays on the CPU, with its heads: the GPU has a copy of the encoder. So a GPU that fails takes nothing
with it that is needed to go on.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import torch
from torch import Tensor

from models.device import put
from models.embedding import GPU_POSITIONS, Embedder, said
from models.encoder import CustomerEncoder, pool
from models.sequence import Sequences
from models.wide import Ints

ROWS: Final = (16, 32, 64, 128, 256, 512, 1024, 2048)
"""What a pass has so many of, or is padded to: a GPU's libraries prepare every shape when they first meet it."""

logger: Final = logging.getLogger(__name__)


class DeviceEmbedder:
    """A copy of an encoder on a device.

    A pass has one of :data:`ROWS` rows, of half or all of the longest sequence.

    Args:
        encoder: on the CPU, in float32; it is copied.
        dtype: of the body.
    """

    runtime = "torch"

    def __init__(self, encoder: CustomerEncoder, device: torch.device, dtype: torch.dtype) -> None:
        self._encoder = copy.deepcopy(encoder).to(device)
        self._encoder.body.to(dtype)
        longest = encoder.size.positions
        self.lengths = (-(-longest // 2), longest)
        """Positions of a pass."""
        self.device = device
        self.dtype = dtype
        self.name = f"torch, {said(dtype)}"

    @torch.inference_mode()
    def __call__(self, batch: Sequences) -> Tensor:
        if not len(batch):
            return torch.zeros((0, self._encoder.hidden))
        if batch.word_rows is not None:
            self._encoder.input.freeze(batch.word_rows)
        flat = self._encoder.input.flat(batch).to(self.dtype)  # (T, H)
        begins = np.cumsum(batch.lengths) - batch.lengths
        passes = list(self._passes(batch.lengths))
        parts = [self._run(flat, begins[rows], batch.lengths[rows], length) for rows, length in passes]
        found = torch.cat(parts).cpu()  # one copy back, and the only place that waits
        out = torch.empty_like(found)
        out[torch.from_numpy(np.concatenate([rows for rows, _ in passes]))] = found
        return out

    def shapes(self) -> Iterator[tuple[int, int]]:
        """Rows and positions of every pass that there can be."""
        for length in self.lengths:
            yield from ((rows, length) for rows in ROWS if rows <= self._most(length))

    def _most(self, length: int) -> int:
        return max((rows for rows in ROWS if rows * length <= GPU_POSITIONS), default=ROWS[0])

    def _passes(self, lengths: Ints) -> Iterator[tuple[Ints, int]]:
        """Rows of each pass, and how many positions it has."""
        short = lengths <= self.lengths[0]
        for of_length, length in zip((short, ~short), self.lengths, strict=True):
            rows, most = np.flatnonzero(of_length), self._most(length)
            for begin in range(0, len(rows), most):
                yield rows[begin : begin + most], length

    def _run(self, flat: Tensor, begins: Ints, lengths: Ints, length: int) -> Tensor:
        """Embeddings of sequences, (N, H) on the device; the rows that are wanting repeat the first position of all."""
        wanting = next(rows for rows in ROWS if rows >= len(begins)) - len(begins)
        begin = put(np.pad(begins, (0, wanting)), self.device)[:, None]
        count = put(np.pad(lengths, (0, wanting), constant_values=1), self.device)[:, None]
        place = torch.arange(length, device=self.device)
        mask = (place < count).to(self.dtype)  # (R, P)
        # What lies behind a sequence is the next one's, and masked.
        vectors = flat[(begin + place).clamp(max=len(flat) - 1)]  # (R, P, H)
        states: Tensor = self._encoder.body(inputs_embeds=vectors, attention_mask=mask).last_hidden_state
        return pool(states, mask)[: len(begins)]


class GuardedEmbedder:
    """A device while it works. Where its memory is short, batches are cut; where it fails, another way takes over.

    Nothing of a batch is lost: what the device did not answer, the other way does. It is told in the log, and by
    :attr:`device`, and lasts until another model is loaded.

    Args:
        embedder: on the device.
        spare: makes the other way when it is needed.
    """

    def __init__(self, embedder: Embedder, spare: Callable[[], Embedder]) -> None:
        self._now = embedder
        self._spare: Callable[[], Embedder] | None = spare
        self._most = 2**31

    @property
    def name(self) -> str:
        return self._now.name

    @property
    def runtime(self) -> str:
        return self._now.runtime

    @property
    def dtype(self) -> torch.dtype:
        return self._now.dtype

    @property
    def device(self) -> torch.device:
        return self._now.device

    def shapes(self) -> list[tuple[int, int]]:
        """See :meth:`DeviceEmbedder.shapes`; none of an embedder that has no fixed ones."""
        return list(self._now.shapes()) if isinstance(self._now, DeviceEmbedder) else []

    def __call__(self, batch: Sequences) -> Tensor:
        if self._spare is None:
            return self._now(batch)
        try:
            return self._in_parts(batch)
        except RuntimeError as error:  # of memory, too, where not even one customer fits
            logger.error("%s failed, and the CPU embeds from now on: %s", self.device, error)
            self._now, self._spare = self._spare(), None
            return self._now(batch)

    def _in_parts(self, batch: Sequences) -> Tensor:
        """At most as many customers at a time as there has been memory for."""
        try:
            if len(batch) <= self._most:
                return self._now(batch)
        except torch.OutOfMemoryError as error:
            if len(batch) == 1:
                raise
            self._most = len(batch) // 2
            logger.warning("%s has no memory for %d customers, batches are cut: %s", self.device, len(batch), error)
        # Outside the handler: the exception's frames hold what the pass had taken.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        rows = np.arange(len(batch))
        return torch.cat(
            [self._in_parts(batch.take(part)) for part in np.array_split(rows, -(-len(rows) // self._most))]
        )
