"""What the commands have in common: how they end, one session for every call, errors in words."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

import boto3
from botocore import exceptions
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError


class Exit(IntEnum):
    """How a command ends. Scripts rely on the numbers, so none is ever given another meaning."""

    text: str

    def __new__(cls, number: int, text: str) -> Exit:  # noqa: D102
        member = int.__new__(cls, number)
        member._value_, member.text = number, text
        return member

    DONE = 0, "done, or nothing to do"
    FAILED = 1, "CloudFormation refused or failed; the failed events of this run are shown"
    WRONG = 2, "wrong call: an option, a parameter or the form of an ID"
    DARK = 3, "interfaces would stay or go dark; they are shown"
    NO_REGION = 4, "no Region is set, or there is none of that name"
    CREDENTIALS = 5, "no credentials, or AWS does not accept them"
    NO_PYTHON = 6, "Python 3.10 or newer with venv is missing, or its packages"
    NO_ZIP = 7, "the zip could not be built"
    NO_BUCKET = 8, "the bucket does not exist"
    BUCKET_ELSEWHERE = 9, "the bucket is in another Region"
    DENIED = 10, "AWS denies something; the message names the permission"
    NO_CODE = 11, "the zip of --code-key is not in the bucket"
    NOT_FOUND = 12, "a target or the filter is not in this account and Region"
    STATE = 13, "the state of the stack does not allow it, or it is of another template"
    NO_ANSWER = 14, "AWS did not answer: throttled, unreachable, a fault. Try again"
    OTHER_CODE = 15, "the function runs other code than what was deployed"
    NOT_CONFIRMED = 16, "not confirmed; nothing was deleted"
    LEFT = 17, "something could not be deleted. Run it again"
    SWEEP_FAILED = 18, "deployed, but the first sweep failed; its error is shown"


class Stop(Exception):
    """The command cannot go on; the message says why and what to do."""

    def __init__(self, status: Exit, message: str) -> None:
        super().__init__(message)
        self.status = status


class WrongValue(ValueError):
    """The call is wrong: an option, a parameter or the form of an ID."""


def note(message: str) -> None:
    """Tell the operator something that does not keep the command from going on."""
    print(f"Note: {message}", file=sys.stderr)


class Aws:
    """The account and Region that a command works on, and a client for each service.

    Args:
        profile: of the AWS configuration; None: the default chain.
        region: its name; None: AWS_REGION, AWS_DEFAULT_REGION or the profile's.

    Raises:
        Stop: there is no such profile, or no Region is set.
    """

    def __init__(self, profile: str | None = None, region: str | None = None) -> None:
        self.profile = profile or os.environ.get("AWS_PROFILE")
        try:
            # botocore reads AWS_DEFAULT_REGION by itself, and not AWS_REGION.
            region = region or os.environ.get("AWS_REGION")
            self.session = boto3.Session(profile_name=profile, region_name=region)
        except exceptions.ProfileNotFound as error:
            raise Stop(Exit.CREDENTIALS, f"{error}. {how_to_sign_in(None)}") from None
        self.clients: dict[str, Any] = {}
        self.region = self.session.region_name or ""
        if not self.region:
            raise Stop(Exit.NO_REGION, "no Region is set. Give --region, such as us-east-1")

    def place(self, stack: str) -> str:
        """The options of a command that a message names."""
        profile = f" --profile {self.profile}" if self.profile else ""
        return f"--stack {stack} --region {self.region}{profile}"

    def client(self, service: str, *, tries: int = 0, **settings: Any) -> Any:
        """A client of a service; `settings` are botocore's."""
        # EC2 takes about five deletions of sessions a second, so throttled calls need patience.
        tries = tries or int(os.environ.get("AWS_MAX_ATTEMPTS", "8"))
        retries = {"mode": "standard", "total_max_attempts": tries}
        if service not in self.clients or settings:
            config = Config(retries=retries, **settings)
            self.clients[service] = self.session.client(service, config=config)
        return self.clients[service]

    def rows(self, service: str, operation: str, key: str, **asked: Any) -> Iterator[Any]:
        """What a paginated call lists under this key."""
        for page in self.client(service).get_paginator(operation).paginate(**asked):
            yield from page.get(key, ())

    def sign_in(self) -> str:
        """The account's number. The first call: it shows whether credentials and Region work."""
        try:
            # Once: a Region that does not exist shows in an address that stays unknown.
            return str(self.client("sts", tries=1).get_caller_identity()["Account"])
        except (exceptions.InvalidRegionError, exceptions.EndpointConnectionError) as error:
            known = self.session.get_available_regions("ec2")
            if self.region in known:
                raise
            near = " or ".join(difflib.get_close_matches(self.region, known, 3))
            text = f"there is no Region {self.region!r}, or it cannot be reached: {error}"
            raise Stop(Exit.NO_REGION, text + f". Is it {near}?" * bool(near)) from None

    def targets(self) -> dict[str, str]:
        """The owner of each traffic mirror target that is visible here."""
        rows = self.rows("ec2", "describe_traffic_mirror_targets", "TrafficMirrorTargets")
        return {row["TrafficMirrorTargetId"]: row.get("OwnerId", "") for row in rows}

    def filters(self) -> dict[str, str]:
        """The traffic mirror filters of the account, with their descriptions."""
        rows = self.rows("ec2", "describe_traffic_mirror_filters", "TrafficMirrorFilters")
        return {row["TrafficMirrorFilterId"]: row.get("Description", "") for row in rows}


# Codes of AWS and names of botocore's exceptions: how a command ends, and what its user does.
REFUSED = "ExpiredToken|RequestExpired|InvalidClientTokenId|UnrecognizedClient|AuthFailure|"
REFUSED += "InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken|.*Credential|.*SSO|.*Token|"
REFUSED += ".*Login|.*Config"
DENIED = "AccessDenied|Unauthorized|AuthorizationError|Forbidden|403"
# Where permissions have other names than operations.
PERMISSIONS = {
    "HeadBucket": "s3:ListBucket",
    "HeadObject": "s3:GetObject",
    "ListObjectsV2": "s3:ListBucket",
    "PutObject": "s3:PutObject (and kms:GenerateDataKey, kms:Decrypt for a bucket with a KMS key)",
    "Invoke": "lambda:InvokeFunction",
}


def code_of(error: ClientError | BotoCoreError) -> str:
    """AWS's code, such as AccessDenied or 404, or the name of botocore's exception."""
    response = getattr(error, "response", {})
    return str(response.get("Error", {}).get("Code", "")) or type(error).__name__


def permission_of(error: ClientError | BotoCoreError, aws: Aws) -> str:
    """The permission that a call lacked: AWS mostly says, else it follows from the operation."""
    operation = getattr(error, "operation_name", "")
    # With a service role it is something that CloudFormation was about to do.
    if said := re.search(r"not authorized to perform: ([\w-]+:\w+)", str(error)):
        return said[1]
    for service in ("cloudformation", "ec2", "lambda", "logs", "s3", "sqs", "sts"):
        if operation in aws.client(service).meta.service_model.operation_names:
            return PERMISSIONS.get(operation, f"{service}:{operation}")
    return operation


def how_to_sign_in(profile: str | None) -> str:
    """What the operator does to get credentials that work."""
    configured = boto3.Session()._session.full_config["profiles"]  # noqa: SLF001
    settings = configured.get(profile or "default", {})
    option = f" --profile {profile}" if profile else ""
    if "sso_session" in settings or "sso_start_url" in settings:
        return f"Sign in: aws sso login{option}"
    if "login_session" in settings:
        return f"Sign in: aws login{option}"
    return (
        f"Give --profile (there are: {', '.join(configured) or 'none'}; where it has SSO, first: "
        "aws sso login --profile NAME), or set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, for "
        "temporary credentials, AWS_SESSION_TOKEN"
    )


def explained(error: ClientError | BotoCoreError, aws: Aws) -> Stop:
    """How a command ends by an error of AWS or on the way there."""
    if re.match(REFUSED, code_of(error)):
        why = "The credentials are missing, wrong or expired, or the Region is not enabled"
        return Stop(Exit.CREDENTIALS, f"{error}\n{why}. {how_to_sign_in(aws.profile)}")
    if re.match(DENIED, code_of(error)):
        why = f"The permission {permission_of(error, aws)} is missing"
        return Stop(Exit.DENIED, f"{error}\n{why}. docs/operations.md lists what is needed")
    return Stop(Exit.NO_ANSWER, f"{error}\nAWS did not answer usefully. Try again")


@contextmanager
def asking(options: argparse.Namespace) -> Iterator[tuple[Aws, str]]:
    """The account of the options, and its number; an error of AWS becomes a Stop."""
    aws = Aws(options.profile, options.region)
    try:
        account = aws.sign_in()
        print(f"Account {account}, Region {aws.region}")
        yield aws, account
    except (ClientError, BotoCoreError) as error:
        raise explained(error, aws) from error
