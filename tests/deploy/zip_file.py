"""The zip as an operator makes it."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent.parent
ZIP = "lambda_traffic_mirror.zip"

# A Python whose virtual environments are the tests' own, which takes no time.
STAND_IN = """#!/bin/sh
if [ "$1 $2" = "-m venv" ]; then
  mkdir -p "$3/bin" && exec ln -s "$0" "$3/bin/python"
fi
exec "{python}" "$@"
"""


def script(path: Path, text: str) -> str:
    path.write_text(text.replace("{python}", sys.executable), encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def copy_project(folder: Path) -> Path:
    """What the zip is made from, in a new folder."""
    folder.mkdir()
    for name in ("build_zip.sh", "requirements.txt", "lambda_traffic_mirror.py"):
        shutil.copy2(PROJECT / name, folder)
    return folder


def build(copy: Path, umask: int = -1, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs build_zip.sh of a copy of the project, for a user who stands beside it."""
    place: Any = {"cwd": copy.parent, "env": {**os.environ, **variables}, "umask": umask}
    call = [str(copy / "build_zip.sh")]
    return subprocess.run(call, check=False, capture_output=True, text=True, **place)


@cache
def built_zip() -> Path:
    """The zip, made once for the whole test run and gone after it."""
    work = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, work, ignore_errors=True)
    folder = copy_project(work / "project")
    done = build(folder, PYTHON=script(work / "python", STAND_IN))
    assert done.returncode == 0, done.stderr
    return folder / ZIP
