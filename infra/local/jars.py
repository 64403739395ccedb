"""Jars from Maven, each compared with the SHA-256 in its lock: Kafka's, and those of the tests' document server.

jgo itself does not enforce its lock, and its downloads are not atomic; hence its parts, and our own check.
"""

import os
import shutil
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from jgo.env import LockFile
from jgo.env._lockfile import LockedDependency, compute_sha256
from jgo.maven import MavenContext, PythonResolver
from requests import RequestException

from infra.local.environment import SetupError

KAFKA = Path(__file__).parents[1] / "kafka"
FAKE_MONGO = Path(__file__).parents[1] / "mongo"
SPEC = KAFKA / "jgo.toml"
LOCK = KAFKA / "jgo.lock.toml"
PLACE = "jars"
DOWNLOADS = 8
TIMEOUT_S = 30

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""(file name, bytes) → a context that takes the bytes as they come."""


@contextmanager
def silent(_name: str, _total: int) -> Iterator[Callable[[int], None]]:
    """No progress."""
    yield lambda _bytes: None


def folder(tools: Path, place: str = PLACE) -> Path:
    """Where the checked jars of one class path lie."""
    return tools / place


def complete(tools: Path, lock: Path = LOCK, place: str = PLACE) -> bool:
    """Whether every jar of the present lock has been checked and is there."""
    into = folder(tools, place)
    done = into / "complete"
    if not done.exists() or done.read_text() != compute_sha256(lock):
        return False
    return all((into / _name(jar)).exists() for jar in LockFile.load(lock).dependencies)


def install(
    tools: Path,
    progress: Progress = silent,
    *,
    lock: Path = LOCK,
    place: str = PLACE,
    repositories: dict[str, str] | None = None,
) -> None:
    """Put the lock's jars into the folder `place` of `tools`, each checked; does nothing when they are there.

    `repositories` maps a name to the address of a Maven repository; None means Maven Central.

    Raises:
        SetupError: a jar could not be fetched, or is not the one that the lock names.
    """
    if complete(tools, lock, place):
        return
    into = folder(tools, place)
    into.mkdir(parents=True, exist_ok=True)
    resolver = PythonResolver(progress_callback=progress)
    context = MavenContext(resolver, tools / "cache" / "m2", [], repositories, timeout=TIMEOUT_S)
    locked = LockFile.load(lock).dependencies
    with ThreadPoolExecutor(DOWNLOADS) as pool:
        for jar, path in zip(locked, pool.map(lambda jar: _checked(context, jar), locked), strict=True):
            _place(path, into / _name(jar))
    names = {_name(jar) for jar in locked}
    for stale in set(into.glob("*.jar")) - {into / name for name in names}:
        stale.unlink()
    (into / "complete").write_text(compute_sha256(lock))


def _name(jar: LockedDependency) -> str:
    return f"{jar.artifactId}-{jar.version}.jar"


def _checked(context: MavenContext, jar: LockedDependency) -> Path:
    """The jar in the download cache, with the lock's hash; a broken one is fetched once more."""
    if not jar.sha256:
        raise SetupError(f"The lock has no hash for {_name(jar)}.")
    artifact = context.project(jar.groupId, jar.artifactId).at_version(jar.version).artifact()
    failure = ""
    for _attempt in range(2):
        try:
            path = artifact.resolve()
        except (RequestException, RuntimeError) as error:
            if artifact.cached_path is not None:
                artifact.cached_path.unlink(missing_ok=True)
            failure = f"could not be fetched ({type(error).__name__}); check the network and try again"
            continue
        if compute_sha256(path) == jar.sha256:
            return path
        path.unlink()
        failure = "is not the one that the lock names; it was deleted"
    raise SetupError(f"{_name(jar)} {failure}.")


def _place(source: Path, target: Path) -> None:
    fresh = target.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    try:
        os.link(source, fresh)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, fresh)
    fresh.replace(target)


def compile_lock(tools: Path, source: Path = KAFKA) -> int:
    """Resolve the jgo.toml in `source` and write the lock beside it anew; returns the number of jars."""
    spec = tomllib.loads((source / SPEC.name).read_text())["dependencies"]
    context = MavenContext(PythonResolver(), tools / "cache" / "m2", [], timeout=TIMEOUT_S)
    left_out = [context.project(*name.split(":")) for name in spec["exclusions"]]
    wanted = [context.create_dependency(coordinates, left_out) for coordinates in spec["coordinates"]]
    direct, transitive = context.resolver.resolve(wanted)
    jars = sorted([*direct, *transitive], key=lambda jar: (jar.groupId, jar.artifactId))
    fresh = LockFile.from_resolved_dependencies(jars, environment_name=source.name)
    fresh.save(source / LOCK.name)
    return len(jars)
