"""How every client gets into Kafka: over TLS or not, with a user's password or without."""

import ssl
from typing import Any

from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512

from shared.settings import ServiceSettings, reading

KINDS = {"PLAIN": SASLPlaintext, "SCRAM-SHA-256": SASLScram256, "SCRAM-SHA-512": SASLScram512}


def client_arguments(settings: ServiceSettings) -> dict[str, Any]:
    """Arguments for a client of aiokafka's; none for a Kafka that lets everybody in.

    Raises:
        ValueError: the file of KAFKA_SSL_CA_PATH holds no certificates that can be read.
    """
    protocol = settings.kafka_security_protocol
    found: dict[str, Any] = {}
    if protocol != "PLAINTEXT":
        found["security_protocol"] = protocol
    if protocol.endswith("SSL"):
        found["ssl_context"] = _tls(settings)
    if protocol.startswith("SASL"):
        found["sasl_mechanism"] = settings.kafka_sasl_mechanism
        found["sasl_plain_username"] = settings.kafka_sasl_username
        found["sasl_plain_password"] = settings.kafka_sasl_password.get_secret_value()
    return found


def security(settings: ServiceSettings) -> BaseSecurity | None:
    """The same for FastStream. Raises ValueError as `client_arguments`."""
    protocol = settings.kafka_security_protocol
    if protocol == "PLAINTEXT":
        return None
    context = _tls(settings) if protocol.endswith("SSL") else None
    if protocol == "SSL":
        return BaseSecurity(ssl_context=context, use_ssl=True)
    return KINDS[settings.kafka_sasl_mechanism](
        username=settings.kafka_sasl_username,
        password=settings.kafka_sasl_password.get_secret_value(),
        ssl_context=context,
        use_ssl=context is not None,
    )


def _tls(settings: ServiceSettings) -> ssl.SSLContext:
    with reading("KAFKA_SSL_CA_PATH", "name a file of certificates (PEM) that this account may read"):
        return ssl.create_default_context(cafile=settings.kafka_ssl_ca_path)
