"""Receipt ids: the same request gives the same one, and only its own user's id is valid."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.receipts import PHOTO_PREFIX, RECEIPT_PREFIX, Ids

IDS = Ids(b"k" * 32)
REQUEST = (RECEIPT_PREFIX, "usr_1", "POST /v1/batches", "key-1", b"body")


def test_a_repeat_gives_the_same_id() -> None:
    assert IDS.make(*REQUEST) == IDS.make(*REQUEST)


@pytest.mark.parametrize(
    "other",
    [
        (RECEIPT_PREFIX, "usr_2", "POST /v1/batches", "key-1", b"body"),
        (RECEIPT_PREFIX, "usr_1", "PUT /v1/photos", "key-1", b"body"),
        (RECEIPT_PREFIX, "usr_1", "POST /v1/batches", "key-2", b"body"),
        (RECEIPT_PREFIX, "usr_1", "POST /v1/batches", "key-1", b"Body"),
        (RECEIPT_PREFIX, "usr_1P", "OST /v1/batches", "key-1", b"body"),
    ],
)
def test_any_other_request_gives_another_id(other: tuple[str, str, str, str, bytes]) -> None:
    assert IDS.make(*other) != IDS.make(*REQUEST)


def test_the_id_belongs_to_its_user_alone() -> None:
    made = IDS.make(*REQUEST)
    assert IDS.belongs(RECEIPT_PREFIX, "usr_1", made)
    assert not IDS.belongs(RECEIPT_PREFIX, "usr_2", made)
    assert not IDS.belongs(PHOTO_PREFIX, "usr_1", made)
    assert not Ids(b"x" * 32).belongs(RECEIPT_PREFIX, "usr_1", made)


def test_every_changed_character_is_seen() -> None:
    made = IDS.make(*REQUEST)
    for place in range(len(RECEIPT_PREFIX), len(made) - 1):
        other = "b" if made[place] == "a" else "a"
        assert not IDS.belongs(RECEIPT_PREFIX, "usr_1", made[:place] + other + made[place + 1 :])


@given(st.text(max_size=60))
def test_junk_is_nobodys(text: str) -> None:
    assert not IDS.belongs(RECEIPT_PREFIX, "usr_1", text)
    assert not IDS.belongs(RECEIPT_PREFIX, "usr_1", RECEIPT_PREFIX + text)


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Ids(b"short")
