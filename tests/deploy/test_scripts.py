"""deploy/deploy.sh: builds, uploads, deploys, and says what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cloudformation import DEPLOY, resolve

FAKE_AWS = r"""#!PYTHON
import json, os, sys
with open(os.environ["FAKE_LOG"], "a") as log:
    log.write(json.dumps({"args": sys.argv[1:], "region": os.environ.get("AWS_REGION"),
                          "pager": os.environ.get("AWS_PAGER")}) + "\n")
call = " ".join(sys.argv[1:3])
if call in os.environ.get("FAKE_FAIL", "").split(","):
    sys.stderr.write("aws: " + call + " did not work\n")
    sys.exit(255)
print({
    "sts get-caller-identity": "123456789012",
    "configure get": os.environ.get("FAKE_REGION", ""),
    "cloudformation describe-stacks": "FunctionName  traffic-mirror-Function",
}.get(call, ""))
"""

FAKE_BUILD = """#!/usr/bin/env bash
set -euo pipefail
cd "$(dirname "$0")"
if [ -n "${FAKE_BUILD_FAIL:-}" ]; then
  echo "no network" >&2
  exit 1
fi
printf 'zip content' > lambda_traffic_mirror.zip
"""

ARGUMENTS = ["--bucket", "my-bucket", "--filter", "tmf-1", "--targets", "tmt-1, tmt-2"]


class Checkout:
    """A copy of deploy/ with a build and an aws command that only take notes."""

    def __init__(self, folder: Path) -> None:
        # A blank in the path: quoting has to be right.
        self.root = folder / "a checkout"
        shutil.copytree(DEPLOY, self.root / "deploy")
        self.log = folder / "aws.log"
        self.bin = folder / "bin"
        self.bin.mkdir()
        self._write(self.root / "build_zip.sh", FAKE_BUILD)
        self._write(self.bin / "aws", FAKE_AWS.replace("PYTHON", sys.executable))
        # Nothing but what the script may need, so that a missing aws is missing.
        for command in ("bash", "cat", "dirname", "env", "grep", "sed"):
            found = shutil.which(command)
            assert found, command
            (self.bin / command).symlink_to(found)
        self._write(self.bin / "python3", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)

    def deploy(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        self.log.write_text("")
        return subprocess.run(
            [str(self.root / "deploy" / "deploy.sh"), *arguments],
            check=False,
            cwd="/",
            env={
                "PATH": str(self.bin),
                "FAKE_LOG": str(self.log),
                "FAKE_REGION": "eu-west-1",
                **environment,
            },
            capture_output=True,
            text=True,
        )

    def calls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def call(self, *start: str) -> list[str]:
        (found,) = [one["args"] for one in self.calls() if one["args"][: len(start)] == list(start)]
        arguments: list[str] = found
        return arguments


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def overrides(call: list[str]) -> list[str]:
    return call[call.index("--parameter-overrides") + 1 :]


def option(call: list[str], name: str) -> str:
    return call[call.index(name) + 1]


def test_deploy_builds_uploads_deploys_and_prints(checkout: Checkout) -> None:
    done = checkout.deploy(*ARGUMENTS)
    assert done.returncode == 0, done.stderr
    key = f"lambda_traffic_mirror/{sha256(b'zip content').hexdigest()}.zip"
    upload = checkout.call("s3", "cp")
    assert Path(upload[2]).resolve() == (checkout.root / "lambda_traffic_mirror.zip").resolve()
    assert upload[3] == f"s3://my-bucket/{key}"
    call = checkout.call("cloudformation", "deploy")
    assert option(call, "--stack-name") == "traffic-mirror"
    assert Path(option(call, "--template-file")) == checkout.root / "deploy" / "template.yaml"
    assert option(call, "--capabilities") == "CAPABILITY_IAM"
    assert "--no-fail-on-empty-changeset" in call
    assert overrides(call) == [
        "CodeBucket=my-bucket",
        f"CodeKey={key}",
        "FilterId=tmf-1",
        "Targets=tmt-1,tmt-2",
    ]
    assert "traffic-mirror-Function" in done.stdout
    assert {one["region"] for one in checkout.calls()[1:]} == {"eu-west-1"}
    assert {one["pager"] for one in checkout.calls()[1:]} == {""}


def test_deploy_passes_what_the_template_accepts(checkout: Checkout) -> None:
    more = [
        "--stack",
        "mine",
        "--region",
        "us-west-2",
        "LocalZoneOnly=false",
        "IncludeTags=",
        "ExcludeTags=a b=c,d",
    ]
    done = checkout.deploy(*ARGUMENTS, *more)
    assert done.returncode == 0, done.stderr
    call = checkout.call("cloudformation", "deploy")
    assert option(call, "--stack-name") == "mine"
    assert overrides(call)[4:] == ["LocalZoneOnly=false", "IncludeTags=", "ExcludeTags=a b=c,d"]
    assert {one["region"] for one in checkout.calls()} == {"us-west-2"}
    values = dict(one.split("=", 1) for one in overrides(call))
    resolve(parameters=values)


def test_deploy_goes_back_to_a_zip_that_is_there(checkout: Checkout) -> None:
    done = checkout.deploy(*ARGUMENTS, "--code-key", "lambda_traffic_mirror/old.zip")
    assert done.returncode == 0, done.stderr
    assert not [one for one in checkout.calls() if one["args"][0] == "s3"]
    assert not (checkout.root / "lambda_traffic_mirror.zip").exists()
    assert "CodeKey=lambda_traffic_mirror/old.zip" in overrides(
        checkout.call("cloudformation", "deploy")
    )


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "--bucket is missing"),
        (ARGUMENTS[2:], "--bucket is missing"),
        (ARGUMENTS[:2] + ARGUMENTS[4:], "--filter is missing"),
        (ARGUMENTS[:4], "--targets is missing"),
        (["--bucket"], "--bucket needs a value"),
        (["--bucket", "--filter", "tmf-1"], "--bucket needs a value"),
        ([*ARGUMENTS, "--stack", ""], "--stack needs a value"),
        ([*ARGUMENTS, "--colour", "blue"], "do not understand '--colour'"),
        ([*ARGUMENTS, "LocalZoneOnly"], "do not understand 'LocalZoneOnly'"),
        ([*ARGUMENTS, "LocalZone=false"], "template.yaml has no parameter LocalZone"),
        ([*ARGUMENTS, "L.*=false"], "template.yaml has no parameter L.*"),
        ([*ARGUMENTS, "Function=x"], "template.yaml has no parameter Function"),
        ([*ARGUMENTS, "Targets=tmt-3"], "Targets has an option of its own"),
    ],
)
def test_deploy_explains_a_wrong_call(checkout: Checkout, arguments: list[str], why: str) -> None:
    done = checkout.deploy(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"deploy.sh: {why}")
    assert "Usage: deploy/deploy.sh --bucket" in done.stderr
    assert checkout.calls() == []


def test_deploy_help(checkout: Checkout) -> None:
    done = checkout.deploy("--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: deploy/deploy.sh --bucket")


def test_deploy_without_aws(checkout: Checkout) -> None:
    (checkout.bin / "aws").unlink()
    done = checkout.deploy(*ARGUMENTS)
    assert done.returncode == 2
    assert "the aws command is missing" in done.stderr


def test_deploy_without_python(checkout: Checkout) -> None:
    (checkout.bin / "python3").unlink()
    done = checkout.deploy(*ARGUMENTS)
    assert done.returncode == 2
    assert "python3 is missing" in done.stderr
    assert checkout.calls() == []


def test_deploy_without_region(checkout: Checkout) -> None:
    done = checkout.deploy(*ARGUMENTS, FAKE_REGION="", FAKE_FAIL="configure get")
    assert done.returncode == 2
    assert "no Region is set" in done.stderr


def test_deploy_without_credentials(checkout: Checkout) -> None:
    done = checkout.deploy(*ARGUMENTS, FAKE_FAIL="sts get-caller-identity")
    assert done.returncode == 2
    assert "no valid credentials" in done.stderr
    assert not (checkout.root / "lambda_traffic_mirror.zip").exists()


@pytest.mark.parametrize(
    "step", ["build", "s3 cp", "cloudformation deploy", "cloudformation describe-stacks"]
)
def test_deploy_stops_at_the_step_that_fails(checkout: Checkout, step: str) -> None:
    environment = {"FAKE_BUILD_FAIL": "1"} if step == "build" else {"FAKE_FAIL": step}
    done = checkout.deploy(*ARGUMENTS, **environment)
    assert done.returncode not in (0, 2)
    made = [" ".join(one["args"][:2]) for one in checkout.calls()]
    if step == "build":
        assert "no network" in done.stderr
        assert "s3 cp" not in made
    else:
        assert made[-1] == step
    if step == "cloudformation deploy":
        assert "describe-stack-events --region eu-west-1 --stack-name traffic-mirror" in done.stderr
        assert "delete-stack" in done.stderr


def test_deploy_is_executable() -> None:
    assert os.access(DEPLOY / "deploy.sh", os.X_OK)
