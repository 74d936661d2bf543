"""Deletes what the function itself never deletes: its sessions, and the stack before them.

Lists what goes and what stays, asks, and deletes. Run it again until nothing is left.

  (neither)              the stack, then the sessions that its function has made, since the
                         function would make them again
  --target               the sessions to that target, if other sensors can take every interface
  --filter, --targets    the sessions of a stack that CloudFormation no longer remembers

Sessions of others are shown and stay.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from . import preview, template
from . import stack as stacks
from .aws import Aws, Exit, Stop, WrongValue, asking, code_of, explained, note
from .deploy import FOLDER
from .stack import Stack
from .template import sorted_targets

SHOWN = 50  # lines of a list
REMOVABLE = ".*_FAILED|ROLLBACK_COMPLETE|DELETE_IN_PROGRESS"  # though it cannot be updated
OUTLIVES = ("filter", "queues", "log", "zips")
SESSIONS = ("ec2", "describe_traffic_mirror_sessions", "TrafficMirrorSessions")
Row = dict[str, Any]  # as AWS describes a session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What remove.sh takes besides the options that all commands have."""
    more = parser.add_argument
    more("--target", metavar="ID", help="only the sessions to this target")
    more("--above", metavar="N", type=int, help="only as many of them as the target has beyond N")
    more("--filter", metavar="ID", help="filter of a stack that is gone")
    more("--targets", metavar="LIST", help="targets and accounts of a stack that is gone")
    for what in OUTLIVES:
        more(f"--with-{what}", action="store_true", help=f"delete the {what} that outlive it, too")
    text = "also if interfaces go dark, or what a stack in DELETE_FAILED still holds is left behind"
    more("--force", action="store_true", help=text)
    more("--yes", action="store_true", help="do not ask")


def run(options: argparse.Namespace) -> Exit:
    """Remove; how it ended.

    Raises:
        WrongValue: the call is wrong.
        Stop: something is in the way.
    """
    chosen = [what for what in OUTLIVES if getattr(options, f"with_{what}")]
    if options.target and (options.filter or options.targets or chosen):
        raise WrongValue("--target goes with --above, --force and the common options only")
    if options.target and sorted_targets(options.target) != ([options.target], []):
        raise WrongValue(f"--target takes one traffic mirror target, not {options.target!r}")
    if options.above is not None and (not options.target or options.above < 0):
        raise WrongValue("--above takes a number from 0, and needs --target")
    if bool(options.filter) != bool(options.targets):
        raise WrongValue("--filter and --targets go together")
    if options.filter:
        template.check("FilterId", options.filter)
        sorted_targets(options.targets)
        if set(chosen) - {"filter"}:
            raise WrongValue("of a stack that is gone only the filter is known: --with-filter")
    with asking(options) as (aws, account):
        remove = free_target if options.target else remove_all
        return remove(options, aws, account)


# ======================================================================================
# Sessions
# ======================================================================================


class Claim(NamedTuple):
    """The sessions that a function makes: to its targets, with its filter (empty: with any)."""

    targets: frozenset[str]
    filter_id: str

    @classmethod
    def of(cls, aws: Aws, targets: str, filter_id: str) -> Claim:
        """From IDs and accounts, of which all targets count that are visible here."""
        ids, accounts = sorted_targets(targets)
        owners = aws.targets() if accounts else {}
        return cls(frozenset(ids) | {one for one in owners if owners[one] in accounts}, filter_id)


def sessions(aws: Aws, account: str, claims: list[Claim]) -> tuple[list[Row], list[str]]:
    """The sessions that may be deleted, since they are claimed, belong to this account and have the
    Name that the function gives; and those of others, as lines with the reason."""
    ours, others = [], []
    for row in aws.rows(*SESSIONS):
        target, interface = row["TrafficMirrorTargetId"], row["NetworkInterfaceId"]
        name = {tag["Key"]: tag["Value"] for tag in row.get("Tags", ())}.get("Name")
        claiming = [claim.filter_id for claim in claims if target in claim.targets]
        why = ""
        if not claiming:
            why = "another target"
        elif not {"", row["TrafficMirrorFilterId"]}.intersection(claiming):
            why = f"another filter, {row['TrafficMirrorFilterId']}"
        elif row.get("OwnerId", account) != account:
            why = f"of account {row['OwnerId']}"
        elif name != f"eh-mirror-{interface[4:8]}{target[4:8]}":
            why = "another Name"
        if why:
            others.append(f"{line_of(row)}  ({why})")
        else:
            ours.append(row)
    return sorted(ours, key=line_of), others


def line_of(row: Row) -> str:
    """A session in a list."""
    ids = (row["TrafficMirrorSessionId"], row["NetworkInterfaceId"], row["TrafficMirrorTargetId"])
    return "{}  {} -> {}".format(*ids)


def show(lines: list[str], indent: str = "    ") -> None:
    """Show the first of a list."""
    for line in lines[:SHOWN]:
        print(indent + line)
    if len(lines) > SHOWN:
        print(f"{indent}... and {len(lines) - SHOWN} more")


def confirm(options: argparse.Namespace) -> None:
    """Ask, unless --yes is given.

    Raises:
        Stop: the answer is not yes.
    """
    try:
        sure = options.yes or input("Type yes to delete what is listed: ").strip() == "yes"
    except EOFError:
        sure = False
    if not sure:
        raise Stop(Exit.NOT_CONFIRMED, "not confirmed, nothing was deleted")


def delete_sessions(aws: Aws, ours: list[Row]) -> None:
    """Delete sessions, one after the other: EC2 allows about five such calls a second.

    Raises:
        Stop: some could not be deleted, or AWS denies it.
    """
    ec2 = aws.client("ec2")
    failed = []
    for number, row in enumerate(ours, 1):
        try:
            ec2.delete_traffic_mirror_session(TrafficMirrorSessionId=row["TrafficMirrorSessionId"])
        except ClientError as error:
            if explained(error, aws).status in (Exit.DENIED, Exit.CREDENTIALS):
                raise
            if not code_of(error).endswith("NotFound"):  # else: meanwhile, or its interface is gone
                failed.append(f"{row['TrafficMirrorSessionId']}: {error}")
        if number % 100 == 0:
            print(f"Looked after {number} of {len(ours)} sessions.", flush=True)
    print(f"Deleted {len(ours) - len(failed)} of {len(ours)} sessions.")
    show(failed)
    if failed:
        raise Stop(Exit.LEFT, f"{len(failed)} sessions could not be deleted. Run it again")


# ======================================================================================
# The sessions to one target
# ======================================================================================


def free_target(options: argparse.Namespace, aws: Aws, account: str) -> Exit:
    """Delete the sessions to a target, if other sensors can take their interfaces."""
    ours, others = sessions(aws, account, [Claim(frozenset([options.target]), "")])
    others = [line for line in others if not line.endswith("(another target)")]
    if options.above is not None:
        ours = ours[: max(0, len(ours) + len(others) - options.above)]
    print(f"Sessions to {options.target}: {len(ours)} of ours to be deleted")
    show([line_of(row) for row in ours])
    print(f"Of others, they stay: {len(others)}")
    show(others)
    if not ours:
        print("Nothing to delete.")
        return Exit.DONE
    dark = goes_dark(options, aws, [str(row["NetworkInterfaceId"]) for row in ours])
    print(f"Would go dark: {len(dark)} of {len(ours)} interfaces")
    show(dark)
    if dark and not options.force:
        raise Stop(Exit.DARK, "nothing was deleted. Mend what is named, or add --force")
    confirm(options)
    delete_sessions(aws, ours)
    print("The next sweep mirrors those anew that other sensors can take.")
    return Exit.DONE


def is_on(variables: dict[str, str], name: str) -> bool:
    """Whether a boolean variable of the function is true."""
    return variables.get(name, "").strip().lower() in ("true", "yes", "on", "1")


def goes_dark(options: argparse.Namespace, aws: Aws, interfaces: list[str]) -> list[str]:
    """The interfaces that no other sensor can take, with the reason; says how it knows.

    The function itself judges them, as in a preview, with the variables of the stack less the
    target. An interface that has a session is judged only for a session besides, so
    MIRROR_ALONGSIDE is on, with a session number that is free.
    """
    stack = stacks.read(aws, options.stack)
    if not stack or not stack.is_ours:
        why = f"there is no stack {options.stack} here to mirror it anew (see --stack)"
        return [f"{one}: {why}" for one in interfaces]
    variables = stacks.variables(aws, stack)
    named = Claim.of(aws, variables["targets"], "").targets
    rest = sorted(named - {options.target})
    if is_on(variables, "DRY_RUN"):
        return [
            f"{one}: stack {stack.name} is on DRY_RUN, and creates nothing" for one in interfaces
        ]
    if not rest:
        return [f"{one}: stack {stack.name} has no other target" for one in interfaces]
    if options.above is None and options.target in named:
        take_out = "deploy/deploy.sh --bucket ... --targets ..."
        note(f"the next sweep may choose {options.target} again. Take it out first: {take_out}")
    rows = list(aws.rows(*SESSIONS))
    number = min(set(range(1, 32767)) - {row["SessionNumber"] for row in rows})
    pretended = {"targets": ",".join(rest), "MIRROR_ALONGSIDE": "true"}
    survey = preview.survey(aws.session, variables | pretended | {"SESSION_NUMBER": str(number)})
    print(
        "Judged by the function itself, run here over what AWS shows now, as a sweep of stack "
        f"{stack.name} without {options.target}. Nothing was created by that."
    )
    judged = {item.interface_id: item for item in survey.interfaces}
    elsewhere = {
        row["NetworkInterfaceId"]
        for row in rows
        if row["TrafficMirrorTargetId"] not in (*rest, options.target)
    }
    dark = []
    for one in interfaces:
        item = judged.get(one)
        if item is None:
            # An interface of no running instance sends nothing. It is mirrored when that starts.
            why = survey.unread[0] if survey.unread else ""
        elif item.outcome not in ("planned", "exists"):
            why = item.reason
        elif item.target_id not in rest or (
            one in elsewhere
            and item.outcome == "planned"
            and not is_on(variables, "MIRROR_ALONGSIDE")
        ):
            why = "another tool mirrors it, so the function leaves it alone (MIRROR_ALONGSIDE)"
        else:
            why = "the sensors that can take it may be full" if item.fate == "maybe" else ""
        if why:
            dark.append(f"{one}: {why}")
    return dark


# ======================================================================================
# The stack, its sessions and what outlives it
# ======================================================================================


class Left(NamedTuple):
    """Something that outlives a stack: the option that deletes it, its name and its deletion."""

    option: str
    name: str
    delete: Callable[[], object]


def remove_all(options: argparse.Namespace, aws: Aws, account: str) -> Exit:
    """Delete a stack, its sessions and what was chosen of the rest; say what is left."""
    stack = stacks.read(aws, options.stack)
    if stack and options.filter:
        text = "it is removed with its sessions without --filter and --targets"
        raise WrongValue(f"stack {stack.name} is there: {text}")
    # What cannot be updated can be deleted, unless it is being changed or something else's.
    wrong = stack and stacks.what_to_do(aws, stack)
    if stack and wrong and not (stack.is_ours and re.fullmatch(REMOVABLE, stack.status)):
        raise Stop(Exit.STATE, wrong)
    deleted, others = stacks.family(aws, options.stack)
    known = [*([stack] if stack else []), *deleted]
    # A filter can outlive its stack and serve another one, whose sessions stay.
    used = {one.filter_id for one in others}
    mine = [one for one in known if one.filter_id and (one is stack or one.filter_id not in used)]
    claims = [Claim.of(aws, one.targets, one.filter_id) for one in mine]
    if options.filter:
        known, claims = [], [Claim.of(aws, options.targets, options.filter)]
    elif not known:
        raise Stop(Exit.STATE, unknown_stack(options, aws, account, others))
    ours, theirs = sessions(aws, account, claims)
    left = list(left_behind(aws, known, others, options.filter))
    goes = [one for one in left if getattr(options, f"with_{one.option}")]
    stays = [one for one in left if one not in goes]
    print("To be deleted:")
    show([f"stack {stack.name} ({stack.status})"] if stack else [], "  ")
    show([f"{len(ours)} mirror sessions", *(one.name for one in goes)], "  ")
    show([line_of(row) for row in ours])
    print("What stays:")
    show([f"{one.name} (--with-{one.option} deletes it)" for one in stays], "  ")
    print(f"  {len(theirs)} mirror sessions of others")
    show(theirs)
    if stack or ours or goes:
        confirm(options)
    if stack:
        delete_stack(options, aws, stack)
        ours, _ = sessions(aws, account, claims)
    # An invocation that was under way when its function was deleted goes on making sessions.
    for _ in range(3):
        if ours:
            delete_sessions(aws, ours)
            ours, _ = sessions(aws, account, claims)
    failed = [one.name for one in goes if not delete_left(one)]
    if failed:
        raise Stop(Exit.LEFT, f"{', '.join(failed)} could not be deleted. Run it again")
    say_what_is_left(options, aws, stack, stays)
    return Exit.DONE


def say_what_is_left(
    options: argparse.Namespace, aws: Aws, stack: Stack | None, stays: list[Left]
) -> None:
    """What there is still to do, and the command that does it."""
    again = f"deploy/remove.sh {aws.place(options.stack)}"
    if stays:
        needed = " ".join(dict.fromkeys(f"--with-{one.option}" for one in stays))
        print(f"{len(stays)} things are left, see above. To delete them, too: {again} {needed}")
    if stack:
        minutes = int(stack.parameters.get("Timeout", 300)) // 60 + 1
        print(f"A sweep that was under way may make last sessions. In {minutes} minutes: {again}")
    elif not stays:
        print("Nothing is left.")


def unknown_stack(options: argparse.Namespace, aws: Aws, account: str, others: list[Stack]) -> str:
    """What to do where CloudFormation knows no stack of this name."""
    says = [f"there is no stack {options.stack} in {aws.region}, nor was one deleted in 90 days."]
    if others:
        says.append(f"Stacks of template.yaml here: {', '.join(one.name for one in others)}.")
    targets: dict[str, set[str]] = {}
    for row in sessions(aws, account, [Claim(frozenset(aws.targets()), "")])[0]:
        targets.setdefault(row["TrafficMirrorFilterId"], set()).add(row["TrafficMirrorTargetId"])
    for filter_id in targets.keys() - {one.filter_id for one in others}:
        command = f"deploy/remove.sh {aws.place(options.stack)} --filter {filter_id} --targets"
        says.append(f'Sessions of a stack that is gone: {command} "{" ".join(targets[filter_id])}"')
    return "\n".join(says)


def outliving(stack: Stack, kind: str) -> list[str]:
    """Physical IDs of what the template does not have deleted with the stack, of this type."""
    declared = template.template()["Resources"]
    policies = {name: declared[name].get("DeletionPolicy", "Delete") for name in declared}
    goes = {one.physical for one in stack.resources if policies.get(one.logical) == "Delete"}
    return [one for one in stack.made(kind) if one not in goes]


def left_behind(
    aws: Aws, known: list[Stack], others: list[Stack], filter_id: str | None
) -> Iterator[Left]:
    """What outlives these stacks and is there, also while they are there."""
    ec2, sqs, logs, s3 = (aws.client(name) for name in ("ec2", "sqs", "logs", "s3"))
    wanted = {filter_id, *(one.filter_id for one in known)} - {one.filter_id for one in others}
    for one in aws.filters():
        if one in wanted:
            delete = partial(ec2.delete_traffic_mirror_filter, TrafficMirrorFilterId=one)
            yield Left("filter", f"filter {one}", delete)
    for one in sorted({url for stack in known for url in outliving(stack, "AWS::SQS::Queue")}):
        if exists(partial(sqs.get_queue_attributes, QueueUrl=one)):
            yield Left("queues", f"queue {one}", partial(sqs.delete_queue, QueueUrl=one))
    for one in sorted(
        {name for stack in known for name in outliving(stack, "AWS::Logs::LogGroup")}
    ):
        if exists(partial(logs.describe_log_streams, logGroupName=one, limit=1)):
            yield Left("log", f"log group {one}", partial(logs.delete_log_group, logGroupName=one))
    used = {other.parameters["CodeBucket"] for other in others}
    for one in sorted({one.parameters.get("CodeBucket", "") for one in known} - used - {""}):
        for row in exists(partial(s3.list_objects_v2, Bucket=one, Prefix=FOLDER)).get(
            "Contents", ()
        ):
            delete = partial(s3.delete_object, Bucket=one, Key=row["Key"])
            yield Left("zips", f"zip s3://{one}/{row['Key']}", delete)


GONE = "NotFound|NonExistent|DoesNotExist|NoSuch"


def exists(look: Callable[[], Row]) -> Row:
    """What AWS says of something; empty if it does not exist."""
    try:
        return look()
    except ClientError as error:
        if not re.search(GONE, code_of(error)):
            raise
        return {}


def delete_left(one: Left) -> bool:
    """Delete something that has outlived a stack; whether it is gone."""
    try:
        one.delete()
    except ClientError as error:
        if code_of(error).endswith("InUse"):
            note(f"{one.name} is still used by sessions of others")
            return False
        if not re.search(GONE, code_of(error)):
            raise
    print(f"Deleted {one.name}")
    return True


def delete_stack(options: argparse.Namespace, aws: Aws, stack: Stack) -> None:
    """Delete the stack, showing its events.

    Raises:
        Stop: it was not deleted.
    """
    cloudformation = aws.client("cloudformation")
    seen = stacks.events(aws, stack.stack_id)[-1]["EventId"]
    force = options.force and stack.status == "DELETE_FAILED"
    if stack.status != "DELETE_IN_PROGRESS":
        # By its ID it can be asked for while it goes and when it is gone.
        more = {"DeletionMode": "FORCE_DELETE_STACK"} if force else {}
        cloudformation.delete_stack(StackName=stack.stack_id, **more)
    print(f"Deleting stack {stack.name} ...")
    if stacks.follow(aws, stack.stack_id, seen) != "DELETE_COMPLETE":
        again = "Mend what failed, and run it again; with --force what fails is left behind"
        text = f"stack {stack.name} was not deleted, and no session was: it would make them again"
        raise Stop(Exit.FAILED, f"{text}. {again}")
