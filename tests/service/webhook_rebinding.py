"""Run in a network of its own (`test_webhook_rebinding.py`): a name server that rebinds, and the resolver that asks it.

Prints as JSON how often an address was asked for, what became of each POST, and which addresses got connections.
"""

import asyncio
import json
import socket
import struct
import sys
import threading
from collections import Counter

from services.webhooks.destinations import rules
from services.webhooks.egress import Egress

NAME, PUBLIC, INSIDE = "rebinds.example", "1.1.1.1", "127.0.0.1"
HEADER = struct.Struct("!6H")
QUESTION_TAIL = 4  # type and class
A, IN, ANSWERED = 1, 1, 0x8180
# The name is the question's: a pointer to byte 12. Time to live: 0 s.
RECORD = struct.Struct("!HHHIH")
POINTER = 0xC00C


class NameServer:
    """Answers on UDP port 53 of 127.0.0.1, from a thread: each question for an address gets what `answer` is then."""

    def __init__(self) -> None:
        self.answer = PUBLIC
        self.asked = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((INSIDE, 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            question, whose = self._socket.recvfrom(512)
            self._socket.sendto(self._answered(question), whose)

    def _answered(self, question: bytes) -> bytes:
        end = question.index(b"\0", HEADER.size) + 1 + QUESTION_TAIL
        (kind, _) = struct.unpack("!2H", question[end - QUESTION_TAIL : end])
        records = b""
        if kind == A:
            self.asked += 1
            records = RECORD.pack(POINTER, A, IN, 0, 4) + socket.inet_aton(self.answer)
        head = HEADER.pack(int.from_bytes(question[:2]), ANSWERED, 1, bool(records), 0, 0)
        return head + question[HEADER.size : end] + records


async def post(url: str, allowed: str = "") -> str:
    """What became of one POST under these rules: its status, or why there is none."""
    # The public address is this machine's own here, which would be a reason of its own.
    egress = Egress(rules(allowed, http=True, ports="*"), is_own=lambda _: False)
    await egress.open()
    try:
        answer = await egress.post(url, {}, b"{}")
    finally:
        await egress.close()
    return answer.error or str(answer.status)


async def main() -> None:
    """Ask while the name is public, rebind it, ask again; then once more where that is allowed."""
    reached: Counter[str] = Counter()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached[writer.get_extra_info("sockname")[0]] += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()

    names = NameServer()
    async with await asyncio.start_server(serve, "0.0.0.0", 0) as server:  # noqa: S104 - nobody else is in this network
        url = f"http://{NAME}:{server.sockets[0].getsockname()[1]}/"
        await Egress(rules("", http=True, ports="*"), is_own=lambda _: False).check_url(url)
        outcomes = [await post(url)]
        names.answer = INSIDE
        outcomes.append(await post(url))
        outcomes.append(await post(url, allowed="127.0.0.0/8"))
    sys.stdout.write(json.dumps({"asked": names.asked, "outcomes": outcomes, "reached": reached}))


if __name__ == "__main__":
    asyncio.run(main())
