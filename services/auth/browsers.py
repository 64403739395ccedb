"""What a browser on auth's pages holds: one cookie under auth's secret, and forms' tokens that only fit that cookie.

Nothing of it is stored. A cookie says that a user signed in, for ten minutes; ending all of the user's sessions ends it
too, because whoever reads it compares `signed_in_at` with that moment.
"""

import base64
import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

SIGNED_IN = timedelta(minutes=10)
# Long enough to look for a phone with the second factor.
ANONYMOUS = timedelta(hours=1)
NONCE_BYTES = 16
MAX_COOKIE = 256
# A name with this prefix is taken from this very host over TLS alone (RFC 6265bis §4.1.3.2).
SECURE_NAME = "__Host-mymacro"
LOOPBACK_NAME = "mymacro"


@dataclass(frozen=True)
class Browser:
    """A browser. `user_id`: who signed in there at `since`, None for nobody."""

    nonce: str
    since: datetime
    user_id: str | None = None


class Browsers:
    """Makes and reads cookies and forms' tokens. `secret` has 32 bytes; `secure`: callers come over TLS."""

    def __init__(self, secret: bytes, *, secure: bool) -> None:
        if len(secret) < 32:
            raise ValueError("the secret of cookies needs 32 bytes")
        self._cookie_key = hmac.digest(secret, b"browser: cookie", "sha256")
        self._form_key = hmac.digest(secret, b"browser: form", "sha256")
        self._secure = secure
        self.cookie_name = SECURE_NAME if secure else LOOPBACK_NAME

    def new(self, now: datetime, user_id: str | None = None) -> Browser:
        """A browser never seen before, or after a sign-in; always of a fresh nonce, so no cookie can be foisted."""
        return Browser(secrets.token_urlsafe(NONCE_BYTES), now, user_id)

    def set_cookie(self, browser: Browser) -> str:
        """The value of `Set-Cookie`."""
        content = _content(browser)
        lasts = ANONYMOUS if browser.user_id is None else SIGNED_IN
        secure = "; Secure" if self._secure else ""
        return (
            f"{self.cookie_name}={content}.{_mac(self._cookie_key, content)}; Path=/; "
            f"Max-Age={lasts.total_seconds():.0f}; HttpOnly; SameSite=Lax{secure}"
        )

    def read(self, cookie: str | None, now: datetime) -> Browser | None:
        """The browser of a cookie's value; None when it is none of ours or over."""
        if not cookie or len(cookie) > MAX_COOKIE or not cookie.isascii():
            return None
        content, _, mac = cookie.rpartition(".")
        if not hmac.compare_digest(mac, _mac(self._cookie_key, content)):
            return None
        nonce, user_id, since_ms = content.split(".")
        browser = Browser(nonce, datetime.fromtimestamp(int(since_ms) / 1000, UTC), user_id or None)
        lasts = ANONYMOUS if browser.user_id is None else SIGNED_IN
        return browser if timedelta(0) <= now - browser.since < lasts else None

    def form_token(self, browser: Browser, purpose: str) -> str:
        """The token of a form for `purpose`, which says what the form does to what."""
        return _mac(self._form_key, f"{_content(browser)}\n{purpose}")

    def is_form_token(self, token: str, browser: Browser, purpose: str) -> bool:
        """Whether a form of this browser and purpose carried `token`."""
        return hmac.compare_digest(token.encode(errors="replace"), self.form_token(browser, purpose).encode())


def _content(browser: Browser) -> str:
    return f"{browser.nonce}.{browser.user_id or ''}.{round(browser.since.timestamp() * 1000)}"


def _mac(key: bytes, content: str) -> str:
    return base64.urlsafe_b64encode(hmac.digest(key, content.encode(), "sha256")).decode().rstrip("=")
