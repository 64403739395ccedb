"""Errors as the caller sees them: RFC 9457 problem documents, without values, traces or internals."""

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, cast

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import Erased, Problem, Unavailable
from shared.redaction import whereabouts
from shared.spans import mark_failed

logger = logging.getLogger(__name__)

TYPE_PREFIX = "https://mymacrotracker.dev/problems/"
MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 5
MAX_ERRORS = 100  # a body of 10,000 bad records must not be answered by 10,000 lines

# Statuses that the framework itself answers with, and what to do about them.
FRAMEWORK_PROBLEMS: dict[int, tuple[str, str]] = {
    400: ("bad-request", "The request could not be read; check its syntax."),
    401: ("unauthorized", "Send a valid token in the Authorization header."),
    403: ("forbidden", "This caller may not do that."),
    404: ("not-found", "There is nothing here for this caller."),
    405: ("method-not-allowed", "Use one of the methods in the Allow header."),
    413: ("too-large", "Send a smaller body."),
    415: ("unsupported-media-type", "Send one of the documented content types."),
}


class InvalidField(BaseModel):
    """Where a request is wrong, and how; never the value itself."""

    where: str = Field(examples=["body.samples.0.start"])
    message: str = Field(examples=["Field required"])


class ProblemDocument(BaseModel):
    """An error (RFC 9457). `type` is stable; `detail` says what to do next."""

    type: str = Field(examples=[f"{TYPE_PREFIX}invalid-request"])
    title: str
    status: int
    detail: str
    instance: str | None = None
    errors: list[InvalidField] | None = None


RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "A problem document (RFC 9457)",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}},
    }
}


def problem_response(problem: Problem, instance: str | None = None) -> Response:
    """`problem` as an `application/problem+json` answer."""
    document: dict[str, object] = {
        **problem.members,
        "type": TYPE_PREFIX + problem.code,
        "title": _title(problem.code),
        "status": problem.status,
        "detail": problem.detail,
    }
    if instance is not None:
        document["instance"] = instance
    return Response(to_json(document), problem.status, problem.headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem document, and describe it in the OpenAPI document."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _framework)
    app.add_exception_handler(Unavailable, _unavailable)
    app.add_exception_handler(Erased, _erased)
    # Innermost, so that the answer to a defect passes the trace's middleware like any other; Starlette would take a
    # handler of `Exception` to its outermost layer and raise again after it.
    app.user_middleware.append(Middleware(_DefectsAsProblems))
    app.router.responses = {**RESPONSES, **app.router.responses}
    _describe(app)


async def _problem(request: Request, error: Exception) -> Response:
    return problem_response(cast(Problem, error), request.scope["path"])


async def _erased(request: Request, _: Exception) -> Response:
    """Between the erasure and the last access token's end: the user is not there any more."""
    return problem_response(Problem(404, "not-found", "The account was erased."), request.scope["path"])


async def _invalid(request: Request, error: Exception) -> Response:
    problems = cast(RequestValidationError, error).errors()
    if any(each["type"] == "json_invalid" for each in problems):
        return problem_response(Problem(400, "not-json", "Send the body as JSON in UTF-8."), request.scope["path"])
    problem = Problem(422, "invalid-request", "Correct the listed fields and send the request again.")
    problem.members["errors"] = invalid_fields(problems)
    return problem_response(problem, request.scope["path"])


def invalid_fields(errors: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """pydantic's errors as `{where, message}`, without the values that were sent."""
    return [
        {"where": ".".join(str(part) for part in error["loc"]), "message": _message(error)}
        for error in errors[:MAX_ERRORS]
    ]


def _message(error: Mapping[str, Any]) -> str:
    # The text of an exception may quote the value; a validator whose words are for callers raises PydanticCustomError.
    if error["type"] in ("value_error", "assertion_error"):
        return "Value is not valid"
    if error["type"] == "json_invalid":
        return "Not valid JSON"
    return str(error["msg"])


async def _framework(request: Request, error: Exception) -> Response:
    failure = cast(HTTPException, error)
    code, detail = FRAMEWORK_PROBLEMS.get(failure.status_code, ("", "The request was refused."))
    if not code:
        code = HTTPStatus(failure.status_code).phrase.lower().replace(" ", "-").replace("'", "")
    headers = dict(failure.headers or {})
    if failure.status_code == 405:
        headers["Allow"] = ", ".join(sorted(_methods(request))) or headers.get("Allow", "")
    problem = Problem(failure.status_code, code, detail, headers=headers)
    return problem_response(problem, request.scope["path"])


def _methods(request: Request) -> set[str]:
    """What this path takes; Starlette names the methods of the first of its routes alone."""
    found: set[str] = set()
    for route in cast(FastAPI, request.app).routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            found |= set(getattr(route, "methods", None) or ())
    return found


async def _unavailable(request: Request, error: Exception) -> Response:
    system = cast(Unavailable, error).system
    logger.warning("%s does not answer", system)
    problem = Problem(
        503,
        f"{system}-unavailable",
        "Nothing was lost. Repeat the request, with the same Idempotency-Key, after the time in Retry-After.",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )
    return problem_response(problem, request.scope["path"])


class _DefectsAsProblems:
    """Answers 500 for an exception nobody expected, unless the answer has begun; it is logged once, here."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def sender(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, sender)
        except Exception as error:
            if begun:
                raise
            logger.error("unexpected error: %s", whereabouts(error))
            mark_failed(type(error).__name__)
            problem = Problem(500, "internal-error", "This is our fault and has been noted. Try again later.")
            await problem_response(problem, scope["path"])(scope, receive, send)


def _title(code: str) -> str:
    return code.replace("-", " ").capitalize()


def _describe(app: FastAPI) -> None:
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            _replace_validation_errors(document, schemas)
        return cast(dict[str, Any], app.openapi_schema)

    # FastAPI's own way to have another document.
    app.openapi = openapi  # type: ignore[method-assign]


def _replace_validation_errors(document: dict[str, Any], schemas: dict[str, Any]) -> None:
    # FastAPI describes its own 422 body, which nobody gets here.
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    problem = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(problem.pop("$defs", {}))
    schemas["ProblemDocument"] = problem
    for path in document["paths"].values():
        for operation in path.values():
            if isinstance(operation, dict):
                responses = cast(dict[str, Any], operation).get("responses", {})
                if "422" in responses and "HTTPValidationError" in str(responses["422"]):
                    del responses["422"]
