"""deploy/deploy.sh and deploy/remove.sh, run against an account in memory (fake_aws.py)."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from checkout import SHA256, Checkout
from cloudformation import DEPLOY, load
from fake_aws import Bucket, Call, FakeAws

KEY = f"lambda_traffic_mirror/2.0.0-{SHA256}.zip"
OLD_KEY = f"lambda_traffic_mirror/1.0.0-{'0' * 64}.zip"
OLDEST_KEY = f"lambda_traffic_mirror/{'1' * 64}.zip"
NEW = ("--bucket", "my-bucket", "--filter", "tmf-1", "--targets", "tmt-1, tmt-2")
UPGRADE = ("--bucket", "my-bucket")
SCRIPTS = [DEPLOY / name for name in ("common.sh", "deploy.sh", "remove.sh")]
DEPLOYED_TARGETS = {"FilterId": "tmf-1", "Targets": "tmt-1,tmt-2", "TargetAccounts": ""}


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    (tmp_path / "bin").mkdir()
    with FakeAws(tmp_path / "bin") as aws:
        aws.targets = dict.fromkeys(("tmt-1", "tmt-2", "tmt-3"), aws.account)
        aws.targets |= {"tmt-shared": "210987654321"}
        aws.filters = ["tmf-0", "tmf-1", "tmf-2", "tmf-made"]
        yield Checkout(tmp_path, aws)


def commands(aws: FakeAws) -> list[str]:
    return [call.command for call in aws.calls]


# deploy.sh: what goes well


def test_a_new_stack_is_looked_up_built_uploaded_deployed_and_compared(checkout: Checkout) -> None:
    done = checkout.deploy(*NEW)
    assert commands(checkout.aws) == [
        "configure get",
        "sts get-caller-identity",
        "cloudformation describe-stacks",
        "ec2 describe-traffic-mirror-targets",
        "ec2 describe-traffic-mirror-filters",
        "s3api head-bucket",
        "s3 cp",
        "cloudformation deploy",
        "cloudformation describe-stacks",
        "cloudformation describe-stacks",
        "lambda get-function-configuration",
    ]
    (upload,) = checkout.aws.made("s3 cp")
    assert Path(upload.args[2]).resolve() == (checkout.root / "lambda_traffic_mirror.zip").resolve()
    assert upload.args[3] == f"s3://my-bucket/{KEY}"
    (call,) = checkout.aws.made("cloudformation deploy")
    assert call["stack-name"] == "traffic-mirror"
    assert Path(call["template-file"]) == checkout.root / "deploy" / "template.yaml"
    assert call["capabilities"] == "CAPABILITY_IAM"
    assert "no-fail-on-empty-changeset" in call.options
    assert checkout.overrides() == {
        "CodeBucket": "my-bucket",
        "CodeKey": KEY,
        "CodeVersion": "2.0.0",
        "FilterId": "tmf-1",
        "Targets": "tmt-1,tmt-2",
        "TargetAccounts": "",
    }
    assert "traffic-mirror-Function" in done.stdout
    code = base64.b64encode(sha256(b"zip content").digest()).decode()
    assert f"CodeSha256 {code}, the same as that of the zip." in done.stdout
    assert "way back" not in done.stdout
    for one in checkout.aws.calls[1:]:
        assert one.environment["AWS_REGION"] == one.environment["AWS_DEFAULT_REGION"] == "eu-west-1"
        assert one.environment["AWS_PAGER"] == ""


@pytest.mark.parametrize(
    ("targets", "ids", "accounts"),
    [
        ("tmt-1", "tmt-1", ""),
        ("tmt-1,tmt-2", "tmt-1,tmt-2", ""),
        ("tmt-2 tmt-1", "tmt-2,tmt-1", ""),
        ("tmt-1\ntmt-2\n", "tmt-1,tmt-2", ""),
        ("tmt-1\r\ntmt-2\ttmt-3\vtmt-shared\f", "tmt-1,tmt-2,tmt-3,tmt-shared", ""),
        (" ,tmt-1 , ,, tmt-2,", "tmt-1,tmt-2", ""),
        ("tmt-1,tmt-2,tmt-1", "tmt-1,tmt-2", ""),
        ("210987654321", "", "210987654321"),
        ("tmt-1 210987654321,tmt-2 123456789012", "tmt-1,tmt-2", "210987654321,123456789012"),
        ("210987654321,210987654321", "", "210987654321"),
    ],
)
def test_targets_are_separated_and_sorted_as_the_function_takes_them(
    checkout: Checkout, targets: str, ids: str, accounts: str
) -> None:
    checkout.deploy(*UPGRADE, "--targets", targets)
    given = checkout.overrides()
    assert (given["Targets"], given["TargetAccounts"]) == (ids, accounts)


def test_what_the_template_takes_is_passed_on(checkout: Checkout) -> None:
    more = ("LocalZoneOnly=false", "IncludeTags=", "ExcludeTags=a b=c,d=*", "SweepRate=15")
    checkout.aws.buckets["my-bucket"].region = "us-west-2"
    checkout.deploy(*NEW, "--region", "us-west-2", "--stack", "mine", *more)
    assert checkout.aws.made("cloudformation deploy")[0]["stack-name"] == "mine"
    given = checkout.overrides()
    assert {"LocalZoneOnly": "false", "IncludeTags": "", "ExcludeTags": "a b=c,d=*"}.items() <= (
        given.items()
    )
    assert {one.environment["AWS_REGION"] for one in checkout.aws.calls} == {"us-west-2"}


def test_the_rest_goes_to_cloudformation_deploy(checkout: Checkout) -> None:
    arguments = ("--tags", "team=a b", "cost=1", "--role-arn", "arn:aws:iam::1:role/x")
    checkout.deploy(*NEW, "--", *arguments)
    (call,) = checkout.aws.made("cloudformation deploy")
    assert call.options["tags"] == ["team=a b", "cost=1"]
    assert call["role-arn"] == "arn:aws:iam::1:role/x"
    assert checkout.overrides()["FilterId"] == "tmf-1"


def test_a_change_set_that_is_not_executed_changes_nothing(checkout: Checkout) -> None:
    done = checkout.deploy(*NEW, "--", "--no-execute-changeset")
    assert commands(checkout.aws)[-1] == "cloudformation deploy"
    assert "Nothing has been changed" in done.stdout


def test_an_upgrade_needs_nothing_but_the_bucket(checkout: Checkout) -> None:
    checkout.aws.deployed(**DEPLOYED_TARGETS, LocalZoneOnly="false", SweepRate="15")
    done = checkout.deploy(*UPGRADE)
    assert checkout.overrides().keys() == {"CodeBucket", "CodeKey", "CodeVersion"}
    stack = checkout.aws.stack
    assert stack is not None
    kept = {**DEPLOYED_TARGETS, "LocalZoneOnly": "false", "SweepRate": "15", "CodeKey": KEY}
    assert kept.items() <= stack.parameters.items()
    assert f"Now there: version 1.0.0, s3://my-bucket/{OLD_KEY}" in done.stdout
    assert (
        f"The way back: deploy/deploy.sh --bucket my-bucket --code-key {OLD_KEY} "
        "--region eu-west-1" in done.stdout
    )


def test_an_upgrade_without_a_change_says_so(checkout: Checkout) -> None:
    checkout.deploy(*NEW)
    checkout.aws.calls.clear()
    done = checkout.deploy(*UPGRADE)
    assert "No changes to deploy" in done.stdout
    assert "the same as that of the zip" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        (("--targets", "tmt-3"), {"Targets": "tmt-3", "TargetAccounts": ""}),
        (("--filter", "new"), {"FilterId": ""}),  # one of the stack's own
    ],
)
def test_an_upgrade_changes_what_it_is_told(
    checkout: Checkout, arguments: tuple[str, ...], changes: dict[str, str]
) -> None:
    checkout.aws.deployed(**{**DEPLOYED_TARGETS, "TargetAccounts": "210987654321"})
    checkout.deploy(*UPGRADE, *arguments)
    given = checkout.overrides()
    assert {key: given.get(key) for key in given if not key.startswith("Code")} == changes


@pytest.mark.parametrize(
    ("before", "now", "noted"),
    [
        ("rate(5 minutes)", "5", False),
        ("rate(1 minute)", "5", True),
        ("rate(7 minutes)", "10", True),
        ("rate(10 minutes)", "10", False),
        ("rate(1 hour)", "60", False),
        ("rate(2 hours)", "60", True),
        ("rate(1 day)", "60", True),
    ],
)
def test_the_rate_of_the_first_template_becomes_minutes(
    checkout: Checkout, before: str, now: str, noted: bool
) -> None:
    checkout.aws.deployed(**DEPLOYED_TARGETS, SweepRate=before)
    done = checkout.deploy(*UPGRADE)
    assert checkout.overrides()["SweepRate"] == now
    assert (f"instead of {before}" in done.stderr) == noted


def test_a_rate_that_is_given_beats_that_of_the_stack(checkout: Checkout) -> None:
    checkout.aws.deployed(**DEPLOYED_TARGETS, SweepRate="rate(5 minutes)")
    checkout.deploy(*UPGRADE, "SweepRate=30")
    assert checkout.overrides()["SweepRate"] == "30"


@pytest.mark.parametrize(
    ("key", "version"),
    [
        (OLD_KEY, "1.0.0"),
        (OLDEST_KEY, "unknown"),
        ("mine.zip", "unknown"),
        (f"s3://my-bucket/{OLD_KEY}", "1.0.0"),
    ],
)
def test_the_way_back_is_a_zip_that_is_there(checkout: Checkout, key: str, version: str) -> None:
    checkout.aws.deployed(**{**DEPLOYED_TARGETS, "CodeKey": KEY})
    checkout.aws.buckets["my-bucket"].keys = {OLD_KEY, OLDEST_KEY, "mine.zip"}
    done = checkout.deploy("--code-key", key, *UPGRADE, BUILD_FAILS="1")
    assert checkout.aws.made("s3 cp") == []
    given = checkout.overrides()
    assert given["CodeKey"] == key.removeprefix("s3://my-bucket/")
    assert given["CodeVersion"] == version
    assert ("does not tell what it should be" in done.stdout) == (key == "mine.zip")
    assert f"The way back: deploy/deploy.sh --bucket my-bucket --code-key {KEY}" in done.stdout


@pytest.mark.parametrize("module", ["", (DEPLOY.parent / "lambda_traffic_mirror.py").read_text()])
def test_the_version_is_read_from_the_module(checkout: Checkout, module: str) -> None:
    (checkout.root / "lambda_traffic_mirror.py").write_text(module, encoding="utf-8")
    (version,) = re.findall(r'^VERSION(?:: \w+)? = "(.*)"$', module, re.MULTILINE) or ["unknown"]
    checkout.deploy(*NEW)
    given = checkout.overrides()
    assert given["CodeVersion"] == version
    before = "" if version == "unknown" else f"{version}-"
    assert given["CodeKey"] == f"lambda_traffic_mirror/{before}{SHA256}.zip"


def test_what_does_not_keep_it_from_being_deployed_is_noted(checkout: Checkout) -> None:
    checkout.aws.fail("lambda get-function-configuration", "AccessDeniedException")
    done = checkout.deploy(*UPGRADE, "--targets", "tmt-1 111111111111")
    assert "account 111111111111 owns no traffic mirror target" in done.stderr
    assert "could not be compared (lambda:GetFunctionConfiguration)" in done.stderr
    checkout.aws.stack.outputs = {}  # type: ignore[union-attr]
    assert "the stack shows no function" in checkout.deploy(*UPGRADE).stderr


def test_an_older_aws_command_does_not_show_the_region_of_the_bucket(checkout: Checkout) -> None:
    checkout.aws.buckets["my-bucket"].shows_region = False
    checkout.deploy(*NEW)
    # One that may not be asked for its Region is taken.
    checkout.aws.fail("s3api get-bucket-location", "AccessDenied")
    checkout.deploy(*NEW)


# deploy.sh: what goes wrong


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "--bucket is missing"),
        (NEW[2:], "--bucket is missing"),
        (("--bucket",), "--bucket needs a value"),
        (("--bucket", "--filter", "tmf-1"), "--bucket needs a value"),
        (("--bucket", "my-bucket/zips", *NEW[2:]), "'my-bucket/zips' is no name of a bucket"),
        (("--bucket", "My-Bucket", *NEW[2:]), "'My-Bucket' is no name of a bucket"),
        ((*NEW, "--stack", ""), "--stack needs a value"),
        ((*NEW, "--colour", "blue"), "do not understand '--colour'"),
        ((*NEW, "LocalZoneOnly"), "do not understand 'LocalZoneOnly'"),
        *(
            ((*NEW, f"{name}=x"), f"template.yaml has no parameter {name}")
            for name in ("LocalZone", "L.*", "Function", "HasAlarmTopic")
        ),
        *(
            ((*NEW, f"{name}=tmt-3"), f"{name} has an option of its own")
            for name in ("Targets", "TargetAccounts", "FilterId")
        ),
        ((*NEW, "CodeVersion=3"), "CodeVersion is read from the module"),
        ((*NEW, "--", "tags"), "behind -- options of 'aws cloudformation deploy' are expected"),
        ((*NEW, "--", "--stack-name", "x"), "--stack-name is for deploy.sh to say"),
        ((*NEW, "--", "--region=x"), "--region is for deploy.sh to say"),
        ((*UPGRADE, "--targets", ", "), "--targets names no target"),
        ((*UPGRADE, "--targets", "tmt-1 *"), "'*' is no traffic mirror target"),
        ((*UPGRADE, "--targets", "tmt-1,i-1"), "'i-1' is no traffic mirror target"),
        *(
            ((*UPGRADE, "--targets", name), f"'{name}' is no traffic mirror target")
            for name in ("tmt-1;tmt-2", "tmf-1", "eni-1", "-tmt", "arn:x", "tmt-1\u00a0tmt-2")
        ),
        ((*UPGRADE, "--targets", "12345678901"), "'12345678901' has 11 digits, an account has 12"),
        ((*UPGRADE, "--targets", "1234567890123"), "'1234567890123' has 13 digits"),
        ((*UPGRADE, "--filter", "tmt-1"), "'tmt-1' is no traffic mirror filter"),
        ((*UPGRADE, "--filter", "tmf-1,tmf-2"), "'tmf-1,tmf-2' is no traffic mirror filter"),
    ],
)
def test_a_wrong_call_of_deploy_is_explained(
    checkout: Checkout, arguments: tuple[str, ...], why: str
) -> None:
    done = checkout.deploy(*arguments, ends=2)
    assert done.stderr.startswith(f"deploy.sh: {why}")
    assert "Usage: deploy/deploy.sh --bucket" in done.stderr
    assert checkout.aws.calls == []
    assert checkout.nothing_was_done()


@pytest.mark.parametrize("script", ["deploy.sh", "remove.sh"])
def test_help_says_how_and_with_which_exit_status(checkout: Checkout, script: str) -> None:
    done = checkout.run(script, "--help")
    assert done.stdout.startswith(f"Usage: deploy/{script} ")
    assert re.findall(r"^ +(\d+)  ", done.stdout, re.MULTILINE) == [str(n) for n in range(18)]
    assert os.access(DEPLOY / script, os.X_OK)


Plan = Callable[[FakeAws], object]
CALLER, STACKS = "sts get-caller-identity", "cloudformation describe-stacks"
TARGETS, FILTERS = (f"ec2 describe-traffic-mirror-{kind}" for kind in ("targets", "filters"))
HEAD_BUCKET, NOT_THERE = "s3api head-bucket", "in account 123456789012 and eu-west-1: "


def fails(*how: str | None) -> Plan:
    """A call of this command fails, with this code and message."""
    return lambda aws: aws.fail(*how)


def has_bucket(region: str, **more: Any) -> Plan:
    return lambda aws: aws.buckets.update({"my-bucket": Bucket(region, **more)})


def is_well(_: FakeAws) -> None: ...


# Before anything is built, uploaded or deployed: how it ends, words, what is so, arguments.
LOOKED_UP: dict[str, tuple[int, str, Plan, tuple[str, ...]]] = {
    "no Region": (4, "no Region is set", lambda aws: setattr(aws, "region", ""), NEW),
    "no credentials": (5, "no valid credentials", fails(CALLER, None, "Unable to locate"), NEW),
    "credentials expired": (5, "no valid credentials", fails(CALLER, "ExpiredToken"), NEW),
    "no network": (
        *(14, "did not answer"),
        *(fails(CALLER, None, 'Could not connect to the endpoint URL: "https://x"'), NEW),
    ),
    "a new stack without targets": (
        *(2, "--targets is missing: there is no stack traffic-mirror in eu-west-1 yet"),
        *(is_well, UPGRADE),
    ),
    "the stack denied": (10, "cloudformation:DescribeStacks", fails(STACKS, "AccessDenied"), NEW),
    "the stack throttled": (
        *(14, "did not answer for the state of stack traffic-mirror"),
        *(fails(STACKS, "Throttling"), NEW),
    ),
    "a fault": (14, "did not answer", fails(STACKS, "InternalFailure"), NEW),
    "one target that is not there, on the second page of those that are": (
        *(12, f"no traffic mirror target {NOT_THERE}tmt-4 tmt-5"),
        *(is_well, (*UPGRADE, "--targets", "tmt-3 tmt-4 tmt-shared tmt-5")),
    ),
    "a target whose name begins like another's": (
        *(12, ": tmt-share\n"),
        *(is_well, (*UPGRADE, "--targets", "tmt-share")),
    ),
    "no targets at all": (
        *(12, f"no traffic mirror target {NOT_THERE}tmt-1 tmt-2"),
        *(lambda aws: aws.targets.clear(), NEW),
    ),
    "targets denied": (
        *(10, "It takes ec2:DescribeTrafficMirrorTargets."),
        *(fails(TARGETS, "UnauthorizedOperation"), NEW),
    ),
    "targets throttled": (14, "Try again.", fails(TARGETS, "RequestLimitExceeded"), NEW),
    "a filter that is not there": (
        *(12, f"no traffic mirror filter {NOT_THERE}tmf-1"),
        *(lambda aws: aws.filters.remove("tmf-1"), NEW),
    ),
    "filters denied": (
        *(10, "ec2:DescribeTrafficMirrorFilters"),
        *(fails(FILTERS, "UnauthorizedOperation"), NEW),
    ),
    "no bucket": (
        *(8, "there is no bucket my-bucket. Make one: aws s3 mb s3://my-bucket --region eu-west-1"),
        *(lambda aws: aws.buckets.clear(), NEW),
    ),
    "a bucket in another Region": (
        *(9, "bucket my-bucket is in us-east-1. The function's code has to come from a bucket in "),
        *(has_bucket("us-east-1"), NEW),
    ),
    "the same, and an old command": (
        *(9, "bucket my-bucket is in us-east-1"),
        *(has_bucket("us-east-1", shows_region=False), NEW),
    ),
    "a bucket that leads elsewhere": (9, "is in another Region", fails(HEAD_BUCKET, "301"), NEW),
    "somebody else's bucket": (10, "s3:ListBucket", fails(HEAD_BUCKET, "403", "Forbidden"), NEW),
    "no such zip": (
        11,
        f"{OLD_KEY.split('/')[1]}\ndeploy.sh: there is no s3://my-bucket/lambda_traffic_mirror/no.",
        has_bucket("eu-west-1", keys={OLD_KEY}),
        (*NEW, "--code-key", "lambda_traffic_mirror/no.zip"),
    ),
    "the zip denied": (
        *(10, "s3:GetObject"),
        *(fails("s3api head-object", "403", "Forbidden"), (*NEW, "--code-key", OLD_KEY)),
    ),
}


@pytest.mark.parametrize("case", LOOKED_UP)
def test_what_is_wrong_is_found_before_anything_is_done(checkout: Checkout, case: str) -> None:
    status, words, plan, arguments = LOOKED_UP[case]
    plan(checkout.aws)
    done = checkout.deploy(*arguments, ends=status)
    assert words in done.stderr
    assert checkout.nothing_was_done()
    assert "delete-stack" not in done.stderr


@pytest.mark.parametrize("script", ["deploy.sh", "remove.sh"])
def test_a_missing_aws_command_has_a_status_of_its_own(checkout: Checkout, script: str) -> None:
    (checkout.bin / "aws").unlink()
    done = checkout.run(script, *(NEW if script == "deploy.sh" else ()), ends=3)
    assert "the aws command is missing" in done.stderr


STATES = {
    # After --disable-rollback a stack has failed and can be updated nevertheless.
    0: "CREATE_COMPLETE UPDATE_COMPLETE UPDATE_ROLLBACK_COMPLETE IMPORT_COMPLETE "
    "IMPORT_ROLLBACK_COMPLETE CREATE_FAILED UPDATE_FAILED",
    2: "REVIEW_IN_PROGRESS",
    13: "CREATE_IN_PROGRESS UPDATE_IN_PROGRESS UPDATE_COMPLETE_CLEANUP_IN_PROGRESS "
    "UPDATE_ROLLBACK_IN_PROGRESS UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS ROLLBACK_IN_PROGRESS "
    "DELETE_IN_PROGRESS IMPORT_IN_PROGRESS IMPORT_ROLLBACK_IN_PROGRESS ROLLBACK_COMPLETE "
    "ROLLBACK_FAILED DELETE_FAILED UPDATE_ROLLBACK_FAILED IMPORT_ROLLBACK_FAILED",
}
# What cannot be deployed any more can be removed, and what is being removed, too.
REMOVABLE = (
    *("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "UPDATE_ROLLBACK_FAILED", "IMPORT_ROLLBACK_FAILED"),
    *("DELETE_FAILED", "DELETE_IN_PROGRESS"),
)
EACH_STATE = [(state, status) for status, states in STATES.items() for state in states.split()]


@pytest.mark.parametrize(("state", "status"), EACH_STATE)
def test_every_state_of_a_stack_has_its_answer(checkout: Checkout, state: str, status: int) -> None:
    checkout.aws.deployed(**DEPLOYED_TARGETS).status = state
    done = checkout.deploy(*UPGRADE, ends=status)
    if status:
        assert checkout.nothing_was_done()
        assert state == "REVIEW_IN_PROGRESS" or f"is in {state}" in done.stderr
    # Deletion is named where nothing is lost by it, and nowhere else.
    delete = "aws cloudformation delete-stack --region eu-west-1 --stack-name traffic-mirror"
    assert (delete in done.stderr) == (state == "ROLLBACK_COMPLETE")
    assert ("delete-stack" in done.stderr) == (state == "ROLLBACK_COMPLETE")
    assert ("continue-update-rollback" in done.stderr) == (state == "UPDATE_ROLLBACK_FAILED")
    if state == "REVIEW_IN_PROGRESS":  # there is nothing yet, so that everything has to be given
        checkout.deploy(*NEW)


@pytest.mark.parametrize(
    ("status", "ends"), [("6", 6), ("7", 7), ("1", 7)], ids=["old Python", "no index", "other"]
)
def test_a_zip_that_cannot_be_built_is_not_deployed(
    checkout: Checkout, status: str, ends: int
) -> None:
    done = checkout.deploy(*NEW, BUILD_FAILS=status, ends=ends)
    assert "build_zip.sh: it fails" in done.stderr
    assert checkout.nothing_was_done()


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("AccessDenied", 10, "s3:PutObject, and kms:GenerateDataKey"),
        ("KMS.DisabledException", 14, "AWS answered with an error for the upload"),
        ("SlowDown", 14, "Try again"),
        ("ExpiredToken", 5, "does not accept the credentials"),
    ],
)
def test_an_upload_that_fails_says_why(
    checkout: Checkout, code: str, status: int, words: str
) -> None:
    checkout.aws.fail("s3 cp", code, "Words of AWS")
    done = checkout.deploy(*NEW, ends=status)
    assert "Words of AWS" in done.stderr
    assert words in done.stderr
    assert checkout.aws.made("cloudformation deploy") == []


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (None, "ROLLBACK_COMPLETE", "delete-stack --region eu-west-1 --stack-name traffic-mirror"),
        (None, "CREATE_FAILED", "stack traffic-mirror is in CREATE_FAILED"),
        ("CREATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "traffic-mirror is as it was before"),
        ("UPDATE_COMPLETE", "UPDATE_ROLLBACK_FAILED", "continue-update-rollback --region eu-west"),
        ("UPDATE_COMPLETE", "UPDATE_FAILED", "stack traffic-mirror is in UPDATE_FAILED"),
    ],
)
def test_a_deployment_that_fails_shows_the_failures_of_this_time(
    checkout: Checkout, before: str | None, after: str, words: str
) -> None:
    aws = checkout.aws
    if before:
        stack = aws.deployed(**DEPLOYED_TARGETS)
        stack.status = before
        stack.events[:0] = [("Queue", "CREATE_FAILED", "A failure of long ago")]
    aws.ends = after
    aws.failures = [("Role", "The first of it"), ("Function", "Resource creation cancelled")]
    done = checkout.deploy(*NEW, ends=1)
    kind = "UPDATE_FAILED" if before else "CREATE_FAILED"
    shown = f"  Role {kind}: The first of it\n  Function {kind}: Resource creation cancelled\n"
    assert shown in done.stderr
    assert "long ago" not in done.stderr
    assert words in done.stderr
    assert ("delete-stack" in done.stderr) == (after == "ROLLBACK_COMPLETE")
    assert done.stderr.endswith("deploy.sh: the stack was not deployed.\n")


@pytest.mark.parametrize(
    ("code", "message", "status", "words"),
    [
        ("ValidationError", "Rule TargetsAreGiven", 1, "the stack was not deployed"),
        ("AccessDenied", "not authorized to perform: iam:CreateRole", 10, "docs/operations.md"),
        ("ExpiredToken", "", 5, "credentials"),
        ("Throttling", "Rate exceeded", 14, "Try again"),
        (None, "Could not connect to the endpoint URL", 14, "Try again"),
        (None, "Unknown options: --colour", 2, "aws refuses what it was given"),
        (None, "Failed to create the changeset: Waiter failed", 1, "the stack was not deployed"),
    ],
)
def test_a_change_set_that_is_refused_shows_no_old_failure(
    checkout: Checkout, code: str | None, message: str, status: int, words: str
) -> None:
    stack = checkout.aws.deployed(**DEPLOYED_TARGETS)
    stack.events[:0] = [("Queue", "CREATE_FAILED", "A failure of long ago")]
    checkout.aws.fail("cloudformation deploy", code, message)
    done = checkout.deploy(*UPGRADE, ends=status)
    assert message in done.stderr
    assert words in done.stderr
    assert "long ago" not in done.stderr
    assert "delete-stack" not in done.stderr


def test_outputs_that_cannot_be_read_have_a_status_of_the_list(checkout: Checkout) -> None:
    aws = checkout.aws
    aws.after["cloudformation deploy"] = lambda: aws.fail(
        "cloudformation describe-stacks", "Throttling"
    )
    done = checkout.deploy(*NEW, ends=14)
    assert "Successfully created" in done.stdout
    assert "did not answer for the state of stack traffic-mirror" in done.stderr


@pytest.mark.parametrize(
    ("script", "arguments"),
    [("deploy.sh", NEW), ("deploy.sh", UPGRADE), ("remove.sh", ("--yes",))],
)
def test_a_stack_of_something_else_is_left_alone(
    checkout: Checkout, script: str, arguments: tuple[str, ...]
) -> None:
    """Its name was mistyped: a deployment would delete all that it holds."""
    checkout.aws.deployed().parameters = {"Targets": "tmt-1"}
    done = checkout.run(script, *arguments, ends=13)
    assert "stack traffic-mirror is none of template.yaml" in done.stderr
    assert checkout.nothing_was_done()


def test_other_code_than_was_deployed_has_a_status_of_its_own(checkout: Checkout) -> None:
    checkout.aws.code_sha256 = "c29tZXRoaW5nIGVsc2U="
    done = checkout.deploy(*NEW, ends=15)
    assert "CodeSha256 c29tZXRoaW5nIGVsc2U=, and the zip has " in done.stderr


def test_the_template_has_what_the_scripts_read_of_it() -> None:
    template = load()
    kinds = {"Parameter": template["Parameters"], "Output": template["Outputs"]}
    found = [
        (kind, name)
        for script in SCRIPTS
        for kind, name in re.findall(r"\bfact (Parameter|Output) (\w+)", script.read_text())
    ]
    assert len(found) > 5
    assert [(kind, name) for kind, name in found if name not in kinds[kind]] == []


def test_only_one_list_of_exit_codes() -> None:
    """Every status that a script ends with is in the list."""
    listed = set(re.findall(r"^ +(\d+)  ", (DEPLOY / "common.sh").read_text(), re.MULTILINE))
    for script in SCRIPTS:
        used = re.findall(r"\b(?:die|exit) (\d+)", script.read_text())
        assert set(used) <= listed, script


# remove.sh: the stack and its sessions


@pytest.fixture
def stack(checkout: Checkout) -> Checkout:
    """A stack with three sessions of its own, and one of each kind that is not."""
    aws = checkout.aws
    aws.deployed(**{**DEPLOYED_TARGETS, "TargetAccounts": "210987654321"})
    aws.queues = {"https://sqs/dead", "https://sqs/sweeps", "https://sqs/other"}
    for target in ("tmt-1", "tmt-2", "tmt-shared"):
        aws.add_session("eni-0a1b2c3d", target, "tmf-1")
    aws.add_session("eni-11112222", "tmt-1", "tmf-2")
    aws.add_session("eni-22223333", "tmt-3", "tmf-1")
    aws.add_session("eni-33334444", "tmt-1", "tmf-1", label="by hand")
    aws.add_session("eni-44445555", "tmt-1", "tmf-1", label="")
    aws.add_session("eni-55556666", "tmt-1", "tmf-1", owner="210987654321")
    aws.add_session("eni-66667777", "tmt-shared", "tmf-1", label="eh-mirror-66667777")
    return checkout


OTHERS = [f"tms-{number:017x}" for number in range(4, 10)]
NOTES = "traffic-mirror-eu-west-1-123456789012.removal"


def test_the_stack_goes_first_and_then_its_sessions(stack: Checkout) -> None:
    stack.remove(answer="yes\n")
    assert list(stack.aws.sessions) == OTHERS
    assert stack.aws.stack is None
    made = commands(stack.aws)
    assert made.index("cloudformation wait") < made.index("ec2 delete-traffic-mirror-session")
    assert made.count("ec2 delete-traffic-mirror-session") == 3
    assert stack.aws.filters == ["tmf-0", "tmf-1", "tmf-2", "tmf-made"]
    assert len(stack.aws.queues) == 3


def test_what_goes_and_what_stays_is_shown_before_it_is_asked(stack: Checkout) -> None:
    done = stack.remove(answer="no\n", ends=16)
    assert stack.nothing_was_done()
    goes, stays = done.stdout.split("What stays:")
    assert "stack traffic-mirror (CREATE_COMPLETE)" in goes
    assert "3 mirror sessions with filter tmf-1" in goes
    assert re.findall(r"tms-\w+", goes) == [f"tms-{number:017x}" for number in range(1, 4)]
    assert re.findall(r"tms-\w+", stays) == OTHERS
    assert re.findall(r"\((another \w+|of account)", stays) == [
        *("another filter", "another target", "another Name", "another Name", "of account"),
        "another Name",
    ]
    assert "filter tmf-1 (--with-filter deletes it)" in stays
    assert "queue https://sqs/dead (--with-queues deletes it)" in stays
    assert "log group output LogGroupName" in stays
    assert "zips in s3://my-bucket/lambda_traffic_mirror/" in stays
    assert not (stack.stand / NOTES).exists()
    stack.remove(ends=16)  # silence is no confirmation
    assert stack.nothing_was_done()


def test_filter_and_queues_are_deleted_when_told(stack: Checkout) -> None:
    for session in OTHERS[1:]:
        del stack.aws.sessions[session]
    done = stack.remove("--with-filter", "--with-queues", "--yes")
    assert stack.aws.filters == ["tmf-0", "tmf-2", "tmf-made"]
    assert stack.aws.queues == {"https://sqs/other"}
    # What is gone does not stay.
    done = stack.remove()
    assert "Nothing is left" in done.stdout
    assert not re.search(r"--with|https://sqs", done.stdout)


@pytest.mark.parametrize("first_template", [False, True])
def test_the_stacks_filter_is_an_output_or_a_parameter(
    checkout: Checkout, first_template: bool
) -> None:
    aws = checkout.aws
    if first_template:
        aws.deployed(FilterId="tmf-made", Targets="tmt-1, tmt-2").outputs.pop("FilterId")
    else:
        aws.deployed(**{**DEPLOYED_TARGETS, "FilterId": ""})
    aws.add_session("eni-0a1b2c3d", "tmt-2", "tmf-made")
    other = aws.add_session("eni-0a1b2c3e", "tmt-1", "tmf-1")
    checkout.remove("--yes", "--with-filter")
    assert list(aws.sessions) == [other]
    assert "tmf-made" not in aws.filters


@pytest.mark.parametrize(
    ("state", "parameters"),
    [
        # A first deployment that failed has made no filter, or has taken it back.
        ("ROLLBACK_COMPLETE", {**DEPLOYED_TARGETS, "CodeKey": OLD_KEY, "FilterId": ""}),
        # Only a change set was made: the stack shows neither parameters nor outputs.
        ("REVIEW_IN_PROGRESS", {}),
    ],
)
def test_without_a_filter_no_session_is_the_stacks(
    checkout: Checkout, state: str, parameters: dict[str, str]
) -> None:
    aws = checkout.aws
    stack = aws.deployed()
    stack.status, stack.parameters, stack.outputs = state, parameters, {}
    session = aws.add_session("eni-0a1b2c3d", "tmt-1", "tmf-1")
    checkout.remove("--yes", "--with-filter", "--with-queues")
    assert (aws.stack, list(aws.sessions)) == (None, [session])
    assert aws.made("ec2 delete-traffic-mirror-filter") == []
    checkout.remove()


def test_a_filter_that_others_use_stays_and_is_said(stack: Checkout) -> None:
    done = stack.remove("--with-filter", "--yes", ends=17)
    assert "filter tmf-1 is still used by sessions of others" in done.stderr
    assert "tmf-1" in stack.aws.filters


def test_sessions_that_come_while_the_stack_goes_are_deleted_too(stack: Checkout) -> None:
    for command in ("cloudformation wait", "ec2 delete-traffic-mirror-session"):
        stack.aws.after[command] = lambda: stack.aws.add_session("eni-0a1b2c3d", "tmt-1", "tmf-1")
    stack.remove("--yes")
    assert list(stack.aws.sessions) == OTHERS


def test_sessions_of_many_pages_are_all_deleted(checkout: Checkout) -> None:
    checkout.aws.deployed(**DEPLOYED_TARGETS)
    for number in range(61):
        checkout.aws.add_session(f"eni-{number:08x}", "tmt-1", "tmf-1")
    done = checkout.remove("--yes")
    assert checkout.aws.sessions == {}
    assert "... and 11 more" in done.stdout
    assert "Deleted 61 of 61 sessions." in done.stdout


def test_a_second_run_goes_on_with_the_notes(stack: Checkout) -> None:
    """The first one ends in the middle, since sessions cannot be deleted."""
    stack.aws.fail("ec2 delete-traffic-mirror-session", "OperationNotPermitted", times=2)
    done = stack.remove("--yes", ends=17)
    assert "2 sessions could not be deleted. Run the same command again." in done.stderr
    assert "OperationNotPermitted" in done.stderr
    assert stack.aws.stack is None
    assert (stack.stand / NOTES).exists()

    done = stack.remove("--with-queues", "--yes")
    assert list(stack.aws.sessions) == OTHERS
    assert stack.aws.queues == {"https://sqs/other"}
    assert not (stack.stand / NOTES).exists()
    done = stack.remove("--yes", ends=13)
    assert "there is no stack traffic-mirror in eu-west-1, and no notes" in done.stderr


def test_the_notes_stay_until_a_run_finds_nothing(stack: Checkout) -> None:
    """An invocation that outlives its function can make a session after the last look."""
    done = stack.remove("--yes")
    assert "run the same command again in" in done.stdout
    stack.aws.add_session("eni-0a1b2c3d", "tmt-1", "tmf-1")
    stack.remove("--yes")
    assert list(stack.aws.sessions) == OTHERS
    assert not (stack.stand / NOTES).exists()


@pytest.mark.parametrize(("state", "status"), EACH_STATE)
def test_a_stack_in_any_state_is_removed_or_left_alone(
    checkout: Checkout, state: str, status: int
) -> None:
    ends = 13 if status == 13 and state not in REMOVABLE else 0
    checkout.aws.deployed(**DEPLOYED_TARGETS).status = state
    checkout.aws.add_session("eni-0a1b2c3d", "tmt-1", "tmf-1")
    checkout.remove("--yes", ends=ends)
    assert len(checkout.aws.sessions) == bool(ends)
    asked = len(checkout.aws.made("cloudformation delete-stack"))
    assert asked == (not ends and state != "DELETE_IN_PROGRESS")


def test_sessions_stay_while_the_stack_cannot_go(stack: Checkout) -> None:
    stack.aws.ends = "DELETE_FAILED"
    stack.aws.failures = [("Queue", "Somebody holds it")]
    done = stack.remove("--yes", ends=1)
    assert "  Queue DELETE_FAILED: Somebody holds it\n" in done.stderr
    assert len(stack.aws.sessions) == 9
    stack.aws.ends, stack.aws.failures = None, []
    stack.remove("--yes")
    assert list(stack.aws.sessions) == OTHERS


@pytest.mark.parametrize(
    ("command", "code", "status", "words"),
    [
        ("cloudformation delete-stack", "ValidationError", 1, "no session was"),
        ("cloudformation delete-stack", "AccessDenied", 10, "cloudformation:DeleteStack"),
        ("cloudformation wait", "Throttling", 14, "Try again"),
        ("cloudformation wait", "AccessDenied", 10, "cloudformation:DescribeStacks"),
        ("cloudformation wait", None, 14, "which goes on"),
        ("ec2 describe-traffic-mirror-sessions", "UnauthorizedOperation", 10, "Sessions"),
        ("ec2 describe-traffic-mirror-sessions", "RequestLimitExceeded", 14, "Try again"),
        ("ec2 describe-traffic-mirror-targets", "UnauthorizedOperation", 10, "Targets"),
        ("cloudformation describe-stack-events", "AccessDenied", 10, "DescribeStackEvents"),
    ],
)
def test_no_session_goes_where_something_before_it_fails(
    stack: Checkout, command: str, code: str | None, status: int, words: str
) -> None:
    stack.aws.fail(command, code)
    done = stack.remove("--yes", ends=status)
    assert words in done.stderr
    assert len(stack.aws.sessions) == 9


def test_a_deletion_that_is_denied_is_not_tried_for_each(checkout: Checkout) -> None:
    checkout.aws.deployed(**DEPLOYED_TARGETS)
    for number in range(20):
        checkout.aws.add_session(f"eni-{number:08x}", "tmt-1", "tmf-1")
    checkout.aws.fail("ec2 delete-traffic-mirror-session", "UnauthorizedOperation")
    done = checkout.remove("--yes", ends=10)
    assert "It takes ec2:DeleteTrafficMirrorSession." in done.stderr
    assert len(checkout.aws.made("ec2 delete-traffic-mirror-session")) == 4


@pytest.mark.parametrize(
    ("code", "times", "ends", "waits"),
    [
        ("RequestLimitExceeded", 3, 0, "1 2 4"),
        (None, 99, 17, "1 2 4 8 16"),  # no answer: the next run goes on
    ],
)
def test_a_deletion_that_is_throttled_waits(
    checkout: Checkout, code: str | None, times: int, ends: int, waits: str
) -> None:
    checkout.aws.deployed(**DEPLOYED_TARGETS)
    checkout.aws.add_session("eni-0a1b2c3d", "tmt-1", "tmf-1")
    message = "Read timeout on endpoint URL"
    checkout.aws.fail("ec2 delete-traffic-mirror-session", code, message, times=times)
    checkout.remove("--yes", ends=ends)
    assert len(checkout.aws.sessions) == bool(ends)
    assert checkout.waited.read_text().split() == waits.split()


def test_a_session_that_somebody_else_has_deleted_counts_as_deleted(checkout: Checkout) -> None:
    aws = checkout.aws
    aws.deployed(**DEPLOYED_TARGETS)
    session = aws.add_session("eni-0a1b2c3d", "tmt-1", "tmf-1")

    def gone(_: Call) -> bool:
        aws.sessions.pop(session, None)
        return True

    aws.fail(
        "ec2 delete-traffic-mirror-session",
        "InvalidTrafficMirrorSessionId.NotFound",
        where=gone,
    )
    done = checkout.remove("--yes")
    assert "Deleted 1 of 1" in done.stdout


def test_sessions_of_a_stack_that_is_gone_are_named_by_filter_and_targets(stack: Checkout) -> None:
    stack.aws.stack = None
    stack.remove("--filter", "tmf-1", "--targets", "tmt-1 tmt-2 210987654321", "--yes")
    assert list(stack.aws.sessions) == OTHERS
    assert list(stack.stand.iterdir()) == []


def test_a_stack_that_is_there_is_not_removed_by_half(stack: Checkout) -> None:
    stack.remove("--filter", "tmf-1", "--targets", "tmt-1", "--yes", ends=2)
    assert stack.nothing_was_done()


# remove.sh: the sessions to one target


def test_a_target_is_freed_of_what_the_function_has_made(stack: Checkout) -> None:
    done = stack.remove("--target", "tmt-1", answer="yes\n")
    # Whichever filter they have: that of another stack would keep the sensor as well.
    gone = {f"tms-{number:017x}" for number in (1, 4)}
    assert gone == {f"tms-{n:017x}" for n in range(1, 10)} - set(stack.aws.sessions)
    assert stack.aws.stack is not None
    assert "Sessions to tmt-1: 2 of ours to be deleted" in done.stdout
    assert "Of others, they stay: 3" in done.stdout
    assert "still names tmt-1" in done.stdout
    assert "The next sweep mirrors these interfaces anew." in done.stdout


def test_a_target_that_was_taken_out_before_needs_no_warning(stack: Checkout) -> None:
    done = stack.remove("--target", "tmt-3", "--yes")
    assert ("still names" in done.stdout) is False
    done = stack.remove("--target", "tmt-shared", "--yes")
    assert "still names" in done.stdout  # by its account


@pytest.mark.parametrize("there", ["nothing", "something else"])
def test_a_target_is_freed_where_there_is_no_stack(stack: Checkout, there: str) -> None:
    assert stack.aws.stack is not None
    stack.aws.stack.parameters = {}
    if there == "nothing":
        stack.aws.stack = None
    done = stack.remove("--target", "tmt-2", "--yes")
    assert "there is no stack traffic-mirror here, so nothing mirrors" in done.stdout
    done = stack.remove("--target", "tmt-2")
    assert "Nothing to delete." in done.stdout


@pytest.mark.parametrize(
    ("above", "goes"), [("0", 6), ("1", 6), ("2", 6), ("3", 5), ("7", 1), ("08", 0), ("100", 0)]
)
def test_above_keeps_so_many_and_counts_those_of_others(
    checkout: Checkout, above: str, goes: int
) -> None:
    aws = checkout.aws
    aws.deployed(**DEPLOYED_TARGETS)
    for number in range(6):
        aws.add_session(f"eni-{number:08x}", "tmt-1", "tmf-1")
    for number in range(2):
        aws.add_session(f"eni-{number:08x}", "tmt-1", "tmf-1", label="by hand")
    aws.add_session("eni-00000001", "tmt-2", "tmf-1")
    done = checkout.remove("--target", "tmt-1", "--above", above, "--yes")
    assert len(aws.sessions) == 9 - goes
    assert "still names" not in done.stdout


def test_a_freed_target_is_asked_for_first(stack: Checkout) -> None:
    stack.remove("--target", "tmt-1", answer="y\n", ends=16)
    assert len(stack.aws.sessions) == 9


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--colour",), "do not understand '--colour'"),
        (("--target",), "--target needs a value"),
        (("--target", "tmt-1,tmt-2"), "--target takes one traffic mirror target"),
        (("--target", "123456789012"), "--target takes one traffic mirror target"),
        (("--target", "eni-1"), "'eni-1' is no traffic mirror target"),
        (("--target", "tmt-1", "--above", "-1"), "--above takes a number"),
        (("--target", "tmt-1", "--above", "many"), "--above takes a number"),
        (("--target", "tmt-1", "--with-filter"), "--target goes with"),
        (("--above", "3"), "--above needs --target"),
        (("--filter", "tmf-1"), "--filter and --targets go together"),
        (("--targets", "tmt-1"), "--filter and --targets go together"),
        (("--filter", "eni-1", "--targets", "tmt-1"), "'eni-1' is no traffic mirror filter"),
        (
            ("--filter", "tmf-1", "--targets", "tmt-1", "--with-queues"),
            "the queues of a stack that is gone are not known here",
        ),
    ],
)
def test_a_wrong_call_of_remove_is_explained(
    checkout: Checkout, arguments: tuple[str, ...], why: str
) -> None:
    done = checkout.remove(*arguments, ends=2)
    assert done.stderr.startswith(f"remove.sh: {why}")
    assert "Usage: deploy/remove.sh" in done.stderr
    assert checkout.aws.calls == []


SHELL = [*SCRIPTS, DEPLOY / "preview.sh", DEPLOY.parent / "build_zip.sh"]


@pytest.mark.parametrize("script", SHELL, ids=lambda path: path.name)
def test_the_shell_can_read_it(script: Path) -> None:
    """And nothing is in it that bash 3.2 lacks, which macOS has."""
    subprocess.run(["bash", "-n", str(script)], check=True)
    newer = r"\b(?:mapfile|readarray|declare -A|local -A|local -n|wait -n|coproc)\b|\$\{\w+[,^@]"
    # An empty array is unset there, so it stands behind ${name[@]+...}.
    newer += r"|\|&|&>>|;;?&|\[\[ -v|(?<!\+)\"\$\{\w+\[@\]\}"
    assert re.findall(newer, script.read_text()) == []


def test_a_set_up_does_not_empty_the_environment_that_a_link_leads_to(tmp_path: Path) -> None:
    """`venv --clear` follows the link, to another checkout's, say."""
    for name in ("tests", "elsewhere"):
        (tmp_path / name).mkdir()
    shutil.copy(DEPLOY.parent / "tests" / "set_up.sh", tmp_path / "tests")
    (tmp_path / "requirements.txt").write_text("boto3==1.0\n")
    (tmp_path / "elsewhere" / "kept").touch()
    (tmp_path / ".venv").symlink_to("elsewhere")
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\n[ "$2" != venv ] || rm .venv/*\n')
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "source tests/set_up.sh"],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHON": str(python)},
        capture_output=True,
        text=True,
    )
    assert (tmp_path / "elsewhere" / "kept").exists()
    assert done.returncode == 1
    assert f"{tmp_path}/.venv is a symbolic link" in done.stderr
