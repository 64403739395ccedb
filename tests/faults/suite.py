"""Faults under load on a stack of its own, and the comparison with a ledger outside: `./mymacro faults`.

The same seed gives the same order of faults and the same batches; what is in flight when one hits is up to the machine.
"""

import asyncio
import logging
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated

import typer
from rich.console import Console

from infra.local.environment import SetupError
from infra.local.instance import Instance, on_free_ports
from infra.local.settings import ROOT
from infra.local.stack import StackError
from services.gateway.receipts import Ids
from tests.faults import small_disks, table, verdict
from tests.faults.cluster import CLUSTER_FAULTS
from tests.faults.door import Door, phone_session
from tests.faults.injections import FAULTS, Fault, Scene, inject
from tests.faults.ledger import Ledger
from tests.faults.load import Load, Mark
from tests.faults.poison import Poison
from tests.faults.supervisor import Exchanged
from tests.faults.verdict import Verdict
from tests.polling import eventually
from tests.running_stack import RunningStack, Stack

# Everything that a sample passes on its way to a partner; photos have tests of their own.
PARTS = "kafka,gateway,auth,ingest,insights,webhooks"
CLUSTER_PARTS = f"{PARTS},redis,inference,nutrition"
USERS = 12
WARM_S = 3.0
CALM_S = 2.0
RECOVERY_S = 120.0
# Consumers that were told "later" come back after 20 s at most.
QUIET_S = 45.0
# What each planted fault is run with: the faults that find it, and whether they need a cluster.
PLANTED: dict[str, tuple[tuple[str, ...], bool]] = {
    "commit-early": (("ingest-killed-while-locked",), False),
    "acks-1": (("leader-lost",), True),
    "no-dedupe": (("gateway-killed",), False),
}
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What is run: each of the faults `only` (all of them when empty) in the seed's order, again until time is up."""

    minutes: float
    seed: int
    only: tuple[str, ...] = ()
    planted: str = ""
    cluster: bool = False

    @property
    def faults(self) -> dict[str, Fault]:
        """Those that there are for such a stack."""
        return CLUSTER_FAULTS if self.cluster else FAULTS

    def exchanged(self) -> Exchanged:
        """The stack's parts for this plan."""
        names = {"ingest": ["page-limit"], "gateway": list[str]()}
        if self.planted:
            for service in ("gateway", "ingest") if self.planted == "acks-1" else ("ingest",):
                names[service].append(self.planted)
        return Exchanged(names)

    def order(self, rng: Random) -> list[str]:
        """One round of faults."""
        wanted = [name for name in self.faults if not self.only or name in self.only]
        return rng.sample(wanted, len(wanted))


def run(plan: Plan, say: Say) -> Verdict:
    """Start a stack, run the plan, compare, and take everything away again.

    Raises:
        StackError: the stack did not start, or a part of it never came back.
    """
    data = ROOT / ".mymacro" / f"faults-{secrets.token_hex(4)}"
    only = CLUSTER_PARTS if plan.cluster else PARTS
    instance = on_free_ports(data, only=only, cluster=plan.cluster, log_level="warning")
    exchanged = plan.exchanged()
    wanted = [disk for name in plan.order(Random(plan.seed)) if (disk := plan.faults[name].disk)]
    disks = small_disks.mount(instance, wanted)
    kept = data.with_suffix(".ledger")
    try:
        with RunningStack(instance, exchanged.program()) as stack:
            found = asyncio.run(_run(plan, stack, exchanged, disks, kept, say))
    finally:
        small_disks.unmount(instance)
        shutil.rmtree(data, ignore_errors=True)
    if found.red:
        say(f"The ledger is kept: {kept}")
    else:
        kept.unlink(missing_ok=True)
    return found


async def _run(
    plan: Plan, stack: Stack, exchanged: Exchanged, disks: dict[str, str], ledger_file: Path, say: Say
) -> Verdict:
    began = time.monotonic()
    rng = Random(plan.seed)
    async with phone_session() as session:
        door = Door(stack.instance.urls("gateway"), session)
        users = await door.sign_up(USERS)
        poison = Poison(stack.bootstrap_servers, _ids(stack.instance), users, Random(plan.seed + 1))
        ledger = Ledger(ledger_file)
        load = Load(door, ledger, Random(plan.seed + 2), users, poison.ask)
        scene = Scene(stack, exchanged, load, ledger, rng, disks)
        poison.start()
        load.start()
        marks, not_run = await _faults(plan, scene, say)
        say("the load ends; waiting until everything is stored")
        await load.finish(QUIET_S)
        await poison.finish()
        found = await _compared(scene, poison, marks, not_run)
    found.seconds = time.monotonic() - began
    return found


def _ids(instance: Instance) -> Ids:
    return Ids(bytes.fromhex((instance.keys / "receipts.key").read_text().strip()))


async def _faults(plan: Plan, scene: Scene, say: Say) -> tuple[list[Mark], dict[str, str]]:
    began = time.monotonic()
    marks: list[Mark] = []
    not_run: dict[str, str] = {}
    await asyncio.sleep(WARM_S)
    while True:
        order = plan.order(scene.rng)
        say(f"the order of faults: {', '.join(order)}")
        for name in order:
            fault = plan.faults[name]
            if reason := fault.hindrance(scene):
                not_run[name] = reason
                continue
            mark = await inject(name, fault, scene)
            marks.append(mark)
            await _recovered(scene.load, mark)
            say(f"{mark.hit_at - began:6.1f} s  {name}: {table.told(mark)}")
            await asyncio.sleep(CALM_S)
        if time.monotonic() - began >= plan.minutes * 60 or len(not_run) == len(order):
            break
    while (left := plan.minutes * 60 - (time.monotonic() - began)) > 0:
        await asyncio.sleep(min(1.0, left))
        scene.load.check()
    return marks, not_run


async def _recovered(load: Load, mark: Mark) -> None:
    def recovered() -> bool:
        load.check()
        return mark.recovered_at is not None

    with suppress(AssertionError):  # the comparison says what is missing
        await eventually(recovered, seconds=RECOVERY_S, every=0.02)


async def _compared(scene: Scene, poison: Poison, marks: Sequence[Mark], not_run: dict[str, str]) -> Verdict:
    ledger, door = scene.ledger, scene.load.door
    rows, others = verdict.rows_of(marks), 0
    for user_id in ledger.users():
        stored = await verdict.stored_rows(door, ledger, user_id)
        verdict.compare(rows, ledger, user_id, stored)
        others += verdict.strangers(ledger, user_id, stored)
    ends = [*(mark.hit_at for mark in marks), scene.load.ended_at]
    for row, end in zip(rows, ends, strict=True):
        row.longest_pause = scene.load.longest_pause(row.mark.hit_at or scene.load.started_at, end)
    found = Verdict(rows, not_run, poison=len(poison.acknowledged))
    found.sent_again = sum(batch.copy_of is not None for batch in ledger.acknowledged())
    found.wrong += [f"{mark.name} hit nothing: no request was in flight" for mark in marks if not mark.in_flight]
    found.wrong += [f"{mark.name}: nothing was stored after it" for mark in marks if mark.recovered_at is None]
    if not any(row.acknowledged for row in rows):
        found.wrong.append("nothing was acknowledged")
    if door.hasty:
        found.wrong.append(f"{door.hasty} answers of 503 do not say when to come back")
    if others:
        found.wrong.append(f"{others} samples are stored that nobody sent")
    found.wrong += verdict.wrong_receipts(ledger)
    found.letters_repeated, said = await verdict.wrong_poison(door, poison, marks, time.time() - time.monotonic())
    found.wrong += said
    if not found.red:
        found.days, said = await verdict.wrong_days(door, ledger)
        found.wrong += said
    return found


def main(
    minutes: Annotated[float, typer.Option(help="How long the load lasts; every fault hits once, however long.")] = 2,
    seed: Annotated[int, typer.Option(help="Order of the faults and content of the batches.")] = 1,
    only: Annotated[list[str] | None, typer.Option(help="Only this fault; may be repeated.")] = None,
    planted: Annotated[str, typer.Option(help=f"Plant a defect: {', '.join(PLANTED)}. The run must end red.")] = "",
    cluster: Annotated[bool, typer.Option("--cluster", help="On three brokers and several of each service.")] = False,
) -> None:
    """Let faults hit a stack under load, and count what was lost or doubled; exit code 1 when anything was."""
    console = Console(width=max(Console().width, 140))
    # That a broker is away is no news here.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    names = tuple(only or ())
    if planted:
        if planted not in PLANTED:
            raise typer.BadParameter(f"there is nothing to plant called {planted!r}; there are {', '.join(PLANTED)}")
        faults, cluster = PLANTED[planted]
        names, minutes = names or faults, min(minutes, 0.5)
    plan = Plan(minutes, seed, names, planted, cluster)
    if unknown := [name for name in names if name not in plan.faults]:
        raise typer.BadParameter(f"there is no fault {unknown[0]!r}; there are {', '.join(plan.faults)}")
    try:
        found = run(plan, lambda text: console.print(text, soft_wrap=True))
    except (StackError, SetupError) as error:
        console.print(f"[red]{error}[/red]", soft_wrap=True)
        raise typer.Exit(1) from error
    table.show(found, console)
    raise typer.Exit(1 if found.red else 0)


if __name__ == "__main__":
    command = typer.Typer(add_completion=False)
    command.command()(main)
    command(prog_name="./mymacro faults")
