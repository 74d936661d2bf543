"""deploy/deploy.sh and deploy/remove.sh: the program behind them, through boto3 against moto."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

import boto3
import botocore.loaders
import botocore.session
import pytest
import yaml
from botocore.client import BaseClient
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from cloudformation import DEPLOY
from commands import __main__ as command_line
from commands import deploy, preview, remove, stack, template
from commands.aws import Aws, Exit, Stop, explained, how_to_sign_in
from commands.picture import Item, Survey
from moto import mock_aws
from moto.backends import get_backend
from moto.cloudformation.utils import yaml_tag_constructor

ACCOUNT, REGION = "123456789012", "eu-west-1"
ZIP = b"PK\5\6" + bytes(18)  # an empty archive
SHA256 = sha256(ZIP).hexdigest()
FOLDER = "lambda_traffic_mirror"
LOADER = botocore.loaders.create_loader()
OTHER = json.dumps({"Resources": {"Queue": {"Type": "AWS::SQS::Queue"}}})  # another template
BUCKET = ("--bucket", "my-bucket")
PLACE = "--stack traffic-mirror --region eu-west-1"
# moto knows no alarm, no mirror filter and no policy of a queue in a template.
pytestmark = pytest.mark.filterwarnings("ignore:Tried to parse")


def key(version: str) -> str:
    return f"{FOLDER}/{version}-{SHA256}.zip"


def failure(operation: str, code: str, message: str = "Words of AWS") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, operation)


def run(*arguments: str, answer: str = "", ends: int = 0) -> SimpleNamespace:
    """Run a command, which has to end with this status; `answer` is what the operator types."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        patch("sys.stdin", io.StringIO(answer)),
    ):
        try:
            status = command_line.main(arguments)
        except SystemExit as stopped:
            status = int(str(stopped.code))
    assert status == ends, err.getvalue()
    return SimpleNamespace(out=out.getvalue(), err=err.getvalue())


class Account:
    """moto's account, in which each call is counted, and answered as `answers` says: by an answer,
    an error, or a function of what is asked; where that gives None, moto answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: Counter[str] = Counter()
        row = {"interface_id": "eni-1", "instance_id": "i-1", "reason": "Why.", "outcome": "failed"}
        body = {"message": "1 failed.", "summary": {"failed": 1}, "interfaces": [row]}
        payload = json.dumps({"body": body}).encode()
        self.answers: dict[str, Any] = {"Invoke": lambda _: {"Payload": io.BytesIO(payload)}}
        send = BaseClient._make_api_call

        def noted(client: Any, operation: str, asked: dict[str, Any]) -> Any:
            self.calls[operation] += 1
            answer = self.answers.get(operation)
            if isinstance(answer, Exception):
                raise answer
            answer = answer(asked) if callable(answer) else answer
            return send(client, operation, asked) if answer is None else answer

        monkeypatch.setattr(BaseClient, "_make_api_call", noted)
        self.ec2, self.s3, self.cloudformation = map(boto3.client, ("ec2", "s3", "cloudformation"))
        here = {"LocationConstraint": REGION}
        self.s3.create_bucket(Bucket="my-bucket", CreateBucketConfiguration=here)
        self.targets = [self.target(), self.target()]
        made = self.ec2.create_traffic_mirror_filter()["TrafficMirrorFilter"]
        self.filter = made["TrafficMirrorFilterId"]
        self.others: list[str] = []
        self.calls.clear()

    def target(self) -> str:
        made = self.ec2.create_traffic_mirror_target(NetworkInterfaceId="eni-1")
        return str(made["TrafficMirrorTarget"]["TrafficMirrorTargetId"])

    def session(self, target: str, filter_id: str = "", name: str = "") -> str:
        """One as the function makes it, unless told otherwise; the interface's ID."""
        interface = f"eni-{len(self.sessions):04}"
        name = name or f"eh-mirror-{interface[4:8]}{target[4:8]}"
        tags = [{"Key": "Name", "Value": name}]
        self.ec2.create_traffic_mirror_session(
            NetworkInterfaceId=interface,
            TrafficMirrorTargetId=target,
            TrafficMirrorFilterId=filter_id or self.filter,
            SessionNumber=1,
            TagSpecifications=[{"ResourceType": "traffic-mirror-session", "Tags": tags}],
        )
        return interface

    @property
    def sessions(self) -> list[str]:
        """Interfaces that have one."""
        rows = self.ec2.describe_traffic_mirror_sessions()["TrafficMirrorSessions"]
        return [row["NetworkInterfaceId"] for row in rows]

    def deployed(self, name: str = "traffic-mirror") -> None:
        """Have a stack with both targets and the filter."""
        given = {"Targets": ",".join(self.targets), "FilterId": self.filter}
        given |= {"CodeBucket": "my-bucket", "CodeKey": key("1.0.0"), "CodeVersion": "1.0.0"}
        values = deploy.all_values(None, given)
        self.cloudformation.create_stack(
            StackName=name,
            TemplateBody=template.TEMPLATE.read_text("utf-8"),
            Parameters=[{"ParameterKey": n, "ParameterValue": values[n]} for n in values],
        )
        self.s3.put_object(Bucket="my-bucket", Key=key("1.0.0"), Body=ZIP)
        self.calls.clear()

    @property
    def backend(self) -> Any:
        """moto's stack."""
        (found,) = get_backend("cloudformation")[ACCOUNT][REGION].stacks.values()
        return found

    def happened(self, *events: tuple[str, str, str]) -> None:
        """Resource, status and reason of the stack's events, the newest first."""
        names = ("LogicalResourceId", "ResourceStatus", "ResourceStatusReason")
        time = datetime.now(timezone.utc)
        rows = [dict(zip(names, one, strict=True), EventId=one, Timestamp=time) for one in events]
        self.answers["DescribeStackEvents"] = {"StackEvents": rows}

    def nothing_was_done(self) -> bool:
        return all(name.startswith(("Describe", "Get", "List", "Head")) for name in self.calls)


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Account]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "key")
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, REGION)
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
    (tmp_path / f"{FOLDER}.zip").write_bytes(ZIP)
    (tmp_path / f"{FOLDER}.py").write_text('VERSION = "3.0.0"\n')
    build_that(tmp_path, f"echo SHA-256 {SHA256}")
    monkeypatch.setattr(deploy, "PROJECT", tmp_path)
    monkeypatch.setattr(deploy, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(stack, "POLL", 0.0)
    # What botocore and moto read again for each session and each look at a template, read once and
    # by a parser in C: that halves the time of these tests.
    monkeypatch.setattr("botocore.session.create_loader", lambda *_: LOADER)
    yaml.add_multi_constructor("", yaml_tag_constructor, Loader=yaml.CLoader)
    monkeypatch.setattr(yaml, "Loader", yaml.CLoader)
    with mock_aws(config={"lambda": {"use_docker": False}}):
        yield Account(monkeypatch)


def build_that(folder: Path, script: str) -> None:
    """Stands in for build_zip.sh, which fetches a package."""
    (folder / "build_zip.sh").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "build_zip.sh").chmod(0o755)


# --- The call


WRONG = {
    "deploy --bucket my-bucket/zips": "CodeBucket has to be the name of an S3 bucket",
    "deploy --bucket b --stack ''": "--stack needs a value",
    "deploy --bucket b LocalZoneOnly": "do not understand 'LocalZoneOnly'",
    "deploy --bucket bucket LocalZone=true": "template.yaml has no parameter LocalZone. It has Co",
    "deploy --bucket bucket Targets=tmt-1": "Targets has an option of its own: --targets",
    "deploy --bucket bucket CodeVersion=3": "CodeVersion is read from the module",
    "deploy --bucket bucket DryRun=maybe": "DryRun has to be one of true, false",
    "deploy --bucket bucket SessionNumber=0": "SessionNumber has to be a number from 1 to 32766",
    "deploy --bucket bucket SessionNumber=many": "SessionNumber has to be a number",
    f"deploy --bucket bucket IncludeTags={'x' * 600}": "IncludeTags has 600 characters",
    "deploy --bucket bucket --tags DryRun=true": "DryRun is a parameter, no tag: it goes before --",
    "deploy --bucket bucket --targets ', '": "', ' is no traffic mirror target",
    "deploy --bucket bucket --targets 'tmt-1,i-1'": "'i-1' is no traffic mirror target (tmt-...) ",
    "deploy --bucket bucket --targets 12345678901": "'12345678901' is no traffic mirror target",
    "deploy --bucket bucket --filter tmt-1": "FilterId has to be empty or the ID of a traffic mirr",
    "remove --target tmt-1,tmt-2": "--target takes one traffic mirror target",
    "remove --target tmt-1 --above=-1": "--above takes a number from 0",
    "remove --target tmt-1 --with-filter": "--target goes with",
    "remove --above 3": "--above takes a number from 0, and needs --target",
    "remove --filter tmf-1": "--filter and --targets go together",
    "remove --filter eni-1 --targets tmt-1": "FilterId has to be empty or the ID of a traffic mi",
    "remove --filter tmf-1 --targets tmt-1 --with-queues": "only the filter is known",
    "preview": "--targets is missing",
    "preview --targets tmt-1 LOCAL_ZONE=false": "LOCAL_ZONE=false sets no variable of the functio",
    "preview --targets tmt-1 LOCAL_ZONE_ONLY=maybe": "LOCAL_ZONE_ONLY is 'maybe'; accepted: true/",
    "preview --targets tmt-1 --html /no/such/x.html": "/no/such/x.html cannot be written",
}


@pytest.mark.parametrize("call", WRONG)
def test_a_wrong_call_is_explained_before_aws_is_asked(
    monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(boto3, "Session", None)
    done = run(*shlex.split(call), ends=Exit.WRONG)
    assert WRONG[call] in done.err
    assert f"deploy/{call.partition(' ')[0]}.sh" in done.err


# --- What AWS says


NO_NETWORK = EndpointConnectionError(endpoint_url="https://x")
ERRORS: dict[str, tuple[int, str]] = {
    "DescribeStacks Throttling": (14, "Try again"),
    "CreateStack AccessDenied": (10, "The permission cloudformation:CreateStack is missing. docs/"),
    "HeadBucket 403": (10, "s3:ListBucket is missing"),
    "HeadObject 403": (10, "s3:GetObject is missing"),
    "PutObject AccessDenied": (10, "s3:PutObject (and kms:GenerateDataKey, kms:Decrypt for a buc"),
    # AWS itself may say which it is.
    "x AccessDenied not authorized to perform: iam:PassRole": (10, "iam:PassRole is missing"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_of_aws_has_its_exit_status_and_says_what_to_do(name: str) -> None:
    operation, code, *message = name.split(" ", 2)
    stop = explained(error := failure(operation, code, "".join(message)), Aws(region=REGION))
    assert (stop.status, str(stop).startswith(f"{error}\n")) == (ERRORS[name][0], True)
    assert ERRORS[name][1] in str(stop)


def test_credentials_a_profile_or_a_region_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for variable in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(variable)
    (tmp_path / "config").write_text(
        "[profile a]\nsso_session = s\n[sso-session s]\nsso_region = x\nsso_start_url = y\n"
        "[profile b]\nlogin_session = b\n[profile c]\nregion = x\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert how_to_sign_in("a") == "Sign in: aws sso login --profile a"
    assert how_to_sign_in("b") == "Sign in: aws login --profile b"
    assert "Give --profile (there are: a, b, c;" in how_to_sign_in("c")
    assert explained(NoCredentialsError(), Aws(region=REGION)).status == Exit.CREDENTIALS
    assert explained(NO_NETWORK, Aws(region=REGION)).status == Exit.NO_ANSWER
    aws = Aws(region="eu-wset-1")
    aws.clients["sts"] = MagicMock(**{"get_caller_identity.side_effect": NO_NETWORK})
    with pytest.raises(Stop, match=r"there is no Region 'eu-wset-1', .* Is it eu-west-1") as stop:
        aws.sign_in()
    assert stop.value.status == Exit.NO_REGION
    assert "no Region is set. Give --region" in run("remove", ends=Exit.NO_REGION).err
    assert "(none) could not be" in run("remove", "--profile", "none", ends=Exit.CREDENTIALS).err
    monkeypatch.setenv("AWS_PROFILE", "other")
    assert "(other) could not be found" in run("deploy", *BUCKET, ends=Exit.CREDENTIALS).err


# What the operator has to do about a stack that cannot be updated and is not being changed.
STATES = {
    "ROLLBACK_COMPLETE": f"Remove it: deploy/remove.sh {PLACE}",
    "ROLLBACK_FAILED": f"Remove it, and deploy again: deploy/remove.sh {PLACE}",
    "DELETE_FAILED": "Remove it, and deploy again",
    "IMPORT_ROLLBACK_FAILED": "Remove it, and deploy again",
    "UPDATE_ROLLBACK_FAILED": "continue-update-rollback --stack-name traffic-mirror",
}


def test_every_state_of_a_stack_has_its_answer() -> None:
    """After --disable-rollback a stack has failed and can be updated nevertheless."""
    model = botocore.session.get_session().get_service_model("cloudformation")
    for state in set(model.shape_for("StackStatus").enum) - {"DELETE_COMPLETE"}:
        changing = state.endswith("_IN_PROGRESS") and state != "REVIEW_IN_PROGRESS"
        advice = "it is being changed. Try later" if changing else STATES.get(state)
        ours = stack.Stack("traffic-mirror", "id", state, {"CodeKey": "x"}, {}, set())
        wrong = stack.what_to_do(Aws(region=REGION), ours)
        assert (wrong is None) is (advice is None), state
        if advice:
            assert f"is in {state}: " in str(wrong)
            assert advice in str(wrong)
            # What cannot be updated can be removed, but not while something else changes it.
            removable = bool(re.fullmatch(remove.REMOVABLE, state))
            assert removable is (not changing or state == "DELETE_IN_PROGRESS")


# --- deploy


def test_a_stack_is_deployed_upgraded_and_taken_back(account: Account, tmp_path: Path) -> None:
    sent: dict[str, str] = {}

    def note(asked: dict[str, Any]) -> None:
        sent.update({one["ParameterKey"]: one["ParameterValue"] for one in asked["Parameters"]})

    account.answers["CreateChangeSet"] = note
    targets, invisible = " ".join(account.targets), "9" * 12
    named = ("--targets", f"{targets} {invisible}", "--filter", account.filter)
    done = run("deploy", *BUCKET, *named, "SweepRate=10", "LocalZoneOnly=false")
    assert account.backend.status == "CREATE_COMPLETE"
    assert account.s3.get_object(Bucket="my-bucket", Key=key("3.0.0"))["Body"].read() == ZIP
    given = {"Targets": ",".join(account.targets), "TargetAccounts": invisible}
    given |= {"FilterId": account.filter, "SweepRate": "10", "LocalZoneOnly": "false"}
    given |= {"CodeBucket": "my-bucket", "CodeKey": key("3.0.0"), "CodeVersion": "3.0.0"}
    before = sent | given
    assert sent == before
    assert f"account {invisible} owns no traffic mirror target that is visible" in done.err
    code = base64.b64encode(sha256(ZIP).digest()).decode()
    assert f"CodeSha256 {code}, as the zip." in done.out
    assert "CREATE_COMPLETE      traffic-mirror" in done.out  # the stack's events
    assert "First sweep: 1 failed.\n  eni-1 of i-1: Why.\nEvery interface: " in done.out
    assert "way back" not in done.out
    # The same again changes nothing, and says so.
    assert "No changes to deploy." in run("deploy", *BUCKET).out
    # An upgrade needs nothing but the bucket: what is not named keeps its value.
    (tmp_path / f"{FOLDER}.py").write_text('VERSION: str = "4.0.0"\n')
    done = run("deploy", *BUCKET)
    assert sent == before | {"CodeKey": key("4.0.0"), "CodeVersion": "4.0.0"}
    assert f"Now there: version 3.0.0, {key('3.0.0')}" in done.out
    # The way back that is shown needs no build.
    (back,) = re.findall("The way back: deploy/deploy.sh (.*)", done.out)
    assert back == f"--bucket my-bucket {PLACE} --code-key {key('3.0.0')}"
    account.calls.clear()
    run("deploy", *back.split())
    assert (sent, account.calls["PutObject"]) == (before, 0)
    # What is named is changed.
    named = ("--targets", account.targets[0], "--filter", "new", "ExcludeTags=a b=c")
    run("deploy", *BUCKET, "--code-key", key("3.0.0"), *named)
    changed = {"Targets": account.targets[0], "TargetAccounts": "", "FilterId": ""}
    assert sent == before | changed | {"ExcludeTags": "a b=c"}


def test_a_value_that_the_template_no_longer_takes_is_told(capsys: Any) -> None:
    def values(rate: str, **given: str) -> str:
        before = stack.Stack("name", "id", "CREATE_COMPLETE", {"SweepRate": rate}, {}, set())
        return deploy.all_values(before, given)["SweepRate"]

    with pytest.raises(Stop, match="SweepRate has to be one of 5, 10, 15, 30, 60"):
        values("7")
    assert values("7", SweepRate="30") == "30"
    assert values("rate(7 minutes)") == "10"
    assert "a sweep every 10 minutes instead of rate(7 minutes)" in capsys.readouterr().err


def test_a_change_set_is_refused_or_fails_or_is_only_looked_at(account: Account) -> None:
    asked: dict[str, Any] = {}

    def refuse(given: dict[str, Any]) -> None:
        asked.update(given)
        raise failure("CreateChangeSet", "ValidationError")

    account.answers["CreateChangeSet"] = refuse
    call = ("deploy", *BUCKET, "--targets", account.targets[0])
    # Tags behind -- as earlier versions took them.
    options = ("--role-arn", "arn:aws:iam::1:role/x", "--", "--tags", "team=a b", "cost=")
    done = run(*call, *options, ends=Exit.FAILED)
    assert re.search("CloudFormation refuses it: .*Words of AWS", done.err)
    assert asked["RoleARN"] == "arn:aws:iam::1:role/x"
    assert asked["Tags"] == [{"Key": "team", "Value": "a b"}, {"Key": "cost", "Value": ""}]
    assert asked["Capabilities"] == ["CAPABILITY_IAM"]
    del account.answers["CreateChangeSet"]
    account.answers["DescribeChangeSet"] = {"Status": "FAILED", "StatusReason": "Of a transform"}
    assert "refuses it: Of a transform" in run(*call, ends=Exit.FAILED).err
    assert account.calls["DeleteChangeSet"] == 1
    assert account.calls["PutObject"] == 0
    del account.answers["DescribeChangeSet"]
    assert "Nothing has been changed." in run(*call, "--no-execute-changeset").out
    assert account.calls["PutObject"] == 1
    assert account.calls["ExecuteChangeSet"] == 0
    # There is nothing but the change set, so the stack counts as new.
    assert "--targets is missing" in run("deploy", *BUCKET, ends=Exit.WRONG).err


def test_a_stack_that_is_shown_as_before_its_deployment_is_waited_for(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DescribeStacks may lag behind ExecuteChangeSet, so REVIEW_IN_PROGRESS is not the end."""
    account.answers["ExecuteChangeSet"] = {}
    ends = ("status", "CREATE_COMPLETE")
    monkeypatch.setattr("time.sleep", lambda _: setattr(account.backend, *ends))
    done = run("deploy", *BUCKET, "--targets", account.targets[0])
    assert "Deployed." in done.out
    assert "the stack shows no function" in done.err


ELSEWHERE = {"ResponseMetadata": {"HTTPHeaders": {"x-amz-bucket-region": "us-east-1"}}}
EXPIRED = failure("GetCallerIdentity", "ExpiredToken")
# What is called or answered, how it ends, what is said.
LOOKED_UP: dict[str, tuple[str, dict[str, Any], Exit, str]] = {
    "credentials": ("", {"GetCallerIdentity": EXPIRED}, Exit.CREDENTIALS, "Give --profile"),
    "filter": ("--filter tmf-0", {}, Exit.NOT_FOUND, "eu-west-1: tmf-0. There are: traf-mir-fil"),
    "target": ("--targets tmt-0", {}, Exit.NOT_FOUND, "eu-west-1: tmt-0. There are: traf-mir-tar"),
    "bucket": ("--bucket nowhere", {}, Exit.NO_BUCKET, "s3 mb s3://nowhere --region eu-west-1"),
    "its Region": ("", {"HeadBucket": ELSEWHERE}, Exit.BUCKET_ELSEWHERE, "is in us-east-1"),
    "zip": ("--code-key no.zip", {}, Exit.NO_CODE, "no.zip. What there is: aws s3 ls s3://my-b"),
}


@pytest.mark.parametrize("name", LOOKED_UP)
def test_what_is_wrong_is_found_before_anything_is_done(account: Account, name: str) -> None:
    arguments, answers, status, text = LOOKED_UP[name]
    account.answers |= answers
    call = (*BUCKET, "--targets", account.targets[0], *arguments.split())
    assert text in run("deploy", *call, ends=status).err
    assert account.nothing_was_done()


def test_a_stack_that_is_being_changed_or_is_none_of_ours_is_left_alone(account: Account) -> None:
    """Its name was mistyped: a deployment would delete all that it holds."""
    account.cloudformation.create_stack(StackName="queue", TemplateBody=OTHER)
    account.calls.clear()
    account.backend.status = "DELETE_FAILED"
    for command in (("deploy", *BUCKET), ("remove", "--yes")):
        assert "none of ours" in run(*command, "--stack", "queue", ends=Exit.STATE).err
    assert account.nothing_was_done()
    account.cloudformation.delete_stack(StackName="queue")
    account.deployed()
    account.backend.status = "UPDATE_IN_PROGRESS"
    for command in (("deploy", *BUCKET), ("remove", "--yes")):
        assert "it is being changed. Try later" in run(*command, ends=Exit.STATE).err
    assert account.nothing_was_done()


def test_a_zip_that_cannot_be_built_is_not_deployed(account: Account, tmp_path: Path) -> None:
    for status, ends in ((6, Exit.NO_PYTHON), (1, Exit.NO_ZIP), (0, Exit.NO_ZIP)):
        build_that(tmp_path, f"exit {status}")
        done = run("deploy", *BUCKET, "--targets", account.targets[0], ends=ends)
        assert "the zip could not be built" in done.err
    assert account.nothing_was_done()


def test_a_deployment_that_fails_shows_the_failures_of_this_time(account: Account) -> None:
    account.deployed()
    before = ("Queue", "CREATE_FAILED", "A failure of long ago")
    for status, says in (
        ("UPDATE_ROLLBACK_COMPLETE", "the stack is as it was before"),
        ("ROLLBACK_COMPLETE", "stack traffic-mirror is in ROLLBACK_COMPLETE"),
    ):
        account.happened(before)

        def fail(_: Any, status: str = status) -> dict[str, Any]:
            account.backend.status = status
            cancelled = ("Function", "CREATE_FAILED", "Resource creation cancelled")
            account.happened(cancelled, ("Role", "CREATE_FAILED", "The first of it"), before)
            return {}

        account.answers["ExecuteChangeSet"] = fail
        done = run("deploy", *BUCKET, ends=Exit.FAILED)
        line = "CREATE_FAILED        Role The first of it\n"
        assert f"  {line}  CREATE_FAILED        Function Resource creation canc" in done.err
        assert line in done.out
        assert "long ago" not in done.out + done.err
        assert f"not deployed: {says}" in done.err


def test_other_code_than_was_deployed_has_a_status_of_its_own(account: Account) -> None:
    account.deployed()
    account.answers["GetFunctionConfiguration"] = {"CodeSha256": "c29tZXRoaW5n"}
    done = run("deploy", *BUCKET, ends=Exit.OTHER_CODE)
    assert "the function runs code with CodeSha256 c29tZXRoaW5n, and the zip has" in done.err
    denied = failure("GetFunctionConfiguration", "AccessDeniedException")
    account.answers["GetFunctionConfiguration"] = denied
    done = run("deploy", *BUCKET, "DryRun=true")
    assert "the code could not be compared" in done.err
    assert f"To begin: deploy/deploy.sh --bucket my-bucket {PLACE} DryRun=false" in done.out


def test_a_first_sweep_that_fails_is_tried_again_but_not_one_without_an_answer(
    account: Account,
) -> None:
    """A new role's permissions take a while."""
    account.deployed()

    def sweep(payload: bytes, ends: int, **more: str) -> str:
        account.calls.clear()
        account.answers["Invoke"] = lambda _: {"Payload": io.BytesIO(payload), **more}
        return str(run("deploy", *BUCKET, ends=ends).err)

    said = sweep(b'{"errorMessage": "Why."}', Exit.SWEEP_FAILED, FunctionError="Unhandled")
    assert "deployed, but a sweep fails: Why." in said
    assert account.calls["Invoke"] == 3
    for silence in (b"OK", b"", b"{}"):
        assert "no answer that can be understood" in sweep(silence, Exit.DONE)
        assert account.calls["Invoke"] == 1


# --- remove: the stack, its sessions and what outlives it


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


def test_after_a_yes_the_stack_goes_first_and_then_its_sessions(removable: Account) -> None:
    for answer in ("no\n", ""):
        done = run("remove", answer=answer, ends=Exit.NOT_CONFIRMED)
        assert "not confirmed, nothing was deleted" in done.err
    assert removable.nothing_was_done()
    order: list[str] = []
    for operation in ("DeleteStack", "DeleteTrafficMirrorSession"):
        removable.answers[operation] = lambda _, name=operation: order.append(name)
    done = run("remove", answer="yes\n")
    assert order == ["DeleteStack", *["DeleteTrafficMirrorSession"] * 2]
    assert removable.sessions == removable.others
    goes, stays = done.out.split("What stays:")
    assert "stack traffic-mirror (CREATE_COMPLETE)\n  2 mirror sessions\n" in goes
    reasons = ["(another filter", "(another target", "(another Name"]
    assert re.findall(r"\(another \w+", stays) == reasons
    for what in ("filter", "queues", "log", "zips"):
        assert f"(--with-{what} deletes it)" in stays
    assert f"To delete them, too: deploy/remove.sh {PLACE} --with-filter" in stays
    assert f"In 6 minutes: deploy/remove.sh {PLACE}" in stays
    # A sweep that was under way has made a last one.
    removable.session(removable.targets[1])
    done = run("remove", "--with-zips", "--yes")
    assert removable.sessions == removable.others
    assert "Deleted zip s3://my-bucket/" in done.out
    assert "--with-filter" in done.out
    removable.answers["DeleteTrafficMirrorFilter"] = {}  # which moto does not know
    done = run("remove", "--with-filter", "--yes")
    assert f"Deleted filter {removable.filter}" in done.out
    removable.answers["DescribeTrafficMirrorFilters"] = {"TrafficMirrorFilters": []}
    assert "Nothing is left." in run("remove").out


def test_a_session_of_another_account_to_our_target_stays() -> None:
    row = {"TrafficMirrorTargetId": "tmt-1234", "NetworkInterfaceId": "eni-1234", "OwnerId": "9999"}
    row |= {"TrafficMirrorSessionId": "tms-1", "TrafficMirrorFilterId": "tmf-1"}
    tags = [{"Key": "Name", "Value": "eh-mirror-12341234"}]
    aws: Any = SimpleNamespace(rows=lambda *_, **__: [{**row, "Tags": tags}])
    claims = [remove.Claim(frozenset(["tmt-1234"]), "tmf-1")]
    found = [len(remove.sessions(aws, account, claims)[0]) for account in ("9999", ACCOUNT)]
    assert found == [1, 0]


def test_what_outlives_a_stack_is_found_when_it_is_gone(account: Account) -> None:
    """CloudFormation remembers what a deleted stack has made."""
    account.deployed()
    account.cloudformation.delete_stack(StackName="traffic-mirror")
    sqs, logs = boto3.client("sqs"), boto3.client("logs")
    url, goes = (sqs.create_queue(QueueName=name)["QueueUrl"] for name in ("DeadLetters", "Main"))
    logs.create_log_group(logGroupName="/the/log")
    names = ("LogicalResourceId", "ResourceType", "PhysicalResourceId")
    made = [("DeadLetterQueue", "AWS::SQS::Queue", url), ("Queue", "AWS::SQS::Queue", goes)]
    made.append(("LogGroup", "AWS::Logs::LogGroup", "/the/log"))
    events = [dict(zip(names, one, strict=True)) | {"EventId": one[2]} for one in made]
    account.answers["DescribeStackEvents"] = {"StackEvents": events}
    done = run("remove")
    assert f"queue {url} (--with-queues deletes it)" in done.out
    assert "log group /the/log (--with-log deletes it)" in done.out
    assert goes not in done.out
    run("remove", "--with-queues", "--with-log", "--yes")
    assert url not in sqs.list_queues().get("QueueUrls", [])
    assert "/the/log" not in str(logs.describe_log_groups())


def test_a_filter_and_zips_that_serve_another_stack_stay(account: Account) -> None:
    account.deployed()
    account.cloudformation.delete_stack(StackName="traffic-mirror")
    account.deployed("another")
    account.session(account.targets[0])
    assert "Nothing is left." in run("remove", "--with-filter", "--with-zips", "--yes").out
    assert len(account.sessions) == 1
    account.s3.head_object(Bucket="my-bucket", Key=key("1.0.0"))
    # One whose name was mistyped is told which there are.
    done = run("remove", "--stack", "x", ends=Exit.STATE)
    assert "Stacks of template.yaml here: another" in done.err


def test_a_stack_that_is_forgotten_is_no_dead_end(removable: Account) -> None:
    call = ("--filter", removable.filter, "--targets", removable.targets[0], "--yes")
    assert "stack traffic-mirror is there" in run("remove", *call, ends=Exit.WRONG).err
    assert removable.nothing_was_done()
    get_backend("cloudformation")[ACCOUNT][REGION].stacks.clear()
    done = run("remove", ends=Exit.STATE)
    assert "there is no stack traffic-mirror in eu-west-1, nor was one deleted" in done.err
    commands = re.findall("deploy/remove.sh (--stack .*)", done.err)
    assert len(commands) == 2
    for command in commands:
        run("remove", *shlex.split(command), "--yes")
    assert removable.sessions == removable.others[2:]


def test_sessions_stay_until_the_stack_is_gone(removable: Account) -> None:
    asked: list[dict[str, Any]] = []
    before = ("Queue", "CREATE_COMPLETE", "")
    removable.happened(before)

    def fail(given: dict[str, Any]) -> dict[str, Any]:
        asked.append(given)
        removable.backend.status = "DELETE_FAILED"
        removable.happened(("Queue", "DELETE_FAILED", "It is held"), before)
        return {}

    removable.answers["DeleteStack"] = fail
    done = run("remove", "--yes", ends=Exit.FAILED)
    assert "  DELETE_FAILED        Queue It is held\n" in done.err
    assert "with --force what fails is left behind" in done.err
    assert len(removable.sessions) == 5
    run("remove", "--yes", "--force", ends=Exit.FAILED)
    assert [one.get("DeletionMode") for one in asked] == [None, "FORCE_DELETE_STACK"]
    # Somebody else deletes it, and it goes while it is looked at for the second time.
    del removable.answers["DeleteStack"]
    removable.backend.status = "DELETE_IN_PROGRESS"
    gone = removable.cloudformation.delete_stack
    removable.answers["ListStacks"] = lambda _: gone(StackName="traffic-mirror") and None
    run("remove", "--yes")
    assert removable.sessions == removable.others
    assert removable.calls["DeleteStack"] == 3


def test_what_cannot_be_deleted_keeps_nothing_else_unless_it_is_denied(capsys: Any) -> None:
    def delete_two(code: str) -> MagicMock:
        call = MagicMock(side_effect=failure("DeleteTrafficMirrorSession", code))
        things = [remove.Left(name, call) for name in ("tms-1", "tms-2")]
        with contextlib.suppress(ClientError):
            remove.delete_all(Aws(region=REGION), things)
        return call

    assert delete_two("UnauthorizedOperation").call_count == 1
    # What went meanwhile is no failure.
    assert delete_two("InvalidTrafficMirrorSessionId.NotFound").call_count == 2
    with pytest.raises(Stop, match=r"2 of these could not be deleted. Run it again") as stop:
        delete_two("RequestLimitExceeded")
    assert stop.value.status == Exit.LEFT
    said = capsys.readouterr().out
    assert re.search("tms-1: .*RequestLimitExceeded(?s:.*)tms-2: .*RequestLimitExceeded", said)


# --- remove: the sessions to one target


def test_a_target_is_freed_if_nothing_goes_dark_or_with_force(
    removable: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    dark, asked = defaultdict[str, str](str), list[Any]()
    monkeypatch.setattr(remove, "judged_dark", lambda _, *given: asked.append(given) or dark)
    target, other = removable.targets
    call = ("remove", "--target", target)
    dark[removable.others[0]] = "Why it is dark."
    done = run(*call, "--yes", ends=Exit.DARK)
    # Whichever filter they have: that of another stack would keep the sensor as well.
    assert f"Sessions to {target}: 2 of ours to be deleted" in done.out
    assert f"Would go dark: 1 of 2 interfaces\n    {removable.others[0]}: Why it is" in done.out
    assert removable.nothing_was_done()
    variables, rest, without, alongside = asked[0]
    assert (rest, without, alongside) == ({other}, target, False)
    assert variables["EXCLUDE_TAGS"] == "traffic-mirror=sensor"
    # With --above so many stay, and those of others count.
    dark.clear()
    for above, goes in ((0, 2), (1, 2), (2, 1), (3, 0)):
        ends = Exit.NOT_CONFIRMED if goes else Exit.DONE
        done = run(*call, "--above", str(above), ends=ends)
        assert f"{goes} of ours to be deleted" in done.out
        assert "may choose" not in done.err
    assert removable.nothing_was_done()
    done = run(*call, answer="yes\n")
    assert len(removable.sessions) == 3
    assert "Would go dark: 0 of 2 interfaces" in done.out
    assert f"as a sweep of stack traffic-mirror without {target}" in done.out
    assert f"the next sweep may choose {target} again" in done.err
    assert "Nothing to delete." in run(*call).out
    dark.update(dict.fromkeys(removable.sessions, "Why it is dark."))
    run("remove", "--target", other, "--yes", "--force")
    assert removable.sessions == removable.others[1:]


TAKEN = "another tool mirrors it, so the function leaves it alone (MIRROR_ALONGSIDE)"
# What the function says of an interface that gives up its session.
JUDGED: dict[str, tuple[dict[str, str], str]] = {
    "another sensor takes it": ({}, ""),
    "no sensor can take it": ({"outcome": "unmirrored"}, "Why."),
    "the sensors may be full": ({"fate": "maybe"}, "the sensors that can take it may be full"),
    "the sensors are full": ({"fate": "dark"}, "no sensor has room, whatever its size"),
    "another tool has its own": ({"outcome": "exists", "target_id": "tmt-other"}, TAKEN),
    "another tool mirrors it besides": ({"interface_id": "eni-2"}, TAKEN),
    "it was not read": ({"interface_id": "eni-x"}, "A page is missing."),
}


@pytest.mark.parametrize(("changed", "why"), JUDGED.values(), ids=JUDGED)
def test_what_goes_dark_without_a_target_is_judged_by_the_function(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], why: str
) -> None:
    names = ("NetworkInterfaceId", "TrafficMirrorTargetId", "SessionNumber")
    rows = [("eni-1", "tmt-1", 1), ("eni-2", "tmt-other", 2)]
    listed = [dict(zip(names, row, strict=True)) for row in rows]
    aws: Any = SimpleNamespace(session=None, rows=lambda *_, **__: listed)
    item = Item("planned", "planned", "Why.", "eni-1", "i-1", "tmt-2", None)._replace(**changed)
    found, asked = Survey(interfaces=[item], unread=["A page is missing."]), {}
    monkeypatch.setattr(preview, "survey", lambda _, given: asked.update(given) or found)
    variables = {"targets": "tmt-1,tmt-2", "SESSION_NUMBER": "1", "EXCLUDE_TAGS": "a=b"}
    dark = remove.judged_dark(aws, variables, frozenset(["tmt-2"]), "tmt-1", alongside=False)
    assert dark[changed.get("interface_id", "eni-1").replace("eni-x", "eni-1")] == why
    # The interfaces have sessions: those are another tool's for the function that is asked.
    pretended = {"targets": "tmt-2", "MIRROR_ALONGSIDE": "true", "SESSION_NUMBER": "3"}
    assert asked == variables | pretended


def test_without_a_function_that_makes_sessions_all_go_dark(removable: Account) -> None:
    target, other = removable.targets
    call = ("remove", "--target", target)
    why = "there is no stack x here to mirror it anew (see --stack)"
    assert why in run(*call, "--stack", "x", ends=Exit.DARK).out
    removable.cloudformation.create_stack(StackName="queue", TemplateBody=OTHER)
    removable.calls.clear()
    assert "no stack queue here" in run(*call, "--stack", "queue", ends=Exit.DARK).out
    for name, value, ends, why in (
        ("DRY_RUN", "true", Exit.DARK, "traffic-mirror is on DRY_RUN, and creates nothing"),
        ("targets", target, Exit.DARK, "traffic-mirror has no other target"),
        ("PACKET_LENGTH", "x", Exit.STATE, "deploy/deploy.sh --bucket ... --stack traffic-mirror"),
    ):
        variables = {"filter_id": "tmf-1", "targets": f"{target},{other}", name: value}
        removable.answers["GetFunctionConfiguration"] = {"Environment": {"Variables": variables}}
        done = run(*call, ends=ends)
        assert why in done.out + done.err
    assert removable.nothing_was_done()


# --- The scripts, and what they set up


# One that is too old fails where it is asked for its version; one that is new makes environments,
# and installs nothing.
PYTHON = """#!/bin/sh
case "$*" in
  *ensurepip*) exit {status} ;;
  "-m venv --clear "*) PATH=/bin; rm -rf "$4"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python" ;;
  *"-m pip install "*) ;;
  *) exec "{python}" "$@" ;;
esac
"""


def test_the_scripts_find_a_python_set_up_once_and_run_the_program(tmp_path: Path) -> None:
    folder, stand = tmp_path / "a checkout" / "deploy", tmp_path / "where the user stands"
    commands = tmp_path / "bin"
    for path in (folder, commands, stand):
        path.mkdir(parents=True)
    for path in (*DEPLOY.glob("*.sh"), DEPLOY / "requirements.txt"):
        shutil.copy(path, folder)
    (folder / "commands").symlink_to(DEPLOY / "commands")
    # Neither the AWS CLI nor anything else that the scripts do not name.
    for command in ("bash", "cmp", "cp", "dirname", "env"):
        (commands / command).symlink_to(str(shutil.which(command)))
    # What lies where the user stands is not taken for a part of the program.
    (stand / "commands.py").write_text("raise SystemExit(99)")

    def script(name: str, *arguments: str, ends: int, **environment: str) -> str:
        environment["PATH"] = str(commands)
        call = [str(folder / name), *arguments]
        done = subprocess.run(call, check=False, cwd=stand, env=environment, capture_output=True)
        assert done.returncode == ends, done.stderr
        return (done.stderr + done.stdout).decode()

    said = script("deploy.sh", ends=Exit.NO_PYTHON)
    assert said.startswith("deploy/deploy.sh: Python 3.10 or newer with the venv module is needed")
    for name, status in (("python3", 1), ("python3.12", 0)):
        (commands / name).write_text(PYTHON.format(status=status, python=sys.executable))
        (commands / name).chmod(0o755)
    said = script("deploy.sh", ends=Exit.NO_PYTHON, PYTHON="python3")
    assert "PYTHON is 'python3', which is not Python 3.10 or newer" in said
    said = script("deploy.sh", "--bucket", "a b", ends=Exit.WRONG)
    assert "Setting up" in said
    assert "CodeBucket=a b: CodeBucket has to be the name" in said
    venv = folder / ".venv"
    (venv / "marker").touch()
    said = script("remove.sh", "--help", ends=Exit.DONE)
    assert said.startswith("usage: deploy/remove.sh ")
    assert re.findall(r"^ +(\d+)  ", said, re.MULTILINE) == [str(number) for number in range(19)]
    # Half made, or with a Python that is gone: made anew.
    for part in ("installed.txt", "bin/python"):
        (venv / part).unlink()
        assert "Setting up" in script("preview.sh", ends=Exit.WRONG)
        assert not (venv / "marker").exists()
    # venv would empty what a link leads to.
    shutil.rmtree(venv)
    venv.symlink_to(stand)
    assert ".venv is a symbolic link" in script("deploy.sh", ends=Exit.NO_PYTHON)
    assert (stand / "commands.py").exists()


def test_the_shell_of_macos_can_read_the_scripts() -> None:
    newer = r"\b(?:mapfile|readarray|declare -A|local -A|local -n|wait -n|coproc)\b|\$\{\w+[,^@]"
    newer += r"|\|&|&>>|;;?&|\[\[ -v|(?<!\+)\"\$\{\w+\[@\]\}"
    for path in (*DEPLOY.glob("*.sh"), DEPLOY.parent / "build_zip.sh"):
        assert re.findall(newer, path.read_text()) == [], path
        assert os.access(path, os.X_OK)


def test_what_is_installed_is_pinned_as_for_the_tests() -> None:
    text = (DEPLOY / "requirements.txt").read_text()
    pins = dict(re.findall(r"^([\w-]+)==(\S+)", text, re.MULTILINE))
    tests = (DEPLOY.parent / "requirements.txt").read_text()
    others = dict(re.findall(r"^([\w-]+)(?:\[.*\])?==(\S+)", tests, re.MULTILINE))
    assert {name for name in pins if others.get(name, pins[name]) != pins[name]} == set()
    assert len(re.findall(r"^[\w-]+==\S+ \\\n    --hash", text, re.MULTILINE)) == len(pins) > 10
