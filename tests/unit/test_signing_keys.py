"""Which key of access tokens signs, and which are published, by the clock alone."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.auth.signing import PUBLISHED_AHEAD, READ_AGAIN_S, TOKENS_LAST, SigningKeys, add_key
from shared.keys import generate_key_files, load_private_jwk

NOW = datetime(2026, 3, 1, 8, tzinfo=UTC)
AGAIN = timedelta(seconds=READ_AGAIN_S)


@pytest.fixture
def first(tmp_path: Path) -> Path:
    generate_key_files(tmp_path)
    return tmp_path / "auth.jwk"


def kids(keys: SigningKeys, now: datetime) -> list[str]:
    return [key["kid"] for key in keys.jwks(now)["keys"]]


def kid(path: Path) -> str:
    return str(load_private_jwk(path).kid)


def test_one_key_signs_and_is_published(first: Path) -> None:
    keys = SigningKeys(first)
    assert keys.signing(NOW).kid == kid(first)
    assert kids(keys, NOW) == [kid(first)]


def test_a_new_key_is_published_first_signs_later_and_the_old_one_stays_for_its_tokens(first: Path) -> None:
    keys = SigningKeys(first)
    assert keys.signing(NOW).kid == kid(first)
    path, signs_from = add_key(first, NOW)
    assert signs_from == NOW + PUBLISHED_AHEAD
    both = [kid(first), kid(path)]
    assert kids(keys, NOW + AGAIN) == both
    last = signs_from - timedelta(seconds=1)
    assert keys.signing(last).kid == kid(first)
    assert keys.signing(signs_from).kid == kid(path)
    assert kids(keys, signs_from + TOKENS_LAST - timedelta(seconds=1)) == both
    assert kids(keys, signs_from + TOKENS_LAST) == [kid(path)]


def test_rotating_twice_at_once_leaves_every_token_its_key(first: Path) -> None:
    second, _ = add_key(first, NOW)
    third, signs_from = add_key(first, NOW + timedelta(seconds=2))
    keys = SigningKeys(first)
    assert keys.signing(NOW + PUBLISHED_AHEAD + timedelta(seconds=1)).kid == kid(second)
    assert keys.signing(signs_from).kid == kid(third)
    assert kids(keys, signs_from) == [kid(first), kid(second), kid(third)]
    assert kids(keys, signs_from + TOKENS_LAST) == [kid(third)]


def test_the_same_moment_makes_one_key(first: Path) -> None:
    path, _ = add_key(first, NOW)
    content = path.read_text()
    assert add_key(first, NOW)[0] == path
    assert path.read_text() == content
    assert path.stat().st_mode & 0o077 == 0


def test_files_that_only_look_alike_are_left_alone(first: Path) -> None:
    for name in ("auth-old.jwk", "auth-12.jwk.bak", "auth-.jwk"):
        (first.parent / name).write_text("junk")
    assert kids(SigningKeys(first), NOW) == [kid(first)]


def test_a_broken_new_key_does_not_take_the_known_ones_away(first: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = SigningKeys(first)
    broken = first.with_name(f"auth-{int(NOW.timestamp())}.jwk")
    broken.write_text(json.dumps({"kty": "oct", "k": "c2VjcmV0"}))
    assert keys.signing(NOW + AGAIN).kid == kid(first)
    assert "cannot be read" in caplog.text
    broken.unlink()
    path, signs_from = add_key(first, NOW)
    assert keys.signing(signs_from).kid == kid(path)


@pytest.mark.parametrize("content", ["", "{}", "[]", "1", '{"kty": "oct", "k": "c2VjcmV0"}', '{"kty": "OKP"}'])
def test_a_broken_key_stops_the_start(first: Path, content: str) -> None:
    first.with_name("auth-1.jwk").write_text(content)
    with pytest.raises(ValueError, match=r"auth-1\.jwk is not"):
        SigningKeys(first)
