"""``pulsegraph publish``: what is announced was tried before, and lies where workers look for it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.small_model import save_small_model, save_small_version

from models import saved_model
from schemas.model_versions import KEY, MODELS, Announcement, read_announcement
from streams import cli
from streams.kafka.partitioning import partition_for
from streams.kafka.reader import TopicReader
from streams.serving.announcements import newest_announcement
from streams.sources.replay import OrderedProducer

PARTITIONS = 2


class Deployment:
    """A broker's topics and a model directory."""

    def __init__(self, bootstrap: str, prefix: str, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.bootstrap, self.prefix, self.directory = bootstrap, prefix, directory
        self._capsys = capsys

    def publish(self, *more: str | Path) -> tuple[int, str, str]:
        options = ["--bootstrap", self.bootstrap, "--prefix", self.prefix, "--model", str(self.directory)]
        code = cli.main(["publish", *options, *map(str, more)])
        return code, *self._capsys.readouterr()

    def announced(self) -> Announcement | None:
        with TopicReader({"bootstrap.servers": self.bootstrap}) as reader:
            value, _ = newest_announcement(reader, self.prefix + MODELS)
        return None if value is None else read_announcement(value)

    def served(self) -> str:
        announcement = self.announced()
        assert announcement is not None
        return str(announcement.serve.folder)


@pytest.fixture
def deployment(
    broker: Any, make_topics: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Deployment:  # fmt: skip
    monkeypatch.setenv("PULSEGRAPH_ENCODE_DEVICE", "cpu")
    return Deployment(broker.bootstrap, make_topics(PARTITIONS), tmp_path / "models", capsys)


def test_models_are_announced_and_rolled_back(deployment: Deployment) -> None:
    one = save_small_version(deployment.directory, 1)
    code, out, _ = deployment.publish()
    card = saved_model.read_card(one)
    assert (code, out) == (0, f"model {card.model_version} ({one.name}) was announced to every encode worker\n")
    announcement = deployment.announced()
    assert announcement is not None and announcement.before == ()
    assert announcement.serve.model_version == card.model_version
    assert announcement.serve.card_sha256 == saved_model.card_digest(one)
    other, third = (save_small_version(deployment.directory, seed) for seed in (2, 3))
    _, out, _ = deployment.publish(other)
    assert f"--rollback brings back {card.model_version} ({one.name})" in out
    assert deployment.publish(deployment.directory)[0] == 0
    assert deployment.served() == third.name, "a directory is its newest"
    for folder in (other, one):
        assert deployment.publish("--rollback")[0] == 0
        assert deployment.served() == folder.name
    code, _, err = deployment.publish("--rollback")
    assert code == 2 and "no model was announced before" in err
    assert deployment.served() == one.name


def test_a_rollback_passes_over_what_is_gone(deployment: Deployment) -> None:
    folders = [save_small_version(deployment.directory, seed) for seed in (1, 2, 3)]
    for folder in folders:
        assert deployment.publish(folder)[0] == 0
    shutil.rmtree(folders[1])
    code, _, err = deployment.publish("--rollback")
    assert code == 0
    assert f"passed over: model {folders[1].name} was announced, and there is no folder" in err
    assert deployment.served() == folders[0].name


def test_a_model_from_elsewhere_is_copied_to_where_workers_look(deployment: Deployment, tmp_path: Path) -> None:
    folder = save_small_version(tmp_path / "candidates", 1)
    assert deployment.publish(tmp_path / "candidates")[0] == 0
    assert deployment.served() == folder.name
    assert saved_model.load(deployment.directory / folder.name)[1] == saved_model.read_card(folder)
    assert os.listdir(deployment.directory) == [folder.name]


def test_beside_a_folder_that_is_itself_a_model(deployment: Deployment, tmp_path: Path) -> None:
    """`worker --model` of one model: versions lie beside it."""
    save_small_model(deployment.directory)
    folder = save_small_version(tmp_path / "candidates", 1)
    assert deployment.publish(folder)[0] == 0
    assert (tmp_path / folder.name / saved_model.CARD_FILE).exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rollback"], "no model was announced yet"),
        (["absent"], "pulsegraph.json cannot be read"),
        (["absent", "--rollback"], "omit DIR"),
    ],
)
def test_says_what_to_do(options: list[str], said: str, deployment: Deployment) -> None:
    code, _, err = deployment.publish(*options)
    assert code == 2
    assert said in err
    assert deployment.announced() is None


def test_a_model_that_would_not_serve_is_not_announced(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = save_small_version(deployment.directory, 1)
    assert deployment.publish(good)[0] == 0
    plain = save_small_model(tmp_path / "plain")
    cut = Path(shutil.copytree(good, tmp_path / "cut"))
    (cut / saved_model.HEADS_FILE).unlink()
    for folder, said in ((plain, "has no canary.json"), (cut, "heads.safetensors cannot be read")):
        code, _, err = deployment.publish(folder)
        assert code == 2
        assert said in err
        assert not (deployment.directory / folder.name).exists()
    monkeypatch.setenv("PULSEGRAPH_ENCODE_REQUIRED_TASKS", "churn,luck")
    code, _, err = deployment.publish(good)
    assert code == 2 and "has not learned luck" in err
    assert deployment.served() == good.name


def test_a_record_that_is_none_begins_a_new_history(deployment: Deployment) -> None:
    good = save_small_version(deployment.directory, 1)
    producer = OrderedProducer(deployment.bootstrap)
    producer.send(deployment.prefix + MODELS, KEY, b"{", partition_for(KEY, PARTITIONS))
    producer.deliver()
    code, _, err = deployment.publish(good)
    assert code == 0
    assert "the last record of models is no announcement" in err
    assert deployment.served() == good.name


def test_a_model_directory_that_is_a_file_is_said(deployment: Deployment, tmp_path: Path) -> None:
    good = save_small_version(tmp_path / "candidates", 1)
    deployment.directory.write_text("")
    code, _, err = deployment.publish(good)
    assert code == 2
    assert str(deployment.directory) in err
