"""From outcomes to a model.

1. What needs no encoder is fitted: each task's wide part.
2. The encoder is trained, epoch by epoch, and stopped where nothing more is gained (:mod:`models.tuning`).
3. Each task fits the rest of its head, and is measured (:mod:`models.probability`).

Training reads outcomes and the catalog, nothing else. The clock is a parameter. Without a budget equal inputs give an
equal model on one machine; under a budget the number of steps varies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
import torch

from models import outcomes
from models.coles import Contrast
from models.continued import CONTINUED_RATE, Base, take_over
from models.device import compiled, threads, worth_compiling
from models.encoder import EncoderSize, default_config
from models.entities import WordRows
from models.future import futures
from models.masked import MaskedEvents
from models.model import DataRead, Model, TrainingReport
from models.outcomes import Rows
from models.pretrain import FutureHeads
from models.pretrained import BODY_RATE, PretrainedBody
from models.sequence import sequences_of
from models.task import Evidence, Task
from models.tasks import TASKS
from models.text import TextEncoder, reads_text, text_reader
from models.tokenizer import Vocabulary
from models.tuning import Lessons, Trainer
from schemas.catalog import CatalogEntry
from schemas.errors import ConfigError
from schemas.snapshot import Outcome

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Progress = Callable[[float, str], None]
Clock = Callable[[], float]

RECIPE: Final = 11
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
    masked: float = 0.0
    """Weight of the loss of :mod:`models.masked`; 0: no events are hidden."""
    coles: float = 0.0
    """Weight of the loss of :mod:`models.coles`; 0: no windows are compared."""
    threads: int | None = None
    """Of one operation on the CPU; None: as torch has it. Sums depend on it in their last bits."""


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
    body: PretrainedBody | None = None,
    base: Base | None = None,
    device: str | torch.device = "cpu",
    early: Sequence[Outcome] = (),
    tasks: Sequence[Task] = TASKS,
    source: str = "",
    date: str = "",
) -> Model:
    """Train a model; its ``report`` says what it reached, and which task was left out.

    Args:
        found: outcomes in any order whose horizon has ended (:func:`models.outcomes.matured`).
        catalog: ``kind:id`` -> entry, for what it says of entities, and the campaigns that the outcomes name.
        vocabulary: the words that get a row of their own.
        clock: seconds that only go forward, e.g. ``time.monotonic``.
        progress: called with the fraction done (0 to 1) and what is being done.
        body: another Hugging Face encoder, see :func:`models.pretrained.load_body`; a small BERT of ``settings.size``
            where absent.
        base: a model to go on from, whose size holds then; not together with ``body``.
        device: where the deep part is trained.
        early: outcomes that are not in ``found`` because their horizon has not ended: their labels do not count, their
            snapshots say what customers did after those of ``found``.
        tasks: what to predict.
        source: where the outcomes came from, for the model's card, as is ``date``.

    Raises:
        ConfigError: body and base both, no task has outcomes of both labels to fit on, or the budget ended within the
            first epoch.
    """
    if base and body:
        raise ConfigError("--base goes on with the encoder that it has: omit --encoder, or train without --base")
    settings, device = settings or TrainSettings(), torch.device(device)
    marks = _Marks(clock)
    progress(0.0, "reading outcomes")
    by_question = outcomes.by_question(found, dict.fromkeys(task.question for task in tasks))
    # Ages that are rare among these rows are not shown to the model later, either.
    sections = base.model.encoder.size if base else settings.size.sequence
    size = msgspec.structs.replace(sections, span_days=outcomes.span_days(by_question))
    config = _config(settings, body, base)
    if reads_text(config) and (settings.masked or settings.coles):
        raise ConfigError("a text encoder is not trained: leave masked and coles at 0, or train without --input text")
    word_rows = WordRows(vocabulary, catalog)
    rows = outcomes.read(by_question, word_rows, size, text_reader(config) if reads_text(config) else sequences_of)
    evidence = {name: Evidence(by_question[name], rows[name], catalog, word_rows) for name in by_question}
    everything = {task: task.lesson(evidence[task.question]) for task in tasks}
    lessons = {task: lesson for task, lesson in everything.items() if lesson.missing is None}
    left_out = {task.name: lesson.missing for task, lesson in everything.items() if lesson.missing is not None}
    if not lessons:
        counts = ", ".join(f"{len(rows[task.question])} of {task.name} ({left_out[task.name]})" for task in tasks)
        raise ConfigError(
            f"nothing to learn from: {counts}; {len(early)} more are left out until their horizon ends; "
            "replay a longer log first"
        )
    generator = np.random.default_rng(settings.seed)
    with torch.random.fork_rng(devices=[]), threads(settings.threads):
        torch.manual_seed(settings.seed)
        model = Model(config, vocabulary, size, lessons, horizon_days=settings.horizon_days)
        if body and body.weights:
            model.encoder.body.load_state_dict(body.weights)
        if base:
            take_over(model, base)
        else:
            model.encoder.input.standardise(
                np.concatenate([lesson.rows.sequences.numbers[lesson.split.fit] for lesson in lessons.values()])
            )
        groups = []
        for question, of_question in rows.items():
            by_task = {task.name: lesson for task, lesson in lessons.items() if task.question == question}
            if by_task:
                group = Lessons(of_question, by_task)
                if any(task.looks_ahead for task in lessons if task.question == question):
                    others = [*early, *(o for other in by_question if other != question for o in by_question[other])]
                    in_time = any(lesson.split.by != "customers" for lesson in by_task.values())
                    until_ms = of_question.cut_ms if in_time else None
                    ahead = futures(by_question[question], others, vocabulary, until_ms)
                    heads = FutureHeads(model.encoder.hidden, ahead, group.chosen("fit")).to(device)
                    group = Lessons(of_question, by_task, heads)
                groups.append(group)
        model.to(device)
        if isinstance(model.encoder, TextEncoder):
            model.encoder.remembered = {}
        marks.end("read")

        progress(0.1, "fitting the wide parts")
        layers = {task.name: lesson.begin(model, generator) for task, lesson in lessons.items()}
        marks.end("fit")

        begin_s = clock()

        def fraction(epochs: float) -> float:
            by_time = (clock() - begin_s) / settings.budget_s if settings.budget_s is not None else 0.0
            done = min(1.0, max(by_time, epochs / settings.epochs))
            progress(0.15 + 0.7 * done, f"training the encoder: {epochs:.1f} epochs")
            return done

        masked = MaskedEvents(model.encoder.hidden, len(vocabulary), settings.masked) if settings.masked else None
        contrast = Contrast(settings.coles) if settings.coles else None
        trainer = Trainer(model, groups, layers, generator, masked.to(device) if masked else None, contrast)
        wanted = worth_compiling(model.encoder.config, device)
        with compiled(model.encoder.body, trainer.once, wanted, lambda text: progress(0.15, text)):
            steps, epochs, checks = trainer.learn(
                fraction,
                batch=settings.batch,
                rate=settings.learning_rate * (CONTINUED_RATE if base else 1.0),
                body_rate=BODY_RATE if body and body.weights else 1.0,
            )
        marks.end("encoder")
        if epochs < min(1.0, settings.epochs):
            raise ConfigError(
                f"after {settings.budget_s:g} s the encoder has seen {epochs:.0%} of the rows, and a model needs all "
                "of them once; give it more time (--budget), fewer customers, or a smaller --size"
            )
        progress(0.85, "fitting and measuring the heads")
        reports = {
            task.name: lesson.finish(trainer.embeddings, generator, seed=settings.seed)
            for task, lesson in lessons.items()
        }
        marks.end("heads")
    if isinstance(model.encoder, TextEncoder):
        model.encoder.remembered = None
    model.report = TrainingReport(
        heads=reports,
        left_out=left_out,
        early=sum(outcome.snapshot is not None for outcome in early),
        recipe=RECIPE,
        seed=settings.seed,
        date=date,
        data=_read(rows, source),
        settings=_flat(settings),
        device=device.type,
        base=base.version if base else "",
        outcomes=sum(map(len, rows.values())),
        steps=steps,
        epochs=round(epochs, 3),
        checks=checks,
        encoder=body.name if body else "",
        seconds=marks.seconds,
    )
    progress(1.0, "trained")
    return model.eval().to("cpu")


def _config(settings: TrainSettings, body: PretrainedBody | None, base: Base | None) -> PretrainedConfig:
    if base:
        return base.model.encoder.config
    return body.config if body else default_config(settings.size)


def _read(rows: Mapping[str, Rows], source: str) -> DataRead:
    times = np.concatenate([of_question.as_of_ms for of_question in rows.values()])
    return DataRead(source=source, outcomes=len(times), from_ms=int(times.min()), until_ms=int(times.max()))


def _flat(settings: TrainSettings) -> dict[str, int | float | str | None]:
    """Names with those of the parts before them, e.g. ``size.hidden``."""
    found: dict[str, int | float | str | None] = {}
    waiting = dict(msgspec.to_builtins(settings))
    while waiting:
        name, value = waiting.popitem()
        if isinstance(value, dict):
            waiting |= {f"{name}.{part}": inner for part, inner in value.items()}
        else:
            found[name] = value
    return dict(sorted(found.items()))


class _Marks:
    """How long each part took."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._last_s = clock, clock()
        self.seconds: dict[str, float] = {}

    def end(self, part: str) -> None:
        now_s = self._clock()
        self.seconds[part] = round(now_s - self._last_s, 3)
        self._last_s = now_s
