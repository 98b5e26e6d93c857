"""A model directory: weights in safetensors, everything else in JSON, never a pickle.

=====================  ==============================================================================
config.json            the encoder's Hugging Face config
model.safetensors      the encoder's body
input.safetensors      what makes vectors of positions
heads.safetensors      the tasks' heads
vocabulary.json        the vocabulary, see :mod:`models.tokenizer`
canary.json            made-up customers and what the model said of them when it was trained, see
                       :mod:`models.canary`; absent from models of earlier releases
pulsegraph.json        format version, model version, sha256 of the files above, feature names, horizon,
                       tasks, calibration, report
README.md              the same for people, see :mod:`models.model_readme`; not read here
=====================  ==============================================================================

The directory is written beside its name and renamed, so that a reader sees a whole model or none; several lie in one
model directory, see :mod:`models.versions`. Loading trusts nothing: hashes, names, sizes, shapes and finite weights are
checked before the model is handed out. ``model_version`` is the hash of the content, so equal models have equal
versions wherever they were made.

Source of the idea of weights with JSON beside them: nanochat, ``checkpoint_manager.py``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from models import versions
from models.candidates import CROSS_NAMES
from models.model import Model, TrainingReport, task_heads
from models.model_readme import README_FILE, readme
from models.sequence import SequenceSize
from models.task import Task
from models.tasks import TASKS
from models.tokenizer import VOCABULARY_FILE, Vocabulary
from models.trees import Forest
from schemas import features
from schemas.errors import ConfigError, ModelRefused, ModelUnfit

FORMAT_VERSION: Final = 6
CARD_FILE: Final = versions.CARD_FILE
CONFIG_FILE: Final = "config.json"
ENCODER_FILE: Final = "model.safetensors"
INPUT_FILE: Final = "input.safetensors"
HEADS_FILE: Final = "heads.safetensors"
_WEIGHTS: Final = (ENCODER_FILE, INPUT_FILE, HEADS_FILE)
HASHED: Final = (CONFIG_FILE, *_WEIGHTS, VOCABULARY_FILE)
CANARY_FILE: Final = "canary.json"
MAX_FILE_BYTES: Final = 4 * 1024**3
MAX_TEXT_BYTES: Final = 64 * 1024**2
"""Of the card and the canary."""
MAX_LAYERS: Final = 1_000
AGAIN: Final = "train it again with `pulsegraph train`, or point to another model directory"


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """``pulsegraph.json``."""

    format_version: int
    model_version: str
    files: dict[str, str]
    """File name → sha256."""
    feature_names: list[str]
    cross_names: list[str]
    """Cross features of the redemption head, in order."""
    sequence: SequenceSize
    """Most positions of each kind."""
    horizon_days: int
    tasks: tuple[str, ...]
    """Those that it has learned."""
    calibration: dict[str, dict[str, float]]
    """Task → gates, scales and shifts; for people, the heads hold them as tensors."""
    report: TrainingReport = TrainingReport()


def save(model: Model, directory: str | Path, canary: bytes | None = None) -> Card:
    """Write the folder of one model, whole or not at all; one that is there is replaced.

    Args:
        canary: content of ``canary.json``, see :func:`models.canary.make`.

    Raises:
        ConfigError: the path is a file, or a directory that holds something other than a model.
        OSError: the disk.
    """
    target = Path(directory)
    if target.exists() and not (target.is_dir() and ((target / CARD_FILE).exists() or not any(target.iterdir()))):
        raise ConfigError(f"{target} exists and is no model directory; name a new or an empty one")
    fresh = versions.new_folder(target)
    try:
        card = _write(model, fresh, canary)
        _replace(fresh, target)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return card


def save_version(model: Model, directory: str | Path, canary: bytes | None = None) -> Card:
    """Write a model into a folder of its own below a model directory, and make it the current one there.

    The folder is named by the day of the training and the content's version. One of that name is left as it is.

    Raises:
        ConfigError, OSError: as :func:`save`.
    """
    where = Path(directory)
    versions.check_usable(where)
    fresh = versions.new_folder(where / "new")
    try:
        card = _write(model, fresh, canary)
        folder = where / "-".join(filter(None, (card.report.date, card.model_version)))
        if not folder.exists():
            fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    versions.point(where, folder.name)
    return card


def _write(model: Model, directory: Path, canary: bytes | None) -> Card:
    encoder = {name: tensor.contiguous() for name, tensor in model.encoder.body.state_dict().items()}
    inputs = {name: tensor.contiguous() for name, tensor in model.encoder.input.state_dict().items()}
    heads = {name: tensor.contiguous() for name, tensor in model.heads.state_dict().items()}
    config = model.encoder.config
    config.architectures = [type(model.encoder.body).__name__]
    contents = {
        CONFIG_FILE: config.to_json_string(use_diff=False).encode(),
        ENCODER_FILE: save_tensors(encoder, metadata={"format": "pt"}),
        INPUT_FILE: save_tensors(inputs, metadata={"format": "pt"}),
        HEADS_FILE: save_tensors(heads, metadata={"format": "pt"}),
        VOCABULARY_FILE: model.vocabulary.json().encode(),
    }
    if canary is not None:
        contents[CANARY_FILE] = canary
    files = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    card = Card(
        format_version=FORMAT_VERSION,
        model_version=content_version(files, model.encoder.size, model.horizon_days, model.heads),
        files=files,
        feature_names=list(features.NAMES),
        cross_names=list(CROSS_NAMES),
        sequence=model.encoder.size,
        horizon_days=model.horizon_days,
        tasks=tuple(model.heads),
        calibration={name: head.calibration for name, head in task_heads(model).items()},
        report=model.report,
    )
    contents[CARD_FILE] = msgspec.json.format(msgspec.json.encode(card), indent=2)
    contents[README_FILE] = readme(model, card.model_version).encode()
    for name, content in contents.items():
        with open(directory / name, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    return card


def _replace(fresh: Path, target: Path) -> None:
    """Rename; a directory that is there steps aside first, as a rename cannot replace one that is not empty."""
    if not target.exists():
        fresh.rename(target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    target.rename(aside / target.name)
    try:
        fresh.rename(target)
    except BaseException:
        (aside / target.name).rename(target)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def content_version(files: Mapping[str, str], sequence: SequenceSize, horizon_days: int, tasks: Iterable[str]) -> str:
    """Hash of what decides the model's answers: the files but the canary, the features, the horizon and the tasks."""
    sizes = list(msgspec.structs.astuple(sequence))
    said = [
        FORMAT_VERSION,
        sorted((name, digest) for name, digest in files.items() if name != CANARY_FILE),
        list(features.NAMES),
        list(CROSS_NAMES),
        sizes,
        horizon_days,
        sorted(tasks),
    ]
    return "pg-" + hashlib.blake2b(json.dumps(said).encode(), digest_size=8).hexdigest()


def read_card(directory: str | Path) -> Card:
    """The card alone, without weights: enough to see what a directory holds.

    Raises:
        ModelRefused: missing, not JSON, of another format, or made for other features.
    """
    path = versions.current(Path(directory)) / CARD_FILE
    raw = _read(path, MAX_TEXT_BYTES)
    try:
        version = msgspec.json.decode(raw, type=dict[str, Any]).get("format_version")
        if version != FORMAT_VERSION:
            raise ModelUnfit(f"{path} has format {version}, this program reads {FORMAT_VERSION}; {AGAIN}")
        card = msgspec.json.decode(raw, type=Card)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelRefused(f"{path} is damaged ({error}); {AGAIN}") from error
    if tuple(card.feature_names) != features.NAMES or tuple(card.cross_names) != CROSS_NAMES:
        raise ModelUnfit(f"{path} was made for other features than this program computes; {AGAIN}")
    if not card.sequence.valid:
        raise ModelRefused(f"{path} says sequences of {card.sequence}; {AGAIN}")
    if not 1 <= card.horizon_days <= 3650:
        raise ModelRefused(f"{path} says a horizon of {card.horizon_days} days; {AGAIN}")
    if set(card.files) - {CANARY_FILE} != set(HASHED):
        raise ModelRefused(f"{path} must list exactly {', '.join(HASHED)}; {AGAIN}")
    if card.model_version != content_version(card.files, card.sequence, card.horizon_days, card.tasks):
        raise ModelRefused(f"{path} names a version that its content does not have; {AGAIN}")
    return card


def load(directory: str | Path, tasks: Sequence[Task] = TASKS) -> tuple[Model, Card]:
    """A model in evaluation mode, on the CPU, and its card.

    Args:
        tasks: those that the program knows; what of them the model has not learned is not asked of it.

    Raises:
        ModelRefused: anything missing, altered, of another shape or not finite, or a task that is not known.
    """
    where = versions.current(Path(directory))
    card = read_card(where)
    contents = {name: read_file(where, card, name) for name in HASHED}
    vocabulary = Vocabulary.from_json(
        contents[VOCABULARY_FILE].decode("utf-8", "replace"), str(where / VOCABULARY_FILE)
    )
    weights = {name: _tensors(contents[name], where / name) for name in _WEIGHTS}
    room_bytes = sum(tensor.nbytes for tensors in weights.values() for tensor in tensors.values())
    model = _empty(contents[CONFIG_FILE], where, vocabulary, card, tasks, room_bytes)
    _fill(model.encoder.body, weights[ENCODER_FILE], where / ENCODER_FILE)
    _fill(model.encoder.input, weights[INPUT_FILE], where / INPUT_FILE)
    _fill(model.heads, weights[HEADS_FILE], where / HEADS_FILE)
    return model.eval(), card


def read_file(folder: Path, card: Card, name: str) -> bytes:
    """A file that the card of a model's folder lists.

    Raises:
        ModelRefused: it is missing, or not what the card says.
    """
    if name not in card.files:
        raise ModelRefused(f"{folder} has no {name}; {AGAIN}")
    raw = _read(folder / name, MAX_TEXT_BYTES if name == CANARY_FILE else MAX_FILE_BYTES)
    if hashlib.sha256(raw).hexdigest() != card.files[name]:
        raise ModelRefused(f"{folder / name} is not the file its card describes (sha256 differs); {AGAIN}")
    return raw


def card_digest(folder: Path) -> str:
    """sha256 of the card. The card has those of all other files, so this one stands for the whole folder.

    Raises:
        ModelRefused: there is none.
    """
    return hashlib.sha256(_read(folder / CARD_FILE, MAX_TEXT_BYTES)).hexdigest()


def _empty(
    raw: bytes, where: Path, vocabulary: Vocabulary, card: Card, tasks: Sequence[Task], room_bytes: int
) -> Model:
    from transformers import AutoConfig

    known = {task.name: task for task in tasks}
    strange = [name for name in card.tasks if name not in known]
    if strange:
        raise ModelUnfit(
            f"{where / CARD_FILE} has learned {', '.join(strange)}, and this program knows {', '.join(known)}; {AGAIN}"
        )
    try:
        said = msgspec.json.decode(raw, type=dict[str, Any])
        said.pop("auto_map", None)  # names code to import; nothing in a model directory is ever run
        config = AutoConfig.for_model(said.pop("model_type"), **said)
        if getattr(config, "num_hidden_layers", 0) > MAX_LAYERS:
            raise ValueError(f"more than {MAX_LAYERS} layers")
        arguments = config, vocabulary, card.sequence, [known[name] for name in card.tasks]
        # Without memory first: a config may ask for more than there is, and no error would come of that.
        with torch.device("meta"):
            size_bytes = sum(tensor.nbytes for tensor in Model(*arguments).state_dict().values())
        if size_bytes > room_bytes:
            raise ModelRefused(
                f"{where / CONFIG_FILE} does not fit the weights: it asks for {size_bytes:,} bytes of them, and there "
                f"are {room_bytes:,}; {AGAIN}"
            )
        with torch.random.fork_rng(devices=[]):
            model = Model(*arguments, horizon_days=card.horizon_days, report=card.report)
    except ModelRefused:
        raise
    except Exception as error:  # any class may come out of a config that transformers does not like
        raise ModelRefused(
            f"{where / CONFIG_FILE} is no encoder that transformers knows ({error!r}); {AGAIN}"
        ) from error
    return model


def _tensors(raw: bytes, path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_tensors(raw)
    except (SafetensorError, ValueError) as error:
        raise ModelRefused(f"{path} is not a safetensors file ({error}); {AGAIN}") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelRefused(f"{path} holds numbers that are not finite in {name}; {AGAIN}")
    return tensors


def _fill(module: torch.nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    try:
        module.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise ModelRefused(f"{path} does not fit config.json ({first}); {AGAIN}") from error
    if not all(trees.sound() for trees in module.modules() if isinstance(trees, Forest)):
        raise ModelRefused(f"{path} holds trees that lead nowhere; {AGAIN}")


def _read(path: Path, most_bytes: int) -> bytes:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # reading a pipe or a device may never end
            raise ModelRefused(f"{path} cannot be read (it is no file); {AGAIN}")
        if found.st_size > most_bytes:
            raise ModelRefused(f"{path} is larger than {most_bytes} bytes; {AGAIN}")
        return path.read_bytes()
    except OSError as error:
        raise ModelRefused(f"{path} cannot be read ({error.strerror or error}); {AGAIN}") from error
