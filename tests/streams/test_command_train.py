"""``pulsegraph train`` on a tiny simulation, from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.checkpoint import read_card
from streams import cli


def test_trains_and_says_what_it_reached(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model"
    monkeypatch.setenv("PULSEGRAPH_CORE_CHURN_HORIZON_MS", str(14 * 86_400_000))
    options = ["--data", "simulation", "--customers", "60", "--until", "2017-04-15", "--budget", "1"]
    assert cli.main(["train", *options, "--out", str(out)]) == 0
    captured = capsys.readouterr()
    card = read_card(out)
    assert card.horizon_days == 14
    assert captured.out.startswith(f"model {card.model_version} written to {out}\n")
    assert f"{card.report.outcomes:,} outcomes" in captured.out
    for head in card.report.heads:
        assert f"{head}: AUC " in captured.out
    assert captured.err.startswith("training   0 %")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--until", "2016-01-01"], "no event before 2016-01-01"),
        (["--until", "soon"], "write it like 2017-07-01"),
        (["--budget", "0"], "seconds above 0"),
        (["--until", "2017-01-02", "--customers", "2"], "nothing to learn from"),
    ],
)
def test_says_what_to_do(options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["train", "--data", "simulation", *options, "--out", str(tmp_path / "model")]
    assert cli.main(argv) == 2
    assert said in capsys.readouterr().err


def test_a_horizon_is_whole_days(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULSEGRAPH_CORE_CHURN_HORIZON_MS", str(36 * 3_600_000))
    assert cli.main(["train", "--data", "simulation", "--customers", "2", "--out", str(tmp_path / "model")]) == 2
    assert "such as 86400000 ms" in capsys.readouterr().err
