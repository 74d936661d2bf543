"""Builds the zip, uploads it, deploys the stack and shows what its function then says.

What is named is looked up first. Run it again to upgrade or to change something: what is left out
keeps the value it has, so that an upgrade needs nothing but --bucket.
"""

from __future__ import annotations

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
from .aws import Aws, Exit, Stop, asking, code_of, note
from .stack import Stack
from .template import WrongValue

PROJECT = template.DEPLOY.parent
FOLDER = "lambda_traffic_mirror/"  # of the zips in the bucket
OWN_OPTION = {
    **{"CodeBucket": "--bucket", "CodeKey": "--code-key", "FilterId": "--filter"},
    **{"Targets": "--targets", "TargetAccounts": "--targets"},
}
PAUSES = (5.0, 10.0, 20.0)  # seconds before a first sweep that failed is tried again


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What deploy.sh takes besides the options that all commands have."""
    more = parser.add_argument
    more("--bucket", required=True, help="S3 bucket for the zip, in the Region of the stack")
    more("--targets", metavar="LIST", help="traffic mirror targets (tmt-...) of your sensors, and "
         "accounts (12 digits) of which every visible target is used; a new stack needs it")  # fmt: skip
    more("--filter", metavar="ID", help="traffic mirror filter; without it a new stack makes one "
         "that mirrors everything, and 'new' lets a stack that has another make one")  # fmt: skip
    more("--code-key", metavar="KEY", help="deploy a zip that is in the bucket: the way back")
    more("--tags", metavar="KEY=VALUE", nargs="+", type=pair, help="tags of the stack")
    more("--role-arn", metavar="ARN", help="role that CloudFormation works with")
    more("--no-execute-changeset", action="store_true", help="only make a change set to look at")
    more("parameters", metavar="Parameter=Value", nargs="*", type=pair,
         help="any other parameter of template.yaml")  # fmt: skip


def pair(text: str) -> tuple[str, str]:
    """Key and value of key=value."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"do not understand {text!r}")
    return key, value


def given_by(options: argparse.Namespace) -> dict[str, str]:
    """The parameters that a call gives, each held to the template. AWS is not asked.

    Raises:
        WrongValue: one is wrong.
    """
    options.bucket = re.sub("^s3://|/$", "", options.bucket)
    given = dict(options.parameters)
    for name in given.keys() & OWN_OPTION.keys():
        raise WrongValue(f"{name} has an option of its own: {OWN_OPTION[name]}")
    if "CodeVersion" in given:
        raise WrongValue("CodeVersion is read from the module")
    for name in dict(options.tags or ()).keys() & template.parameters().keys():
        raise WrongValue(f"{name} is a parameter, no tag: it goes before --tags")
    given["CodeBucket"] = options.bucket
    if options.code_key:
        given["CodeKey"] = options.code_key.removeprefix(f"s3://{options.bucket}/")
    if options.filter:
        given["FilterId"] = "" if options.filter == "new" else options.filter
    if options.targets:
        ids, accounts = template.sorted_targets(options.targets)
        given |= {"Targets": ",".join(ids), "TargetAccounts": ",".join(accounts)}
    for name, value in given.items():
        template.check(name, value)
    return given


def run(options: argparse.Namespace) -> Exit:
    """Deploy; how it ended.

    Raises:
        WrongValue: the call is wrong.
        Stop: something is in the way.
    """
    given = given_by(options)
    with asking(options) as (aws, account):
        print(f"Account {account}, Region {aws.region}, stack {options.stack}")
        return deploy(aws, options, given)


def deploy(aws: Aws, options: argparse.Namespace, given: dict[str, str]) -> Exit:
    """Look at all that is named, then build, upload and deploy."""
    stack = stacks.read(aws, options.stack)
    if stack and (wrong := stacks.what_to_do(aws, stack)):
        raise Stop(Exit.STATE, wrong)
    if not options.targets and (not stack or stack.status == "REVIEW_IN_PROGRESS"):
        where = f"there is no stack {options.stack} in {aws.region} yet"
        raise WrongValue(f"--targets is missing: {where}, and a new one needs it")
    was_key = stack.parameters.get("CodeKey", "") if stack else ""
    if was_key:
        print(f"Now there: version {version_of(was_key)}, {was_key}")
    kept = kept_values(stack, given) if stack else []
    look_at_ec2(aws, given)
    look_at_bucket(aws, options.bucket)
    if options.code_key:
        look_at_code(aws, options.bucket, given["CodeKey"])
        given["CodeVersion"] = version_of(given["CodeKey"])
    else:
        given["CodeKey"], given["CodeVersion"] = build()
    # CloudFormation holds the parameters to the template's rules when it makes the change set, and
    # reads the zip only when that is executed: so the upload comes in between.
    change_set, stack_id, seen = make_change_set(aws, options, stack, given, kept)
    if not options.code_key:
        body = (PROJECT / "lambda_traffic_mirror.zip").read_bytes()
        aws.client("s3").put_object(Bucket=options.bucket, Key=given["CodeKey"], Body=body)
    print(f"Code s3://{options.bucket}/{given['CodeKey']}")
    if options.no_execute_changeset:
        print(f"Nothing has been changed. To be looked at and executed: {change_set}")
        return Exit.DONE
    if change_set:
        aws.client("cloudformation").execute_change_set(ChangeSetName=change_set)
        if stacks.follow(aws, stack_id, seen) not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            stack = stacks.read(aws, stack_id)
            says = (stack and stacks.what_to_do(aws, stack)) or "it is as it was before"
            raise Stop(Exit.FAILED, f"the stack was not deployed: {says}")
        print("Deployed.")
    else:
        print("No changes to deploy.")
    status = show(aws, options, given["CodeKey"])
    if was_key not in ("", given["CodeKey"]):
        place = f"--stack {options.stack} --region {aws.region}"
        back = f"deploy/deploy.sh --bucket {options.bucket} --code-key {was_key}"
        print(f"The way back: {back} {place}")
    return status


# ======================================================================================
# What has to be so before anything is built, uploaded or deployed
# ======================================================================================


def kept_values(stack: Stack, given: dict[str, str]) -> list[str]:
    """Names of the parameters that keep their values. A value in a form that the template no longer
    takes is added to `given` in the present one.

    Raises:
        WrongValue: the template does not accept a value that the stack has.
    """
    # CodeKey and CodeVersion are always given anew.
    kept = stack.parameters.keys() & template.parameters().keys() - given - {
        "CodeKey",
        "CodeVersion",
    }
    rate = stack.parameters.get("SweepRate", "")
    if "SweepRate" in kept and (minutes := template.sweep_rate(rate)):
        given["SweepRate"] = minutes
        kept.remove("SweepRate")
        note(f"a sweep every {minutes} minutes instead of {rate}, which the template had before")
    for name in kept:
        template.check(name, stack.parameters[name])
    return sorted(kept)


def look_at_ec2(aws: Aws, given: dict[str, str]) -> None:
    """Whether targets and filter are there."""
    named = {"filter": (given.get("FilterId", ""), aws.filters)} if given.get("FilterId") else {}
    if "Targets" in given:
        named["target"] = (given["Targets"], aws.targets)
    for what, (wanted, look) in named.items():
        there = look()
        missing = [one for one in wanted.split(",") if one and one not in there]
        if missing:
            has = f"There are: {', '.join(list(there)[:20]) or 'none'}"
            text = f"no traffic mirror {what} in this account and {aws.region}: {' '.join(missing)}"
            raise Stop(Exit.NOT_FOUND, f"{text}. {has}")
        for one in filter(None, given["TargetAccounts"].split(",") if what == "target" else ()):
            if one not in there.values():
                note(f"account {one} owns no traffic mirror target that is visible here yet")


def look_at_bucket(aws: Aws, bucket: str) -> None:
    """Whether the bucket is there, and in this Region, as CloudFormation wants it."""
    try:
        answer = aws.client("s3").head_bucket(Bucket=bucket)["ResponseMetadata"]
    except ClientError as error:
        if code_of(error) in ("404", "NoSuchBucket"):
            make = f"aws s3 mb s3://{bucket} --region {aws.region}"
            raise Stop(Exit.NO_BUCKET, f"there is no bucket {bucket}. Make one: {make}") from None
        if code_of(error) not in ("301", "PermanentRedirect"):
            raise
        answer = error.response["ResponseMetadata"]
    region = answer.get("HTTPHeaders", {}).get("x-amz-bucket-region", aws.region)
    if region != aws.region:
        why = f"The function's code has to come from a bucket in {aws.region}"
        raise Stop(Exit.BUCKET_ELSEWHERE, f"bucket {bucket} is in {region}. {why}")


def look_at_code(aws: Aws, bucket: str, key: str) -> None:
    """Whether the zip of --code-key is there; shows which ones are, if not."""
    try:
        aws.client("s3").head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if code_of(error) not in ("404", "NoSuchKey"):
            raise
        rows = list(aws.rows("s3", "list_objects_v2", "Contents", Bucket=bucket, Prefix=FOLDER))
        rows.sort(key=lambda row: row["LastModified"])
        there = [f"\n  {row['LastModified']:%Y-%m-%d %H:%M} {row['Key']}" for row in rows]
        text = f"there is no s3://{bucket}/{key}. There are, the youngest last:"
        raise Stop(Exit.NO_CODE, text + ("".join(there) or " none")) from None


# ======================================================================================
# The zip and the stack
# ======================================================================================


def build() -> tuple[str, str]:
    """Build the zip; the key that it gets, and its version."""
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
    begin = f"{FOLDER}{version[1]}-" if version else FOLDER
    return f"{begin}{digest[1]}.zip", version[1] if version else "unknown"


def version_of(key: str) -> str:
    """The version in a key; the first ones had none."""
    found = re.search(r"([0-9][0-9A-Za-z.+]*)-[0-9a-f]{64}\.zip$", key)
    return found[1] if found else "unknown"


def make_change_set(
    aws: Aws,
    options: argparse.Namespace,
    stack: Stack | None,
    given: dict[str, str],
    kept: list[str],
) -> tuple[str | None, str, str]:
    """The change set (None: nothing is to be changed), the stack's ID and its last event."""
    cloudformation = aws.client("cloudformation")
    more = {"RoleARN": options.role_arn} if options.role_arn else {}
    tags = [{"Key": key, "Value": value} for key, value in options.tags or ()]
    is_new = stack is None or stack.status == "REVIEW_IN_PROGRESS"
    try:
        made = cloudformation.create_change_set(
            StackName=options.stack,
            ChangeSetName=f"deploy-{time.time_ns()}",
            ChangeSetType="CREATE" if is_new else "UPDATE",
            TemplateBody=template.TEMPLATE.read_text("utf-8"),
            Capabilities=["CAPABILITY_IAM"],
            Parameters=[
                *({"ParameterKey": name, "ParameterValue": given[name]} for name in given),
                *({"ParameterKey": name, "UsePreviousValue": True} for name in kept),
            ],
            **({"Tags": tags} if tags else {}),
            **more,
        )
        waiter = cloudformation.get_waiter("change_set_create_complete")
        waiter.wait(ChangeSetName=made["Id"], WaiterConfig={"Delay": 2, "MaxAttempts": 300})
        change_set = made["Id"]
    except ClientError as error:
        if code_of(error) != "ValidationError":
            raise
        raise Stop(Exit.FAILED, f"CloudFormation refuses the deployment: {error}") from None
    except WaiterError as error:
        cloudformation.delete_change_set(ChangeSetName=made["Id"])
        why = error.last_response.get("StatusReason", str(error))
        if "didn't contain changes" not in why and "No updates are to be performed" not in why:
            raise Stop(Exit.FAILED, f"CloudFormation refuses the deployment: {why}") from None
        change_set = None
    return change_set, made["StackId"], stacks.events(aws, made["StackId"])[-1]["EventId"]


# ======================================================================================
# What runs now
# ======================================================================================


def show(aws: Aws, options: argparse.Namespace, key: str) -> Exit:
    """Show the outputs, compare the code, and have the first sweep."""
    stack = stacks.read(aws, options.stack)
    if stack is None or not stack.function:
        note("the stack shows no function, so that neither code nor sweep can be looked at")
        return Exit.DONE
    for name, value in stack.outputs.items():
        print(f"  {name:<20} {value}")
    try:
        runs = aws.client("lambda").get_function_configuration(FunctionName=stack.function)
    except ClientError as error:
        note(f"the code could not be compared: {error}")
    else:
        # Lambda shows in base64 what the key has in digits.
        digest = re.search(r"([0-9a-f]{64})\.zip$", key)
        wanted = base64.b64encode(bytes.fromhex(digest[1])).decode() if digest else ""
        if wanted and wanted != runs["CodeSha256"]:
            text = f"the function runs CodeSha256 {runs['CodeSha256']}, and the zip has {wanted}"
            raise Stop(Exit.OTHER_CODE, text)
        same = "the same as that of the zip" if wanted else "and the key tells none to compare"
        print(f"CodeSha256 {runs['CodeSha256']}, {same}.")
    return first_sweep(aws, options, stack)


def first_sweep(aws: Aws, options: argparse.Namespace, stack: Stack) -> Exit:
    """Have the function look at every instance, in a dry run, and show what it says."""
    timeout = int(stack.parameters.get("Timeout", 300))
    once = {"mode": "standard", "total_max_attempts": 1}
    client = aws.client("lambda", read_timeout=timeout + 30, retries=once)
    event = (template.DEPLOY / "dry-run-sweep.json").read_bytes()
    print("A first look at every instance, in a dry run ...", flush=True)
    for pause in (*PAUSES, None):
        try:
            answer = client.invoke(FunctionName=stack.function, Payload=event)
            result = json.loads(answer["Payload"].read())
        except (ClientError, BotoCoreError, ValueError) as error:
            note(f"it could not be had (lambda:InvokeFunction); the next sweep is logged: {error}")
            return Exit.DONE
        if not answer.get("FunctionError"):
            break
        if pause is None:
            text = f"deployed, but a sweep fails: {result.get('errorMessage', result)}"
            raise Stop(Exit.SWEEP_FAILED, text)
        time.sleep(pause)  # IAM takes some seconds until a new role's permissions hold everywhere.
    body = result.get("body") if isinstance(result, dict) else None
    if isinstance(body, dict):
        show_sweep(options, stack, body, f"--stack {stack.name} --region {aws.region}")
    else:
        note(f"its answer has another form than the function's: {str(result)[:200]}")
    return Exit.DONE


def show_sweep(options: argparse.Namespace, stack: Stack, body: dict[str, Any], place: str) -> None:
    """The headline of a sweep, what stays dark, and what keeps it from mirroring anything."""
    print(f"First sweep: {body['message']}")
    dark = [
        f"  {entry['interface_id']} of {entry['instance_id']}: {entry['reason']}"
        for entry in body["interfaces"]
        if entry["outcome"] in ("unmirrored", "blocked", "failed")
    ]
    if dark:
        print(*dark[:5], f"Every interface: deploy/preview.sh {place}", sep="\n")
    if not body["summary"].keys() - {"skipped"}:
        why = "no instance runs, or tags leave all of them out (IncludeTags, ExcludeTags)"
        print(f"Nothing is meant to be mirrored: {why}.")
    if stack.parameters.get("DryRun") == "true":
        begin = f"deploy/deploy.sh --bucket {options.bucket} {place} DryRun=false"
        print(f"DRY_RUN is on, so nothing is mirrored. To begin: {begin}")
