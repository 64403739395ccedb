"""Where S3 answers and the key for it, as the environment gives them."""

from pathlib import Path

import pytest

from shared.objects import open_objects
from shared.s3_objects import S3Access, access_of
from shared.settings import ServiceSettings

URL = "s3://pictures/prefix"


def test_the_settings_lead_to_the_key(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from-the-file\n")
    settings = {
        "objects_url": URL,
        "objects_s3_endpoint": "https://s3.example.com",
        "objects_s3_region": "eu-1",
        "objects_s3_access_key_id": "id",
    }
    by_file = ServiceSettings(**settings, objects_s3_secret_access_key_path=tmp_path / "secret")
    assert access_of(by_file) == S3Access("https://s3.example.com", "eu-1", "id", "from-the-file")
    both = ServiceSettings(
        **settings, objects_s3_secret_access_key="s", objects_s3_secret_access_key_path=tmp_path / "-"
    )
    assert access_of(both).secret_access_key == "s"
    assert "s3cr3t" not in repr(ServiceSettings(**settings, objects_s3_secret_access_key="s3cr3t"))
    assert access_of(ServiceSettings()) == S3Access()
    with pytest.raises(ValueError, match=r"OBJECTS_S3_SECRET_ACCESS_KEY_PATH: name a file .*No such file") as refused:
        open_objects(ServiceSettings(**settings, objects_s3_secret_access_key_path=tmp_path / "-"))
    assert str(tmp_path) not in str(refused.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"objects_s3_access_key_id": "id"},
        {"objects_s3_secret_access_key": "secret"},
        {"objects_s3_endpoint": "https://s3.example.com"},
    ],
)
def test_half_a_key_is_refused_by_name(settings: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="OBJECTS_S3_SECRET_ACCESS_KEY"):
        open_objects(ServiceSettings(objects_url=URL, **settings))
    assert open_objects(ServiceSettings(**settings)), "a folder needs no key"


@pytest.mark.parametrize("endpoint", ["s3.example.com", "ftp://s3.example.com", "https://id:secret@s3.example.com"])
def test_an_endpoint_is_an_address_without_a_key(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("OBJECTS_S3_ENDPOINT", endpoint)
    with pytest.raises(ValueError, match="objects_s3_endpoint"):
        ServiceSettings()
