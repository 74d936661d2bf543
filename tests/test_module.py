"""What importing the module does, what its client is like, and which calls it knows."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from aws import SimulatedAccount
from calls import CALLS, ROUTES
from conftest import Scene
from mistakes import mistakes

import lambda_traffic_mirror
from lambda_traffic_mirror import client_of

MODULE = Path(lambda_traffic_mirror.__file__)
FUNCTION = {"AWS_LAMBDA_FUNCTION_NAME": "traffic-mirror"}
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "simulated"}
NO_CREDENTIALS = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
REGION = {"AWS_REGION": "eu-central-1", "AWS_DEFAULT_REGION": "eu-central-1"}
JSON_FORMAT = {"AWS_LAMBDA_LOG_LEVEL": "ERROR"}
NO_REGION, NONSENSE = {"AWS_CONFIG_FILE": os.devnull}, dict.fromkeys(REGION, "?")


# --- Importing it

# Without a network: whoever looks up a name or connects fails.
IMPORT = """
import sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        raise SystemExit(f"the network is used: {event} {arguments}")
sys.addaudithook(refuse)
import lambda_traffic_mirror
made = [client.meta.region_name for client, _ in lambda_traffic_mirror._clients.values()]
print(*made, type(lambda_traffic_mirror.lambda_handler).__name__)
"""
IMPORTS: dict[str, tuple[dict[str, str], str]] = {
    "an environment with a Region": (REGION, "function"),
    "Lambda": (FUNCTION | CREDENTIALS | REGION, "eu-central-1 function"),
    "Lambda without credentials": (FUNCTION | NO_CREDENTIALS | REGION, "eu-central-1 function"),
    "Lambda without a Region": (FUNCTION | CREDENTIALS | NO_REGION, "function"),
    "Lambda with nonsense for a Region": (FUNCTION | CREDENTIALS | NONSENSE, "function"),
}


@pytest.mark.parametrize(("environment", "printed"), IMPORTS.values(), ids=IMPORTS.keys())
def test_importing_needs_nothing_and_makes_the_client_in_lambda_only(
    environment: dict[str, str], printed: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT],
        env=environment,
        cwd=MODULE.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, printed, "")


def imported_anew() -> ModuleType:
    """A second copy of the module, which leaves the first one alone."""
    spec = importlib.util.spec_from_file_location(MODULE.stem, MODULE)
    assert spec
    assert spec.loader
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    return copy


LEVELS: dict[str, tuple[dict[str, str], int]] = {
    "outside of Lambda it is left alone": ({}, logging.NOTSET),
    "in Lambda's text format it is INFO": (FUNCTION, logging.INFO),
    "in Lambda's JSON format it is Lambda's": (FUNCTION | JSON_FORMAT, logging.NOTSET),
}


@pytest.mark.parametrize(("environment", "wanted"), LEVELS.values(), ids=LEVELS.keys())
def test_the_level_of_the_log_and_that_its_first_record_says_which_version_runs(
    scene: Scene,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    environment: dict[str, str],
    wanted: int,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    caplog.set_level(logging.INFO)  # of the root logger
    caplog.set_level(logging.NOTSET, "lambda_traffic_mirror")  # which is as it was afterwards
    for library in ("botocore", "urllib3"):  # which would log every request, token included
        caplog.set_level(logging.DEBUG, library)
    module = imported_anew()
    levels = {logging.getLogger(library).level for library in ("botocore", "urllib3")}
    theirs = {logging.INFO} if environment else {logging.DEBUG}
    assert (module.logger.level, levels) == (wanted, theirs)
    first = [record.getMessage() for record in caplog.records[:1]]
    assert first == [f"Version {module.VERSION} of lambda_traffic_mirror"] * bool(environment)


def test_the_constants_for_those_who_edit_the_file_have_their_defaults() -> None:
    copy = imported_anew()
    assert (copy.TARGETS, copy.LOCAL_ZONE_ONLY) == ([], True)


# --- Its client


@pytest.mark.parametrize("role", [None, "arn:aws:iam::210987654321:role/sensors"])
def test_a_client_has_five_attempts_short_timeouts_and_enough_connections(
    scene: Scene, role: str | None
) -> None:
    config = client_of(role).meta.config
    assert config.retries == {"mode": "standard", "total_max_attempts": 5}
    # Together they are over within the reserve of 12 s.
    assert (config.connect_timeout, config.read_timeout) == (2, 8)
    assert config.max_pool_connections >= 2 * lambda_traffic_mirror.PARALLEL_CALLS


def test_the_client_is_made_once_even_by_twenty_threads_at_first_use(scene: Scene) -> None:
    together = threading.Barrier(20)

    def first_use(_: int) -> Any:
        together.wait()
        return client_of()

    with ThreadPoolExecutor(20) as threads:
        made = list(threads.map(first_use, range(20)))
    assert len(set(map(id, [*made, client_of()]))) == 1


# --- Its calls


def test_the_module_knows_these_ec2_operations_and_no_others() -> None:
    """With ec2:CreateTags, which creating a session with a tag takes, these are the guide's eight
    permissions and two that are asked for only where they decide; nothing is ever deleted or
    modified."""
    methods = SimulatedAccount().client().meta.method_to_api_mapping
    words = set(re.findall(r"\w+", MODULE.read_text(encoding="utf-8")))
    assert {methods[word] for word in words & set(methods)} == {*CALLS, ROUTES}


# --- The mistakes that mistakes.py plants in it


def test_every_planted_mistake_still_fits_the_module_and_the_tests() -> None:
    code = MODULE.read_text(encoding="utf-8")
    misfits = []
    for mistake in mistakes():
        file, _, name = mistake.test.partition("::")
        tests = (MODULE.parent / file).read_text(encoding="utf-8")
        if code.count(mistake.right) != 1 or f"def {name}(" not in tests:
            misfits.append(mistake)
    assert misfits == []
