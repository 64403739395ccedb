"""What a client asks of the authorization endpoint, and how it is answered (RFC 6749 §4.1, RFC 7636, RFC 9207).

Until client and redirect URI are known to belong together, an error is a page for the person who sees it. After that
it is sent to the client.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit

from services.auth.codes import is_challenge
from services.auth.partners import Partner
from shared.callers import GRANTABLE_SCOPES

MAX_FIELDS = 32
# The forms of the pages go where it stands again, and the gateway takes addresses of 4 KiB.
MAX_QUERY = 4000
METHOD = "S256"
# What is asked, and what else is looked at; the rest of a query is ignored, as RFC 6749 §3.1 has it.
OTHERS = ("response_mode", "request", "request_uri")
ASKED = ("client_id", "redirect_uri", "response_type", "scope", "state", "code_challenge", "code_challenge_method")


@dataclass(frozen=True)
class Asked:
    """A request that is in order. `query` says the same again, for the forms of its pages."""

    partner: Partner
    redirect_uri: str
    state: str | None
    scopes: tuple[str, ...]
    challenge: str
    query: str


class NotTrusted(Exception):
    """There is no client to send an error to: `reason` is for the person who sees the page."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class SentBack(Exception):
    """The client is told `error` (RFC 6749 §4.1.2.1) by a redirect to `redirect_uri`."""

    def __init__(self, redirect_uri: str, state: str | None, error: str, description: str) -> None:
        super().__init__(error)
        self.redirect_uri = redirect_uri
        self.state = state
        self.error = error
        self.description = description


def fields_of(content: bytes) -> list[tuple[str, str]]:
    """The fields of a query or form; those without a value count as left out (RFC 6749 §3.1).

    Raises:
        ValueError: it cannot be read, or has more than 32 fields.
    """
    text = content.decode("ascii")
    pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    return [(name, value) for name, value in pairs if value]


def client_named(fields: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """The client's id and the redirect URI. Raises NotTrusted."""
    ids = [value for name, value in fields if name == "client_id"]
    uris = [value for name, value in fields if name == "redirect_uri"]
    if len(ids) != 1 or len(uris) != 1:
        raise NotTrusted("The link that brought you here is not complete.")
    return ids[0], uris[0]


def read(fields: Sequence[tuple[str, str]], partner: Partner | None) -> Asked:
    """What is asked, of the partner that the fields name.

    Raises:
        NotTrusted: it has no such redirect URI, or may not ask anything.
        SentBack: anything else is wrong.
    """
    _, redirect_uri = client_named(fields)
    if partner is None or partner.state != "active":
        raise NotTrusted("The app that sent you here is not known, or may not ask for your data.")
    if redirect_uri not in partner.redirect_uris:
        raise NotTrusted("The app that sent you here did not say before where you would be sent back to.")
    states = [value for name, value in fields if name == "state"]
    state = states[0] if len(states) == 1 else None

    def refused(error: str, description: str) -> SentBack:
        return SentBack(redirect_uri, state, error, description)

    given = dict(fields)
    names = [name for name, _ in fields if name in (*ASKED, *OTHERS)]
    if len(set(names)) != len(names):
        raise refused("invalid_request", "Send each parameter once.")
    for is_wrong, error, description in _checks(given):
        if is_wrong:
            raise refused(error, description)
    scopes = split_scopes(given.get("scope", ""))
    if not scopes or not set(scopes) <= set(partner.scopes) & set(GRANTABLE_SCOPES):
        raise refused("invalid_scope", "Ask for scopes that this client is registered for and users can grant.")
    query = urlencode([(name, given[name]) for name in ASKED if name in given])
    if len(query) > MAX_QUERY:
        raise refused("invalid_request", "Send a shorter state.")
    return Asked(partner, redirect_uri, state, scopes, given["code_challenge"], query)


def _checks(given: Mapping[str, str]) -> tuple[tuple[bool, str, str], ...]:
    """What can be wrong with a client's request besides its scopes: whether it is, the error, what to do."""
    kind, challenge = given.get("response_type"), given.get("code_challenge", "")
    proves = given.get("code_challenge_method") == METHOD and is_challenge(challenge)
    return (
        ("request" in given, "request_not_supported", "Send the parameters one by one."),
        ("request_uri" in given, "request_uri_not_supported", "Send the parameters one by one."),
        (kind is None, "invalid_request", "Send response_type=code."),
        (kind != "code", "unsupported_response_type", "Only response_type=code is served."),
        (given.get("response_mode", "query") != "query", "invalid_request", "Only response_mode=query is served."),
        (not proves, "invalid_request", "Send a PKCE code_challenge with code_challenge_method=S256."),
    )


def answered(redirect_uri: str, state: str | None, issuer: str, values: Mapping[str, str]) -> str:
    """Where the browser goes with the answer: `values`, the state as it came, and who answers (RFC 9207)."""
    fields = [*values.items(), *([("state", state)] if state is not None else []), ("iss", issuer)]
    separator = "&" if urlsplit(redirect_uri).query else "?"
    return f"{redirect_uri.removesuffix('?')}{separator}{urlencode(fields)}"


def origin_of(redirect_uri: str) -> str:
    """Scheme, host and port of a redirect URI."""
    parts = urlsplit(redirect_uri)
    return f"{parts.scheme}://{parts.netloc}"


def split_scopes(text: str) -> tuple[str, ...]:
    """The scopes of a `scope` parameter, once each and in order."""
    return tuple(sorted(set(text.split(" ")) - {""}))
