"""Letters: files that only their owner reads, SMTP only over TLS, and a queue that forgives a mail server."""

import asyncio
import logging
import smtplib
import ssl
import stat
from email import message_from_bytes
from email.policy import SMTP
from pathlib import Path

import pytest
from cryptography import x509

from services.auth.mail import FileMail, Letter, Post, SmtpMail
from services.auth.settings import Settings
from shared.errors import Unavailable
from tests.polling import eventually
from tests.service.test_egress_tls import certificate

LETTER = Letter("ada@example.org", "Subject", "Text")


async def test_a_letter_becomes_a_file_of_its_owners(tmp_path: Path) -> None:
    folder = tmp_path / "mail"
    await FileMail(folder, "us@example.org").send(LETTER)
    (file,) = folder.glob("*.eml")
    assert b"To: ada@example.org" in file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_an_address_cannot_add_headers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"newline|linefeed"):
        await FileMail(tmp_path, "us@example.org").send(Letter("a@example.org\nBcc: eve@example.org", "s", "t"))


async def test_a_server_without_tls_gets_no_letter() -> None:
    said: list[bytes] = []

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 plain\r\n")
        while line := await reader.readline():
            said.append(line)
            writer.write(b"250 plain\r\n" if line.lower().startswith(b"ehlo") else b"500 no\r\n")
        writer.close()

    listening = await asyncio.start_server(server, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with listening:
        with pytest.raises(Unavailable):
            await SmtpMail(f"smtp://user:secret@127.0.0.1:{port}", "us@example.org").send(LETTER)
    assert said
    assert not any(b"AUTH" in line or b"MAIL" in line or b"secret" in line for line in said)


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        await SmtpMail("smtps://127.0.0.1:9", "us@example.org").send(LETTER)


async def test_a_wrong_password_is_said_by_the_settings_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pem = certificate(tmp_path, [x509.DNSName("localhost")])
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    answers = {b"EHLO": b"250-us\r\n250 AUTH PLAIN\r\n", b"AUTH": b"535 5.7.8 no, ada\r\n"}

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 us\r\n")
        while line := await reader.readline():
            writer.write(answers.get(line[:4].upper(), b"221 bye\r\n"))
        writer.close()

    listening = await asyncio.start_server(server, "127.0.0.1", 0, ssl=context)
    port = listening.sockets[0].getsockname()[1]
    async with listening:
        with pytest.raises(Unavailable):
            await SmtpMail(f"smtps://ada:difference-engine@localhost:{port}", "us@example.org").send(LETTER)
    (said,) = [entry for entry in caplog.records if entry.levelno == logging.ERROR]
    assert said.getMessage() == "the mail server refuses the user or the password in AUTH_SMTP_URL"
    assert not any(word in caplog.text for word in ("ada", "difference-engine"))


@pytest.mark.parametrize("url", ["http://x", "mail.example.org"])
def test_only_mail_servers_are_set(url: str) -> None:
    with pytest.raises(ValueError, match="smtp://"):
        Settings(auth_smtp_url=url)


@pytest.mark.parametrize(
    "sender",
    [
        "",
        "nobody",
        "us@",
        "a@[",
        '"us.@[',
        "us@münchen.example",
        "us@a.example, us@b.example",
        "us@a.example\r\nBcc: x@y.z",
    ],
)
def test_what_is_no_senders_address_is_refused(sender: str) -> None:
    with pytest.raises(ValueError, match="write an address such as"):
        Settings(auth_mail_from=sender)


@pytest.mark.parametrize(
    ("sender", "address"),
    [
        ("us@localhost", "us@localhost"),
        ("Oat Inc. <us@oat.example>", "us@oat.example"),
        ('"Oat, Inc." <us@oat.example>', "us@oat.example"),
        ("Jürgen <j@oat.example>", "j@oat.example"),
    ],
)
async def test_letters_are_from_whoever_is_set(sender: str, address: str, tmp_path: Path) -> None:
    await FileMail(tmp_path, Settings(auth_mail_from=sender).auth_mail_from).send(LETTER)
    (file,) = tmp_path.glob("*.eml")
    (written,) = message_from_bytes(file.read_bytes(), policy=SMTP)["From"].addresses
    assert (written.addr_spec, written.display_name in sender) == (address, True)


async def test_letters_are_tried_again_and_a_defect_stops_none_behind_it() -> None:
    post, tries, done = Post(pauses_s=(0, 0)), [0], [0]

    async def third_time() -> None:
        tries[0] += 1
        if tries[0] < 3:
            raise Unavailable("mail")
        done[0] += 1

    async def defect() -> None:
        raise smtplib.SMTPServerDisconnected

    async def away() -> None:
        raise Unavailable("mail")

    async def last() -> None:
        done[0] += 1

    running = asyncio.create_task(post.run())
    assert all(post.later(work) for work in (defect, defect, defect, defect, away, third_time, last))
    await eventually(lambda: done[0] == 2)
    assert tries == [3]
    running.cancel()


async def test_too_many_letters_are_refused() -> None:
    post = Post(most=2)

    async def work() -> None:
        return

    assert [post.later(work) for _ in range(3)] == [True, True, False]
