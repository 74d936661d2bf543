"""build_zip.sh: what is in the zip, that it is always the same, and that it fails loudly."""

from __future__ import annotations

import base64
import os
import re
import stat
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from importlib import metadata
from pathlib import Path

import pytest
from zip_file import PROJECT, STAND_IN, ZIP, build, built_zip, copy_project, script

TEXT = (PROJECT / "requirements.txt").read_text(encoding="utf-8")
(PINNED,) = re.findall(r"^netaddr==(\S+)$", TEXT, re.MULTILINE)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return copy_project(tmp_path / "a project")  # a blank in the path: quoting has to be right


def test_the_zip_holds_the_module_and_netaddr_and_nothing_else_and_lambda_can_read_it() -> None:
    path = built_zip()
    assert metadata.version("netaddr") == PINNED
    module = path.parent / "lambda_traffic_mirror.py"
    expected = {module.name: module.read_bytes()}
    for installed in metadata.files("netaddr") or ():
        name = re.sub(".*/LICENSE.rst", "netaddr/LICENSE.rst", str(installed))
        if re.fullmatch(r"netaddr/(?!tests/).*\.(py|rst)", name):
            expected[name] = installed.read_binary()
    assert len(expected) > 10
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == sorted(expected)
        assert {name: archive.read(name) for name in archive.namelist()} == expected
        modes = {info.external_attr >> 16 for info in archive.infolist()}
        # Of Unix (3), so that the mode means something. Stored, so that no zlib has a say in it.
        systems = {(info.create_system, info.compress_type) for info in archive.infolist()}
        assert (modes, systems) == ({stat.S_IFREG | 0o644}, {(3, zipfile.ZIP_STORED)})
    assert path.stat().st_size <= 500_000


def test_another_copy_of_another_age_and_mode_gives_the_same_bytes(
    copy: Path, tmp_path: Path
) -> None:
    """In a virtual environment of its own."""
    for path in copy.iterdir():
        os.utime(path, (1_000_000_000, 1_000_000_000))
        path.chmod(0o700)
    # What an earlier build has left is replaced.
    (copy / ZIP).write_bytes(b"old")
    before = set(copy.iterdir())
    (tmp_path / "scratch").mkdir()
    place = {"TMPDIR": str(tmp_path / "scratch"), "TZ": "Asia/Kolkata"}
    done = build(copy, umask=0o077, PYTHON=sys.executable, **place)
    assert done.returncode == 0, done.stderr
    content = (copy / ZIP).read_bytes()
    assert content == built_zip().read_bytes()
    digest = sha256(content)
    code = base64.b64encode(digest.digest()).decode()
    assert done.stdout.splitlines() == [
        f"{ZIP}: {len(content):,} bytes, netaddr {PINNED}",
        f"SHA-256 {digest.hexdigest()}",
        f"CodeSha256 {code} (the same, as Lambda shows it)",
    ]
    # Nothing but the zip is left.
    assert set(copy.iterdir()) == before
    assert {path.name for path in tmp_path.iterdir()} == {copy.name, "scratch"}
    assert list((tmp_path / "scratch").iterdir()) == []


# What makes no zip

# A Python of another version, with no module but sys.
OLD = """#!/bin/sh
exec "{python}" -c 'import sys, venv
sys.version_info = VERSION
if sys.argv[1] != "-c":
    sys.exit("No module named venv")
exec(sys.argv[2])' "$@"
"""
WORKING = "__version__ = 'x'\nclass IPNetwork:\n    def __init__(self, text): self.prefixlen = 8\n"
PIN, HASH = rf"^netaddr=={re.escape(PINNED)}$", r"^# sha256:[0-9a-f]{64}$"


def in_requirements(old: str, new: str, copy: Path) -> None:
    """Replaces what one line of requirements.txt has."""
    path = copy / "requirements.txt"
    text, count = re.subn(old, new, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert count == 1
    path.write_text(text, encoding="utf-8")


def wheel(copy: Path, code: str = WORKING, licence: str = "LICENSE.txt") -> None:
    """Makes a wheel of netaddr, which is the only one that can be had, and pins its hash."""
    (copy.parent / "wheels").mkdir()
    path = copy.parent / "wheels" / f"netaddr-{PINNED}-py3-none-any.whl"
    information = f"netaddr-{PINNED}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {
            "netaddr/__init__.py": code,
            f"{information}/METADATA": f"Metadata-Version: 2.1\nName: netaddr\nVersion: {PINNED}\n",
            f"{information}/WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n",
            f"{information}/RECORD": "",
            f"{information}/{licence}": "Copyright",
        }.items():
            archive.writestr(name, content)
    in_requirements(HASH, f"# sha256:{sha256(path.read_bytes()).hexdigest()}", copy)


def another_hash(copy: Path) -> None:
    wheel(copy)
    in_requirements(HASH, f"# sha256:{'0' * 64}", copy)


def python(version: str, copy: Path) -> None:
    script(copy.parent / "python", OLD.replace("VERSION", version))


NO_PIN = "requirements.txt does not pin netaddr in a line like 'netaddr==1.3.0'"
NO_PYTHON = "is not Python 3.10 or newer with the venv module; set PYTHON to one that is"
# What is wrong, the status that the build ends with, and what it says.
WRONG: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "no pin": (partial(in_requirements, PIN, ""), 7, NO_PIN),
    "no exact pin": (partial(in_requirements, PIN, "netaddr>=1.3.0"), 7, NO_PIN),
    "no hash": (partial(in_requirements, HASH, "# sha256:12ab"), 7, "does not name netaddr's hash"),
    "another hash": (another_hash, 7, f"could not fetch netaddr=={PINNED} with the hash"),
    "no licence": (partial(wheel, licence="NOTES"), 7, "has no licence text"),
    "too large": (partial(wheel, code="#" * 500_000), 7, "bytes, which is more than 500 kB"),
    "wrong answers": (partial(wheel, code=WORKING.replace("8", "9")), 7, "netaddr does not work"),
    "an old Python": (partial(python, "(3, 9, 18)"), 6, NO_PYTHON),
    # New enough, and fails at the next step, so that the one before fails by age.
    "a Python without venv": (partial(python, "(3, 10, 0)"), 6, "could not make a virtual"),
    "no Python": (lambda copy: (copy.parent / "python").unlink(), 6, NO_PYTHON),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_would_make_a_wrong_zip_makes_none_and_is_named(
    copy: Path, tmp_path: Path, wrong: str
) -> None:
    spoil, status, why = WRONG[wrong]
    (copy / ZIP).write_bytes(b"an older zip")
    (tmp_path / "scratch").mkdir()
    quick = script(tmp_path / "python", STAND_IN)
    spoil(copy)
    before = set(copy.iterdir())
    pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"}
    pip |= {"PIP_FIND_LINKS": str(tmp_path / "wheels")}
    done = build(copy, **pip, PYTHON=quick, TMPDIR=str(tmp_path / "scratch"))
    assert (done.returncode, done.stdout) == (status, "")
    assert why in done.stderr
    assert done.stderr.rstrip().splitlines()[-1].startswith("build_zip.sh: ")
    # Nothing is left, and nothing is lost.
    assert set(copy.iterdir()) == before
    assert (copy / ZIP).read_bytes() == b"an older zip"
    assert list((tmp_path / "scratch").iterdir()) == []
