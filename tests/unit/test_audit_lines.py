"""Lines of the audit log: where from, by whom, and how much."""

from typing import Any

import pytest

from services.auth import audit
from services.auth.audit import KINDS, coarse
from shared.callers import ANONYMOUS, OPERATOR_SCOPE, Caller
from shared.clock import utc_now


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("198.51.100.7", "198.51.100.0/24"),
        ("::ffff:198.51.100.7", "198.51.100.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1::/48"),
        ("", ""),
        ("unix:", ""),
        ("ada@example.org", ""),
    ],
)
def test_an_address_is_kept_as_its_network_alone(address: str, network: str) -> None:
    assert coarse(address) == network


@pytest.mark.parametrize(
    ("caller", "actor"),
    [
        (None, "system"),
        (ANONYMOUS, "nobody"),
        (Caller("usr_a"), "user"),
        (Caller("usr_a", "par_b"), "partner"),
        (Caller(None, "par_b"), "partner"),
        (Caller(None, None, frozenset({OPERATOR_SCOPE})), "operator"),
    ],
)
def test_who_did_it_follows_from_the_token(caller: Caller | None, actor: str) -> None:
    line: Any = audit.line("grant-revoked", utc_now(), asked=audit.Origin(caller)).document
    assert (line.actor, line.partner_id) == (actor, caller.partner_id if caller else None)


def test_a_line_takes_no_more_than_it_should() -> None:
    line: Any = audit.line("partner-changed", utc_now(), details=["x" * 500] * 500, about="y" * 500).document
    assert (len(line.details), len(line.details[0]), len(line.about)) == (40, 80, 80)
    assert line.kind in KINDS
