"""A model that knows nothing and loads at once, for tests of what is around it."""

from __future__ import annotations

from pathlib import Path

import torch
from support import model_worlds as worlds

from models import saved_model, versions
from models.encoder import EncoderSize, default_config
from models.heads import Head
from models.model import Model
from models.sequence import SequenceSize
from models.tasks import TASKS
from models.tokenizer import Vocabulary
from streams.core.config import CoreConfig
from streams.offline.training import save_version


def save_small_model(directory: Path, vocabulary: Vocabulary | None = None) -> Path:
    """Untrained weights, one layer; the vocabulary of :mod:`support.model_worlds` where None is given."""
    saved_model.save(small_model(vocabulary or worlds.vocabulary()), directory)
    return directory


def save_small_version(directory: Path, seed: int) -> Path:
    """A folder below a model directory, with a canary; models of two seeds say two things of everybody."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = small_model(worlds.vocabulary())
        for head in model.heads.values():
            if isinstance(head, Head):
                torch.nn.init.normal_(head.wide.weight, std=0.3)
    save_version(model, directory, worlds.catalog(), CoreConfig())
    return versions.current(directory)


def small_model(vocabulary: Vocabulary) -> Model:
    size = EncoderSize(
        hidden=32, layers=1, heads=2, intermediate=32, sequence=SequenceSize(recent=12, history=6, graph=8)
    )
    return Model(default_config(size), vocabulary, size.sequence, TASKS, horizon_days=28).eval()
