"""``encoder.c``, compiled: what a wheel brings, or what this machine's compiler makes when it is first wanted.

A wheel that was built where there is a C compiler has one library for each of :data:`LEVELS`. A checkout, and a
processor that none of them fits, compile for exactly this processor. That library is kept in the user's cache folder,
named by its source, its flags and the processor.

``setup.py`` imports this module while a wheel is built, so nothing but the standard library is imported here.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final, Literal, NamedTuple

Precision = Literal["float32", "bfloat16"]

SOURCE: Final = Path(__file__).with_name("encoder.c")
FLAGS: Final = (
    "-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", "-shared", "-fPIC",
)  # fmt: skip
COMPILE_S: Final = 120.0
STEP: Final[dict[Precision, int]] = {"float32": 1, "bfloat16": 2}
"""Numbers in a cell of ``encoder.c``."""
BFLOAT16: Final = "avx512_bf16"
"""The feature of processors that multiply bfloat16."""

logger: Final = logging.getLogger(__name__)


class Level(NamedTuple):
    """A kind of x86-64 processors that a wheel has a library for."""

    precision: Precision
    features: tuple[str, ...]
    """What the processor must have, as Linux names it; the last one names the library."""

    @property
    def file(self) -> str:
        """Name of the library beside ``encoder.c``."""
        return f"encoder-{self.precision}-{self.features[-1]}.so"

    @property
    def flags(self) -> tuple[str, ...]:
        """For the compiler."""
        return tuple(f"-m{feature.replace('_', '')}" for feature in self.features)


_AVX2: Final = ("fma", "avx2")
_AVX512: Final = (*_AVX2, "avx512bw", "avx512dq", "avx512vl", "avx512f")
#: The best of each precision first.
LEVELS: Final = (
    Level("bfloat16", (*_AVX512, BFLOAT16)),
    Level("float32", _AVX512),
    Level("float32", _AVX2),
)


class Unavailable(Exception):
    """There is no native encoder for this model on this machine; the message says why."""


class NativeLibrary(NamedTuple):
    """A library that fits this processor."""

    functions: ctypes.CDLL
    origin: str
    """Where it came from, for people: ``avx512f, packaged`` or ``compiled here``."""


@functools.cache
def load_library(precision: Precision) -> NativeLibrary:
    """The library for this processor: the best one that was packaged, else one that is compiled now or was before.

    Raises:
        Unavailable: none was packaged for it, and none can be compiled.
    """
    features = set(_processor().split())
    if precision == "bfloat16" and BFLOAT16 not in features:
        raise Unavailable("the processor has no bfloat16 products (AVX512_BF16)")
    for level in LEVELS:
        path = SOURCE.with_name(level.file)
        if level.precision == precision and features.issuperset(level.features) and path.exists():
            try:
                return NativeLibrary(_opened(path), f"{level.features[-1]}, packaged")
            except OSError as error:
                logger.warning("%s cannot be loaded (%s): the encoder is compiled here", path, error)
    return NativeLibrary(_compiled_here(precision), "compiled here")


def compiler() -> str | None:
    """The C compiler of this machine."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def compile_library(precision: Precision, flags: tuple[str, ...], path: Path) -> None:
    """Compile beside the name, then rename: whoever starts at the same time sees a whole library or none.

    Args:
        flags: that say for which processors.

    Raises:
        Unavailable: there is no compiler, or it fails.
    """
    handle, fresh = tempfile.mkstemp(suffix=".so", dir=path.parent)
    os.close(handle)
    try:
        argv = [compiler() or "cc", *_all(precision, flags), str(SOURCE), "-o", fresh, "-lm"]
        subprocess.run(argv, check=True, capture_output=True, timeout=COMPILE_S)
        os.replace(fresh, path)
    except (OSError, subprocess.SubprocessError) as error:
        Path(fresh).unlink(missing_ok=True)
        output = getattr(error, "stderr", None) or b""
        raise Unavailable(
            f"the encoder does not compile here ({error}; {output.decode(errors='replace')[:200]})"
        ) from (error)


def _all(precision: Precision, flags: tuple[str, ...]) -> tuple[str, ...]:
    return *FLAGS, *flags, f"-DSTEP={STEP[precision]}"


def _compiled_here(precision: Precision) -> ctypes.CDLL:
    found = compiler()
    if found is None:
        raise Unavailable("no library was packaged for this processor, and there is no C compiler: install gcc")
    flags = ("-march=native",)
    try:
        source = SOURCE.read_text()
    except OSError as error:
        raise Unavailable(f"{SOURCE} cannot be read ({error.strerror})") from error
    said = "\0".join([source, *_all(precision, flags), found, platform.machine(), _processor()])
    name = f"encoder-{hashlib.blake2b(said.encode(), digest_size=12).hexdigest()}.so"
    with tempfile.TemporaryDirectory() as scratch:
        path = (_cache() or Path(scratch)) / name
        if not path.exists():
            compile_library(precision, flags, path)
        try:
            return _opened(path)
        except OSError as error:
            path.unlink(missing_ok=True)  # damaged, perhaps: the next start makes it again
            raise Unavailable(f"the compiled encoder cannot be loaded ({error})") from error


def _opened(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    library.pulsegraph_room.argtypes = (ctypes.c_void_p,)
    library.pulsegraph_room.restype = ctypes.c_int64
    library.pulsegraph_encode.argtypes = (
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p,
        ctypes.c_void_p,
    )  # fmt: skip
    library.pulsegraph_encode.restype = None
    return library


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
