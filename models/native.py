"""The BERT encoder in C (``encoder.c``), compiled for the processor it runs on when it is first wanted.

Only for what it knows: a BERT body on a CPU. Everything else, and every machine without a C compiler, takes the way of
:class:`models.encoder.CustomerEncoder`, which knows any Hugging Face encoder.

The library is kept in the user's cache folder, named by its source, its flags and the processor.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.encoder import CustomerEncoder
from models.wide import Floats, Ints

Precision = Literal["float32", "bfloat16"]

SOURCE: Final = Path(__file__).with_name("encoder.c")
FLAGS: Final = (
    "-std=gnu11", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", "-shared", "-fPIC",
)  # fmt: skip
COMPILE_S: Final = 120.0
_STEP: Final[dict[Precision, int]] = {"float32": 1, "bfloat16": 2}
_ALIGNMENT: Final = 64
_LOG2_E: Final = 1.4426950408889634

Cells = npt.NDArray[np.uint32]


class Unavailable(Exception):
    """There is no native encoder for this model on this machine; the message says why."""


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
        Unavailable: the encoder is not a BERT of a kind that is known, or there is no compiler, or no bfloat16.

    Example:
        >>> NativeEncoder(model.encoder, "bfloat16")(vectors, lengths).shape  # doctest: +SKIP
        (64, 96)
    """

    def __init__(self, encoder: CustomerEncoder, precision: Precision, threads: int = 1) -> None:
        self.hidden = encoder.hidden
        self.precision = precision
        self._shape = _shape(encoder)
        self._library = _library(precision)
        self._weights = _weights(encoder, _STEP[precision])
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


@functools.cache
def _library(precision: Precision) -> ctypes.CDLL:
    if precision == "bfloat16" and "avx512_bf16" not in _processor().split():
        raise Unavailable("the processor has no bfloat16 products (AVX512_BF16)")
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise Unavailable("there is no C compiler; install gcc or clang")
    flags = (*FLAGS, f"-DSTEP={_STEP[precision]}")
    try:
        source = SOURCE.read_text()
    except OSError as error:
        raise Unavailable(f"{SOURCE} cannot be read ({error.strerror})") from error
    said = "\0".join([source, *flags, compiler, platform.machine(), _processor()])
    name = f"encoder-{hashlib.blake2b(said.encode(), digest_size=12).hexdigest()}.so"
    with tempfile.TemporaryDirectory() as scratch:
        folder = _cache() or Path(scratch)
        path = folder / name
        if not path.exists():
            _compile(compiler, flags, path)
        try:
            library = ctypes.CDLL(str(path))
        except OSError as error:
            path.unlink(missing_ok=True)  # damaged, perhaps: the next start makes it again
            raise Unavailable(f"the compiled encoder cannot be loaded ({error})") from error
    library.pulsegraph_room.argtypes = (ctypes.c_void_p,)
    library.pulsegraph_room.restype = ctypes.c_int64
    library.pulsegraph_encode.argtypes = (
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p,
        ctypes.c_void_p,
    )  # fmt: skip
    library.pulsegraph_encode.restype = None
    return library


def _compile(compiler: str, flags: tuple[str, ...], path: Path) -> None:
    """Beside its name, then renamed: whoever starts at the same time sees a whole library or none."""
    handle, fresh = tempfile.mkstemp(suffix=".so", dir=path.parent)
    os.close(handle)
    try:
        subprocess.run(
            [compiler, *flags, str(SOURCE), "-o", fresh, "-lm"], check=True, capture_output=True, timeout=COMPILE_S
        )
        os.replace(fresh, path)
    except (OSError, subprocess.SubprocessError) as error:
        Path(fresh).unlink(missing_ok=True)
        output = getattr(error, "stderr", None) or b""
        raise Unavailable(
            f"the encoder does not compile here ({error}; {output.decode(errors='replace')[:200]})"
        ) from (error)


def _cache() -> Path | None:
    """A folder that nobody else can write to, for what will be loaded as code; None where there is none."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = (Path(base) if base else Path.home() / ".cache") / "pulsegraph"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        there = folder.stat()
        private = there.st_uid == os.getuid() and not there.st_mode & 0o022 and os.access(folder, os.W_OK)
        return folder if private else None
    except (OSError, RuntimeError):
        return None


@functools.cache
def _processor() -> str:
    """Model and features of the processor, as Linux reports them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    fields = {line.split(":", 1)[0].strip(): line.split(":", 1)[1].strip() for line in lines if ":" in line}
    return f"{fields.get('model name', '')} {fields.get('flags', fields.get('Features', ''))}"
