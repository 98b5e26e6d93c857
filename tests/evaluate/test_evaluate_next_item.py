"""Leave one out: what reaches a model, what a ranking is, and that a pattern is found."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.evaluate import next_item
from infra.evaluate.report import EvaluationOptions
from infra.evaluate.sasrec import SasRec, SasRecSettings, padded, train_sasrec
from infra.evaluate.sequences import LEAST, PAD, LeaveOneOut, read_sequences, split
from schemas.errors import ConfigError

SMALL = SasRecSettings(hidden=16, heads=2, longest=6, negatives=8, batch=16, epochs=2)
CPU = torch.device("cpu")
lines = st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=9), min_size=1, max_size=12)


def quiet(_text: str) -> None:
    pass


@given(lines)
def test_every_item_is_in_one_part_and_in_its_order(found: list[list[str]]) -> None:
    usable = [line for line in found if len(line) >= LEAST]
    if not usable:
        with pytest.raises(ConfigError, match="no line holds a user with 3 items"):
            split(found)
        return
    data = split(found)
    numbers = {item: number for number, item in enumerate(sorted({item for line in usable for item in line}), 1)}
    for at, line in enumerate(usable):
        whole = [*data.train[at].tolist(), int(data.valid[at]), int(data.test[at])]
        assert whole == [numbers[item] for item in line]
        assert data.before_test()[at].tolist() == whole[:-1]
    assert PAD not in numbers.values() and data.items == len(numbers)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**16), st.integers(0, 3))
def test_test_items_reach_nothing(seed: int, model_seed: int) -> None:
    """Whatever the last items are, the model that is trained is the same, to the last bit, and so is its course."""
    random = np.random.default_rng(seed)
    found = [[str(item) for item in random.integers(0, 12, random.integers(3, 9))] for _ in range(30)]
    everything = [str(item) for item in range(12)] * 2  # so that the catalog does not depend on what is left out
    other = [[*line[:-1], str(random.integers(0, 12))] for line in found]
    one, two = (train_sasrec(split([everything, *of]), SMALL, seed=model_seed, device=CPU) for of in (found, other))
    assert one[1] == two[1]
    for name, value in one[0].state_dict().items():
        assert torch.equal(value, two[0].state_dict()[name]), name


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**16))
def test_a_position_does_not_see_what_comes_after(seed: int) -> None:
    random = np.random.default_rng(seed)
    torch.manual_seed(seed)
    model = SasRec(12, SMALL).eval()
    read = random.integers(1, 13, (1, 6))
    changed, at = read.copy(), int(random.integers(1, 6))
    changed[:, at:] = random.integers(0, 13, (1, 6 - at))
    with torch.no_grad():
        one, two = model(torch.from_numpy(read)), model(torch.from_numpy(changed))
    assert torch.allclose(one[:, :at], two[:, :at], atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**16))
def test_ranks_are_those_of_scoring_each_user_alone(seed: int) -> None:
    random = np.random.default_rng(seed)
    torch.manual_seed(seed)
    model = SasRec(20, SMALL).eval()
    read = [random.integers(1, 21, random.integers(1, 12)) for _ in range(7)]
    wanted = random.integers(1, 21, 7)
    every, new = (model.ranks(read, wanted, had=had) for had in (True, False))
    for user, items in enumerate(read):
        with torch.no_grad():
            state = model(padded([items[-SMALL.longest :]])[0])[0, -1]
            scores = (model.items.weight @ state).numpy()
        others = [item for item in range(1, 21) if item != wanted[user]]
        above = [item for item in others if scores[item] >= scores[wanted[user]]]
        assert abs(every[user] - len(above)) <= sum(abs(scores[o] - scores[wanted[user]]) < 1e-6 for o in others)
        assert every[user] - new[user] == sum(item in set(items.tolist()) for item in above)


def planted(users: int, seed: int = 0) -> list[list[str]]:
    """After an item comes the one that its number says, four times in five; else any."""
    random = np.random.default_rng(seed)
    after = random.permutation(40)
    found = []
    for _ in range(users):
        items = [int(random.integers(0, 40))]
        while len(items) < 8:
            items.append(int(after[items[-1]] if random.random() < 0.8 else random.integers(0, 40)))
        found.append([str(item) for item in items])
    return found


def test_a_planted_pattern_is_found_and_popularity_is_beaten(tmp_path: Path) -> None:
    path = tmp_path / "planted.txt.gz"
    with gzip.open(path, "wt") as file:
        file.writelines(f"{user} {' '.join(items)}\n" for user, items in enumerate(planted(300)))
    options = EvaluationOptions(folder=tmp_path, sequences=path, seeds=2, rounds=50)
    how = SasRecSettings(hidden=32, longest=8, negatives=16, batch=32, epochs=12, rate=5e-3, dropout=0.1)
    found = next_item.run(options, quiet, how)
    value = {(row.name, row.measure): row for row in found.results}
    ours, popular = value[next_item.OURS, "NDCG@10"], value[next_item.POPULAR, "NDCG@10"]
    assert ours.low is not None and popular.high is not None and ours.low > popular.high
    assert ours.value > 0.6
    assert found.targets == []  # no published set
    again = next_item.run(options, lambda text: pytest.fail(text) if "training with" in text else None, how)
    assert again.results == found.results  # what is known is kept


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs --sequences FILE"):
        next_item.run(EvaluationOptions(folder=tmp_path), quiet)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_sequences(tmp_path / "absent.txt")
    (tmp_path / "no.txt.gz").write_bytes(b"no gzip")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_sequences(tmp_path / "no.txt.gz")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe 1 2 3")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_sequences(tmp_path / "binary.txt")
    (tmp_path / "short.txt").write_text("1 2 3\n\n4 5\n")
    with pytest.raises(ConfigError, match="no line holds a user"):
        read_sequences(tmp_path / "short.txt")


def test_a_user_of_three_items_is_tested() -> None:
    data: LeaveOneOut = split([["a", "b", "c"]])
    assert [len(items) for items in data.train] == [1]
    assert data.counts().sum() == 1
