"""What it costs to know a caller and to hold it to its limits, and what sign-ins do to everybody else.

* The gateway's check of a token or key that it knows, against one bare Ed25519 verification.
* Throughput and CPU of an answer with key and limits, against the same answer for anyone without limits.
* /livez of the gateway and of auth while 50 people at a time sign in.
"""

import asyncio
import http.client
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import msgspec
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.routing import Route as HttpRoute

from benchmarks import measure
from benchmarks.gateway import answering
from benchmarks.stacks import fresh_stack
from infra.local.instance import Instance, free_ports
from infra.local.phone import Phone
from services.gateway import routes
from services.gateway.access import Access
from services.gateway.app import Edges, create_app
from services.gateway.entry import Door
from services.gateway.grants import Grants, Partners
from services.gateway.proxy import Answer
from services.gateway.revocations import Revocations
from services.gateway.settings import Settings
from services.gateway.verifiers import KeyVerifier, TokenVerifier
from shared.access_tokens import sign_access_token
from shared.callers import SCOPES
from shared.clock import utc_now
from shared.events.auth import PartnerUpdated
from shared.kafka import make_broker
from shared.keys import generate_key_files, load_private_jwk, new_api_key, public_jwks

ROUNDS = 7
CHECKS, SECONDS = 20_000, 3.0
AT_ONCE = 50
SIGN_IN_S, PROBE_S, STARTS_S = 10.0, 0.01, 60.0
PARTNER = "prt_benchmark"
# Beside the app's own routes: the answer of /v1/whoami for anyone, without limits.
FREE = "/free"
TARGETS = {"cached_check_ratio": 0.3, "kept_throughput": 0.76, "livez_ms": 10.0}


async def answer_of_auth(keys: Path, target: str) -> Answer:
    """Auth's public keys, or the one partner behind every key."""
    if target.endswith("jwks.json"):
        body: dict[str, Any] = public_jwks([load_private_jwk(keys / "auth.jwk")])
    else:
        body = {"partner_id": PARTNER, "scopes": ["webhooks:write"], "expires_at": None}
    return Answer(200, {"content-type": "application/json"}, msgspec.json.encode(body))


class Auth:
    """Answers as auth does, at once."""

    def __init__(self, keys: Path) -> None:
        self._keys = keys

    async def send(self, service: str, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """As in the gateway's protocol."""
        return await answer_of_auth(self._keys, target)


async def active(partners: Partners) -> None:
    """Let the benchmark's partner call as often as it likes."""
    news = PartnerUpdated(
        event_id="e",
        occurred_at=utc_now(),
        partner_id=PARTNER,
        revision=1,
        name="Benchmark",
        scopes=SCOPES,
        requests_per_min=999_999,
    )
    await partners.take(PARTNER, news)
    partners.caught_up()


async def accesses(keys: Path) -> tuple[Access, dict[str, bytes]]:
    """The gateway's check, and headers that it knows: a user's token and a partner's key."""
    settings, grants, partners = Settings(), Grants(), Partners()

    async def jwks() -> dict[str, Any]:
        return (await answer_of_auth(keys, "jwks.json")).json()

    async def ask(_: str) -> Answer:
        return await answer_of_auth(keys, "verify")

    await active(partners)
    grants.caught_up()
    issuer, audience = settings.token_issuer, settings.token_audience
    tokens = TokenVerifier(jwks, issuer=issuer, audience=audience)
    access = Access(tokens, KeyVerifier(ask), Revocations(), grants, partners)
    signing = load_private_jwk(keys / "auth.jwk")
    token = sign_access_token(
        signing, issuer=issuer, audience=audience, user_id="usr_1", scopes=SCOPES, session_id="ses_1"
    )
    headers = {"token": f"Bearer {token}".encode(), "key": f"Bearer {new_api_key()}".encode()}
    for header in headers.values():
        await access.identity(header)
    return access, headers


async def check_us(access: Access, header: bytes) -> float:
    """Microseconds of one check of a known header."""
    began = time.perf_counter()
    for _ in range(CHECKS):
        await access.identity(header)
    return (time.perf_counter() - began) / CHECKS * 1e6


async def verification_us(token: bytes) -> float:
    """Microseconds of one Ed25519 verification of what the token's signature covers."""
    key, signed = Ed25519PrivateKey.generate(), token.rpartition(b".")[0]
    public, signature = key.public_key(), key.sign(signed)
    count = CHECKS // 20
    began = time.perf_counter()
    for _ in range(count):
        public.verify(signature, signed)
    return (time.perf_counter() - began) / count * 1e6


async def measure_checks(keys: Path) -> dict[str, Any]:
    """Both checks against the verification, interleaved."""
    access, headers = await accesses(keys)
    found = await measure.interleaved(
        ROUNDS,
        {
            "bare_verification": partial(verification_us, headers["token"].removeprefix(b"Bearer ")),
            "cached_token": partial(check_us, access, headers["token"]),
            "cached_key": partial(check_us, access, headers["key"]),
        },
    )
    bare = found["bare_verification"]["median"]
    ratios = {f"{name}_ratio": round(found[name]["median"] / bare, 3) for name in ("cached_token", "cached_key")}
    return {"us": found, **ratios}


def serve(keys: Path, port: int) -> None:
    """The gateway without Kafka and services, and its answer of /v1/whoami without key and limits beside."""
    settings = Settings(
        gateway_internal_key_path=keys / "internal.jwk",
        gateway_receipt_key_path=keys / "receipts.key",
        gateway_rate_key="999999/1",
        kafka_bootstrap_servers=f"127.0.0.1:{free_ports(1)[0]}",
        log_level="ERROR",
    )
    app = create_app(settings, Edges(make_broker(settings, "gateway"), Auth(keys), follows=False))
    asyncio.run(active(app.state.partners))
    free = replace(routes.WHOAMI, path="/v1/free", caller="anyone", scope=None)
    access, _ = asyncio.run(accesses(keys))
    door = Door(free, access, app.state.api.whoami, lambda: None)
    # Before the lookup, which knows nothing of it.
    app.router.routes.insert(0, HttpRoute(FREE, door))
    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, log_level="error")


@contextmanager
def served(keys: Path) -> Iterator[tuple[int, int]]:
    """`serve` as a process; its pid and port."""
    port = free_ports(1)[0]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.identity", str(keys), str(port)], env=environment)
    try:
        yield process.pid, port
    finally:
        process.terminate()
        process.wait(20)


async def throughput(port: int, path: str, key: str) -> float:
    """Answers a second."""
    return await measure.load("127.0.0.1", port, path, seconds=SECONDS, token=key) / SECONDS


async def measure_tax(pid: int, port: int) -> dict[str, Any]:
    """Throughput and CPU with key and limits, and without, interleaved; and what is kept of each."""
    await answering(port, FREE)
    key = new_api_key()
    speed = await measure.interleaved(
        ROUNDS,
        {"with": partial(throughput, port, "/v1/whoami", key), "without": partial(throughput, port, FREE, key)},
    )
    cpu = partial(measure.cpu_per_request, pid, port, seconds=SECONDS, token=key)
    cost = await measure.interleaved(ROUNDS, {"with": partial(cpu, "/v1/whoami"), "without": partial(cpu, FREE)})
    return {
        "answers_per_s": speed,
        "cpu_us_per_request": cost,
        "kept_throughput": round(speed["with"]["median"] / speed["without"]["median"], 3),
        "kept_by_cpu": round(cost["without"]["median"] / cost["with"]["median"], 3),
    }


def sign_in(url: str, accounts: list[dict[str, str]], seconds: float, counted: Any, imported: Any) -> None:
    """Everybody signs in, again and again, all at once; a process of its own. `counted` is told how often."""
    imported.set()

    async def people() -> None:
        until = time.monotonic() + seconds
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*(one(session, account, until) for account in accounts))

    async def one(session: aiohttp.ClientSession, account: dict[str, str], until: float) -> None:
        while time.monotonic() < until:
            async with session.post(f"{url}/v1/tokens", json=account) as answer:
                counted.value += answer.status == 200
                await answer.read()

    asyncio.run(people())


async def accounts_of(instance: Instance) -> list[dict[str, str]]:
    """New users, as many as sign in at once."""
    found = [{"email": f"{uuid4().hex}@example.com", "password": uuid4().hex} for _ in range(AT_ONCE)]
    async with aiohttp.ClientSession() as session:
        phone = Phone(instance.url, session, time.monotonic() + 60)
        for account in found:
            await phone.send("POST", "/v1/users", key=str(uuid4()), body=account)
    return found


def probe(ports: Mapping[str, int], until: float) -> dict[str, list[float]]:
    """Milliseconds of each /livez over a kept connection, a hundred times a second, until then."""
    connections = {name: http.client.HTTPConnection("127.0.0.1", port, timeout=5) for name, port in ports.items()}
    found: dict[str, list[float]] = {name: [] for name in ports}
    while time.monotonic() < until:
        for name, connection in connections.items():
            began = time.perf_counter()
            connection.request("GET", "/livez")
            connection.getresponse().read()
            found[name].append((time.perf_counter() - began) * 1000)
        time.sleep(PROBE_S)
    for connection in connections.values():
        connection.close()
    return found


def told(milliseconds: list[float]) -> dict[str, float]:
    """Median, 99th percentile and maximum."""
    p99 = statistics.quantiles(milliseconds, n=100)[98]
    figures = {"median": statistics.median(milliseconds), "p99": p99, "max": max(milliseconds)}
    return {name: round(value, 2) for name, value in figures.items()}


def measure_livez(instance: Instance) -> dict[str, Any]:
    """/livez of gateway and auth, first alone, then while 50 sign in at a time."""
    ports = {"gateway": instance.settings.gateway_port, "auth": instance.settings.auth_port}
    accounts = asyncio.run(accounts_of(instance))
    alone = probe(ports, time.monotonic() + SIGN_IN_S / 2)
    context = multiprocessing.get_context("spawn")
    counted, imported = context.Value("i", 0), context.Event()
    people = context.Process(target=sign_in, args=(instance.url, accounts, SIGN_IN_S + 2, counted, imported))
    people.start()
    imported.wait(STARTS_S)
    during = probe(ports, time.monotonic() + SIGN_IN_S)
    people.join(60)
    found: dict[str, Any] = {
        name: {"alone_ms": told(alone[name]), "signing_in_ms": told(during[name]), "probes": len(during[name])}
        for name in ports
    }
    return found | {"sign_ins": counted.value}


def main() -> None:
    """Measure the checks in this process, the tax on one of its own, and sign-ins on a stack of their own."""
    machine = measure.fingerprint()
    figures: dict[str, Any] = {"targets": TARGETS}
    with tempfile.TemporaryDirectory() as folder:
        generate_key_files(keys := Path(folder))
        figures["known_caller"] = asyncio.run(measure_checks(keys))
        with served(keys) as (pid, port):
            figures["policy_tax"] = asyncio.run(measure_tax(pid, port))
    with fresh_stack(only="kafka,auth,gateway") as instance:
        figures["livez_while_50_sign_in"] = measure_livez(instance)
    measure.report("identity", figures, machine)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        serve(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        main()
