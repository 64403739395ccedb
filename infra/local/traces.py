"""The span store of one machine: an OTLP receiver inside the supervisor that writes into a SQLite file.

It takes protobuf (our services) and JSON (Triton), plain or gzip. It is bounded everywhere: body, queue, age (24 h) and
size (1 GB); what does not fit is refused or dropped and counted, never an error of the sender's business.
"""

import contextlib
import json
import logging
import queue
import sqlite3
import threading
import time
import zlib
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

from google.protobuf.message import DecodeError

from infra.local.otlp import SpanRow, from_json, from_protobuf
from infra.local.trace_tree import Node, Span, draw, spans, tree, wait_for

__all__ = ["Node", "Receiver", "Span", "draw", "spans", "tree", "wait_for"]

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_PLAIN_BYTES = 64 * 1024 * 1024
MAX_WAITING_BATCHES = 2000
MAX_ROWS = 20_000
MAX_AGE_S = 24 * 60 * 60
MAX_STORE_BYTES = 1_000_000_000
MAX_CONNECTIONS = 64
IDLE_S = 120
PRUNE_EVERY_S = 60
GATHER_S = 0.05  # spans of one trace come from several services; one transaction for all that arrive meanwhile

SCHEMA = """
CREATE TABLE IF NOT EXISTS spans (
    trace_id TEXT NOT NULL, span_id TEXT NOT NULL, parent_id TEXT NOT NULL, service TEXT NOT NULL, name TEXT NOT NULL,
    kind INTEGER NOT NULL, start_ns INTEGER NOT NULL, end_ns INTEGER NOT NULL, failed INTEGER NOT NULL,
    attributes TEXT NOT NULL, links TEXT NOT NULL, received_at INTEGER NOT NULL,
    PRIMARY KEY (trace_id, span_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS spans_by_age ON spans (received_at);
"""
INSERT = "INSERT OR REPLACE INTO spans VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


class Refused(Exception):
    """A request that is not taken: its status and why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass
class Counts:
    """What became of the spans."""

    stored: int = 0
    dropped: int = 0
    junk: int = 0


@dataclass
class Receiver:
    """`start()` listens on host:port (0: any free one, see `port`) and writes to `store_path`; `stop()` ends both.

    Raises:
        OSError: on `start`, the port is taken or the folder can't be written.
    """

    store_path: Path
    host: str = "127.0.0.1"
    port: int = 8130
    max_age_s: float = MAX_AGE_S
    max_bytes: int = MAX_STORE_BYTES
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        self._waiting: queue.Queue[list[SpanRow] | None] = queue.Queue(MAX_WAITING_BATCHES)
        self._server: _Server | None = None
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Open the store, bind the port, return."""
        Path(self.store_path).parent.mkdir(parents=True, exist_ok=True)
        _opened(self.store_path).close()
        self._server = _Server((self.host, self.port), self)
        self.port = self._server.server_address[1]
        for work, wake_s in ((self._server.serve_forever, (0.1,)), (self._write, ())):
            thread = threading.Thread(target=work, args=wake_s, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Stop listening and write what has arrived."""
        if self._server is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._waiting.put(None)
        for thread in self._threads:
            thread.join(5)
        self._server, self._threads = None, []

    def take(self, body: bytes, content_type: str, encoding: str) -> None:
        """Queue the spans of one OTLP request.

        Raises:
            Refused: unreadable, too big, or the queue is full.
        """
        try:
            plain = _inflated(body, encoding)
            rows = from_json(plain) if "json" in content_type else from_protobuf(plain)
        except (DecodeError, ValueError, TypeError, AttributeError, KeyError, zlib.error, RecursionError) as error:
            self.counts.junk += 1
            raise Refused(400, "not an OTLP trace request") from error
        try:
            self._waiting.put_nowait(rows)
        except queue.Full:
            self.counts.dropped += len(rows)
            raise Refused(503, "too many spans") from None

    def _write(self) -> None:
        store = _opened(self.store_path)
        prune_at = 0.0
        ended = False
        while not ended:
            rows, ended = self._gathered()
            try:
                if rows:
                    _insert(store, rows)
                    self.counts.stored += len(rows)
                if time.monotonic() >= prune_at:
                    prune(store, self.max_age_s, self.max_bytes)
                    prune_at = time.monotonic() + PRUNE_EVERY_S
            except sqlite3.Error as error:
                self.counts.dropped += len(rows)
                logger.warning("the span store does not take spans: %s", error)
                with contextlib.suppress(sqlite3.Error):
                    store.rollback()
        store.close()

    def _gathered(self) -> tuple[list[SpanRow], bool]:
        """What arrived within a moment, and whether it was the last; empty when a minute passed without any."""
        rows: list[SpanRow] = []
        wait_s: float = PRUNE_EVERY_S
        until = 0.0
        while wait_s > 0 and len(rows) < MAX_ROWS:
            try:
                batch = self._waiting.get(timeout=wait_s)
            except queue.Empty:
                break
            if batch is None:
                return rows, True
            rows.extend(batch)
            until = until or time.monotonic() + GATHER_S
            wait_s = until - time.monotonic()
        return rows, False


def prune(store: sqlite3.Connection, max_age_s: float, max_bytes: int) -> None:
    """Forget spans older than `max_age_s`, then the oldest tenth as often as the store is above `max_bytes`."""
    store.execute("DELETE FROM spans WHERE received_at < ?", (int(time.time() - max_age_s),))
    store.commit()
    while _used_bytes(store) > max_bytes:
        count = store.execute("SELECT COUNT(*) FROM spans").fetchone()[0]
        if count == 0:
            break
        oldest = "SELECT trace_id, span_id FROM spans ORDER BY received_at LIMIT ?"
        store.execute(f"DELETE FROM spans WHERE (trace_id, span_id) IN ({oldest})", (count // 10 + 1,))  # noqa: S608 - a constant query, values are bound
        store.commit()
    store.execute("PRAGMA incremental_vacuum").fetchall()
    store.commit()


def _used_bytes(store: sqlite3.Connection) -> int:
    counts = "SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, pragma_freelist_count"
    return store.execute(f"{counts}, pragma_page_size").fetchone()[0]


def _insert(store: sqlite3.Connection, rows: list[SpanRow]) -> None:
    now = int(time.time())
    store.executemany(INSERT, [(*row, now) for row in rows])
    store.commit()


def _opened(path: Path) -> sqlite3.Connection:
    try:
        return _connected(path)
    except sqlite3.DatabaseError as error:
        # Traces are not worth a stack that doesn't start: a broken file is put aside.
        if isinstance(error, sqlite3.OperationalError):
            raise OSError(f"the span store {path} can't be opened: {error}") from error
        logger.warning("the span store was unreadable and begins anew")
        Path(path).replace(f"{path}.broken")
        for suffix in ("-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        return _connected(path)


def _connected(path: Path) -> sqlite3.Connection:
    store = sqlite3.connect(path, timeout=5)
    try:
        store.execute("PRAGMA auto_vacuum = INCREMENTAL")
        store.execute("PRAGMA journal_mode = WAL")
        store.execute("PRAGMA synchronous = OFF")
        store.executescript(SCHEMA)
    except BaseException:
        store.close()
        raise
    return store


def _inflated(body: bytes, encoding: str) -> bytes:
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        raise ValueError("unknown content encoding")
    # 47 takes both the gzip and the zlib header.
    stream = zlib.decompressobj(47)
    plain = stream.decompress(body, MAX_PLAIN_BYTES)
    if stream.unconsumed_tail:
        raise ValueError("too big when unpacked")
    return plain


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], receiver: Receiver) -> None:
        self.receiver = receiver
        self.free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self.free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.free.release()

    def handle_error(self, request: Any, client_address: Any) -> None: ...


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S

    def do_GET(self) -> None:
        """Whether the receiver is there."""
        self._answer(200 if self.path == "/livez" else 404, b"")

    def do_POST(self) -> None:
        """Take one OTLP request."""
        receiver = cast(_Server, self.server).receiver
        content_type = self.headers.get("content-type", "")
        try:
            body = self._body()
            receiver.take(body, content_type, self.headers.get("content-encoding", "").lower())
        except Refused as refusal:
            self._answer(refusal.status, json.dumps({"message": str(refusal)}).encode())
        else:
            self._answer(200, b"{}" if "json" in content_type else b"", content_type)

    def _body(self) -> bytes:
        length = self.headers.get("content-length", "")
        if not length.isdigit():
            self.close_connection = True
            raise Refused(411, "a Content-Length is needed")
        if int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            raise Refused(413, "at most 16 MiB")
        body = self.rfile.read(int(length))
        if self.path != "/v1/traces":
            raise Refused(404, "only /v1/traces")
        return body

    def _answer(self, status: int, body: bytes, content_type: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...
