"""The encoder: a sequence of positions in, one embedding a customer out.

:class:`InputLayer` makes a vector of every position: the sum of what its words, amounts, time and kind stand for. The
body is an encoder of Hugging Face's transformers that is fed these vectors, so any of them can stand in.

Sources of the ideas: Devlin et al., "BERT" (2019); Kazemi et al., "Time2Vec" (2019), for periods of time as features;
Gorishniy et al., "On embeddings for numerical features in tabular deep learning" (2022), for periods of a number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from models.device import put
from models.entities import BUCKETS, WordRows
from models.sequence import (
    AMOUNTS,
    KINDS,
    MOST_POSITIONS,
    SECTION_OF_KIND,
    SECTIONS,
    Sequences,
    SequenceSize,
    ranges,
    sequences_of,
)
from models.tokenizer import PAD_ID, UNK_ID
from models.wide import CLIP, COLUMNS, LOGGED, Floats, Ints
from schemas.errors import ConfigError
from schemas.snapshot import Snapshot

if TYPE_CHECKING:
    from transformers import PretrainedConfig

PERIODS_DAYS: Final = (0.25, 0.5, 1.0, 2.0, 3.5, 7.0, 14.0, 28.0, 56.0, 112.0, 224.0, 448.0)
"""Periods that an age is told in, beside its logarithm: log-spaced, the week and its parts among them."""
_GAP_RATES: Final = (1.0, 2.0, 4.0)
_TIMES: Final = 2 * len(PERIODS_DAYS) + 1 + 2 * len(_GAP_RATES) + 2 + 5 + 2
_WAVES: Final = 4
"""Learned frequencies of every numeric feature."""
_MIDDLE: Final = 128
_AMOUNT_SCALE: Final = 1 / 3
_NO_CHANCE: Final = 1e-5
_FORGOTTEN: Final = 0.1
"""Share of the words that a step of training does not know, so that what strangers are made of is learned, too."""


class EncoderSize(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of an encoder."""

    hidden: int = 64
    layers: int = 2
    heads: int = 4
    intermediate: int = 128
    dropout: float = 0.2
    sequence: SequenceSize = SequenceSize()


#: ``demo``: at most 20 MFLOP a snapshot; ``cpu``: at most 110; ``gpu``: where there is one.
SIZES: Final[dict[str, EncoderSize]] = {
    "demo": EncoderSize(),
    "cpu": EncoderSize(
        hidden=96, intermediate=192, sequence=SequenceSize(recent=64, history=64, graph=47),
    ),
    "gpu": EncoderSize(
        hidden=256, layers=6, heads=8, intermediate=1024, sequence=SequenceSize(recent=255, history=128, graph=128)
    ),
}  # fmt: skip


def default_config(size: EncoderSize | None = None) -> PretrainedConfig:
    """A small BERT.

    Raises:
        ConfigError: sizes that do not fit each other.
    """
    from transformers import BertConfig

    size = size or EncoderSize()
    if size.hidden % size.heads or min(size.hidden, size.layers, size.intermediate) < 1:
        raise ConfigError(f"{size} is no encoder: hidden must be a multiple of heads")
    return BertConfig(
        vocab_size=1,  # words are the input layer's
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=size.intermediate,
        max_position_embeddings=size.sequence.positions,
        type_vocab_size=1,
        hidden_dropout_prob=size.dropout,
        attention_probs_dropout_prob=0.0,  # with any, sdpa leaves its fused kernel: training twice as slow
        pad_token_id=0,
    )


class InputLayer(nn.Module):
    """Vectors of positions, and of words.

    Args:
        vocabulary: rows of words; those of buckets come behind them.
        hidden: width of embeddings, and of what is summed here.
        size: most positions of each kind.
        width: of the vectors that the body takes; as ``hidden`` where absent.
    """

    mean: Tensor
    deviation: Tensor
    turns: Tensor
    rates: Tensor
    first_rank: Tensor

    def __init__(self, vocabulary: int, hidden: int, size: SequenceSize, width: int | None = None) -> None:
        super().__init__()
        self.project: nn.Module = nn.Identity() if width in (None, hidden) else nn.Linear(hidden, int(width or 0))
        self.words = nn.Embedding(vocabulary + BUCKETS, hidden, padding_idx=PAD_ID)
        self.kinds = nn.Embedding(len(KINDS), hidden)
        most = size.sections
        self.ranks = nn.Embedding(sum(most), hidden)
        self.time = nn.Linear(_TIMES, hidden)
        self.amounts = nn.Linear(len(AMOUNTS), hidden, bias=False)
        self.waves = nn.Parameter(torch.randn(COLUMNS, _WAVES))
        self.numbers = nn.Sequential(
            nn.Linear(COLUMNS * (1 + 2 * _WAVES) + 1, _MIDDLE), nn.GELU(), nn.Linear(_MIDDLE, hidden)
        )
        for table, deviation in ((self.words, 0.3), (self.kinds, 0.3), (self.ranks, 0.05)):
            nn.init.normal_(table.weight, std=deviation)
        with torch.no_grad():
            self.words.weight[PAD_ID] = 0.0
            self.words.weight[vocabulary:] /= 3  # what strangers have in common is said by [UNK]
        self._frozen: tuple[WordRows, Tensor] | None = None
        self.register_buffer("mean", torch.zeros(COLUMNS))
        self.register_buffer("deviation", torch.ones(COLUMNS))
        self.register_buffer("turns", 2 * math.pi / torch.tensor(PERIODS_DAYS), persistent=False)
        self.register_buffer("rates", torch.tensor(_GAP_RATES), persistent=False)
        # Rank 0 of every section, by kind.
        begins = [sum(most[:section]) for section in range(len(SECTIONS))]
        first = torch.tensor([begins[section] for section in SECTION_OF_KIND])
        self.register_buffer("first_rank", first, persistent=False)

    @torch.no_grad()
    def standardise(self, numbers: Floats) -> None:
        """Learn the mean and deviation of every column of (N, COLUMNS)."""
        known = np.where(np.isfinite(numbers), numbers, np.nan)
        count = np.maximum(np.isfinite(known).sum(0), 1)
        mean = np.nansum(known, axis=0) / count
        deviation = np.sqrt(np.nansum((known - mean) ** 2, axis=0) / count)
        self.mean.copy_(torch.from_numpy(mean))
        self.deviation.copy_(torch.from_numpy(np.where(deviation > _NO_CHANCE, deviation, 1.0)))

    def forward(self, batch: Sequences, hidden_numbers: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Vectors and mask of a batch.

        Args:
            batch: of B customers, the longest with P positions.
            hidden_numbers: (B,), 1 where the numeric features are not shown; absent: all are that are known.

        Returns:
            (B, P, H), and (B, P) with 1 for a position and 0 behind the last.
        """
        flat, (rows, columns), longest = self.flat(batch, hidden_numbers), _places(batch), int(batch.lengths.max())
        at = put(rows * longest + columns, flat.device)
        out = flat.new_zeros((len(batch) * longest, flat.shape[1])).index_copy(0, at, flat)
        mask = flat.new_zeros(len(batch) * longest).index_fill(0, at, 1.0)
        return out.view(len(batch), longest, -1), mask.view(len(batch), longest)

    def flat(self, batch: Sequences, hidden_numbers: Tensor | None = None) -> Tensor:
        """Vectors of the positions, one after the other: (T, H), H the body's."""
        device = self.mean.device

        def on(values: np.ndarray[Any, np.dtype[Any]]) -> Tensor:
            return put(values, device)

        kind = on(batch.kind.astype(np.int64))
        table, places = self._table(batch)
        words = nn.functional.embedding_bag(
            on(places),
            table,
            on(np.cumsum(batch.counts) - batch.counts),
            mode="sum",
            per_sample_weights=on(batch.weights).to(table.dtype),
        )
        vectors = (
            words
            + self.time(self._times(on(batch.age_days), on(batch.gap_days), on(batch.hour), on(batch.year)))
            + self.amounts(on(batch.amounts) * _AMOUNT_SCALE)
            + self.kinds(kind)
            + self.ranks(self.first_rank[kind] + on(batch.rank.astype(np.int64)))
        )
        first = on(np.cumsum(batch.lengths) - batch.lengths)
        found: Tensor = self.project(vectors.index_add(0, first, self._numbers(on(batch.numbers), hidden_numbers)))
        return found

    def vectors(self, word_rows: WordRows, places: Ints, forgotten: Tensor | None = None) -> Tensor:
        """What words stand for, (N, H).

        Args:
            places: of the words, (N,).
            forgotten: (N,) of bool, words that count as not known, where they have a bucket.
        """
        weight = self.words.weight

        def on(values: Ints) -> Tensor:
            return torch.from_numpy(values).to(weight.device)

        own, bucket, counts = on(word_rows.own[places]), on(word_rows.bucket[places]), word_rows.counts[places]
        if forgotten is not None:
            own = torch.where(forgotten & (bucket != PAD_ID), UNK_ID, own)
        bucket = torch.where(own == UNK_ID, bucket, PAD_ID)
        text = nn.functional.embedding_bag(
            on(word_rows.text[ranges(word_rows.begin[places], counts)]),
            weight,
            on(np.cumsum(counts) - counts),
            mode="sum",
            per_sample_weights=on(np.repeat(counts, counts)).to(weight.dtype).rsqrt(),
        )
        name = nn.functional.embedding(own, weight, padding_idx=PAD_ID)
        name = name + nn.functional.embedding(bucket, weight, padding_idx=PAD_ID)
        found: Tensor = torch.where(on(counts)[:, None] > 0, (name + text) / 2, name)
        return found

    @torch.no_grad()
    def freeze(self, word_rows: WordRows) -> Tensor:
        """Vectors of all places, (R, H), which from now on are looked up: the weights must not change any more."""
        if self._frozen is None or self._frozen[0] is not word_rows:
            self._frozen = word_rows, self.vectors(word_rows, np.arange(len(word_rows))).detach()
        return self._frozen[1]

    def _table(self, batch: Sequences) -> tuple[Tensor, Ints]:
        """Vectors, and which of them each word of a batch has."""
        places = batch.words.astype(np.int64)
        if batch.word_rows is None:
            return self.words.weight, places
        if self._frozen is not None and self._frozen[0] is batch.word_rows:
            return self._frozen[1], places
        different, at = np.unique(places, return_inverse=True)
        forgotten = torch.rand(len(different)).to(self.mean.device) < _FORGOTTEN if self.training else None
        return self.vectors(batch.word_rows, different, forgotten), at

    def _times(self, age: Tensor, gap: Tensor, hour: Tensor, year: Tensor) -> Tensor:
        """(T,) each → (T, _TIMES)."""
        turn = age[:, None] * self.turns
        gap_known, hour_known, year_known = ((x >= 0).float()[:, None] for x in (gap, hour, year))
        log_gap = gap.clamp(min=0).log1p()[:, None]
        rate = log_gap * self.rates
        day, week, year = (x[:, None] * 2 * math.pi for x in (hour / 24, hour / 168, year))
        around = torch.cat([day.sin(), day.cos(), week.sin(), week.cos(), torch.ones_like(day)], dim=1)
        passed = torch.cat([rate.sin(), rate.cos(), log_gap / 3, torch.ones_like(log_gap)], dim=1)
        log_age = age.clamp(min=0).log1p()[:, None] / 3
        season = torch.cat([year.sin(), year.cos()], dim=1)
        return torch.cat(
            [turn.sin(), turn.cos(), log_age, passed * gap_known, around * hour_known, season * year_known], dim=1
        )

    def _numbers(self, numbers: Tensor, hidden: Tensor | None) -> Tensor:
        """(B, COLUMNS) → (B, H)."""
        z = ((numbers - self.mean) / self.deviation).nan_to_num(nan=0.0, posinf=CLIP, neginf=-CLIP).clamp(-CLIP, CLIP)
        shown = numbers[:, :LOGGED].isfinite().any(dim=1, keepdim=True).to(z)
        if hidden is not None:
            shown = shown * (1 - hidden.to(z)).unsqueeze(1)
        wave = (z[:, :, None] * self.waves).flatten(1)
        out: Tensor = self.numbers(torch.cat([torch.cat([z, wave.sin(), wave.cos()], dim=1) * shown, shown], dim=1))
        return out


def _places(batch: Sequences) -> tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.int64]]]:
    """Row and column of every position in a padded array, (T,) each."""
    rows = np.repeat(np.arange(len(batch)), batch.lengths)
    return rows, ranges(np.zeros_like(batch.lengths), batch.lengths)


class CustomerEncoder(nn.Module):
    """Sequences → one embedding a customer: the mean over its positions plus the first one, scaled to length √H.

    Args:
        config: of the body.
        vocabulary: rows of words.
        size: most positions of each kind.

    Raises:
        ConfigError: sizes past a byte, or a body with fewer places than the longest sequence has positions.
    """

    def __init__(self, config: PretrainedConfig, vocabulary: int, size: SequenceSize) -> None:
        super().__init__()
        if not size.valid:
            raise ConfigError(f"{size} is no size of a sequence: each kind has 0 to {MOST_POSITIONS} positions")
        places = getattr(config, "max_position_embeddings", None)
        if places is not None and places < size.positions:
            raise ConfigError(f"the encoder has {places} places, and sequences up to {size.positions} positions")
        self.config = config
        self.size = size
        self.hidden = int(config.hidden_size)
        self.input = InputLayer(vocabulary, self.hidden, size, width_of(config))
        self.body: Any = body_of(config)

    def read(self, snapshots: Sequence[Snapshot], word_rows: WordRows) -> Sequences:
        """What the encoder is shown of snapshots."""
        return sequences_of(snapshots, word_rows, self.size)

    def states(self, batch: Sequences, hidden_numbers: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, P, H) and their mask (B, P); arguments as in :meth:`InputLayer.forward`."""
        vectors, mask = self.input(batch, hidden_numbers)
        dtype = next(self.body.parameters()).dtype  # where the body is rounded, the input layer is not: ages are large
        states: Tensor = self.body(inputs_embeds=vectors.to(dtype), attention_mask=mask).last_hidden_state
        return states, mask

    def forward(self, batch: Sequences, hidden_numbers: Tensor | None = None) -> Tensor:
        """B customers → (B, H) float32."""
        return pool(*self.states(batch, hidden_numbers))

    def words(self) -> nn.Embedding:
        """The table of word vectors, shared with the candidate tower."""
        return self.input.words


def width_of(config: PretrainedConfig) -> int:
    """Of the vectors that a body takes: some make them wider by themselves."""
    return int(getattr(config, "embedding_size", None) or config.hidden_size)


def body_of(config: PretrainedConfig) -> Any:
    """A body with drawn weights, with fused attention where its kind has that."""
    from transformers import AutoModel

    try:
        return AutoModel.from_config(config, attn_implementation="sdpa")
    except ValueError:
        return AutoModel.from_config(config, attn_implementation="eager")


def pool(states: Tensor, mask: Tensor) -> Tensor:
    """(B, P, H) and (B, P) → (B, H): mean over positions plus the first one, scaled to length √H."""
    weight = mask[:, :, None].to(states.dtype)  # (B, P, 1)
    mean = (states * weight).sum(1, dtype=torch.float32) / weight.sum(1, dtype=torch.float32)
    return nn.functional.normalize(mean + states[:, 0].float(), dim=-1) * math.sqrt(states.shape[-1])


def flops_of(length: int, size: EncoderSize) -> int:
    """Products of the body for one sequence, a multiplication and an addition each counted; no norms, no padding."""
    dense = 8 * size.hidden**2 + 4 * size.hidden * size.intermediate
    return size.layers * (length * dense + 4 * length**2 * size.hidden)
