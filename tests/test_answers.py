"""AWS's answers may be anything: one that cannot be read harms those who need it, and nobody else.

The answers of a real run are taken and changed, one member at a time: left out, empty, no address,
of another type. Some changes are tried always; before a release, ANSWERS=300 tries so many of each
operation.
"""

from __future__ import annotations

import copy
import os
import random
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import botocore.exceptions
import pytest
from aws import LambdaContext, acl_entry, route, rule, running_event, scheduled_event
from calls import CREATE
from conftest import Clock, Scene, deliver, error_of, missing

import lambda_traffic_mirror
from lambda_traffic_mirror import ConfigurationError, MirroringError, lambda_handler

Shown = dict[str, Any]
Path = tuple[Any, ...]


class Rows(NamedTuple):
    """Where the rows of an answer stand, and the member by which a row is looked up."""

    name: str
    key: str


ROWS = {
    "DescribeInstances": Rows("Reservations", "InstanceId"),
    "DescribeTrafficMirrorTargets": Rows("TrafficMirrorTargets", "TrafficMirrorTargetId"),
    "DescribeTrafficMirrorSessions": Rows("TrafficMirrorSessions", "NetworkInterfaceId"),
    "DescribeNetworkInterfaces": Rows("NetworkInterfaces", "NetworkInterfaceId"),
    "DescribeSecurityGroups": Rows("SecurityGroups", "GroupId"),
    "DescribeNetworkAcls": Rows("NetworkAcls", "VpcId"),
    "GetManagedPrefixListEntries": Rows("Entries", "Cidr"),
    "DescribeRouteTables": Rows("RouteTables", "VpcId"),
}
OPERATIONS = [*ROWS, CREATE, "AssumeRole"]


def rows_of(operation: str, answer: Shown) -> list[Shown]:
    """The rows of an answer; of one without rows, itself."""
    if operation not in ROWS:
        return [answer]
    rows: list[Shown] = answer[ROWS[operation].name]
    return rows


# --------------------------------------------------------------------------------------
# One member at a time
# --------------------------------------------------------------------------------------

LEFT_OUT = "left out"


class Change(NamedTuple):
    """A member of a row is another value, or gone."""

    row: str  # as it was
    path: Path
    value: Any
    of_another_type: bool = False  # botocore's parser vouches for the types

    def apply(self, row: Shown) -> None:
        value: Any = row
        for key in self.path[:-1]:
            value = value[key]
        if self.value is LEFT_OUT:
            del value[self.path[-1]]
        else:
            value[self.path[-1]] = copy.deepcopy(self.value)


def members(value: object, path: Path = ()) -> Iterator[tuple[Path, object]]:
    """Every member of a row, however deep, with its path."""
    found = enumerate(value) if isinstance(value, list) else ()
    for key, member in value.items() if isinstance(value, dict) else found:
        yield (*path, key), member
        yield from members(member, (*path, key))


def changes(row: Shown) -> Iterator[Change]:
    """Every change of one member of a row."""
    for path, value in members(row):
        others = [] if isinstance(path[-1], int) else [LEFT_OUT]
        if isinstance(value, str):
            others.append("")
        if re.match(r"\d+\.\d+\.\d+\.\d+", str(value)):
            others += ["999.1.2.3", "10.0.0.0/99", "fd00::1", "no address"]
        yield from (Change(repr(row), path, other) for other in others)
        for other in (None, "text", 7, True, [], ["text"], [None], {}, {"text": None}):
            if type(other) is not type(value):
                yield Change(repr(row), path, other, of_another_type=True)


class TwoHalves:
    """Any answer to the operation about one half of an account may be changed; the other half has
    nothing to do with it, apart from the calls. In each, an instance waits for its sensor."""

    def __init__(self, scene: Scene, operation: str) -> None:
        self.scene, self.operation = scene, operation
        far, allowed = scene.vpc("10.9.0.0/16"), [acl_entry(100, "allow")]
        scene.route_table(routes=[route("10.9.0.0/16", pcx=True)], main=True)
        owner = scene.other()
        theirs = owner.sensor(owner.subnet(vpc=owner.vpc("10.8.0.0/16")))
        owner.share(theirs)
        owner.session("eni-00000000000000000", theirs)
        listed = scene.group(rule(prefix_list=scene.prefix_list("10.0.0.0/8")))
        changed = [
            scene.sensor(scene.subnet(acl=allowed), [listed], quota=99),
            scene.sensor(scene.subnet(vpc=far, acl=allowed), quota=99, sessions=1),
            scene.sensor(scene.subnet(), state="stopped"),
            scene.nlb_sensor([scene.subnet()]),
            theirs,
        ]
        instance = scene.instance(scene.subnet(), interfaces=2, tags={"x": ""})
        scene.mirrored(changed[0])
        # The other half: a VPC of its own, in a zone of its own.
        vpc = scene.vpc("10.7.0.0/16")
        self.sensor = scene.sensor(scene.subnet("b", vpc=vpc, acl=allowed), quota=99)
        untouched = scene.instance(scene.subnet("b", vpc=vpc))
        self.interface = scene.first_interface(untouched)
        self.untouched = (vpc, self.sensor, untouched, self.interface)
        role, targets = owner.role("reader"), [*changed, self.sensor]
        scene.configure(targets, SENSOR_ROLE_ARNS=role, EXCLUDE_TAGS="mirror=no")
        hosts = [scene.sensor_instance(one) for one in (*changed[:3], self.sensor)]
        self.instances = [instance, untouched, *hosts]
        self.before = scene.sessions()
        self.rows: dict[str, Shown] = {}  # of the half that is changed, by how they look
        self.change: Change | None = None
        scene.show(operation, self.shown)

    def shown(self, answer: Shown) -> None:
        for row in rows_of(self.operation, answer):
            text = repr(row)
            if any(name in text for name in self.untouched):
                continue
            if self.change is None:
                self.rows[text] = {k: v for k, v in row.items() if k != "ResponseMetadata"}
            elif text == self.change.row or self.operation not in ROWS:  # each time another one
                self.change.apply(row)

    def run(self, sweep: bool) -> str:
        """What went wrong, if anything did; the sessions that were made go again."""
        lambda_traffic_mirror._clients = {None: lambda_traffic_mirror._clients[None]}  # new roles
        event = scheduled_event() if sweep else {"instance-ids": self.instances}
        try:
            deliver(event)
        except ConfigurationError:
            pass
        except Exception as error:  # noqa: BLE001
            return f"{type(error).__name__}: {error}"
        made = [session for session in self.scene.sessions() if session not in self.before]
        for session in made:
            self.scene.delete_session(session["TrafficMirrorSessionId"])
        of = {session["NetworkInterfaceId"]: session["TrafficMirrorTargetId"] for session in made}
        if len(of) < len(made):
            return f"two sessions for one interface: {made}"
        exempt = self.change and (self.change.of_another_type or self.is_about_all(self.change))
        mirrored = exempt or of.get(self.interface) == self.sensor
        return "" if mirrored else "the neighbour is not mirrored"

    def is_about_all(self, change: Change) -> bool:
        """Whether the call has failed: a row lacks the ID by which it is looked up."""
        if self.operation == "DescribeInstances":
            return len(change.path) < 3 or change.path[2:] == ("InstanceId",)
        return self.operation in ROWS and change.path == (ROWS[self.operation].key,)


# How many changes are tried of each operation, for an event and for a sweep.
TRIED = int(os.environ.get("ANSWERS", "15"))


@pytest.mark.parametrize("sweep", [False, True], ids=["event", "sweep"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_whatever_member_cannot_be_read_nothing_escapes_and_neighbours_are_unharmed(
    scene: Scene, shared_client: None, clock: Clock, operation: str, sweep: bool
) -> None:
    halves = TwoHalves(scene, operation)
    assert halves.run(sweep) == ""
    by_member: dict[Path, list[Change]] = {}
    for change in [change for row in halves.rows.values() for change in changes(row)]:
        name = tuple(key for key in change.path if isinstance(key, str))
        by_member.setdefault((*name, change.of_another_type), []).append(change)
    assert by_member
    rng = random.Random(OPERATIONS.index(operation) + 100 * sweep)
    some = [rng.choice(found) for found in by_member.values()]
    if len(some) < TRIED:
        some = [change for found in by_member.values() for change in found]
    wrong = {}
    for halves.change in rng.sample(some, min(TRIED, len(some))):
        if problem := halves.run(sweep):
            wrong[halves.change] = problem
    assert wrong == {}


# --------------------------------------------------------------------------------------
# Rows
# --------------------------------------------------------------------------------------


@pytest.fixture
def simple(scene: Scene, shared_client: None, clock: Clock) -> str:
    """An instance whose mirroring takes every call there is."""
    vpc = scene.vpc("10.9.0.0/16")
    group = scene.group(rule(prefix_list=scene.prefix_list("10.0.0.0/8")), vpc=vpc)
    target = scene.sensor(scene.subnet(vpc=vpc), [group], quota=100)
    scene.configure(target)
    scene.mirrored(target)
    scene.route_table(routes=[route("10.9.0.0/16", pcx=True)], main=True)
    return scene.instance()


@pytest.mark.parametrize("how", ["left out", "empty"])
@pytest.mark.parametrize("operation", sorted(set(ROWS) - {"GetManagedPrefixListEntries"}))
def test_a_row_without_the_id_by_which_it_is_looked_up_is_a_failed_call(
    scene: Scene, simple: str, operation: str, how: str
) -> None:
    key = ROWS[operation].key

    def change(answer: Shown) -> None:
        for row in rows_of(operation, answer):
            for one in row.get("Instances", [row]):
                one.update({key: ""}) if how == "empty" else one.pop(key)

    scene.show(operation, change)
    error = error_of(running_event(simple))
    assert (missing(error, "1 failed", key), len(scene.sessions())) == ([], 1)


# What becomes of the interface where an answer has no rows, though some were asked for.
NO_ROWS = {
    "DescribeInstances": "skipped",
    "DescribeTrafficMirrorSessions": "created",
    "DescribeRouteTables": "created",
}


@pytest.mark.parametrize("operation", ROWS)
def test_an_answer_without_rows_is_an_answer_and_one_without_the_list_is_none(
    scene: Scene, simple: str, operation: str
) -> None:
    name = ROWS[operation].name
    scene.show(operation, lambda answer: answer.pop(name, None))
    assert error_of(running_event(simple)).startswith("1 failed")
    scene.show(operation, lambda answer: answer.update({name: []}))
    assert scene.run(simple).outcomes == [NO_ROWS.get(operation, "unmirrored")]


@pytest.mark.parametrize("operation", sorted(set(ROWS) - {"GetManagedPrefixListEntries"}))
def test_rows_that_nobody_asked_for_change_nothing(
    scene: Scene, simple: str, operation: str
) -> None:
    """The filter of a look-up is lost, and AWS shows all there is."""
    scene.sensor(scene.subnet(), [scene.group()], sessions=3)
    other = scene.instance()
    scene.gates.append(lambda call, values: call == operation and values.pop("Filters", None))
    answer = scene.run(simple)
    assert (answer.outcomes, scene.sessions_of(other)) == (["created"], [0])


def twice(value: Any) -> Any:
    """Each row comes twice, and so does each row in it."""
    if isinstance(value, list):
        return [twice(one) for one in value] * 2
    return {key: twice(one) for key, one in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("sweep", [False, True], ids=["event", "sweep"])
@pytest.mark.parametrize("operation", ROWS)
def test_a_row_that_comes_twice_counts_once(
    scene: Scene, simple: str, operation: str, sweep: bool
) -> None:
    scene.show(operation, lambda answer: answer.update(twice(answer)))
    event = scheduled_event() if sweep else running_event(simple)
    rest = {"exists": 1, "skipped": 1} if sweep else {}
    assert scene.run(event | {"dry_run": True}).summary == {"planned": 1, **rest}
    assert scene.run(event).summary == {"created": 1, **rest}
    assert scene.count(CREATE) == 1


# Tokens of one page after the other, and whether the reading fails.
TOKENS: dict[str, tuple[list[str | None], bool]] = {
    "an empty one is the end": ([""], False),
    "none is the end": ([None], False),
    "three pages with the same rows": (["page 2", "page 3", None], False),
    "a token that repeats": (["the same"] * 10, True),
}


@pytest.mark.parametrize("operation", ROWS)
@pytest.mark.parametrize(("tokens", "fails"), TOKENS.values(), ids=TOKENS.keys())
def test_a_next_token_that_repeats_is_a_failed_call_and_an_empty_one_is_the_last_page(
    scene: Scene, simple: str, operation: str, tokens: list[str | None], fails: bool
) -> None:
    left = list(tokens)

    def change(answer: Shown) -> None:
        answer.pop("NextToken", None)
        token = left.pop(0) if left else None
        answer.update({} if token is None else {"NextToken": token})

    # The account knows no such token: whatever is asked for, it shows the first page.
    scene.gates.append(lambda call, values: call == operation and values.pop("NextToken", None))
    scene.show(operation, change)
    if fails:
        assert missing(error_of(running_event(simple)), "1 failed", operation) == []
    else:
        assert scene.run(simple).outcomes == ["created"]


# --------------------------------------------------------------------------------------
# Pages that are none of AWS's
# --------------------------------------------------------------------------------------

PAGES: dict[str, tuple[int, bytes]] = {
    "a page": (200, b"<html><head><title>Sign in</title></head><body><br>Hello.</body></html>"),
    "a page that is XML": (200, b"<html><body><h1>Sign in</h1></body></html>"),
    "nothing": (200, b""),
    "JSON": (200, b'{"Reservations": []}'),
    "another operation's answer": (200, b"<DescribeVpcsResponse><vpcSet/></DescribeVpcsResponse>"),
    "half an answer": (200, b"<DescribeInstancesResponse><reservationSet><item>"),
    "bytes": (200, bytes(range(256))),
    **{
        f"{status} that says nothing": (status, b"<Error></Error>")
        for status in (200, 301, 400, 403, 503)
    },
}


@pytest.mark.parametrize("operation", ROWS)
def test_a_page_instead_of_an_answer_is_a_failed_call(
    scene: Scene, simple: str, operation: str
) -> None:
    wrong = []
    for name, (status, page) in PAGES.items():
        scene.page_instead(operation, status, page)
        for event in (running_event(simple), scheduled_event()):
            error = deliver(event).error
            if missing(error, "failed", operation):
                wrong.append(f"{name}: {error}")
    assert (wrong, len(scene.sessions())) == ([], 1)


@pytest.mark.parametrize(("status", "page"), PAGES.values(), ids=PAGES.keys())
def test_a_page_instead_of_the_answer_to_a_create_is_a_lost_answer(
    scene: Scene, simple: str, status: int, page: bytes
) -> None:
    scene.page_instead(CREATE, status, page)
    assert missing(error_of(running_event(simple)), "1 failed", CREATE) == []
    assert scene.run(simple).outcomes == ["exists"]  # AWS carried it out all the same


def test_a_page_instead_of_the_answer_of_sts_keeps_nobody_from_a_sensor_of_ours(
    scene: Scene, shared_client: None, clock: Clock
) -> None:
    owner = scene.other()
    theirs = owner.sensor()
    owner.share(theirs)
    scene.configure([theirs, scene.sensor(quota=100)], SENSOR_ROLE_ARNS=owner.role("reader"))
    for status, page in PAGES.values():
        scene.page_instead("AssumeRole", status, page)
        assert scene.run(scene.instance()).stages == ["unavailable", "(selected)"]


# --------------------------------------------------------------------------------------
# Before a call is sent
# --------------------------------------------------------------------------------------

# Variables of botocore, and values that make no sense.
URLS = ("nonsense", "http://", "http://[", "\u00e9", "ftp://127.0.0.1/", "http://127.0.0.1:1/")
NONSENSE = [
    *(("AWS_ENDPOINT_URL", url) for url in URLS),
    ("AWS_ENDPOINT_URL_EC2", "http://127.0.0.1:99999/"),
    *(("AWS_DEFAULT_REGION", region) for region in ("", "no region", "us-east-1/../x", "a" * 300)),
]


@pytest.mark.parametrize(("variable", "value"), NONSENSE, ids=ascii)
def test_nonsense_in_variables_of_botocore_is_a_failure(
    scene: Scene, sensor: str, clock: Clock, variable: str, value: str
) -> None:
    os.environ[variable] = value  # which ends with the scene
    for event in (running_event("i-00000000000000000"), scheduled_event()):
        with pytest.raises((MirroringError, ConfigurationError)):
            lambda_handler(event, LambdaContext())


ERRORS: list[Exception] = [
    botocore.exceptions.NoCredentialsError(),
    botocore.exceptions.ClientError({}, "AssumeRole"),
    RuntimeError("Credentials were refreshed, but they are still expired."),
    KeyError("AccessKeyId"),
    RecursionError("maximum recursion depth exceeded"),
    MemoryError(),
    StopIteration(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_whatever_botocore_raises_while_it_fetches_credentials_is_a_failed_call(
    scene: Scene, simple: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    good = botocore.credentials.Credentials.get_frozen_credentials
    calls = 0

    def fail(credentials: Any) -> Any:
        if scene.count() >= calls:
            raise error
        return good(credentials)

    monkeypatch.setattr("botocore.credentials.Credentials.get_frozen_credentials", fail)
    assert "1 failed" in error_of(running_event(simple))
    calls = 9  # go well, and the create does not
    assert "1 failed" in error_of(running_event(simple))
    assert "1 failed" in error_of(scheduled_event())
    assert len(scene.sessions()) == 1


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_whatever_botocore_raises_while_a_client_is_made_is_a_failed_call(
    scene: Scene, sensor: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("botocore.credentials.CredentialResolver.load_credentials", fail)
    assert "1 failed" in error_of(running_event("i-00000000000000000"))
