"""The pages in docs/ say what the code does: tables are generated, lists are complete, examples run."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer

from models.reasons import CROSS_FAMILIES, FAMILIES
from models.send_time_reasons import SLOT_FAMILIES
from schemas import codec, errors, features, limits
from schemas.events import CLICKSTREAM_EVENTS, SEND_EVENTS, SOURCES, Clickstream
from schemas.graph import EDGE_TYPES
from schemas.predictions import NextBestAction
from schemas.records import LogRecord
from schemas.sweep import Sweep
from schemas.topics import TOPICS
from schemas.words import Word
from streams.core.config import DAY_MS, CoreConfig
from streams.core.entries import read_entries
from streams.core.lateness import check_not_too_late
from streams.kafka.partitioning import partition_for
from streams.kafka.reader import TopicReader
from streams.settings import schema as settings
from streams.telemetry.metric_table import METRICS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {page.name: page.read_text(encoding="utf-8") for page in sorted(DOCS.glob("*.md"))}
#: Without tables.
OTHER_PAGES = [
    *(page.name for page in sorted(ROOT.glob("*.md"))),
    *(str(page.relative_to(ROOT)) for page in sorted((DOCS / "adr").glob("*.md"))),
]
NOW_MS = 1_500_000_000_000


def _generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = _generate()


@pytest.mark.parametrize("name", PAGES)
def test_tables_are_current(name: str) -> None:
    assert generate.render(PAGES[name]) == PAGES[name], "run: make pages"


def test_every_table_is_on_a_page() -> None:
    shown = {name for text in PAGES.values() for name in re.findall(r"<!-- table: (\S+) -->", text)}
    assert shown == generate.TABLES.keys()


def test_every_record_in_json_has_its_table() -> None:
    records = {topic.record for topic in TOPICS.values() if topic.format == "json" and topic.record is not None}
    assert records - set(generate._STRUCTS) == {Sweep, Word}, "add it to _STRUCTS in docs/generate.py, and to a page"


def test_every_field_has_a_meaning() -> None:
    for struct in generate._STRUCTS:
        for field in msgspec.structs.fields(struct):
            assert generate.meaning(struct, field.name), f"{struct.__name__}.{field.name}"


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("topics.md", TOPICS),
        ("settings.md", [entry.env for entry in settings.describe()]),
        ("metrics.md", [metric.full_name for metric in METRICS.values()]),
        ("predictions.md", features.NAMES),
        ("predictions.md", [*FAMILIES, *CROSS_FAMILIES, *SLOT_FAMILIES]),
        ("predictions.md", [name for name in TOPICS if name.startswith("predictions.")]),
        ("events.md", [*CLICKSTREAM_EVENTS, *SEND_EVENTS]),
        ("events.md", [error.__name__ for error in errors.DeadLetter.__subclasses__()]),
        ("events.md", [error.reason for error in errors.DeadLetter.__subclasses__()]),
        ("design.md", EDGE_TYPES),
    ],
)
def test_everything_is_described(page: str, names: list[str]) -> None:
    assert [name for name in names if f"`{name}`" not in PAGES[page]] == []


def test_every_source_topic_has_its_section() -> None:
    assert [source for source in (*SOURCES, "catalog") if f"\n## {source}\n" not in PAGES["events.md"]] == []


def test_names_in_the_text_exist() -> None:
    known = {entry.env for entry in settings.describe()} | {"PULSEGRAPH_CONFIG", "PULSEGRAPH_DATA"}
    metrics = {metric.full_name for metric in METRICS.values()}
    for name, text in PAGES.items():
        assert set(re.findall(r"`(PULSEGRAPH_[A-Z_]+)`", text)) <= known, name
        assert set(re.findall(r"`(pulsegraph_[a-z_]+)`", text)) <= metrics, name


def test_limits_in_the_text() -> None:
    text, config = PAGES["events.md"], CoreConfig()
    for number in (limits.MAX_PAYLOAD_BYTES, limits.MAX_HEADERS_BYTES):
        assert f"{number:,}" in text
    assert f"keys\n{limits.MAX_KEY_BYTES} bytes" in text
    assert f"nested more than {limits.MAX_NESTING} deep" in text
    assert f"({config.lateness_ms // 60_000} minutes)" in text
    assert f"more than {config.max_future_ms // 60_000} minutes after the record's" in text
    assert f"`PULSEGRAPH_CORE_RECENT_IDS` ({config.recent_ids:,}) of one customer" in text
    assert config.ids_kept_ms == 2 * DAY_MS and "`PULSEGRAPH_CORE_IDS_KEPT_MS` (two days)" in text
    assert f"(`PULSEGRAPH_CORE_WATERMARK_KEYS`, {config.watermark_keys})" in text


@pytest.mark.parametrize("page", [*OTHER_PAGES, *(f"docs/{name}" for name in PAGES if name != "log.md")])
def test_paths_in_the_text_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:streams|models|schemas|infra|tests|docs|examples)/[\w./-]*)`", text))
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_the_picture_names_files() -> None:
    picture = PAGES["design.md"].split("```text\n")[1].split("```")[0]
    files = re.findall(r"(?:\w+/)*\w+\.py", picture)
    assert len(files) > 15
    for name in files:
        assert any((ROOT / room / name).is_file() for room in ("", "streams", "streams/core")), name


def test_links_lead_somewhere() -> None:
    for name, text in PAGES.items():
        anchors = {
            heading.strip().lower().replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        }
        for target in re.findall(r"\]\(([^)]+)\)", text):
            page, _, anchor = target.partition("#")
            if page:
                assert page in PAGES or (DOCS / page).is_file(), f"{name}: {target}"
            else:
                assert anchor in anchors, f"{name}: {target}"


@pytest.mark.parametrize("page", OTHER_PAGES)
def test_links_of_other_pages_lead_to_files(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = [target.partition("#")[0] for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text)]
    assert [target for target in targets if not ((ROOT / page).parent / target).exists()] == []


def _rows_of_refusals() -> list[tuple[str, str, str]]:
    section = PAGES["events.md"].split("## Why an event was refused")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (.+?) \| .+ \|$", section, re.MULTILINE)
    assert len(rows) == len(errors.DeadLetter.__subclasses__())
    return rows


@pytest.mark.parametrize(("error", "reason", "example"), _rows_of_refusals())
def test_examples_of_refusals(error: str, reason: str, example: str) -> None:
    key: bytes | None
    value: bytes | None
    found = re.fullmatch(r"key (null|`.*?`), value (null|`.*`)", example)
    if error == "TooLate":
        days = CoreConfig().ids_kept_ms // DAY_MS
        assert example == f"an event more than {days} days behind its topic"
        purchase = Clickstream(event="purchase", event_ts_ms=NOW_MS)
        with pytest.raises(errors.TooLate):
            check_not_too_late(NOW_MS, NOW_MS + days * DAY_MS + 1, purchase, CoreConfig())
        return
    if error == "WrongPartition":
        assert example == "a record in another partition than its key's"
        record = LogRecord(0, b"42", b"{}", (), NOW_MS)
        _, (refusal,) = read_entries(0, 1, [record], CoreConfig(), lambda key: 0)
        assert refusal.reason == reason
        return
    if found is None:
        assert example == f"a value of more than {limits.MAX_PAYLOAD_BYTES:,} bytes"
        key, value = b"42", b" " * (limits.MAX_PAYLOAD_BYTES + 1)
    else:
        key, value = (None if part == "null" else part.strip("`").encode() for part in found.groups())
    with pytest.raises(getattr(errors, error)) as refused:
        codec.decode_event(0, key, value, (), NOW_MS, CoreConfig().max_future_ms)
    assert refused.value.reason == reason


def test_the_decision_in_the_readme_is_one_that_sends() -> None:
    (text,) = re.findall(r"```json\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    decision = msgspec.json.decode(text, type=NextBestAction)
    assert decision.chosen.action == "send"
    assert json.loads(msgspec.json.encode(decision)) == json.loads(text), "no field that the record does not have"


def test_the_console_producers_records_are_events() -> None:
    lines = re.findall(r"^(\d+)\|(\{.*\})$", PAGES["events.md"], re.MULTILINE)
    assert len(lines) == 2
    for key, value in lines:
        codec.decode_event(1, key.encode(), value.encode(), (), NOW_MS, 0)


def test_the_python_examples_run(broker: Any, make_topics: Callable[[int], str]) -> None:
    prefix = make_topics(4)
    first, second = re.findall(r"```python\n(.*?)```", PAGES["events.md"], re.DOTALL)
    code = (first + second + "producer.flush()\n").replace("127.0.0.1:9092", broker.bootstrap)
    for topic in ("clickstream", "profiles"):
        code = code.replace(f'produce("{topic}"', f'produce("{prefix}{topic}"')
    scope: dict[str, Any] = {}
    exec(code, scope)
    assert isinstance(scope["producer"], Producer)
    partition = partition_for(b"42", 4)
    with TopicReader({"bootstrap.servers": broker.bootstrap}) as reader:
        for source_index, topic in ((0, "clickstream"), (3, "profiles")):
            (message,) = reader.range(prefix + topic, partition, 0, 1)
            headers = message.headers() or []
            assert not isinstance(headers, dict)
            pairs = [(name, value) for name, value in headers if isinstance(value, bytes)]
            event = codec.decode_event(source_index, message.key(), message.value(), pairs, message.timestamp()[1], 0)
            assert event.customer_id == "42"
