"""The pages on which people sign in and say what a partner may do, and the headers that guard them."""

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from services.auth.authorization import Asked, origin_of

FOLDER = Path(__file__).parent / "pages"
# What each scope lets a partner do, as the end of "it can"; and what that means.
WORDS: dict[str, tuple[str, str]] = {
    "samples:read": ("see your measurements", "Steps, heart rate, sleep, workouts and whatever else your devices send"),
    "samples:write": ("add measurements", "In your name, as a device of yours would"),
    "days:read": ("see your daily totals", "Steps, energy, sleep and more, day by day"),
    "photos:read": ("see what was read from your label photos", ""),
    "photos:write": ("add label photos", "In your name"),
    "diary:read": ("see your food diary", "What you ate, and when"),
    "diary:write": ("change your food diary", "Add, change and delete entries"),
    "ledger:read": ("see your energy balance", "What you ate and spent, day by day"),
    "insights:read": ("see your insights", "What was found out from your data"),
    "live:read": ("be told at once when your data changes", ""),
}


@dataclass(frozen=True)
class Scope:
    """A scope as people read it. `stays`: it was granted before."""

    words: str
    more: str
    stays: bool


class Pages:
    """Renders the pages. They run no script, load nothing, and cannot be framed."""

    def __init__(self) -> None:
        self._templates = Environment(
            loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self._style = (FOLDER / "style.css").read_text()
        digest = base64.b64encode(hashlib.sha256(self._style.encode()).digest()).decode()
        self._style_source = f"'sha256-{digest}'"

    def sign_in(
        self, asked: Asked, action: str, *, form_token: str, cancel: str, email: str, message: str, asks_code: bool
    ) -> Response:
        """Where a person signs in, or leaves to `cancel`; `message` says what was wrong before."""
        return self._page(
            "sign_in.html",
            "'self'",
            action=action,
            partner=asked.partner.name,
            form_token=form_token,
            cancel=cancel,
            email=email,
            message=message,
            asks_code=asks_code,
        )

    def consent(
        self, asked: Asked, action: str, *, form_token: str, sign_out_token: str, email: str, granted: tuple[str, ...]
    ) -> Response:
        """Where a signed-in person decides. `granted`: the scopes that the partner has already."""
        return self._page(
            "consent.html",
            _led_to(asked.redirect_uri),
            action=action,
            partner=asked.partner.name,
            host=origin_of(asked.redirect_uri).partition("://")[2],
            form_token=form_token,
            sign_out_token=sign_out_token,
            email=email,
            known=bool(granted),
            asked=[_shown(scope, stays=scope in granted) for scope in asked.scopes],
            ending=[_shown(scope, stays=True) for scope in granted if scope not in asked.scopes],
        )

    def refused(self, reason: str, status: int = 400) -> Response:
        """Why there is nothing to decide."""
        answer = self._page("refused.html", "'none'", reason=reason)
        answer.status_code = status
        return answer

    def _page(self, template: str, forms_lead_to: str, **values: object) -> Response:
        style = Markup(self._style)  # noqa: S704 - our own file, which no caller has a hand in
        content = self._templates.get_template(template).render(style=style, **values)
        policy = (
            f"default-src 'none'; style-src {self._style_source}; form-action {forms_lead_to}; "
            "frame-ancestors 'none'; base-uri 'none'"
        )
        headers = {
            "Content-Security-Policy": policy,
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }
        return Response(content, headers=headers, media_type="text/html; charset=utf-8")


def _led_to(redirect_uri: str) -> str:
    """Where the form of a decision leads to.

    Chromium holds every redirect after a form to this, those of the partner's own server too, and nobody knows where
    that sends its users. Nothing is typed into that form.
    """
    return "'self' https:" if urlsplit(redirect_uri).scheme == "https" else "'self' https: http:"


def _shown(scope: str, *, stays: bool) -> Scope:
    words, more = WORDS[scope]
    return Scope(words, more, stays)
