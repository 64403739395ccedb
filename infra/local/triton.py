"""NVIDIA Triton on this machine, from a wheel in a venv of its own, without Docker.

Triton starts its Python stub through an unquoted shell line, and the stub's Python is ASCII. So Triton runs inside the
instance folder and every path it sees is relative to that: any letter and any space in the project's path will do.
"""

import ctypes.util
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

LOCKS = Path(__file__).parents[1] / "triton"
MODELS = LOCKS / "models"
MODEL = "label_ocr"
PYTHONS = ((3, 11), (3, 12))
MIN_GLIBC = (2, 35)
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  (where Triton's Python backend keeps its regions)
PROBE_HEIGHT_PX = 32
# Photos queue in front of a probe: under an overload of eight, one took 7 s. A dead stub answers at once.
PROBE_TIMEOUT_S = 30.0

# The stub ignores PYTHONPATH and the venv; "site" is a link in the instance folder, its working directory.
PATH_PRELUDE = 'import sys\nsys.path.insert(0, "site")\n'


class TritonSetupError(Exception):
    """The set-up can't go on; the message is one sentence for people."""


def problem() -> str | None:
    """Why Triton can't run on this machine, in one sentence; None when it can."""
    if platform.system() != "Linux":
        return "Photos are off: NVIDIA Triton runs on Linux only."
    if platform.machine() not in ("x86_64", "aarch64"):
        return f"Photos are off: there is no NVIDIA Triton for {platform.machine()} processors."
    if sys.version_info[:2] not in PYTHONS:
        return f"Photos are off: NVIDIA Triton needs Python 3.11 or 3.12, this is {platform.python_version()}."
    libc, version = platform.libc_ver()
    if libc != "glibc" or tuple(int(part) for part in version.split(".")[:2]) < MIN_GLIBC:
        return (
            f"Photos are off: NVIDIA Triton needs glibc 2.35 or newer, this system has {libc or 'another'} {version}."
        )
    if shutil.which("bash") is None:
        return "Photos are off: NVIDIA Triton starts its Python part with bash, which is not installed."
    if _libpython() is None:
        return (
            f"Photos are off: {_libpython_name()} is missing; "
            f"install Debian's {_libpython_name().split('.so')[0]} or a Python built with --enable-shared."
        )
    return None


def _libpython_name() -> str:
    return f"libpython3.{sys.version_info.minor}.so.1.0"


def _libpython() -> Path | None:
    """The folder of libpython; `.` when the system's loader finds it by itself."""
    folders = [sysconfig.get_config_var("LIBDIR"), Path(sys.base_prefix) / "lib"]
    for folder in folders:
        if folder and (Path(folder) / _libpython_name()).exists():
            return Path(folder)
    if ctypes.util.find_library(f"python3.{sys.version_info.minor}") == _libpython_name():
        return Path()
    return None


def _site(tools: Path) -> Path:
    return tools / "triton" / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"


def install(tools: Path, progress: Callable[[str], None], *, uv: Path | None = None) -> None:
    """Make Triton's venv in `tools/triton` from its two locks, every hash checked; does nothing when it is up to date.

    Raises:
        TritonSetupError: uv failed; the message says what it said.
    """
    locks = [LOCKS / "pytriton.lock", LOCKS / "requirements.lock"]
    stamp = hashlib.sha256(b"".join(lock.read_bytes() for lock in locks) + platform.python_version().encode())
    done = tools / "triton" / "complete"
    if done.exists() and done.read_text() == stamp.hexdigest():
        return
    uv = uv or tools / "uv" / "bin" / "uv"
    done.unlink(missing_ok=True)
    progress("Triton: making its environment")
    environment = {
        **os.environ,
        "UV_CACHE_DIR": str(tools / "cache" / "uv"),
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_NO_CONFIG": "1",
        "UV_SYSTEM_CERTS": "1",
    }
    interpreter = tools / "triton" / "bin" / "python"
    _uv([uv, "venv", "--allow-existing", "--python", sys.executable, tools / "triton"], environment)
    progress("Triton: installing NVIDIA Triton and the OCR model (200 MB)")
    # `sync` installs exactly the locks' pins; nvidia-pytriton's own requirements (numpy 2, web servers) stay out.
    sync = [uv, "pip", "sync", "--require-hashes", "--compile-bytecode", "--only-binary", ":all:"]
    sync += ["--python", interpreter, *locks]
    _uv(sync, environment)
    server = _site(tools) / "pytriton" / "tritonserver" / "bin" / "tritonserver"
    server.chmod(0o755)
    done.write_text(stamp.hexdigest())
    progress("Triton: installed")


def _uv(command: list[str | Path], environment: dict[str, str]) -> None:
    done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise TritonSetupError(f"Triton's environment could not be made: {said[-1] if said else 'uv failed'}")


def prepare(instance_dir: Path, tools: Path) -> None:
    """Lay out Triton's working directory; run it before every start, a restart included."""
    instance_dir.mkdir(parents=True, exist_ok=True)
    clear_shared_memory(instance_dir)
    site = _site(tools)
    _link(instance_dir / "site", site)
    (instance_dir / "home").mkdir(exist_ok=True)
    backend = instance_dir / "backends" / "python"
    backend.mkdir(parents=True, exist_ok=True)
    server = site / "pytriton" / "tritonserver"
    stub = server / "python_backend_stubs" / f"3.{sys.version_info.minor}" / "triton_python_backend_stub"
    for source in (server / "backends" / "python" / "libtriton_python.so", stub):
        _copy(source, backend / source.name)
    (backend / stub.name).chmod(0o755)
    utils = (server / "backends" / "python" / "triton_python_backend_utils.py").read_text()
    (backend / "triton_python_backend_utils.py").write_text(PATH_PRELUDE + utils)
    shutil.rmtree(instance_dir / "models", ignore_errors=True)
    shutil.copytree(MODELS, instance_dir / "models", ignore=shutil.ignore_patterns("__pycache__"))


def _link(link: Path, target: Path) -> None:
    """A relative link, so that the folder can move with the project."""
    relative = os.path.relpath(target.resolve(), link.parent.resolve())
    if link.is_symlink() and os.readlink(link) == relative:
        return
    link.unlink(missing_ok=True)
    link.symlink_to(relative)


def _copy(source: Path, target: Path) -> None:
    """Replace by rename: a running Triton keeps the file it has mapped."""
    if target.exists() and target.stat().st_size == source.stat().st_size:
        return
    fresh = target.with_suffix(".new")
    shutil.copyfile(source, fresh)
    fresh.replace(target)


def _shared_memory_prefix(instance_dir: Path) -> str:
    return f"mymacro_{hashlib.sha256(os.fsencode(instance_dir.resolve())).hexdigest()[:12]}_"


def clear_shared_memory(instance_dir: Path) -> None:
    """Remove what a killed Triton of this instance left in shared memory; only while it does not run."""
    for region in SHARED_MEMORY.glob(_shared_memory_prefix(instance_dir) + "*"):
        region.unlink(missing_ok=True)


def command(
    instance_dir: Path, *, http_port: int, grpc_port: int, metrics_port: int, otlp_port: int | None = None
) -> list[str]:
    """The command line; run it with `instance_dir` as working directory. Traces go to the OTLP/HTTP receiver."""
    words = [
        "site/pytriton/tritonserver/bin/tritonserver",
        "--model-repository=models",
        "--backend-directory=backends",
        "--disable-auto-complete-config",  # it would start the stub twice
        "--http-address=127.0.0.1",
        f"--http-port={http_port}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={grpc_port}",
        "--metrics-address=127.0.0.1",
        f"--metrics-port={metrics_port}",
        "--allow-gpu-metrics=false",
        "--exit-timeout-secs=5",
        f"--backend-config=python,shm-region-prefix-name={_shared_memory_prefix(instance_dir)}",
    ]
    if otlp_port is not None:
        words += [
            "--trace-config=mode=opentelemetry",
            # A request that brings its trace's id is always traced; this keeps the probes out of the span store.
            "--trace-config=rate=1000000000",
            "--trace-config=level=TIMESTAMPS",
            f"--trace-config=opentelemetry,url=http://127.0.0.1:{otlp_port}/v1/traces",
            "--trace-config=opentelemetry,resource=service.name=triton",
            "--trace-config=opentelemetry,bsp_schedule_delay=200",
        ]
    return words


def environment() -> dict[str, str]:
    """The whole environment of the process; nothing of the caller's but what is named here."""
    libpython = _libpython()
    libraries = ["site/nvidia_pytriton.libs", *([str(libpython)] if libpython not in (None, Path()) else [])]
    return {
        # The stub's Python finds its standard library from the first python3 on PATH.
        "PATH": os.pathsep.join([str(Path(sys.base_prefix) / "bin"), os.environ.get("PATH", os.defpath)]),
        "LD_LIBRARY_PATH": ":".join(libraries),
        "LC_ALL": "C.UTF-8",
        "HOME": "home",
        "ORT_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "2",
        "MALLOC_ARENA_MAX": "2",
    }


def ready(grpc_port: int, *, timeout_s: float = PROBE_TIMEOUT_S) -> bool:
    """Whether Triton really reads: a known one-line picture through gRPC, 10 to 20 ms.

    The ready end points stay 200 when the model's stub is dead, hence an inference. Blocks up to `timeout_s`.
    """
    # Without this gRPC hooks into every fork of the supervisor.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    import numpy as np
    from tritonclient import grpc
    from tritonclient.utils import InferenceServerException

    from infra.local.labels import PROBE_TEXT, render_probe

    picture = np.frombuffer(render_probe(PROBE_HEIGHT_PX), dtype=np.uint8)
    image = grpc.InferInput("IMAGE", [len(picture)], "UINT8")
    image.set_data_from_numpy(picture)
    client = grpc.InferenceServerClient(f"127.0.0.1:{grpc_port}")
    try:
        result = client.infer(MODEL, [image], client_timeout=timeout_s)
        texts = result.as_numpy("TEXT") if result is not None else None
    except InferenceServerException:
        return False
    finally:
        client.close()
    return texts is not None and PROBE_TEXT in b" ".join(texts.tolist()).decode()
