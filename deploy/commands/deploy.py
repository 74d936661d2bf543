"""Builds, uploads and deploys the stack, and shows what its function then says."""

import argparse
import base64
import json
import os
import re
import subprocess
import sys
import time
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, WaiterError

from . import stack as stacks
from . import template
from .aws import Aws, Exit, Stop, asking, code_of, note, say
from .stack import Stack

PROJECT = template.DEPLOY.parent
FOLDER = "lambda_traffic_mirror/"  # of the zips in the bucket
# Parameters that the call does not give by their names.
OWN_OPTION = {"CodeBucket": "--bucket", "CodeKey": "--code-key", "FilterId": "--filter"}
OWN_OPTION |= {"Targets": "--targets", "TargetAccounts": "--targets"}
PAUSES = (5.0, 10.0, 20.0)  # seconds before a first sweep that failed is tried again


def run(options: argparse.Namespace) -> Exit:
    """Look at all that is named, then build, upload, deploy and show what runs; how it ended."""
    given = given_by(options)
    with asking(options) as (aws, account):
        print(f"Account {account}, Region {aws.region}")
        stack = stacks.read(aws, options.stack)
        if stack and (wrong := stacks.what_to_do(aws, stack)):
            raise Stop(Exit.STATE, wrong)
        if stack and stack.status == "REVIEW_IN_PROGRESS":
            stack = None
        if not options.targets and not stack:
            where = f"there is no stack {options.stack} in {aws.region} yet"
            raise Stop(Exit.WRONG, f"--targets is missing: {where}, and a new one needs it")
        was_key = stack.parameters["CodeKey"] if stack else ""
        if was_key:
            print(f"Now there: version {version_of(was_key)}, {was_key}")
        values = all_values(stack, given)
        look_at_ec2(aws, given)
        look_at_bucket(aws, given)
        key = given.get("CodeKey") or build()
        values |= {"CodeKey": key, "CodeVersion": version_of(key)}
        done = deploy(aws, options, stack is None, values)
        if done and not options.no_execute_changeset:
            print(done)
            show_what_runs(aws, options.stack, key)
            dry_run = values["DryRun"] == "true"
            back = was_key if was_key != key else ""
            say("deployed", given["CodeBucket"], aws.place(options.stack), dry_run, back)
    return Exit.DONE


def pairs(texts: list[str]) -> dict[str, str]:
    """Keys and values of texts of the form key=value."""
    for text in texts:
        if not re.match("[^=]+=", text):
            raise Stop(Exit.WRONG, f"do not understand {text!r}: it is not of the form Name=Value")
    return dict(text.split("=", 1) for text in texts)


def given_by(options: argparse.Namespace) -> dict[str, str]:
    """The parameters that a call gives, each held to the template. AWS is not asked."""
    bucket = re.sub("^s3://|/$", "", options.bucket)
    given, tags = pairs(options.parameters), pairs(options.tags)
    for name in given.keys() & OWN_OPTION:
        raise Stop(Exit.WRONG, f"{name} has an option of its own: {OWN_OPTION[name]}")
    if "CodeVersion" in given:
        raise Stop(Exit.WRONG, "CodeVersion is read from the module")
    for name in tags.keys() & template.parameters().keys():
        raise Stop(Exit.WRONG, f"{name} is a parameter, no tag: it goes before --tags")
    given["CodeBucket"] = bucket
    if options.code_key:
        given["CodeKey"] = options.code_key.removeprefix(f"s3://{bucket}/")
    if options.filter:
        given["FilterId"] = "" if options.filter == "new" else options.filter
    if options.targets:
        ids, accounts = template.sorted_targets(options.targets)
        given |= {"Targets": ",".join(ids), "TargetAccounts": ",".join(accounts)}
    for name, value in given.items():
        template.check(name, value)
    return given


def all_values(stack: Stack | None, given: dict[str, str]) -> dict[str, str]:
    """A value for each parameter: given, else what the stack has, else the default."""
    declared = template.parameters()
    values = {name: str(row["Default"]) for name, row in declared.items() if "Default" in row}
    before = stack.parameters if stack else {}
    for name in before.keys() & declared.keys() - given:
        values[name] = before[name]
        if name == "SweepRate" and (minutes := template.sweep_rate(before[name])):
            values[name] = minutes
            note(f"a sweep every {minutes} minutes instead of {before[name]}, as it was before")
        template.check(name, values[name])
    return values | given


def look_at_ec2(aws: Aws, given: dict[str, str]) -> None:
    """Whether targets and filter are there."""
    owners = aws.targets() if "Targets" in given else {}
    for account in filter(None, given.get("TargetAccounts", "").split(",")):
        if account not in owners.values():
            note(f"account {account} owns no traffic mirror target that is visible here yet")
    filters = aws.filters() if given.get("FilterId") else []
    for what, name, there in (("target", "Targets", [*owners]), ("filter", "FilterId", filters)):
        named = filter(None, given.get(name, "").split(","))
        if missing := [one for one in named if one not in there]:
            text = f"no traffic mirror {what} in this account and {aws.region}: {' '.join(missing)}"
            raise Stop(Exit.NOT_FOUND, f"{text}. There are: {', '.join(there[:20]) or 'none'}")


def look_at_bucket(aws: Aws, given: dict[str, str]) -> None:
    """Whether the bucket is there, and in this Region, as CloudFormation wants it; and the zip."""
    s3, bucket, key = aws.client("s3"), given["CodeBucket"], given.get("CodeKey")
    try:
        answer = s3.head_bucket(Bucket=bucket)
    except ClientError as error:
        if code_of(error) in ("404", "NoSuchBucket"):
            make = f"aws s3 mb s3://{bucket} --region {aws.region}"
            raise Stop(Exit.NO_BUCKET, f"there is no bucket {bucket}. Make one: {make}") from None
        if code_of(error) not in ("301", "PermanentRedirect"):
            raise
        answer = error.response
    headers = answer["ResponseMetadata"].get("HTTPHeaders", {})
    region = headers.get("x-amz-bucket-region", aws.region)
    if region != aws.region:
        why = f"The function's code has to come from a bucket in {aws.region}"
        raise Stop(Exit.BUCKET_ELSEWHERE, f"bucket {bucket} is in {region}. {why}")
    try:
        _ = key and s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if code_of(error) not in ("404", "NoSuchKey"):
            raise
        text = f"there is no s3://{bucket}/{key}. What there is: aws s3 ls s3://{bucket}/{FOLDER}"
        raise Stop(Exit.NO_CODE, text) from None


def build() -> str:
    """Build the zip; the key that it gets."""
    # This command's own Python is new enough and has venv.
    environment = {**os.environ, "PYTHON": sys.executable}
    script = [str(PROJECT / "build_zip.sh")]
    done = subprocess.run(script, check=False, env=environment, stdout=-1, text=True)  # noqa: S603
    print(done.stdout, end="")
    digest = re.search(r"^SHA-256 ([0-9a-f]{64})$", done.stdout, re.MULTILINE)
    if done.returncode or not digest:
        status = Exit.NO_PYTHON if done.returncode == Exit.NO_PYTHON else Exit.NO_ZIP
        raise Stop(status, "the zip could not be built (see above)")
    module = (PROJECT / "lambda_traffic_mirror.py").read_text("utf-8")
    version = re.search(r'^VERSION(?:: \w+)? = "([0-9A-Za-z.+]+)"$', module, re.MULTILINE)
    # The key changes with the content, which is how CloudFormation notices.
    return f"{FOLDER}{f'{version[1]}-' if version else ''}{digest[1]}.zip"


def version_of(key: str) -> str:
    """The version in a key; the first ones had none."""
    found = re.search(r"([0-9][0-9A-Za-z.+]*)-[0-9a-f]{64}\.zip$", key)
    return found[1] if found else "unknown"


def deploy(aws: Aws, options: argparse.Namespace, is_new: bool, values: dict[str, str]) -> str:
    """Upload the zip and have CloudFormation make the stack so; what was done, in words."""
    # CloudFormation holds the parameters to the template's rules when it makes the change set, and
    # reads the zip only when that is executed: so the upload comes in between.
    change_set = make_change_set(aws, options, is_new, values)
    bucket, key = values["CodeBucket"], values["CodeKey"]
    if not options.code_key:
        body = (PROJECT / "lambda_traffic_mirror.zip").read_bytes()
        aws.client("s3").put_object(Bucket=bucket, Key=key, Body=body)
    print(f"Code s3://{bucket}/{key}")
    if not change_set:
        return "No changes to deploy."
    if options.no_execute_changeset:
        print(f"Nothing has been changed. To be looked at and executed: {change_set}")
        return ""
    seen = stacks.events(aws, options.stack)[-1]["EventId"]
    aws.client("cloudformation").execute_change_set(ChangeSetName=change_set)
    if stacks.follow(aws, options.stack, seen) not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
        stack = stacks.read(aws, options.stack)
        says = (stack and stacks.what_to_do(aws, stack)) or "the stack is as it was before"
        raise Stop(Exit.FAILED, f"not deployed: {says}")
    return "Deployed."


def make_change_set(
    aws: Aws, options: argparse.Namespace, is_new: bool, values: dict[str, str]
) -> str | None:
    """The ID of the change set; None if there is nothing to change."""
    cloudformation = aws.client("cloudformation")
    asked: dict[str, Any] = {"RoleARN": options.role_arn} if options.role_arn else {}
    if options.tags:
        asked["Tags"] = [{"Key": key, "Value": value} for key, value in pairs(options.tags).items()]
    made: dict[str, str] = {}
    try:
        made = cloudformation.create_change_set(
            StackName=options.stack,
            ChangeSetName=f"deploy-{time.time_ns()}",
            ChangeSetType="CREATE" if is_new else "UPDATE",
            TemplateBody=template.TEMPLATE.read_text("utf-8"),
            Capabilities=["CAPABILITY_IAM"],
            Parameters=[{"ParameterKey": name, "ParameterValue": values[name]} for name in values],
            **asked,
        )
        waiter = cloudformation.get_waiter("change_set_create_complete")
        waiter.wait(ChangeSetName=made["Id"], WaiterConfig={"Delay": 2, "MaxAttempts": 300})
    except (ClientError, WaiterError) as error:
        if isinstance(error, ClientError) and code_of(error) != "ValidationError":
            raise
        why = getattr(error, "last_response", {}).get("StatusReason") or str(error)
        if made:
            cloudformation.delete_change_set(ChangeSetName=made["Id"])
        if not re.search("didn't contain changes|No updates are to be performed", why):
            raise Stop(Exit.FAILED, f"CloudFormation refuses it: {why}") from None
        return None
    return made["Id"]


def show_what_runs(aws: Aws, stack_name: str, code_key: str) -> None:
    """Show the outputs, compare the code, and have a first sweep."""
    stack = stacks.read(aws, stack_name)
    if stack is None or not (names := stack.made("AWS::Lambda::Function")):
        note("the stack shows no function, so that neither code nor sweep can be looked at")
        return
    for name, value in stack.outputs.items():
        print(f"  {name:<20} {value}")
    # Lambda shows in base64 what the key has in digits.
    digest = re.search(r"([0-9a-f]{64})\.zip$", code_key)
    wanted = base64.b64encode(bytes.fromhex(digest[1])).decode() if digest else ""
    try:
        runs = aws.client("lambda").get_function_configuration(FunctionName=names[0])["CodeSha256"]
    except ClientError as error:
        note(f"the code could not be compared: {error}")
    else:
        if wanted and runs != wanted:
            text = f"the function runs code with CodeSha256 {runs}, and the zip has {wanted}"
            raise Stop(Exit.OTHER_CODE, text)
        print(f"CodeSha256 {runs}, {'as the zip' if wanted else 'which the key does not tell'}.")
    if body := first_sweep(aws, names[0], int(stack.parameters.get("Timeout", 300))):
        say("sweep", body, aws.place(stack.name))


def first_sweep(aws: Aws, function: str, timeout: int) -> dict[str, Any] | None:
    """The body of what the function answers to a sweep in a dry run; None if it cannot be had."""
    client = aws.client("lambda", tries=1, read_timeout=timeout + 30)
    event = (template.DEPLOY / "dry-run-sweep.json").read_bytes()
    print("A first look at every instance, in a dry run ...", flush=True)
    try:
        for pause in (*PAUSES, 0):
            answer = client.invoke(FunctionName=function, Payload=event)
            result = json.loads(answer["Payload"].read())
            if not answer.get("FunctionError"):
                return {key: result["body"][key] for key in ("message", "summary", "interfaces")}
            time.sleep(pause)  # IAM needs seconds until a new role's permissions hold everywhere
        raise Stop(Exit.SWEEP_FAILED, f"deployed, but a sweep fails: {result['errorMessage']}")
    except (ClientError, BotoCoreError, ValueError, KeyError) as error:
        note(f"no answer that can be understood; the log has the next sweep's: {error!r}")
        return None
