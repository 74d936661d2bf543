"""A copy of deploy/ in which its scripts can be run, and nothing that they need but do not name."""

from __future__ import annotations

import re
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any

from cloudformation import DEPLOY
from fake_aws import FakeAws

BUILD = """#!/usr/bin/env bash
set -euo pipefail
cd "$(dirname "$0")"
if [ -n "${BUILD_FAILS:-}" ]; then
  echo "build_zip.sh: it fails" >&2
  exit "$BUILD_FAILS"
fi
printf 'zip content' > lambda_traffic_mirror.zip
echo "SHA-256 SHA256"
"""
SHA256 = sha256(b"zip content").hexdigest()
# What the scripts may use besides aws: a command that is not here is one that a system may lack.
COMMANDS = (
    *("base64", "bash", "cat", "dirname", "env", "find", "grep"),
    *("mkdir", "mktemp", "rm", "sed", "sort"),
)


class Checkout:
    """A copy of deploy/ with a build that only takes notes, and an account behind `aws`."""

    def __init__(self, folder: Path, aws: FakeAws) -> None:
        # A blank in the path: quoting has to be right.
        self.root = folder / "a checkout"
        self.aws = aws
        self.bin = folder / "bin"
        self.stand = folder / "where the user stands"
        self.stand.mkdir()
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self.waited = folder / "waited"
        shutil.copytree(DEPLOY, self.root / "deploy")
        (self.root / "lambda_traffic_mirror.py").write_text('VERSION = "2.0.0"\n')
        self._write(self.root / "build_zip.sh", BUILD.replace("SHA256", SHA256))
        for command in COMMANDS:
            found = shutil.which(command)
            assert found, command
            (self.bin / command).symlink_to(found)
        self._write(self.bin / "sleep", f'#!/bin/sh\necho "$1" >> "{self.waited}"\n')

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)

    def run(
        self, script: str, *arguments: str, ends: int = 0, answer: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs a script, which has to end with this status."""
        done = subprocess.run(
            [str(self.root / "deploy" / script), *arguments],
            check=False,
            cwd=self.stand,
            env={"PATH": str(self.bin), "TMPDIR": str(self.scratch), **environment},
            capture_output=True,
            text=True,
            input=answer,
        )
        assert done.returncode == ends, done.stderr
        # Nothing is left behind, and the shell has nothing to complain of.
        assert list(self.scratch.iterdir()) == []
        assert not re.search(r"line \d+:|command not found", done.stderr), done.stderr
        return done

    def deploy(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return self.run("deploy.sh", *arguments, **more)

    def remove(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return self.run("remove.sh", *arguments, **more)

    def overrides(self) -> dict[str, str]:
        """The parameters that the one deployment was given."""
        (call,) = self.aws.made("cloudformation deploy")
        return dict(one.split("=", 1) for one in call.options["parameter-overrides"])

    def nothing_was_done(self) -> bool:
        changing = ("s3 cp", "cloudformation deploy", "cloudformation delete-stack", "ec2 delete")
        return not (self.root / "lambda_traffic_mirror.zip").exists() and not any(
            call.command.startswith(changing) for call in self.aws.calls
        )
