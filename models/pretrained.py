"""An encoder that others have trained, as the body of ours: any of Hugging Face's that takes ``inputs_embeds``.

The body keeps its width and gets our vectors of positions in the place of its tokens', whose table is left behind. Only
safetensors are read, and no code that comes with a model is run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from models.encoder import body_of, width_of
from models.sequence import SequenceSize
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

CONFIG: Final = "config.json"
SAFETENSORS: Final = ("model.safetensors", "model.safetensors.index.json")
PICKLES: Final = ("pytorch_model.bin", "pytorch_model.bin.index.json")
BODY_RATE: Final = 0.03
"""Learning rate of a pretrained body, as a share of what everything new takes."""


class PretrainedBody(NamedTuple):
    """What the body of an encoder begins with."""

    config: PretrainedConfig
    weights: Mapping[str, Tensor] = {}
    """Of ``AutoModel.from_config(config)``; none: drawn."""
    name: str = ""
    """For the model's card."""


def load_body(name: str, size: SequenceSize) -> PretrainedBody:
    """The body of a pretrained encoder.

    Args:
        name: a folder with config.json and model.safetensors, or a name on the Hugging Face hub.
        size: of the sequences that it has to take.

    Raises:
        ConfigError: no such encoder, pickles only, or none that takes vectors of so many positions.
    """
    body = load_pretrained(name)
    config = body.config
    try:
        table = body.get_input_embeddings()
        padding = getattr(table, "padding_idx", None)
        rows = 1 + max(padding or 0, getattr(config, "pad_token_id", None) or 0)
        with torch.random.fork_rng(devices=[]):
            table_of_none = nn.Embedding(rows, table.embedding_dim, padding_idx=padding)
        body.set_input_embeddings(table_of_none)
        config.vocab_size = rows
        # With any, attention leaves its fused kernel: training twice as slow.
        if getattr(config, "attention_probs_dropout_prob", None):
            config.attention_probs_dropout_prob = 0.0
        _try(body, config, size)
        weights = {name: weight.detach().clone() for name, weight in body.state_dict().items()}
        _fill(config, weights)
    except ConfigError:
        raise
    except Exception as error:  # whatever a foreign architecture raises where it is no encoder of ours
        raise ConfigError(
            f"{name} is a {config.model_type} that does not take vectors of {size.positions} positions "
            f"({_first(error)}); choose an encoder of the BERT kind, or a smaller --size"
        ) from error
    return PretrainedBody(config, weights, short_name(name))


def load_pretrained(name: str) -> Any:
    """A Hugging Face encoder in evaluation mode, with every weight of it.

    Raises:
        ConfigError: as in :func:`load_body`.
    """
    from transformers import AutoModel

    folder = _folder(name)
    try:
        # What is drawn before it is filled must not move anybody's seed.
        with _quiet(), torch.random.fork_rng(devices=[]):
            body, said = AutoModel.from_pretrained(
                name if folder is None else str(folder),
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=folder is not None,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except Exception as error:  # transformers raises its own, the hub's and bare ones
        raise ConfigError(
            f"the encoder {name!r} cannot be loaded ({_first(error)}); give a folder with {CONFIG} and "
            f"{SAFETENSORS[0]}, or a name that the Hugging Face hub or its local cache has"
        ) from error
    if getattr(body.config, "is_encoder_decoder", False):
        raise ConfigError(f"{name} is an encoder with a decoder ({body.config.model_type}): choose an encoder")
    missing = sorted(key for key in said["missing_keys"] if "pooler" not in key)
    if missing or said["mismatched_keys"]:
        first = missing[0] if missing else sorted(map(str, said["mismatched_keys"]))[0]
        raise ConfigError(
            f"the weights of {name} are not those of its {CONFIG}: {first} is missing or of another shape; "
            "get both from one place"
        )
    with torch.no_grad():
        for key, weight in body.named_parameters():
            if key in said["missing_keys"]:
                weight.zero_()  # a pooler, whose output nobody reads: drawn, it would make equal models differ
            elif not bool(torch.isfinite(weight).all()):
                raise ConfigError(f"{name} holds numbers that are not finite in {key}: get the folder again")
    return body.eval()


def _folder(name: str) -> Path | None:
    """The folder that is meant, with what it must hold; None for a name on the hub."""
    path = Path(name).expanduser()
    if not path.is_dir():
        if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise ConfigError(f"--encoder {name}: there is no such folder; give one with {CONFIG} and {SAFETENSORS[0]}")
        return None
    if not (path / CONFIG).is_file():
        raise ConfigError(
            f"--encoder {name}: the folder has no {CONFIG}; give the one that holds it, beside the weights"
        )
    if not any((path / file).is_file() for file in SAFETENSORS):
        found = [file for file in PICKLES if (path / file).exists()]
        what = f"holds its weights as a pickle ({found[0]}), which is never read" if found else "has no weights"
        raise ConfigError(f"--encoder {name}: the folder {what}; save the model as {SAFETENSORS[0]} first")
    return path


@torch.no_grad()
def _try(body: Any, config: PretrainedConfig, size: SequenceSize) -> None:
    vectors = torch.zeros(1, size.positions, width_of(config))
    states = body(inputs_embeds=vectors, attention_mask=torch.ones(1, size.positions)).last_hidden_state
    if states.shape != (1, size.positions, config.hidden_size):
        raise ConfigError(f"it gives {tuple(states.shape)} for {size.positions} positions: choose another encoder")


def _fill(config: PretrainedConfig, weights: Mapping[str, Tensor]) -> None:
    """Whether the config, as it will be saved, makes a body that takes the weights; the seed stays as it was."""
    with torch.random.fork_rng(devices=[]):
        body_of(config).load_state_dict(weights)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the bar and the report of loading."""
    from transformers.utils import logging

    bar, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def short_name(name: str) -> str:
    """A folder's last part: where it lies on this machine is nobody's business."""
    return Path(name).expanduser().name if Path(name).expanduser().is_dir() else name


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
