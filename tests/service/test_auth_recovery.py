"""Lost passwords and second factors on the real app."""

import asyncio
import re
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path
from secrets import token_hex

import pytest

from services.auth import totp
from tests.service.account_holder import EMAIL, OTHER, PASSWORD, Ada, auth_of, secret_of
from tests.service.auth_edges import problem
from tests.service.gateway_edges import MovableClock


@pytest.fixture
async def ada(tmp_path: Path) -> AsyncGenerator[Ada]:
    async with auth_of(tmp_path, MovableClock()) as one:
        yield one


# lost passwords


async def test_a_letters_code_sets_a_new_password_once(ada: Ada) -> None:
    await ada.sign_in()
    assert (await ada.ask_for_reset()).status_code == 202
    token = await ada.reset_token()
    assert problem(await ada.reset(token, "short")) == (422, "password-too-short")
    answers = await asyncio.gather(*(ada.reset(token) for _ in range(3)))
    assert sorted(answer.status_code for answer in answers) == [204, 422, 422]
    assert problem(await ada.reset(token)) == (422, "reset-token-invalid")
    assert problem(await ada.sign_in()) == (401, "wrong-credentials")
    assert (await ada.sign_in(password=OTHER)).status_code == 200
    stored = b"".join(file.read_bytes() for file in ada.folder.glob("auth.sqlite*"))
    assert token.encode() not in stored


async def test_a_reset_ends_all_sessions_and_the_other_letters(ada: Ada) -> None:
    tokens = (await ada.sign_in()).json()
    await ada.ask_for_reset()
    first = await ada.reset_token()
    await ada.ask_for_reset()
    await ada.reset_token(2)
    assert (await ada.reset(first)).status_code == 204
    for letter in ada.letters("enter this code"):
        found = re.search(r"^([\w-]{43})\s*$", letter, re.MULTILINE)
        assert found is not None
        assert problem(await ada.reset(found[1])) == (422, "reset-token-invalid")
    assert (await ada.refresh(tokens)).status_code == 401


async def test_a_letter_is_good_for_half_an_hour(ada: Ada) -> None:
    await ada.ask_for_reset()
    token = await ada.reset_token()
    ada.clock.ahead += timedelta(minutes=30)
    assert problem(await ada.reset(token)) == (422, "reset-token-invalid")
    for junk in ("", "junk", token[:-1], "\x00"):
        assert problem(await ada.reset(junk)) == (422, "reset-token-invalid")


async def test_unknown_addresses_get_the_same_answer_and_no_letter(ada: Ada) -> None:
    known, unknown = await ada.ask_for_reset(), await ada.ask_for_reset("eve@example.org")
    assert (known.status_code, known.content) == (unknown.status_code, unknown.content) == (202, b"")
    await ada.reset_token()
    assert len(ada.letters()) == 1
    assert problem(await ada.ask_for_reset("nobody")) == (422, "invalid-request")


@pytest.mark.parametrize("to", [EMAIL, "eve@example.org"])
async def test_letters_are_few(ada: Ada, to: str) -> None:
    answers = [await ada.ask_for_reset(to, f"203.0.113.{number}") for number in range(5)]
    assert [answer.status_code for answer in answers] == [202, 202, 202, 429, 429]
    assert int(answers[-1].headers["retry-after"]) > 60


# the second factor


async def test_signing_in_needs_the_second_factor_once_it_is_on(ada: Ada) -> None:
    secret, codes = await ada.with_second_factor()
    assert len(set(codes)) == 10
    assert problem(await ada.sign_in()) == (401, "second-factor-required")
    assert problem(await ada.sign_in(second_factor="000000")) == (401, "wrong-credentials")
    assert problem(await ada.sign_in(password="x" * 20, second_factor=ada.code(secret))) == (401, "wrong-credentials")
    assert (await ada.sign_in(second_factor=ada.code(secret))).status_code == 200
    me = (await ada.ask("GET", "/v1/me")).json()
    assert (me["second_factor"], me["recovery_codes"]) == (True, 10)


async def test_a_code_is_good_for_once_however_many_ask(ada: Ada) -> None:
    secret, _ = await ada.with_second_factor()
    answers = await asyncio.gather(*(ada.sign_in(second_factor=ada.code(secret)) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 401, 401, 401, 401]
    ada.clock.ahead += timedelta(seconds=totp.STEP_S)
    assert (await ada.sign_in(second_factor=ada.code(secret))).status_code == 200


async def test_a_recovery_code_is_good_for_once_and_stored_hashed(ada: Ada) -> None:
    secret, codes = await ada.with_second_factor()
    spelt = codes[0].upper().replace("-", " ")
    answers = await asyncio.gather(*(ada.sign_in(second_factor=code) for code in (codes[0], spelt)))
    assert sorted(answer.status_code for answer in answers) == [200, 401]
    assert (await ada.ask("GET", "/v1/me")).json()["recovery_codes"] == 9
    renewed = await ada.ask("POST", "/v1/me/second-factor/recovery-codes", {"password": PASSWORD})
    assert problem(await ada.sign_in(second_factor=codes[1])) == (401, "wrong-credentials")
    assert (await ada.sign_in(second_factor=renewed.json()["recovery_codes"][0])).status_code == 200
    stored = b"".join(file.read_bytes() for file in ada.folder.glob("auth.sqlite*"))
    for plain in (codes[5], codes[5].replace("-", ""), secret):
        assert plain.encode() not in stored
    assert secret_of(secret) not in stored


async def test_a_proposed_second_factor_counts_only_once_confirmed(ada: Ada) -> None:
    assert problem(await ada.ask("POST", "/v1/me/second-factor", {"password": "wrong"})) == (403, "wrong-password")
    answer = await ada.ask("POST", "/v1/me/second-factor/confirmations", {"code": "123456"})
    assert problem(answer) == (422, "wrong-code")
    proposed = (await ada.ask("POST", "/v1/me/second-factor", {"password": PASSWORD})).json()
    assert proposed["secret"] in proposed["uri"]
    assert (await ada.sign_in()).status_code == 200
    for wrong in (ada.code(proposed["secret"], ahead=5), "abcdef"):
        answer = await ada.ask("POST", "/v1/me/second-factor/confirmations", {"code": wrong})
        assert problem(answer) == (422, "wrong-code")


async def test_a_second_factor_is_not_replaced_but_switched_off_by_the_password(ada: Ada) -> None:
    await ada.with_second_factor()
    again = await ada.ask("POST", "/v1/me/second-factor", {"password": PASSWORD})
    assert problem(again) == (409, "second-factor-exists")
    off = "/v1/me/second-factor/removals"
    assert problem(await ada.ask("POST", off, {"password": "wrong"})) == (403, "wrong-password")
    assert (await ada.ask("POST", off, {"password": PASSWORD})).status_code == 204
    assert problem(await ada.ask("POST", off, {"password": PASSWORD})) == (409, "no-second-factor")
    renewed = await ada.ask("POST", "/v1/me/second-factor/recovery-codes", {"password": PASSWORD})
    assert problem(renewed) == (409, "no-second-factor")
    assert (await ada.sign_in()).status_code == 200


async def test_a_short_password_stands_only_beside_a_second_factor(ada: Ada) -> None:
    short = {"password": PASSWORD, "new_password": "mizzle+9"}
    assert problem(await ada.ask("PUT", "/v1/me/password", short)) == (422, "password-too-short")
    await ada.with_second_factor()
    assert (await ada.ask("PUT", "/v1/me/password", short)).status_code == 204
    off = await ada.ask("POST", "/v1/me/second-factor/removals", {"password": "mizzle+9"})
    assert problem(off) == (422, "password-too-short")


async def test_a_letter_does_not_get_past_the_second_factor(ada: Ada) -> None:
    await ada.with_second_factor()
    await ada.ask_for_reset()
    assert (await ada.reset(await ada.reset_token())).status_code == 204
    assert problem(await ada.sign_in(password=OTHER)) == (401, "second-factor-required")


async def test_a_code_may_be_sent_as_apps_show_it(ada: Ada) -> None:
    secret = (await ada.ask("POST", "/v1/me/second-factor", {"password": PASSWORD})).json()["secret"]
    code = ada.code(secret)
    shown = f"{code[:3]} {code[3:]}"
    assert (await ada.ask("POST", "/v1/me/second-factor/confirmations", {"code": shown})).status_code == 200
    ada.clock.ahead += timedelta(seconds=2 * totp.STEP_S)
    code = ada.code(secret)
    assert (await ada.sign_in(second_factor=f" {code[:3]} {code[3:]} ")).status_code == 200


async def test_after_a_rotation_the_next_code_seals_the_authenticator_anew(ada: Ada) -> None:
    secret, _ = await ada.with_second_factor()
    file = ada.folder / "secrets.key"
    old = file.read_text()
    file.write_text(f"{token_hex(32)}\n{old}")
    assert (await ada.sign_in(second_factor=ada.code(secret))).status_code == 200
    # The older key is not needed any more.
    file.write_text(file.read_text().removesuffix(old))
    ada.clock.ahead += timedelta(seconds=totp.STEP_S)
    assert (await ada.sign_in(second_factor=ada.code(secret))).status_code == 200
    assert problem(await ada.sign_in(second_factor=ada.code(secret))) == (401, "wrong-credentials")


async def test_a_lost_key_is_named_and_leaves_the_recovery_codes(ada: Ada, caplog: pytest.LogCaptureFixture) -> None:
    secret, codes = await ada.with_second_factor()
    file = ada.folder / "secrets.key"
    old = file.read_text()
    file.write_text(token_hex(32))
    answer = await ada.sign_in(second_factor=ada.code(secret))
    assert problem(answer) == (503, "second-factor-unreadable")
    assert answer.headers["Retry-After"] == "60"
    assert "is not among ours" in caplog.text
    assert (await ada.sign_in(second_factor=codes[0])).status_code == 200
    file.write_text(old)
    assert (await ada.sign_in(second_factor=ada.code(secret))).status_code == 200
