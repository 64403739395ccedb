"""What services are told of where a caller is: by the gateway, never by the caller."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from services.gateway.settings import Settings
from tests.service.gateway_edges import Gateway, answer, gateway

LIES = {"Client-Address": "192.0.2.1", "X-Forwarded-For": "192.0.2.2", "Forwarded": "for=192.0.2.3"}


@pytest.fixture
async def door(tmp_path: Path) -> AsyncGenerator[Gateway]:
    async with gateway(tmp_path) as one:
        one.services.handlers["auth"] = lambda *_: answer({})
        yield one


async def told(door: Gateway) -> dict[str, str]:
    await door.ask("POST", "/v1/tokens", token=None, json={}, headers=LIES)
    return {name.lower(): value for name, value in door.services.seen[-1][3].items()}


async def test_a_callers_own_word_counts_for_nothing(door: Gateway) -> None:
    headers = await told(door)
    assert headers["client-address"] == "127.0.0.1"
    assert not any("192.0.2" in value for value in headers.values())


async def test_a_trusted_proxys_word_counts(tmp_path: Path) -> None:
    async with gateway(tmp_path, gateway_trusted_proxies="127.0.0.0/8") as door:
        assert (await told(door))["client-address"] == "192.0.2.2"


async def test_networks_of_proxies_must_be_networks() -> None:
    assert [str(one) for one in Settings(gateway_trusted_proxies="10.0.0.0/8, fd00::/8").trusted_proxies] == [
        "10.0.0.0/8",
        "fd00::/8",
    ]
    with pytest.raises(ValueError, match="write networks such as") as refused:
        Settings(gateway_trusted_proxies="proxy.example.org")
    assert "proxy.example.org" not in str(refused.value)
