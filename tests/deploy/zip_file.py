"""The zip as an operator makes it, and folders that hold what Lambda adds to it."""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent
ZIP = "lambda_traffic_mirror.zip"
# What the Lambda runtime has: boto3 and what it depends on, and the client of the Runtime API.
BOTO3 = ("boto3", "botocore", "dateutil", "jmespath", "s3transfer", "six", "urllib3")
RUNTIME_CLIENT = ("awslambdaric", "runtime_client", "simplejson", "snapshot_restore_py")


def copy_project(folder: Path) -> Path:
    """Copies what the zip is made from into a new folder."""
    folder.mkdir()
    for name in ("build_zip.sh", "requirements.txt", "lambda_traffic_mirror.py"):
        shutil.copy2(PROJECT / name, folder)
    return folder


def build(
    folder: Path, cwd: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs build_zip.sh of a copy of the project, for a user who stands in `cwd`."""
    return subprocess.run(
        [str(folder / "build_zip.sh")],
        cwd=cwd,
        env={"PYTHON": sys.executable, **(os.environ if environment is None else environment)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@cache
def built_zip() -> Path:
    """Returns the zip, made once for the whole test run and gone after it."""
    work = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, work, ignore_errors=True)
    # A blank in the path: quoting has to be right.
    folder = copy_project(work / "a project")
    done = build(folder, cwd=work)
    assert done.returncode == 0, done.stderr
    return folder / ZIP


def unpack(folder: Path) -> Path:
    """Unpacks the zip into a folder, as Lambda does."""
    shutil.unpack_archive(built_zip(), folder)
    return folder


def provide(folder: Path, modules: Iterable[str]) -> Path:
    """Makes a folder with links to these installed modules and to nothing else.

    A package becomes a folder of links, so that a test can take parts of it away.
    """
    folder.mkdir()
    for module in modules:
        spec = importlib.util.find_spec(module)
        assert spec is not None, module
        assert spec.origin is not None, module
        origin = Path(spec.origin)
        if not spec.submodule_search_locations:
            (folder / origin.name).symlink_to(origin)
        else:
            (folder / module).mkdir()
            for part in origin.parent.iterdir():
                if part.name != "__pycache__":
                    (folder / module / part.name).symlink_to(part)
    return folder
