"""One model takes another's place: in the order of the announcements, and never a worse one for a better one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
from support import model_worlds as worlds
from support.small_model import save_small_version
from torch import Tensor

from models.device_embedding import DeviceEmbedder, GuardedEmbedder
from models.embedding import TorchEmbedder
from models.inference import Predictor
from models.sequence import Sequences
from schemas.catalog import CatalogEntry
from schemas.codec import json_encode
from schemas.errors import ConfigError, ModelMissing, ModelRefused
from schemas.model_versions import MOST_BEFORE, Announcement, ModelVersion, read_announcement
from streams.core.decisions import DecisionPolicy
from streams.serving.embeddings import EmbeddingFeed
from streams.serving.entity_embeddings import EntityFeed
from streams.serving.model_loading import LoadedModel, describe_version, load_announced, load_model
from streams.serving.model_swap import REASONS, ModelSwap, ServedModel, first_model
from streams.serving.news import News
from streams.serving.predict import Predictions
from streams.settings.schema import EncodeSettings, Settings
from streams.telemetry.metrics import Metrics

AT_MS = 1_700_000_000_000
CPU = torch.device("cpu")


def named(number: int, **more: Any) -> ModelVersion:
    said = {"model_version": f"pg-{number}", "folder": f"pg-{number}", "card_sha256": "0" * 64}
    return ModelVersion(**(said | more))


def test_what_was_served_before_is_kept_for_a_rollback() -> None:
    first = Announcement(at_ms=AT_MS, serve=named(0))
    third = first.then(named(1), AT_MS + 1).then(named(2), AT_MS + 2)
    assert [version.model_version for version in third.before] == ["pg-1", "pg-0"]
    back = third.back(AT_MS + 3)
    assert back == Announcement(at_ms=AT_MS + 3, serve=named(1), before=(named(0),))
    assert back.back(AT_MS + 4).serve == named(0)
    with pytest.raises(ConfigError, match="no model was announced before pg-0"):
        back.back(AT_MS + 4).back(AT_MS + 5)


def test_the_same_version_again_is_no_history() -> None:
    first = Announcement(at_ms=AT_MS, serve=named(0)).then(named(1), AT_MS)
    moved = named(1, folder="elsewhere")
    assert first.then(moved, AT_MS + 1) == Announcement(at_ms=AT_MS + 1, serve=moved, before=(named(0),))


def test_the_history_is_bounded() -> None:
    announcement = Announcement(at_ms=AT_MS, serve=named(0))
    for number in range(1, 40):
        announcement = announcement.then(named(number), AT_MS)
    assert [version.model_version for version in announcement.before] == [f"pg-{38 - at}" for at in range(MOST_BEFORE)]
    assert read_announcement(json_encode(announcement)) == announcement


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of three models."""
    path: Path = tmp_path_factory.mktemp("models")
    for seed in (1, 2, 3):
        save_small_version(path, seed)
    return path


@pytest.fixture(scope="module")
def published(directory: Path) -> list[ModelVersion]:
    settings = settings_of(directory)
    folders = [save_small_version(directory, seed) for seed in (1, 2, 3)]
    # The last one is the current one.
    return [describe_version(folder, load_model(folder, settings)) for folder in folders]


def settings_of(directory: Path) -> Settings:
    return Settings(model_dir=directory, encode=EncodeSettings(device="cpu"))


class Swapping:
    """A worker's models, with the loader that it has; says which models were loaded."""

    def __init__(
        self, directory: Path, first: ModelVersion, load: Callable[[ModelVersion], None] | None = None
    ) -> None:
        self.metrics, self.loaded = Metrics(), list[str]()
        settings = settings_of(directory)

        def serve(predictor: Predictor) -> ServedModel:
            feed, news = EmbeddingFeed(0.02), News(0.02)
            known = SimpleNamespace(current=(worlds.catalog(), 1))
            predictions = Predictions(predictor, known, DecisionPolicy(epsilon=0), lambda: AT_MS, feed, None, news)
            return ServedModel(predictor, predictions, feed, news)

        def loading(version: ModelVersion) -> LoadedModel:
            if load is not None:
                load(version)
            self.loaded.append(version.model_version)
            return load_announced(version, settings)

        predictor = load_announced(first, settings).predictor
        self.entities = EntityFeed(predictor, lambda: (worlds.catalog(), 1), 0.02, 1)
        self.models = ModelSwap(serve, loading, self.entities, predictor, self.metrics)

    def announce(self, version: ModelVersion) -> None:
        self.models.announced(json_encode(Announcement(at_ms=AT_MS, serve=version)))

    def said(self, customer: int = 1) -> set[str]:
        """Versions that answer now."""
        records = self.models([worlds.snapshot(customer)], []).records
        return {json.loads(record.value)["model_version"] for record in records if record.value}

    def due(self) -> bool:
        return self.models.due

    def refused(self, reason: str) -> float:
        return self.metrics.value(Metrics.refused_models_total, reason=reason)


@pytest.mark.parametrize(
    ("announced", "serves", "reason"),
    [
        (lambda other: None, "newest", None),
        (lambda other: other, "announced", None),
        (lambda other: msgspec.structs.replace(other, folder="gone"), "newest", "missing"),
        (lambda other: msgspec.structs.replace(other, card_sha256="0" * 64), "newest", "damaged"),
    ],
    ids=["nothing", "a model", "one that is gone", "another one"],
)
def test_a_worker_begins_with_what_was_announced_or_its_own_newest(
    announced: Callable[[ModelVersion], ModelVersion | None],
    serves: str,
    reason: str | None,
    directory: Path,
    published: list[ModelVersion],
    caplog: pytest.LogCaptureFixture,
) -> None:
    *_, other, newest = published
    version, metrics = announced(other), Metrics()
    value = None if version is None else json_encode(Announcement(at_ms=AT_MS, serve=version))
    first = first_model(value, settings_of(directory), metrics)
    assert first.version == (newest if serves == "newest" else other).model_version
    counted = {name: metrics.value(Metrics.refused_models_total, reason=name) for name in REASONS}
    assert counted == dict.fromkeys(REASONS, 0) | ({} if reason is None else {reason: 1})
    assert ("cannot be served: the model in" in caplog.text) == (reason is not None)


def test_a_worker_with_no_model_at_all_does_not_begin(tmp_path: Path, published: list[ModelVersion]) -> None:
    for value in (b"{", json_encode(Announcement(at_ms=AT_MS, serve=published[0])), None):
        with pytest.raises(ModelRefused, match="cannot be read"):
            first_model(value, settings_of(tmp_path), Metrics())


def test_a_model_serves_once_it_is_swapped_in(directory: Path, published: list[ModelVersion]) -> None:
    one, other, _ = published
    swapping = Swapping(directory, one)
    assert swapping.said() == {one.model_version}
    assert not swapping.due()
    swapping.announce(other)
    assert swapping.due()
    assert swapping.said() == {one.model_version}, "not before"
    swapping.models.swap()
    assert swapping.said() == {other.model_version}
    assert not swapping.due()
    assert swapping.metrics.value(Metrics.served_model_info, model_version=other.model_version) == 1
    assert swapping.metrics.value(Metrics.served_model_info, model_version=one.model_version) == 0
    embed = swapping.models.served.predictor.embed
    said = {"runtime": embed.runtime, "dtype": str(embed.dtype).removeprefix("torch."), "device": "cpu"}
    assert swapping.metrics.value(Metrics.served_encoder_info, **said) == 1
    assert swapping.metrics.value(Metrics.model_swaps_total) == 1
    swapping.models.swap()
    assert swapping.metrics.value(Metrics.model_swaps_total) == 1, "nothing waits"


def test_it_answers_as_it_does_alone(directory: Path, published: list[ModelVersion]) -> None:
    """Also right behind the swap, of customers whom the model before spoke of."""
    one, other, _ = published
    everyone = [worlds.snapshot(number, items=[number, number + 1]) for number in range(5)]
    alone = Swapping(directory, other).models(everyone, []).records
    swapping = Swapping(directory, one)
    swapping.models(everyone, [])
    swapping.announce(other)
    swapping.models.swap()
    assert swapping.models(everyone, []).records == alone


def test_announced_twice_is_loaded_once(directory: Path, published: list[ModelVersion]) -> None:
    one, other, _ = published
    swapping = Swapping(directory, one)
    swapping.announce(one)
    assert swapping.loaded == [], "it serves already"
    swapping.announce(other)
    swapping.announce(other)
    assert swapping.loaded == [other.model_version], "whether it serves yet or not"
    swapping.models.swap()
    swapping.announce(other)
    assert swapping.loaded == [other.model_version]


def test_the_last_announcement_holds(directory: Path, published: list[ModelVersion]) -> None:
    one, other, third = published
    swapping = Swapping(directory, one)
    swapping.announce(other)
    swapping.announce(third)
    swapping.models.swap()
    assert swapping.said() == {third.model_version}
    assert not swapping.due()
    swapping.announce(other)
    swapping.announce(third)
    swapping.models.swap()
    assert swapping.said() == {third.model_version}
    swapping.announce(one)
    swapping.models.swap()
    assert swapping.said() == {one.model_version}


def test_what_cannot_be_loaded_is_refused_and_the_old_one_serves(
    directory: Path, published: list[ModelVersion], caplog: pytest.LogCaptureFixture
) -> None:
    one, other, _ = published

    def broken(version: ModelVersion) -> None:
        raise {"gone": ModelMissing("it is gone"), "big": MemoryError("no room")}[version.folder]

    swapping = Swapping(directory, one, broken)
    swapping.announce(msgspec.structs.replace(other, folder="gone"))
    swapping.announce(msgspec.structs.replace(other, folder="big"))
    assert not swapping.due()
    assert (swapping.refused("missing"), swapping.refused("error")) == (1, 1)
    assert "is refused (missing): it is gone" in caplog.text
    assert swapping.said() == {one.model_version}


def test_one_that_fails_on_this_catalog_is_refused(
    directory: Path, published: list[ModelVersion], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole model, right about its canary, that cannot answer beside the entries that are there now."""
    one, other, _ = published
    swapping = Swapping(directory, one)
    know = Predictor.know

    def fails(self: Predictor, catalog: Mapping[str, CatalogEntry], version: object = None) -> None:
        if version == 1 and self.version == other.model_version:
            raise RuntimeError("no room for so many entities")
        know(self, catalog, version)

    monkeypatch.setattr(Predictor, "know", fails)
    swapping.announce(other)
    assert not swapping.due()
    assert swapping.refused("error") == 1
    assert swapping.said() == {one.model_version}


def test_what_was_refused_may_be_announced_again(directory: Path, published: list[ModelVersion]) -> None:
    one, other, _ = published
    swapping = Swapping(directory, one)
    swapping.announce(msgspec.structs.replace(other, folder="gone"))
    assert swapping.refused("missing") == 1
    swapping.announce(other)
    swapping.models.swap()
    assert swapping.said() == {other.model_version}


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b"{}",
        b'{"at_ms": 1700000000000, "serve": {"model_version": "pg-1"}}',
        json.dumps({"at_ms": AT_MS, "serve": msgspec.to_builtins(named(1)) | {"folder": "../pg-1"}}).encode(),
        json.dumps({"at_ms": AT_MS, "serve": msgspec.to_builtins(named(1)) | {"folder": "/etc"}}).encode(),
        json.dumps({"at_ms": AT_MS, "serve": msgspec.to_builtins(named(1)) | {"card_sha256": "0"}}).encode(),
    ],
    ids=["nothing", "cut", "binary", "deep", "empty", "half", "a path", "a root", "no hash"],
)
def test_a_record_that_is_none_is_refused(record: bytes, directory: Path, published: list[ModelVersion]) -> None:
    swapping = Swapping(directory, published[0])
    swapping.models.announced(record)
    assert not swapping.due()
    assert swapping.loaded == []
    assert swapping.refused("malformed") == 1


def test_entities_are_sent_again_by_the_new_model(directory: Path, published: list[ModelVersion]) -> None:
    one, other, _ = published
    swapping = Swapping(directory, one)
    swapping.entities.tell(dict.fromkeys(worlds.catalog(), AT_MS))
    swapping.entities.hold({0})

    def sent() -> dict[bytes | None, str]:
        found: dict[bytes | None, str] = {}
        while swapping.entities.due:
            for record in swapping.entities():
                assert record.value is not None
                found[record.key] = json.loads(record.value)["model_version"]
        return found

    before = sent()
    assert len(before) > 40
    swapping.announce(other)
    swapping.models.swap()
    assert sent() == dict.fromkeys(before, other.model_version)


class BrokenDevice(DeviceEmbedder):
    def __call__(self, batch: Sequences) -> Tensor:
        raise torch.AcceleratorError("the device is gone")


def test_a_device_that_fails_under_a_model_is_told(directory: Path, published: list[ModelVersion]) -> None:
    swapping = Swapping(directory, published[0])
    predictor = swapping.models.served.predictor
    spare = TorchEmbedder(predictor.model.encoder, CPU)
    predictor.embed = GuardedEmbedder(BrokenDevice(predictor.model.encoder, CPU, torch.bfloat16), lambda: spare)
    assert swapping.said() == {published[0].model_version}, "nothing is lost"
    assert swapping.metrics.value(Metrics.served_encoder_info, runtime="torch", dtype="float32", device="cpu") == 1
