"""Events that are hidden whole, and windows of one customer."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import model_worlds as worlds
from support.examples import examples
from support.sequences import snapshots

from models.coles import MIN_POSITIONS, Contrast, windows
from models.encoder import CustomerEncoder, EncoderSize, default_config
from models.masked import MaskedEvents, hide
from models.sequence import GRAPH, HISTORY, RECENT, SECTION_OF_KIND, Sequences, SequenceSize, sequences_of
from models.tokenizer import MASK_ID, SPECIALS
from schemas.snapshot import Snapshot
from schemas.words import FIXED

FULL = SequenceSize(recent=40, history=40, graph=40, span_days=4_000)
SMALL = EncoderSize(hidden=16, layers=1, heads=2, intermediate=16, sequence=FULL)
SECTIONS = np.array(SECTION_OF_KIND)
seeds = st.integers(0, 2**32 - 1)
many_snapshots = st.lists(snapshots, min_size=1, max_size=4)


def owners(batch: Sequences) -> np.ndarray:
    return np.repeat(np.arange(len(batch)), batch.lengths)


def words_of(batch: Sequences) -> list[list[int]]:
    """Of every position."""
    return [part.tolist() for part in np.split(batch.words, np.cumsum(batch.counts)[:-1])]


def done(batch: Sequences) -> np.ndarray:
    return np.isin(SECTIONS[batch.kind], (RECENT, HISTORY))


@settings(deadline=None, max_examples=examples(80))
@given(many_snapshots, st.sampled_from([0.0, 0.15, 0.6, 1.0]), seeds)
def test_what_was_done_on_a_day_is_hidden_together(many: list[Snapshot], share: float, seed: int) -> None:
    batch = sequences_of(many, worlds.vocabulary(), FULL)
    before = copy.deepcopy(batch)
    found = hide(batch, share, np.random.default_rng(seed))
    for name in ("words", "weights", "amounts", "kind", "counts"):
        assert np.array_equal(getattr(batch, name), getattr(before, name)), "the batch stays as it is"
    masked = found.sequences
    said = words_of(masked)
    assert all(said[at] == [MASK_ID] for at in found.at)
    assert not masked.amounts[found.at].any()
    assert sum(words == [MASK_ID] for words in said) == len(found.at)
    assert masked.lengths.sum() == len(masked.kind) and masked.counts.sum() == len(masked.words)

    # Of what was done, and of the customers themselves, every position is still there.
    stays, now = SECTIONS[batch.kind] != GRAPH, SECTIONS[masked.kind] != GRAPH
    assert np.array_equal(batch.age_days[stays], masked.age_days[now])
    hidden = np.zeros(len(masked.kind), dtype=bool)
    hidden[found.at] = True
    days: dict[tuple[int, int], set[bool]] = {}
    for at in np.flatnonzero(done(batch) & (batch.counts > 0)):
        place = (int(owners(batch)[at]), int(batch.age_days[at]))
        days.setdefault(place, set()).add(bool(hidden[now][int(stays[:at].sum())]))
    assert all(len(outcome) == 1 for outcome in days.values())
    drawn = {place for place, outcome in days.items() if outcome == {True}}
    for at in np.flatnonzero(~now):
        assert (int(owners(masked)[at]), int(masked.age_days[at])) not in drawn, "an edge would give it away"

    first = len(SPECIALS) + len(FIXED)
    told = [
        word
        for at, words in enumerate(words_of(batch))
        if stays[at] and hidden[now][int(stays[:at].sum())]
        for word in words
    ]
    assert found.words.tolist() == [word for word in told if word >= first]
    assert share > 0 or not len(found.at)


def test_about_a_share_of_days_is_hidden() -> None:
    batch = sequences_of([worlds.snapshot(items=[1, 2, 3, 4] * 4)] * 200, worlds.vocabulary(), FULL)
    found = hide(batch, 0.15, np.random.default_rng(0))
    assert len(found.at) / done(batch).sum() == pytest.approx(0.15, abs=0.02)


@pytest.mark.slow
def test_hidden_words_are_learned() -> None:
    """Everybody buys one thing alone."""
    many = [worlds.snapshot(items=[item] * 6) for item in range(8)] * 4
    batch = sequences_of(many, worlds.vocabulary(), FULL)
    random = np.random.default_rng(0)
    torch.manual_seed(0)
    encoder = CustomerEncoder(default_config(SMALL), len(worlds.vocabulary()), FULL)
    head = MaskedEvents(16, len(worlds.vocabulary()), 1.0)
    optimiser = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=1e-2)
    losses = []
    for _ in range(60):
        masked = hide(batch, 0.3, random)
        states, _ = encoder.states(masked.sequences)
        loss = head(states, masked)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < losses[0] / 2


def test_nothing_hidden_is_no_loss() -> None:
    batch = sequences_of([worlds.snapshot(items=[])], worlds.vocabulary(), FULL)
    masked = hide(batch, 1.0, np.random.default_rng(0))
    assert MaskedEvents(16, len(worlds.vocabulary()), 1.0)(torch.zeros(1, 1, 16), masked).item() == 0.0


@settings(deadline=None, max_examples=examples(80))
@given(many_snapshots, seeds)
def test_two_windows_hold_what_was_done_once_and_nothing_else(many: list[Snapshot], seed: int) -> None:
    batch = sequences_of(many, worlds.vocabulary(), FULL)
    chosen, older, newer = windows(batch, np.random.default_rng(seed))
    counts = np.bincount(owners(batch)[done(batch)], minlength=len(batch))
    assert chosen.tolist() == np.flatnonzero(counts >= MIN_POSITIONS).tolist()
    assert len(older) == len(newer) == len(chosen)
    for at, row in enumerate(chosen):
        ages = [part.age_days[(owners(part) == at) & done(part)] for part in (older, newer)]
        whole = batch.age_days[(owners(batch) == row) & done(batch)]
        assert min(map(len, ages)) > 0
        assert ages[0].min() >= ages[1].max()
        assert sorted(np.concatenate(ages)) == sorted(whole)
    for part in (older, newer):
        assert not (SECTIONS[part.kind] == GRAPH).any()


def test_customers_who_are_told_apart_cost_little() -> None:
    many = [worlds.snapshot(items=[item] * 8) for item in (0, 1, 2, 3)]
    batch = sequences_of(many, worlds.vocabulary(), FULL)
    torch.manual_seed(0)
    encoder = CustomerEncoder(default_config(SMALL), len(worlds.vocabulary()), FULL)
    contrast, random = Contrast(1.0), np.random.default_rng(0)
    optimiser = torch.optim.AdamW(encoder.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = contrast(encoder, batch, np.arange(4), random)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < losses[0] / 2


def test_other_rows_of_a_customer_are_no_strangers() -> None:
    batch = sequences_of([worlds.snapshot(items=[1] * 8)] * 3, worlds.vocabulary(), FULL)
    encoder = CustomerEncoder(default_config(SMALL), len(worlds.vocabulary()), FULL).eval()
    random = np.random.default_rng(0)
    assert Contrast(1.0)(encoder, batch, np.zeros(3, dtype=np.int64), random).item() == pytest.approx(0.0, abs=1e-5)
    assert Contrast(1.0)(encoder, batch, np.arange(3), random).item() > 0.5
    alone = batch.take(np.array([0]))
    assert Contrast(1.0)(encoder, alone, np.zeros(1, dtype=np.int64), random).item() == 0.0
