"""Headers of a partner's own: which ones go out, and that nothing else can be smuggled in by them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.webhooks.custom_headers import MAX_HEADERS, MAX_VALUE, REFUSED, checked


def test_names_are_lower_case_and_sorted():
    assert checked({"X-Stage": "two words", "api-version": "1"}) == (("api-version", "1"), ("x-stage", "two words"))


@pytest.mark.parametrize(
    "name",
    [
        *sorted(REFUSED), "Host", "HOST", "Content-Length", "Transfer-Encoding", "Connection", "Authorization",
        "Cookie", "webhook-id", "Webhook-Signature", "webhook-replay", "proxy-authorization", "Proxy-Connection",
        "Sec-Fetch-Site", "X-Forwarded-For", "x-aws-ec2-metadata-token", "X-Google-Metadata-Request", "",
        "Webhook_Id", "X_Forwarded_For", "Content_Length", "Transfer_Encoding", "x_stage", "x.stage", "X-Real_IP",
        "Content-Disposition", "If-None-Match", "True-Client-IP", "CF-Connecting-IP", "svix-id", "Set-Cookie",
        "X-Method-Override", "X-HTTP-Method-Override", "Forwarded", "X-Real-IP",
        " x", "x ", "x y", "x:y", "x\r\ny", "x\ny", "x\x00", "(x)", "x\u00e9", "\u212aeep-alive", "x" * 65,
    ],
)  # fmt: skip
def test_refused_names(name: str):
    with pytest.raises(ValueError, match="header"):
        checked({name: "1"})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Webhook_Id", "The header Webhook_Id has another name than 1 to 64 letters, digits and hyphens; rename it"),
        ("CF-Connecting-IP", "The header CF-Connecting-IP is not yours to set; leave it out, or take a name of your "),
        ("x\r\ny", "The header number 2 has another name"),
        ("ada@example.org", "The header number 2 has another name"),
    ],
)
def test_a_refusal_says_which_header_and_what_to_do(name: str, said: str):
    with pytest.raises(ValueError, match="header") as refused:
        checked({"x-stage": "1", name: "1"})
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize(
    "value",
    ["", " ", " 1", "1 ", "1\r\nwebhook-id: 2", "1\n", "\n1", "1\r", "1\x00", "1\t2", "1\x7f", "\u00e9", "1\u2028",
     "1\x0b", "x" * (MAX_VALUE + 1)],
)  # fmt: skip
def test_refused_values(value: str):
    with pytest.raises(ValueError, match="The header x-stage needs a value") as refused:
        checked({"x-stage": value})
    assert len(value.strip()) < 2 or value not in str(refused.value)


def test_each_name_once_and_ten_at_most():
    with pytest.raises(ValueError, match="twice"):
        checked({"x-stage": "1", "X-Stage": "2"})
    assert len(checked({f"x-{number}": "1" for number in range(MAX_HEADERS)})) == MAX_HEADERS
    with pytest.raises(ValueError, match="at most 10"):
        checked({f"x-{number}": "1" for number in range(MAX_HEADERS + 1)})


@given(st.dictionaries(st.text(max_size=70), st.text(max_size=30), max_size=4))
def test_whatever_passes_is_one_line(headers: dict[str, str]):
    try:
        passed = checked(headers)
    except ValueError:
        return
    line = "\r\n".join(f"{name}: {value}" for name, value in passed)
    assert len(line.splitlines()) == len(headers)
    assert all(name.isascii() and value.isascii() and value == value.strip() for name, value in passed)
