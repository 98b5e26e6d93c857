"""The bench of the encoder at a tiny size: it runs, and says what it promises to say."""

from __future__ import annotations

import msgspec
import pytest
import torch

from infra.bench import encode, encode_device
from infra.bench.encode_data import TIMED, Recorded, record
from infra.bench.report import Options
from schemas.errors import ConfigError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # two models are trained


def quiet(_text: str) -> None:
    pass


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Options:
    return Options(rounds=1, scale=0.01, folder=tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def recorded(options: Options) -> Recorded:
    return record(options, options.folder, quiet)


def test_both_sizes_are_compared_with_transformers(recorded: Recorded, options: Options) -> None:
    found = encode._on_cpu(recorded, options, quiet)
    names = {row.name for row in found.results}
    for size in TIMED:
        assert {f"{size}: {way}" for way in (encode.LONGEST, encode.SERVED, encode.INPUT)} <= names
        exact = next(row for row in found.results if row.name == f"{size}: {encode.EXACT}")
        assert float(exact.note.split()[3]) < 1e-3, "the same customers, the same weights"
    assert [target.target for target in found.targets] == [2.0, 2.0, 0.6, 0.6]
    assert all(row.median > 0 for row in found.results)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_that_is_said_at_once(options: Options) -> None:
    with pytest.raises(ConfigError, match="no GPU"):
        encode.run(msgspec.structs.replace(options, device="cuda"), quiet)


def test_what_is_measured_on_a_gpu_runs(recorded: Recorded, options: Options) -> None:
    found = encode_device.run("cpu", recorded, options, quiet)
    ways = (encode_device.BODY, encode_device.PACKED, encode_device.BYTES)
    assert [row.name for row in found.results] == [f"{size}: {way}" for size in TIMED for way in ways]
    assert [target.target for target in found.targets] == [0.5, 0.5]
