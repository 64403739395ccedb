"""What is an address, and what is none: letters go to the one that was given, and nowhere else."""

from email.utils import getaddresses
from pathlib import Path

import pytest

from services.auth.accounts import normalised_address
from services.auth.mail import FileMail, Letter


@pytest.mark.parametrize(
    "text",
    [
        "eve@example.org,ada@example.org",
        "eve@example.org;ada@example.org",
        "x<ada@example.org",
        "x<ada@example.org>@example.com",
        "\uff1cada@example.org\uff1e.com",
        "all:ada@example.org;@example.com",
        "(eve)ada@example.org",
        '"ada"@example.org',
        "ada\\@example.org",
        "=?utf-8?q?ada=40example.org=2c?=@example.com",
        "ada@eve@example.org",
        "ada@[192.0.2.1]",
        "ada@example.org\nbcc:eve@example.org",
        "ada @example.org",
        "ada@example",
        "@example.org",
        "a" * 250 + "@example.org",
    ],
)
def test_what_letters_would_read_otherwise_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="an e-mail address"):
        normalised_address(text)


@pytest.mark.parametrize(
    "text", ["ada@example.org", "Ada.Lovelace+1815@Example.ORG", "o'hara_{x}|?!#$%&*/=^`~-@a-b.example.org"]
)
async def test_a_letter_goes_to_the_one_address(text: str, tmp_path: Path) -> None:
    address = normalised_address(f" {text} ")
    assert address == text.lower()
    await FileMail(tmp_path, "us@example.org").send(Letter(address, "Subject", "Text"))
    (file,) = tmp_path.glob("*.eml")
    (line,) = (line for line in file.read_bytes().split(b"\r\n") if line.startswith(b"To: "))
    assert getaddresses([line.decode()[4:]]) == [("", address)]
