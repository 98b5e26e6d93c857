"""Decisions that hold no longer: a record on the decisions' topic, which needs no model and waits for none."""

from __future__ import annotations

from typing import Final, Literal

from schemas import ids
from schemas.predictions import NextBestAction, RankedAction, Reason
from streams.core.config import DAY_MS

NO_MODEL: Final = "none"
"""``model_version`` of what no model said."""
_VALID_MS: Final = DAY_MS
_TEXTS: Final = {
    "CONSENT_WITHDRAWN": "the customer took consent back: what was decided before is revoked",
    "CUSTOMER_ERASED": "the customer was erased: what was decided before is revoked",
}


def revocation(
    customer_id: str,
    code: Literal["CONSENT_WITHDRAWN", "CUSTOMER_ERASED"],
    as_of_ms: int,
    source: tuple[str, int, int],
    event_ts_ms: int,
) -> NextBestAction:
    """The decision to do nothing, which replaces every one of up to ``as_of_ms``.

    Args:
        source: topic, partition and offset of the record that revokes; the id rests on it, so that a repeated record
            has the same.
        event_ts_ms: when that was.
    """
    question = ids.revocation_id(customer_id, source)
    return NextBestAction(
        prediction_id=ids.prediction_id("next-best-action", question, NO_MODEL),
        question_id=question,
        customer_id=customer_id,
        as_of_ms=as_of_ms,
        model_version=NO_MODEL,
        valid_until_ms=as_of_ms + _VALID_MS,
        source=source,
        event_ts_ms=event_ts_ms,
        latency_ms=0,
        chosen=RankedAction(action="none", value=0.0, propensity=1.0),
        propensity=1.0,
        reason_codes=[Reason(code, _TEXTS[code])],
    )
