"""Which key S3 is shown, and to whom: not another one of this machine's, to nobody in the clear or unknown to us."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509

from shared.errors import Unavailable
from shared.objects import Objects
from shared.s3_objects import S3Access
from tests.contract import fake_s3
from tests.contract.fake_s3 import BUCKET, KEY_ID, SECRET, FakeS3
from tests.service.test_egress_tls import certificate

KEY = "inference/u1/" + "a" * 64
URL = f"s3://{BUCKET}/prefix"


@pytest.fixture
async def server() -> AsyncIterator[FakeS3]:
    async with fake_s3.serving() as one:
        yield one


async def test_the_variables_of_aws_lead_to_no_other_key_and_to_no_plain_http(
    server: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-another-key")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
    await Objects(URL, server.access).put(KEY, b"x")
    assert "x-amz-security-token" not in server.requests[0].headers
    assert list(server.objects) == [f"prefix/{KEY}"]
    monkeypatch.setenv("AWS_ENDPOINT", server.access.endpoint)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    with pytest.raises(Unavailable):
        await Objects(URL, replace(server.access, endpoint="")).put(KEY, b"y")
    assert len(server.requests) == 1


async def test_a_machine_without_key_and_role_is_told_which_setting_it_lacks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(Unavailable):
        await Objects(URL).get(KEY)
    assert "AWS's S3 needs OBJECTS_S3_ACCESS_KEY_ID" in caplog.text


async def test_a_certificate_of_nobody_we_know_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path, [x509.DNSName("localhost")]))
    heard: list[bytes] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read())
        writer.close()

    async with await asyncio.start_server(hear, "127.0.0.1", 0, ssl=context) as stranger:
        port = stranger.sockets[0].getsockname()[1]
        objects = Objects(URL, S3Access(f"https://localhost:{port}", "us-east-1", KEY_ID, SECRET))
        with pytest.raises(Unavailable):
            await objects.put(KEY, b"x")
    assert "shows a certificate that this machine does not trust" in caplog.text
    assert not heard
