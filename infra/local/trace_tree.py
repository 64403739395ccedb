"""Reading the span store: the spans of one trace, as a tree, drawn for people."""

import json
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

POLL_S = 0.05
QUIET_S = 0.5  # longer than the services' export delay of 0.2 s
QUERY = (
    "SELECT trace_id, span_id, parent_id, service, name, start_ns, end_ns, failed, attributes, links"
    " FROM spans WHERE trace_id = ? ORDER BY start_ns, span_id LIMIT 10000"
)


@dataclass(frozen=True)
class Span:
    """One span of the store; times in ns since 1970."""

    trace_id: str
    span_id: str
    parent_id: str
    service: str
    name: str
    start_ns: int
    end_ns: int
    failed: bool
    attributes: dict[str, object]
    links: tuple[str, ...]

    @property
    def ms(self) -> float:
        """How long it took."""
        return (self.end_ns - self.start_ns) / 1e6


@dataclass
class Node:
    """A span and what it caused, in order of time."""

    span: Span
    children: list["Node"] = field(default_factory=list["Node"])
    orphan: bool = False


def spans(store: Path, trace_id: str) -> list[Span]:
    """The spans of a trace, oldest first; empty when the store knows none, or is not there."""
    if not Path(store).exists():
        return []
    connection = sqlite3.connect(store, timeout=5)
    try:
        rows = connection.execute(QUERY, (trace_id.strip().lower(),)).fetchall()
    except sqlite3.OperationalError:
        return []  # a store that has just been made
    finally:
        connection.close()
    return [_span(row) for row in rows]


def _span(row: tuple[Any, ...]) -> Span:
    *known, failed, attributes, links = row
    return Span(*known, failed=bool(failed), attributes=json.loads(attributes), links=tuple(json.loads(links)))


def tree(store: Path, trace_id: str) -> Node | None:
    """The trace from its root; spans whose parent is missing hang under the root, marked as orphans."""
    return arranged(spans(store, trace_id))


def arranged(found: list[Span]) -> Node | None:
    """`found` (oldest first) as a tree; None without spans."""
    if not found:
        return None
    nodes = {span.span_id: Node(span, orphan=bool(span.parent_id)) for span in found}
    beginnings = [node for node in nodes.values() if not node.span.parent_id]
    lost = [node for node in nodes.values() if node.orphan and node.span.parent_id not in nodes]
    root = (beginnings or lost or list(nodes.values()))[0]
    for node in nodes.values():
        parent = nodes.get(node.span.parent_id)
        if parent is not None and node is not root:
            parent.children.append(node)
            node.orphan = False
    root.children.extend(node for node in (*beginnings, *lost) if node is not root)
    _open_circles(root, nodes)
    for _, node in walked(root):
        node.children.sort(key=lambda child: (child.span.start_ns, child.span.span_id))
    return root


def _open_circles(root: Node, nodes: dict[str, Node]) -> None:
    # Only junk makes them; every span must be shown all the same, and once.
    reached = {id(node) for _, node in walked(root)}
    for node in nodes.values():
        if id(node) not in reached:
            nodes[node.span.parent_id].children.remove(node)
            node.orphan = True
            root.children.append(node)
            reached.update(id(below) for _, below in walked(node))


def walked(root: Node, depth: int = 0) -> Iterator[tuple[int, Node]]:
    """Depth and node, parents first, children in order; no recursion, a trace may be a thousand hops deep."""
    waiting = [(depth, root)]
    while waiting:
        level, node = waiting.pop()
        yield level, node
        waiting.extend((level + 1, child) for child in reversed(node.children))


def draw(store: Path, trace_id: str) -> RenderableType:
    """The trace as a table for `rich`: what, indented by cause; duration and beginning in ms; notes."""
    root = tree(store, trace_id)
    if root is None:
        return Text(f"No spans of trace {trace_id} (yet, or any more: they are kept for 24 hours).")
    table = Table(title=f"trace {root.span.trace_id}", title_justify="left", box=None, pad_edge=False)
    table.add_column("service")
    table.add_column("span", overflow="fold")
    table.add_column("ms", justify="right")
    table.add_column("at ms", justify="right")
    table.add_column("")
    for depth, node in walked(root):
        span = node.span
        at_ms = (span.start_ns - root.span.start_ns) / 1e6
        style = "red" if span.failed else None
        table.add_row(
            Text(span.service, "cyan"),
            Text("  " * depth + span.name, style or ""),
            f"{span.ms:,.1f}",
            f"{at_ms:,.1f}",
            Text(", ".join(_notes(node)), style or "dim"),
        )
    return table


def wait_for(store: Path, trace_id: str, services: set[str], seconds: float) -> list[Span]:
    """The spans of a trace once every one of `services` has sent some and nothing has come for half a second. Blocks.

    Raises:
        TimeoutError: not within `seconds`; the message names the services that are missing.
    """
    deadline = time.monotonic() + seconds
    seen, since = -1, time.monotonic()
    while True:
        found = spans(store, trace_id)
        if len(found) != seen:
            seen, since = len(found), time.monotonic()
        missing = services - {span.service for span in found}
        now = time.monotonic()
        if not missing and now - since >= QUIET_S:
            return found
        if now > deadline:
            if not missing:
                return found
            raise TimeoutError(f"no spans of {', '.join(sorted(missing))} in trace {trace_id} within {seconds:g} s")
        time.sleep(POLL_S)


def _notes(node: Node) -> list[str]:
    notes: list[str] = []
    if node.span.failed:
        notes.append(str(node.span.attributes.get("error.type", "failed")))
    status = node.span.attributes.get("http.response.status_code")
    if status is not None:
        notes.append(str(status))
    others = sorted({link for link in node.span.links if link != node.span.trace_id})
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        notes.append(f"also for trace {others[0]}{more}")
    if node.orphan:
        notes.append("its cause has no span here")
    return notes
