"""What the commands have in common: how they end, one session for every call, errors in words."""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import jinja2
import yaml
from botocore import exceptions
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError


class Exit(IntEnum):
    """How a command ends; errors.yaml says what each means. Scripts rely on the numbers, so none is
    ever given another meaning."""

    DONE, FAILED, WRONG, DARK, NO_REGION, CREDENTIALS, NO_PYTHON = range(7)
    NO_ZIP, NO_BUCKET, BUCKET_ELSEWHERE, DENIED, NO_CODE, NOT_FOUND = range(7, 13)
    STATE, NO_ANSWER, OTHER_CODE, NOT_CONFIRMED, LEFT, SWEEP_FAILED = range(13, 19)

    @property
    def text(self) -> str:
        """What it means."""
        return str(read_yaml("errors")["exits"][self])


class Stop(Exception):
    """The command cannot go on; the message says why and what to do."""

    def __init__(self, status: Exit, message: str) -> None:
        super().__init__(message)
        self.status = status


@lru_cache
def read_yaml(name: str) -> dict[str, Any]:
    """A file of this package: options, errors or advice."""
    text = (Path(__file__).parent / f"{name}.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def note(message: str) -> None:
    """Tell the operator something that does not keep the command from going on."""
    print(f"Note: {message}", file=sys.stderr)


def templates(**more: Any) -> jinja2.Environment:
    """The templates of this package."""
    return jinja2.Environment(  # noqa: S701  plain text, unless told otherwise
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **more,
    )


def words(occasion: str, *values: Any) -> str:
    """What says.j2 has for an occasion."""
    return str(getattr(templates().get_template("says.j2").module, occasion)(*values))


def say(occasion: str, *values: Any) -> None:
    """Print what says.j2 has for an occasion."""
    print(words(occasion, *values), end="", flush=True)


class Aws:
    """The account and Region that a command works on, and a client for each service.

    Without a profile botocore's default chain holds, without a Region AWS_REGION,
    AWS_DEFAULT_REGION or the profile's."""

    def __init__(self, profile: str | None = None, region: str | None = None) -> None:
        self.profile = profile or os.environ.get("AWS_PROFILE")
        # botocore reads AWS_DEFAULT_REGION by itself, and not AWS_REGION.
        region = region or os.environ.get("AWS_REGION")
        try:
            self.session = boto3.Session(profile_name=profile, region_name=region)
        except BotoCoreError as error:
            raise explained(error, self) from error
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

    def filters(self) -> list[str]:
        """The traffic mirror filters of the account."""
        rows = self.rows("ec2", "describe_traffic_mirror_filters", "TrafficMirrorFilters")
        return [row["TrafficMirrorFilterId"] for row in rows]


def code_of(error: ClientError | BotoCoreError) -> str:
    """AWS's code, such as AccessDenied or 404, or the name of botocore's exception."""
    response = getattr(error, "response", {})
    return str(response.get("Error", {}).get("Code", "")) or type(error).__name__


def permission_of(error: ClientError | BotoCoreError) -> str:
    """The permission that a call lacked: AWS mostly says, else it follows from the operation."""
    # With a service role it is something that CloudFormation was about to do.
    if said := re.search(r"not authorized to perform: ([\w-]+:\w+)", str(error)):
        return said[1]
    operation = getattr(error, "operation_name", "")
    for service in ("cloudformation", "ec2", "lambda", "logs", "s3", "sqs", "sts"):
        if operation in botocore.session.Session().get_service_model(service).operation_names:
            default = f"{service}:{operation}"
            return str(read_yaml("errors")["permissions"].get(operation, default))
    return str(operation)


def how_to_sign_in(profile: str | None) -> str:
    """What the operator does to get credentials that work."""
    # This session is not asked for its profile, which may be none that is configured.
    configured = botocore.session.Session().full_config["profiles"]
    settings = configured.get(profile or "default", {})
    option = f" --profile {profile}" if profile else ""
    if "sso_session" in settings or "sso_start_url" in settings:
        return f"Sign in: aws sso login{option}"
    if "login_session" in settings:
        return f"Sign in: aws login{option}"
    return str(read_yaml("errors")["keys"].format(profiles=", ".join(configured) or "none"))


def explained(error: ClientError | BotoCoreError, aws: Aws) -> Stop:
    """How a command ends by an error of AWS or on the way there."""
    rows = read_yaml("errors")["codes"]
    status, _, advice = next(row for row in rows if re.match(row[1], code_of(error)))
    permission = permission_of(error) if status == "DENIED" else ""
    words = advice.format(sign_in=how_to_sign_in(aws.profile), permission=permission)
    return Stop(Exit[status], f"{error}\n{words}")


@contextmanager
def asking(options: argparse.Namespace) -> Iterator[tuple[Aws, str]]:
    """The account of the options, and its number; an error of AWS becomes a Stop."""
    aws = Aws(options.profile, options.region)
    try:
        yield aws, aws.sign_in()
    except (ClientError, BotoCoreError) as error:
        raise explained(error, aws) from error
