"""One error tree. A class says what the runtime does when it meets the error.

::

    PulsegraphError
    ├── DeadLetter            the record goes to the dead-letter topic; the next one is processed
    │   ├── Malformed             not UTF-8, not JSON
    │   ├── InvalidField          not an object, or a field is missing, of the wrong type or beyond its limits
    │   ├── Oversized             the payload, the key or a header is too large
    │   ├── NullKey               no key: the record belongs to no customer
    │   ├── InvalidKey            a key that is not UTF-8, is empty or too long
    │   ├── KeyMismatch           the key and the body name different customers
    │   ├── WrongPartition        the key belongs to another partition, where its customer's state is
    │   ├── OutOfTime             an event time that cannot be true
    │   ├── TooLate               so late that it cannot be known whether it was counted before
    │   └── UnexpectedTombstone   a null value on a topic that has no erasure
    ├── Retry                 try again: a broker or a disk that is away for a moment
    │   └── DeliveryFailed        records were not acknowledged in time
    └── Stop                  the worker stops with the message; nothing is committed past it
        ├── ConfigError           a setting or an argument
        ├── TopicMismatch         the broker's topics are not what the contract says
        ├── StateCorrupt          the local store cannot be trusted
        ├── DiskFailed            the local store cannot be written or read: full, read-only or broken disk
        └── ModelRefused          a model directory that is broken or does not fit the tokeniser
            ├── ModelMissing          there is none where it should be
            ├── ModelUnfit            of another format, or without what this deployment needs
            └── CanaryFailed          it says something else than when it was trained
"""

from __future__ import annotations

from typing import Self


class PulsegraphError(Exception):
    """Base of every error this project raises on purpose."""


class DeadLetter(PulsegraphError):
    """A record that can never be applied. ``reason`` is a stable, metric-friendly name."""

    reason: str = "dead_letter"
    withdraws: str | None = None
    """Customer whose consent goes with the record, since it may have taken consent back."""

    def withdrawing(self, customer_id: str) -> Self:
        """The same refusal, of a record that may have taken consent back: fail closed."""
        refused = type(self)(f"all consent of the customer is withdrawn, since it may have taken consent back: {self}")
        refused.withdraws = customer_id
        return refused


class Malformed(DeadLetter):
    reason = "malformed"


class InvalidField(DeadLetter):
    reason = "invalid_field"


class Oversized(DeadLetter):
    reason = "oversized"


class NullKey(DeadLetter):
    reason = "null_key"


class InvalidKey(DeadLetter):
    reason = "invalid_key"


class KeyMismatch(DeadLetter):
    reason = "key_mismatch"


class WrongPartition(DeadLetter):
    reason = "wrong_partition"


class OutOfTime(DeadLetter):
    reason = "out_of_time"


class TooLate(DeadLetter):
    reason = "too_late"


class UnexpectedTombstone(DeadLetter):
    reason = "unexpected_tombstone"


class Retry(PulsegraphError):
    """A transient fault: the same work may succeed later."""


class DeliveryFailed(Retry):
    """Records handed to the producer were not acknowledged in time."""


class Stop(PulsegraphError):
    """Nothing sensible can be done: the process ends with this message."""


class ConfigError(Stop):
    """A setting or argument is wrong; the message says which and what to write instead."""


class TopicMismatch(Stop):
    """The broker's topics differ from the contract; the message names the command to run."""


class StateCorrupt(Stop):
    """A local store or a changelog record cannot be read."""


class DiskFailed(Stop):
    """The disk under the local store is full, read-only or broken. What it could not take is in the changelog."""


class ModelRefused(Stop):
    """A model directory is incomplete, corrupt or made for another tokeniser.

    Where another model is served already, that one serves on. ``reason`` is a stable name for the metric.
    """

    reason: str = "damaged"


class ModelMissing(ModelRefused):
    """There is no model where it was announced to be."""

    reason = "missing"


class ModelUnfit(ModelRefused):
    """A whole model, of another format or horizon, or without the tasks that are needed."""

    reason = "unfit"


class CanaryFailed(ModelRefused):
    """A whole model that says something else of its canary than it did where it was trained."""

    reason = "canary"
