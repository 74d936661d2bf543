"""set_up.sh makes the environment of tests and demonstration: with a Python that only notes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from calls import PROJECT

# Makes environments, and writes down what pip is asked for. `fail` beside it lets pip fail.
PYTHON = """#!/usr/bin/env bash
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
case "$*" in
  "-m venv --clear .venv") rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
  "-m pip "*) echo "${@: -1}" >> installed; [ ! -e fail ] ;;
esac
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for path in ("tests/set_up.sh", "requirements.txt", ".ci/requirements.txt"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / path, tmp_path / path)
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def set_up(folder: Path, part: str) -> tuple[list[str], str]:
    """What the set-up installs, and what it says, begun from another folder."""
    (folder / "installed").write_text("")
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(folder / "python")}
    call = ["bash", "-euc", f"source {folder}/tests/set_up.sh; set_up {part}"]
    place: Any = {"cwd": folder.parent, "env": environment}
    done = subprocess.run(call, check=False, capture_output=True, text=True, **place)
    return (folder / "installed").read_text().split(), done.stderr


DEMO, TESTS, LINTERS = ".venv/demo.txt", "requirements.txt", ".ci/requirements.txt"


def test_each_part_is_installed_once_until_pins_change_or_it_is_interrupted(folder: Path) -> None:
    assert set_up(folder, "demo")[0] == [DEMO]
    assert set_up(folder, "demo")[0] == []
    assert "pytest" not in (folder / DEMO).read_text()
    (folder / "fail").touch()
    assert set_up(folder, "tests")[0] == [TESTS]
    (folder / "fail").unlink()
    assert set_up(folder, "linters")[0] == [DEMO, TESTS, LINTERS]
    assert set_up(folder, "tests")[0] == []
    with (folder / "requirements.txt").open("a") as pins:
        pins.write("one-more==1.0\n")
    assert set_up(folder, "tests")[0] == [DEMO, TESTS]


def test_the_environment_that_a_link_leads_to_is_not_emptied(folder: Path) -> None:
    (folder / "of-another").mkdir()
    (folder / "of-another" / "kept").touch()
    (folder / ".venv").symlink_to("of-another")
    installed, said = set_up(folder, "tests")
    assert installed == []
    assert ".venv is a symbolic link" in said
    assert (folder / "of-another" / "kept").exists()
