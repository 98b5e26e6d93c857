"""Every way to embed gives what transformers gives, one customer at a time, from the vectors of the input layer."""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from support import model_worlds as worlds
from torch import Tensor

from models import native, native_library, precision
from models.candidate_head import CandidateHead
from models.embedding import NativeEmbedder, TorchEmbedder
from models.encoder import CustomerEncoder, EncoderSize, default_config, flops_of, pool
from models.heads import CustomerHead, Head
from models.model import Model
from models.native import NativeEncoder
from models.native_library import LEVELS, Level, load_library
from models.sequence import AMOUNTS, KINDS, SECTION_OF_KIND, Sequences, SequenceSize, concatenated
from models.tasks import TASKS
from models.wide import COLUMNS
from schemas.errors import ConfigError

VOCABULARY = len(worlds.vocabulary())
CPU = torch.device("cpu")
FEW = SequenceSize(recent=12, history=6, graph=8)
SIZES = {
    "default": EncoderSize(),
    "small": EncoderSize(hidden=32, layers=1, heads=2, intermediate=32, sequence=FEW),
    "odd": EncoderSize(
        hidden=36, layers=3, heads=6, intermediate=50, sequence=SequenceSize(recent=30, history=24, graph=20)
    ),
    "wide": EncoderSize(
        hidden=128, layers=1, heads=2, intermediate=512, sequence=SequenceSize(recent=100, history=60, graph=39)
    ),
}
#: How far an embedding, whose numbers are about 1, may be from transformers in float32.
NEAR = {"float32": 2e-5, "bfloat16": 0.03}


def encoder_of(name: str) -> CustomerEncoder:
    """Weights large enough that attention is not uniform, and biases and norms that are not all alike."""
    size = SIZES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        encoder = CustomerEncoder(default_config(size), VOCABULARY, size.sequence).eval()
        for parameter in encoder.body.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.08)
    return encoder


def one_customer(random: np.random.Generator, length: int, size: SequenceSize) -> Sequences:
    """Of whom arbitrary things are known, in so many positions."""
    most = np.array([1, size.recent, size.history, size.graph])
    sections = np.repeat(np.arange(4), most)[1:]
    section = np.concatenate([[0], np.sort(random.permutation(sections)[: length - 1])]).astype(np.int64)
    of_section = [[kind for kind, at in enumerate(SECTION_OF_KIND) if at == wanted] for wanted in range(4)]
    counts = random.integers(0, 6, length)
    words = int(counts.sum())
    return Sequences(
        numbers=random.normal(size=(1, COLUMNS)).astype(np.float32),
        lengths=np.array([length]),
        kind=np.array([random.choice(of_section[at]) for at in section], dtype=np.uint8),
        rank=np.concatenate([np.arange((section == at).sum()) for at in range(4)]).astype(np.uint8),
        age_days=random.exponential(50.0, length).astype(np.float32),
        gap_days=random.choice([-1.0, 0.0, 3.5], length).astype(np.float32),
        hour=random.choice([-1.0, 0.0, 100.0], length).astype(np.float32),
        year=random.random(length, dtype=np.float32),
        amounts=random.normal(size=(length, len(AMOUNTS))).astype(np.float32),
        counts=counts,
        words=random.integers(1, VOCABULARY, words).astype(np.uint16),
        weights=random.random(words, dtype=np.float32),
    )


def customers(size: SequenceSize, count: int = 30) -> list[Sequences]:
    """Of lengths about the width of vectors, and of any other."""
    random, most = np.random.default_rng(1), size.positions
    lengths = [1, 2, 15, 16, 17, 63, 64, 65, most - 1, most, *random.integers(1, most + 1, count)]
    return [one_customer(random, min(int(length), most), size) for length in lengths]


def plainly(encoder: CustomerEncoder, everyone: list[Sequences]) -> Tensor:
    """One customer at a time through transformers: no batch and no padding."""
    rows = []
    for one in everyone:
        with torch.inference_mode():
            vectors = encoder.input.flat(one)[None]
            states = encoder.body(inputs_embeds=vectors).last_hidden_state
            rows.append(pool(states, torch.ones(states.shape[:2])))
    return torch.cat(rows)


def compiled(encoder: CustomerEncoder, dtype: torch.dtype, threads: int = 1) -> NativeEmbedder:
    try:
        return NativeEmbedder(encoder, dtype, threads)
    except native_library.Unavailable as reason:
        pytest.skip(str(reason))


def small_model() -> Model:
    size = SIZES["small"]
    return Model(default_config(size), worlds.vocabulary(), size.sequence, TASKS).eval()


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_native_encoder_is_transformers(name: str, dtype: torch.dtype) -> None:
    encoder = encoder_of(name)
    everyone = customers(encoder.size)
    wanted = plainly(encoder, everyone)
    for threads in (1, 2):
        found = compiled(encoder, dtype, threads)(concatenated(everyone))
        assert found.dtype == torch.float32
        assert float((found - wanted).abs().max()) < NEAR[str(dtype).removeprefix("torch.")]


@pytest.mark.parametrize("name", ["default", "small"])
def test_groups_of_like_length_come_back_in_order(name: str) -> None:
    encoder = encoder_of(name)
    everyone = customers(encoder.size)
    found = TorchEmbedder(encoder, CPU)(concatenated(everyone))
    assert float((found - plainly(encoder, everyone)).abs().max()) < 1e-5


def test_padding_does_not_matter() -> None:
    encoder = encoder_of("default")
    everyone = customers(encoder.size)
    with torch.inference_mode():
        together = encoder(concatenated(everyone))
    assert float((together - plainly(encoder, everyone)).abs().max()) < 1e-5


@pytest.mark.parametrize("precision_of", ["float32", "bfloat16"])
def test_a_native_result_does_not_depend_on_the_batch_in_any_bit(precision_of: native_library.Precision) -> None:
    encoder = encoder_of("default")
    everyone = customers(encoder.size)
    try:
        run, threaded = (NativeEncoder(encoder, precision_of, threads) for threads in (1, 3))
    except native_library.Unavailable as reason:
        pytest.skip(str(reason))
    with torch.inference_mode():
        vectors = [encoder.input.flat(one).numpy() for one in everyone]
    lengths = np.array([len(of_one) for of_one in vectors])
    together = run(np.concatenate(vectors), lengths)
    for at, of_one in enumerate(vectors):
        assert np.array_equal(run(of_one, lengths[at : at + 1])[0], together[at])
    assert np.array_equal(run(np.concatenate(vectors[::-1]), lengths[::-1])[::-1], together)
    assert np.array_equal(threaded(np.concatenate(vectors), lengths), together), "nor on the number of threads"


def test_vectors_of_positions_do_not_depend_on_the_batch() -> None:
    encoder = encoder_of("default")
    everyone = customers(encoder.size)
    with torch.inference_mode():
        together = encoder.input.flat(concatenated(everyone))
        alone = torch.cat([encoder.input.flat(one) for one in everyone])
    assert float((together - alone).abs().max()) < 1e-5, "beyond the last bits: torch sums in blocks of its own choice"


def test_nobody_is_embedded_too() -> None:
    encoder = encoder_of("small")
    nobody = customers(encoder.size)[0].take(np.zeros(0, dtype=np.int64))
    for embedder in (TorchEmbedder(encoder, CPU), compiled(encoder, torch.float32)):
        assert embedder(nobody).shape == (0, 32)


def test_numbers_that_are_hidden_do_not_show() -> None:
    encoder = encoder_of("small")
    one = customers(encoder.size)[5]
    twin = replace(one, numbers=one.numbers + 1)
    both = concatenated([one, twin])
    with torch.inference_mode():
        shown, hidden = encoder(both, torch.zeros(2)), encoder(both, torch.ones(2))
        assert not torch.allclose(shown[0], shown[1], atol=1e-3)
        assert torch.allclose(hidden[0], hidden[1], atol=1e-6)
        assert torch.allclose(encoder(both), shown, atol=1e-6), "all are shown where nothing is said"
        mixed = encoder(both, torch.tensor([False, True]))
        assert torch.allclose(mixed[0], shown[0], atol=1e-6)
        assert torch.allclose(mixed[1], hidden[1], atol=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 3e38])
def test_numbers_that_are_none_poison_nothing(value: float) -> None:
    encoder = encoder_of("small")
    one, other = customers(encoder.size)[5:7]
    spoilt = replace(one, numbers=np.full_like(one.numbers, value))
    with torch.inference_mode():
        encoder.input.standardise(np.concatenate([one.numbers, spoilt.numbers, other.numbers]))
        assert torch.isfinite(encoder.input.mean).all()
        assert (encoder.input.deviation > 0).all()
        found = encoder(concatenated([spoilt, other]))
        assert torch.isfinite(found).all()
        assert torch.allclose(found[1], encoder(other)[0], atol=1e-5)


def test_absurd_times_and_amounts_give_a_number() -> None:
    encoder = encoder_of("small")
    one = customers(encoder.size)[5]
    for days in (-1e6, 1e11):
        far = replace(one, age_days=np.full_like(one.age_days, days), amounts=one.amounts * 0 + 88.0)
        with torch.inference_mode():
            assert torch.isfinite(encoder(far)).all()


def test_a_mean_is_of_what_is_known() -> None:
    encoder = encoder_of("small")
    numbers = np.zeros((4, COLUMNS), dtype=np.float32)
    numbers[:, 0] = [1, 3, np.nan, np.inf]
    numbers[:, 1] = np.nan
    encoder.input.standardise(numbers)
    assert encoder.input.mean[:3].tolist() == [2, 0, 0]
    assert encoder.input.deviation[:3].tolist() == [1, 1, 1]


def test_every_kind_has_ranks_of_its_own() -> None:
    layer = encoder_of("small").input
    most = (1, FEW.recent, FEW.history, FEW.graph)
    used = {
        (int(layer.first_rank[kind]) + rank)
        for kind in range(len(KINDS))
        for rank in range(most[SECTION_OF_KIND[kind]])
    }
    assert used == set(range(layer.ranks.num_embeddings))


@pytest.mark.parametrize("places", [FEW.positions, 512])
def test_a_body_with_more_places_than_are_needed_is_served_in_c(places: int) -> None:
    config = default_config(SIZES["small"])
    config.max_position_embeddings = places
    encoder = CustomerEncoder(config, VOCABULARY, FEW).eval()
    everyone = customers(FEW)
    found = compiled(encoder, torch.float32)(concatenated(everyone))
    assert float((found - plainly(encoder, everyone)).abs().max()) < 2e-5


def test_a_body_with_too_few_places_is_refused() -> None:
    config = default_config(SIZES["small"])
    config.max_position_embeddings = FEW.positions - 1
    with pytest.raises(ConfigError, match=f"{FEW.positions - 1} places"):
        CustomerEncoder(config, VOCABULARY, FEW)


@pytest.mark.parametrize("recent", [-1, 256])
def test_ranks_past_a_byte_are_refused(recent: int) -> None:
    size = SequenceSize(recent=recent)
    with pytest.raises(ConfigError, match="0 to 255 positions"):
        CustomerEncoder(default_config(EncoderSize(sequence=size)), VOCABULARY, size)


def test_what_the_native_encoder_does_not_know_is_left_to_torch() -> None:
    config = default_config(SIZES["small"])
    config.hidden_act = "relu"
    with pytest.raises(native_library.Unavailable, match="hidden_act"):
        NativeEmbedder(CustomerEncoder(config, VOCABULARY, FEW).eval(), torch.float32)
    from transformers import DistilBertConfig

    other = DistilBertConfig(vocab_size=1, dim=32, n_layers=1, n_heads=2, hidden_dim=32, max_position_embeddings=64)
    model = Model(other, worlds.vocabulary(), FEW, TASKS).eval()
    chosen = precision.choose(model, CPU, half=False, threads=1, clock=lambda: 0.0)
    assert isinstance(chosen, TorchEmbedder)
    assert chosen(one_customer(np.random.default_rng(0), 5, FEW)).shape == (1, 32)


@pytest.mark.parametrize(
    "size",
    [
        SequenceSize(recent=0, history=0, graph=0),
        SequenceSize(recent=12, history=6, graph=0),
        SequenceSize(recent=0, history=3, graph=0),
        SequenceSize(recent=0, history=0, graph=2),
    ],
    ids=str,
)
def test_the_trial_fits_any_size(size: SequenceSize) -> None:
    small = msgspec.structs.replace(SIZES["small"], sequence=size)
    model = Model(default_config(small), worlds.vocabulary(), size, TASKS).eval()
    chosen = precision.choose(model, CPU, half=None, threads=1, clock=lambda: 0.0)
    assert chosen(one_customer(np.random.default_rng(0), size.positions, size)).shape == (1, 32)


def test_without_a_compiler_torch_embeds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(native, "load_library", load_library.__wrapped__)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert isinstance(precision.choose(small_model(), CPU, half=False, threads=1, clock=lambda: 0.0), TorchEmbedder)
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho no such flag >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda name: str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(native_library.Unavailable, match="no such flag"):
        load_library.__wrapped__("float32")
    assert list((tmp_path / "pulsegraph").iterdir()) == [], "nothing half done is left"


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.file)
@pytest.mark.parametrize("damaged", [False, True])
def test_a_packaged_library_is_taken_where_it_fits(
    level: Level, damaged: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each of them computes what transformers does; one that is damaged is compiled here, and that is told."""
    if native_library.compiler() is None or not set(level.features) <= set(native_library._processor().split()):
        pytest.skip("there is no compiler, or not this kind of processor")
    source = tmp_path / "encoder.c"
    source.write_text(native_library.SOURCE.read_text())
    if damaged:
        (tmp_path / level.file).write_bytes(b"no library")
    else:
        native_library.compile_library(level.precision, level.flags, tmp_path / level.file)
    monkeypatch.setattr(native_library, "SOURCE", source)
    monkeypatch.setattr(native, "load_library", load_library.__wrapped__)
    if not damaged:
        monkeypatch.setattr("shutil.which", lambda name: None)
    encoder = encoder_of("small")
    embedder = NativeEmbedder(encoder, getattr(torch, level.precision))
    assert embedder.name.endswith("(compiled here)" if damaged else f"({level.features[-1]}, packaged)")
    assert ("cannot be loaded" in caplog.text) is damaged
    everyone = customers(FEW)
    apart = (embedder(concatenated(everyone)) - plainly(encoder, everyone)).abs().max()
    assert float(apart) < NEAR[level.precision]


def test_a_packaged_library_is_not_taken_where_it_does_not_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(native_library, "SOURCE", tmp_path / "encoder.c")
    for level in LEVELS:
        (tmp_path / level.file).write_bytes(b"not opened")
    monkeypatch.setattr(native_library, "_processor", lambda: "An old one sse2 avx")
    monkeypatch.setattr("shutil.which", lambda name: None)
    for precision_of in ("float32", "bfloat16"):
        with pytest.raises(native_library.Unavailable, match=r"no bfloat16|no C compiler"):
            load_library.__wrapped__(precision_of)


def test_a_library_that_others_could_write_is_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = native_library._cache()
    assert folder == tmp_path / "pulsegraph"
    os.chmod(folder, 0o777)
    assert native_library._cache() is None


def test_a_native_encoder_that_differs_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    compiled(model.encoder, torch.float32)
    right = NativeEmbedder.__call__
    monkeypatch.setattr(NativeEmbedder, "__call__", lambda self, batch: right(self, batch) * 1.01)
    assert isinstance(precision.choose(model, CPU, half=False, threads=1, clock=lambda: 0.0), TorchEmbedder)


@pytest.mark.parametrize(("rounded_s", "wanted"), [(0.5, torch.bfloat16), (0.95, torch.float32)])
def test_bfloat16_is_taken_where_it_is_faster(rounded_s: float, wanted: torch.dtype) -> None:
    model = small_model()
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


def test_torch_runs_the_body_in_bfloat16_and_what_is_before_it_in_float32() -> None:
    model = small_model()
    everyone = concatenated(customers(FEW))
    exact = TorchEmbedder(model.encoder, CPU)(everyone)
    rounded = precision.choose(model, CPU, half=True, threads=1, clock=lambda: 0.0, compiled=False)
    assert (rounded.dtype, model.encoder.input.time.weight.dtype) == (torch.bfloat16, torch.float32)
    found = rounded(everyone)
    assert found.dtype == torch.float32
    assert float((found - exact).abs().max()) < 0.05


class Shifted:
    """An embedder whose numbers are off by a little; it takes no time at all."""

    name = "shifted"
    runtime = "torch"
    device = CPU
    dtype = torch.bfloat16

    def __init__(self, by: float) -> None:
        self._by = by

    def __call__(self, batch: Sequences) -> Tensor:
        return torch.full((len(batch), SIZES["small"].hidden), self._by)


@pytest.mark.parametrize("head", ["churn", "redemption"])
def test_rounding_is_judged_by_every_head(head: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = small_model()
        churn, redemption = model.heads["churn"], model.heads["redemption"]
        assert isinstance(churn, CustomerHead)
        assert isinstance(redemption, CandidateHead)
        for last in (churn.deep, redemption.candidate[-1]):
            assert isinstance(last, torch.nn.Linear)
            torch.nn.init.normal_(last.weight, std=1.0)
    for shut in (churn, redemption):
        shut.gate.zero_()
    trial = concatenated(customers(FEW)[:4])

    def worth(by: float) -> bool:
        return precision._worth(model, Shifted(0.0), Shifted(by), trial, trial, clock)

    spans = itertools.cycle([0.5] * precision.REPEATS + [1.0] * precision.REPEATS)
    now_s, begins = 0.0, itertools.cycle([True, False])

    def clock() -> float:
        nonlocal now_s
        if not next(begins):
            now_s += next(spans)
        return now_s

    assert worth(0.1), "neither head looks at the embedding"
    opened = model.heads[head]
    assert isinstance(opened, Head)
    opened.gate.fill_(1.0)
    assert not worth(0.1)
    assert worth(1e-5)


def test_products_are_counted() -> None:
    size = EncoderSize(hidden=4, layers=2, heads=2, intermediate=8)
    a_token = 4 * 2 * 4 * 4 + 2 * 2 * 4 * 8
    assert flops_of(3, size) == 2 * (3 * a_token + 2 * 2 * 3 * 3 * 4)
