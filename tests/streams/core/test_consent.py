"""Consent fails closed: whoever takes it back is heard, however badly the record is made."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.logs import CONFIG, START_MS, Sent, Worker, log_of

from schemas.channels import canonical, remaining
from schemas.deadletter import Refused
from schemas.events import CAMPAIGN_SENDS, CLICKSTREAM, PROFILES, REDEMPTIONS
from schemas.limits import MAX_EVENT_TS_MS
from schemas.records import LogRecord
from streams.core.config import DAY_MS, MINUTE_MS, CoreConfig

GRANTED: Final = ("email:marketing", "push:marketing", "sms:marketing")
ALL: Final = {channel: {"marketing": True} for channel in ("email", "push", "sms")}
LEFT_EMAIL: Final = ("push:marketing", "sms:marketing")
AT_MS: Final = START_MS + MINUTE_MS
OPT_OUT: Final[dict[str, Any]] = {"event": "unsubscribe", "event_ts_ms": AT_MS, "campaign_id": "x", "channel": "email"}


class Told:
    """A worker whose customer c1 has granted everything."""

    def __init__(self, config: CoreConfig = CONFIG) -> None:
        self.worker = Worker(config)
        self.offsets = [0, 0, 0, 0]
        self.say(PROFILES, {"event_ts_ms": START_MS, "event_id": "p0", "consent": ALL, "attributes": {"vip": True}})
        assert self.consent() == GRANTED

    def say(
        self, source_index: int, body: Any, headers: Any = (), timestamp: int = AT_MS, key: bytes = b"c1"
    ) -> list[Refused]:
        value = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        record = LogRecord(self.offsets[source_index], key, value, tuple(headers), timestamp)
        self.offsets[source_index] += 1
        refused: list[Refused] = self.worker.ingest.take(source_index, [record], 0)
        return refused

    def consent(self) -> tuple[str, ...] | None:
        customer = self.worker.ingest.customer("c1")
        assert customer is not None
        granted: tuple[str, ...] | None = customer.view().consent
        return granted


WITHDRAWN: Final = "all consent of the customer is withdrawn"


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({}, LEFT_EMAIL),
        ({"channel": "Email"}, LEFT_EMAIL),
        ({"channel": "email "}, LEFT_EMAIL),
        ({"channel": "e-mail"}, LEFT_EMAIL),
        ({"channel": "E_MAIL"}, LEFT_EMAIL),
        ({"channel": "\uff45mail\u200b"}, LEFT_EMAIL),
        ({"channel": "mail"}, LEFT_EMAIL),
        ({"channel": "text message"}, ("email:marketing", "push:marketing")),
        ({"channel": ""}, ()),
        ({"channel": " "}, ()),
        ({"channel": None}, ()),
        ({"channel": 5}, ()),
        ({"channel": ["email"]}, ()),
        ({"channel": "email,sms"}, ("push:marketing",)),
        ({"channel": "Email / SMS"}, ("push:marketing",)),
        ({"channel": "email;push|sms"}, ()),
        ({"channel": '["email"]'}, LEFT_EMAIL),
        ({"channel": "email, everything"}, ()),
        ({"channel": "email, fax"}, ()),
        ({"channel": "push:ios"}, ("email:marketing", "sms:marketing")),
        ({"channel": "text:promo"}, ("email:marketing", "push:marketing")),
        ({"channel": "mail:weekly:de"}, LEFT_EMAIL),
        ({"channel": "all"}, ()),
        ({"channel": "*"}, ()),
        ({"channel": "any"}, ()),
        ({"channel": "Everything"}, ()),
        ({"channel": "emails"}, ()),
        ({"channel": "email."}, ()),
        ({"channel": "email address"}, ()),
        ({"channel": "phone"}, ()),
        ({"channel": "whatsapp"}, GRANTED),
        ({"channel": "x" * 65}, ()),
        ({"campaign_id": None}, LEFT_EMAIL),
        ({"campaign_id": 5}, LEFT_EMAIL),
        ({"campaign_id": ""}, LEFT_EMAIL),
        ({"campaign_id": {"id": 1}}, LEFT_EMAIL),
        ({"campaign_id": "x" * 500}, LEFT_EMAIL),
        ({"offer_id": ""}, LEFT_EMAIL),
        ({"send_id": 2**80, "template_id": [], "decision_id": 1.5, "propensity": "high"}, LEFT_EMAIL),
        ({"event_id": 7}, LEFT_EMAIL),
        ({"event_id": ""}, LEFT_EMAIL),
        ({"window_end_ms": "never"}, LEFT_EMAIL),
        ({"event_ts_ms": AT_MS // 1_000}, LEFT_EMAIL),
        ({"event_ts_ms": START_MS // 1_000}, LEFT_EMAIL),
        ({"event_ts_ms": AT_MS * 1_000}, LEFT_EMAIL),
        ({"event_ts_ms": AT_MS * 1_000_000}, LEFT_EMAIL),
        ({"event_ts_ms": float(AT_MS)}, LEFT_EMAIL),
        ({"event_ts_ms": AT_MS + 0.5}, LEFT_EMAIL),
        ({"event_ts_ms": str(AT_MS)}, LEFT_EMAIL),
        ({"event_ts_ms": "2017-07-14T02:41:00Z"}, LEFT_EMAIL),
        ({"event_ts_ms": None}, LEFT_EMAIL),
        ({"event_ts_ms": True}, LEFT_EMAIL),
        ({"event_ts_ms": -1}, LEFT_EMAIL),
        ({"event_ts_ms": 2**80}, LEFT_EMAIL),
        ({"event_ts_ms": AT_MS + 400 * DAY_MS}, LEFT_EMAIL),
        ({"customer_id": "c1"}, LEFT_EMAIL),
        ({"event": "Unsubscribe"}, LEFT_EMAIL),
        ({"event": "unsubscribed\n"}, LEFT_EMAIL),
        ({"event": "group_unsubscribe"}, LEFT_EMAIL),
        ({"event": "opt-out"}, LEFT_EMAIL),
        ({"event": "complaint"}, LEFT_EMAIL),
        ({"event": "Spam Report"}, LEFT_EMAIL),
        ({"event": "spamreport"}, LEFT_EMAIL),
        ({"event": "SpamComplaint"}, LEFT_EMAIL),
        ({"event": "complained"}, LEFT_EMAIL),
        ({"event": "abuse"}, LEFT_EMAIL),
        ({"event": "STOP", "channel": "sms"}, ("email:marketing", "push:marketing")),
        ({"event": "revoke_consent"}, LEFT_EMAIL),
        ({"event": "consent_withdrawn"}, LEFT_EMAIL),
        ({"event": "withdraw"}, LEFT_EMAIL),
        ({"event": "subscription_cancelled"}, LEFT_EMAIL),
        ({"event": "remove_me"}, LEFT_EMAIL),
        ({"event": "blocklisted"}, LEFT_EMAIL),
        ({"event": "blocked"}, GRANTED),  # a server refused the mail for now, says SendGrid
        ({"event": "Quit"}, LEFT_EMAIL),
        ({"event": " END\n"}, LEFT_EMAIL),
        ({"event": "Arr\u00eat"}, LEFT_EMAIL),
        ({"event": "no_consent_given"}, LEFT_EMAIL),
        ({"event": "unblocked"}, GRANTED),
        ({"event": "consent_granted"}, GRANTED),
        ({"event": "resubscribe"}, GRANTED),
        ({"event": "not_spam"}, GRANTED),
        ({"event": "delivered"}, GRANTED),
    ],
    ids=str,
)
def test_an_opt_out_takes_effect_whatever_else_is_wrong(changes: dict[str, Any], left: tuple[str, ...]) -> None:
    told = Told()
    refused = told.say(CAMPAIGN_SENDS, OPT_OUT | changes)
    assert told.consent() == left
    if left != GRANTED:
        assert refused == []
        assert told.worker.ingest.counts["applied"] == 2


def test_fields_that_are_absent_do_not_keep_an_opt_out() -> None:
    for absent in (["campaign_id"], ["channel"], ["event_ts_ms"], ["campaign_id", "channel", "event_ts_ms"]):
        told = Told()
        assert told.say(CAMPAIGN_SENDS, {name: said for name, said in OPT_OUT.items() if name not in absent}) == []
        assert told.consent() == (() if "channel" in absent else LEFT_EMAIL)


@pytest.mark.parametrize("timestamp", [-1, 0, AT_MS, AT_MS + 400 * DAY_MS])
@pytest.mark.parametrize("at_ms", [AT_MS, None, AT_MS + 400 * DAY_MS])
def test_no_clock_keeps_an_opt_out_from_counting(at_ms: int | None, timestamp: int) -> None:
    for refuse_ahead in (False, True):
        told = Told(msgspec.structs.replace(CONFIG, refuse_ahead=refuse_ahead))
        assert told.say(CAMPAIGN_SENDS, OPT_OUT | {"event_ts_ms": at_ms}, timestamp=timestamp) == []
        assert told.consent() == LEFT_EMAIL


def test_an_opt_out_within_the_second_of_the_grant_counts() -> None:
    told = Told()
    told.say(PROFILES, {"event_ts_ms": AT_MS + 700, "event_id": "p1", "consent": ALL}, timestamp=AT_MS + 700)
    told.say(CAMPAIGN_SENDS, OPT_OUT | {"event_ts_ms": AT_MS // 1_000}, timestamp=AT_MS + 800)
    assert told.consent() == LEFT_EMAIL
    same = Told()
    same.say(CAMPAIGN_SENDS, OPT_OUT)
    same.say(PROFILES, {"event_ts_ms": AT_MS, "event_id": "p1", "consent": ALL})
    assert same.consent() == LEFT_EMAIL, "at the same instant it is not known which was first"


def test_an_id_that_was_used_before_does_not_keep_an_opt_out() -> None:
    told = Told()
    told.say(CAMPAIGN_SENDS, {**OPT_OUT, "event": "send", "event_id": "m1", "event_ts_ms": START_MS + 1})
    assert told.say(CAMPAIGN_SENDS, OPT_OUT | {"event_id": "m1"}) == []
    assert told.consent() == LEFT_EMAIL
    told.say(CAMPAIGN_SENDS, OPT_OUT | {"event_id": "m1"})
    assert told.worker.ingest.counts["duplicates"] == 1
    told.say(CAMPAIGN_SENDS, OPT_OUT | {"event_id": "m1", "channel": "sms"})
    assert told.consent() == ("push:marketing",)
    told.say(PROFILES, {"event_ts_ms": AT_MS, "event_id": "p0", "consent": None})
    assert told.consent() == ()


@pytest.mark.parametrize("headers", [[("ce_id", b"\xff")], [("ce_id", b"x" * 200)], [("ce_source", b"\xff")]])
def test_headers_do_not_keep_an_opt_out(headers: Any) -> None:
    told = Told()
    assert told.say(CAMPAIGN_SENDS, OPT_OUT, headers) == []
    assert told.consent() == LEFT_EMAIL
    assert told.say(PROFILES, {"event_ts_ms": AT_MS, "consent": {}}, headers) == []
    assert told.consent() == ()


@pytest.mark.parametrize(
    "value",
    [
        b'{"event": "unsubscribe", "channel": "sms"',
        b'{"event": "unsubscribe", "score": NaN}',
        b"event=unsubscribe&channel=email",
        b'["unsubscribe"]',
        json.dumps(OPT_OUT).encode("utf-16"),
        json.dumps(OPT_OUT | {"padding": "x" * 70_000}).encode(),
        b'{"type": "spam_report", "event_ts_ms": 1500000060000}',
        b"\xef\xbb\xbf" + json.dumps(OPT_OUT).encode(),
        b'{"event": {"name": "opt out"}}',
        b'{"type": "STOP"}',
        b'{"action": "cancel subscription"}',
        b'{"event": "webhook", "data": {"type": "unsubscribe"}}',
        b'{"event": "dropped", "reason": "Spam Reporting Address"}',
        b'{"event": "preferences", "consent": {"email": {"marketing": false}}}',
        b'{"event": "preferences", "data": {"email_opt_in": "no"}}',
        b'{"event": "updated", "optOut": true, "campaign_id": "x"}',
    ],
)
def test_an_opt_out_that_cannot_be_read_takes_everything(value: bytes) -> None:
    told = Told()
    (refused,) = told.say(CAMPAIGN_SENDS, value)
    assert dict(refused.headers)["dl_message"].decode().startswith(WITHDRAWN)
    assert told.consent() == ()
    counts = told.worker.ingest.counts
    assert (counts["consent_withdrawn"], counts["dead_lettered"], counts["applied"]) == (1, 1, 1)


@pytest.mark.parametrize(
    "value",
    [
        b'{"event": "send", ',
        b"nonsense",
        b'{"event": "teleport", "event_ts_ms": 1500000060000}',
        b'{"event": 5}',
        b'{"event": "sent", "campaign_id": "unsubscribe-survey"}',
        b'{"event": "sent", "subject": "Unsubscribe whenever you like", "consent_id": 7, "opt_in": true}',
        b'{"event": "sent", "unsubscribe_url": "https://shop.example/out", "optOutToken": "x"}',
        b'{"event": "send", "type": "complaint_answer", "opt_out_link": "https://shop.example/out"}',
        b'{"end": 5}',
    ],
)
def test_what_is_no_opt_out_takes_nothing(value: bytes) -> None:
    told = Told()
    assert len(told.say(CAMPAIGN_SENDS, value)) == 1
    assert told.consent() == GRANTED


@pytest.mark.parametrize(
    ("consent", "left"),
    [
        ({"email": {"marketing": "false"}, "sms": {"marketing": True}}, ("sms:marketing",)),
        ({"email": {"marketing": "No"}, "sms": {"marketing": True}}, ("sms:marketing",)),
        ({"email": {"marketing": 0}, "sms": {"marketing": True}}, ("sms:marketing",)),
        ({"email": False, "sms": {"marketing": True}}, ("sms:marketing",)),
        ({"email": None, "sms": {"marketing": True}}, ("sms:marketing",)),
        ({"email": {"marketing": None}}, ()),
        ({"EMAIL": {"Marketing": True}}, ("email:marketing",)),
        ({"Email": {"marketing": False}, "email": {"marketing": True}}, ()),
        ({"Email": False, "email": {"marketing": True}, "sms": {"marketing": True}}, ("sms:marketing",)),
        ({"": {"marketing": False}, "sms": {"marketing": True}}, ("sms:marketing",)),
        ({f"c{n}": {"marketing": False} for n in range(30)} | {"sms": {"marketing": True}}, ("sms:marketing",)),
        (None, ()),
        ({}, ()),
        ([], ()),
        (False, ()),
        ("none", ()),
        ("withdrawn", ()),
    ],
    ids=str,
)
def test_consent_that_says_no_in_another_form_is_a_no(consent: Any, left: tuple[str, ...]) -> None:
    told = Told()
    assert told.say(PROFILES, {"event_ts_ms": AT_MS, "consent": consent}) == []
    assert told.consent() == left


@pytest.mark.parametrize(
    "body",
    [
        {"consent": {"email": {"marketing": "yes"}}},
        {"consent": {"email": {"marketing": "true"}}},
        {"consent": {"email": {"marketing": 1}}},
        {"consent": {"email": True}},
        {"consent": ["email"]},
        {"consent": "email"},
        {"consent": 7},
        {"consent": {"x" * 65: {"marketing": True}}},
        {"consent": {f"c{n}": {"marketing": True} for n in range(30)}},
        {"Consent": {"email": {"marketing": True}}},
        {"consents": ALL},
        {"marketing_consent": True},
        {"email_consent": False},
        {"marketingConsent": "granted"},
        {"gdprConsent": {"email": True}},
        {"optOut": True},
        {"opted_out_at": "2017-07-14"},
        {"unsubscribed": True},
        {"unsub_reason": "unsubscribed"},
        {"opt_in": False},
        {"emailOptIn": True},
        {"do_not_contact": 1},
        {"don't email": "yes"},
        {"no_marketing": True},
        {"optinEmail": True},
        {"consent_revoked_at": "2017-07-14"},
        {"accepts_marketing": False},
        {"subscribed": "no"},
        {"status": "unsubscribed"},
        {"event": "unsubscribe"},
        {"attributes": {"vip": True, "marketing_consent": False}},
        {"attributes": {"preferences": {"channels": [{"optOut": True}]}}},
        {"payload": {"event_ts_ms": AT_MS, "consent": {}}},
        {"consent": ALL, "Consent": {"email": {"marketing": False}}},
        {"consent": ALL, "consents": None},
        {"consent": ALL, "optOut": True},
        {"consent": ALL, "attributes": {"email_consent": {"newsletter": "no"}}},
        {"consent": ALL, "event_ts_ms": AT_MS // 1_000},
        {"consent": ALL, "event_ts_ms": "2017-07-14T02:41:00Z"},
        {"consent": ALL, "event_ts_ms": AT_MS + DAY_MS},
        b'{"event_ts_ms": 1500000060000, "consent": {"email"',
        b"",
        b"null",
        json.dumps({"event_ts_ms": AT_MS, "consent": ALL}).encode("utf-16"),
        b'{"payload": {"event_ts_ms": 1500000060000, "consent": {"email": {"marketing": false}}}}',
    ],
    ids=str,
)
def test_consent_that_cannot_be_read_is_withdrawn(body: Any) -> None:
    told = Told()
    (refused,) = told.say(PROFILES, body if isinstance(body, bytes) else {"event_ts_ms": AT_MS} | body)
    assert dict(refused.headers)["dl_message"].decode().startswith(WITHDRAWN)
    assert told.consent() == ()
    customer = told.worker.ingest.customer("c1")
    assert customer is not None
    assert customer.view().attributes == {"vip": True}, "what was known else stays"
    told.worker.checkpoint()
    told.worker.restart()
    assert told.consent() == ()


def test_an_erasure_that_is_refused_withdraws_consent() -> None:
    told = Told()
    (refused,) = told.say(PROFILES, None, [("ce_time", b"tomorrow")])
    assert dict(refused.headers)["dl_message"].decode().startswith(WITHDRAWN)
    assert told.consent() == ()


def test_a_profile_that_is_ahead_and_refused_withdraws_consent() -> None:
    told = Told(msgspec.structs.replace(CONFIG, refuse_ahead=True, ahead_ms=1_000))
    (refused,) = told.say(PROFILES, {"event_ts_ms": AT_MS, "consent": {"sms": {"marketing": True}}})
    assert refused.reason == "out_of_time"
    assert told.consent() == ()


@pytest.mark.parametrize(
    "fields",
    [
        {"attributes": {"vip": False, "city": "Constance", "subscription_plan": "gold", "adoptingDate": "2017-01-01"}},
        {"attributes": {"adopted_in": 2017, "opt_interval": 3, "optical": True, "no_children": 1, "event": "fair"}},
        {"attributes": {"permissions": "admin", "options": 3, "last_withdrawal": 50, "status": "active"}},
        {"attributes": {"optOut": False, "unsubscribed": "false", "unsubscribed_at": None, "do_not_call": 0}},
        {"attributes": {"consent_version": 3, "opt_in_source": "shop", "consentDate": "2017-01-01"}},
        {"attributes": {"unsubscribe_url": "https://shop.example/out", "optOutLink": "x", "consent_text": "I agree"}},
        {"attributes": {"accepts_marketing": True, "subscribed": "yes"}},
        {"consent": ALL, "marketing_consent": True, "attributes": {"consent_source": None, "opt_in": "double"}},
        {"consent": ALL | {"whatsapp": {"marketing": False}}, "attributes": {"whatsapp_opt_in": False}},
    ],
    ids=str,
)
def test_ordinary_fields_of_a_profile_cost_no_consent(fields: dict[str, Any]) -> None:
    told = Told()
    assert told.say(PROFILES, {"event_ts_ms": AT_MS} | fields) == []
    assert told.consent() == GRANTED
    customer = told.worker.ingest.customer("c1")
    assert customer is not None and customer.view().attributes == fields["attributes"]


@pytest.mark.parametrize("source_index", [CLICKSTREAM, REDEMPTIONS, PROFILES])
@pytest.mark.parametrize("name", ["unsubscribe", "Unsubscribed", "email_opt_out", "consent-withdrawn", "spam report"])
def test_an_opt_out_on_another_topic_is_refused_and_heard(name: str, source_index: int) -> None:
    for known in ({"event_ts_ms": AT_MS, "offer_id": "o"}, {"event_ts_ms": AT_MS}, {}):
        told = Told()
        (refused,) = told.say(source_index, known | {"event": name})
        assert dict(refused.headers)["dl_message"].decode().startswith(WITHDRAWN)
        assert told.consent() == ()
    told = Told()
    (refused,) = told.say(source_index, {"event_ts_ms": AT_MS, "offer_id": "o", "event": name.replace(" ", "_")})
    assert b"campaign-sends" in dict(refused.headers)["dl_message"] or source_index == PROFILES
    told.worker.checkpoint()
    told.worker.restart()
    assert told.consent() == ()


@pytest.mark.parametrize(
    "name", ["unsubscribe_page_view", "stop", "video_end", "cancel", "consent_banner_view", "blocked"]
)
def test_a_custom_event_takes_no_consent(name: str) -> None:
    told = Told()
    assert told.say(CLICKSTREAM, {"event_ts_ms": AT_MS, "event": name}) == []
    assert told.say(REDEMPTIONS, {"event_ts_ms": AT_MS, "offer_id": "o", "event": name}) == []
    assert told.consent() == GRANTED


_CHANNELS: Final = ("email", "sms", "push", "push:ios", "letter", "web_push", "mail")
_SPELT: Final[dict[str, Callable[[str], str]]] = {
    "upper": str.upper, "spaced": lambda name: f" {name} ", "hyphened": lambda name: "-".join(name), "same": str,
}  # fmt: skip
_BETWEEN: Final = st.sampled_from([",", ", ", "/", ";", "|", " + ", " & "])
_DECORATED = st.sampled_from(["{}s", "{}.", "{} address", "no {}", "my-{}", "{}!", "{}?", "{}2", "all but {}"])


@settings(max_examples=examples(300), deadline=None)
@given(
    granted=st.sets(st.sampled_from(_CHANNELS), min_size=1),
    left=st.lists(st.tuples(st.sampled_from(_CHANNELS), st.sampled_from(sorted(_SPELT))), min_size=1, max_size=3),
    between=_BETWEEN,
    other=st.none() | _DECORATED | st.sampled_from(["all", "*", "Any", "everything", "fax", "phone", "?"]),
)
@example(granted={"web_push"}, left=[("push", "same")], between=",", other=None)
@example(granted={"mail", "letter"}, left=[("email", "upper")], between=",", other=None)
def test_what_is_left_is_taken_and_nothing_that_is_known_to_be_another(
    granted: set[str], left: list[tuple[str, str]], between: str, other: str | None
) -> None:
    """Each name of a list takes its channel; one that may mean anything takes everything."""
    pairs = [f"{canonical(channel)}:marketing" for channel in sorted(granted)]
    names = [_SPELT[how](channel) for channel, how in left]
    if other is not None:
        names.append(other.format(left[0][0].partition(":")[0]))
    found = remaining(pairs, between.join(names), CoreConfig().channel_aliases)
    meant = {channel for channel, _ in left}
    if other is not None or ("letter" in meant - granted) or ("web_push" in meant - granted):
        assert found == ()
        return
    same = [{"email", "mail"}, {"push", "push:ios"}, {"sms"}, {"letter"}, {"web_push"}]
    gone = {one for group in same if group & meant for one in group}
    if meant & {"push", "push:ios"}:
        gone.add("web_push")
    assert found == tuple(f"{canonical(channel)}:marketing" for channel in sorted(granted - gone))


@settings(max_examples=examples(200), deadline=None)
@given(st.text(max_size=40))
def test_a_channel_that_is_not_known_takes_everything(name: str) -> None:
    told = ("email:marketing", "letter:marketing", "push:ios:service")
    found = remaining(told, name, {})
    known = {"email", "letter", "push", "sms", "whatsapp"}
    parts = {canonical(part).partition(":")[0] for part in re.split(r"[][(){},;/|&+\n]", name)} - {""}
    assert found == () or (parts and parts <= known)


@settings(max_examples=examples(200), deadline=None)
@given(
    before=st.sampled_from(["", "user_", "email.", "the ", "xx"]),
    core=st.sampled_from(
        ["consent", "withdraw", "Withdrew", "revoke", "REVOCATION", "unsub", "opt-out", "optOut", "cancel_subscription",
         "subscriber cancelled", "do not contact"]
    ),
    after=st.sampled_from(["", "_event", "ed", " v2", "\n", "!"]),
)  # fmt: skip
def test_a_name_that_may_be_an_opt_out_withdraws(before: str, core: str, after: str) -> None:
    told = Told()
    assert told.say(CAMPAIGN_SENDS, OPT_OUT | {"event": before + core + after}) == []
    assert told.consent() == LEFT_EMAIL


_SPEAKING = st.builds(
    lambda before, core, after, style: style((before, core, after)),
    st.sampled_from(["", "email", "marketing", "gdpr", "is", "user"]),
    st.sampled_from(["consent", "consents", "opt in", "opted in"]),
    st.sampled_from(["", "email", "flag", "given"]),
    st.sampled_from([
        lambda parts: "_".join(" ".join(parts).split()),
        lambda parts: "-".join(" ".join(parts).upper().split()),
        lambda parts: "".join(word.capitalize() for word in " ".join(parts).split()),
    ]),
)  # fmt: skip


@settings(max_examples=examples(200), deadline=None)
@given(
    name=_SPEAKING,
    said=st.sampled_from([True, False, None, "yes", 1, {}, {"email": True}, ["sms"], "2017-07-14"]),
    path=st.lists(st.sampled_from(["attributes", "payload", "data", 0]), max_size=4),
)
def test_consent_under_another_name_is_withdrawn_wherever_it_is(name: str, said: Any, path: list[Any]) -> None:
    inner: Any = {name: said}
    for step in reversed(path):
        inner = [inner] if step == 0 else {step: inner}
    told = Told()
    assert len(told.say(PROFILES, {"event_ts_ms": AT_MS} | (inner if isinstance(inner, dict) else {"all": inner}))) == 1
    assert told.consent() == ()


@settings(max_examples=examples(200), deadline=None)
@given(
    granted=st.dictionaries(st.sampled_from(["email", "sms", "push", "letter"]), st.booleans(), min_size=1),
    channel=st.sampled_from(["email", "SMS", "push", ""]),
    name=st.sampled_from(["{}_consent", "{}_opt_in", "{}OptOut", "unsubscribed_{}", "{}_enabled"]),
    said=st.sampled_from([True, False, "no", 0, "true", "off"]),
    inside=st.sampled_from([None, "attributes", "preferences"]),
)
def test_beside_consent_another_field_counts_where_it_says_no_to_what_is_granted(
    granted: dict[str, bool], channel: str, name: str, said: Any, inside: str | None
) -> None:
    field = {name.format(channel or "marketing"): said}
    body = {"consent": {one: {"marketing": given} for one, given in granted.items()}}
    told = Told()
    refused = told.say(PROFILES, {"event_ts_ms": AT_MS} | body | (field if inside is None else {inside: field}))
    yes = {one for one, given in granted.items() if given}
    denies = (said in (True, "true")) == ("unsub" in name or "Out" in name)
    meant = {channel.lower(), "letter"} if channel else set(granted)  # a letter may be meant: nobody knows the name
    assert bool(refused) == bool(denies and yes & meant)
    assert told.consent() == (() if refused else tuple(f"{one}:marketing" for one in sorted(yes)))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["grant", "leave", "unreadable"]), st.integers(0, 3), st.sampled_from([-1, 0, 2**62])
        ),
        min_size=1,
        max_size=6,
    )
)
@example([("grant", 1, 2**62), ("leave", 0, -1)])
@example([("unreadable", 0, 2**62), ("grant", 1, 2**62), ("unreadable", 0, -1), ("leave", 0, -1)])
def test_at_the_end_of_time_consent_is_still_taken_back(said: list[tuple[str, int, int]]) -> None:
    told, granted = Told(), True
    for what, before_ms, timestamp in said:
        ts_ms = MAX_EVENT_TS_MS - before_ms
        if what == "grant":
            refused = told.say(PROFILES, {"event_ts_ms": ts_ms, "consent": ALL}, timestamp=timestamp)
            granted = not refused and granted
            assert bool(refused) == (timestamp <= 0 or before_ms == 0), "the last instant is none"
        elif what == "leave":
            told.say(CAMPAIGN_SENDS, {"event": "unsubscribe", "event_ts_ms": "late"}, timestamp=timestamp)
            granted = False
        else:
            told.say(PROFILES, {"event_ts_ms": ts_ms, "consent": 7}, timestamp=timestamp)
            granted = False
        told.worker.checkpoint()
        told.worker.restart()
    if not granted and said[-1][0] != "grant":
        assert told.consent() == ()


@pytest.mark.parametrize(
    "attributes",
    [{"id": 2**60}, {"id": 1e300}, {"nested": {"a": [1]}}, {"x" * 100: 1}, "none", [1], {"a": "x" * 5_000}],
)
def test_attributes_do_not_keep_a_profile_from_withdrawing(attributes: Any) -> None:
    told = Told()
    body = {"event_ts_ms": AT_MS, "consent": {"sms": {"marketing": True}}, "attributes": attributes, "timezone": 5}
    assert told.say(PROFILES, body) == []
    assert told.consent() == ("sms:marketing",)
    assert any(name.startswith("repaired\x1fprofiles\x1fattributes") for name in told.worker.ingest.counts)


def test_a_profile_without_consent_leaves_it_as_it_was() -> None:
    told = Told()
    assert told.say(PROFILES, {"event_ts_ms": AT_MS, "attributes": {"vip": False}}) == []
    assert told.consent() == GRANTED
    customer = told.worker.ingest.customer("c1")
    assert customer is not None and customer.view().attributes == {"vip": False}
    told.say(PROFILES, {"event_ts_ms": AT_MS + 1, "consent": {"sms": {"marketing": True}}}, timestamp=AT_MS + 1)
    assert told.consent() == ("sms:marketing",)
    told.say(PROFILES, {"event_ts_ms": AT_MS + 2, "consent": None}, timestamp=AT_MS + 2)
    assert told.consent() == ()
    told.say(PROFILES, {"event_ts_ms": AT_MS + 3, "attributes": {}}, timestamp=AT_MS + 3)
    assert told.consent() == ()


def test_a_late_profile_of_traits_takes_no_consent_and_replaces_no_newer_traits() -> None:
    told = Told()
    late_ms = AT_MS + 3 * CONFIG.lateness_ms
    other = {"event_ts_ms": late_ms, "event_id": "o", "consent": {}}
    told.say(PROFILES, other, timestamp=late_ms, key=b"c2")
    told.say(PROFILES, {"event_ts_ms": START_MS + 1, "attributes": {"late": 1}}, timestamp=late_ms)
    told.say(PROFILES, {"event_ts_ms": START_MS - 1, "attributes": {"later": 1}}, timestamp=late_ms)
    customer = told.worker.ingest.customer("c1")
    assert customer is not None
    assert (customer.view().attributes, customer.view().consent) == ({"late": 1}, GRANTED)


def test_whoever_takes_consent_back_revokes_what_was_decided() -> None:
    told = Told()
    told.worker.ingest.checkpoint(0)
    told.say(CAMPAIGN_SENDS, OPT_OUT)
    (revoked,) = told.worker.ingest.checkpoint(0).revocations
    assert (revoked.customer_id, revoked.chosen.action, revoked.model_version) == ("c1", "none", "none")
    assert revoked.source == ("campaign-sends", 0, 0)
    assert revoked.as_of_ms == AT_MS
    assert [reason.code for reason in revoked.reason_codes] == ["CONSENT_WITHDRAWN"]
    told.say(PROFILES, {"event_ts_ms": AT_MS + 1, "consent": ALL}, timestamp=AT_MS + 1)
    assert list(told.worker.ingest.checkpoint(0).revocations) == [], "what is given revokes nothing"
    told.say(PROFILES, {"event_ts_ms": AT_MS + 2, "consent": {"sms": {"marketing": True}}}, timestamp=AT_MS + 2)
    told.say(PROFILES, b"{", timestamp=AT_MS + 3)
    (again,) = told.worker.ingest.checkpoint(0).revocations
    assert again.source == ("profiles", 0, 3)
    told.say(PROFILES, None, timestamp=AT_MS + 4)
    (erased,) = told.worker.ingest.checkpoint(0).revocations
    assert [reason.code for reason in erased.reason_codes] == ["CUSTOMER_ERASED"]
    assert erased.as_of_ms > again.as_of_ms
    assert len({one.prediction_id for one in (revoked, again, erased)}) == 3


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_UNREAD = (
    "campaign_id", "offer_id", "template_id", "send_id", "event_id", "decision_id", "propensity", "window_end_ms",
    "event_ts_ms", "extra",
)  # fmt: skip


@settings(max_examples=examples(300), deadline=None)
@given(
    junk=st.dictionaries(st.sampled_from(_UNREAD), _JUNK, max_size=6),
    name=st.sampled_from(["unsubscribe", "complaint", "Unsubscribed", "SPAM_REPORT", "optout"]),
    channel=st.sampled_from(["email", "Email", " EMAIL ", "e-mail", "mail", None, ""]),
    timestamp=st.sampled_from([AT_MS, AT_MS + 3, -1, AT_MS + 900 * DAY_MS]),
)
@example(junk={"event_ts_ms": 0, "extra": 1e308}, name="optout", channel="email", timestamp=-1)
def test_nothing_that_an_opt_out_does_not_need_keeps_it(
    junk: dict[str, Any], name: str, channel: str | None, timestamp: int
) -> None:
    told = Told()
    body = OPT_OUT | junk | {"event": name, "channel": channel}
    if isinstance(at_ms := body["event_ts_ms"], int | float) and 946_684_800_000 <= at_ms < START_MS:
        body["event_ts_ms"] = AT_MS  # truly of before the grant
    if isinstance(at_ms, int | float) and at_ms * 1_000 < START_MS and at_ms * 1_000 >= 946_684_800_000:
        body["event_ts_ms"] = AT_MS
    told.say(
        CAMPAIGN_SENDS, msgspec.json.encode(body, enc_hook=str) if _encodes(body) else OPT_OUT, timestamp=timestamp
    )
    assert "email:marketing" not in (told.consent() or ())


def _encodes(body: dict[str, Any]) -> bool:
    """Whether it is JSON: half of a surrogate pair is not."""
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


_SAID: Final[st.SearchStrategy[Any]] = st.sampled_from(
    [True, False, None, 0, "false", "no", "yes", "true", 1, 2, [], {}, "maybe"]
)
_CONSENTS = st.dictionaries(
    st.sampled_from(["email", "Email", "e-mail", "sms", "push", "", "x" * 65]),
    _SAID | st.dictionaries(st.sampled_from(["marketing", "Marketing", "service", ""]), _SAID, max_size=3),
    max_size=4,
)


@settings(max_examples=examples(300), deadline=None)
@given(consent=_CONSENTS | _JUNK, cut=st.integers(0, 40) | st.none())
def test_nothing_but_true_grants(consent: Any, cut: int | None) -> None:
    told = Told()
    value = json.dumps({"event_ts_ms": AT_MS, "consent": consent}).encode()
    refused = told.say(PROFILES, value if cut is None else value[: len(value) - cut])
    granted = told.consent() or ()
    if refused:
        assert granted == ()
    for pair in granted:
        channel, _, purpose = pair.rpartition(":")
        said = [
            given
            for spelt, purposes in consent.items()
            if canonical(spelt) == channel and isinstance(purposes, dict)
            for name, given in purposes.items()
            if canonical(name) == purpose
        ]
        assert said and all(given is True for given in said)


def test_a_withdrawal_is_part_of_the_state_whatever_the_batches() -> None:
    views = [Sent(CLICKSTREAM, "c1", START_MS + n * 1_000, {"event": "app_open"}) for n in range(5)]
    states = set()
    for cuts in range(4):
        told = Told()
        for number, view in enumerate(views):
            told.say(CLICKSTREAM, {"event": "app_open", "event_ts_ms": view.ts_ms, "event_id": f"v{number}"})
            if number == 2:
                told.say(PROFILES, b"{")
            if cuts and number % cuts == 0:
                told.worker.checkpoint()
                told.worker.restart()
        for source_index, topic in enumerate(log_of([], until_ms=AT_MS + 10 * DAY_MS)):
            told.worker.ingest.take(source_index, [one._replace(offset=99) for one in topic[-1:]], 0)
        told.worker.checkpoint()
        customer = told.worker.ingest.customer("c1")
        assert customer is not None
        states.add(customer.encode().record)
    assert len(states) == 1
