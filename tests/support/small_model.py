"""A model that knows nothing and loads at once, for tests of what is around it."""

from __future__ import annotations

from pathlib import Path

from support import model_worlds as worlds

from models import saved_model
from models.encoder import EncoderSize, default_config
from models.model import Model
from models.sequence import SequenceSize
from models.tasks import TASKS
from models.tokenizer import Vocabulary


def save_small_model(directory: Path, vocabulary: Vocabulary | None = None) -> Path:
    """Untrained weights, one layer; the vocabulary of :mod:`support.model_worlds` where None is given."""
    known = vocabulary or worlds.vocabulary()
    size = EncoderSize(
        hidden=32, layers=1, heads=2, intermediate=32, sequence=SequenceSize(recent=12, history=6, graph=8)
    )
    saved_model.save(Model(default_config(size), known, size.sequence, TASKS, horizon_days=28).eval(), directory)
    return directory
