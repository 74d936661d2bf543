"""Deletes what the function itself never deletes: its sessions, and the stack before them."""

import argparse
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from lambda_traffic_mirror import Configuration, ConfigurationError

from . import preview, template
from . import stack as stacks
from .aws import Aws, Exit, Stop, asking, code_of, explained, note, say, words
from .deploy import FOLDER
from .picture import ADVICE, DARK, MAYBE
from .stack import Stack
from .template import sorted_targets

REMOVABLE = ".*_FAILED|ROLLBACK_COMPLETE|DELETE_IN_PROGRESS"  # though it cannot be updated
Row = dict[str, Any]  # as AWS describes a session


def run(options: argparse.Namespace) -> Exit:
    """Remove; how it ended."""
    chosen = {key for key, value in vars(options).items() if key.startswith("with_") and value}
    target, above, filter_id = options.target, options.above, options.filter
    wrong = {
        "--target goes with --above, --force and the common options only": target
        and (filter_id or options.targets or chosen),
        f"--target takes one traffic mirror target, not {target!r}": target
        and sorted_targets(target) != ([target], []),
        "--above takes a number from 0, and needs --target": above is not None
        and (not target or above < 0),
        "--filter and --targets go together": bool(filter_id) != bool(options.targets),
        "of a stack that is gone only the filter is known: --with-filter": filter_id
        and chosen - {"with_filter"},
    }
    for text in (text for text, holds in wrong.items() if holds):
        raise Stop(Exit.WRONG, text)
    if filter_id:
        template.check("FilterId", filter_id)
        sorted_targets(options.targets)
    with asking(options) as (aws, account):
        print(f"Account {account}, Region {aws.region}")
        (free_target if target else remove_all)(options, aws, account)
    return Exit.DONE


class Claim(NamedTuple):
    """The sessions that a function makes: to its targets, with its filter (empty: with any)."""

    targets: frozenset[str]
    filter_id: str

    @classmethod
    def of(cls, aws: Aws, targets: str, filter_id: str) -> "Claim":
        """From IDs and accounts, of which all targets count that are visible here."""
        ids, accounts = sorted_targets(targets)
        owners = aws.targets() if accounts else {}
        return cls(frozenset(ids) | {one for one in owners if owners[one] in accounts}, filter_id)


def all_sessions(aws: Aws) -> list[Row]:
    """Every mirror session of the account."""
    return list(aws.rows("ec2", "describe_traffic_mirror_sessions", "TrafficMirrorSessions"))


def sessions(aws: Aws, account: str, claims: list[Claim]) -> tuple[list[Row], list[str]]:
    """The sessions that may be deleted, since they are claimed, belong to this account and have the
    Name that the function gives; and those of others, as lines with the reason."""
    ours, others = [], []
    for row in all_sessions(aws):
        target, interface = row["TrafficMirrorTargetId"], row["NetworkInterfaceId"]
        name = {tag["Key"]: tag["Value"] for tag in row.get("Tags", ())}.get("Name")
        claiming = {claim.filter_id for claim in claims if target in claim.targets}
        reasons = {
            "another target": not claiming,
            f"another filter, {row['TrafficMirrorFilterId']}": not claiming
            & {"", row["TrafficMirrorFilterId"]},
            f"of account {row.get('OwnerId')}": row.get("OwnerId", account) != account,
            "another Name": name != f"eh-mirror-{interface[4:8]}{target[4:8]}",
        }
        if why := next((why for why, holds in reasons.items() if holds), None):
            others.append(f"{line_of(row)}  ({why})")
        else:
            ours.append(row)
    return sorted(ours, key=line_of), others


def line_of(row: Row) -> str:
    """A session in a list."""
    between = f"{row['NetworkInterfaceId']} -> {row['TrafficMirrorTargetId']}"
    return f"{row['TrafficMirrorSessionId']}  {between}"


def confirm(options: argparse.Namespace) -> None:
    """Ask, unless --yes is given; stop if the answer is not yes."""
    try:
        sure = options.yes or input("Type yes to delete what is listed: ").strip() == "yes"
    except EOFError:
        sure = False
    if not sure:
        raise Stop(Exit.NOT_CONFIRMED, "not confirmed, nothing was deleted")


class Left(NamedTuple):
    """Something to be deleted: its name, its deletion, and the option that asks for it, if any."""

    name: str
    delete: Callable[[], object]
    option: str = ""


def delete_all(aws: Aws, things: list[Left]) -> None:
    """Delete one thing after the other: EC2 lets about five sessions a second be deleted."""
    failed = []
    for one in things:
        try:
            if_there(one.delete)  # else it went meanwhile, as a session does with its interface
            print(f"Deleted {one.name}", flush=True)
        except ClientError as error:
            if explained(error, aws).status in (Exit.DENIED, Exit.CREDENTIALS):
                raise
            failed.append(f"{one.name}: {error}")
    say("list", failed)
    if failed:
        raise Stop(Exit.LEFT, f"{len(failed)} of these could not be deleted. Run it again")


def delete_sessions(aws: Aws, ours: list[Row]) -> None:
    """Delete sessions."""
    delete = aws.client("ec2").delete_traffic_mirror_session
    ids = [row["TrafficMirrorSessionId"] for row in ours]
    delete_all(aws, [Left(one, partial(delete, TrafficMirrorSessionId=one)) for one in ids])


def free_target(options: argparse.Namespace, aws: Aws, account: str) -> None:
    """Delete the sessions to a target, if other sensors can take their interfaces."""
    ours, others = sessions(aws, account, [Claim(frozenset([options.target]), "")])
    others = [line for line in others if not line.endswith("(another target)")]
    if options.above is not None:
        ours = ours[: max(0, len(ours) + len(others) - options.above)]
    say("target", options.target, [line_of(row) for row in ours], others)
    if not ours:
        return
    dark = goes_dark(options, aws, [str(row["NetworkInterfaceId"]) for row in ours])
    print(f"Would go dark: {len(dark)} of {len(ours)} interfaces")
    say("list", dark)
    if dark and not options.force:
        raise Stop(Exit.DARK, "nothing was deleted. Mend what is named, or add --force")
    confirm(options)
    delete_sessions(aws, ours)
    print("The next sweep mirrors those anew that other sensors can take.")


def goes_dark(options: argparse.Namespace, aws: Aws, interfaces: list[str]) -> list[str]:
    """The interfaces that no other sensor can take, with the reason; says how it knows."""
    stack = stacks.read(aws, options.stack)
    if not stack or not stack.is_ours:
        why = f"there is no stack {options.stack} here to mirror it anew (see --stack)"
        return [f"{one}: {why}" for one in interfaces]
    if not (names := stack.made("AWS::Lambda::Function")):
        raise Stop(Exit.STATE, f"stack {stack.name} is in {stack.status} and has no function")
    runs = aws.client("lambda").get_function_configuration(FunctionName=names[0])
    variables = runs["Environment"]["Variables"]
    named = Claim.of(aws, variables["targets"], "").targets
    rest = named - {options.target}
    try:
        configuration = Configuration.from_environment(variables)
        if configuration.dry_run or not rest:
            is_on_dry_run = "is on DRY_RUN, and creates nothing"
            why = is_on_dry_run if configuration.dry_run else "has no other target"
            return [f"{one}: stack {stack.name} {why}" for one in interfaces]
        dark = judged_dark(aws, variables, rest, options.target, configuration.mirror_alongside)
    except ConfigurationError as error:
        mend = f"deploy/deploy.sh --bucket ... {aws.place(stack.name)} Parameter=Value"
        text = f"the function of stack {stack.name} has a variable that it cannot use: {error}"
        raise Stop(Exit.STATE, f"{text} Correct the variable's parameter: {mend}") from error
    if options.above is None and options.target in named:
        take_out = "deploy/deploy.sh --bucket ... --targets ..."
        note(f"the next sweep may choose {options.target} again. Take it out first: {take_out}")
    print(
        "Judged by the function itself, run here over what AWS shows now, as a sweep of stack "
        f"{stack.name} without {options.target}. Nothing was created by that."
    )
    return [f"{one}: {dark[one]}" for one in interfaces if dark[one]]


def judged_dark(
    aws: Aws, variables: dict[str, str], rest: frozenset[str], target: str, alongside: bool
) -> defaultdict[str, str]:
    """Why an interface that gives up its session to a target goes dark; empty if it does not.

    The function itself judges, as in a preview, with the variables of the stack less the target.
    An interface that has a session is judged only for a session besides, so MIRROR_ALONGSIDE is on,
    with a session number that is free.
    """
    rows = all_sessions(aws)
    number = min(set(range(1, 32767)) - {row["SessionNumber"] for row in rows})
    pretended = {"targets": ",".join(sorted(rest)), "MIRROR_ALONGSIDE": "true"}
    survey = preview.survey(aws.session, variables | pretended | {"SESSION_NUMBER": str(number)})
    of_others = {
        row["NetworkInterfaceId"]
        for row in rows
        if not alongside and row["TrafficMirrorTargetId"] not in {*rest, target}
    }
    # An interface of no running instance sends nothing. It is mirrored when that starts.
    dark = defaultdict(lambda: survey.unread[0] if survey.unread else "")
    for item in survey.interfaces:
        why = {MAYBE: "the sensors that can take it may be full", DARK: ADVICE["full"][0]}.get(
            item.fate
        )
        if item.outcome not in ("planned", "exists"):
            why = item.reason
        elif item.target_id not in rest or (
            item.outcome == "planned" and item.interface_id in of_others
        ):
            why = "another tool mirrors it, so the function leaves it alone (MIRROR_ALONGSIDE)"
        dark[item.interface_id or ""] = why or ""
    return dark


def remove_all(options: argparse.Namespace, aws: Aws, account: str) -> None:
    """Delete a stack, its sessions and what was chosen of the rest; say what is left."""
    stack = stacks.read(aws, options.stack)
    if stack and options.filter:
        text = "it is removed with its sessions without --filter and --targets"
        raise Stop(Exit.WRONG, f"stack {stack.name} is there: {text}")
    # What cannot be updated can be deleted, unless it is being changed or something else's.
    wrong = stack and stacks.what_to_do(aws, stack)
    if stack and wrong and not (stack.is_ours and re.fullmatch(REMOVABLE, stack.status)):
        raise Stop(Exit.STATE, wrong)
    deleted, others = stacks.family(aws, options.stack)
    known = [] if options.filter else [*([stack] if stack else []), *deleted]
    # A filter can outlive its stack and serve another one, whose sessions stay.
    used = {one.filter_id for one in others}
    claims = [
        Claim.of(aws, one.targets, one.filter_id)
        for one in known
        if one.filter_id and (one is stack or one.filter_id not in used)
    ]
    again = f"deploy/remove.sh {aws.place(options.stack)}"
    if options.filter:
        claims = [Claim.of(aws, options.targets, options.filter)]
    elif not known:
        found, _ = sessions(aws, account, [Claim(frozenset(aws.targets()), "")])
        raise Stop(Exit.STATE, words("unknown", options.stack, aws.region, others, again, found))
    ours, theirs = sessions(aws, account, claims)
    filters = {options.filter, *(one.filter_id for one in known)} - used
    left = list(left_behind(aws, known, others, filters))
    goes = [one for one in left if getattr(options, f"with_{one.option}")]
    stays = [one for one in left if one not in goes]
    say("all", stack, goes, stays, [line_of(row) for row in ours], theirs)
    if stack or ours or goes:
        confirm(options)
    if stack:
        delete_stack(options, aws, stack)
    # An invocation that was under way when its function was deleted goes on making sessions.
    for _ in range(3):
        delete_sessions(aws, sessions(aws, account, claims)[0])
    delete_all(aws, goes)
    say("left", stack, stays, again)


def left_behind(
    aws: Aws, known: list[Stack], others: list[Stack], filters: set[str | None]
) -> Iterator[Left]:
    """What outlives these stacks and is there, also while they are there."""
    ec2, sqs, logs, s3 = (aws.client(name) for name in ("ec2", "sqs", "logs", "s3"))
    for one in filters.intersection(aws.filters()):
        delete = partial(ec2.delete_traffic_mirror_filter, TrafficMirrorFilterId=one)
        yield Left(f"filter {one}", delete, "filter")
    queue = ("queues", "queue", sqs.get_queue_attributes, sqs.delete_queue, "QueueUrl")
    group = ("log", "log group", logs.describe_log_streams, logs.delete_log_group, "logGroupName")
    kinds = {"AWS::SQS::Queue": queue, "AWS::Logs::LogGroup": group}
    for kind, (option, noun, look, delete, key) in kinds.items():
        for one in sorted({physical for stack in known for physical in stack.outliving(kind)}):
            if if_there(partial(look, **{key: one})) is not None:
                yield Left(f"{noun} {one}", partial(delete, **{key: one}), option)
    buckets = {one.parameters.get("CodeBucket", "") for one in known}
    for bucket in buckets - {other.parameters["CodeBucket"] for other in others} - {""}:
        listed = aws.rows("s3", "list_objects_v2", "Contents", Bucket=bucket, Prefix=FOLDER)
        for row in if_there(partial(list, listed)) or ():
            delete = partial(s3.delete_object, Bucket=bucket, Key=row["Key"])
            yield Left(f"zip s3://{bucket}/{row['Key']}", delete, "zips")


def if_there(call: Callable[[], Any]) -> Any:
    """What AWS answers; None if what the call is about does not exist (any more)."""
    try:
        return call()
    except ClientError as error:
        if not re.search("NotFound|NonExistent|DoesNotExist|NoSuch", code_of(error)):
            raise
        return None


def delete_stack(options: argparse.Namespace, aws: Aws, stack: Stack) -> None:
    """Delete the stack, showing its events."""
    seen = stacks.events(aws, stack.stack_id)[-1]["EventId"]
    if stack.status != "DELETE_IN_PROGRESS":
        force = options.force and stack.status == "DELETE_FAILED"
        more = {"DeletionMode": "FORCE_DELETE_STACK"} if force else {}
        # By its ID it can be asked for while it goes and when it is gone.
        aws.client("cloudformation").delete_stack(StackName=stack.stack_id, **more)
    print(f"Deleting stack {stack.name} ...")
    if stacks.follow(aws, stack.stack_id, seen) != "DELETE_COMPLETE":
        again = "Mend what failed, and run it again; with --force what fails is left behind"
        text = f"stack {stack.name} was not deleted, and no session was: it would make them again"
        raise Stop(Exit.FAILED, f"{text}. {again}")
