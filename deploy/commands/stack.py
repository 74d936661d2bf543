"""What CloudFormation says of a stack, while it is there and for 90 days after."""

import re
import sys
import time
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from . import template
from .aws import Aws, read_yaml

POLL = 3.0  # seconds between two looks at a stack that is being changed


class Stack(NamedTuple):
    """A stack, also one that was deleted.

    IDs are taken from its resources, not from outputs: older versions of the template had fewer.

    Attributes:
        resources: name in the template, type and physical ID of each.
    """

    name: str
    stack_id: str
    status: str
    parameters: dict[str, str]
    outputs: dict[str, str]
    resources: set[tuple[str, str, str]]

    @property
    def is_ours(self) -> bool:
        """Whether it is one of template.yaml, of any version."""
        return "CodeKey" in self.parameters

    def made(self, kind: str) -> list[str]:
        """Physical IDs of what it has made of a type, such as AWS::SQS::Queue. Of a deleted stack,
        some of that may be gone."""
        return sorted(physical for _, its_kind, physical in self.resources if its_kind == kind)

    def outliving(self, kind: str) -> set[str]:
        """Those of them that the template keeps when the stack is deleted."""
        kept = template.template()["Resources"]
        deleted = {k for k, row in kept.items() if row.get("DeletionPolicy", "Delete") == "Delete"}
        goes = {physical for name, _, physical in self.resources if name in deleted}
        return set(self.made(kind)) - goes

    @property
    def filter_id(self) -> str:
        """The traffic mirror filter of the sessions: given, or the stack's own; or empty."""
        own = [*self.made("AWS::EC2::TrafficMirrorFilter"), self.outputs.get("FilterId", "")]
        return self.parameters.get("FilterId") or own[0]

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
    made = aws.rows(*listed, StackName=row["StackId"])
    if row["StackStatus"] == "DELETE_COMPLETE":
        # Events also tell what an update has replaced and left behind.
        made = iter(events(aws, row["StackId"]))
    return Stack(
        row["StackName"],
        row["StackId"],
        row["StackStatus"],
        {one["ParameterKey"]: one["ParameterValue"] for one in row.get("Parameters", ())},
        {one["OutputKey"]: one["OutputValue"] for one in row.get("Outputs", ())},
        {
            (one["LogicalResourceId"], one["ResourceType"], one["PhysicalResourceId"])
            for one in made
            if one.get("PhysicalResourceId")  # otherwise it was never made
        },
    )


def family(aws: Aws, name: str) -> tuple[list[Stack], list[Stack]]:
    """The stacks of this name that were deleted in the last 90 days, which is how long
    CloudFormation remembers them, and the stacks of template.yaml that have other names."""
    cloudformation, only = "cloudformation", ["DELETE_COMPLETE"]
    gone = aws.rows(cloudformation, "list_stacks", "StackSummaries", StackStatusFilter=only)
    deleted = [row["StackId"] for row in gone if row["StackName"] == name]
    live = aws.rows(cloudformation, "describe_stacks", "Stacks")
    others = [row["StackId"] for row in live if row["StackName"] != name and "CodeKey" in str(row)]
    found = ([read(aws, one) for one in ids] for ids in (deleted, others))
    first, second = ([one for one in stacks if one and one.is_ours] for stacks in found)
    return first, second


def events(aws: Aws, stack_id: str, seen: str | None = None) -> list[dict[str, Any]]:
    """Events of a stack after the one that was seen, the oldest first."""
    found: list[dict[str, Any]] = []
    listed = ("cloudformation", "describe_stack_events", "StackEvents")
    for event in aws.rows(*listed, StackName=stack_id):
        if event["EventId"] == seen:
            break
        found.insert(0, event)
    return found


def follow(aws: Aws, stack_id: str, seen: str) -> str:
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
    if stack.status == "REVIEW_IN_PROGRESS":  # only a change set was made: nothing is there yet
        return None
    if not stack.is_ours:
        return f"stack {stack.name} has no parameter CodeKey: it is none of ours. Is --stack right?"
    remove = f"deploy/remove.sh {aws.place(stack.name)}"
    for states, advice in read_yaml("errors")["states"].items():
        if re.fullmatch(states, stack.status):
            words = advice.format(remove=remove, name=stack.name, region=aws.region)
            return f"stack {stack.name} is in {stack.status}: {words}"
    return None
