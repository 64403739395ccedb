"""The public OpenAPI document: the services' own documents, cut down to the routing table and merged."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any, cast

from services.gateway.routes import ROUTES, Route

INFO = {
    "title": "MyMacroTracker",
    "version": "1",
    "description": "Nutrition and fitness data: send it, read it, get told when it changes. Errors are RFC 9457 "
    "problem documents; what creates something needs an Idempotency-Key and may be repeated under it.",
}
SECURITY = {
    "user": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "A user's access token"},
    "partner": {
        "type": "http",
        "scheme": "bearer",
        "description": "A partner's API key, mmt_…, or its access token (client credentials)",
    },
}
ALLOWED_BY: dict[str, list[dict[str, list[str]]]] = {
    "anyone": [],
    "user": [{"user": []}],
    "partner": [{"partner": []}],
    "signed-in": [{"user": []}, {"partner": []}],
}
KEY_PARAMETER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": True,
    "description": "Such as a fresh UUID; repeat a request under the same key",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}
USER_PARAMETER = {
    "name": "user",
    "in": "query",
    "required": False,
    "description": "A partner's key or token names here the user whose data is meant, who must have granted the scope. "
    "Users themselves leave it out.",
    "schema": {"type": "string", "minLength": 1},
}
SCHEMAS = "#/components/schemas/"
RATE_LIMITED: dict[str, Any] = {
    "description": "Too many calls (`rate-limited`, with `limit` and `retry_after_s`), or what the detail says. "
    "Nothing was taken: send it again after the time in Retry-After, under the same Idempotency-Key.",
    "headers": {
        "Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer", "minimum": 1}},
        "RateLimit-Policy": {
            "description": 'Each limit of this call, on every answer: `"user-read";q=1200;w=60` is 1200 at once, and '
            "1200 every 60 s",
            "schema": {"type": "string"},
        },
        "RateLimit": {
            "description": 'What is left of each, on every answer: `"user-read";r=1100;t=5` is 1100 at once; in 5 s '
            "all of the quota is there again or, after a 429, one call is",
            "schema": {"type": "string"},
        },
    },
    "content": {"application/problem+json": {"schema": {"$ref": f"{SCHEMAS}ProblemDocument"}}},
}


def merge(documents: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """One document out of each service's own (by service name, "gateway" among them).

    Routes outside the routing table are left out, and so are schemas that nothing refers to. Schemas of one name
    but different content get their service's name in front.
    """
    paths: dict[str, dict[str, Any]] = {}
    schemas: dict[str, Any] = {}
    for service in sorted(documents):
        document = copy.deepcopy(documents[service])
        operations = list(_operations(document, service))
        own = _reachable([operation for _, operation in operations], document)
        names = {name: _free_name(name, schema, schemas, service) for name, schema in own.items()}
        for name, schema in own.items():
            schemas[names[name]] = _renamed(schema, names)
        for route, operation in operations:
            described = _described(route, _renamed(operation, names))
            paths.setdefault(route.path, {})[route.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": INFO,
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": dict(sorted(schemas.items())), "securitySchemes": SECURITY},
    }


def _operations(document: Mapping[str, Any], service: str) -> Iterator[tuple[Route, dict[str, Any]]]:
    for route in ROUTES:
        operation = document.get("paths", {}).get(route.path, {}).get(route.method.lower())
        if route.service == service and operation is not None:
            yield route, operation


def _described(route: Route, operation: dict[str, Any]) -> dict[str, Any]:
    """The operation with what the gateway knows of it."""
    operation["operationId"] = f"{route.method} {route.path}"
    operation["security"] = ALLOWED_BY[route.caller]
    if route.scope is not None:
        operation["x-required-scope"] = route.scope
    operation["responses"] = dict(sorted({**operation.get("responses", {}), "429": RATE_LIMITED}.items()))
    if route.about_users:
        operation["security"] = ALLOWED_BY["signed-in"]
        operation["parameters"] = [*operation.get("parameters", []), USER_PARAMETER]
    if route.keyed:
        others = [p for p in operation.get("parameters", []) if str(p.get("name", "")).lower() != "idempotency-key"]
        operation["parameters"] = [*others, KEY_PARAMETER]
    return operation


def _reachable(roots: list[dict[str, Any]], document: Mapping[str, Any]) -> dict[str, Any]:
    """The document's schemas that the operations refer to, directly or not."""
    known: dict[str, Any] = document.get("components", {}).get("schemas", {})
    found: dict[str, Any] = {}
    waiting = [name for root in roots for name in _references(root)]
    while waiting:
        name = waiting.pop()
        if name not in found and name in known:
            found[name] = known[name]
            waiting.extend(_references(known[name]))
    return found


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in cast(dict[str, Any], node).items():
            if key == "$ref" and isinstance(value, str) and value.startswith(SCHEMAS):
                yield value.removeprefix(SCHEMAS)
            else:
                yield from _references(value)
    elif isinstance(node, list):
        for item in cast(list[Any], node):
            yield from _references(item)


def _free_name(name: str, schema: Any, taken: Mapping[str, Any], service: str) -> str:
    return name if name not in taken or taken[name] == schema else f"{service.capitalize()}{name}"


def _renamed(node: Any, names: Mapping[str, str]) -> Any:
    if isinstance(node, dict):
        schema = cast(dict[str, Any], node)
        return {key: _renamed_value(key, value, names) for key, value in schema.items()}
    if isinstance(node, list):
        return [_renamed(item, names) for item in cast(list[Any], node)]
    return node


def _renamed_value(key: Any, value: Any, names: Mapping[str, str]) -> Any:
    if key == "$ref" and isinstance(value, str) and value.startswith(SCHEMAS):
        name = value.removeprefix(SCHEMAS)
        return SCHEMAS + names.get(name, name)
    return _renamed(value, names)
