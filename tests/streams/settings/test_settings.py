"""Settings: where they come from, what is refused and how it is said, and that secrets stay secret."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest
from support.source import attributes

from schemas.errors import ConfigError
from streams.settings import schema as settings
from streams.settings.schema import Settings, load


def test_defaults_need_nothing() -> None:
    assert load(env={}) == Settings()


def test_environment_wins_over_file_and_overrides_over_both(tmp_path: Path) -> None:
    file = tmp_path / "pulsegraph.toml"
    file.write_text(
        'state_dir = "/data"\n[kafka]\nbootstrap = "a:1,b:2"\npartitions = 8\n[ingest]\ncheckpoint_ms = 250\n'
        '[core]\nactivity_events = ["purchase", "app_open"]\n'
    )
    env = {"PULSEGRAPH_CONFIG": str(file), "PULSEGRAPH_INGEST_CHECKPOINT_MS": "50", "HOME": "/elsewhere"}
    found = load(env=env, overrides={"kafka.partitions": 2, "kafka.prefix": None})
    assert (found.kafka.bootstrap, found.kafka.partitions) == ("a:1,b:2", 2)
    assert found.ingest.checkpoint_ms == 50
    assert found.state_dir == Path("/data")
    assert found.core.activity_events == ("purchase", "app_open")
    assert load(file, env={}).kafka.partitions == 8


@pytest.mark.parametrize(
    ("name", "text", "path", "value"),
    [
        ("PULSEGRAPH_METRICS_PORT", "0", "metrics_port", 0),
        ("PULSEGRAPH_METRICS_PORT", "off", "metrics_port", None),
        ("PULSEGRAPH_ENCODE_COALESCE", "no", "encode.coalesce", False),
        ("PULSEGRAPH_ENCODE_DEVICE", "cuda", "encode.device", "cuda"),
        ("PULSEGRAPH_DECIDE_EPSILON", "0.5", "decide.epsilon", 0.5),
        ("PULSEGRAPH_CORE_ACTIVITY_EVENTS", "purchase, app_open", "core.activity_events", ("purchase", "app_open")),
        ("PULSEGRAPH_KAFKA_REPLICAS", "3", "kafka.replicas", 3),
        ("PULSEGRAPH_INGEST_IDLE_MS", "0", "ingest.idle_ms", 0),
    ],
)
def test_text_becomes_a_value(name: str, text: str, path: str, value: object) -> None:
    found: object = load(env={name: text})
    for part in path.split("."):
        found = getattr(found, part)
    assert found == value


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (
            {"PULSEGRAPH_INGEST_CHEKPOINT_MS": "1"},
            "no setting PULSEGRAPH_INGEST_CHEKPOINT_MS; did you mean .*_CHECKPOINT_MS",
        ),
        (
            {"PULSEGRAPH_INGEST_CHECKPOINT_MS": "fast"},
            "PULSEGRAPH_INGEST_CHECKPOINT_MS='fast' .* a whole number of at least 1",
        ),
        ({"PULSEGRAPH_INGEST_CHECKPOINT_MS": "0"}, "CHECKPOINT_MS='0' is not accepted"),
        ({"PULSEGRAPH_CORE_HOLDOUT_PERCENT": "101"}, "a whole number from 0 to 100"),
        ({"PULSEGRAPH_CORE_LATENESS_MS": "-1"}, "of at least 0"),
        ({"PULSEGRAPH_ENCODE_DEVICE": "tpu"}, "one of auto, cpu, cuda"),
        ({"PULSEGRAPH_ENCODE_COALESCE": "perhaps"}, "true or false"),
        ({"PULSEGRAPH_KAFKA_BOOTSTRAP": "nowhere"}, "BOOTSTRAP='nowhere'"),
        ({"PULSEGRAPH_KAFKA_PREFIX": "a/b"}, "PREFIX='a/b'"),
        ({"PULSEGRAPH_DECIDE_EPSILON": "nan"}, "EPSILON='nan'"),
        ({"PULSEGRAPH_SECURITY_PROTOCOL": "SASL_SSL"}, "needs PULSEGRAPH_SECURITY_USERNAME"),
        ({"PULSEGRAPH_SECURITY_PROTOCOL": "SASL_SSL", "PULSEGRAPH_SECURITY_USERNAME": "u"}, "_PASSWORD_FILE"),
        ({"PULSEGRAPH_SECURITY_USERNAME": "u"}, "would not use it"),
        ({"PULSEGRAPH_SECURITY_CERT_FILE": "/nowhere.pem"}, "go together"),
        ({"PULSEGRAPH_SECURITY_CA_FILE": "/nowhere.pem"}, "no such file"),
        ({"PULSEGRAPH_SECURITY_PASSWORD_FILE": "/nowhere"}, "cannot be read"),
        ({"PULSEGRAPH_CONFIG": "/nowhere.toml"}, "nowhere.toml cannot be read"),
    ],
)
def test_what_is_wrong_is_named(env: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(env=env)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("checkpoint_ms = 1", "no setting checkpoint_ms"),
        ("[ingset]\ncheckpoint_ms = 1", "no setting ingset; did you mean ingest"),
        ("ingest = 1", r"write \[ingest\]"),
        ('[ingest]\ncheckpoint_ms = "1"', "ingest.checkpoint_ms='1' is not accepted"),
        ("[ingest", "is not TOML"),
        ('[security]\npassword = "x"', "is a secret; give it in PULSEGRAPH_SECURITY_PASSWORD"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "p.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(file, env={})


SECRET = "correct-horse-battery"


@pytest.mark.parametrize("by_file", [False, True])
def test_secrets_reach_the_clients_and_nothing_else(tmp_path: Path, by_file: bool) -> None:
    file = tmp_path / "password"
    file.write_text(SECRET + "\n")
    password = {"PULSEGRAPH_SECURITY_PASSWORD_FILE": str(file)} if by_file else {"PULSEGRAPH_SECURITY_PASSWORD": SECRET}
    found = load(
        env={"PULSEGRAPH_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "PULSEGRAPH_SECURITY_USERNAME": "u", **password}
    )
    assert settings.kafka_client_config(found) == {
        "bootstrap.servers": "127.0.0.1:9092",
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "u",
        "sasl.password": SECRET,
    }
    assert settings.aiokafka_config(found)["sasl_plain_password"] == SECRET
    shown = [repr(found), str(found), f"{found.security.password}", repr(list(settings.describe(found)))]
    assert all(SECRET not in text for text in shown)
    with pytest.raises(TypeError):
        pickle.dumps(found.security.password)


def test_a_secret_is_not_in_an_error_about_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(env={"PULSEGRAPH_SECURITY_PASSWORD": SECRET})
    assert SECRET not in str(error.value)


def test_tls_without_files() -> None:
    found = load(env={"PULSEGRAPH_SECURITY_PROTOCOL": "SSL", "PULSEGRAPH_SECURITY_VERIFY_HOSTNAME": "false"})
    context = settings.ssl_context(found)
    assert context is not None
    assert not context.check_hostname
    assert settings.kafka_client_config(found)["ssl.endpoint.identification.algorithm"] == "none"
    assert settings.aiokafka_config(found)["security_protocol"] == "SSL"


def test_every_setting_is_described() -> None:
    described = list(settings.describe())
    assert all(entry.meaning for entry in described), [entry.name for entry in described if not entry.meaning]
    assert all(re.fullmatch(r"PULSEGRAPH_[A-Z0-9_]+", entry.env) for entry in described)
    assert len({entry.env for entry in described}) == len(described)
    # Every default can be written back as text: what the documentation shows is what may be set.
    env = {entry.env: entry.default for entry in described if "password" not in entry.name and entry.default}
    assert load(env=env) == Settings()


def test_every_setting_is_read() -> None:
    read = attributes()
    assert [field.name for field in settings.fields() if field.path[-1] not in read] == []


def test_rates_come_from_text_and_from_tables(tmp_path: Path) -> None:
    rates = {"USD": 0.92, "GBP": 1.17}
    assert load(env={"PULSEGRAPH_CORE_RATES": "USD=0.92, GBP=1.17"}).core.rates == rates
    file = tmp_path / "pulsegraph.toml"
    file.write_text("[core.rates]\nUSD = 0.92\nGBP = 1.17\n")
    found = load(file, env={})
    assert found.core.rates == rates
    file.write_text(settings.to_toml(found))
    assert load(file, env={}) == found
    shown = {entry.name: entry.value for entry in settings.describe(found)}
    assert shown["core.rates"] == "USD=0.92,GBP=1.17"


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"PULSEGRAPH_CORE_RATES": "USD"}, "PULSEGRAPH_CORE_RATES='USD' is not accepted: pairs like USD=0.92"),
        ({"PULSEGRAPH_CORE_RATES": "usd=0.92"}, "is not accepted"),
        ({"PULSEGRAPH_CORE_RATES": "USD=0"}, "is not accepted"),
        ({"PULSEGRAPH_CORE_RATES": "EUR=0.9"}, "has a rate for EUR, which is PULSEGRAPH_CORE_CURRENCY"),
        ({"PULSEGRAPH_CORE_CURRENCY": "euro"}, "PULSEGRAPH_CORE_CURRENCY='euro' is not accepted"),
        ({"PULSEGRAPH_CORE_TIMEZONE": "Europe/Berln"}, "no time zone 'Europe/Berln': did you mean Europe/Berlin?"),
        ({"PULSEGRAPH_CORE_TIMEZONE": "new york"}, "no time zone 'new york'"),
    ],
)
def test_currencies_and_zones_that_cannot_be_are_named(env: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(env=env)


@pytest.mark.parametrize(
    "bootstrap", ["[::1]:9092", "[2001:db8::7]:9092, kafka-2:9093", "127.0.0.1:9092,[fe80::1%eth0]:9092"]
)
def test_an_ipv6_broker_is_written_in_brackets(bootstrap: str) -> None:
    assert load(env={"PULSEGRAPH_KAFKA_BOOTSTRAP": bootstrap}).kafka.bootstrap == bootstrap


@pytest.mark.parametrize("bootstrap", ["::1:9092", "[::1]", "[::1]9092", "[]:9092", "[a,b]:1", "host:9092\nx"])
def test_what_is_no_address_of_a_broker_is_refused(bootstrap: str) -> None:
    with pytest.raises(ConfigError, match="PULSEGRAPH_KAFKA_BOOTSTRAP"):
        load(env={"PULSEGRAPH_KAFKA_BOOTSTRAP": bootstrap})


@pytest.mark.parametrize("mechanism", ["OAUTHBEARER", "GSSAPI"])
def test_mechanisms_that_are_not_supported_are_refused_and_said_to_be(mechanism: str) -> None:
    with pytest.raises(ConfigError, match="not supported"):
        load(env={"PULSEGRAPH_SECURITY_MECHANISM": mechanism})
