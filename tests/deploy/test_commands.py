"""deploy/deploy.sh and deploy/remove.sh: the program behind them, through boto3 against moto."""

from __future__ import annotations

import base64
import io
import json
import os
import logging
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import botocore.loaders
import pytest
import yaml
from botocore.client import BaseClient
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from commands import __main__ as command_line
from commands import deploy, preview, stack, template
from commands.aws import Exit
from moto import mock_aws
from moto.backends import get_backend
from moto.cloudformation.utils import yaml_tag_constructor

DEPLOY = Path(__file__).resolve().parent.parent.parent / "deploy"
ACCOUNT, REGION = "123456789012", "eu-west-1"
ZIP = b"PK\5\6" + bytes(18)  # an empty archive
SHA256 = sha256(ZIP).hexdigest()
KEY, OLD_KEY = (
    f"lambda_traffic_mirror/3.0.0-{SHA256}.zip",
    f"lambda_traffic_mirror/1.0.0-{'0' * 64}.zip",
)
LOADER = botocore.loaders.create_loader()
UPGRADE = ("--bucket", "my-bucket")
# moto knows no alarm, no mirror filter and no policy of a queue in a template.
pytestmark = pytest.mark.filterwarnings("ignore:Tried to parse")


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


class Account:
    """An account in memory, in which each call is counted and can be made to fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys
        self.calls: Counter[str] = Counter()
        self.answers: dict[str, list[Any]] = {}
        self.invoked({"message": "2 interfaces: 2 planned.", "summary": {"planned": 2}})
        send = BaseClient._make_api_call

        def noted(client: Any, operation: str, asked: dict[str, Any]) -> Any:
            self.calls[operation] += 1
            planned = self.answers.get(operation)
            if planned:
                answer = planned.pop(0) if len(planned) > 1 else planned[0]
                if answer is not None:
                    if isinstance(answer, Exception):
                        raise answer
                    return answer(asked) if callable(answer) else answer
            return send(client, operation, asked)

        monkeypatch.setattr(BaseClient, "_make_api_call", noted)
        self.ec2, self.s3 = boto3.client("ec2"), boto3.client("s3")
        self.cloudformation = boto3.client("cloudformation")
        self.s3.create_bucket(
            Bucket="my-bucket", CreateBucketConfiguration={"LocationConstraint": REGION}
        )
        self.s3.put_object(Bucket="my-bucket", Key=OLD_KEY, Body=ZIP)
        network = self.ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        self.subnet = self.ec2.create_subnet(VpcId=network, CidrBlock="10.0.0.0/20")["Subnet"]
        self.targets = [self.target(), self.target()]
        self.filter = self.ec2.create_traffic_mirror_filter()["TrafficMirrorFilter"][
            "TrafficMirrorFilterId"
        ]
        self.calls.clear()

    def interface(self) -> str:
        made = self.ec2.create_network_interface(SubnetId=self.subnet["SubnetId"])
        return str(made["NetworkInterface"]["NetworkInterfaceId"])

    def target(self) -> str:
        made = self.ec2.create_traffic_mirror_target(NetworkInterfaceId=self.interface())
        return str(made["TrafficMirrorTarget"]["TrafficMirrorTargetId"])

    def session(self, target: str, filter_id: str = "", name: str = "", number: int = 1) -> str:
        """One as the function makes it, unless told otherwise; the interface's ID."""
        interface = self.interface()
        name = name or f"eh-mirror-{interface[4:8]}{target[4:8]}"
        tags = [{"Key": "Name", "Value": name}]
        self.ec2.create_traffic_mirror_session(
            NetworkInterfaceId=interface,
            TrafficMirrorTargetId=target,
            TrafficMirrorFilterId=filter_id or self.filter,
            SessionNumber=number,
            TagSpecifications=[{"ResourceType": "traffic-mirror-session", "Tags": tags}],
        )
        return interface

    @property
    def sessions(self) -> list[str]:
        """Interfaces that have one."""
        rows = self.ec2.describe_traffic_mirror_sessions()["TrafficMirrorSessions"]
        return [row["NetworkInterfaceId"] for row in rows]

    def answer(self, operation: str, *answers: Any) -> None:
        """What an operation answers, one after the other and the last for ever; None: moto's."""
        self.answers[operation] = list(answers)

    def refuse(
        self, operation: str, code: str, message: str = "Words of AWS", times: int = 99
    ) -> None:
        error = ClientError({"Error": {"Code": code, "Message": message}}, operation)
        self.answer(operation, *[error] * min(times, 20), *[None] * (times < 99))

    def invoked(self, body: dict[str, Any] | str, **more: Any) -> None:
        """What the function answers to the first sweep."""
        result = {"body": {"interfaces": [], **body}} if isinstance(body, dict) else body
        payload = json.dumps(result).encode()
        self.answer("Invoke", lambda _: {"Payload": io.BytesIO(payload), **more})

    def run(self, *arguments: str, answer: str = "", ends: int = 0) -> Done:
        """Run a command, which has to end with this status."""
        self.monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        self.capsys.readouterr()
        try:
            status = command_line.main(arguments)
        except SystemExit as stopped:
            status = int(str(stopped.code))
        done = Done(status, *self.capsys.readouterr())
        assert status == ends, done.err
        return done

    def deploy(self, *arguments: str, **more: Any) -> Done:
        return self.run("deploy", *arguments, **more)

    def remove(self, *arguments: str, **more: Any) -> Done:
        return self.run("remove", *arguments, **more)

    def deployed(self, **parameters: str) -> None:
        """Have a stack with both targets and the filter."""
        given = {"Targets": ",".join(self.targets), "FilterId": self.filter, "CodeKey": OLD_KEY}
        given |= {"CodeBucket": "my-bucket", "CodeVersion": "1.0.0", **parameters}
        for name, declared in template.parameters().items():
            given.setdefault(name, str(declared.get("Default")))
        self.cloudformation.create_stack(
            StackName="traffic-mirror",
            TemplateBody=template.TEMPLATE.read_text("utf-8"),
            Parameters=[{"ParameterKey": key, "ParameterValue": given[key]} for key in given],
        )
        self.calls.clear()

    @property
    def backend(self) -> Any:
        """moto's stack."""
        (found,) = get_backend("cloudformation")[ACCOUNT][REGION].stacks.values()
        return found

    @property
    def parameters(self) -> dict[str, str]:
        """Those of the stack."""
        (row,) = self.cloudformation.describe_stacks(StackName="traffic-mirror")["Stacks"]
        return {one["ParameterKey"]: one["ParameterValue"] for one in row["Parameters"]}

    def nothing_was_done(self) -> bool:
        done = {
            name for name in self.calls if not name.startswith(("Describe", "Get", "List", "Head"))
        }
        return done <= {"Invoke"}


@pytest.fixture
def account(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Account]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": REGION}
    keys |= {"AWS_DEFAULT_REGION": REGION, "AWS_CONFIG_FILE": str(tmp_path / "config")}
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "lambda_traffic_mirror.zip").write_bytes(ZIP)
    monkeypatch.setattr(deploy, "PROJECT", tmp_path)
    monkeypatch.setattr(deploy, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(stack, "POLL", 0.0)
    # moto warns of what it does not know in a template.
    monkeypatch.setattr(logging.getLogger("moto"), "disabled", True)
    build_that(monkeypatch, tmp_path, f"echo SHA-256 {SHA256}")
    (tmp_path / "lambda_traffic_mirror.py").write_text('VERSION = "3.0.0"\n')
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
    # What botocore and moto read again for each session and each look at a template, read once.
    monkeypatch.setattr("botocore.session.create_loader", lambda *_: LOADER)
    yaml.add_multi_constructor("", yaml_tag_constructor, Loader=yaml.CLoader)
    monkeypatch.setattr(yaml, "Loader", yaml.CLoader)
    with mock_aws(config={"lambda": {"use_docker": False}}):
        yield Account(monkeypatch, capsys)


def build_that(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Stands in for build_zip.sh, which fetches a package."""
    path = folder / "build_zip.sh"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


# ======================================================================================
# deploy
# ======================================================================================


def test_a_new_stack_is_looked_up_built_uploaded_deployed_and_swept(account: Account) -> None:
    done = account.deploy(
        *UPGRADE, "--targets", " ".join(account.targets), "--filter", account.filter, "SweepRate=10"
    )
    assert account.backend.status == "CREATE_COMPLETE"
    uploaded = account.s3.get_object(Bucket="my-bucket", Key=KEY)["Body"].read()
    assert uploaded == ZIP
    given = {"Targets": ",".join(account.targets), "FilterId": account.filter, "SweepRate": "10"}
    given |= {
        "CodeBucket": "my-bucket",
        "CodeKey": KEY,
        "CodeVersion": "3.0.0",
        "TargetAccounts": "",
    }
    assert given.items() <= account.parameters.items()
    code = base64.b64encode(sha256(ZIP).digest()).decode()
    assert f"CodeSha256 {code}, as the zip." in done.out
    assert "CREATE_COMPLETE      traffic-mirror" in done.out  # the stack's events
    assert "First sweep: 2 interfaces: 2 planned." in done.out
    assert "way back" not in done.out
    assert done.err == ""
    # The same again changes nothing, and says so.
    assert "No changes to deploy." in account.deploy(*UPGRADE).out


def test_an_upgrade_needs_nothing_but_the_bucket(account: Account) -> None:
    account.deployed(LocalZoneOnly="false", SweepRate="15")
    done = account.deploy(*UPGRADE)
    kept = {"LocalZoneOnly": "false", "SweepRate": "15", "FilterId": account.filter, "CodeKey": KEY}
    assert kept.items() <= account.parameters.items()
    assert f"Now there: version 1.0.0, {OLD_KEY}" in done.out
    back = f"--bucket my-bucket --stack traffic-mirror --region {REGION} --code-key {OLD_KEY}"
    assert f"The way back: deploy/deploy.sh {back}" in done.out
    # And back, without a build.
    account.answer("GetFunctionConfiguration", {"CodeSha256": base64.b64encode(bytes(32)).decode()})
    account.deploy(*back.split())
    assert account.parameters["CodeVersion"] == "1.0.0"


def test_an_upgrade_changes_what_it_is_told(account: Account) -> None:
    account.deployed(TargetAccounts=ACCOUNT)
    account.deploy(
        *UPGRADE, "--targets", account.targets[0], "--filter", "new", "ExcludeTags=a b=c"
    )
    changed = {"Targets": account.targets[0], "TargetAccounts": "", "FilterId": ""}
    assert (changed | {"ExcludeTags": "a b=c"}).items() <= account.parameters.items()


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("rate(5 minutes)", "5"),
        ("rate(7 minutes)", "10"),
        ("rate(1 hour)", "60"),
        ("rate(1 day)", "60"),
    ],
)
def test_the_rate_of_the_first_template_becomes_minutes(before: str, now: str) -> None:
    assert template.sweep_rate(before) == now


def test_a_value_that_the_template_no_longer_takes_is_told_before_the_upload(
    account: Account,
) -> None:
    account.deployed()
    account.backend.parameters["SweepRate"] = "7"
    done = account.deploy(*UPGRADE, ends=2)
    assert "SweepRate has to be one of 5, 10, 15, 30, 60" in done.err
    account.backend.parameters["SweepRate"] = "rate(7 minutes)"
    done = account.deploy(*UPGRADE)
    assert "a sweep every 10 minutes instead of rate(7 minutes)" in done.err


def test_tags_and_a_role_are_for_cloudformation(account: Account) -> None:
    asked: list[dict[str, Any]] = []

    def refuse(given: dict[str, Any]) -> None:
        asked.append(given)
        raise ClientError(
            {"Error": {"Code": "ValidationError", "Message": "Rule"}}, "CreateChangeSet"
        )

    account.answer("CreateChangeSet", refuse)
    arguments = ("--targets", account.targets[0], "--role-arn", "arn:aws:iam::1:role/x")
    # Behind -- as earlier versions took them.
    done = account.deploy(*UPGRADE, *arguments, "--", "--tags", "team=a b", "cost=", ends=1)
    assert asked[0]["RoleARN"] == "arn:aws:iam::1:role/x"
    assert asked[0]["Tags"] == [{"Key": "team", "Value": "a b"}, {"Key": "cost", "Value": ""}]
    assert asked[0]["Capabilities"] == ["CAPABILITY_IAM"]
    # What CloudFormation refuses, as by a rule of the template, is not uploaded.
    assert "CloudFormation refuses it" in done.err
    assert account.calls["PutObject"] == 0


def test_a_change_set_is_only_made_to_be_looked_at(account: Account) -> None:
    account.deployed()
    done = account.deploy(*UPGRADE, "--no-execute-changeset")
    assert "Nothing has been changed." in done.out
    assert account.calls["ExecuteChangeSet"] == 0
    assert account.calls["PutObject"] == 1


WRONG = {
    "": "the following arguments are required: --bucket",
    "--bucket": "argument --bucket: expected one argument",
    "--bucket my-bucket/zips": "CodeBucket has to be the name of an S3 bucket",
    "--bucket b --stack ''": "--stack needs a value",
    "--bucket b --colour blue": "unrecognized arguments: --colour",
    "--bucket b LocalZoneOnly": "do not understand 'LocalZoneOnly'",
    "--bucket bucket LocalZone=true": "template.yaml has no parameter LocalZone. It has CodeBucket",
    "--bucket bucket Targets=tmt-1": "Targets has an option of its own: --targets",
    "--bucket bucket CodeVersion=3": "CodeVersion is read from the module",
    "--bucket bucket DryRun=maybe": "DryRun has to be one of true, false",
    "--bucket bucket SessionNumber=0": "SessionNumber has to be a number from 1 to 32766",
    "--bucket bucket SessionNumber=many": "SessionNumber has to be a number",
    f"--bucket bucket IncludeTags={'x' * 600}": "IncludeTags has 600 characters",
    "--bucket bucket PacketLength=9000": "PacketLength has to be empty or a number from 1 to 8500",
    "--bucket bucket --tags DryRun=true": "DryRun is a parameter, no tag: it goes before --tags",
    "--bucket bucket --targets ', '": "', ' names no target",
    "--bucket bucket --targets 'tmt-1,i-1'": "'i-1' is no traffic mirror target (tmt-...) and no acc",
    "--bucket bucket --targets '*'": "'*' is no traffic mirror target",
    "--bucket bucket --targets 12345678901": "'12345678901' has 11 digits, an account has 12",
    "--bucket bucket --filter tmt-1": "FilterId has to be empty or the ID of a traffic mirror filter",
}


@pytest.mark.parametrize("call", WRONG)
def test_a_wrong_call_of_deploy_is_explained_before_aws_is_asked(
    account: Account, call: str
) -> None:
    done = account.deploy(*shlex.split(call), ends=2)
    assert WRONG[call] in done.err
    assert done.err.startswith("usage: deploy/deploy.sh")
    assert account.calls == {}


@pytest.mark.parametrize("name", ["DryRun", "Targets", "SessionNumber"])
def test_every_parameter_is_held_to_its_declaration(name: str) -> None:
    """The defaults of the template pass."""
    for parameter, declared in template.parameters().items():
        if "Default" in declared:
            template.check(parameter, str(declared["Default"]))
    assert name in template.parameters()


def fails(operation: str, code: str) -> Callable[[Account], None]:
    return lambda account: account.refuse(operation, code)


def raises(operation: str, error: Exception) -> Callable[[Account], None]:
    return lambda account: account.answer(operation, error)


def in_region(region: str) -> Callable[[Account], None]:
    headers = {"ResponseMetadata": {"HTTPHeaders": {"x-amz-bucket-region": region}}}
    return lambda account: account.answer("HeadBucket", headers)


NO_NETWORK = EndpointConnectionError(endpoint_url="https://x")
SIGN_IN, TARGETS = "GetCallerIdentity", "DescribeTrafficMirrorTargets"
FILTERS = "DescribeTrafficMirrorFilters"
# Before anything is built, uploaded or deployed: how it ends, what is said, what is so.
LOOKED_UP: dict[str, tuple[Exit, str, Callable[[Account], None]]] = {
    "no credentials": (
        Exit.CREDENTIALS,
        "or set AWS_ACCESS_KEY_ID",
        raises(SIGN_IN, NoCredentialsError()),
    ),
    "an expired token": (Exit.CREDENTIALS, "Give --profile", fails(SIGN_IN, "ExpiredToken")),
    "no network": (Exit.NO_ANSWER, "Try again", raises(SIGN_IN, NO_NETWORK)),
    "the stack denied": (
        Exit.DENIED,
        "The permission cloudformation:DescribeStacks is missing",
        fails("DescribeStacks", "AccessDenied"),
    ),
    "throttled": (Exit.NO_ANSWER, "Try again", fails("DescribeStacks", "Throttling")),
    "targets denied": (
        Exit.DENIED,
        "ec2:DescribeTrafficMirrorTargets is missing",
        fails(TARGETS, "UnauthorizedOperation"),
    ),
    "another filter": (
        Exit.NOT_FOUND,
        "no traffic mirror filter in this account and eu-west-1: tmf-0. There are: ",
        lambda account: setattr(account, "filter", "tmf-0"),
    ),
    "another target": (
        Exit.NOT_FOUND,
        "no traffic mirror target in this account and eu-west-1: tmt-0. There are: ",
        lambda account: account.targets.append("tmt-0"),
    ),
    "no bucket": (
        Exit.NO_BUCKET,
        "Make one: aws s3 mb s3://my-bucket --region eu-west-1",
        fails("HeadBucket", "404"),
    ),
    "a bucket elsewhere": (Exit.BUCKET_ELSEWHERE, "is in us-east-1", in_region("us-east-1")),
    "another's bucket": (Exit.DENIED, "s3:ListBucket is missing", fails("HeadBucket", "403")),
}


@pytest.mark.parametrize("case", LOOKED_UP)
def test_what_is_wrong_is_found_before_anything_is_done(account: Account, case: str) -> None:
    status, words, plan = LOOKED_UP[case]
    plan(account)
    named = ("--targets", ",".join(account.targets), "--filter", account.filter)
    done = account.deploy(*UPGRADE, *named, ends=status)
    assert words in done.err
    assert account.nothing_was_done()


def test_a_new_stack_needs_targets(account: Account) -> None:
    done = account.deploy(*UPGRADE, ends=2)
    assert "--targets is missing: there is no stack traffic-mirror in eu-west-1 yet" in done.err


def test_an_account_without_targets_is_noted(account: Account) -> None:
    done = account.deploy(*UPGRADE, "--targets", f"{account.targets[0]} 111111111111 {ACCOUNT}")
    assert "account 111111111111 owns no traffic mirror target" in done.err
    assert ACCOUNT not in done.err


def test_a_zip_that_is_not_there(account: Account) -> None:
    account.deployed()
    done = account.deploy(*UPGRADE, "--code-key", "lambda_traffic_mirror/no.zip", ends=Exit.NO_CODE)
    assert "there is no s3://my-bucket/lambda_traffic_mirror/no.zip" in done.err
    assert OLD_KEY in done.err
    account.refuse("HeadObject", "403")
    done = account.deploy(*UPGRADE, "--code-key", OLD_KEY, ends=Exit.DENIED)
    assert "s3:GetObject is missing" in done.err


@pytest.mark.parametrize(
    ("config", "arguments", "status", "words"),
    [
        ("[profile a]\nsso_session = b", ("--profile", "a"), 5, "aws sso login --profile a"),
        ("[default]\nlogin_session = b", (), 5, "Sign in: aws login"),
        (
            "[profile a]\nregion = x",
            ("--profile", "b"),
            5,
            "(b) could not be found. Give --profile (th",
        ),
        ("", ("--region", "eu-wset-1"), 4, "no Region 'eu-wset-1', or it cannot be reached"),
        ("", ("--region", "eu-wset-1"), 4, "Is it eu-west-1"),
        ("[default]\n", ("--region", "none"), 4, "no Region 'none'"),
    ],
)
def test_what_the_configuration_lacks(
    account: Account,
    tmp_path: Path,
    config: str,
    arguments: tuple[str, ...],
    status: int,
    words: str,
) -> None:
    (tmp_path / "config").write_text(config)
    error: Exception = NO_NETWORK
    if status == 5:
        error = ClientError({"Error": {"Code": "ExpiredTokenException"}}, SIGN_IN)
    account.answer(SIGN_IN, error)
    assert words in account.remove(*arguments, ends=status).err


def test_no_region(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert "no Region is set. Give --region" in account.remove(ends=Exit.NO_REGION).err


STATES = {
    # After --disable-rollback a stack has failed and can be updated nevertheless.
    0: "CREATE_COMPLETE UPDATE_COMPLETE UPDATE_ROLLBACK_COMPLETE IMPORT_COMPLETE "
    "IMPORT_ROLLBACK_COMPLETE CREATE_FAILED UPDATE_FAILED",
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
def test_every_state_of_a_stack_has_its_answer(account: Account, state: str, status: int) -> None:
    account.deployed()
    account.backend.status = state
    done = account.deploy(*UPGRADE, ends=status)
    if status:
        assert account.nothing_was_done()
        assert f"is in {state}" in done.err
    remove = "deploy/remove.sh --stack traffic-mirror --region eu-west-1"
    failed = "ROLLBACK_COMPLETE ROLLBACK_FAILED DELETE_FAILED IMPORT_ROLLBACK_FAILED".split()
    assert (remove in done.err) == (state in failed)
    assert ("continue-update-rollback" in done.err) == (state == "UPDATE_ROLLBACK_FAILED")


def test_a_stack_with_only_a_change_set_is_new(account: Account) -> None:
    account.deploy(*UPGRADE, "--targets", account.targets[0], "--no-execute-changeset")
    assert account.backend.status == "REVIEW_IN_PROGRESS"
    assert "--targets is missing" in account.deploy(*UPGRADE, ends=2).err
    account.deploy(*UPGRADE, "--targets", account.targets[0])


def test_a_stack_of_something_else_is_left_alone(account: Account) -> None:
    """Its name was mistyped: a deployment would delete all that it holds."""
    body = json.dumps({"Resources": {"Queue": {"Type": "AWS::SQS::Queue"}}})
    account.cloudformation.create_stack(StackName="traffic-mirror", TemplateBody=body)
    account.calls.clear()
    for command in (account.deploy, account.remove):
        arguments = UPGRADE if command == account.deploy else ("--yes",)
        assert "it is none of ours" in command(*arguments, ends=Exit.STATE).err
    assert account.nothing_was_done()


@pytest.mark.parametrize(("status", "ends"), [(6, 6), (7, 7), (1, 7), (0, 7)])
def test_a_zip_that_cannot_be_built_is_not_deployed(
    account: Account, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int, ends: int
) -> None:
    account.deployed()
    build_that(monkeypatch, tmp_path, f"exit {status}")
    assert "the zip could not be built" in account.deploy(*UPGRADE, ends=ends).err
    assert account.nothing_was_done()


@pytest.mark.parametrize(
    ("operation", "code", "status", "words"),
    [
        ("PutObject", "AccessDenied", 10, "s3:PutObject (and kms:GenerateDataKey"),
        ("PutObject", "SlowDown", 14, "Try again"),
        ("PutObject", "ExpiredToken", 5, "Give --profile"),
        ("CreateChangeSet", "AccessDenied", 10, "cloudformation:CreateChangeSet is missing"),
        ("CreateChangeSet", "ValidationError", 1, "CloudFormation refuses it"),
        ("ExecuteChangeSet", "Throttling", 14, "Try again"),
    ],
)
def test_a_call_that_fails_says_why(
    account: Account, operation: str, code: str, status: int, words: str
) -> None:
    account.deployed()
    account.refuse(operation, code)
    done = account.deploy(*UPGRADE, ends=status)
    assert words in done.err
    assert "Words of AWS" in done.err


def test_the_permission_is_the_one_that_aws_names(account: Account) -> None:
    account.deployed()
    message = "User: x is not authorized to perform: iam:CreateRole on resource: y"
    account.refuse("ExecuteChangeSet", "AccessDenied", message)
    done = account.deploy(*UPGRADE, ends=Exit.DENIED)
    assert "The permission iam:CreateRole is missing. docs/operations.md" in done.err


def test_a_change_set_that_fails_says_why(account: Account) -> None:
    account.deployed()
    failed = {"Status": "FAILED", "StatusReason": "Transform failed"}
    account.answer("DescribeChangeSet", failed)
    assert "refuses it: Transform failed" in account.deploy(*UPGRADE, ends=Exit.FAILED).err
    assert account.calls["DeleteChangeSet"] == 1
    failed["StatusReason"] = "The submitted information didn't contain changes."
    assert "No changes to deploy." in account.deploy(*UPGRADE).out


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (False, "ROLLBACK_COMPLETE", "Remove it: deploy/remove.sh --stack traffic-mirror"),
        (True, "UPDATE_ROLLBACK_COMPLETE", "the stack is as it was before"),
        (True, "UPDATE_ROLLBACK_FAILED", "continue-update-rollback --stack-name traffic-mirror"),
    ],
)
def test_a_deployment_that_fails_shows_the_failures_of_this_time(
    account: Account, before: bool, after: str, words: str
) -> None:
    if before:
        account.deployed()
        event(account, "Queue", "CREATE_FAILED", "A failure of long ago")

    def fail(_: dict[str, Any]) -> dict[str, Any]:
        account.backend.status = after
        event(account, "Role", "CREATE_FAILED", "The first of it")
        event(account, "Function", "CREATE_FAILED", "Resource creation cancelled")
        return {}

    account.answer("ExecuteChangeSet", fail)
    done = account.deploy(*UPGRADE, "--targets", account.targets[0], ends=Exit.FAILED)
    lines = "  CREATE_FAILED        {} {}\n"
    first = lines.format("Role", "The first of it")
    assert first + lines.format("Function", "Resource creation cancelled") in done.err
    assert "CREATE_FAILED        Role The first of it" in done.out
    assert "long ago" not in done.out + done.err
    assert words in done.err


def event(account: Account, resource: str, status: str, reason: str = "", **more: str) -> None:
    """Something that happened to a resource of the stack, as moto keeps it."""
    account.backend._add_stack_event(
        resource_status=status, resource_status_reason=reason, resource_properties=None
    )
    account.backend.events[-1].logical_resource_id = resource


# ======================================================================================
# deploy: what runs now
# ======================================================================================


def test_other_code_than_was_deployed_has_a_status_of_its_own(account: Account) -> None:
    account.deployed()
    account.answer("GetFunctionConfiguration", {"CodeSha256": "c29tZXRoaW5nIGVsc2U="})
    done = account.deploy(*UPGRADE, ends=Exit.OTHER_CODE)
    assert (
        "the function runs code with CodeSha256 c29tZXRoaW5nIGVsc2U=, and the zip has" in done.err
    )


def entry(outcome: str) -> dict[str, str]:
    return {"interface_id": "eni-1", "instance_id": "i-1", "outcome": outcome, "reason": "Why."}


@pytest.mark.parametrize(
    ("parameters", "body", "said", "not_said"),
    [
        ((), {"summary": {"planned": 3}}, "", "Nothing is meant|DRY_RUN|Every interface"),
        (
            ("DryRun=true",),
            {"summary": {"planned": 3}},
            "DRY_RUN is on, so nothing is",
            "Nothing is",
        ),
        ((), {"summary": {}}, "Nothing is meant to be mirrored: no instance runs", "DRY_RUN"),
        ((), {"summary": {"skipped": 3}}, "Nothing is meant to be mirrored", "DRY_RUN"),
        (
            (),
            {"summary": {"unmirrored": 1}, "interfaces": [entry("unmirrored")]},
            "  eni-1 of i-1: Why.\nEvery interface: deploy/preview.sh --stack traffic-mirror",
            "Nothing",
        ),
    ],
)
def test_the_first_sweep_is_told(
    account: Account, parameters: tuple[str, ...], body: dict[str, Any], said: str, not_said: str
) -> None:
    account.deployed()
    account.invoked({"message": "The headline.", **body})
    done = account.deploy(*UPGRADE, *parameters)
    assert "First sweep: The headline." in done.out
    assert said in done.out
    assert not re.search(not_said, done.out)


def test_a_first_sweep_that_fails(account: Account) -> None:
    """It is tried again, since a new role's permissions take a while."""
    account.deployed()
    account.answer(
        "Invoke",
        lambda _: {
            "FunctionError": "Unhandled",
            "Payload": io.BytesIO(b'{"errorMessage": "Why."}'),
        },
    )
    done = account.deploy(*UPGRADE, ends=Exit.SWEEP_FAILED)
    assert "deployed, but a sweep fails: Why." in done.err
    assert account.calls["Invoke"] == 3


@pytest.mark.parametrize("answer", ["OK", "", "{}"])
def test_a_sweep_that_says_nothing_keeps_nothing_from_being_deployed(
    account: Account, answer: str
) -> None:
    account.deployed()
    account.answer("Invoke", lambda _: {"Payload": io.BytesIO(answer.encode())})
    assert "no answer that can be understood" in account.deploy(*UPGRADE).err
    account.refuse("Invoke", "AccessDeniedException")
    account.refuse("GetFunctionConfiguration", "AccessDeniedException")
    done = account.deploy(*UPGRADE)
    assert "the code could not be compared" in done.err
    assert "no answer that can be understood" in done.err
