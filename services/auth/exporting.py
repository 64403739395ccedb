"""What users are given of auth's documents when they ask for everything, and the text that explains the whole."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from services.auth.accounts import User, public_profile
from services.auth.audit import BY_USER, LINES
from services.auth.audit_api import security_event
from services.auth.codes import CODES
from services.auth.export_documents import EXPORTS, PartFile
from services.auth.grants import GRANTS, Grant
from services.auth.grants import USER_INDEX as GRANTS_OF_USER
from services.auth.session_documents import CUTOFFS, ENDED_INDEX, LIVE_INDEX, SESSIONS, Session
from services.auth.store import RESETS, USERS
from shared.exported import Contents, File, NotExported, rows

README = "README.txt"


def _profile(user: User) -> dict[str, Any] | None:
    if user.erased_at is not None:
        return None
    return {
        "user_id": user.id,
        "email": user.email,
        "created_at": user.created_at,
        "profile": public_profile(user.profile).model_dump(mode="json"),
        "second_factor": user.second_factor is not None,
        "managed_by": user.managed_by,
    }


def _session(session: Session) -> dict[str, Any]:
    return {
        "session_id": session.id,
        "device": session.device,
        "partner_id": session.partner_id,
        "scopes": session.share.scopes if session.share is not None else None,
        "created_at": session.created_at,
        "last_used_at": session.last_used_at,
        "ends_at": session.ends_at,
        "ended_at": session.ended_at,
        "end_reason": session.end_reason,
    }


def _grant(grant: Grant) -> dict[str, Any]:
    return {
        "grant_id": grant.id,
        "partner_id": grant.partner_id,
        "scopes": grant.scopes,
        "revision": grant.revision,
        "granted_at": grant.granted_at,
        "since_at": grant.since_at,
        "revoked_at": grant.revoked_at,
    }


CONTENTS: Contents = (
    File(
        "profile.jsonl",
        "Your account; not what only proves who you are: hashes of your password, codes and networks, and the "
        "authenticator's secret",
        (USERS,),
        rows(USERS, _profile),
    ),
    File(
        "sign_ins.jsonl",
        "Your sessions of the last 30 days, in your own apps and at partners",
        (SESSIONS,),
        rows(SESSIONS, _session, LIVE_INDEX, ENDED_INDEX),
    ),
    File(
        "grants.jsonl",
        "What you let partners see, or did until revoked_at",
        (GRANTS,),
        rows(GRANTS, _grant, GRANTS_OF_USER),
    ),
    File(
        "security_events.jsonl",
        "What happened to your account: sign-ins, wrong passwords, changes",
        (LINES,),
        rows(LINES, security_event, BY_USER),
    ),
    NotExported(CUTOFFS, "when all your sessions ended last, which sign_ins.jsonl shows"),
    NotExported(RESETS, "hashes of codes that set a new password, for half an hour"),
    NotExported(CODES, "hashes of codes that let partners sign in for a minute"),
    NotExported(EXPORTS, "says only when exports like this one were asked for, which security_events.jsonl shows"),
)


def readme(user_id: str, at: datetime, files: Sequence[PartFile]) -> bytes:
    """The text that explains an export made at `at`."""
    names = sorted(files, key=lambda one: one.name)
    listed = "\n".join(f"{one.name}  ({one.rows})\n    {one.about}" for one in names)
    return f"""MyMacroTracker: everything that is held of user {user_id}
Put together on {at:%Y-%m-%d} at {at:%H:%M:%S} UTC. What came or changed since then is not in it.

How to read it
* Files that end in .jsonl hold one JSON object a line, in UTF-8 (JSON Lines). The fields have the names that the API
  uses; its documentation explains them. null means unknown, which is not zero.
* Times are RFC 3339. A sample bears the offset of the clock that it was taken by, and Z (UTC) where that is unknown;
  zones.jsonl says where your clock stood then. All other times are UTC. A "date" is a local day of yours.
* Units are UCUM and stand below or in a field's name (_kcal, _g, _mg, _s). Energy and nutrients are decimal numbers
  in quotes, so that no digit is lost.
* samples/ holds each sample once as its device sent it, corrected where the device corrected it, and none that you
  deleted; devices that measured the same time are all there. days.jsonl is what came of them together.

What is in it (number of lines, or of files in a folder)

{listed}
""".encode()
