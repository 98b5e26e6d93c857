"""Where training runs, what is done there to make it fast, and how arrays come to a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

COMPILED_LAYERS: Final = 4
"""Bodies of so many layers and more are compiled on CUDA; for smaller ones compiling takes longer than it saves."""


def training_device(wanted: str, say: Callable[[str], None]) -> torch.device:
    """The device that was asked for, or the CPU with a message why.

    Args:
        wanted: ``cpu`` or ``cuda``.
        say: called with the message.
    """
    try:
        device = torch.device(wanted)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        say(f"{wanted} cannot be used here ({lines[0]}); training on the CPU")
        return torch.device("cpu")
    return device


def put(array: np.ndarray[Any, np.dtype[Any]], device: torch.device) -> Tensor:
    """An array on a device, by a copy that nobody waits for."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def autocast(device: torch.device) -> AbstractContextManager[Any]:
    """bfloat16 products on CUDA; weights, sums and losses stay float32."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else nullcontext()


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """So many threads of one operation meanwhile: sums depend on it in their last bits. None: as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def compiled(
    body: Any, trial: Callable[[], object], wanted: bool, say: Callable[[str], None], backend: str = "inductor"
) -> Iterator[None]:
    """A body that is compiled meanwhile, or is not where that fails, with a message why.

    Args:
        body: a module, changed in place; its weights keep their names.
        trial: calls the body once.
        wanted: see :func:`worth_compiling`.
    """
    if wanted:
        body.compile(dynamic=True, backend=backend)
        try:
            trial()
        except Exception as error:  # noqa: BLE001 - whatever the compiler, or the one behind it, raises
            body.__dict__.pop("_compiled_call_impl", None)
            say(f"not compiled ({type(error).__name__}); training goes on without")
    try:
        yield
    finally:
        body.__dict__.pop("_compiled_call_impl", None)  # what nn.Module.compile sets, and has no way to take back


def worth_compiling(config: Any, device: torch.device) -> bool:
    """Where compiling pays: deep bodies on CUDA."""
    return device.type == "cuda" and getattr(config, "num_hidden_layers", 0) >= COMPILED_LAYERS
