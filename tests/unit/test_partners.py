"""What a partner may be called, where codes may be sent, and what partners of earlier versions are now."""

from datetime import UTC, datetime, timedelta
from typing import Any

import bson
import pytest

from services.auth.grants import GRANTS, Grant
from services.auth.keys import PARTNER_KEYS, PartnerKey, is_live
from services.auth.partners import PARTNERS, ClientSecret, Partner, holds, redirect_uri, secret_hash, shown_name
from shared.documents.codec import decode

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "name",
    ["", " ", "\u00a0", "x" * 81, "\ufdfa" * 10, "Oat\u202e oC", "Oat\u200bCo", "Oat\nCo", "Oat\tCo", "\ue000", "\x00"],
)
def test_a_name_that_cannot_be_seen_is_none(name: str) -> None:
    with pytest.raises(ValueError, match="characters that can be seen"):
        shown_name(name)


@pytest.mark.parametrize(
    ("text", "name"),
    [(" Oat  & Co ", "Oat & Co"), ("\uff2fat", "Oat"), ("Hafer\u00a0Müsli", "Hafer Müsli"), ("燕麦", "燕麦")],
)
def test_a_name_is_kept_as_people_read_it(text: str, name: str) -> None:
    assert shown_name(text) == name


@pytest.mark.parametrize(
    "uri",
    [
        "https://oat.example",
        "https://oat.example/",
        "https://oat.example/a?b=c&d=%C3%A4",
        "https://oat.example:8443/A",
        "https://192.0.2.1/callback",
        "http://127.0.0.1:8000/callback",
        "http://[::1]/callback",
        "http://localhost:3000/",
    ],
)
def test_a_good_redirect_uri_is_kept_to_the_letter(uri: str) -> None:
    assert redirect_uri(uri) == uri


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "/callback",
        "//oat.example/callback",
        "https:/oat.example/",
        "https://",
        "https:///callback",
        "https://:443/",
        "http://oat.example/callback",
        "http://127.0.0.1.evil.example/",
        "http://localhost.evil.example/",
        "http://127.0.0.2/",
        "http://[::2]/",
        "https://[::1",
        "https://oat.example/callback#part",
        "https://oat.example/callback#",
        "https://*.oat.example/",
        "https://oat.example/*",
        "https://user@oat.example/",
        "https://user:secret@oat.example/",
        "https://oat.example\\@evil.example/",
        "https://oat.example:99999/",
        "https://oat.example:0/",
        "https://oat.example:port/",
        "https://oat.example/ space",
        " https://oat.example/",
        "https://oat.example/\n",
        "https://oat.example/%zz",
        "https://oat.example/%",
        "https://oat.example;script-src/",
        "https://oat..example/",
        "https://-oat.example/",
        "https://oät.example/",
        "HTTPS://oat.example/",
        "javascript:alert(1)",
        "data:text/html,x",
        "oat-app://callback",
        "https://oat.example/" + "x" * 512,
    ],
)
def test_a_code_is_never_sent_there(uri: str) -> None:
    with pytest.raises(ValueError, match="an https address"):
        redirect_uri(uri)


def partner(*secrets: ClientSecret) -> Partner:
    return Partner(id="p", name="P", scopes=(), revision=1, state="active", secrets=secrets)


def secret(text: str, expires_at: datetime | None = None) -> ClientSecret:
    return ClientSecret(hash=secret_hash(text), created_at=NOON, expires_at=expires_at)


def test_a_secret_is_good_until_its_end() -> None:
    known = partner(secret("old", NOON + timedelta(hours=1)), secret("new"))
    assert [holds(known, text, NOON) for text in ("old", "new", "other", "")] == [True, True, False, False]
    assert [holds(known, text, NOON + timedelta(hours=1)) for text in ("old", "new")] == [False, True]


def test_nobody_holds_a_secret_that_was_never_given() -> None:
    # An empty slot must not be something that a text can hash to.
    for known in (None, partner()):
        assert not holds(known, "", NOON)
        assert not holds(known, "\x00" * 32, NOON)


# Documents as the released version wrote them.
PARTNER_V1: dict[str, Any] = {
    "outbox": [],
    "outbox_at": None,
    "name": "Demo partner",
    "scopes": ["days:read", "webhooks:write"],
    "revision": 2,
}
KEY_V1: dict[str, Any] = {
    "partner_id": "demo-partner",
    "scopes": ["days:read"],
    "created_at": NOON,
    "expires_at": None,
}
GRANT_V1: dict[str, Any] = {
    "outbox": [],
    "outbox_at": None,
    "user_id": "usr_1",
    "partner_id": "demo-partner",
    "scopes": ["days:read"],
    "revision": 2,
    "granted_at": NOON,
    "requests": [["k", "h"]],
}


def test_a_partner_of_version_1_is_active() -> None:
    read = decode(PARTNERS, "demo-partner", 3, 1, bson.encode(PARTNER_V1))
    assert read == Partner(
        id="demo-partner",
        version=3,
        name="Demo partner",
        scopes=("days:read", "webhooks:write"),
        revision=2,
        state="active",
    )


def test_a_key_of_before_is_good_without_an_end() -> None:
    read = decode(PARTNER_KEYS, "5c1f", 1, 1, bson.encode(KEY_V1))
    assert read == PartnerKey(id="5c1f", version=1, partner_id="demo-partner", scopes=("days:read",), created_at=NOON)
    assert is_live(read, NOON + timedelta(days=3650))


def test_a_grant_of_version_1_lives_since_its_first_revision() -> None:
    read = decode(GRANTS, "g", 2, 1, bson.encode(GRANT_V1))
    assert read == Grant(
        id="g",
        version=2,
        user_id="usr_1",
        partner_id="demo-partner",
        scopes=("days:read",),
        revision=2,
        granted_at=NOON,
        since_revision=1,
        since_at=NOON,
        requests=(("k", "h"),),
    )
