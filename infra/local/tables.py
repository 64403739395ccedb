"""Tables of the command line. An id is never broken: it is there to be copied, and to be read by other programs."""

from collections.abc import Collection, Iterable, Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from infra.local.dead_letters import printable

# Wider than any table: to measure one as it is without wrapping.
ANY_WIDTH = 1_000_000
CELL_CHARS = 4_000


def listed(console: Console, titles: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[str] = ()) -> None:
    """Print a line for each row; on a terminal that is too narrow for that, a block for each, a line for each cell."""
    kept = [tuple(row) for row in rows]
    if fits(console, titles, kept):
        _whole(console, _lines(titles, kept, right))
        return
    for number, row in enumerate(kept):
        if number:
            console.print()
        facts(console, [(title, cell) for title, cell in zip(titles, row, strict=True) if cell])


def fits(console: Console, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Whether a line for each row can be read there: where nobody looks, every line can."""
    return not console.is_terminal or _width(console, _lines(titles, rows)) <= console.width


def _lines(titles: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()) -> Table:
    table = Table(box=None)
    for title in titles:
        table.add_column(title, justify="right" if title in right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(_text(cell) for cell in row))
    return table


def facts(console: Console, rows: Iterable[tuple[str, str]]) -> None:
    """Print names and their values; on a terminal values wrap between words."""
    kept = list(rows)
    longest = max((len(word) for _, value in kept for word in value.split()), default=1)
    table = Table(box=None, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(min_width=min(longest, CELL_CHARS))
    for title, value in kept:
        table.add_row(_text(title), _text(value))
    if console.is_terminal:
        console.print(table, crop=False)
    else:
        _whole(console, table)


def _text(cell: str) -> Text:
    # As Text: what others wrote is no markup of ours.
    return Text(printable(cell, CELL_CHARS))


def _whole(console: Console, table: Table) -> None:
    table.width = _width(console, table)
    console.print(table, crop=False)


def _width(console: Console, table: Table) -> int:
    return Measurement.get(console, console.options.update(max_width=ANY_WIDTH), table).maximum
