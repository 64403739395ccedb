"""When the environment counts as made, and whose tools it keeps."""

import json
from pathlib import Path

import pytest

from infra.local import environment
from infra.local.environment import SetupError


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A finished environment without packages."""
    python = environment.python_of(tmp_path)
    python.parent.mkdir()
    python.touch()
    return tmp_path


def finish(folder: Path, level: str) -> None:
    (folder / "stamp.json").write_text(json.dumps(environment._stamp(level)))


def test_an_environment_without_a_stamp_is_not_made(made: Path):
    assert environment.current_level(made) is None
    assert not environment.satisfied(made, "run")


def test_an_environment_for_development_is_good_for_running(made: Path):
    finish(made, "dev")
    assert environment.satisfied(made, "run")
    assert environment.satisfied(made, "dev")


def test_an_environment_for_running_is_not_good_for_development(made: Path):
    finish(made, "run")
    assert environment.satisfied(made, "run")
    assert not environment.satisfied(made, "dev")


@pytest.mark.parametrize("field", ["python", "lock", "folder"])
def test_another_python_lock_or_folder_makes_it_out_of_date(made: Path, field: str):
    stamp = {**environment._stamp("run"), field: "another"}
    (made / "stamp.json").write_text(json.dumps(stamp))
    assert environment.current_level(made) is None


def test_a_half_written_stamp_counts_as_none(made: Path):
    (made / "stamp.json").write_text('{"level": "r')
    assert environment.current_level(made) is None


def test_every_cache_lies_in_the_project():
    found = environment.tool_environment()
    for name in ("UV_CACHE_DIR", "PIP_CACHE_DIR", "PYRIGHT_PYTHON_CACHE_DIR", "npm_config_cache", "RUFF_CACHE_DIR"):
        assert Path(found[name]).is_relative_to(environment.TOOLS)
    assert found["ORT_DISABLE_TELEMETRY"] == "1"


def test_uv_is_taken_in_the_locked_version():
    assert environment.locked_uv_version().count(".") == 2
    assert environment._uv_version("/bin/false") == ""
    assert environment._uv_version("/nowhere") == ""


def test_a_failed_step_is_one_sentence():
    with pytest.raises(SetupError, match=r"^Fetching it failed \(see above\)"):
        environment.run(["false"], "Fetching it")
