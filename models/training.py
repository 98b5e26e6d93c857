"""From outcomes to a model, under a budget of wall-clock time.

1. Each head's wide part is fitted to convergence (seconds).
2. The encoder is pre-trained on the customers' sequences (:mod:`models.pretrain`).
3. Encoder and deep parts are tuned together on what the wide parts leave, and stopped where validation is best
   (:mod:`models.tuning`).
4. A gate per head decides on validation how much of the deep part is kept, none if it does not help; Platt's two
   numbers calibrate the sum; metrics are taken; then the wide weights are fitted once more on all rows.

Training reads outcomes and the catalog, nothing else. The clock is a parameter. With ``max_steps`` set and a budget
that is not reached, equal inputs give an equal model on one machine; under a budget the number of steps varies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
import torch

from models import calibration, metrics, outcomes, pretrain
from models.encoder import EncoderSize, default_config
from models.model import HEADS, HeadReport, Model, TrainingReport
from models.outcomes import Rows
from models.tokenizer import Vocabulary
from models.tuning import Data, Tuner
from models.wide import Fitted, Ints, fit
from schemas.catalog import CatalogEntry
from schemas.errors import ConfigError
from schemas.snapshot import Head, Outcome

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Progress = Callable[[float, str], None]
Clock = Callable[[], float]

RECIPE: Final = 2
"""Goes up when equal logs and settings give a better model than before, so that a cached one is made again."""


class TrainSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to train; the defaults are what the demo and the reports use."""

    budget_s: float = 90.0
    seed: int = 0
    horizon_days: int = 28
    size: EncoderSize = EncoderSize()
    max_steps: int | None = None
    """Steps of pre-training, and again of tuning; None: as many as the budget allows."""
    batch: int = 64
    learning_rate: float = 1e-3
    pretrain_share: float = 0.25
    tune_share: float = 0.55
    """Shares of the budget that the fits leave; the rest is for measuring."""
    fit_rows: int = 60_000
    """Rows a wide part is fitted on at most."""
    measured_per_s: float = 30.0
    """Validation rows a head is measured on, per second of budget."""


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
    early: int = 0,
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
        early: outcomes that are not in ``found`` because their horizon has not ended, for the report.

    Raises:
        ConfigError: no head has outcomes of both labels to fit on.
    """
    settings = settings or TrainSettings()
    begin_s = clock()
    marks: dict[str, float] = {}

    def elapsed_s() -> float:
        return clock() - begin_s

    progress(0.0, "reading outcomes")
    rows, candidates = outcomes.read(found, catalog, vocabulary)
    data: dict[Head, tuple[Rows, Ints, Ints]] = {}
    left_out: dict[str, str] = {}
    for head in HEADS:
        fitted_on, held_out, _ = outcomes.split(rows[head], head)
        reason = outcomes.one_sided(rows[head], fitted_on)
        if reason is None:
            data[head] = rows[head], fitted_on, held_out
        else:
            left_out[head] = reason
    if not data:
        counts = ", ".join(f"{len(rows[head])} of {head} ({left_out[head]})" for head in HEADS)
        raise ConfigError(
            f"nothing to learn from: {counts}; {early} more are left out until their horizon ends; "
            "replay a longer log first"
        )
    generator = np.random.default_rng(settings.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = Model(
            config or default_config(len(vocabulary), settings.size),
            vocabulary,
            horizon_days=settings.horizon_days,
            trained=data,
        )
        model.to(device)
        marks["read"] = elapsed_s()

        progress(0.02, "fitting the wide parts")
        fitted = {head: _fit_wide(head, data, settings, generator) for head in data}
        for head, found_weights in fitted.items():
            model.head(head).wide.load(found_weights)
        marks["fit"] = elapsed_s()

        left_s = max(0.0, settings.budget_s - elapsed_s())

        def part(name: str, share: float, low: float, high: float) -> Callable[[int], float]:
            start_s, part_s = elapsed_s(), left_s * share

            def fraction(steps: int) -> float:
                by_time = (elapsed_s() - start_s) / part_s if part_s > 0 else 1.0
                by_steps = steps / settings.max_steps if settings.max_steps else 0.0
                done = min(1.0, by_time if settings.max_steps is None else max(by_time, by_steps))
                progress(min(high, low + (high - low) * done), name)
                return done

            return fraction

        tuner = Tuner(model, data, torch.from_numpy(candidates.words).to(device), generator)
        pretrained = _pretrain(
            model, data, part("pre-training", settings.pretrain_share, 0.05, 0.3), settings, generator
        )
        marks["pretrain"] = elapsed_s()
        tuned = tuner.tune(
            part("tuning", settings.tune_share, 0.3, 0.9),
            batch=settings.batch,
            rate=settings.learning_rate,
            checked=int(np.clip(settings.budget_s * 10, 100, 1000)),
        )
        marks["tune"] = elapsed_s()

    progress(0.9, "calibrating and measuring")
    reports: dict[str, HeadReport] = {h: _finish(model, h, tuner, fitted[h], settings) for h in data}
    marks["measure"] = elapsed_s()
    model.report = TrainingReport(
        heads=reports,
        left_out=left_out,
        early=early,
        recipe=RECIPE,
        outcomes=sum(len(of_head) for of_head in rows.values()),
        pretrain_steps=pretrained,
        tune_steps=tuned,
        seconds=_durations(marks),
    )
    progress(1.0, "trained")
    return model.eval().to("cpu")


def _fit_wide(head: Head, data: Data, settings: TrainSettings, generator: np.random.Generator) -> Fitted:
    rows, train, _ = data[head]
    if len(train) > settings.fit_rows:
        train = np.sort(generator.permutation(train)[: settings.fit_rows])
    chosen = rows.take(train)
    # New campaigns are what a redemption is scored for, so the ridge must hold across campaigns.
    across = head == "redemption" and len(np.unique(chosen.campaign)) >= outcomes.MIN_CAMPAIGNS
    return fit(chosen.inputs(), chosen.labels, chosen.campaign if across else chosen.customers)


def _pretrain(
    model: Model,
    data: Data,
    fraction: Callable[[int], float],
    settings: TrainSettings,
    generator: np.random.Generator,
) -> int:
    tokens = [one for rows, train, _ in data.values() for one in rows.take(train).tokens]
    customers = np.concatenate([rows.customers[train] for rows, train, _ in data.values()])
    pool = pretrain.longest_per_customer(tokens, customers)
    batch = min(settings.batch // 2, len(pool))
    if batch < 2:
        return 0
    encoder = model.encoder.train()
    device = encoder.words().weight.device
    head = pretrain.MaskedEvents(encoder.hidden, encoder.words().num_embeddings).to(device)
    optimiser = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=0.0, weight_decay=0.01)
    steps = 0
    while (done := fraction(steps)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * min(1.0, (steps + 1) / 20) * max(0.05, 1 - done)
        pick = generator.choice(len(pool), batch, replace=False)
        loss = pretrain.step_loss(encoder, head, [pool[i] for i in pick], generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimiser.step()
        steps += 1
    return steps


def _finish(model: Model, head: Head, tuner: Tuner, fitted: Fitted, settings: TrainSettings) -> HeadReport:
    """Choose gate and calibration, measure, and fit the wide weights once more on all rows."""
    rows, train, held_out = tuner.data[head]
    module = model.head(head)
    most = max(200, int(settings.budget_s * settings.measured_per_s))
    scored = rows.take(tuner.some(held_out, most))
    labels, wide = scored.labels.astype(np.float64), fitted.logits(scored.inputs())
    deep, alone = tuner.measured(head, scored)
    found = calibration.choose(labels, wide, deep)
    plain = calibration.Calibration(0.0, *calibration.platt(labels, wide))
    for name, value in found._asdict().items():
        getattr(module, name).fill_(value)
    module.wide.load(fitted.refitted(rows.inputs(), rows.labels))
    return HeadReport(
        split=outcomes.split(rows, head)[2],
        train_rows=len(train),
        wide=metrics.score(labels, plain.apply(wide, deep), scored.customers, seed=settings.seed),
        model=metrics.score(labels, found.apply(wide, deep), scored.customers, seed=settings.seed),
        gate=found.gate,
        embedding_auc=metrics.auc(labels, alone),
    )


def _durations(marks: Mapping[str, float]) -> dict[str, float]:
    ends = list(marks.items())
    return {name: round(end - (ends[i - 1][1] if i else 0.0), 3) for i, (name, end) in enumerate(ends)}
