"""Apache Kafka that demands a password, over TLS where asked, for tests of what every client presents."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from streams.brokers.apache import ApacheBroker
from streams.kafka import admin

USER: Final = "campaigns"
_PLAIN: Final = "org.apache.kafka.common.security.plain.PlainLoginModule"
_SCRAM: Final = "org.apache.kafka.common.security.scram.ScramLoginModule"
_STORE_PASSWORD: Final = "changeit"


@contextmanager
def demanding_plain(password: str) -> Iterator[ApacheBroker]:
    """SASL PLAIN, without TLS."""
    properties = {
        "listener.name.client.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.client.plain.sasl.jaas.config": f'{_PLAIN} required user_{USER}="{password}";',
    }
    with ApacheBroker(protocol="SASL_PLAINTEXT", properties=properties) as kafka:
        yield kafka


@contextmanager
def demanding_scram_over_tls(password: str, folder: Path) -> Iterator[ApacheBroker]:
    """SCRAM-SHA-512 over TLS; ``folder/ca.pem`` is the authority to trust, ``folder/other.pem`` another one."""
    store = certificate(folder, "ca")
    certificate(folder, "other")
    properties = {
        "listener.name.client.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.client.scram-sha-512.sasl.jaas.config": f"{_SCRAM} required;",
        "listener.name.client.ssl.keystore.location": str(store),
        "listener.name.client.ssl.keystore.password": _STORE_PASSWORD,
        "listener.name.client.ssl.keystore.type": "PKCS12",
    }
    with ApacheBroker(protocol="SASL_SSL", properties=properties) as kafka:
        _add_scram_user(kafka, password)
        yield kafka


def certificate(folder: Path, name: str) -> Path:
    """A key for 127.0.0.1 that signs itself; the certificate is ``folder/NAME.pem``, what is returned the key store."""
    store = folder / f"{name}.p12"
    common = ["-alias", name, "-keystore", str(store), "-storepass", _STORE_PASSWORD]
    made = ["-keyalg", "RSA", "-validity", "2", "-dname", f"CN={name}", "-ext", "san=ip:127.0.0.1"]
    subprocess.run(["keytool", "-genkeypair", *common, "-storetype", "PKCS12", *made], check=True, capture_output=True)
    exported = ["keytool", "-exportcert", "-rfc", *common, "-file", str(folder / f"{name}.pem")]
    subprocess.run(exported, check=True, capture_output=True)
    return store


def _add_scram_user(kafka: ApacheBroker, password: str) -> None:
    from confluent_kafka.admin import ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

    client = admin.connect({"bootstrap.servers": kafka.internal_bootstrap})
    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    change = UserScramCredentialUpsertion(USER, info, password.encode())
    for future in client.alter_user_scram_credentials([change]).values():
        future.result(30)
