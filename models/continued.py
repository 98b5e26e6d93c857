"""Training that begins with a model of ours: what it has learned is kept as far as it fits.

Rows of words are matched by word, so that the vocabulary may have changed; everything else has to be of one shape.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import torch

from models import saved_model
from models.encoder import EncoderSize
from models.entities import BUCKETS
from models.model import Model
from models.sequence import SequenceSize
from schemas.errors import ConfigError

CONTINUED_RATE: Final = 0.3
"""Learning rate, as a share of that of a model whose weights are drawn."""
_WORDS: Final = "words.weight"


class Base(NamedTuple):
    """A model that training begins with."""

    model: Model
    version: str


def load_base(directory: str | Path, size: EncoderSize | None = None) -> Base:
    """A saved model to go on from.

    Args:
        size: what was asked for; the model's own where None.

    Raises:
        ModelRefused: as in :func:`models.saved_model.load`, e.g. of another format.
        ConfigError: it has another size than was asked for.
    """
    model, card = saved_model.load(directory)
    if size is not None:
        config = model.encoder.config
        had = config.hidden_size, config.num_hidden_layers, _shown(model.encoder.size)
        wanted = size.hidden, size.layers, _shown(size.sequence)
        if had != wanted:
            raise ConfigError(
                f"{directory} is {had[0]} wide with {had[1]} layers and {had[2]}, --size asks for {wanted[0]}, "
                f"{wanted[1]} and {wanted[2]}: omit --size, or train without --base"
            )
    return Base(model, card.model_version)


@torch.no_grad()
def take_over(model: Model, base: Base) -> int:
    """Give a new model of the base's config what the base has learned; returns how many words it knew.

    Numeric features stay standardised as the base has them, which is how its weights read them.
    """
    old = base.model
    model.encoder.body.load_state_dict(old.encoder.body.state_dict())
    inputs = {name: weight for name, weight in old.encoder.input.state_dict().items() if name != _WORDS}
    # Of heads what is learned with the encoder; gates, scales and what is fitted alone are found anew.
    for module, of_base in ((model.encoder.input, inputs), (model.heads, dict(old.heads.named_parameters()))):
        shapes = {name: weight.shape for name, weight in module.state_dict().items()}
        fitting = {name: weight for name, weight in of_base.items() if weight.shape == shapes.get(name)}
        module.load_state_dict(fitting, strict=False)
    names = [name for name in model.vocabulary.names if old.vocabulary.row(name) is not None]
    into, of = ([known.row(name) for name in names] for known in (model.vocabulary, old.vocabulary))
    words, old_words = model.encoder.words().weight, old.encoder.words().weight
    words[into], words[-BUCKETS:] = old_words[of], old_words[-BUCKETS:]
    return len(names)


def _shown(size: SequenceSize) -> str:
    return f"{size.recent} + {size.history} + {size.graph} positions"
