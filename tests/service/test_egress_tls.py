"""https means a certificate that verifies, for the name that was registered."""

import datetime
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from services.webhooks.destinations import rules
from services.webhooks.egress import Egress
from tests.service.event_loops import LOOPS, run
from tests.service.raw_receiver import CLOSING, once, receiving

FAILED = "the TLS handshake failed; check the certificate"


def certificate(folder: Path, names: list[x509.GeneralName], days: int = 1) -> Path:
    """A self-signed certificate and its key in one file, good from two days ago for `days` after today."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "receiver")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "receiver.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return path


async def posted(pem: Path, host: str) -> tuple[int | None, str | None]:
    egress = Egress(rules("127.0.0.0/8", ports="*"), resolve=lambda _: ["127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    await egress.open()
    try:
        async with receiving(once(CLOSING % b"204 No Content"), tls=context) as port:
            answer = await egress.post(f"https://{host}:{port}/", {}, b"{}")
    finally:
        await egress.close()
    return answer.status, answer.error


NAMES: list[x509.GeneralName] = [
    x509.DNSName("receiver.example"),
    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("host", ["receiver.example", "Receiver.Example", "127.0.0.1"])
def test_a_certificate_that_verifies_is_delivered_to(
    loop: str, host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pem = certificate(tmp_path, NAMES)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    assert run(loop, lambda: posted(pem, host)) == (204, None)


@pytest.mark.parametrize("loop", LOOPS)
def test_other_certificates_are_refused(loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pem = certificate(tmp_path, NAMES)
    assert run(loop, lambda: posted(pem, "receiver.example")) == (None, FAILED)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    assert run(loop, lambda: posted(pem, "other.example")) == (None, FAILED)
    expired = certificate(tmp_path, NAMES, days=-1)
    assert run(loop, lambda: posted(expired, "receiver.example")) == (None, FAILED)
