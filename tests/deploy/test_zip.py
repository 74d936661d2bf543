"""build_zip.sh: what is in the zip, that it is always the same, and that it fails loudly."""

from __future__ import annotations

import base64
import os
import re
import stat
import sys
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import sha256
from importlib import metadata
from pathlib import Path

import pytest
from zip_file import PROJECT, ZIP, build, built_zip, copy_project


@pytest.fixture(scope="session")
def zip_path() -> Path:
    return built_zip()


@pytest.fixture(scope="session")
def files(zip_path: Path) -> dict[str, bytes]:
    """What is in the zip, by name."""
    with zipfile.ZipFile(zip_path) as archive:
        assert archive.testzip() is None
        return {info.filename: archive.read(info) for info in archive.infolist()}


def pinned() -> str:
    """The version of netaddr that requirements.txt pins."""
    text = (PROJECT / "requirements.txt").read_text(encoding="utf-8")
    (version,) = re.findall(r"^netaddr==(\S+)$", text, re.MULTILINE)
    return str(version)


# The contents


def test_the_zip_holds_the_module_and_netaddr_and_nothing_else(
    zip_path: Path, files: dict[str, bytes]
) -> None:
    assert metadata.version("netaddr") == pinned()
    module = zip_path.parent / "lambda_traffic_mirror.py"
    expected = {module.name: module.read_bytes()}
    for path in metadata.files("netaddr") or ():
        name = str(path)
        if re.fullmatch(r"netaddr/(?!tests/).*\.py", name):
            expected[name] = path.read_binary()
        elif path.name == "LICENSE.rst":
            expected["netaddr/LICENSE.rst"] = path.read_binary()
    assert len(expected) > 10
    assert files == expected
    assert f"__version__ = '{pinned()}'" in files["netaddr/__init__.py"].decode()
    licence = files["netaddr/LICENSE.rst"].decode()
    assert "Redistributions in binary form must reproduce the above copyright" in licence


def test_the_zip_is_stored_so_that_no_zlib_has_a_say_in_it_and_lambda_can_read_it(
    zip_path: Path, files: dict[str, bytes]
) -> None:
    with zipfile.ZipFile(zip_path) as archive:
        assert archive.namelist() == sorted(files)
        infos = archive.infolist()
    for info in infos:
        assert info.compress_type == zipfile.ZIP_STORED
        assert info.date_time == (1980, 1, 1, 0, 0, 0)
        assert info.create_system == 3  # Unix: the mode means something
        assert info.external_attr >> 16 == stat.S_IFREG | 0o644
        assert not info.flag_bits & 0x1  # not encrypted
    # For each file two headers, of 30 and 46 bytes with its name, and its contents; 22 at the end.
    size = 22 + sum(76 + 2 * len(name) + len(content) for name, content in files.items())
    assert zip_path.stat().st_size == size <= 500_000


# Failures

STAND_IN = """#!/bin/sh
if [ "$1 $2" = "-m venv" ]; then
  mkdir -p "$3/bin" && exec ln -s "$0" "$3/bin/python"
fi
exec "{python}" "$@"
"""

OLD = """#!/bin/sh
exec "{python}" -c 'import sys, venv
sys.version_info = {version}
if sys.argv[1] != "-c":
    sys.exit("No module named venv")
exec(sys.argv[2])' "$@"
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return copy_project(tmp_path / "project")


@pytest.fixture
def offline(tmp_path: Path) -> dict[str, str]:
    """The environment without any way to a package index, but for a folder of wheels.

    Its Python makes virtual environments that are the tests' own, which takes no time.
    """
    quick = script(tmp_path / "python", STAND_IN.format(python=sys.executable))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"}
    return {**kept, **pip, "PIP_FIND_LINKS": str(tmp_path / "wheels"), "PYTHON": str(quick)}


def script(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def edit_requirements(copy: Path, old: str, new: str) -> None:
    """Replaces what one line of requirements.txt has."""
    path = copy / "requirements.txt"
    text, count = re.subn(old, new, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert count == 1
    path.write_text(text, encoding="utf-8")


PIN = rf"^netaddr=={re.escape(pinned())}$"
HASH = r"^# sha256:[0-9a-f]{64}$"
WORKING = "__version__ = 'x'\nclass IPNetwork:\n    def __init__(self, text): self.prefixlen = 8\n"
LICENSED = {"netaddr/__init__.py": WORKING, "dist-info/LICENSE.txt": "Copyright"}


def wheel(copy: Path, files: Mapping[str, str]) -> None:
    """Makes a wheel of netaddr with these files and pins its hash."""
    folder = copy.parent / "wheels"
    folder.mkdir()
    path = folder / f"netaddr-{pinned()}-py3-none-any.whl"
    described = f"Metadata-Version: 2.1\nName: netaddr\nVersion: {pinned()}\n"
    information = {
        "dist-info/METADATA": described,
        "dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "dist-info/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**information, **files}.items():
            archive.writestr(name.replace("dist-info", f"netaddr-{pinned()}.dist-info"), content)
    edit_requirements(copy, HASH, f"# sha256:{sha256(path.read_bytes()).hexdigest()}")


def another_hash(copy: Path) -> None:
    wheel(copy, LICENSED)
    edit_requirements(copy, HASH, f"# sha256:{'0' * 64}")


def no_module(copy: Path) -> None:
    wheel(copy, LICENSED)
    (copy / "lambda_traffic_mirror.py").unlink()


NO_PIN = "requirements.txt does not pin netaddr in a line like 'netaddr==1.3.0'"
NO_HASH = "requirements.txt does not name netaddr's hash"
# What is wrong with a copy of the project, and what the build says of it.
WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    **{
        f"the line {line!r} in place of {what}": (
            partial(edit_requirements, old=old, new=line),
            why,
        )
        for what, old, why, lines in (
            ("the pin", PIN, NO_PIN, ("", "netaddr>=1.3.0", "netaddr==1.*", "# netaddr==1.3.0")),
            ("the hash", HASH, NO_HASH, ("", "# sha256:12ab", f"# md5:{'0' * 64}")),
        )
        for line in lines
    },
    "another hash": (another_hash, f"could not fetch netaddr=={pinned()} with the hash"),
    "no package index": (lambda _: None, f"could not fetch netaddr=={pinned()}"),
    "no licence": (
        partial(wheel, files={"netaddr/__init__.py": WORKING}),
        "has no licence text",
    ),
    "too large": (
        partial(wheel, files={**LICENSED, "netaddr/big.py": "#" * 400_000}),
        r"the zip has [0-9]{3},[0-9]{3} bytes, which is more than 500 kB",
    ),
    "wrong answers": (
        partial(wheel, files={**LICENSED, "netaddr/__init__.py": WORKING.replace("8", "9")}),
        "netaddr does not work from the zip",
    ),
    "no module": (no_module, "could not make the zip"),
}


def refused_build(copy: Path, environment: Mapping[str, str], status: int) -> str:
    """Runs a build that has to fail without leaving anything; returns what it prints."""
    target = copy / ZIP
    target.write_bytes(b"an older zip")
    before = set(copy.iterdir())
    scratch = copy.parent / "scratch"
    scratch.mkdir()
    done = build(copy, copy.parent, {**environment, "TMPDIR": str(scratch)})
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.rstrip().splitlines()[-1].startswith("build_zip.sh: ")
    assert set(copy.iterdir()) == before
    assert target.read_bytes() == b"an older zip"
    assert list(scratch.iterdir()) == []
    return done.stderr


@pytest.mark.parametrize("wrong", WRONG)
def test_what_would_make_a_wrong_zip_makes_none_and_is_named(
    copy: Path, offline: dict[str, str], wrong: str
) -> None:
    spoil, why = WRONG[wrong]
    spoil(copy)
    assert re.search(why, refused_build(copy, offline, status=7))


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("(3, 9, 18)", "is not Python 3.10 or newer with the venv module"),
        # New enough, and fails at the next step, so that the first fails by age.
        ("(3, 10, 0)", "could not make a virtual environment"),
        ("", "is not Python 3.10 or newer with the venv module; set PYTHON to one that is"),
    ],
    ids=["old", "without venv", "missing"],
)
def test_a_python_that_will_not_do_is_named(copy: Path, version: str, why: str) -> None:
    python = copy.parent / "python3"
    if version:
        script(python, OLD.format(python=sys.executable, version=version))
    assert why in refused_build(copy, {**os.environ, "PYTHON": str(python)}, status=6)


def test_all_requirements_can_be_installed_together() -> None:
    """pip would want a hash of every package as soon as one line has one."""
    lines = (PROJECT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if "--hash" in line and not line.startswith("#")] == []


# The same bytes


def test_another_copy_of_another_age_and_mode_gives_the_same_bytes(
    zip_path: Path, copy: Path, offline: dict[str, str], tmp_path: Path
) -> None:
    for path in copy.iterdir():
        os.utime(path, (1_000_000_000, 1_000_000_000))
        path.chmod(0o700)
    before = {path.name for path in copy.iterdir()}
    # What an earlier build has left is replaced.
    (copy / ZIP).write_bytes(b"old")
    scratch, stand = tmp_path / "scratch", tmp_path / "where the user stands"
    scratch.mkdir()
    stand.mkdir()
    quick = {**os.environ, "PYTHON": offline["PYTHON"], "TMPDIR": str(scratch)}
    old_mask = os.umask(0o077)
    try:
        done = build(copy, stand, quick | {"TZ": "Asia/Kolkata"})
    finally:
        os.umask(old_mask)
    assert done.returncode == 0, done.stderr
    assert (copy / ZIP).read_bytes() == zip_path.read_bytes()
    digest = sha256(zip_path.read_bytes())
    assert done.stdout.splitlines() == [
        f"{ZIP}: {zip_path.stat().st_size:,} bytes, netaddr {pinned()}",
        f"SHA-256 {digest.hexdigest()}",
        f"CodeSha256 {base64.b64encode(digest.digest()).decode()} (the same, as Lambda shows it)",
    ]
    # Nothing but the zip is left.
    assert {path.name for path in copy.iterdir()} == before | {ZIP}
    assert [*stand.iterdir(), *scratch.iterdir()] == []
