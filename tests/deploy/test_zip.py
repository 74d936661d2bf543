"""build_zip.sh: what is in the zip, that it is always the same, and that it fails loudly."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import stat
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Mapping
from hashlib import sha256
from importlib import metadata
from pathlib import Path

import pytest
from zip_file import BOTO3, PROJECT, SECONDS, ZIP, build, built_zip, copy_project, provide, unpack

# What the console offers as a test event for a new function.
CONSOLE_EVENT = {"key1": "value1", "key2": "value2", "key3": "value3"}


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
    assert set(files) == set(expected)
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


# The zip on its own

ALONE = """
import json, sys
sys.path[:0] = sys.argv[1:3]
import lambda_traffic_mirror
result = lambda_traffic_mirror.lambda_handler(json.loads(sys.argv[3]), None)
files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
netaddr = sys.modules["netaddr"].__version__
print(json.dumps({"result": result, "files": [f for f in files if f], "netaddr": netaddr}))
"""


def test_unpacked_beside_boto3_it_handles_the_console_test_event(tmp_path: Path) -> None:
    """No environment variable, no Region, no credentials, no installed package but boto3."""
    task = unpack(tmp_path / "task")
    provided = provide(tmp_path / "provided", BOTO3)
    done = subprocess.run(
        [
            sys.executable,
            *("-I", "-S", "-c", ALONE),
            *(str(task), str(provided), json.dumps(CONSOLE_EVENT)),
        ],
        cwd=tmp_path,
        env={},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    metrics, answer = map(json.loads, done.stdout.splitlines())
    assert metrics["_aws"]
    assert answer["result"]["statusCode"] == 400
    assert '"instance-id"' in json.loads(answer["result"]["body"])["message"]
    assert "Traceback" not in done.stderr
    assert answer["netaddr"] == pinned()
    # Everything that was imported comes from there or belongs to Python.
    library = [Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_config_var("DESTSHARED"))]
    roots = [task, provided, *library, *(path.resolve() for path in library)]
    for file in map(Path, answer["files"]):
        assert any(root in file.parents for root in roots), file
        assert "site-packages" not in file.parts, file
    assert str(task / "lambda_traffic_mirror.py") in answer["files"]
    assert str(task / "netaddr" / "__init__.py") in answer["files"]


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


def script(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def quick_python(tmp_path: Path) -> Path:
    """Python, but its new virtual environments are the tests' own, which takes no time."""
    return script(tmp_path / "python", STAND_IN.format(python=sys.executable))


def offline(**more: str) -> dict[str, str]:
    """The environment without any way to a package index."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    return {**kept, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", **more}


def edit_requirements(copy: Path, old: str, new: str) -> None:
    """Replaces what one line of requirements.txt has."""
    path = copy / "requirements.txt"
    text = path.read_text(encoding="utf-8")
    assert len(re.findall(old, text, re.MULTILINE)) == 1
    path.write_text(re.sub(old, new, text, flags=re.MULTILINE), encoding="utf-8")


HASH = r"^# sha256:[0-9a-f]{64}$"


def wheel(copy: Path, files: Mapping[str, str | bytes]) -> str:
    """Makes a wheel of netaddr with these files and pins its hash; returns its folder."""
    folder = copy.parent / "wheels"
    folder.mkdir()
    information = f"netaddr-{pinned()}.dist-info"
    path = folder / f"netaddr-{pinned()}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {
            "dist-info/METADATA": f"Metadata-Version: 2.1\nName: netaddr\nVersion: {pinned()}\n",
            "dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "dist-info/RECORD": "",
            **files,
        }.items():
            archive.writestr(name.replace("dist-info", information), content)
    edit_requirements(copy, HASH, f"# sha256:{sha256(path.read_bytes()).hexdigest()}")
    return str(folder)


def refused_build(
    copy: Path,
    environment: Mapping[str, str],
    zip_before: bytes | None = b"an older zip",
    status: int = 7,
) -> str:
    """Runs a build that has to fail without leaving anything; returns what it prints."""
    target = copy / ZIP
    if zip_before is not None:
        target.write_bytes(zip_before)
    before = {path.name for path in copy.iterdir()}
    scratch = copy.parent / "scratch"
    scratch.mkdir()
    done = build(copy, copy.parent, {**environment, "TMPDIR": str(scratch)})
    assert done.returncode == status
    assert done.stdout == ""
    assert done.stderr.rstrip().splitlines()[-1].startswith("build_zip.sh: ")
    assert {path.name for path in copy.iterdir()} == before
    assert zip_before is None or target.read_bytes() == zip_before
    assert list(scratch.iterdir()) == []
    return done.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return copy_project(tmp_path / "project")


PIN = rf"^netaddr=={re.escape(pinned())}$"
NO_PINS = ("", "netaddr", "netaddr>=1.3.0", "netaddr==", "netaddr==1.*", "# netaddr==1.3.0")
NO_HASHES = ("", "# sha256:", "# sha256:12ab", f"# md5:{'0' * 64}")


@pytest.mark.parametrize(
    ("old", "line", "why"),
    [
        *((PIN, line, "does not pin netaddr in a line like 'netaddr==1.3.0'") for line in NO_PINS),
        *((HASH, line, "does not name netaddr's hash") for line in NO_HASHES),
    ],
)
def test_without_a_pin_or_a_hash_it_fails(
    copy: Path, quick_python: Path, old: str, line: str, why: str
) -> None:
    edit_requirements(copy, old, line)
    message = refused_build(copy, {**os.environ, "PYTHON": str(quick_python)})
    assert f"requirements.txt {why}" in message


def test_a_package_with_another_hash_is_not_taken(copy: Path, quick_python: Path) -> None:
    links = wheel(copy, LICENSED)
    edit_requirements(copy, HASH, f"# sha256:{'0' * 64}")
    message = refused_build(copy, offline(PYTHON=str(quick_python), PIP_FIND_LINKS=links))
    assert f"could not fetch netaddr=={pinned()} with the hash" in message


def test_all_requirements_can_be_installed_together() -> None:
    """pip would want a hash of every package as soon as one line has one."""
    lines = (PROJECT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if "--hash" in line and not line.startswith("#")] == []


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ('(3, 9, 18, "final", 0)', "is not Python 3.10 or newer with the venv module"),
        ('(3, 10, 0, "final", 0)', "could not make a virtual environment"),
    ],
)
def test_python_may_not_be_too_old(copy: Path, version: str, why: str) -> None:
    """The second one is new enough and fails at the next step, so that the first fails by age."""
    python = script(copy.parent / "python3", OLD.format(python=sys.executable, version=version))
    message = refused_build(copy, {**os.environ, "PYTHON": str(python)}, status=6)
    assert why in message


def test_a_python_that_is_missing_is_named(copy: Path) -> None:
    message = refused_build(copy, {**os.environ, "PYTHON": "no-such-python"}, None, status=6)
    assert "'no-such-python' is not Python 3.10 or newer" in message
    assert "set PYTHON to one that is" in message


def test_without_a_package_index_it_fails(copy: Path, quick_python: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but nobody listens
        port = unused.getsockname()[1]
        message = refused_build(
            copy,
            offline(
                PYTHON=str(quick_python),
                PIP_NO_INDEX="0",
                PIP_INDEX_URL=f"http://127.0.0.1:{port}/simple",
                PIP_RETRIES="0",
            ),
        )
    assert f"could not fetch netaddr=={pinned()}" in message


WORKING = "__version__ = 'x'\nclass IPNetwork:\n    def __init__(self, text): self.prefixlen = 8\n"
LICENSED = {"netaddr/__init__.py": WORKING, "dist-info/LICENSE.txt": "Copyright"}


@pytest.mark.parametrize(
    ("contents", "why"),
    [
        ({"netaddr/__init__.py": WORKING}, "has no licence text"),
        (
            {**LICENSED, "netaddr/big.py": "#" * 400_000},
            r"the zip has [0-9]{3},[0-9]{3} bytes, which is more than 500 kB",
        ),
        (
            {**LICENSED, "netaddr/__init__.py": WORKING.replace("8", "9")},
            "netaddr does not work from the zip",
        ),
    ],
    ids=["no licence", "too large", "wrong answers"],
)
def test_a_zip_that_would_not_do_is_not_made(
    copy: Path, quick_python: Path, contents: dict[str, str | bytes], why: str
) -> None:
    links = wheel(copy, contents)
    message = refused_build(copy, offline(PYTHON=str(quick_python), PIP_FIND_LINKS=links))
    assert re.search(why, message)
    assert message.rstrip().endswith("build_zip.sh: could not make the zip.")


def test_without_the_module_it_fails(copy: Path, quick_python: Path) -> None:
    (copy / "lambda_traffic_mirror.py").unlink()
    links = wheel(copy, {"netaddr/__init__.py": WORKING})
    message = refused_build(copy, offline(PYTHON=str(quick_python), PIP_FIND_LINKS=links))
    assert "could not make the zip" in message


# The same bytes. Last, because it takes a later time than that of the first build.


def test_another_copy_at_another_time_gives_the_same_bytes(
    zip_path: Path, quick_python: Path, tmp_path: Path
) -> None:
    # A copy of the copy, so that an edit while the tests run does no harm.
    copy = copy_project(tmp_path / "project", origin=zip_path.parent)
    before = {path.name for path in copy.iterdir()}
    for path in copy.iterdir():
        os.utime(path, (1_000_000_000, 1_000_000_000))
        path.chmod(0o700)
    # What an earlier build has left is replaced.
    (copy / ZIP).write_bytes(b"old")
    scratch, stand = tmp_path / "scratch", tmp_path / "where the user stands"
    scratch.mkdir()
    stand.mkdir()
    environment = {
        **os.environ,
        "PYTHON": str(quick_python),
        "TMPDIR": str(scratch),
        "TZ": "Asia/Kolkata",
    }
    # Zips count time in steps of two seconds.
    time.sleep(max(0.0, zip_path.stat().st_mtime + 2.1 - time.time()))
    old_mask = os.umask(0o077)
    try:
        done = build(copy, stand, environment)
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
    assert list(stand.iterdir()) == []
    assert list(scratch.iterdir()) == []
