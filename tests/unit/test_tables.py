"""Tables of the command line: ids stay whole, in a pipe and on a narrow terminal."""

import io

import pytest
from rich.console import Console

from infra.local import state_shown, tables
from infra.local.control import State

IDS = ["ptn_" + "0123456789abcdef" * 3, "ptn_" + "fedcba9876543210" * 3]
TITLES = ("partner", "name", "state", "registered")
ROWS = [(one, "Oat & Co, who have a long name", "pending", "2026-03-01 08:00") for one in IDS]


def printed(rows: list[tuple[str, ...]], *, terminal: bool, width: int = 80) -> list[str]:
    out = io.StringIO()
    tables.listed(Console(file=out, force_terminal=terminal, no_color=True, width=width), TITLES, rows)
    return out.getvalue().splitlines()


def test_in_a_pipe_each_row_is_one_line() -> None:
    lines = printed(ROWS, terminal=False)
    assert len(lines) == 3
    for one, line in zip(IDS, lines[1:], strict=True):
        assert one in line
        assert line.rstrip().endswith("2026-03-01 08:00")


@pytest.mark.parametrize("width", [60, 80])
def test_on_a_narrow_terminal_each_cell_has_a_line(width: int) -> None:
    lines = printed(ROWS, terminal=True, width=width)
    assert len([line for line in lines if any(one in line for one in IDS)]) == 2
    assert len(lines) == 2 * len(TITLES) + 1


def test_on_a_wide_terminal_it_is_a_table() -> None:
    lines = printed(ROWS, terminal=True, width=160)
    assert len(lines) == 3
    assert IDS[0] in lines[1]


@pytest.mark.parametrize("terminal", [True, False])
def test_facts_keep_ids_whole_and_others_markup_as_text(terminal: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, no_color=True, width=80)
    tables.facts(console, [("partner", IDS[0]), ("name", "[red]not ours[/red]"), ("scopes", "days:read " * 30)])
    lines = out.getvalue().splitlines()
    assert any(IDS[0] in line for line in lines)
    assert any("[red]not ours[/red]" in line for line in lines)
    assert (len(lines) == 3) is not terminal


def test_without_a_gateway_no_address_is_named() -> None:
    def state(*names: str) -> State:
        running = {name: {"port": 19092, "state": "ready"} for name in names}
        return State(1, "ready", "", [], 0.0, 1.0, "http://127.0.0.1:8080", {}, running)

    assert state_shown.where(state("kafka"), "http://x") == "kafka on port 19092 (no gateway, so there is no API)"
    assert state_shown.where(state("kafka", "gateway"), "http://x") == "http://x"


def shown(width: int) -> str:
    about = {"pid": None, "port": 8102, "state": "ready", "restarts": 0, "last_end": ""}
    state = State(0, "ready", "", [], 0.0, 1.0, "", {}, {"ingest-1": about, "ingest-2": about, "redis": about})
    readers = {"ingest-2": "batches 1,4,7,10  users 1", "ingest-1": "batches 0,3,6,9  users 0"}
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system=None, width=width)
    state_shown.show(console, state, readers)
    return out.getvalue()


def test_where_there_is_room_a_process_and_what_it_reads_are_one_line() -> None:
    (line,) = [line for line in shown(160).splitlines() if "ingest-2" in line]
    assert "8102" in line
    assert "batches 1,4,7,10  users 1" in line


def test_where_there_is_none_the_readers_follow_behind_the_processes() -> None:
    about, _, behind = shown(75).partition("partitions read by")
    assert "batches" not in about
    assert "8102" in next(line for line in about.splitlines() if "ingest-1" in line)
    lines = behind.split("\n")
    assert [line.split()[:2] for line in lines if line.strip()] == [["ingest-1", "batches"], ["ingest-2", "batches"]]
