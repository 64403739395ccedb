"""Jars are taken only with the lock's hash; the repository here is a folder served on loopback."""

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from infra.local import jars
from infra.local.environment import SetupError

CONTENT = b"a jar"
NAME = "thing-1.0.jar"
PLACE = Path("org/example/thing/1.0") / NAME


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """A Maven repository with one jar: its folder and its address."""
    folder = tmp_path / "repository"
    (folder / PLACE).parent.mkdir(parents=True)
    (folder / PLACE).write_bytes(CONTENT)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield folder, {"here": f"http://127.0.0.1:{server.server_port}"}
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "jgo.lock.toml"
    digest = hashlib.sha256(CONTENT).hexdigest()
    path.write_text(
        '[[dependencies]]\ngroupId = "org.example"\nartifactId = "thing"\nversion = "1.0"\n'
        f'packaging = "jar"\nsha256 = "{digest}"\n'
    )
    return path


def test_a_jar_with_the_right_hash_is_placed(tmp_path: Path, served: tuple[Path, dict[str, str]], lock: Path):
    jars.install(tmp_path / "tools", lock=lock, repositories=served[1])
    assert (jars.folder(tmp_path / "tools") / NAME).read_bytes() == CONTENT
    assert jars.complete(tmp_path / "tools", lock)


def test_another_jar_is_refused_and_leaves_nothing(tmp_path: Path, served: tuple[Path, dict[str, str]], lock: Path):
    (served[0] / PLACE).write_bytes(b"not that jar")
    with pytest.raises(SetupError, match=f"{NAME} is not the one that the lock names"):
        jars.install(tmp_path / "tools", lock=lock, repositories=served[1])
    assert list((tmp_path / "tools").rglob("*.jar")) == []
    assert not jars.complete(tmp_path / "tools", lock)


def test_a_broken_jar_in_the_cache_is_fetched_again(tmp_path: Path, served: tuple[Path, dict[str, str]], lock: Path):
    cached = tmp_path / "tools" / "cache" / "m2" / PLACE
    cached.parent.mkdir(parents=True)
    cached.write_bytes(CONTENT[:3])  # what a kill -9 in the middle of the download leaves
    jars.install(tmp_path / "tools", lock=lock, repositories=served[1])
    assert (jars.folder(tmp_path / "tools") / NAME).read_bytes() == CONTENT


def test_a_missing_jar_is_one_sentence(tmp_path: Path, served: tuple[Path, dict[str, str]], lock: Path):
    (served[0] / PLACE).unlink()
    with pytest.raises(SetupError, match="could not be fetched"):
        jars.install(tmp_path / "tools", lock=lock, repositories=served[1])


def test_a_jar_taken_away_later_makes_it_incomplete(tmp_path: Path, served: tuple[Path, dict[str, str]], lock: Path):
    jars.install(tmp_path / "tools", lock=lock, repositories=served[1])
    (jars.folder(tmp_path / "tools") / NAME).unlink()
    assert not jars.complete(tmp_path / "tools", lock)


def test_every_jar_of_ours_has_a_hash():
    locked = jars.LockFile.load(jars.LOCK).dependencies
    assert len(locked) > 30
    assert all(jar.sha256 and len(jar.sha256) == 64 for jar in locked)
