"""deploy/deploy.sh and deploy/remove.sh: the program behind them, through boto3 against moto."""

from __future__ import annotations

import base64
import importlib
import io
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import boto3
import botocore.loaders
import pytest
import yaml
from botocore.client import BaseClient
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from commands import __main__ as command_line
from commands import deploy, preview, stack, template
from commands.aws import Exit, Stop
from moto import mock_aws
from moto.backends import get_backend

# moto's CloudFormation imports what API Gateway needs to read OpenAPI, which no test does.
for name in ("", ".validation", ".validation.exceptions"):
    sys.modules.setdefault(f"openapi_spec_validator{name}", MagicMock())

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
                    if not callable(answer):
                        return answer
                    if (told := answer(asked)) is not None:
                        return told
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
        self.others: list[str] = []
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
    tags = importlib.import_module("moto.cloudformation.utils").yaml_tag_constructor
    yaml.add_multi_constructor("", tags, Loader=yaml.CLoader)
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
    assert f"Code s3://my-bucket/{OLD_KEY}" in account.deploy(*back.split()).out
    assert account.calls["PutObject"] == 1


def test_an_upgrade_changes_what_it_is_told(account: Account) -> None:
    account.deployed(TargetAccounts=ACCOUNT)
    account.deploy(
        *UPGRADE, "--targets", account.targets[0], "--filter", "new", "ExcludeTags=a b=c"
    )
    changed = {"Targets": account.targets[0], "TargetAccounts": "", "FilterId": ""}
    assert (changed | {"ExcludeTags": "a b=c"}).items() <= account.parameters.items()


def test_a_value_that_the_template_no_longer_takes_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def values(rate: str, **given: str) -> str:
        before = stack.Stack("name", "id", "CREATE_COMPLETE", {"SweepRate": rate}, {}, set())
        return deploy.all_values(before, given)["SweepRate"]

    with pytest.raises(Stop, match="SweepRate has to be one of 5, 10, 15, 30, 60"):
        values("7")
    assert values("7", SweepRate="30") == "30"
    assert values("rate(7 minutes)") == "10"
    assert "a sweep every 10 minutes instead of rate(7 minutes)" in capsys.readouterr().err


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
    "--bucket bucket --targets ', '": "', ' is no traffic mirror target",
    "--bucket bucket --targets 'tmt-1,i-1'": "'i-1' is no traffic mirror target (tmt-...) and",
    "--bucket bucket --targets '*'": "'*' is no traffic mirror target",
    "--bucket bucket --targets 12345678901": "'12345678901' is no traffic mirror target",
    "--bucket bucket --filter tmt-1": "FilterId has to be empty or the ID of a traffic mirror",
}


@pytest.mark.parametrize("call", WRONG)
def test_a_wrong_call_of_deploy_is_explained_before_aws_is_asked(
    account: Account, call: str
) -> None:
    done = account.deploy(*shlex.split(call), ends=2)
    assert WRONG[call] in done.err
    assert "deploy/deploy.sh" in done.err
    assert account.calls == {}


def fails(operation: str, code: str) -> Callable[[Account], None]:
    return lambda account: account.refuse(operation, code)


def raises(operation: str, error: Exception) -> Callable[[Account], None]:
    return lambda account: account.answer(operation, error)


def in_region(region: str) -> Callable[[Account], None]:
    headers = {"ResponseMetadata": {"HTTPHeaders": {"x-amz-bucket-region": region}}}
    return lambda account: account.answer("HeadBucket", headers)


NO_NETWORK = EndpointConnectionError(endpoint_url="https://x")
SIGN_IN, TARGETS = "GetCallerIdentity", "DescribeTrafficMirrorTargets"
MISSING = "no traffic mirror {} in this account and eu-west-1: {}-0. There are: "
MAKE = "Make one: aws s3 mb s3://my-bucket --region eu-west-1"
# Before anything is built, uploaded or deployed: how it ends, what is said, what is so.
LOOKED_UP: list[tuple[Exit, str, Callable[[Account], None]]] = [
    (Exit.CREDENTIALS, "or set AWS_ACCESS_KEY_ID", raises(SIGN_IN, NoCredentialsError())),
    (Exit.CREDENTIALS, "Give --profile", fails(SIGN_IN, "ExpiredToken")),
    (Exit.NO_ANSWER, "Try again", raises(SIGN_IN, NO_NETWORK)),
    (Exit.DENIED, "cloudformation:DescribeStacks is", fails("DescribeStacks", "AccessDenied")),
    (Exit.NO_ANSWER, "Try again", fails("DescribeStacks", "Throttling")),
    (Exit.DENIED, f"ec2:{TARGETS} is missing", fails(TARGETS, "UnauthorizedOperation")),
    (Exit.NOT_FOUND, MISSING.format("filter", "tmf"), lambda a: setattr(a, "filter", "tmf-0")),
    (Exit.NOT_FOUND, MISSING.format("target", "tmt"), lambda a: a.targets.append("tmt-0")),
    (Exit.NO_BUCKET, MAKE, fails("HeadBucket", "404")),
    (Exit.BUCKET_ELSEWHERE, "is in us-east-1", in_region("us-east-1")),
    (Exit.DENIED, "s3:ListBucket is missing", fails("HeadBucket", "403")),
]


@pytest.mark.parametrize(("status", "words", "plan"), LOOKED_UP)
def test_what_is_wrong_is_found_before_anything_is_done(
    account: Account, status: Exit, words: str, plan: Callable[[Account], None]
) -> None:
    plan(account)
    named = ("--targets", ",".join(account.targets), "--filter", account.filter)
    done = account.deploy(*UPGRADE, *named, ends=status)
    assert words in done.err
    assert account.nothing_was_done()


def test_a_zip_that_is_not_there(account: Account) -> None:
    account.deployed()
    done = account.deploy(*UPGRADE, "--code-key", "lambda_traffic_mirror/no.zip", ends=Exit.NO_CODE)
    assert "there is no s3://my-bucket/lambda_traffic_mirror/no.zip" in done.err
    assert "aws s3 ls s3://my-bucket/lambda_traffic_mirror/" in done.err
    account.refuse("HeadObject", "403")
    done = account.deploy(*UPGRADE, "--code-key", OLD_KEY, ends=Exit.DENIED)
    assert "s3:GetObject is missing" in done.err


@pytest.mark.parametrize(
    ("config", "arguments", "status", "words"),
    [
        (
            "[profile a]\nsso_session = b\n[sso-session b]\nsso_region = x\nsso_start_url = y",
            ("--profile", "a"),
            5,
            "aws sso login --profile a",
        ),
        ("[default]\nlogin_session = b", (), 5, "Sign in: aws login"),
        ("[profile a]\nregion = x", ("--profile", "b"), 5, "(b) could not be found"),
        ("", ("AWS_PROFILE=b",), 5, "(b) could not be found"),
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
    if arguments and arguments[0].startswith("AWS_PROFILE="):
        account.monkeypatch.setenv(*arguments[0].split("="))
        arguments = ()
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
    failed = ["ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "DELETE_FAILED", "IMPORT_ROLLBACK_FAILED"]
    assert (remove in done.err) == (state in failed)
    assert ("continue-update-rollback" in done.err) == (state == "UPDATE_ROLLBACK_FAILED")


def test_a_stack_with_only_a_change_set_is_new(account: Account) -> None:
    account.deploy(*UPGRADE, "--targets", account.targets[0], "--no-execute-changeset")
    assert account.backend.status == "REVIEW_IN_PROGRESS"
    assert "--targets is missing" in account.deploy(*UPGRADE, ends=2).err


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
    ("after", "words"),
    [
        ("ROLLBACK_COMPLETE", "Remove it: deploy/remove.sh --stack traffic-mirror"),
        ("UPDATE_ROLLBACK_COMPLETE", "the stack is as it was before"),
        ("UPDATE_ROLLBACK_FAILED", "continue-update-rollback --stack-name traffic-mirror"),
    ],
)
def test_a_deployment_that_fails_shows_the_failures_of_this_time(
    account: Account, after: str, words: str
) -> None:
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


# ======================================================================================
# remove: the stack, its sessions and what outlives it
# ======================================================================================


@pytest.fixture
def removable(account: Account) -> Account:
    """A stack with two sessions of its own, and one of each kind that is not."""
    account.deployed()
    for target in account.targets:
        account.session(target)
    account.others = [
        account.session(account.targets[0], filter_id="tmf-other"),
        account.session(account.target()),
        account.session(account.targets[0], name="by hand"),
    ]
    account.calls.clear()
    return account


def test_the_stack_goes_first_and_then_its_sessions(removable: Account) -> None:
    order: list[str] = []
    for operation in ("DeleteStack", "DeleteTrafficMirrorSession"):
        removable.answer(operation, lambda _, name=operation: order.append(name))
    done = removable.remove(answer="yes\n")
    assert order == ["DeleteStack", *["DeleteTrafficMirrorSession"] * 2]
    goes, stays = done.out.split("What stays:")
    assert "stack traffic-mirror (CREATE_COMPLETE)" in goes
    assert "2 mirror sessions" in goes
    assert re.findall(r"\(another \w+", stays) == [
        "(another filter",
        "(another target",
        "(another Name",
    ]
    for what in ("filter", "queues", "log", "zips"):
        assert f"(--with-{what} deletes it)" in stays
    assert "deploy/remove.sh --stack traffic-mirror --region eu-west-1 --with-filter" in stays
    assert "In 6 minutes: deploy/remove.sh --stack traffic-mirror --region eu-west-1" in stays


def test_removal_is_repeated_until_nothing_is_left(removable: Account) -> None:
    removable.remove("--yes")
    assert removable.sessions == removable.others
    # A sweep that was under way has made a last one.
    removable.session(removable.targets[1])
    done = removable.remove("--with-zips", "--yes")
    assert removable.sessions == removable.others
    assert "Deleted zip s3://my-bucket/" in done.out
    assert "--with-filter" in done.out
    removable.answer("DeleteTrafficMirrorFilter", {})  # which moto does not know
    assert f"Deleted filter {removable.filter}" in removable.remove("--with-filter", "--yes").out
    removable.answer("DescribeTrafficMirrorFilters", {"TrafficMirrorFilters": []})
    assert "Nothing is left." in removable.remove().out


def test_what_outlives_a_stack_is_found_when_it_is_gone(removable: Account) -> None:
    """CloudFormation remembers what a deleted stack has made."""
    sqs, logs = boto3.client("sqs"), boto3.client("logs")
    removable.remove("--yes")
    url = sqs.create_queue(QueueName="DeadLetterQueue")["QueueUrl"]
    logs.create_log_group(logGroupName="/the/log")
    physical = [
        ("DeadLetterQueue", "AWS::SQS::Queue", url),
        ("Queue", "AWS::SQS::Queue", f"{url}x"),
    ]
    physical.append(("LogGroup", "AWS::Logs::LogGroup", "/the/log"))
    names = ("LogicalResourceId", "ResourceType", "PhysicalResourceId")
    events = [dict(zip(names, one, strict=True)) | {"EventId": one[2]} for one in physical]
    removable.answer("DescribeStackEvents", {"StackEvents": events})
    done = removable.remove()
    assert f"queue {url} (--with-queues deletes it)" in done.out
    assert "log group /the/log (--with-log deletes it)" in done.out
    assert f"{url}x" not in done.out
    removable.remove("--with-queues", "--with-log", "--yes")
    assert sqs.list_queues().get("QueueUrls", []) == []
    assert logs.describe_log_groups()["logGroups"] == []


@pytest.mark.parametrize("answer", ["no\n", ""])
def test_silence_is_no_confirmation(removable: Account, answer: str) -> None:
    removable.remove(answer=answer, ends=Exit.NOT_CONFIRMED)
    assert removable.nothing_was_done()


def test_a_filter_that_serves_another_stack_stays(removable: Account) -> None:
    removable.remove("--yes")
    given = {"Targets": removable.targets[0], "FilterId": removable.filter, "CodeKey": OLD_KEY}
    removable.cloudformation.create_stack(
        StackName="another",
        TemplateBody=template.TEMPLATE.read_text("utf-8"),
        Parameters=[
            {"ParameterKey": key, "ParameterValue": value}
            for key, value in (given | {"CodeBucket": "my-bucket"}).items()
        ],
    )
    removable.session(removable.targets[0])
    done = removable.remove("--with-filter", "--with-zips", "--yes")
    assert "Nothing is left." in done.out
    assert len(removable.sessions) == 4
    # One whose name was mistyped is told which there are.
    assert "Stacks of template.yaml here: another" in removable.remove("--stack", "x", ends=13).err


def test_a_stack_that_is_forgotten_is_no_dead_end(removable: Account) -> None:
    get_backend("cloudformation")[ACCOUNT][REGION].stacks.clear()
    done = removable.remove(ends=Exit.STATE)
    assert (
        "there is no stack traffic-mirror in eu-west-1, nor was one deleted in 90 days" in done.err
    )
    commands = re.findall("deploy/remove.sh (--stack .*)", done.err)
    assert len(commands) == 2
    for command in commands:
        removable.remove(*shlex.split(command), "--yes")
    assert removable.sessions == removable.others[2:]
    assert "deploy/remove.sh" not in removable.remove(ends=Exit.STATE).err.partition(":")[2]


def test_a_stack_that_is_there_is_not_removed_by_half(removable: Account) -> None:
    call = ("--filter", removable.filter, "--targets", removable.targets[0], "--yes")
    assert "stack traffic-mirror is there" in removable.remove(*call, ends=2).err
    assert removable.nothing_was_done()


@pytest.mark.parametrize(("state", "status"), EACH_STATE)
def test_a_stack_in_any_state_is_removed_or_left_alone(
    account: Account, state: str, status: int
) -> None:
    account.deployed()
    account.session(account.targets[0])
    account.backend.status = state
    if state == "DELETE_IN_PROGRESS":  # it goes while it is looked at for the second time
        gone = account.cloudformation.delete_stack
        account.answer("ListStacks", lambda _: gone(StackName="traffic-mirror") and None)
    ends = 13 if status == 13 and state not in REMOVABLE else 0
    account.remove("--yes", ends=ends)
    assert len(account.sessions) == bool(ends)
    assert account.calls["DeleteStack"] == (not ends)  # whoever asked for it


def test_sessions_stay_while_the_stack_cannot_go(removable: Account) -> None:
    def fail(_: dict[str, Any]) -> dict[str, Any]:
        removable.backend.status = "DELETE_FAILED"
        event(removable, "Queue", "DELETE_FAILED", "It is held")
        return {}

    asked: list[dict[str, Any]] = []
    removable.answer("DeleteStack", fail)
    done = removable.remove("--yes", ends=Exit.FAILED)
    assert "  DELETE_FAILED        Queue It is held\n" in done.err
    assert "with --force what fails is left behind" in done.err
    assert len(removable.sessions) == 5
    removable.answer("DeleteStack", lambda given: asked.append(given) or fail(given))
    removable.remove("--yes", "--force", ends=Exit.FAILED)
    assert asked[0]["DeletionMode"] == "FORCE_DELETE_STACK"


@pytest.mark.parametrize(
    ("operation", "code", "status", "words", "tries"),
    [
        ("DeleteStack", "AccessDenied", 10, "cloudformation:DeleteStack is missing", 0),
        ("DescribeTrafficMirrorSessions", "UnauthorizedOperation", 10, "Sessions is missing", 0),
        ("DeleteTrafficMirrorSession", "UnauthorizedOperation", 10, "Session is missing", 1),
        ("DeleteTrafficMirrorSession", "RequestLimitExceeded", 17, "2 of these could", 2),
        ("DeleteTrafficMirrorSession", "InvalidTrafficMirrorSessionId.NotFound", 0, "", 6),
        ("DeleteTrafficMirrorFilter", "TrafficMirrorFilterInUse", 17, "1 of these could", 2),
    ],
)
def test_a_deletion_that_fails(
    removable: Account, operation: str, code: str, status: int, words: str, tries: int
) -> None:
    removable.refuse(operation, code)
    done = removable.remove(
        "--yes", "--with-filter" if "Filter" in operation else "--yes", ends=status
    )
    assert words in done.err
    assert removable.calls["DeleteTrafficMirrorSession"] == tries


# ======================================================================================
# remove: the sessions to one target
# ======================================================================================


class Item(NamedTuple):
    """What the function's judging says of an interface."""

    interface_id: str
    instance_id: str
    outcome: str
    target_id: str
    reason: str
    fate: str


def judged(
    monkeypatch: pytest.MonkeyPatch,
    outcome: str = "planned",
    fate: str = "",
    target: str = "",
    unread: tuple[str, ...] = (),
) -> list[dict[str, str]]:
    """Have the function's judging say the same of every interface; the variables that it gets."""
    asked: list[dict[str, str]] = []

    def survey(session: Any, environment: dict[str, str]) -> Any:
        asked.append(environment)
        rows = session.client("ec2").describe_traffic_mirror_sessions()["TrafficMirrorSessions"]
        chosen = target or environment["targets"].split(",")[0]
        items = [
            Item(row["NetworkInterfaceId"], "i-1", outcome, chosen, "Why it is dark.", fate)
            for row in rows
        ]
        return SimpleNamespace(interfaces=[] if unread else items, unread=unread)

    monkeypatch.setattr(preview, "survey", survey)
    return asked


def test_a_target_is_freed_where_other_sensors_take_its_interfaces(
    removable: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = judged(monkeypatch)
    target, other = removable.targets
    done = removable.remove("--target", target, answer="yes\n")
    # Whichever filter they have: that of another stack would keep the sensor as well.
    assert f"Sessions to {target}: 2 of ours to be deleted" in done.out
    assert len(removable.sessions) == 3
    assert "Would go dark: 0 of 2 interfaces" in done.out
    assert f"as a sweep of stack traffic-mirror without {target}" in done.out
    assert f"the next sweep may choose {target} again" in done.err
    # The interfaces have sessions: those are another tool's for the function that is asked.
    pretended = {"targets": other, "MIRROR_ALONGSIDE": "true", "SESSION_NUMBER": "2"}
    assert pretended.items() <= asked[0].items()
    assert asked[0]["EXCLUDE_TAGS"] == "traffic-mirror=sensor"
    assert "Nothing to delete." in removable.remove("--target", target).out


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"outcome": "unmirrored"}, "Why it is dark."),
        ({"outcome": "failed"}, "Why it is dark."),
        ({"outcome": "skipped"}, "Why it is dark."),
        ({"fate": "maybe"}, "the sensors that can take it may be full"),
        ({"fate": "dark"}, "no sensor has room, whatever its size"),
        ({"unread": ("A page is missing.",)}, "A page is missing."),
        ({"outcome": "exists", "target": "tmt-other"}, "another tool mirrors it"),
    ],
)
def test_what_would_go_dark_stops_it(
    removable: Account, monkeypatch: pytest.MonkeyPatch, said: dict[str, Any], words: str
) -> None:
    judged(monkeypatch, **said)
    done = removable.remove("--target", removable.targets[1], "--yes", ends=Exit.DARK)
    assert "Would go dark: 1 of 1 interfaces" in done.out
    assert words in done.out
    assert removable.nothing_was_done()
    removable.remove("--target", removable.targets[1], "--yes", "--force")
    assert len(removable.sessions) == 4


def test_without_a_stack_that_makes_sessions_all_go_dark(
    removable: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged(monkeypatch)
    call = ("--target", removable.targets[0])
    done = removable.remove(*call, "--stack", "x", ends=Exit.DARK)
    assert "there is no stack x here to mirror it anew" in done.out
    removable.answer("GetFunctionConfiguration", variables(DRY_RUN="true", targets="tmt-1"))
    assert "is on DRY_RUN, and creates nothing" in removable.remove(*call, ends=Exit.DARK).out
    removable.answer("GetFunctionConfiguration", variables(targets=removable.targets[0]))
    assert "has no other target" in removable.remove(*call, ends=Exit.DARK).out
    removable.answer("GetFunctionConfiguration", variables(targets="tmt-1", PACKET_LENGTH="x"))
    wrong = removable.remove(*call, ends=Exit.STATE).err
    assert re.search("PACKET_LENGTH is 'x'.*deploy/deploy.sh .* Parameter=Value", wrong)
    # An account stands for all its targets.
    removable.answer("GetFunctionConfiguration", variables(targets=ACCOUNT))
    assert "Would go dark: 0 of 2" in removable.remove(*call, answer="yes").out


def variables(**names: str) -> dict[str, Any]:
    return {"Environment": {"Variables": {"filter_id": "tmf-1", **names}}}


@pytest.mark.parametrize(("above", "goes"), [(0, 4), (2, 4), (4, 2), (5, 1), (6, 0), (100, 0)])
def test_above_keeps_so_many_and_counts_those_of_others(
    account: Account, monkeypatch: pytest.MonkeyPatch, above: int, goes: int
) -> None:
    account.deployed()
    judged(monkeypatch)
    for _ in range(4):
        account.session(account.targets[0])
    for _ in range(2):
        account.session(account.targets[0], name="by hand")
    done = account.remove("--target", account.targets[0], "--above", str(above), "--yes")
    assert len(account.sessions) == 6 - goes
    assert "may choose" not in done.err


@pytest.mark.parametrize(
    ("call", "why"),
    [
        ("--colour", "unrecognized arguments: --colour"),
        ("--target", "--target: expected one argument"),
        ("--target tmt-1,tmt-2", "--target takes one traffic mirror target"),
        ("--target 123456789012", "--target takes one traffic mirror target"),
        ("--target eni-1", "'eni-1' is no traffic mirror target"),
        ("--target tmt-1 --above -1", "expected one argument|from 0"),
        ("--target tmt-1 --above many", "invalid 'int' value: 'many'"),
        ("--target tmt-1 --with-filter", "--target goes with"),
        ("--above 3", "--above takes a number from 0, and needs --target"),
        ("--filter tmf-1", "--filter and --targets go together"),
        (
            "--filter eni-1 --targets tmt-1",
            "FilterId has to be empty or the ID of a traffic mirror",
        ),
        ("--filter tmf-1 --targets tmt-1 --with-queues", "only the filter is known"),
    ],
)
def test_a_wrong_call_of_remove_is_explained(account: Account, call: str, why: str) -> None:
    done = account.remove(*call.split(), ends=2)
    assert re.search(why, done.err)
    assert account.calls == {}


# ======================================================================================
# The scripts, and what they set up
# ======================================================================================


class Checkout:
    """A copy of the scripts, in a path with blanks, with a command that tells how it was called."""

    def __init__(self, folder: Path) -> None:
        self.deploy, self.bin = folder / "a checkout" / "deploy", folder / "bin"
        self.stand = folder / "where the user stands"
        for path in (self.deploy / "commands", self.bin, self.stand):
            path.mkdir(parents=True)
        for script in DEPLOY.glob("*.sh"):
            shutil.copy(script, self.deploy)
        (self.deploy / "requirements.txt").write_text("# nothing\n")
        (self.deploy / "commands" / "__init__.py").touch()
        (self.deploy / "commands" / "__main__.py").write_text(
            "import os, sys\nprint(sys.argv[1:], os.getcwd(), sys.version_info[:2], sep='|')"
        )
        # Neither the AWS CLI nor anything else that the scripts do not name.
        for command in ("bash", "cmp", "cp", "dirname", "env"):
            (self.bin / command).symlink_to(str(shutil.which(command)))

    def python(self, name: str, new: bool) -> None:
        """A Python on the PATH; an old one fails where it is asked for its version."""
        path = self.bin / name
        path.write_text(f'#!/bin/sh\n{f"exec {sys.executable}" if new else "exit 1 #"} "$@"\n')
        path.chmod(0o755)

    def run(self, *arguments: str, ends: int = 0, **environment: str) -> tuple[str, str]:
        done = subprocess.run(
            [str(self.deploy / arguments[0]), *arguments[1:]],
            check=False,
            cwd=self.stand,
            env={"PATH": str(self.bin), **environment},
            capture_output=True,
            text=True,
        )
        assert done.returncode == ends, done.stderr
        return done.stdout, done.stderr


def test_the_scripts_find_a_python_and_set_up_once(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    _, err = checkout.run("deploy.sh", ends=Exit.NO_PYTHON)
    assert err.startswith("deploy/deploy.sh: Python 3.10 or newer with the venv module is needed")
    checkout.python("python3", new=False)
    checkout.python("python3.12", new=True)
    # What lies where the user stands is not taken for a part of the program.
    (checkout.stand / "commands.py").write_text("raise SystemExit(99)")
    out, err = checkout.run("deploy.sh", "--bucket", "a b", "C=")
    assert "Setting up" in err
    assert out.startswith(f"['deploy', '--bucket', 'a b', 'C=']|{checkout.stand}|")
    venv = checkout.deploy / ".venv"
    marker = venv / "marker"
    marker.touch()
    assert checkout.run("remove.sh") == (
        f"['remove']|{checkout.stand}|{sys.version_info[:2]}\n",
        "",
    )
    assert marker.exists()
    # Half made, or with a Python that is gone: made anew.
    (venv / "installed.txt").unlink()
    assert "Setting up" in checkout.run("preview.sh")[1]
    assert not marker.exists()
    (venv / "bin" / "python").unlink()
    assert "Setting up" in checkout.run("preview.sh")[1]


def test_a_python_that_is_named_is_the_only_one(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    checkout.python("python3", new=False)
    _, err = checkout.run("deploy.sh", ends=Exit.NO_PYTHON, PYTHON="python3")
    assert "PYTHON is 'python3', which is not Python 3.10 or newer" in err
    (checkout.deploy / ".venv").symlink_to(tmp_path)
    _, err = checkout.run("deploy.sh", ends=Exit.NO_PYTHON, PYTHON=sys.executable)
    assert ".venv is a symbolic link" in err
    assert (tmp_path / "bin").exists()


@pytest.mark.parametrize("script", [*DEPLOY.glob("*.sh"), DEPLOY.parent / "build_zip.sh"], ids=str)
def test_the_shell_of_macos_can_read_it(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    newer = r"\b(?:mapfile|readarray|declare -A|local -A|local -n|wait -n|coproc)\b|\$\{\w+[,^@]"
    newer += r"|\|&|&>>|;;?&|\[\[ -v|(?<!\+)\"\$\{\w+\[@\]\}"
    assert re.findall(newer, script.read_text()) == []


def test_what_is_installed_is_pinned_as_for_the_tests() -> None:
    text = (DEPLOY / "requirements.txt").read_text()
    pins = dict(re.findall(r"^([\w-]+)==(\S+)", text, re.MULTILINE))
    tests = (DEPLOY.parent / "requirements.txt").read_text()
    others = dict(re.findall(r"^([\w-]+)(?:\[.*\])?==(\S+)", tests, re.MULTILINE))
    assert {name for name in pins if others.get(name, pins[name]) != pins[name]} == set()
    assert len(re.findall(r"^[\w-]+==\S+ \\\n    --hash", text, re.MULTILINE)) == len(pins) > 10


def test_help_says_how_and_with_which_exit_status(account: Account) -> None:
    for command in ("deploy", "remove"):
        out = account.run(command, "--help").out
        assert out.startswith(f"usage: deploy/{command}.sh ")
        assert re.findall(r"^ +(\d+)  ", out, re.MULTILINE) == [str(number) for number in range(19)]
        assert os.access(DEPLOY / f"{command}.sh", os.X_OK)
