"""On a device, in fixed shapes: what transformers gives, whatever fails on the way. Marked ones want a GPU."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import model_worlds as worlds
from torch import Tensor

from models import precision
from models.device_embedding import ROWS, DeviceEmbedder, GuardedEmbedder
from models.embedding import GPU_POSITIONS, TorchEmbedder
from models.encoder import CustomerEncoder, EncoderSize, default_config
from models.inference import Predictor
from models.model import Model
from models.sequence import Sequences, SequenceSize
from models.tasks import TASKS

#: Any device but the plain CPU; there is always this one.
DEVICE = torch.device("cpu:0")
CPU = torch.device("cpu")
FEW = SequenceSize(recent=12, history=6, graph=8)
SIZE = EncoderSize(hidden=32, layers=1, heads=2, intermediate=32, sequence=FEW)
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that torch can use")


def small_model() -> Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Model(default_config(SIZE), worlds.vocabulary(), FEW, TASKS).eval()


MODEL = small_model()
ENCODER: CustomerEncoder = MODEL.encoder


def customers(count: int) -> Sequences:
    """Of either length of the trial, in any order."""
    trial = precision._trial(MODEL)
    return trial.take(np.random.default_rng(count).integers(0, len(trial), count))


class Failing(DeviceEmbedder):
    """With memory for so many customers at a time, and an end after so many passes."""

    def __init__(self, room: int, passes: int = 10_000) -> None:
        super().__init__(ENCODER, DEVICE, torch.float32)
        self.room, self.left, self.tried = room, passes, list[int]()

    def __call__(self, batch: Sequences) -> Tensor:
        self.tried.append(len(batch))
        if len(batch) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return super().__call__(batch)


def near(found: Tensor, batch: Sequences) -> bool:
    wanted = TorchEmbedder(ENCODER, CPU)(batch)
    return found.shape == wanted.shape and (not len(batch) or float((found - wanted).abs().max()) < 1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40))
def test_fixed_shapes_change_nothing(count: int) -> None:
    batch = customers(count)
    assert near(DeviceEmbedder(ENCODER, DEVICE, torch.float32)(batch), batch)


def test_passes_are_of_few_shapes() -> None:
    embedder = DeviceEmbedder(ENCODER, DEVICE, torch.float32)
    shapes = set(embedder.shapes())
    assert shapes == {(rows, length) for rows in ROWS for length in (14, 27)}
    seen: set[tuple[int, ...]] = set()
    embedder._encoder.body.register_forward_pre_hook(
        lambda module, args, given: seen.add(tuple(given["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    for count in (1, 3, 17, 40, 100):
        embedder(customers(count))
    assert seen <= shapes and len(seen) > 4
    precision.warm(GuardedEmbedder(embedder, lambda: TorchEmbedder(ENCODER, CPU)), precision._trial(MODEL))
    assert seen == shapes, "none is left for the first batches"
    assert max(rows * length for rows, length in shapes) <= GPU_POSITIONS


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 4))
def test_nobody_is_lost_when_memory_is_short_or_the_device_fails(count: int, room: int, passes: int) -> None:
    batch, failing = customers(count), Failing(room, passes)
    guarded = GuardedEmbedder(failing, lambda: TorchEmbedder(ENCODER, CPU))
    assert guarded.device == DEVICE
    assert near(guarded(batch), batch)
    assert near(guarded(batch), batch), "and so the next time"


def test_batches_are_cut_once(caplog: pytest.LogCaptureFixture) -> None:
    failing = Failing(10)
    guarded = GuardedEmbedder(failing, lambda: TorchEmbedder(ENCODER, CPU))
    assert near(guarded(customers(32)), customers(32))
    assert failing.tried == [32, 16, 8, 8, 8, 8]
    assert caplog.text.count("no memory") == 2
    failing.tried.clear()
    guarded(customers(32))
    assert failing.tried == [8, 8, 8, 8], "what did not fit is not tried again"
    assert guarded.device == DEVICE


def test_a_device_that_fails_is_left_loudly(caplog: pytest.LogCaptureFixture) -> None:
    failing = Failing(100, passes=1)
    guarded = GuardedEmbedder(failing, lambda: TorchEmbedder(ENCODER, CPU))
    guarded(customers(5))
    assert not caplog.records
    assert near(guarded(customers(7)), customers(7))
    (told,) = caplog.records
    assert told.levelno == logging.ERROR and "cpu:0 failed" in told.getMessage()
    assert (guarded.device, guarded.runtime) == (CPU, "torch")
    failing.tried.clear()
    guarded(customers(5))
    assert failing.tried == []


def test_what_is_wrong_with_a_batch_is_raised() -> None:
    guarded = GuardedEmbedder(Failing(100), lambda: TorchEmbedder(ENCODER, CPU))
    batch = customers(3)
    batch.words[0] = 10_000_000
    with pytest.raises((RuntimeError, IndexError)):
        guarded(batch)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_fails_at_the_start_is_left_to_the_cpu(caplog: pytest.LogCaptureFixture) -> None:
    chosen = precision.choose(small_model(), torch.device("cuda"), half=False, threads=1, clock=lambda: 0.0)
    assert chosen.device == CPU
    assert "cuda cannot take the encoder" in caplog.text


@pytest.mark.parametrize("half", [None, True, False])
def test_bfloat16_is_judged_on_a_device_too(half: bool | None) -> None:
    found = precision._on_device(MODEL, DEVICE, half=half, clock=lambda: 0.0)
    assert found.dtype == (torch.float32 if half is False else found.dtype if half is None else torch.bfloat16)
    apart = found(customers(20)) - TorchEmbedder(ENCODER, CPU)(customers(20))
    assert float(apart.abs().max()) < (1e-5 if found.dtype == torch.float32 else 0.05)


@gpu
@pytest.mark.parametrize("half", [True, False])
def test_the_gpu_says_what_the_cpu_says(half: bool) -> None:
    predictors = [Predictor(small_model(), "m", device=device, half=half) for device in ("cuda", "cpu")]
    snapshots = [worlds.snapshot(customer) for customer in range(40)]
    for predictor in predictors:
        predictor.know(worlds.catalog())
    assert [predictor.device.type for predictor in predictors] == ["cuda", "cpu"]
    on_gpu, on_cpu = (predictor.encode(snapshots).embeddings for predictor in predictors)
    assert float(np.abs(on_gpu - on_cpu).max()) < (0.1 if half else 0.01)


@gpu
def test_memory_of_the_gpu_that_runs_out_costs_nobody() -> None:
    predictor = Predictor(small_model(), "m", device="cuda", half=False)
    batch = customers(2048)
    wanted = predictor.embed(batch)
    free, _ = torch.cuda.mem_get_info()
    hog = torch.empty(max(1, free - 64 * 2**20), dtype=torch.uint8, device="cuda")
    torch.cuda.empty_cache()
    assert float((predictor.embed(batch) - wanted).abs().max()) < 0.01
    del hog
