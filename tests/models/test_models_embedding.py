"""Every way to embed gives what transformers gives; the memory changes nothing but the time."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import model_worlds as worlds
from support.examples import examples
from torch import Tensor

from models import native, precision
from models.embedding import ENTRY_BYTES, Embedder, NativeEmbedder, Remembering, TorchEmbedder
from models.encoder import CustomerEncoder, EncoderSize, default_config, pool
from models.model import Model
from models.tokenizer import CLS_ID, UNK_ID
from schemas.snapshot import Head

VOCABULARY = 300
CPU = torch.device("cpu")
SIZES = {
    "default": EncoderSize(),
    "small": EncoderSize(hidden=32, layers=1, heads=2, intermediate=32, positions=64),
    "odd": EncoderSize(hidden=36, layers=3, heads=6, intermediate=50, positions=75),
    "wide": EncoderSize(hidden=128, layers=1, heads=2, intermediate=512, positions=200),
}
#: How far an embedding, whose numbers are about 1, may be from transformers in float32.
NEAR = {"float32": 1e-5, "bfloat16": 0.02}


def encoder_of(name: str) -> CustomerEncoder:
    """Weights large enough that attention is not uniform, and biases and norms that are not all alike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        encoder = CustomerEncoder(default_config(VOCABULARY, SIZES[name])).eval()
        for parameter in encoder.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.08)
    return encoder


def customers(count: int = 40, longest: int = 230) -> list[bytes]:
    random = np.random.default_rng(1)
    lengths = [0, 1, 15, 16, 17, 63, 64, 127, longest, *random.integers(0, longest, count)]
    return [random.integers(0, VOCABULARY + 20, n).astype("<u2").tobytes() for n in lengths]


def plainly(encoder: CustomerEncoder, tokens: Sequence[bytes]) -> Tensor:
    """One customer at a time through transformers: no batch, no padding, no cutting of ours."""
    rows = []
    for one in tokens:
        newest_first = np.frombuffer(one, dtype="<u2")[::-1][: encoder.positions - 1].astype(np.int64)
        ids = torch.tensor([[CLS_ID, *np.where(newest_first < VOCABULARY, newest_first, UNK_ID)]])
        with torch.inference_mode():
            rows.append(pool(encoder.body(input_ids=ids).last_hidden_state, torch.ones_like(ids)))
    return torch.cat(rows)


def compiled(encoder: CustomerEncoder, dtype: torch.dtype, threads: int = 1) -> NativeEmbedder:
    try:
        return NativeEmbedder(encoder, dtype, threads)
    except native.Unavailable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_native_encoder_is_transformers(name: str, dtype: torch.dtype) -> None:
    encoder, tokens = encoder_of(name), customers()
    embedder = compiled(encoder, dtype)
    found, wanted = embedder(tokens), plainly(encoder, tokens)
    assert found.dtype == torch.float32
    assert float((found - wanted).abs().max()) < NEAR[str(dtype).removeprefix("torch.")]


@pytest.mark.parametrize("name", ["default", "small"])
def test_groups_of_like_length_come_back_in_order(name: str) -> None:
    encoder, tokens = encoder_of(name), customers()
    assert float((TorchEmbedder(encoder, CPU)(tokens) - plainly(encoder, tokens)).abs().max()) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_native_result_does_not_depend_on_the_batch_in_any_bit(dtype: torch.dtype) -> None:
    encoder, tokens = encoder_of("default"), customers()
    embedder = compiled(encoder, dtype)
    together = embedder(tokens)
    assert torch.equal(torch.cat([embedder([one]) for one in tokens]), together)
    assert torch.equal(embedder(tokens[::-1]).flip(0), together)
    assert torch.equal(compiled(encoder, dtype, threads=3)(tokens), together), "nor on the number of threads"


def test_nobody_is_embedded_too() -> None:
    encoder = encoder_of("small")
    for embedder in (TorchEmbedder(encoder, CPU), compiled(encoder, torch.float32)):
        assert embedder([]).shape == (0, 32)
        assert Remembering(embedder, encoder.positions, 1000)([]).shape == (0, 32)


def test_what_the_native_encoder_does_not_know_is_left_to_torch() -> None:
    config = default_config(VOCABULARY, SIZES["small"])
    config.hidden_act = "relu"
    with pytest.raises(native.Unavailable, match="hidden_act"):
        NativeEmbedder(CustomerEncoder(config).eval(), torch.float32)
    from transformers import DistilBertConfig

    other = DistilBertConfig(
        vocab_size=len(worlds.vocabulary()), dim=32, n_layers=1, n_heads=2, hidden_dim=32, max_position_embeddings=64
    )
    model = Model(other, worlds.vocabulary()).eval()
    chosen = precision.choose(model, CPU, half=False, threads=1, clock=lambda: 0.0)
    assert isinstance(chosen, TorchEmbedder)
    assert chosen([b"\x07\x00"]).shape == (1, 32)


def test_without_a_compiler_torch_embeds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(native, "_library", native._library.__wrapped__)
    monkeypatch.setattr("shutil.which", lambda name: None)
    model = Model(default_config(len(worlds.vocabulary()), SIZES["small"]), worlds.vocabulary()).eval()
    assert isinstance(precision.choose(model, CPU, half=False, threads=1, clock=lambda: 0.0), TorchEmbedder)
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho no such flag >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda name: str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(native.Unavailable, match="no such flag"):
        native._library("float32")
    assert list((tmp_path / "pulsegraph").iterdir()) == [], "nothing half done is left"


def test_a_library_that_others_could_write_is_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = native._cache()
    assert folder == tmp_path / "pulsegraph"
    os.chmod(folder, 0o777)
    assert native._cache() is None


def test_a_native_encoder_that_differs_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(default_config(len(worlds.vocabulary()), SIZES["small"]), worlds.vocabulary()).eval()
    compiled(model.encoder, torch.float32)
    right = NativeEmbedder.__call__
    monkeypatch.setattr(NativeEmbedder, "__call__", lambda self, tokens: right(self, tokens) * 1.01)
    assert isinstance(precision.choose(model, CPU, half=False, threads=1, clock=lambda: 0.0), TorchEmbedder)


@pytest.mark.parametrize(("rounded_s", "wanted"), [(0.5, torch.bfloat16), (0.95, torch.float32)])
def test_bfloat16_is_taken_where_it_is_faster(rounded_s: float, wanted: torch.dtype) -> None:
    model = Model(default_config(len(worlds.vocabulary()), SIZES["small"]), worlds.vocabulary()).eval()
    compiled(model.encoder, torch.bfloat16)
    # The rounded way is timed first, then the exact one; each trial reads the clock before and after.
    spans = itertools.chain([rounded_s] * precision.REPEATS, itertools.repeat(1.0))
    now_s = 0.0
    begins = itertools.cycle([True, False])

    def clock() -> float:
        nonlocal now_s
        if not next(begins):
            now_s += next(spans)
        return now_s

    assert precision.choose(model, CPU, half=None, threads=1, clock=clock).dtype == wanted


class Shifted:
    """An embedder whose numbers are off by a little; it takes no time at all."""

    name = "shifted"
    dtype = torch.bfloat16

    def __init__(self, by: float) -> None:
        self._by = by

    def __call__(self, tokens: Sequence[bytes]) -> Tensor:
        return torch.full((len(tokens), SIZES["small"].hidden), self._by)


@pytest.mark.parametrize("head", ["churn", "redemption"])
def test_rounding_is_judged_by_every_head(head: Head) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = Model(default_config(len(worlds.vocabulary()), SIZES["small"]), worlds.vocabulary()).eval()
        for last in (model.churn.deep[-1], model.redemption.candidate[-1]):
            assert isinstance(last, torch.nn.Linear)
            torch.nn.init.normal_(last.weight, std=1.0)
    for shut in (model.churn, model.redemption):
        shut.gate.zero_()

    def worth(by: float) -> bool:
        return precision._worth(model, Shifted(0.0), Shifted(by), [b"\x07\x00"] * 4, clock)

    spans = itertools.cycle([0.5] * precision.REPEATS + [1.0] * precision.REPEATS)
    now_s, begins = 0.0, itertools.cycle([True, False])

    def clock() -> float:
        nonlocal now_s
        if not next(begins):
            now_s += next(spans)
        return now_s

    assert worth(0.1), "neither head looks at the embedding"
    model.head(head).gate.fill_(1.0)
    assert not worth(0.1)
    assert worth(1e-5)


class Counting:
    """An embedder that says how often it was asked."""

    name, dtype = "counting", torch.float32

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    def __call__(self, tokens: Sequence[bytes]) -> Tensor:
        self.asked += tokens
        return torch.tensor([[float(len(one)), float(sum(one))] for one in tokens]).reshape(len(tokens), 2)


def held(size: int) -> int:
    """Bytes of so many remembered customers of two tokens."""
    return size * (ENTRY_BYTES + 4 + 8)


@settings(max_examples=examples(50))
@given(st.lists(st.lists(st.sampled_from([b"", b"aa", b"bb", b"aabb", b"bbaa", b"ccaabb"]), max_size=6), max_size=8))
def test_what_is_remembered_is_what_was_computed(batches: list[list[bytes]]) -> None:
    for budget in (0, held(2), 1 << 20):
        inner: Embedder = Counting()
        memory = Remembering(inner, positions=3, budget_bytes=budget)
        for batch in batches:
            assert torch.equal(memory(batch), Counting()([one[-4:] for one in batch]))
            assert memory.used_bytes <= budget
            assert memory.used_bytes == 0 or len(memory) > 0


def test_equal_tokens_are_embedded_once() -> None:
    inner = Counting()
    memory = Remembering(inner, positions=3, budget_bytes=held(2))
    memory([b"aaaa", b"aaaa", b"xxaaaa"])
    assert inner.asked == [b"aaaa"], "also where they differ in what the encoder does not see"
    memory([b"bbbb"])
    memory([b"aaaa"])
    memory([b"cccc"])
    assert (memory.requested, memory.embedded, len(memory)) == (6, 3, 2)
    memory([b"aaaa"])
    assert memory.embedded == 3, "it was used last, so another one went"
    memory([b"bbbb"])
    assert memory.embedded == 4
