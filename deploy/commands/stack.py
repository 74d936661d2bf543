"""What CloudFormation says of a stack, while it is there and for 90 days after."""

from __future__ import annotations

import sys
import time
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from .aws import Aws, Exit, Stop
from .template import template

POLL = 3.0  # seconds between two looks at a stack that is being changed


class Stack(NamedTuple):
    """A stack, also one that was deleted.

    `resources` has type and physical ID by logical ID. Names and IDs are taken from there, not from
    outputs: older versions of the template had fewer, and a deleted stack may show none.
    """

    name: str
    stack_id: str
    status: str
    parameters: dict[str, str]
    outputs: dict[str, str]
    resources: dict[str, tuple[str, str]]

    @property
    def is_ours(self) -> bool:
        """Whether it is one of template.yaml, of any version."""
        return "CodeKey" in self.parameters

    def made(self, kind: str) -> list[str]:
        """Physical IDs of what it has made of a type, such as AWS::SQS::Queue."""
        return [physical for of, physical in self.resources.values() if of == kind]

    def kept(self, kind: str) -> list[str]:
        """The same, without what goes with the stack. Of a deleted one, some of it may be gone."""
        declared = template()["Resources"]
        return [
            physical
            for logical, (of, physical) in self.resources.items()
            if of == kind and declared.get(logical, {}).get("DeletionPolicy", "")[:6] == "Retain"
        ]

    @property
    def function(self) -> str | None:
        """Name of the function."""
        return next(iter(self.made("AWS::Lambda::Function")), None)

    @property
    def filter_id(self) -> str | None:
        """The traffic mirror filter of the sessions: given, or the stack's own."""
        own = self.made("AWS::EC2::TrafficMirrorFilter")
        return self.parameters.get("FilterId") or next(iter(own), self.outputs.get("FilterId"))

    @property
    def targets(self) -> str:
        """IDs of targets and numbers of accounts, separated by commas."""
        return ",".join(self.parameters.get(name, "") for name in ("Targets", "TargetAccounts"))


def read(aws: Aws, name_or_id: str) -> Stack | None:
    """The stack of this name, or with its ID also one that was deleted; None if there is none."""
    try:
        (row,) = aws.client("cloudformation").describe_stacks(StackName=name_or_id)["Stacks"]
    except ClientError as error:
        # The code of this error, ValidationError, has many meanings.
        if "does not exist" in str(error):
            return None
        raise
    listed = ("cloudformation", "list_stack_resources", "StackResourceSummaries")
    return Stack(
        row["StackName"],
        row["StackId"],
        row["StackStatus"],
        {one["ParameterKey"]: one["ParameterValue"] for one in row.get("Parameters", ())},
        {one["OutputKey"]: one["OutputValue"] for one in row.get("Outputs", ())},
        {
            one["LogicalResourceId"]: (one["ResourceType"], one["PhysicalResourceId"])
            for one in aws.rows(*listed, StackName=row["StackId"])
            if one.get("PhysicalResourceId")  # otherwise it was never made
        },
    )


def others(aws: Aws, name: str) -> list[Stack]:
    """The other stacks of template.yaml in this account and Region."""
    rows = aws.rows("cloudformation", "describe_stacks", "Stacks")
    ids = [
        row["StackId"]
        for row in rows
        if row["StackName"] != name
        and any(one["ParameterKey"] == "CodeKey" for one in row.get("Parameters", ()))
    ]
    return [one for stack_id in ids if (one := read(aws, stack_id))]


def deleted(aws: Aws, name: str) -> list[Stack]:
    """The stacks of this name that were deleted; CloudFormation remembers them for 90 days."""
    rows = aws.rows(
        "cloudformation", "list_stacks", "StackSummaries", StackStatusFilter=["DELETE_COMPLETE"]
    )
    found = [read(aws, row["StackId"]) for row in rows if row["StackName"] == name]
    return [one for one in found if one and one.is_ours]


def variables(aws: Aws, stack: Stack) -> dict[str, str]:
    """The environment variables that the stack's function runs with.

    Raises:
        Stop: the stack has no function.
    """
    if not stack.function:
        text = f"stack {stack.name} is in {stack.status} and has no function. Deploy it first"
        raise Stop(Exit.STATE, text)
    answer = aws.client("lambda").get_function_configuration(FunctionName=stack.function)
    found: dict[str, str] = answer.get("Environment", {}).get("Variables", {})
    return found


def events(aws: Aws, stack_id: str, seen: str | None = None) -> list[dict[str, Any]]:
    """Events of a stack after the one that was seen, the oldest first."""
    found: list[dict[str, Any]] = []
    for event in aws.rows(
        "cloudformation", "describe_stack_events", "StackEvents", StackName=stack_id
    ):
        if event["EventId"] == seen:
            break
        found.insert(0, event)
    return found


def follow(aws: Aws, stack_id: str, seen: str | None) -> str:
    """Show the stack's events until CloudFormation has done its work; the status it ends in.

    What failed is shown once more in the end, the first first: the others mostly follow from it.
    """
    failed = []
    while True:
        # Asked for before the events, so that none is missed when the work is over.
        stack = aws.client("cloudformation").describe_stacks(StackName=stack_id)["Stacks"][0]
        for event in events(aws, stack_id, seen):
            seen = event["EventId"]
            words = (event["LogicalResourceId"], event.get("ResourceStatusReason", ""))
            line = f"{event['ResourceStatus']:<20} {' '.join(words)}".rstrip()
            print(f"  {event['Timestamp']:%H:%M:%S} {line}", flush=True)
            if event["ResourceStatus"].endswith("_FAILED"):
                failed.append(line)
        if not stack["StackStatus"].endswith("_IN_PROGRESS"):
            break
        time.sleep(POLL)
    if failed:
        print("What failed, the first first:", *failed, sep="\n  ", file=sys.stderr)
    return str(stack["StackStatus"])


def what_to_do(aws: Aws, stack: Stack) -> str | None:
    """What keeps a stack from being updated, and the command that mends it; None: nothing does."""
    remove = f"deploy/remove.sh --stack {stack.name} --region {aws.region}"
    mend = {
        "ROLLBACK_COMPLETE": "its first deployment failed, and it holds nothing. Mend what its "
        f"events name, remove it, and deploy again: {remove}",
        "UPDATE_ROLLBACK_FAILED": "the way back failed, too. Mend what its events name, then: aws "
        f"cloudformation continue-update-rollback --stack-name {stack.name} --region {aws.region} "
        "(or in the CloudFormation console: Stack actions, Continue update rollback)",
        **dict.fromkeys(
            ("ROLLBACK_FAILED", "DELETE_FAILED", "IMPORT_ROLLBACK_FAILED"),
            f"it cannot be updated. Its events say why. Remove it, and deploy again: {remove}",
        ),
    }
    if stack.status == "REVIEW_IN_PROGRESS":  # only a change set was made: nothing is there yet
        return None
    if not stack.is_ours:
        return (
            f"stack {stack.name} has no parameter CodeKey, so it is none of ours. Is --stack right?"
        )
    if stack.status.endswith("_IN_PROGRESS"):
        return f"stack {stack.name} is in {stack.status}: something else is changing it. Try later"
    if stack.status in mend:
        return f"stack {stack.name} is in {stack.status}: {mend[stack.status]}"
    return None
