"""The two data sets of the small graph job, and one run of a contender on each."""

from __future__ import annotations

from itertools import count
from statistics import median
from typing import Final, Literal

from infra.bench.graph_contenders import Runner
from infra.bench.graph_data import Reference, Totals, events, stored_record
from infra.bench.graph_job import Job
from infra.bench.graph_load import Load
from infra.bench.report import Options, figure
from schemas.topics import changelog_of
from streams.core.cache import DECODED_PER_ENCODED

_LEAST: Final = 2_000
_MB: Final = 1 << 20
#: What the cache counts for a customer on top of its size.
_CACHE_OVERHEAD: Final = 2_048


class Hot:
    """5,000 customers that are all in memory soon. Every run begins with empty state and reads the whole topic."""

    name: Final = "hot"

    def __init__(self, options: Options, bootstrap: str, runner: Runner, load: Load) -> None:
        self.customers = options.scaled(5_000, 200)
        self._bootstrap, self._runner, self._load = bootstrap, runner, load
        self._runs = count()
        self._cpu_us: dict[str, list[float]] = {}
        self._sizes = {"hot": options.scaled(400_000, _LEAST), "hot-short": options.scaled(20_000, _LEAST)}
        self._wanted: dict[str, Totals] = {}

    def fill(self) -> None:
        """Preload the topics."""
        for topic, size in self._sizes.items():
            self._load.create(topic)
            self._load.events(topic, events(self.customers, 0, size))
            reference = Reference(self.customers, prepared=False)
            reference.take(events(self.customers, 0, size))
            self._wanted[topic] = reference.totals()

    def note(self, kind: str) -> str:
        """How many events a contender got, and the processor time that its process took for one."""
        return _note(self._sizes[_topic(kind, self.name)], self._cpu_us[kind])

    def run(self, kind: str, checkpoint_ms: int = 100, label: str = "") -> float:
        """Events/s of one run from nothing; ``label`` names it in :meth:`note` instead of its kind."""
        topic = _topic(kind, self.name)
        app = f"{kind}-{topic}-{next(self._runs)}"
        size = self._sizes[topic]
        if kind.startswith("ours"):
            self._load.create(changelog_of(app), **{"cleanup.policy": "compact"})
        job = Job(
            kind=kind.removesuffix("-eos"),
            bootstrap=self._bootstrap,
            topic=topic,
            app=app,
            folder=str(self._runner.state_folder(app)),
            end=size,
            take=size,
            warm=size // 5,
            guarantee=_guarantee(kind),
            checkpoint_ms=checkpoint_ms,
        )
        try:
            outcome = self._runner.run(job, self._wanted[topic])
            self._cpu_us.setdefault(label or kind, []).append(outcome.cpu_us)
            return outcome.rate
        finally:
            self._runner.forget(app)


class Cold:
    """1,000,000 customers with uniform keys, all of them with a history, and memory for 5 % of them.

    The history is brought in by each contender's own restore from its own changelog, in its first run and before its
    clock starts. Every run goes on where the one before ended, with events that are appended to the topic in between.
    """

    name: Final = "cold"

    def __init__(self, options: Options, bootstrap: str, runner: Runner, load: Load) -> None:
        self.customers = options.scaled(1_000_000, 2_000)
        self._bootstrap, self._runner, self._load = bootstrap, runner, load
        self._takes = {"cold": options.scaled(200_000, _LEAST), "cold-short": options.scaled(20_000, _LEAST)}
        self._references = {topic: Reference(self.customers, prepared=True) for topic in self._takes}
        self._wanted: dict[tuple[str, int], Totals] = {}
        self._rounds: dict[str, int] = {}
        self._cpu_us: dict[str, list[float]] = {}
        ours, json = map(len, stored_record(0))
        few = self.customers // 20
        self._cache_bytes = {True: few * (ours * DECODED_PER_ENCODED + _CACHE_OVERHEAD), False: few * json}
        self._block_cache_bytes = max(8 * _MB, few * json)

    def fill(self, kinds: tuple[str, ...]) -> None:
        """Create the topics, and everyone's changelog with the history."""
        self._load.create(*self._takes)
        for kind in kinds:
            if kind == "ours-graph":
                self._load.our_state(_cold_app(kind), self.customers)
            elif kind == "faust-graph":
                self._load.faust_state(_cold_app(kind), self.customers)
            elif kind == "quix":
                self._load.quix_state(_cold_app(kind), self.name, self.customers)
            else:
                self._load.streams_state(_cold_app(kind), self.customers)

    def note(self, kind: str) -> str:
        """See :meth:`Hot.note`."""
        return _note(self._takes[_topic(kind, self.name)], self._cpu_us[kind])

    def run(self, kind: str) -> float:
        """Events/s of the next run."""
        topic = _topic(kind, self.name)
        round_, self._rounds[kind] = self._rounds.get(kind, 0), self._rounds.get(kind, 0) + 1
        self._append(topic, round_)
        app, take = _cold_app(kind), self._takes[topic]
        job = Job(
            kind=kind.removesuffix("-eos"),
            bootstrap=self._bootstrap,
            topic=topic,
            app=app,
            folder=str(self._runner.state_folder(app)),
            end=take * (round_ + 1),
            take=take,
            warm=take // 4,
            cache_bytes=self._cache_bytes[kind.startswith("ours")],
            block_cache_bytes=self._block_cache_bytes,
            guarantee=_guarantee(kind),
        )
        outcome = self._runner.run(job, self._wanted[topic, round_])
        self._cpu_us.setdefault(kind, []).append(outcome.cpu_us)
        return outcome.rate

    def _append(self, topic: str, round_: int) -> None:
        """The round's events, by whoever comes first."""
        if (topic, round_) in self._wanted:
            return
        take = self._takes[topic]
        self._load.events(topic, events(self.customers, take * round_, take))
        self._references[topic].take(events(self.customers, take * round_, take))
        self._wanted[topic, round_] = self._references[topic].totals()


def _note(size: int, cpu_us: list[float]) -> str:
    return f"{size:,} events a run, {figure(median(cpu_us))} µs of processor time each"


def _topic(kind: str, name: str) -> str:
    """Faust gets fewer events: its rate does not depend on how many, and all of them would take minutes."""
    return f"{name}-short" if kind.startswith("faust") else name


def _cold_app(kind: str) -> str:
    return f"{kind}-cold"


def _guarantee(kind: str) -> Literal["at_least_once", "exactly_once_v2"]:
    return "exactly_once_v2" if kind.endswith("-eos") else "at_least_once"
