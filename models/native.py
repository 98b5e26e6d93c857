"""The BERT encoder in C (``encoder.c``, see :mod:`models.native_library`).

Only for what it knows: a BERT body on a CPU. Everything else, and every machine that no library fits, takes the way of
:class:`models.encoder.CustomerEncoder`, which knows any Hugging Face encoder.
"""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.encoder import CustomerEncoder
from models.native_library import STEP, Precision, Unavailable, load_library
from models.wide import Floats, Ints

_ALIGNMENT: Final = 64
_LOG2_E: Final = 1.4426950408889634

Cells = npt.NDArray[np.uint32]


class _Shape(ctypes.Structure):
    _fields_ = (
        ("hidden", ctypes.c_int64),
        ("layers", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("intermediate", ctypes.c_int64),
        ("positions", ctypes.c_int64),
        ("eps", ctypes.c_float),
    )


class NativeEncoder:
    """Vectors of positions → embeddings, customer by customer.

    A result does not depend on the batch, in no bit. The weights are copied; the encoder may be changed or freed.

    Args:
        encoder: in evaluation mode, float32.
        precision: of products; sums, norms and residuals are float32 in both.
        threads: customers computed at the same time.

    Raises:
        Unavailable: the encoder is not a BERT of a kind that is known, or no library fits the processor, see
            :func:`models.native_library.load_library`.

    Example:
        >>> NativeEncoder(model.encoder, "bfloat16")(vectors, lengths).shape  # doctest: +SKIP
        (64, 96)
    """

    def __init__(self, encoder: CustomerEncoder, precision: Precision, threads: int = 1) -> None:
        self.hidden = encoder.hidden
        self.precision = precision
        self._shape = _shape(encoder)
        self._library, self.origin = load_library(precision)
        self._weights = _weights(encoder, STEP[precision])
        self._room = int(self._library.pulsegraph_room(ctypes.byref(self._shape)))
        self._rooms = [_aligned(self._room) for _ in range(max(1, threads))]
        self._threads = ThreadPoolExecutor(threads, "encode-part") if threads > 1 else None

    def __call__(self, vectors: Floats, lengths: Ints) -> Floats:
        """Embeddings as ``CustomerEncoder`` gives them, (B, H).

        Args:
            vectors: of all positions, (T, H).
            lengths: how many of them are each customer's, (B,).
        """
        flat = np.ascontiguousarray(vectors, dtype=np.float32)
        out = np.empty((len(lengths), self.hidden), dtype=np.float32)
        ends = np.cumsum(lengths, dtype=np.int64)
        parts = min(len(self._rooms), max(1, len(lengths) // 2))
        if self._threads is None or parts == 1:
            self._run(flat, ends, out, self._rooms[0])
            return out
        # Of about as many positions each.
        cuts = np.searchsorted(ends, ends[-1] * np.arange(1, parts) / parts).tolist()
        runs = []
        for first, last, room in zip([0, *cuts], [*cuts, len(lengths)], self._rooms, strict=False):
            begin = int(ends[first - 1]) if first else 0
            runs.append(self._threads.submit(self._run, flat[begin:], ends[first:last] - begin, out[first:last], room))
        for run in runs:
            run.result()
        return out

    def _run(self, vectors: Floats, ends: Ints, out: Floats, room: Cells) -> None:
        # ctypes lets go of the interpreter lock for the whole batch.
        self._library.pulsegraph_encode(
            ctypes.byref(self._shape),
            self._weights.ctypes.data,
            vectors.ctypes.data,
            ends.ctypes.data,
            len(ends),
            room.ctypes.data,
            out.ctypes.data,
        )


def _shape(encoder: CustomerEncoder) -> _Shape:
    config: Any = encoder.config
    known = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "is_decoder": False,
        "add_cross_attention": False,
    }
    for name, value in known.items():
        if getattr(config, name, value) != value:
            raise Unavailable(f"{name} is {getattr(config, name)!r}, the native encoder knows {value!r}")
    if getattr(config, "position_embedding_type", "absolute") != "absolute":
        raise Unavailable("positions are not absolute")
    hidden, heads, intermediate = config.hidden_size, config.num_attention_heads, config.intermediate_size
    if hidden % (2 * heads) or intermediate % 2:
        raise Unavailable(f"sizes {hidden}, {heads} heads and {intermediate} are not even")
    return _Shape(
        hidden=hidden,
        layers=config.num_hidden_layers,
        heads=heads,
        intermediate=intermediate,
        positions=encoder.size.positions,
        eps=config.layer_norm_eps,
    )


def _weights(encoder: CustomerEncoder, step: int) -> Cells:
    """All weights in the order in which ``encoder.c`` reads them."""
    state: dict[str, Tensor] = {name: t.detach().float().cpu() for name, t in encoder.body.state_dict().items()}
    parts: list[Cells] = []

    def floats(tensor: Tensor) -> None:
        parts.append(tensor.contiguous().numpy().view(np.uint32).ravel())

    def cells(tensor: Tensor) -> None:
        if step == 1:
            floats(tensor)
        else:
            parts.append(tensor.to(torch.bfloat16).contiguous().view(torch.int16).numpy().view(np.uint32).ravel())

    def scaled_norm(name: str) -> None:
        floats(state[f"{name}.weight"])
        floats(state[f"{name}.bias"])

    # A config may have more places than the longest sequence has positions.
    places = state["embeddings.position_embeddings.weight"][: encoder.size.positions]
    floats(places + state["embeddings.token_type_embeddings.weight"][0])
    scaled_norm("embeddings.LayerNorm")
    # Scores come out as powers of two, for which exp is cheapest.
    scale = _LOG2_E * (encoder.config.num_attention_heads / encoder.hidden) ** 0.5
    for layer in range(encoder.config.num_hidden_layers):
        at = f"encoder.layer.{layer}"
        projected = [f"{at}.attention.self.{name}" for name in ("query", "key", "value")]
        for suffix, put in (("weight", cells), ("bias", floats)):
            query, *others = (state[f"{name}.{suffix}"] for name in projected)
            put(torch.cat([query * scale, *others]))
        for name, normed in (("attention.output", True), ("intermediate", False), ("output", True)):
            cells(state[f"{at}.{name}.dense.weight"])
            floats(state[f"{at}.{name}.dense.bias"])
            if normed:
                scaled_norm(f"{at}.{name}.LayerNorm")
    out = _aligned(sum(len(part) for part in parts))
    np.concatenate(parts, out=out)
    return out


def _aligned(cells: int) -> Cells:
    raw = np.zeros(4 * cells + _ALIGNMENT, dtype=np.uint8)
    skip = -raw.ctypes.data % _ALIGNMENT
    return raw[skip : skip + 4 * cells].view(np.uint32)
