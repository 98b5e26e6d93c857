"""All settings: one frozen tree, read from ``PULSEGRAPH_*`` variables and an optional TOML file.

A variable is named after its place in the tree: ``ingest.checkpoint_ms`` is ``PULSEGRAPH_INGEST_CHECKPOINT_MS``. The
environment wins over the file, the file over the defaults. Secrets come from the environment, or from a file whose path
is in ``..._FILE``, and are never printed. Names we do not know are errors: a typo must not silently mean "the default".
"""

from __future__ import annotations

import os
import ssl
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta

from schemas.errors import ConfigError
from streams.core.config import CoreConfig
from streams.core.decay import MIN_FORWARD_HALF_LIFE_MS
from streams.core.decisions import DecisionPolicy
from streams.settings import reader as configuration
from streams.settings import zones
from streams.settings.reader import Secret

if TYPE_CHECKING:
    from faust.types.auth import CredentialsT

ENV_PREFIX: Final = "PULSEGRAPH_"
#: Variables with our prefix that are no settings: where to find things, and what tests run on.
RESERVED: Final = ("PULSEGRAPH_CONFIG", "PULSEGRAPH_CACHE", "PULSEGRAPH_DATA", "PULSEGRAPH_TEST_")

_Count = Annotated[int, Meta(ge=1)]
_Millis = Annotated[int, Meta(ge=0)]
_Distance = Annotated[float, Meta(ge=0.0, le=2.0)]
_Port = Annotated[int, Meta(ge=0, le=65_535)]


_HOST: Final = r"(\[[0-9A-Fa-f:.]+(%\w+)?\]|[^\s,:\[\]]+):\d+"


class KafkaSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster and our names on it."""

    bootstrap: Annotated[str, Meta(pattern=rf"^\s*{_HOST}(\s*,\s*{_HOST})*\s*\Z")] = "127.0.0.1:9092"
    """Brokers to connect to first: ``host:port``, several with commas; an IPv6 address in brackets: ``[::1]:9092``."""
    prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{0,100}$")] = ""
    """Put before every topic and consumer group, so that deployments can share a cluster."""
    partitions: _Count = 4
    """Of every topic; the upper bound of workers that share the load. Cannot be changed later."""
    replicas: _Count | None = None
    """Copies of every partition; the broker's ``default.replication.factor`` where none."""
    compression: Literal["none", "lz4", "zstd", "snappy"] = "lz4"
    """Of what workers write: snapshots and state shrink by about half."""
    session_timeout_ms: Annotated[int, Meta(ge=1_000)] = 10_000
    """A worker that is silent for this long is taken for dead, and others take its partitions."""


class SecuritySettings(msgspec.Struct, frozen=True, kw_only=True):
    """What every Kafka client presents, and what it demands of the broker."""

    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """How to speak to the brokers; SSL means TLS."""
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    """SASL mechanism, with the SASL protocols. OAUTHBEARER and GSSAPI (Kerberos) are not supported: workers speak to
    Kafka through two clients, and only these three can be given to both as a user and a password."""
    username: str = ""
    """SASL user."""
    password: Secret = Secret()
    """SASL password."""
    ca_file: Path | None = None
    """PEM file of the authorities trusted to sign brokers' certificates; the system's where none."""
    cert_file: Path | None = None
    """PEM file with our own certificate, where brokers require one."""
    key_file: Path | None = None
    """PEM file with the key of our certificate."""
    key_password: Secret = Secret()
    """Password of that key file."""
    verify_hostname: bool = True
    """Whether a broker's certificate must name the host we connect to."""


class IngestSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Commit checkpoints and memory of the ingest role."""

    checkpoint_ms: Annotated[int, Meta(ge=1)] = 50
    """State, outputs and offsets are written together at least this often (wall clock)."""
    checkpoint_events: _Count = 20_000
    """A checkpoint also ends after this many events."""
    cache_bytes: Annotated[int, Meta(ge=1 << 20)] = 96 << 20
    """Memory for decoded customers, in bytes, of the whole worker."""
    idle_ms: _Millis = 30_000
    """A topic that was read to its end and then is quiet for so long stops holding event time back; 0 is never."""
    refused_share: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """A source of a topic counts as refused when more than this share of its newest records was; 1 is never."""
    refused_min: _Count = 1_000
    """How many of a source's newest records that share is taken over; none is taken before that many came."""
    source_header: str = "ce_source"
    """The record header that names who sent it; records without one are of one source, the topic."""


class EncodeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Micro-batches and hardware of the encode role."""

    batch_size: _Count = 64
    """Most snapshots in one run of the model."""
    batch_age_ms: _Millis = 10
    """A snapshot waits at most this long for others (wall clock)."""
    threads: _Millis = 0
    """CPU threads of the model; 0 leaves it to torch."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs; auto takes CUDA where there is one."""
    queue_bound: _Count = 20_000
    """Snapshots that may wait; beyond it fetching pauses."""
    embedding_margin: _Distance = 0.02
    """An embedding is published again when its cosine distance from what was published last is above this."""
    prediction_margin: _Distance = 0.02
    """A record of ``predictions.behaviour`` about what holds now is published when one of its probabilities is further
    than this from what was published last, or when half of that one's validity is over. One of
    ``predictions.campaign-match`` after an event: when one of its probabilities is, or a campaign came or went."""
    coalesce: bool = True
    """Score only the newest snapshot of a customer that waits more than once."""
    required_tasks: tuple[str, ...] = ()
    """Tasks that a model must have learned to be published, or served: ``churn``, ``behaviour``, ``redemption``,
    ``next-items`` and so on, as ``tasks`` in its card names them."""
    recalibrate: bool = True
    """Whether outcomes of earlier predictions, as learn counts them, change probabilities of churn and redemption."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The whole tree."""

    kafka: KafkaSettings = KafkaSettings()
    security: SecuritySettings = SecuritySettings()
    core: CoreConfig = CoreConfig()
    ingest: IngestSettings = IngestSettings()
    encode: EncodeSettings = EncodeSettings()
    decide: DecisionPolicy = DecisionPolicy()
    state_dir: Path = Path(".cache/state")
    """Folder of the local stores; one worker, one folder."""
    standby: bool = False
    """Keep local copies of the partitions that other workers own, to take them over without a restore."""
    model_dir: Path = Path(".cache/model")
    """Model directory, as ``pulsegraph train`` writes it, or the folder of one model. What ``models`` announces is
    looked for here; where nothing is announced, or it cannot be served, the directory's newest model serves."""
    metrics_port: _Port | None = None
    """Port of ``/metrics``, ``/healthz`` and ``/readyz``; 0 takes a free one, none serves nothing."""
    metrics_host: str = "127.0.0.1"
    """Address that ``/metrics`` is served on; 0.0.0.0 inside a container."""
    broker_silence_ms: Annotated[int, Meta(ge=1_000)] = 30_000
    """A worker that has had no answer from the brokers for so long is not ready (``/readyz``), and tells no lag."""


_LIMITS: Final = {
    "core.watermark_keys": Meta(ge=1, le=1_024),
    "core.session_gap_ms": Meta(ge=1),
    "core.timeline_words": Meta(ge=8, le=8_192),
    "core.fresh_edges": Meta(ge=1, le=1_024),
    "core.edges_per_type": Meta(ge=3),
    "core.edge_half_life_ms": Meta(ge=MIN_FORWARD_HALF_LIFE_MS),
    "core.tail_limit": Meta(ge=1),
    "core.orders_kept": Meta(ge=1, le=1_024),
    "core.churn_horizon_ms": Meta(ge=1),
    "core.horizon_every_ms": Meta(ge=1),
    "core.redemption_window_ms": Meta(ge=1),
    "core.holdout_percent": Meta(ge=0, le=100),
    "decide.epsilon": Meta(ge=0, le=1),
}


class Described(NamedTuple):
    """One setting, for documentation and ``pulsegraph settings``."""

    name: str
    env: str
    default: str
    meaning: str
    accepted: str
    value: str


def fields() -> list[configuration.Field]:
    return list(configuration.fields_of(Settings, env_prefix=ENV_PREFIX, limits=_LIMITS))


def load(
    config: Path | None = None,
    *,
    env: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Settings:
    """Read the settings.

    Args:
        config: a TOML file; ``PULSEGRAPH_CONFIG`` where None.
        env: the environment; this process's where None.
        overrides: by dotted name, from a command line; they win over everything. Text is parsed, None is skipped.

    Raises:
        ConfigError: names the variable or key, its value and what is accepted.
    """
    env = os.environ if env is None else env
    known = fields()
    values: dict[tuple[str, ...], Any] = {}
    if config is None and env.get("PULSEGRAPH_CONFIG"):
        config = Path(env["PULSEGRAPH_CONFIG"])
    if config is not None:
        values |= configuration.from_table(_read_toml(config), known, str(config))
    values |= configuration.from_environment(env, known, env_prefix=ENV_PREFIX, reserved=RESERVED)
    by_name = {field.name: field for field in known}
    for name, value in (overrides or {}).items():
        if value is not None:
            values[by_name[name].path] = configuration.parse(by_name[name], str(value), shown_as=name, from_text=True)
    settings: Settings = configuration.build(Settings, values)
    _check(settings)
    return settings


def describe(settings: Settings | None = None) -> Iterator[Described]:
    """Every setting with its variable, default, meaning, what it accepts, and its value in ``settings``."""
    settings = settings or Settings()
    for field in fields():
        value = configuration.value_at(settings, field.path)
        yield Described(
            field.name, field.env, _shown(field.default), field.meaning, configuration.accepted(field), _shown(value)
        )


def to_toml(settings: Settings) -> str:
    """The tree as a TOML file that :func:`load` reads back; secrets and what is none are left out."""
    lines: list[str] = []
    group: tuple[str, ...] = ()
    # A TOML key after a table's header belongs to that table, so those without a group come first.
    for field in sorted(fields(), key=lambda field: len(field.path) > 1):
        value = configuration.value_at(settings, field.path)
        if value is None or field.is_secret:
            continue
        if field.path[:-1] != group:
            group = field.path[:-1]
            lines += ["", f"[{'.'.join(group)}]"]
        # TOML's strings, numbers and arrays of strings are written as JSON writes them.
        lines += [f"# {field.meaning}", f"{field.path[-1]} = {_toml(value)}"]
    return "\n".join(lines).lstrip("\n") + "\n"


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_toml(inner)}" for name, inner in value.items()) + " }" if value else "{}"
    return msgspec.json.encode(str(value) if isinstance(value, Path) else value).decode()


def kafka_client_config(settings: Settings) -> dict[str, str | int | float | bool]:
    """Settings of confluent-kafka clients. Holds secrets in plain text: pass it on, do not print it."""
    if settings.core.sends_kept < max(1, settings.decide.cap_sends):
        raise ConfigError(
            f"PULSEGRAPH_DECIDE_CAP_SENDS={settings.decide.cap_sends} counts more sends than "
            f"PULSEGRAPH_CORE_SENDS_KEPT={settings.core.sends_kept} remembers, so that nobody would be spared: keep as "
            "many, and one at least"
        )
    security = settings.security
    config: dict[str, str | int | float | bool] = {"bootstrap.servers": settings.kafka.bootstrap}
    if security.protocol == "PLAINTEXT":
        return config
    config["security.protocol"] = security.protocol
    if security.protocol.startswith("SASL"):
        config["sasl.mechanism"] = security.mechanism
        config["sasl.username"] = security.username
        config["sasl.password"] = security.password.reveal()
    if security.protocol.endswith("SSL"):
        config["ssl.endpoint.identification.algorithm"] = "https" if security.verify_hostname else "none"
        for name, path in (
            ("ssl.ca.location", security.ca_file),
            ("ssl.certificate.location", security.cert_file),
            ("ssl.key.location", security.key_file),
        ):
            if path is not None:
                config[name] = str(path)
        if security.key_password:
            config["ssl.key.password"] = security.key_password.reveal()
    return config


def aiokafka_config(settings: Settings) -> dict[str, Any]:
    """Keyword arguments of aiokafka clients, with the same meaning as :func:`kafka_client_config`."""
    security = settings.security
    config: dict[str, Any] = {"bootstrap_servers": settings.kafka.bootstrap, "security_protocol": security.protocol}
    if security.protocol.startswith("SASL"):
        config["sasl_mechanism"] = security.mechanism
        config["sasl_plain_username"] = security.username
        config["sasl_plain_password"] = security.password.reveal()
    if security.protocol.endswith("SSL"):
        config["ssl_context"] = ssl_context(settings)
    return config


def ssl_context(settings: Settings) -> ssl.SSLContext | None:
    """For clients that take a context; None where no TLS is wanted.

    Raises:
        ConfigError: a certificate or key cannot be loaded.
    """
    security = settings.security
    if not security.protocol.endswith("SSL"):
        return None
    try:
        context = ssl.create_default_context(cafile=None if security.ca_file is None else str(security.ca_file))
        context.check_hostname = security.verify_hostname
        if security.cert_file is not None:
            # Without a password here, OpenSSL would ask for one on the terminal.
            context.load_cert_chain(security.cert_file, security.key_file, lambda: security.key_password.reveal())
    except OSError as error:
        raise ConfigError(f"TLS files of the security settings cannot be loaded: {error}") from error
    return context


def broker_credentials(settings: Settings) -> CredentialsT | None:
    """Faust's ``broker_credentials``; None for a broker in plain text."""
    from faust import SASLCredentials, SSLCredentials

    security = settings.security
    context = ssl_context(settings)
    if security.protocol.startswith("SASL"):
        return SASLCredentials(
            username=security.username,
            password=security.password.reveal(),
            mechanism=security.mechanism,
            ssl_context=context,
        )
    return None if context is None else SSLCredentials(context)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"the settings file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the settings file {path} is not TOML: {error}") from error


def _check(settings: Settings) -> None:
    """What no single value can say."""
    core = settings.core
    if core.timezone not in zones.names():
        raise ConfigError(f"PULSEGRAPH_CORE_TIMEZONE={core.timezone!r}: {zones.unknown(core.timezone)}")
    if core.rates.get(core.currency, 1.0) != 1.0:
        raise ConfigError(
            f"PULSEGRAPH_CORE_RATES has a rate for {core.currency}, which is PULSEGRAPH_CORE_CURRENCY: leave it out"
        )
    security = settings.security
    if security.protocol.startswith("SASL"):
        for name, given in (("USERNAME", security.username), ("PASSWORD", security.password)):
            if not given:
                raise ConfigError(
                    f"PULSEGRAPH_SECURITY_PROTOCOL={security.protocol} needs PULSEGRAPH_SECURITY_{name}"
                    + (" or PULSEGRAPH_SECURITY_PASSWORD_FILE" if name == "PASSWORD" else "")
                )
    elif security.username or security.password:
        raise ConfigError(
            f"PULSEGRAPH_SECURITY_USERNAME or _PASSWORD is set, but PULSEGRAPH_SECURITY_PROTOCOL={security.protocol} "
            "would not use it: choose SASL_SSL or SASL_PLAINTEXT, or unset it"
        )
    if (security.cert_file is None) != (security.key_file is None):
        raise ConfigError(
            "PULSEGRAPH_SECURITY_CERT_FILE and PULSEGRAPH_SECURITY_KEY_FILE go together: set both or none"
        )
    for name, path in (("CA", security.ca_file), ("CERT", security.cert_file), ("KEY", security.key_file)):
        if path is not None and not path.is_file():
            raise ConfigError(f"PULSEGRAPH_SECURITY_{name}_FILE={str(path)!r}: there is no such file")


def _shown(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case tuple():
            return ",".join(str(part) for part in value)
        case dict():
            return ",".join(f"{name}={inner}" for name, inner in value.items())
        case Secret():
            return "***" if value else ""
        case _:
            return str(value)
