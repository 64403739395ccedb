"""Codes of authenticator apps: RFC 6238's own vectors, drift, no second use."""

from urllib.parse import parse_qs, urlsplit

import pytest

from services.auth.totp import STEP_S, code_at, matching_step, new_secret, provisioning_uri, written

RFC_SECRET = b"12345678901234567890"
NOW = 1_700_000_000.0
STEP = int(NOW) // STEP_S


# RFC 6238, appendix B, SHA-1; six of its eight digits.
@pytest.mark.parametrize(
    ("time", "code"),
    [
        (59, "287082"),
        (1111111109, "081804"),
        (1111111111, "050471"),
        (1234567890, "005924"),
        (2000000000, "279037"),
        (20000000000, "353130"),
    ],
)
def test_the_vectors_of_the_rfc(time: int, code: str) -> None:
    assert code_at(RFC_SECRET, time // STEP_S) == code
    assert matching_step(RFC_SECRET, code, time, -1) == time // STEP_S


@pytest.mark.parametrize(("drift", "taken"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)])
def test_one_step_of_drift(drift: int, taken: bool) -> None:
    found = matching_step(RFC_SECRET, code_at(RFC_SECRET, STEP + drift), NOW, -1)
    assert found == (STEP + drift if taken else None)


def test_a_used_step_and_those_before_it_are_refused() -> None:
    assert matching_step(RFC_SECRET, code_at(RFC_SECRET, STEP), NOW, STEP) is None
    assert matching_step(RFC_SECRET, code_at(RFC_SECRET, STEP - 1), NOW, STEP) is None
    assert matching_step(RFC_SECRET, code_at(RFC_SECRET, STEP + 1), NOW, STEP) == STEP + 1


@pytest.mark.parametrize("code", ["", "1", "abcdef", "\ud800", "\uff11\uff12\uff13\uff14\uff15\uff16", "0" * 1000])
def test_junk_is_no_code(code: str) -> None:
    assert matching_step(RFC_SECRET, code, NOW, -1) is None


def test_the_uri_names_account_and_secret() -> None:
    secret = new_secret()
    uri = urlsplit(provisioning_uri(secret, "ada+1@example.org"))
    assert (uri.scheme, uri.netloc, uri.path) == ("otpauth", "totp", "/MyMacroTracker:ada%2B1%40example.org")
    assert parse_qs(uri.query)["secret"] == [written(secret)]
    assert len(written(secret)) == 32
