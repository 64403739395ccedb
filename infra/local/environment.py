"""Makes the virtual environment from the locks, every hash checked. Standard library only: nothing is installed yet.

The launcher runs this file with the system's Python; it ends by becoming `infra.local.cli` in the environment made.
"""

import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".mymacro" / "tools"
UV_LOCK = ROOT / "infra" / "local" / "uv-requirements.lock"
LOCKS = {"run": ROOT / "requirements.lock", "dev": ROOT / "requirements-dev.lock"}
# These commands need the linters and pytest as well.
DEV_COMMANDS = ("test", "check", "bench", "lock")
# Both environments, the JRE, the jars and the download cache: 1.1 GB measured.
SETUP_BYTES = 1_500_000_000


# The launcher may run us in the environment that we are about to make anew.
INTERPRETER: str = getattr(sys, "_base_executable", "") or sys.executable


class SetupError(Exception):
    """The set-up can't go on; the message is one sentence for people."""


def tool_environment() -> dict[str, str]:
    """The caller's environment, with every cache of every tool moved into the project's folder."""
    cache = TOOLS / "cache"
    return {
        **os.environ,
        "UV_CACHE_DIR": str(cache / "uv"),
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_NO_CONFIG": "1",
        "UV_SYSTEM_CERTS": "1",
        "PIP_CACHE_DIR": str(cache / "pip"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYRIGHT_PYTHON_CACHE_DIR": str(cache / "pyright"),
        "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1",
        "npm_config_cache": str(cache / "npm"),
        "RUFF_CACHE_DIR": str(cache / "ruff"),
        "ORT_DISABLE_TELEMETRY": "1",
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPATH": str(ROOT),
    }


def python_of(environment: Path) -> Path:
    """The interpreter of a virtual environment."""
    return environment / "bin" / "python"


def say(text: str) -> None:
    """A line of progress; standard output stays free for the command itself."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def run(command: list[str], what: str) -> None:
    """Run one step of the set-up; its own progress bars go to the terminal.

    Raises:
        SetupError: it failed; `what` names the step.
    """
    # In a session of its own, so that Ctrl-C reaches only us: pip and venv would answer it with a stack trace.
    child = subprocess.Popen(command, env=tool_environment(), cwd=ROOT, stdout=sys.stderr, start_new_session=True)
    try:
        code = child.wait()
    except KeyboardInterrupt:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        raise
    if code:
        raise SetupError(f"{what} failed (see above); check network and disk, then run the same command again.")


def locked_uv_version() -> str:
    """The version in uv's own lock."""
    found = re.match(r"uv==(\S+)", UV_LOCK.read_text())
    if found is None:
        raise SetupError(f"{UV_LOCK.name} names no uv.")
    return found.group(1)


def uv_command() -> str:
    """Path of uv in the locked version: from PATH when it is that one, else installed from its lock."""
    version = locked_uv_version()
    own = TOOLS / "uv" / "bin" / "uv"
    for candidate in (own, shutil.which("uv")):
        if candidate and _uv_version(str(candidate)) == version:
            return str(candidate)
    say(f"Installing uv {version}")
    shutil.rmtree(TOOLS / "uv", ignore_errors=True)
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        minor = sys.version_info.minor
        raise SetupError(f"Python's ensurepip is missing; install it (Debian: python3.{minor}-venv).") from None
    run([INTERPRETER, "-m", "venv", str(TOOLS / "uv")], "Making an environment for uv")
    pip = [str(python_of(TOOLS / "uv")), "-m", "pip", "install", "--quiet"]
    run([*pip, "--require-hashes", "--only-binary", ":all:", "-r", str(UV_LOCK)], "Installing uv")
    return str(own)


def _uv_version(uv: str) -> str:
    try:
        done = subprocess.run([uv, "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    words = done.stdout.split()
    return words[1] if done.returncode == 0 and len(words) > 1 else ""


def _stamp(level: str) -> dict[str, str]:
    lock = hashlib.sha256(LOCKS[level].read_bytes()).hexdigest()
    return {"level": level, "python": platform.python_version(), "lock": lock, "folder": str(ROOT)}


def current_level(environment: Path) -> str | None:
    """The level ("run" or "dev") that the environment was finished for, None when it is absent or out of date."""
    stamp = _read_stamp(environment)
    level = stamp.get("level", "")
    if level not in LOCKS or not python_of(environment).exists():
        return None
    return level if stamp == _stamp(level) else None


def _read_stamp(environment: Path) -> dict[str, str]:
    try:
        return json.loads((environment / "stamp.json").read_text())
    except (OSError, ValueError):
        return {}


def satisfied(environment: Path, level: str) -> bool:
    """Whether the environment is good for `level`; one for development is good for running too."""
    return current_level(environment) in (level, "dev")


def ensure(level: str) -> Path:
    """The services' environment in the wanted level, made or brought up to date when needed.

    Raises:
        SetupError: a download, a hash or the disk failed.
    """
    environment = TOOLS / "main"
    if satisfied(environment, level):
        return environment
    TOOLS.mkdir(parents=True, exist_ok=True)
    with (TOOLS / "setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not satisfied(environment, level):
            _make(environment, level)
    return environment


def _make(environment: Path, level: str) -> None:
    stamp = _read_stamp(environment)
    # Who once asked for the development tools keeps them.
    level = "dev" if stamp.get("level") == "dev" else level
    if not stamp and shutil.disk_usage(TOOLS).free < SETUP_BYTES:
        raise SetupError(f"The disk of {TOOLS} has less than {SETUP_BYTES / 1e9:.1f} GB free; the set-up needs that.")
    uv = uv_command()
    whole = stamp.get("python") == platform.python_version() and stamp.get("folder") == str(ROOT)
    if not whole:
        # Never finished, of another Python, or moved with the project (its scripts name the old folder).
        say("Making the environment")
        run([uv, "venv", "--quiet", "--clear", "--python", INTERPRETER, str(environment)], "Making the environment")
    (environment / "stamp.json").unlink(missing_ok=True)
    say(f"Installing packages from {LOCKS[level].name}")
    # Bars for a person; a log needs no list of a hundred packages.
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    # Without bytecode every process compiles every library at its start: 2.1 s of CPU a service instead of 0.9 s.
    strict = ["--require-hashes", "--compile-bytecode", "--only-binary", ":all:"]
    strict += ["--python", str(python_of(environment))]
    run([uv, "pip", "sync", *quiet, *strict, str(LOCKS[level])], "Installing the packages")
    fresh = environment / "stamp.new"
    fresh.write_text(json.dumps(_stamp(level)))
    fresh.replace(environment / "stamp.json")


def main(arguments: list[str]) -> None:
    """Make the environment that the command needs and become that command."""
    level = "dev" if arguments and arguments[0] in DEV_COMMANDS else "run"
    try:
        python = python_of(ensure(level))
        os.chdir(ROOT)
        os.execve(python, [str(python), "-m", "infra.local.cli", *arguments], tool_environment())  # noqa: S606
    except SetupError as error:
        sys.exit(f"mymacro: {error}")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            sys.exit(f"mymacro: the disk of {ROOT} is full.")
        sys.exit(f"mymacro: {error}")
    except KeyboardInterrupt:
        say("Stopped")
        sys.exit(130)


if __name__ == "__main__":
    main(sys.argv[1:])
