"""From outcomes to a model.

1. Each head's wide part is fitted to convergence (seconds).
2. The encoder is trained, epoch by epoch, and stopped where nothing more is gained (:mod:`models.tuning`).
3. Redemption's deep part is fitted on the embeddings, to what the wide part leaves; churn's was trained with them.
4. A gate per head decides how much of the deep part is kept, none if it does not help; Platt's two numbers calibrate
   the sum; then metrics are taken, the wide weights are fitted once more on all rows, and the newest set the level.

Fitting, stopping, choosing the gate and reporting are done on different customers (:func:`models.outcomes.split`).
Training reads outcomes and the catalog, nothing else. The clock is a parameter. Without a budget equal inputs give an
equal model on one machine; under a budget the number of steps varies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
import torch

from models import calibration, metrics, outcomes
from models.encoder import EncoderSize, default_config
from models.future import futures
from models.model import HEADS, HeadReport, Model, TrainingReport
from models.outcomes import Rows, Split
from models.pretrain import FutureHeads
from models.tokenizer import Vocabulary
from models.tuning import Data, Residual, Trainer
from models.wide import Doubles, Fitted, Floats, Ints, fit
from schemas.catalog import CatalogEntry
from schemas.errors import ConfigError
from schemas.snapshot import Head, Outcome

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Progress = Callable[[float, str], None]
Clock = Callable[[], float]

RECIPE: Final = 5
"""Goes up when equal logs and settings give a better model than before, so that a cached one is made again."""


class TrainSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to train; the defaults are what the demo and the reports use."""

    epochs: float = 3.0
    """How often the encoder sees every row, at most: it stops where nothing is gained."""
    budget_s: float | None = None
    """Bound of the encoder's training; None for none. A model that then saw less than one epoch is refused."""
    seed: int = 0
    horizon_days: int = 28
    size: EncoderSize = EncoderSize()
    batch: int = 128
    learning_rate: float = 2e-3
    fit_rows: int = 60_000
    """Rows a wide part is fitted on at most."""
    residual_rows: int = 20_000
    """Rows that redemption's deep part is fitted on at most."""


def quiet(_fraction: float, _message: str) -> None:
    """A progress callback that says nothing."""


def train(
    found: Iterable[Outcome],
    catalog: Mapping[str, CatalogEntry],
    vocabulary: Vocabulary,
    *,
    clock: Clock,
    settings: TrainSettings | None = None,
    progress: Progress = quiet,
    config: PretrainedConfig | None = None,
    device: str | torch.device = "cpu",
    early: Sequence[Outcome] = (),
) -> Model:
    """Train a model; its ``report`` says what it reached, and which head was left out.

    Args:
        found: outcomes in any order whose horizon has ended (:func:`models.outcomes.matured`).
        catalog: ``kind:id`` -> entry, for the campaigns that the outcomes name and for their items and offers.
        vocabulary: the words that get a row of their own.
        clock: seconds that only go forward, e.g. ``time.monotonic``.
        progress: called with the fraction done (0 to 1) and what is being done.
        config: another Hugging Face encoder's config; a small BERT of ``settings.size`` where absent.
        device: where the deep part is trained.
        early: outcomes that are not in ``found`` because their horizon has not ended: their labels do not count, their
            snapshots say what customers did after those of ``found``.

    Raises:
        ConfigError: no head has outcomes of both labels to fit on, or the budget ended within the first epoch.
    """
    settings = settings or TrainSettings()
    marks = _Marks(clock)
    progress(0.0, "reading outcomes")
    sorted_outcomes = outcomes.by_head(found)
    # Ages that are rare among these rows are not shown to the model later, either.
    size = msgspec.structs.replace(settings.size.sequence, span_days=outcomes.span_days(sorted_outcomes))
    rows, candidates = outcomes.read(sorted_outcomes, catalog, vocabulary, size)
    data: dict[Head, tuple[Rows, Split]] = {}
    left_out: dict[str, str] = {}
    for head in HEADS:
        split = outcomes.split(rows[head], head)
        reason = outcomes.one_sided(rows[head], split.fit)
        if reason is None:
            data[head] = rows[head], split
        else:
            left_out[head] = reason
    if not data:
        counts = ", ".join(f"{len(rows[head])} of {head} ({left_out[head]})" for head in HEADS)
        raise ConfigError(
            f"nothing to learn from: {counts}; {len(early)} more are left out until their horizon ends; "
            "replay a longer log first"
        )
    generator = np.random.default_rng(settings.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = Model(
            config or default_config(settings.size),
            vocabulary,
            size,
            horizon_days=settings.horizon_days,
            trained=data,
        )
        fitted_on = np.concatenate([of_head.sequences.numbers[split.fit] for of_head, split in data.values()])
        model.encoder.input.standardise(fitted_on)
        future = None
        if "churn" in data:
            others = [*early, *sorted_outcomes["redemption"]]
            ahead = futures(sorted_outcomes["churn"], others, vocabulary)
            future = FutureHeads(model.encoder.hidden, ahead, data["churn"][1].fit).to(device)
        model.to(device)
        marks.end("read")

        progress(0.1, "fitting the wide parts")
        fitted = {head: _fit_wide(head, data, settings, generator) for head in data}
        for head, found_weights in fitted.items():
            model.head(head).wide.load(found_weights)
        marks.end("fit")

        begin_s = clock()

        def fraction(epochs: float) -> float:
            by_time = (clock() - begin_s) / settings.budget_s if settings.budget_s is not None else 0.0
            done = min(1.0, max(by_time, epochs / settings.epochs))
            progress(0.15 + 0.7 * done, f"training the encoder: {epochs:.1f} epochs")
            return done

        trainer = Trainer(model, data, future, generator)
        steps, epochs, checks = trainer.learn(fraction, batch=settings.batch, rate=settings.learning_rate)
        marks.end("encoder")
        if epochs < min(1.0, settings.epochs):
            raise ConfigError(
                f"after {settings.budget_s:g} s the encoder has seen {epochs:.0%} of the rows, and a model needs all "
                "of them once; give it more time (--budget), fewer customers, or a smaller --size"
            )
        progress(0.85, "fitting and measuring the heads")
        words = torch.from_numpy(candidates.words).to(device)
        reports: dict[str, HeadReport] = {
            head: _finish(trainer, head, words, fitted[head], settings, generator) for head in data
        }
        marks.end("heads")
    model.report = TrainingReport(
        heads=reports,
        left_out=left_out,
        early=len(early),
        recipe=RECIPE,
        seed=settings.seed,
        outcomes=sum(len(of_head) for of_head in rows.values()),
        steps=steps,
        epochs=round(epochs, 3),
        checks=checks,
        seconds=marks.seconds,
    )
    progress(1.0, "trained")
    return model.eval().to("cpu")


def _fit_wide(head: Head, data: Data, settings: TrainSettings, generator: np.random.Generator) -> Fitted:
    rows, split = data[head]
    chosen = rows.take(_some(split.fit, settings.fit_rows, generator))
    # New campaigns are what a redemption is scored for, so the ridge must hold across campaigns.
    across = head == "redemption" and len(np.unique(chosen.campaign)) >= outcomes.MIN_CAMPAIGNS
    return fit(chosen.inputs(), chosen.labels, chosen.campaign if across else chosen.customers)


def _finish(
    trainer: Trainer,
    head: Head,
    words: torch.Tensor,
    fitted: Fitted,
    settings: TrainSettings,
    generator: np.random.Generator,
) -> HeadReport:
    """Choose gate and calibration, measure, and fit the wide weights once more on all rows."""
    model = trainer.model
    rows, split = trainer.data[head]
    module = model.head(head)

    def ready(chosen: Ints) -> tuple[Rows, Floats, Doubles]:
        of_stage = rows.take(chosen)
        return of_stage, trainer.embeddings(of_stage), fitted.logits(of_stage.inputs())

    residual = Residual(model, words)
    if head == "redemption":
        chosen = _some(split.fit, settings.residual_rows, generator)
        residual.fit(*ready(chosen), ready(split.stop), generator)

    def deep_of(of_stage: Rows, embeddings: Floats) -> Doubles:
        if head == "redemption":
            return residual.measured(of_stage, embeddings)
        return trainer.alone_logits(head, embeddings)

    gate_rows, embeddings, wide = ready(split.gate)
    labels, deep = gate_rows.labels.astype(np.float64), deep_of(gate_rows, embeddings)
    found = calibration.choose(labels, wide, deep, gate_rows.customers)
    plain = calibration.Calibration(0.0, *calibration.platt(labels, wide))
    for name, value in found._asdict().items():
        getattr(module, name).fill_(value)
    reported, embeddings, wide = ready(split.report)
    labels, deep = reported.labels.astype(np.float64), deep_of(reported, embeddings)
    logits = found.apply(wide, deep)
    report = HeadReport(
        split=split.by,
        train_rows=len(split.fit),
        gate_rows=len(split.gate),
        wide=metrics.score(labels, plain.apply(wide, deep), reported.customers, seed=settings.seed),
        model=metrics.score(labels, logits, reported.customers, seed=settings.seed),
        live=metrics.score(
            labels[reported.live], logits[reported.live], reported.customers[reported.live], seed=settings.seed
        ),
        gate=found.gate,
        embedding_auc=metrics.auc(labels, trainer.alone_logits(head, embeddings)),
    )
    module.wide.load(fitted.refitted(rows.inputs(), rows.labels))
    if split.by == "customers":  # newest campaigns are the gate's already
        _level(trainer, head, rows.take(outcomes.newest(rows)), deep_of)
    return report


def _level(trainer: Trainer, head: Head, rows: Rows, deep_of: Callable[[Rows, Floats], Doubles]) -> None:
    """Shift the logit so that the mean probability of these rows is their rate.

    The gate's customers are few, and their rate is off by chance (Complete Journey, January to June: 0.085 where all
    have 0.103); and what a model says drifts in the course of a log.
    """
    if not 0 < rows.labels.mean() < 1:
        return
    module = trainer.model.head(head)
    with torch.no_grad():
        z = module.wide.standardise(torch.from_numpy(rows.inputs()).to(trainer.device))
        wide: Doubles = module.wide(z).double().cpu().numpy()
    gate, scale = float(module.gate), float(module.scale)
    deep = deep_of(rows, trainer.embeddings(rows)) if gate else np.zeros(len(rows))
    module.shift.fill_(calibration.level(rows.labels.astype(np.float64), scale * (wide + gate * deep)))


def _some(rows: Ints, count: int, generator: np.random.Generator) -> Ints:
    """At most ``count`` of the row numbers, drawn evenly."""
    return rows if len(rows) <= count else np.sort(generator.permutation(rows)[:count])


class _Marks:
    """How long each part took."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._last_s = clock, clock()
        self.seconds: dict[str, float] = {}

    def end(self, part: str) -> None:
        now_s = self._clock()
        self.seconds[part] = round(now_s - self._last_s, 3)
        self._last_s = now_s
