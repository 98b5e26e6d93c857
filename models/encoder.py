"""The sequence encoder: any Hugging Face encoder, a pooling, one embedding a customer.

Tokens go in **newest first**, after ``[CLS]``. The encoder's learned positions then mean "how long ago in events",
whatever the length of the timeline and whichever encoder is in its place, and cutting a long timeline is a slice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from models.tokenizer import CLS_ID, PAD_ID, UNK_ID
from models.wide import Ints
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

PADDING_TARGET: Final = 0.05


class EncoderSize(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of the default encoder: 128 positions cost one CPU core about 1 ms a customer."""

    hidden: int = 96
    layers: int = 2
    heads: int = 4
    intermediate: int = 192
    positions: int = 128
    """``[CLS]`` and the newest tokens; older ones are not seen."""
    dropout: float = 0.1


def default_config(vocabulary: int, size: EncoderSize | None = None) -> PretrainedConfig:
    """A small BERT of ``vocabulary`` tokens.

    Raises:
        ConfigError: sizes that do not fit each other.
    """
    from transformers import BertConfig

    size = size or EncoderSize()
    if size.hidden % size.heads or size.positions < 2 or min(size.hidden, size.layers, size.intermediate) < 1:
        raise ConfigError(f"{size} is no encoder: hidden must be a multiple of heads, positions at least 2")
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=size.intermediate,
        max_position_embeddings=size.positions,
        type_vocab_size=1,
        hidden_dropout_prob=size.dropout,
        attention_probs_dropout_prob=0.0,  # with any, sdpa leaves its fused kernel: training twice as slow
        pad_token_id=PAD_ID,
    )


class CustomerEncoder(nn.Module):
    """Token ids → hidden states and one embedding a customer: the mean over its tokens plus ``[CLS]``, normalised."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        from transformers import AutoModel

        self.config = config
        self.hidden = int(config.hidden_size)
        self.positions = int(getattr(config, "max_position_embeddings", 512))
        self.body: Any = AutoModel.from_config(config, attn_implementation="sdpa")

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, T) ids and mask → (B, T, H)."""
        states: Tensor = self.body(input_ids=ids, attention_mask=mask).last_hidden_state
        return states

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, T) ids and mask (1 for a token) → (B, H) float32."""
        return pool(self.states(ids, mask), mask)

    def words(self) -> nn.Embedding:
        """The table of word vectors, shared with the candidate tower."""
        table: nn.Embedding = self.body.get_input_embeddings()
        return table


def pool(states: Tensor, mask: Tensor) -> Tensor:
    """(B, T, H) and (B, T) → (B, H): mean over tokens plus the first token, scaled to length √H."""
    weight = mask[:, :, None].to(states.dtype)  # (B, T, 1)
    mean = (states * weight).sum(1, dtype=torch.float32) / weight.sum(1, dtype=torch.float32)
    return nn.functional.normalize(mean + states[:, 0].float(), dim=-1) * math.sqrt(states.shape[-1])


class Sequences:
    """Token sequences of a batch, flat and cut to the newest; turned into padded arrays on demand.

    Args:
        tokens: uint16 little-endian ids of each customer, oldest first.
        positions: longest input of the encoder, ``[CLS]`` included.
        vocabulary: ids at or above it become ``[UNK]``.
    """

    def __init__(self, tokens: Sequence[bytes], positions: int, vocabulary: int) -> None:
        newest = 2 * (positions - 1)
        newest_tokens = [one[-newest:] for one in tokens]
        flat = np.frombuffer(b"".join(newest_tokens), dtype="<u2").astype(np.int64)
        flat[flat >= vocabulary] = UNK_ID
        self._flat = flat
        bounds = np.cumsum([0, *(len(one) // 2 for one in newest_tokens)])
        self._end: Ints = bounds[1:]
        self.lengths: Ints = np.diff(bounds)
        """Tokens of each customer without ``[CLS]``, (B,)."""

    def padded(self, rows: Ints) -> tuple[Tensor, Tensor]:
        """``[CLS]`` and the tokens of ``rows``, newest first: ids and mask, both (R, T) int64."""
        lengths = self.lengths[rows]
        ids = np.full((len(rows), int(lengths.max(initial=0)) + 1), PAD_ID, dtype=np.int64)
        steps = np.arange(ids.shape[1] - 1)  # (T - 1,)
        inside = steps[None, :] < lengths[:, None]  # (R, T - 1)
        back = self._end[rows][:, None] - 1 - steps[None, :]
        ids[:, 0] = CLS_ID
        ids[:, 1:][inside] = self._flat[back[inside]]
        mask = np.ones_like(ids)
        mask[:, 1:] = inside
        return torch.from_numpy(ids), torch.from_numpy(mask)

    def batches(self, max_tokens: int, min_rows: int = 8) -> Iterator[Ints]:
        """Rows in groups of like length: at most ``max_tokens`` after padding, little of it padding.

        A group ends where the next row would raise padding past the target, once it has ``min_rows``.
        """
        order = np.argsort(self.lengths, kind="stable")
        begin, filled = 0, 0
        for at, length in enumerate((self.lengths[order] + 1).tolist()):
            rows = at - begin
            padded = (rows + 1) * length
            too_wide = rows >= min_rows and padded - filled - length > PADDING_TARGET * padded
            if rows and (padded > max_tokens or too_wide):
                yield order[begin:at]
                begin, filled = at, 0
            filled += length
        if begin < len(order):
            yield order[begin:]
