"""The page of settings: every one of them, what must fit together, and no secret."""

from infra.local.settings_page import settings_page
from services.gateway.settings import Settings


def test_the_page_has_every_setting_once_and_the_rules() -> None:
    page = settings_page()
    for name in Settings.model_fields:
        assert page.count(f"| `{name.upper()}` |") == 1
    assert "* `GATEWAY_INSTANCES`, `GATEWAY_RATES_URL`: " in page
    assert page.count("no two services can answer at one address") == 1
    assert "SecretStr" not in page
