"""How Triton is laid out and started: relative paths alone, and one sentence where it can't run."""

import os
import platform
import shutil
import sys
from pathlib import Path

import pytest

from infra.local import triton

PORTS = {"http_port": 1, "grpc_port": 2, "metrics_port": 3}


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A tool folder with the files of the wheel that matter, under a path with a space and a letter beyond ASCII."""
    folder = tmp_path / "meine Übung" / "tools"
    minor = f"3.{sys.version_info.minor}"
    server = folder / "triton" / "lib" / f"python{minor}" / "site-packages" / "pytriton" / "tritonserver"
    backend, stub = server / "backends" / "python", server / "python_backend_stubs" / minor
    for place in (backend, stub):
        place.mkdir(parents=True)
    (backend / "libtriton_python.so").write_bytes(b"so")
    (backend / "triton_python_backend_utils.py").write_text("UTILS = 1\n")
    (stub / "triton_python_backend_stub").write_bytes(b"stub")
    return folder


def test_the_layout_is_made_and_made_again(tools: Path) -> None:
    instance = tools.parent / "data" / "triton"
    triton.prepare(instance, tools)
    triton.prepare(instance, tools)
    backend = instance / "backends" / "python"
    assert os.access(backend / "triton_python_backend_stub", os.X_OK)
    assert (backend / "triton_python_backend_utils.py").read_text().endswith("UTILS = 1\n")
    assert (instance / "models" / "label_ocr" / "1" / "model.py").exists()
    assert not os.path.isabs(os.readlink(instance / "site"))
    assert (instance / "site" / "pytriton").is_dir()


def test_no_word_of_the_command_holds_a_path_of_this_machine(tools: Path) -> None:
    words = triton.command(tools.parent / "data", **PORTS, otlp_port=4)
    assert not any(str(tools.parent) in word or "Ü" in word or " " in word for word in words)
    assert [word for word in words if "address" in word] == [
        f"--{protocol}-address=127.0.0.1" for protocol in ("http", "grpc", "metrics")
    ]


def test_two_instances_do_not_clear_each_others_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "SHARED_MEMORY", tmp_path)
    prefixes: list[str] = []
    for name in ("one", "two"):
        words = triton.command(tmp_path / name, **PORTS)
        (prefix,) = [word.rpartition("=")[2] for word in words if "shm-region-prefix-name" in word]
        (tmp_path / f"{prefix}region").touch()
        prefixes.append(prefix)
    triton.clear_shared_memory(tmp_path / "one")
    assert [(tmp_path / f"{prefix}region").exists() for prefix in prefixes] == [False, True]


def test_the_environment_keeps_to_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    environment = triton.environment()
    assert environment["HOME"] == "home"
    assert environment["ORT_DISABLE_TELEMETRY"] == "1"
    assert environment["LD_LIBRARY_PATH"].startswith("site/")
    assert "PYTHONPATH" not in environment


@pytest.mark.parametrize(
    ("module", "name", "value", "says"),
    [
        (platform, "system", "Darwin", "Linux only"),
        (platform, "machine", "riscv64", "riscv64"),
        (platform, "libc_ver", ("glibc", "2.31"), "glibc 2.35"),
        (platform, "libc_ver", ("", ""), "glibc 2.35"),
        (shutil, "which", None, "bash"),
        (triton, "_libpython", None, "libpython3."),
    ],
)
def test_what_is_missing_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, value: object, says: str
) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(module, name, lambda *_: value)
    problem = triton.problem()
    assert problem is not None
    assert says in problem
    assert problem.startswith("Photos are off: ")
    assert problem.count(". ") == 0


def test_another_python_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "PYTHONS", ((2, 7),))
    assert "3.11 or 3.12" in (triton.problem() or "")


def test_nothing_listens(unused_tcp_port: int) -> None:
    assert triton.ready(unused_tcp_port, timeout_s=2) is False
