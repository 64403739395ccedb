"""What a run found, for people."""

from collections import Counter

from rich.console import Console
from rich.table import Table

from tests.faults.load import Mark
from tests.faults.verdict import Verdict

TIMES = ("at s", "lasted s", "in flight", "unstored", "again after s", "longest pause s")
COUNTS = ("acknowledged", "stored", "lost", "duplicates")


def told(mark: Mark) -> str:
    """A fault in one line."""
    lasted = mark.healed_at - mark.hit_at
    recovered = "not recovered" if mark.recovered_at is None else f"stored again {_recovery(mark):.1f} s after"
    note = f" ({mark.note})" if mark.note else ""
    return f"{mark.in_flight} requests in flight, lasted {lasted:.1f} s, {recovered}{note}"


def _recovery(mark: Mark) -> float:
    """Seconds from the end of the fault to the next receipt of a batch that was sent after it had hit."""
    return (mark.recovered_at or mark.healed_at) - mark.healed_at


def show(found: Verdict, console: Console) -> None:
    """Print the table, what was not run, and everything that is wrong."""
    drawn = Table(box=None)
    drawn.add_column("fault")
    for title in (*TIMES, *COUNTS):
        drawn.add_column(title, justify="right")
    began = next((row.mark.hit_at for row in found.rows if row.mark.hit_at), 0.0)
    for row in found.rows:
        mark = row.mark
        times = ["", "", "", "", ""]
        if mark.hit_at:
            recovered = "never" if mark.recovered_at is None else f"{_recovery(mark):.1f}"
            lasted = f"{mark.healed_at - mark.hit_at:.1f}"
            times = [f"{mark.hit_at - began:.0f}", lasted, str(mark.in_flight), str(mark.waiting), recovered]
        drawn.add_row(mark.name, *times, f"{row.longest_pause:.1f}", *(f"{getattr(row, name):,}" for name in COUNTS))
    drawn.add_row("all", *[""] * len(TIMES), *(f"{found.total(name):,}" for name in COUNTS))
    console.print(drawn)
    made = Counter(row.mark.name for row in found.rows if row.mark.hit_at)
    console.print(
        f"faults made: {', '.join(f'{name} {count}' for name, count in sorted(made.items())) or 'none'}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"{found.sent_again} batches sent twice and shuffled; {found.poison} poisonous records, "
        f"{found.letters_repeated} dead letters repeated after a crash; {found.days} days compared; "
        f"{found.seconds:.0f} s in all.",
        highlight=False,
        soft_wrap=True,
    )
    for name, reason in found.not_run.items():
        console.print(f"[yellow]not run: {name}: {reason}[/yellow]", soft_wrap=True)
    for sentence in found.wrong:
        console.print(f"[red]{sentence}[/red]", soft_wrap=True)
    counts = f"lost {found.total('lost'):,}, duplicates {found.total('duplicates'):,}"
    console.print(f"[red]RED[/red]: {counts}" if found.red else f"[green]{counts}[/green]", highlight=False)
