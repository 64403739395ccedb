"""Letters to users: over SMTP where the operator set a server, else as files that a developer reads."""

import asyncio
import logging
import smtplib
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from shared.cancelling import together
from shared.errors import Unavailable
from shared.redaction import whereabouts

logger = logging.getLogger(__name__)

TIMEOUT_S = 10.0
SENDERS = 4
PORTS = {"smtp": 587, "smtps": 465}


@dataclass(frozen=True)
class Letter:
    """A letter in plain text."""

    to: str
    subject: str
    text: str


class Mail(Protocol):
    """Where letters go."""

    async def send(self, letter: Letter) -> None:
        """Returns when it was handed over. Raises `Unavailable("mail")`."""
        ...


@dataclass(frozen=True)
class FileMail:
    """Writes each letter into a folder, readable by its owner alone."""

    folder: Path
    sender: str

    async def send(self, letter: Letter) -> None:
        """As in the protocol."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = self.folder / f"{uuid4().hex}.eml"
            path.touch(mode=0o600)
            path.write_bytes(_message(letter, self.sender).as_bytes())
        except OSError as error:
            raise Unavailable("mail") from error


@dataclass(frozen=True)
class SmtpMail:
    """Hands letters to a server, always over TLS: smtps:// from the start, smtp:// by STARTTLS."""

    url: str
    sender: str

    async def send(self, letter: Letter) -> None:
        """As in the protocol."""
        await asyncio.to_thread(self._send, letter)

    def _send(self, letter: Letter) -> None:
        url = urlsplit(self.url)
        host, port = url.hostname or "", url.port or PORTS[url.scheme]
        context = ssl.create_default_context()
        try:
            if url.scheme == "smtps":
                server = smtplib.SMTP_SSL(host, port, timeout=TIMEOUT_S, context=context)
            else:
                server = smtplib.SMTP(host, port, timeout=TIMEOUT_S)
            with server:
                if url.scheme == "smtp":
                    server.starttls(context=context)
                if url.username is not None:
                    server.login(unquote(url.username), unquote(url.password or ""))
                # Whatever `To` reads as, it goes to this one address.
                server.send_message(_message(letter, self.sender), to_addrs=[letter.to])
        except (OSError, smtplib.SMTPException) as error:
            if isinstance(error, smtplib.SMTPAuthenticationError):
                logger.error("the mail server refuses the user or the password in AUTH_SMTP_URL")
            raise Unavailable("mail") from error


def _message(letter: Letter, sender: str) -> EmailMessage:
    message = EmailMessage(policy=SMTP)
    message["From"] = sender
    message["To"] = letter.to
    message["Subject"] = letter.subject
    message.set_content(letter.text)
    return message


Work = Callable[[], Awaitable[None]]


class Post:
    """Writes and sends letters after the request has been answered, so that its time tells nothing of what they say.

    What waits is in memory alone, because letters hold tokens: a restart drops it, and users ask again.
    """

    def __init__(self, *, most: int = 1000, pauses_s: Sequence[float] = (1, 5, 30)) -> None:
        self._queue: asyncio.Queue[Work] = asyncio.Queue(most)
        self._pauses_s = tuple(pauses_s)

    def later(self, work: Work) -> bool:
        """Do `work` soon, again a few times when it raises `Unavailable`; False when too much waits already."""
        if self._queue.full():
            return False
        self._queue.put_nowait(work)
        return True

    async def run(self) -> None:
        """Work until cancelled, on four letters at a time: a mail server may take seconds."""
        await together(*(self._send() for _ in range(SENDERS)))

    async def _send(self) -> None:
        while True:
            work = await self._queue.get()
            try:
                await self._tried(work)
            except Exception as error:
                logger.error("a letter is dropped: %s", whereabouts(error))

    async def _tried(self, work: Work) -> None:
        for pause_s in self._pauses_s:
            try:
                return await work()
            except Unavailable as error:
                logger.warning("a letter waits: %s", error)
                await asyncio.sleep(pause_s)
        return await work()
