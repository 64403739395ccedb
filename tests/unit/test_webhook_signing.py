"""Standard Webhooks: the official vectors, the negative set, and the official library as a second opinion."""

import base64
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from services.webhooks.signing import (
    MAX_SIGNATURES,
    SignatureRefused,
    VerifyingKey,
    new_secret,
    parsed,
    parsed_key,
    shown,
    sign,
    signed_headers,
    verify,
)

# libraries/python/tests/test_webhooks.py of standard-webhooks/standard-webhooks
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE_ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
STAMP = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
NOW = datetime.fromtimestamp(STAMP, UTC)
# The specification's example of the asymmetric kind: seed and public key, 32 bytes each.
PAIR = base64.b64decode("6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==")
SIGNATURE_A = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
PRIVATE = Ed25519PrivateKey.from_private_bytes(PAIR[:32])
PUBLIC = PRIVATE.public_key()


def headers(**changed: str | None) -> dict[str, str]:
    whole: dict[str, str | None] = {"id": MESSAGE_ID, "timestamp": str(STAMP), "signature": SIGNATURE} | changed
    return {f"webhook-{name}": value for name, value in whole.items() if value is not None}


def fits(keys: Sequence[VerifyingKey], sent: dict[str, str], now: datetime = NOW) -> bool:
    try:
        verify(keys, sent, BODY, now)
    except SignatureRefused:
        return False
    return True


def test_official_vector():
    assert sign(parsed(SECRET), MESSAGE_ID, STAMP, BODY) == SIGNATURE
    assert fits([parsed(SECRET)], headers())


def test_official_vector_of_the_asymmetric_kind():
    assert PUBLIC.public_bytes_raw() == PAIR[32:]
    assert sign(PRIVATE, MESSAGE_ID, STAMP, BODY) == SIGNATURE_A
    assert fits([PUBLIC], headers(signature=SIGNATURE_A))


@pytest.mark.parametrize(
    "offered",
    [
        SIGNATURE_A.replace("v1a,", "v1,"),
        SIGNATURE_A.replace("v1a,", "v2a,"),
        SIGNATURE_A.replace("hnO3", "hnO4"),
        SIGNATURE_A[:-4],
        SIGNATURE_A + "AAAA",
        SIGNATURE_A.replace("/", "_"),
        SIGNATURE,
        "v1a,",
        "v1a,\u00ff",
        "garbage",
    ],
)
def test_refuses_of_the_asymmetric_kind(offered: str):
    assert not fits([PUBLIC], headers(signature=offered))


def test_a_signature_of_one_kind_is_none_of_the_other():
    # Whoever knows the public key must not be able to sign with it as if it were a secret.
    forged = signed_headers([PUBLIC.public_bytes_raw()], MESSAGE_ID, STAMP, BODY)
    assert not fits([PUBLIC], forged)
    assert not fits([PUBLIC], forged | {"webhook-signature": forged["webhook-signature"].replace("v1,", "v1a,")})
    assert not fits([PAIR[:32]], headers(signature=SIGNATURE_A))


def test_both_kinds_sign_during_rotation():
    secret = new_secret()
    sent = signed_headers([PRIVATE, secret], "m", STAMP, BODY)
    assert [part.split(",")[0] for part in sent["webhook-signature"].split(" ")] == ["v1a", "v1"]
    assert fits([PUBLIC], sent)
    assert fits([secret], sent)
    assert Webhook(shown(secret)).sign("m", NOW, BODY.decode()) in sent["webhook-signature"].split(" ")


def test_a_list_without_end_is_not_read_to_its_end():
    padding = "v1,AAAA " * MAX_SIGNATURES
    assert not fits([parsed(SECRET)], headers(signature=padding + SIGNATURE))
    assert fits([parsed(SECRET)], headers(signature=SIGNATURE + " " + padding))


def test_keys_are_read_as_they_are_shown():
    key = parsed_key(shown(PUBLIC))
    assert isinstance(key, Ed25519PublicKey)
    assert key.public_bytes_raw() == PAIR[32:]
    assert parsed_key(SECRET) == parsed(SECRET)
    assert shown(PUBLIC) == "whpk_" + base64.b64encode(PAIR[32:]).decode()


@pytest.mark.parametrize("text", ["whpk_", "whpk_AAAA", "whpk_***", shown(PUBLIC) + "AAAA"])
def test_broken_public_keys_are_refused(text: str):
    with pytest.raises(ValueError, match="public key"):
        parsed_key(text)


@pytest.mark.parametrize(
    "changed",
    [
        {"id": None},
        {"timestamp": None},
        {"signature": None},
        {"timestamp": "hello"},
        {"timestamp": "-1614265330"},
        {"timestamp": "1614265330.5"},
        {"timestamp": "١٦١٤٢٦٥٣٣٠"},
        {"timestamp": "9" * 400},
        {"signature": "v1,AAAA"},
        {"signature": "garbage"},
        {"signature": "v1,a,b"},
        {"signature": "v1,abc"},
        {"signature": "v1,ÿ"},
        {"signature": SIGNATURE.replace("v1,", "v2,")},
        {"signature": SIGNATURE.removeprefix("v1,")},
        {"id": "msg_other"},
    ],
)
def test_refuses(changed: dict[str, str | None]):
    with pytest.raises(SignatureRefused):
        verify([parsed(SECRET)], headers(**changed), BODY, NOW)


def test_another_body_or_secret_is_refused():
    with pytest.raises(SignatureRefused):
        verify([parsed(SECRET)], headers(), BODY + b" ", NOW)
    with pytest.raises(SignatureRefused):
        verify([new_secret()], headers(), BODY, NOW)
    with pytest.raises(SignatureRefused):
        verify([parsed(SECRET)], headers(), b"\xff\xfe", NOW)


@pytest.mark.parametrize("sign_of_time", [1, -1])
def test_tolerates_five_minutes_and_not_a_second_more(sign_of_time: int):
    assert fits([parsed(SECRET)], headers(), NOW + sign_of_time * timedelta(minutes=5))
    with pytest.raises(SignatureRefused, match="5 minutes"):
        verify([parsed(SECRET)], headers(), BODY, NOW + sign_of_time * timedelta(minutes=5, seconds=1))


def test_finds_the_right_one_in_a_list():
    several = " ".join(["v1,AAAA", "v2," + SIGNATURE[3:], "v1a,AAAA", SIGNATURE])
    assert fits([parsed(SECRET)], headers(signature=several))
    assert not fits([parsed(SECRET)], headers(signature=several.removesuffix(SIGNATURE)))
    upper = {name.upper(): value for name, value in headers().items()}
    assert fits([new_secret(), parsed(SECRET)], upper)


def test_both_secrets_sign_during_rotation():
    old, new = new_secret(), new_secret()
    sent = signed_headers([new, old], "m", STAMP, BODY)
    assert fits([old], sent)
    assert fits([new], sent)
    assert not fits([new_secret()], sent)


@pytest.mark.parametrize("length", [30, 31, 32])
def test_secrets_with_or_without_prefix_and_padding(length: int):
    secret = bytes(range(length))
    text = base64.b64encode(secret).decode()
    for form in (text, text.rstrip("="), "whsec_" + text, "whsec_" + text.rstrip("="), shown(secret)):
        assert parsed(form) == secret


@pytest.mark.parametrize("text", ["", "whsec_", "whsec_ä", "whsec_***", "whsec_a"])
def test_broken_secrets_are_refused(text: str):
    with pytest.raises(ValueError, match="secret"):
        parsed(text)


def test_new_secrets_are_32_random_bytes():
    assert len(new_secret()) == 32
    assert new_secret() != new_secret()


# As servers hand header values on: any text, also with halves of characters in it.
HEADER = st.text(st.characters(exclude_categories=())) | st.sampled_from([SIGNATURE, SIGNATURE_A, "v1", "v1a,", ","])


@given(st.lists(HEADER, max_size=4).map(" ".join), HEADER, HEADER, st.binary(max_size=40))
def test_whatever_comes_is_refused_in_words(offered: str, message_id: str, stamp: str, body: bytes):
    for timestamp in (stamp, str(STAMP)):
        sent = {"webhook-id": message_id, "webhook-timestamp": timestamp, "webhook-signature": offered}
        with pytest.raises(SignatureRefused):
            verify([parsed(SECRET), PUBLIC], sent, body, NOW)


@given(body=st.text().map(str.encode), message_id=st.uuids().map(str))
def test_agrees_with_the_official_library(body: bytes, message_id: str):
    secret = bytes(range(32))
    now = datetime.now(UTC)
    sent = signed_headers([secret], message_id, int(now.timestamp()), body)
    library = Webhook(shown(secret))
    assert library.sign(message_id, now, body.decode()) == sent["webhook-signature"]
    verify([secret], sent, body, now)
