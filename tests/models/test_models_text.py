"""Snapshots read as text, by a small encoder with a tokeniser of its own."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from support import model_worlds as worlds
from support.examples import examples
from support.sequences import WORDS, snapshots
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers import models as token_models

from models.text import LIMITS, TextEncoder
from schemas.errors import ConfigError
from schemas.snapshot import Snapshot
from schemas.words import hash_of

NAMES = {hash_of(word): word for word in (*WORDS, *worlds.vocabulary().names)}


def tokenizer() -> Tokenizer:
    made = Tokenizer(token_models.BPE(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel()
    made.decoder = decoders.ByteLevel()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        ["purchase coffee", "item view", "session"] * 9,
        trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


def save(folder: Path, **said: Any) -> Path:
    from transformers import BertConfig, BertModel

    sizes = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(BertConfig(**sizes | {"intermediate_size": 16} | said)).save_pretrained(folder)
    tokenizer().save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    return TextEncoder.load(str(save(tmp_path_factory.mktemp("text"))))


@functools.cache
def shared() -> TextEncoder:
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=300, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    return TextEncoder(BertModel(config), tokenizer())


@settings(deadline=None, max_examples=examples(60))
@given(snapshots)
def test_every_kind_has_its_share_of_the_tokens(snapshot: Snapshot) -> None:
    encoder = shared()
    text = encoder.text(snapshot, NAMES)
    assert text.startswith("customer: as of ")
    found = encoder.tokenizer.encode(text)
    assert len(found.ids) <= encoder.most
    assert found.ids[-1] == 3, "nothing was cut off"
    assert ("weight" in text) == any(block.edges and any(block.edges.values()) for block in snapshot.edges)


def test_a_customer_is_read_alone_as_among_others(encoder: TextEncoder) -> None:
    many = [worlds.snapshot(items=list(range(count))) for count in (0, 1, 3, 12, 30)]
    together = encoder(many, NAMES).numpy()
    alone = np.concatenate([encoder([one], NAMES).numpy() for one in many])
    assert np.allclose(together, alone, atol=1e-5)
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.full(5, 4.0), rel=1e-4)
    assert encoder([], NAMES).shape == (0, 16)


def test_it_reads_names_and_ages(encoder: TextEncoder) -> None:
    one = worlds.snapshot(items=[1])
    later = msgspec.structs.replace(one, as_of_ms=one.as_of_ms + 7 * worlds.DAY_MS)
    renamed = NAMES | {hash_of("item:1"): "item:jam"}
    assert "item jam" in encoder.text(one, renamed)
    first, second, third = (encoder([s], names) for s, names in ((one, NAMES), (later, NAMES), (one, renamed)))
    assert not torch.allclose(first, second)
    assert not torch.allclose(first, third)


def test_it_stays_as_it_is(encoder: TextEncoder) -> None:
    assert not any(weight.requires_grad for weight in encoder.parameters())
    assert not encoder([worlds.snapshot()], NAMES).requires_grad
    assert LIMITS.recent > 0


def test_what_cannot_be_read_with_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "few", vocab_size=100)
    with pytest.raises(ConfigError, match="more tokens than the encoder: get both from one place"):
        TextEncoder.load(str(folder))
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match=r"no tokenizer\.json that can be read"):
        TextEncoder.load(str(folder))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"no tokenizer\.json that can be read"):
        TextEncoder.load(str(folder))
