"""The literal way: the readable form of a snapshot through a text encoder's own tokeniser, and its pooled output out.

The encoder stays as others have trained it, and its config holds the tokeniser. What comes out is the mean over its
tokens, as of sentence encoders (Reimers and Gurevych, "Sentence-BERT", 2019), scaled to length √H like ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from models.encoder import CustomerEncoder
from models.entities import WordRows
from models.pretrained import PretrainedBody, load_pretrained, short_name
from models.readable import Limits, Names, positions
from models.sequence import Reader, Sequences, SequenceSize, sequences_of
from models.tokenizer import Vocabulary
from schemas.errors import ConfigError
from schemas.snapshot import Snapshot

if TYPE_CHECKING:
    from transformers import PretrainedConfig

TOKENIZER: Final = "pulsegraph_tokenizer"
"""Field of the encoder's config: a whole tokenizer.json."""

MOST_TOKENS: Final = 256
"""Of one text: what sentence encoders of MiniLM's kind were trained on."""
SIZE: Final = SequenceSize(recent=12, history=10, graph=14)
_SHARES: Final = {"customer": 0.25, "recent": 0.375, "history": 0.1875, "graph": 0.1875}
"""Of the tokens, so that one long basket does not leave the others without any."""
_BATCH_TOKENS: Final = 8_192


class TextReader:
    """Snapshots → token ids.

    Args:
        tokenizer: the encoder's own; it belongs to the reader from now on.
        config: of the encoder.
    """

    def __init__(self, tokenizer: Tokenizer, config: PretrainedConfig) -> None:
        self.tokenizer = tokenizer
        self.padding = getattr(config, "pad_token_id", None) or 0
        places = getattr(config, "max_position_embeddings", MOST_TOKENS)
        self.most = min(MOST_TOKENS, places - (self.padding + 1 if config.model_type == "roberta" else 0))
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.most)
        self._room = self.most - tokenizer.num_special_tokens_to_add(is_pair=False)

    def text(self, snapshot: Snapshot, names: Names, limits: Limits = SIZE) -> str:
        """The readable form, each kind cut to its share: the newest and the heaviest stay."""
        said = []
        for kind, lines in positions(snapshot, names, limits).items():
            if not lines:
                continue
            text = f"{kind}: {'. '.join(lines)}."
            offsets = self.tokenizer.encode(text, add_special_tokens=False).offsets
            most = int(_SHARES[kind] * self._room)
            if len(offsets) > most:
                text = text[offsets[-most][0] :] if kind in ("recent", "history") else text[: offsets[most - 1][1]]
            said.append(text)
        return " ".join(said)

    def ids(self, snapshots: Sequence[Snapshot], names: Names, limits: Limits = SIZE) -> list[list[int]]:
        """Of each snapshot.

        Args:
            names: what the hashes in snapshots stand for.
        """
        texts = [self.text(snapshot, names, limits) for snapshot in snapshots]
        return [encoded.ids for encoded in self.tokenizer.encode_batch(texts)]


def pooled(body: Any, ids: Sequence[list[int]], padding: int) -> Tensor:
    """Token ids of N texts → (N, H) float32 on the body's device, without gradients."""
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    device = next(body.parameters()).device
    out = torch.zeros((len(ids), int(body.config.hidden_size)), device=device)
    begin = 0
    while begin < len(order):
        end = begin + 1
        while end < len(order) and (end + 1 - begin) * len(ids[order[end]]) <= _BATCH_TOKENS:
            end += 1
        rows = order[begin:end]
        out[torch.tensor(rows, device=device)] = _pooled(body, [ids[row] for row in rows], padding, device)
        begin = end
    return out


@torch.no_grad()
def _pooled(body: Any, ids: list[list[int]], padding: int, device: torch.device) -> Tensor:
    longest = max(map(len, ids))
    padded = torch.tensor([row + [padding] * (longest - len(row)) for row in ids], device=device)  # (B, L)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids], device=device)  # (B, L)
    states: Tensor = body(input_ids=padded, attention_mask=mask).last_hidden_state
    weight = mask[:, :, None].to(states.dtype)  # (B, L, 1)
    mean = (states * weight).sum(1) / weight.sum(1).clamp(min=1)
    return nn.functional.normalize(mean.float(), dim=-1) * math.sqrt(mean.shape[-1])


class TextEncoder(CustomerEncoder):
    """In the place of :class:`models.encoder.CustomerEncoder`: the body reads text, and is not trained.

    Its config holds the tokeniser (:data:`TOKENIZER`), so that a saved model is whole. Of the input layer nothing is
    used but the words of candidates.
    """

    def __init__(self, config: PretrainedConfig, vocabulary: Vocabulary, size: SequenceSize) -> None:
        super().__init__(config, len(vocabulary), size)
        self.body.requires_grad_(False)
        self.body.eval()
        self._read = text_reader(config)
        self.remembered: dict[bytes, Tensor] | None = None
        """Outputs by token ids, while a model is trained: the body says the same each time."""

    def train(self, mode: bool = True) -> TextEncoder:
        super().train(mode)
        self.body.eval()
        return self

    def read(self, snapshots: Sequence[Snapshot], word_rows: WordRows) -> Sequences:
        return self._read(snapshots, word_rows, self.size)

    def states(self, batch: Sequences, hidden_numbers: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One state a customer, (B, 1, H), whatever is hidden or left out of the positions."""
        if batch.tokens is None:
            raise ValueError("these sequences have no text: read snapshots by the encoder's own `read`")
        ids, padding = list(batch.tokens), getattr(self.config, "pad_token_id", None) or 0
        if self.remembered is None:
            found = pooled(self.body, ids, padding)
        else:
            keys = [np.array(row, dtype=np.uint32).tobytes() for row in ids]
            new = {key: row for key, row in zip(keys, ids, strict=True) if key not in self.remembered}
            self.remembered |= dict(zip(new, pooled(self.body, list(new.values()), padding), strict=True))
            found = torch.stack([self.remembered[key] for key in keys])
        return found[:, None], torch.ones(len(ids), 1, device=found.device)


def text_reader(config: PretrainedConfig) -> Reader:
    """As :func:`models.sequence.sequences_of`, with the tokens of each snapshot's text beside.

    Raises:
        ConfigError: the config holds no tokeniser that can be read.
    """
    try:
        reader = TextReader(Tokenizer.from_str(getattr(config, TOKENIZER)), config)
    except Exception as error:  # the Rust side raises bare Exception
        said = f"the config of the text encoder holds no tokeniser ({error}); train the model again"
        raise ConfigError(said) from error

    def read(snapshots: Sequence[Snapshot], known: WordRows | Vocabulary, size: SequenceSize) -> Sequences:
        tokens = np.empty(len(snapshots), dtype=np.object_)
        vocabulary = known.vocabulary if isinstance(known, WordRows) else known
        tokens[:] = reader.ids(snapshots, vocabulary.by_hash, size)
        return replace(sequences_of(snapshots, known, size), tokens=tokens)

    return read


def reads_text(config: PretrainedConfig | None) -> bool:
    """Whether a model of this config has a :class:`TextEncoder`."""
    return hasattr(config, TOKENIZER)


def load_text_body(name: str) -> PretrainedBody:
    """A text encoder with its tokens and its tokeniser, from a folder or the hub.

    Raises:
        ConfigError: as in :func:`models.pretrained.load_body`, or there is no tokenizer.json.
    """
    body, tokenizer = load_pretrained(name), load_tokenizer(name)
    if tokenizer.get_vocab_size() > body.get_input_embeddings().num_embeddings:
        raise ConfigError(f"the tokenizer.json of {name} has more tokens than the encoder: get both from one place")
    setattr(body.config, TOKENIZER, tokenizer.to_str())
    weights = {key: weight.detach().clone() for key, weight in body.state_dict().items()}
    return PretrainedBody(body.config, weights, short_name(name))


def load_tokenizer(name: str) -> Tokenizer:
    """A tokenizer.json.

    Raises:
        ConfigError: none is there, or it cannot be read.
    """
    path = Path(name).expanduser() / "tokenizer.json"
    try:
        return Tokenizer.from_file(str(path)) if path.parent.is_dir() else Tokenizer.from_pretrained(name)
    except Exception as error:  # the Rust side raises bare Exception
        said = f"{name} has no tokenizer.json that can be read ({error}): get it from the same place"
        raise ConfigError(said) from error
