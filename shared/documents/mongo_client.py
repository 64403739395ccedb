"""A client of MongoDB as durable and as patient as the port promises, and how the server's failures are told apart."""

import logging
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pymongo import AsyncMongoClient
from pymongo.errors import ConfigurationError, InvalidURI, OperationFailure, PyMongoError
from pymongo.uri_parser import parse_uri

from shared.errors import Unavailable

logger = logging.getLogger(__name__)
Client = AsyncMongoClient[dict[str, Any]]

ANSWER_SECONDS = 5.0
# Older servers take no names with dots and dollar signs inside of documents.
OLDEST = [5, 0]
# What an URL may set otherwise. A service needs few connections at a time, and a cluster has many services.
DEFAULTS: dict[str, Any] = {"timeoutMS": int(ANSWER_SECONDS * 1000), "maxPoolSize": 32}
# What it may not: a write is answered once a majority has it in its journal, and nothing is read that could be undone.
DURABLE: dict[str, Any] = {
    "w": "majority",
    "journal": True,
    "readConcernLevel": "majority",
    "readPreference": "primary",
}
# BadValue, FailedToParse, TypeMismatch, PathNotViable, ConflictingUpdateOperators, DollarPrefixedFieldName,
# NotSingleValueField, CommandNotFound, ImmutableField, InvalidNamespace: what we asked was wrong.
DEFECTS = frozenset({2, 9, 14, 28, 40, 52, 54, 59, 66, 73})
UNREADABLE = "DATABASE_URL names a file of certificates or keys (tls…File) that cannot be read"
WRONG_PASSWORD, NOT_ALLOWED = 18, 13


def checked(url: str) -> tuple[str, str]:
    """The database that `url` names, and the servers as host:port, for messages.

    Raises:
        ValueError: PyMongo cannot read the URL, or a file that it names, or it names no database. The message never
            quotes the URL.
    """
    try:
        parsed = parse_uri(url)
    except (InvalidURI, ConfigurationError, ValueError):
        raise ValueError("DATABASE_URL is not mongodb://[user:password@]host[:port]/database[?options]") from None
    except OSError:
        raise ValueError(UNREADABLE) from None
    database = parsed["database"]
    if not database:
        raise ValueError("DATABASE_URL names no database: mongodb://host/database")
    return database, ", ".join(f"{host}:{port}" for host, port in parsed["nodelist"])


def connected(url: str, service: str) -> Client:
    """A client; it connects with its first command.

    Raises:
        Unavailable: ("database") its certificates cannot be read; the log says so.
    """
    said = {name.lower() for name, _ in parse_qsl(urlsplit(url).query)}
    defaults = {name: value for name, value in DEFAULTS.items() if name.lower() not in said}
    try:
        return AsyncMongoClient(url, appname=f"mymacrotracker-{service}", **defaults, **DURABLE)
    except (ConfigurationError, OSError):
        logger.error(UNREADABLE)
        raise Unavailable("database") from None


async def greet(client: Client, servers: str) -> None:
    """Make sure that the server answers, takes our user and is not too old; says in the log what is wrong.

    Raises:
        Unavailable: ("database") it does not.
    """
    try:
        version: list[int] = (await client.server_info())["versionArray"]
    except OperationFailure as error:
        what = "refuses the user or the password in DATABASE_URL" if error.code == WRONG_PASSWORD else describe(error)
        logger.error("MongoDB at %s %s", servers, what)
        raise Unavailable("database") from error
    except PyMongoError as error:
        logger.error("MongoDB at %s does not answer: %s", servers, describe(error))
        raise Unavailable("database") from error
    if version < OLDEST:
        logger.error("MongoDB at %s is too old, it must be %d.%d or later", servers, *OLDEST)
        raise Unavailable("database")


def failure(error: PyMongoError) -> Exception:
    """`Unavailable("database")` when the engine failed (away, too slow, full), else `error` itself, a defect.

    A write that got no answer may have happened all the same: whoever repeats it must be idempotent.
    """
    if isinstance(error, OperationFailure) and error.code in DEFECTS:
        return error
    logger.warning("the database failed: %s", describe(error))
    unavailable = Unavailable("database")
    unavailable.__cause__ = error
    return unavailable


def describe(error: PyMongoError) -> str:
    """The kind of an error and the server's code for it; never a statement or a value."""
    if not isinstance(error, OperationFailure):
        return type(error).__name__
    if error.code == NOT_ALLOWED:
        return "does not allow that to the user in DATABASE_URL"
    return f"{type(error).__name__} {error.code} {(error.details or {}).get('codeName', '')}".rstrip()
