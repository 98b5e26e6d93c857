"""Which records say something new: those that have moved since the last one, and those that renew it."""

from __future__ import annotations

from typing import Final, NamedTuple

from schemas.predictions import Prediction, probabilities
from schemas.snapshot import LIVE_KINDS

_ENTRY_BYTES: Final = 4_000
"""Of one customer: what was sent, and the record that was not."""
_BUDGET_BYTES: Final = 64 << 20


class _Sent(NamedTuple):
    """What readers go by."""

    as_of_ms: int
    renew_ms: int
    """Event time from which the next record is sent whatever it says."""
    probabilities: dict[str, float]
    held: Prediction | None = None
    """The newest that was not sent."""


class News:
    """Remembers what was sent last of each task and customer, within bounds.

    The memory is a hint and no state: what is not in it is sent, so a restart costs records and nothing else. A record
    with an outcome to come is always sent, since it is judged by that. Readers go by the newest ``as_of_ms``; what that
    one says is never further than the margin from what would have been said last.

    Args:
        margin: how far a probability may be from what was sent last.
        budget_bytes: bound of the memory; what was sent longest ago is forgotten first.
    """

    def __init__(self, margin: float, budget_bytes: int = _BUDGET_BYTES) -> None:
        self._margin = margin
        self._most = max(1, budget_bytes // _ENTRY_BYTES)
        self._sent: dict[tuple[str, str], _Sent] = {}

    def __call__(self, task: str, prediction: Prediction) -> list[Prediction]:
        """Records to send, in this order: none, the one that is given, or also one of before that was held back."""
        key = task, prediction.customer_id
        sent = self._sent.get(key)
        if sent is None:
            return [self._send(key, prediction)]
        if prediction.snapshot_kind in LIVE_KINDS and not self._is_new(prediction, sent):
            if sent.held is None or prediction.as_of_ms >= sent.held.as_of_ms:
                self._sent[key] = sent._replace(held=prediction)
            return []
        if prediction.as_of_ms < sent.as_of_ms:
            return [prediction]  # readers go on with what they have
        # A question is asked of settled state, so it may come behind live records that are of later.
        held = sent.held if sent.held is not None and sent.held.as_of_ms > prediction.as_of_ms else None
        found = [self._send(key, prediction)]
        if held is not None:
            if self._is_new(held, self._sent[key]):
                found.append(self._send(key, held))
            else:
                self._sent[key] = self._sent[key]._replace(held=held)
        return found

    def __len__(self) -> int:
        """Records that are remembered."""
        return len(self._sent)

    def forget(self, task: str, customer_id: str) -> None:
        """The customer was erased."""
        self._sent.pop((task, customer_id), None)

    def clear(self) -> None:
        """Another worker may have sent something since: all that is said next is sent."""
        self._sent.clear()

    def _send(self, key: tuple[str, str], prediction: Prediction) -> Prediction:
        self._sent.pop(key, None)
        renew_ms = prediction.as_of_ms + (prediction.valid_until_ms - prediction.as_of_ms) // 2
        self._sent[key] = _Sent(prediction.as_of_ms, renew_ms, probabilities(prediction))
        while len(self._sent) > self._most:
            del self._sent[next(iter(self._sent))]
        return prediction

    def _is_new(self, prediction: Prediction, sent: _Sent) -> bool:
        said = probabilities(prediction)
        if prediction.as_of_ms >= sent.renew_ms or said.keys() != sent.probabilities.keys():
            return True
        return any(abs(said[name] - before) > self._margin for name, before in sent.probabilities.items())
