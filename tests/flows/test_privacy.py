"""What must not be seen: secrets in what the system writes, and anybody's data by somebody else."""

from collections import Counter

from shared import topics
from tests.flows.people import DATE, OF_A_BATCH, SCOPES, Person, delivered, register_endpoint, signed_in, walk
from tests.flows.whole import Whole


async def test_addresses_passwords_and_keys_reach_no_log_span_or_topic(system: Whole) -> None:
    webhook_secret = await register_endpoint(system)
    person = await signed_in(system)
    await person.grant()
    await _mistakes(person)
    await person.send_batch(walk())
    await person.told(*OF_A_BATCH)
    await person.send_photo()
    for topic in topics.TOPICS:
        if topic.readers:
            await system.publish(topic.name, b"poison")
    await delivered(system, person, 8)

    log = system.log.getvalue()
    spans = [f"{span.name} {span.attributes} {span.status} {span.events}" for span in system.spans()]
    records = [f"{record.topic} {record.key!r} {record.value!r} {record.headers}" for record in system.records]
    bodies = [str(one.body) for one in system.receiver.delivered.values()]
    assert "dead letter" in log
    assert any(record.startswith("auth.users.v1 ") for record in records)
    assert any(".dlq " in record for record in records)
    secrets = (person.email, "lovelace", person.password, "difference-engine", person.token, "eyJ")
    for secret in (*secrets, system.partner_key, webhook_secret, webhook_secret.removeprefix("whsec_")):
        for text in (log, *spans, *records, *bodies):
            assert secret not in text


async def _mistakes(person: Person) -> None:
    """Requests that name the secrets and are refused, without repeating them."""
    http = person.whole.http
    account = {"email": person.email, "password": person.password}
    refused = [
        await http.post("/v1/tokens", json=account | {"password": f"not {person.password}"}),
        await http.post("/v1/tokens", json={"e-mail": person.email, "pass": person.password}),
        await http.post("/v1/users", json=account | {"name": person.password}, headers={"Idempotency-Key": "2"}),
        await http.post("/v1/users", json=account, headers={"Idempotency-Key": "3"}),
        await http.get(f"/v1/days/{DATE}", params={"access_token": person.token}),
        await person.ask("GET", f"/v1/days/{DATE}", token=f"{person.token}x"),
        await person.ask("GET", f"/v1/days/{person.email}"),
        await person.ask("POST", "/v1/grants", key="other", json={"partner_id": person.password, "scopes": SCOPES}),
    ]
    for answer in refused:
        assert 400 <= answer.status_code < 500, answer.text
        told = str(answer.json() | {"instance": ""})  # that is the path which the caller wrote
        for secret in (person.email, person.password, person.token):
            assert secret not in told


async def test_the_partner_hears_only_of_what_it_was_granted(system: Whole) -> None:
    await register_endpoint(system)
    silent, narrow, open_ = [await signed_in(system, name) for name in ("silent", "narrow", "open")]
    await narrow.grant(["ledger:read"])
    for person in (silent, narrow):
        await person.send_batch(walk())
        await person.told(*OF_A_BATCH)
    await open_.grant()
    await open_.send_batch(walk())
    await delivered(system, open_, 4)

    assert [body["type"] for body in await delivered(system, narrow, 1)] == ["ledger.updated"]
    heard = Counter(one.body["data"]["user_id"] for one in system.receiver.delivered.values())
    assert heard == {open_.user_id: 4, narrow.user_id: 1}
    seen = {
        person.user_id: await person.ask(
            "GET", f"/v1/days/{DATE}", token=system.partner_key, params={"user": person.user_id}
        )
        for person in (silent, narrow, open_)
    }
    assert [answer.status_code for answer in seen.values()] == [404, 404, 200]
    told = [answer.json() | {"instance": ""} for answer in seen.values()]
    assert told[0] == told[1]


async def test_what_belongs_to_another_user_is_not_there(system: Whole) -> None:
    owner, other = await signed_in(system, "owner"), await signed_in(system, "other")
    batch, photo = await owner.send_batch(walk()), await owner.send_photo()
    await owner.ended(batch)
    await owner.ended(photo)
    for sent, made_up in ((batch, f"/v1/receipts/rcp_{'a' * 39}"), (photo, f"/v1/photos/pho_{'a' * 39}")):
        answers = [await other.ask("GET", path) for path in (sent.json()["link"], made_up)]
        assert [answer.status_code for answer in answers] == [404, 404]
        problems = [answer.json() | {"instance": ""} for answer in answers]
        assert problems[0] == problems[1]
    assert (await other.get(f"/v1/diary/{DATE}"))["entries"] == []
    for path in (f"/v1/days/{DATE}", f"/v1/ledger/{DATE}"):
        assert (await other.ask("GET", path)).status_code == 404
    assert await other.messages() == []
