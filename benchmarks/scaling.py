"""What a number of active users needs, from the measured costs, and a simulation that checks the arithmetic.

`./mymacro bench scaling` prints the plan of docs/scaling.md. The arithmetic multiplies means by a peak factor and
leaves room; the simulation sends single requests of single users at that peak through partitions and instances, whose
queues the arithmetic knows nothing of: users of one partition wait for one another, and partitions are not equally
full.
"""

import heapq
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks import measure
from shared.topics import HOT_PARTITIONS

DAY_S = 86_400
SEED = 1


@dataclass(frozen=True)
class Habits:
    """What an active user does in a day. Assumptions: replace them by what your own users do."""

    posts: int = 30  # of a phone that syncs every half hour of a waking day, and at once when it is opened
    samples_a_post: int = 80
    streaming: float = 0.1  # of the users, an hour a day, one sample every 5 s
    streamed_posts: int = 720
    reads: int = 30
    deliveries_a_post: int = 1  # one partner that hears of every changed day
    photos: int = 1
    online: float = 0.05  # of the users hold a live stream at the busiest moment
    peak: float = 3.0  # the busiest minutes against the mean of the day


@dataclass(frozen=True)
class Costs:
    """Microseconds of CPU on the measured machine (docs/benchmarks.md says which), a request or a sample.

    The fixed parts are those of a POST of one sample, the others those of batches of 1,000: together they give 1.6 ms
    for a POST of 100, where 1.9 were measured, and 6.3 for one of 1,000, where 5.2 were.
    """

    post: tuple[tuple[str, float], ...] = (
        ("gateway", 295),
        ("ingest", 471),
        ("webhooks", 185),
        ("insights", 36),
        ("kafka", 93),
    )
    sample: tuple[tuple[str, float], ...] = (("gateway", 2.3), ("ingest", 1.5), ("webhooks", 0.3), ("kafka", 0.8))
    # Summaries of days, points, explanations: 5 to 8 ms until the client has them.
    read: tuple[tuple[str, float], ...] = (("gateway", 1_000), ("ingest", 4_000))
    delivery: tuple[tuple[str, float], ...] = (("webhooks", 300),)
    photo: tuple[tuple[str, float], ...] = (("gateway", 2_000), ("inference", 5_000), ("triton", 860_000))
    stream_bytes: int = 27 * 1024
    stored_bytes_a_sample: int = 25
    stored_bytes_a_receipt: int = 375
    stored_bytes_a_message: int = 1_000  # with its deliveries
    messages_kept_days: int = 30
    written_bytes_a_post: int = 26_800


# Instances work up to here at the peak; the rest is for restarts, catching up and a busy neighbour.
FULL = 0.6
PARTS = ("gateway", "ingest", "insights", "webhooks", "inference", "triton", "kafka")
# One process has one event loop; Kafka and Triton use all cores they get.
SPREAD = ("kafka", "triton")
LEAST_INSTANCES = 2
LATE_MS = 150


@dataclass(frozen=True)
class Plan:
    """What so many active users need at the peak. `cores` are busy ones, `instances` processes that share them."""

    users: int
    posts_per_s: float
    samples_per_s: float
    reads_per_s: float
    cores: dict[str, float]
    instances: dict[str, int]
    live_mib: float
    grows_gb_a_year: float
    messages_gb: float
    written_mb_per_s: float

    @property
    def machines_cores(self) -> int:
        """Cores to buy: the busy ones with room left."""
        return math.ceil(sum(self.cores.values()) / FULL)


def plan(users: int, habits: Habits = Habits(), costs: Costs = Costs()) -> Plan:
    """The arithmetic, for `users` active ones."""
    per_s = users * habits.peak / DAY_S
    synced, streamed = per_s * habits.posts, per_s * habits.streaming * habits.streamed_posts
    posts, samples = synced + streamed, synced * habits.samples_a_post + streamed
    rates = (
        (costs.post, posts),
        (costs.sample, samples),
        (costs.read, per_s * habits.reads),
        (costs.delivery, posts * habits.deliveries_a_post),
        (costs.photo, per_s * habits.photos),
    )
    cores = dict.fromkeys(PARTS, 0.0)
    for parts, rate in rates:
        for part, us in parts:
            cores[part] += us * rate / 1e6
    a_day = habits.posts * habits.samples_a_post + habits.streaming * habits.streamed_posts
    posts_a_day = habits.posts + habits.streaming * habits.streamed_posts
    a_year = 365 * (costs.stored_bytes_a_sample * a_day + costs.stored_bytes_a_receipt * posts_a_day)
    messages = costs.messages_kept_days * costs.stored_bytes_a_message * posts_a_day
    return Plan(
        users=users,
        posts_per_s=posts,
        samples_per_s=samples,
        reads_per_s=per_s * habits.reads,
        cores=cores,
        instances={
            part: max(LEAST_INSTANCES, math.ceil(busy / FULL)) for part, busy in cores.items() if part not in SPREAD
        },
        live_mib=users * habits.online * costs.stream_bytes / 2**20,
        grows_gb_a_year=users * a_year / 1e9,
        messages_gb=users * messages / 1e9,
        written_mb_per_s=posts * costs.written_bytes_a_post / 1e6,
    )


@dataclass(frozen=True)
class Simulated:
    """What the simulation saw in ingest: how busy the busiest instance was, and how long samples waited, ms."""

    busiest: float
    p50_ms: float
    p99_ms: float


def simulate(of: Plan, instances: int, seconds: float = 120.0, costs: Costs = Costs()) -> Simulated:
    """The plan's POSTs through `instances` of ingest, each a queue for the partitions that it holds.

    Users post at their own random times; a user is always in the same partition, partitions go round the instances.
    """
    chance = random.Random(SEED)
    free_at, busy, waited = [0.0] * instances, [0.0] * instances, list[float]()
    a_post = of.samples_per_s / of.posts_per_s
    service_s = (dict(costs.post)["ingest"] + dict(costs.sample)["ingest"] * a_post) / 1e6
    read_s = dict(costs.read)["ingest"] / 1e6
    for at, user in _arrivals(chance, of.posts_per_s, of.users, seconds):
        one = user % HOT_PARTITIONS % instances
        begins = max(at, free_at[one])
        free_at[one], busy[one] = begins + service_s, busy[one] + service_s
        waited.append((free_at[one] - at) * 1000)
        # Reads go to any instance and stand in the same event loop.
        if chance.random() < of.reads_per_s / of.posts_per_s:
            other = chance.randrange(instances)
            free_at[other], busy[other] = max(at, free_at[other]) + read_s, busy[other] + read_s
    waited.sort()
    return Simulated(max(busy) / seconds, waited[len(waited) // 2], waited[int(len(waited) * 0.99)])


def _arrivals(chance: random.Random, per_s: float, users: int, seconds: float) -> Iterator[tuple[float, int]]:
    """(second, user): users whose next POST comes after a random time of its own, in order of time."""
    each = users / per_s
    queue = [(chance.expovariate(1 / each), user) for user in range(users)]
    heapq.heapify(queue)
    while queue[0][0] < seconds:
        at, user = queue[0]
        yield at, user
        heapq.heapreplace(queue, (at + chance.expovariate(1 / each), user))


USERS = (1_000, 10_000, 100_000)


def table(plans: list[Plan]) -> str:
    """The plans side by side, as in docs/scaling.md."""
    rows = [
        ("POSTs a second at the peak", [f"{one.posts_per_s:.1f}" for one in plans]),
        ("samples a second", [f"{one.samples_per_s:,.0f}" for one in plans]),
        ("reads a second", [f"{one.reads_per_s:.1f}" for one in plans]),
        *((f"busy cores: {part}", [f"{one.cores[part]:.2f}" for one in plans]) for part in PARTS),
        ("cores in all, with room left", [str(one.machines_cores) for one in plans]),
        *((f"processes: {part}", [str(one.instances[part]) for one in plans]) for part in PARTS if part not in SPREAD),
        ("memory of live streams", [f"{one.live_mib:,.0f} MiB" for one in plans]),
        ("written at the peak", [f"{one.written_mb_per_s:.1f} MB/s" for one in plans]),
        ("samples and receipts", [f"{one.grows_gb_a_year:,.0f} GB a year" for one in plans]),
        ("messages of 30 days", [f"{one.messages_gb:,.0f} GB" for one in plans]),
    ]
    head = f"| active users | {' | '.join(f'{one.users:,}' for one in plans)} |"
    lines = [head, "|---" * (len(plans) + 1) + "|", *(f"| {name} | {' | '.join(values)} |" for name, values in rows)]
    return "\n".join(lines)


def main() -> None:
    """Print the plan and check it by simulation."""
    machine = measure.fingerprint()
    plans = [plan(users) for users in USERS]
    print(table(plans))
    figures: dict[str, object] = {}
    for one in plans:
        seen = simulate(one, one.instances["ingest"])
        figures[f"{one.users}_users"] = {
            "ingest_instances": one.instances["ingest"],
            "ingest_busy_by_arithmetic": round(one.cores["ingest"] / one.instances["ingest"], 3),
            "ingest_busiest_simulated": round(seen.busiest, 3),
            "stored_after_ms": {"p50": round(seen.p50_ms, 2), "p99": round(seen.p99_ms, 2), "target_p99": LATE_MS},
        }
    measure.report("scaling", figures, machine)


if __name__ == "__main__":
    main()
