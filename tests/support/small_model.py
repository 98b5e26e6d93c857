"""A model that knows nothing and loads at once, for tests of what is around it."""

from __future__ import annotations

from pathlib import Path

from support import model_worlds as worlds

from models import saved_model
from models.encoder import EncoderSize, default_config
from models.model import Model


def save_small_model(directory: Path) -> Path:
    """Untrained weights, one layer; the vocabulary of :mod:`support.model_worlds`."""
    size = EncoderSize(hidden=32, layers=1, heads=2, intermediate=32, positions=64)
    model = Model(default_config(len(worlds.vocabulary()), size), worlds.vocabulary(), horizon_days=28)
    saved_model.save(model.eval(), directory)
    return directory
