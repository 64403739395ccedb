"""Restarting processes one after the other, so that whoever is served by several of each notices nothing."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from infra.local import brokers, control, lock
from infra.local.control import State
from infra.local.instance import CLUSTER, Instance, drain_s, kind_of
from infra.local.stack import StackError

READY_S = 90.0
COPIES_S = 120.0
POLL_S = 0.1
# In this order: what all work on first, the door last.
ORDER = ("kafka", "redis", "triton", "auth", "ingest", "inference", "nutrition", "insights", "webhooks", "gateway")
Say = Callable[[str], None]


def named(state: State, wanted: Sequence[str] = ()) -> list[str]:
    """The processes meant by names (`ingest-2`) and kinds (`ingest`), in order; by none, all that there are several of.

    Raises:
        StackError: there is no such process.
    """
    known = {*state.processes, *state.kinds}
    if unknown := [name for name in wanted if name not in known]:
        raise StackError(f"There is no process {unknown[0]!r}; there are {', '.join(state.processes)}.")
    several = [name for name in state.processes if kind_of(name) in CLUSTER]
    meant = [name for name in state.processes if {name, kind_of(name)} & set(wanted)] if wanted else several
    return sorted(meant, key=lambda name: (ORDER.index(kind_of(name)), name))


def restart(instance: Instance, names: Sequence[str], say: Say, *, patience_s: float = READY_S) -> float:
    """SIGTERM to each process in turn, the next one when it is ready again; returns the seconds it took.

    Before, all others of its kind are ready; before and after a broker's restart all partitions have all their copies.

    Raises:
        StackError: one did not come back within `patience_s`, another of its kind is not ready, copies are lacking, or
            somebody else restarts processes now.
    """
    # The second SIGTERM of two restarts at once would cut the first one's drain short.
    if (held := lock.hold(instance.run, lock.RESTARTS)) is None:
        raise StackError("Another restart is under way; wait for its end.")
    with held:
        return _each(instance, names, say, patience_s)


def _each(instance: Instance, names: Sequence[str], say: Say, patience_s: float) -> float:
    began = time.monotonic()
    for name in names:
        since = time.monotonic()
        broker = kind_of(name) == "kafka"
        if broker:
            whole(instance)
        _others_ready(instance, name, patience_s)
        _once(instance, name, patience_s)
        if broker:
            whole(instance)
        say(f"{name} is back after {time.monotonic() - since:.1f} s")
    return time.monotonic() - began


def _others_ready(instance: Instance, name: str, patience_s: float) -> None:
    """Wait until whoever else there is of this kind is ready to take over."""
    deadline = time.monotonic() + patience_s
    while True:
        processes = _state(instance).processes
        others = [other for other in processes if other != name and kind_of(other) == kind_of(name)]
        away = [other for other in others if processes[other]["state"] != "ready"]
        if not away:
            return
        if time.monotonic() > deadline:
            raise StackError(f"{away[0]} is not ready, so {name} is not ended; see {instance.logs / away[0]}.log.")
        time.sleep(POLL_S)


def _once(instance: Instance, name: str, patience_s: float) -> None:
    ended = _state(instance).pid(name)
    with suppress(ProcessLookupError):
        os.kill(ended, signal.SIGTERM)
    deadline = time.monotonic() + patience_s + drain_s(instance)
    while time.monotonic() < deadline:
        process = _state(instance).processes[name]
        if process["state"] == "ready" and process["pid"] != ended:
            return
        time.sleep(POLL_S)
    raise StackError(f"{name} is not ready {patience_s:.0f} s after it was ended; see {instance.logs / name}.log.")


def whole(instance: Instance) -> None:
    """Wait until every partition has a leader and all its copies.

    Raises:
        StackError: some lack them after 120 s.
    """
    asyncio.run(_whole(instance))


async def _whole(instance: Instance) -> None:
    deadline = time.monotonic() + COPIES_S
    said = "nothing was heard"
    while time.monotonic() < deadline:
        try:
            lacking = await brokers.lacking(instance.bootstrap_servers)
        except brokers.NoAnswer as error:
            said = str(error)
        else:
            if not lacking:
                return
            said = f"{lacking} partitions lack a copy"
        await asyncio.sleep(POLL_S)
    raise StackError(f"The brokers are not whole after {COPIES_S:.0f} s: {said}; nothing more is restarted.")


def _state(instance: Instance) -> State:
    state = control.state(instance)
    if state is None or not control.running(instance):
        raise StackError("The stack is not running; start it with ./mymacro up.")
    return state
