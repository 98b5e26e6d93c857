"""How a metric is declared: one class attribute that is its description, its type and its name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, Generic, Literal, TypeVar, overload

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SIZES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1_024.0, 4_096.0, 16_384.0)
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

Collector = TypeVar("Collector", Counter, Gauge, Histogram)


class Metric(Generic[Collector]):
    """A metric as a class attribute: the declaration on the class, its Prometheus collector on an instance.

    Whoever owns it keeps what :meth:`build` makes in ``vars(instance)``, under the metric's name.

    Example:
        >>> class Table:
        ...     records_total = counter("records", "Records handed to a role.", "role")
        >>> Table.records_total.full_name, Table.records_total.labels
        ('pulsegraph_records_total', ('role',))
    """

    name: str
    """Without the ``pulsegraph_`` in front; it is the attribute's."""

    def __init__(
        self,
        kind: Literal["counter", "gauge", "histogram"],
        collector: Callable[..., Collector],
        unit: str,
        meaning: str,
        labels: tuple[str, ...],
        buckets: tuple[float, ...] = (),
    ) -> None:
        self.kind = kind
        self.unit = unit
        self.meaning = meaning
        self.labels = labels
        self.buckets = buckets
        self._collector: Callable[..., Collector] = collector

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Metric[Collector]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Collector: ...
    def __get__(self, instance: object | None, owner: type) -> Metric[Collector] | Collector:
        return self if instance is None else self.of(instance)

    def of(self, instance: object) -> Collector:
        """The collector of one instance."""
        collector: Collector = vars(instance)[self.name]
        return collector

    def build(self, registry: CollectorRegistry) -> Collector:
        """A new collector, in ``registry``."""
        # prometheus_client appends _total to counters by itself.
        return self._collector(self.full_name.removesuffix("_total"), self.meaning, self.labels, registry=registry)

    @property
    def full_name(self) -> str:
        """As it is scraped; histograms add ``_bucket``, ``_sum`` and ``_count``."""
        return f"pulsegraph_{self.name}"


AnyMetric = Metric[Counter] | Metric[Gauge] | Metric[Histogram]


class CoreCounter(Metric[Counter]):
    """What a core counts under the metric's name, without the ``_total``."""

    @property
    def counted_as(self) -> str:
        return self.name.removesuffix("_total")


class PartitionGauge(Metric[Gauge]):
    """Of a partition that this worker owns: gone when the partition goes to another worker.

    Args:
        role: the only role that has it; None where every role has one, told apart by the label ``role``.
    """

    def __init__(self, unit: str, meaning: str, role: str | None) -> None:
        super().__init__("gauge", Gauge, unit, meaning, ("partition",) if role is not None else ("role", "partition"))
        self._role = role

    def labels_of(self, role: str, partition: int) -> dict[str, str] | None:
        """The labels of its one value for a role's partition; None where the role has none."""
        if self._role is None:
            return {"role": role, "partition": str(partition)}
        return {"partition": str(partition)} if self._role == role else None


def counter(unit: str, meaning: str, *labels: str) -> Metric[Counter]:
    return Metric("counter", Counter, unit, meaning, labels)


def core_counter(unit: str, meaning: str) -> CoreCounter:
    return CoreCounter("counter", Counter, unit, meaning, ())


def gauge(unit: str, meaning: str, *labels: str) -> Metric[Gauge]:
    return Metric("gauge", Gauge, unit, meaning, labels)


def partition_gauge(unit: str, meaning: str, *, role: str | None = None) -> PartitionGauge:
    return PartitionGauge(unit, meaning, role)


def histogram(unit: str, meaning: str, *labels: str, buckets: tuple[float, ...] = SECONDS) -> Metric[Histogram]:
    return Metric("histogram", partial(Histogram, buckets=buckets), unit, meaning, labels, buckets)
