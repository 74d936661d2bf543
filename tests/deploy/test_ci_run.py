""".ci/run: the browser that the preview's page is looked at in."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize(
    ("there", "user", "apt_get", "asked", "said"),
    [
        ("chromium", 0, "exit 0", [], ""),
        ("google-chrome", 1000, "exit 0", [], ""),
        (None, 0, "exit 0", ["update", "install"], ""),
        (None, 0, "exit 1", ["update"], "tests in a browser are skipped"),
        (None, 0, None, [], "tests in a browser are skipped"),
        (None, 1000, "exit 0", [], "tests in a browser are skipped"),
    ],
)
def test_what_is_run_before_a_change_lands_has_a_browser_where_it_can(
    tmp_path: Path, there: str | None, user: int, apt_get: str | None, asked: list[str], said: str
) -> None:
    programs = tmp_path / "bin"
    stubs = {
        ".ci/run": (PROJECT / ".ci" / "run").read_text(encoding="utf-8"),
        "tests/set_up.sh": "set_up() { :; }",
        "tests/run.sh": "#!/bin/sh\necho the tests run",
        ".venv/bin/python": "#!/bin/sh",
        ".venv/bin/cfn-lint": "#!/bin/sh",
        "bin/id": f"#!/bin/sh\necho {user}",
    }
    if there:
        stubs[f"bin/{there}"] = "#!/bin/sh"
    if apt_get:
        stubs["bin/apt-get"] = f"#!/bin/sh\necho noise\necho $1 >> $HOME/asked\n{apt_get}"
    for name, text in stubs.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
    for name in ("bash", "dirname", "sh", "timeout"):
        (programs / name).symlink_to(str(shutil.which(name)))
    done = subprocess.run(
        [str(programs / "bash"), str(tmp_path / ".ci" / "run")],
        env={"PATH": str(programs), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "the tests run\n")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == bool(said)
    log = tmp_path / "asked"
    assert (log.read_text(encoding="utf-8").split() if log.exists() else []) == asked
