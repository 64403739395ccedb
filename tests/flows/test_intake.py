"""What phones may send besides plain samples, from the gateway's door to what can be read of it."""

import gzip
import json
from typing import Any

from backports import zstd

from shared import topics
from tests.flows.people import DATE, Person, signed_in
from tests.flows.whole import Whole

WATCH = {"device": {"id": "watch-1", "kind": "watch"}, "app": "test/1", "zone": "UTC"}
RUN = {
    "type": "workout",
    "sport": "run",
    "start": f"{DATE}T17:00:00Z",
    "end": f"{DATE}T17:40:00Z",
    "id": "run-1",
    "totals": {"distance_m": 8000},
    "streams": [
        {"name": "heart_rate", "start": f"{DATE}T17:00:00Z", "offsets_s": [0, 60, 120], "values": [120, 130, 140]}
    ],
}


async def sent(person: Person, body: dict[str, Any], key: str, coding: str = "", wait: str = "10s") -> dict[str, Any]:
    """The receipt, waited for."""
    pack = {"": bytes, "gzip": gzip.compress, "zstd": zstd.compress}[coding]
    headers = {"Content-Type": "application/json"} | ({"Content-Encoding": coding} if coding else {})
    content = pack(json.dumps(WATCH | body).encode())
    got = await person.ask("POST", f"/v1/batches?wait={wait}", key=key, content=content, headers=headers)
    assert got.status_code == 200, got.text
    receipt = got.json()
    assert got.headers["location"] == f"/v1/receipts/{receipt['receipt_id']}"
    counts = [receipt[name] for name in ("stored", "duplicates", "corrections", "deleted")]
    assert receipt["received"] == sum(counts) + len(receipt["refused"])
    return receipt


async def test_units_sessions_and_deletions_arrive_compressed_and_waited_for(system: Whole) -> None:
    person = await signed_in(system)
    samples = [
        {"metric": "body_mass", "start": f"{DATE}T07:00:00Z", "value": 150, "unit": "lb", "id": "kept"},
        {"metric": "body_mass", "start": f"{DATE}T07:01:00Z", "value": 68, "id": "gone"},
        {"metric": "body_mass", "start": f"{DATE}T07:02:00Z", "value": 68, "unit": "furlong"},
    ]
    first = await sent(person, {"samples": samples, "sessions": [RUN]}, "b1", "gzip")
    assert (first["state"], first["stored"]) == ("stored", 3)
    assert first["refused"] == [{"index": 2, "code": "unknown-unit"}]
    second = await sent(person, {"deletions": [{"id": "gone"}]}, "b2", "zstd")
    assert (second["state"], second["deleted"]) == ("stored", 1)
    again = await sent(person, {"samples": samples, "sessions": [RUN]}, "b3")
    assert [(one["index"], one["code"]) for one in again["refused"]] == [(1, "deleted"), (2, "unknown-unit")]
    assert again["duplicates"] == 2
    series = await person.get(f"/v1/timeseries?metric=body_mass&from={DATE}T00:00:00Z&to={DATE}T23:00:00Z")
    assert "68.0388555" in json.dumps(series)
    (session,) = (await person.get(f"/v1/sessions?from={DATE}T00:00:00Z&to={DATE}T23:00:00Z"))["sessions"]
    assert session["sport"] == "run"
    listed = (await person.get("/v1/receipts"))["receipts"]
    assert [one["receipt_id"] for one in listed] == [one["receipt_id"] for one in (first, second, again)]


async def test_a_batch_too_large_for_a_message_is_stored_and_its_object_removed(system: Whole) -> None:
    person = await signed_in(system)
    samples = [
        {"metric": "heart_rate", "start": f"{DATE}T{at // 3600:02d}:{at // 60 % 60:02d}:{at % 60:02d}Z", "value": 60}
        for at in range(9_999)
    ]
    receipt = await sent(person, {"samples": [*samples, {"metric": "heart_rate"}]}, "b1", "gzip")
    assert (receipt["state"], receipt["stored"]) == ("stored", 9_999)
    assert receipt["refused"] == [{"index": 9_999, "code": "missing-field"}]
    (record,) = system.of(topics.BATCHES.name)
    assert len(record.value) < 1000
    folder = system.folder / "objects" / "ingest" / person.user_id
    assert not folder.exists() or list(folder.iterdir()) == []
    again = await sent(person, {"samples": [*samples, {"metric": "heart_rate"}]}, "b1", "zstd")
    assert again["receipt_id"] == receipt["receipt_id"]
    assert again["stored"] == 9_999


SPAN = f"from={DATE}T00:00:00Z&to={DATE}T23:00:00Z"
READS = (
    "/v1/receipts?since=2026-01-01T00:00:00Z&limit=10",
    f"/v1/days?from={DATE}&to={DATE}",
    f"/v1/timeseries?metric=steps&{SPAN}",
    f"/v1/timeseries/history?metric=steps&{SPAN}",
    f"/v1/sessions?{SPAN}",
    f"/v1/completeness?from={DATE}&to={DATE}",
    "/v1/devices",
    "/v1/device-priorities",
    "/v1/me/zone",
)


async def test_whoever_asks_sees_what_is_theirs_alone(system: Whole) -> None:
    person, other = await signed_in(system), await signed_in(system, "bob")
    steps = {
        "metric": "steps",
        "start": f"{DATE}T08:00:00Z",
        "end": f"{DATE}T08:10:00Z",
        "value": 714,
        "id": "secret-1",
    }
    await sent(person, {"samples": [steps], "sessions": [RUN]}, "b1")
    for path in READS:
        assert await person.get(path), path
        seen = json.dumps(await other.get(path))
        assert not any(told in seen for told in ("714", "watch-1", "secret-1", "run-1", person.user_id)), path
    for path in (f"/v1/days/{DATE}", f"/v1/days/{DATE}/explain", "/v1/sessions/none"):
        assert (await other.ask("GET", path)).status_code == 404, path


async def test_what_users_set_is_kept_for_them_alone(system: Whole) -> None:
    person, other = await signed_in(system), await signed_in(system, "bob")
    order = {"order": ["device:mine", "kind:phone"]}
    for path, body in (("/v1/device-priorities/steps", order), ("/v1/me/zone", {"zone": "Asia/Tokyo"})):
        for _ in range(2):
            assert (await person.ask("PUT", path, json=body)).status_code == 200, path
        assert (await person.ask("PUT", path, json={"nonsense": 1})).status_code == 422, path
    for path, told in (("/v1/device-priorities", "device:mine"), ("/v1/me/zone", "Asia/Tokyo")):
        assert told in json.dumps(await person.get(path))
        assert told not in json.dumps(await other.get(path))


async def test_a_long_series_flows_through_the_gateway(system: Whole) -> None:
    person = await signed_in(system)
    samples = [
        {"metric": "heart_rate", "start": f"{DATE}T{at // 3600:02d}:{at // 60 % 60:02d}:{at % 60:02d}Z", "value": 60}
        for at in range(8_000)
    ]
    await sent(person, {"samples": samples}, "b1")
    got = await person.ask(
        "GET", f"/v1/timeseries?metric=heart_rate&{SPAN}", headers={"Accept": "application/x-ndjson"}
    )
    assert got.headers["content-type"].startswith("application/x-ndjson")
    assert len(got.text.splitlines()) >= 8_000
