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
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import botocore.exceptions
import pytest
from aws import LambdaContext, acl_entry, route, rule, running_event, scheduled_event
from calls import CREATE
from conftest import Clock, Scene, deliver, error_of, missing

import lambda_traffic_mirror
from lambda_traffic_mirror import ConfigurationError, MirroringError, lambda_handler

Answer = dict[str, Any]
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


def rows_of(operation: str, answer: Answer) -> list[Answer]:
    """The rows of an answer; of one without rows, itself."""
    if operation not in ROWS:
        return [answer]
    rows: list[Answer] = answer[ROWS[operation].name]
    return rows


# --------------------------------------------------------------------------------------
# One member at a time
# --------------------------------------------------------------------------------------


class Change(NamedTuple):
    """What is done to a row wherever it shows: a member is another value, or gone."""

    row: str  # as it was
    path: Path
    how: str
    value: Any = None

    @property
    def of_another_type(self) -> bool:
        """botocore's parser vouches for the types."""
        return self.how == "of another type"

    def apply(self, row: Answer) -> None:
        value: Any = row
        for key in self.path[:-1]:
            value = value[key]
        if self.how == "left out":
            del value[self.path[-1]]
        else:
            value[self.path[-1]] = copy.deepcopy(self.value)


def members(value: object, path: Path = ()) -> Iterator[tuple[Path, object]]:
    """Every member of a row, however deep, with its path."""
    found = enumerate(value) if isinstance(value, list) else ()
    for key, member in value.items() if isinstance(value, dict) else found:
        yield (*path, key), member
        yield from members(member, (*path, key))


def changes(row: Answer) -> Iterator[Change]:
    """Every change of one member of a row."""
    shown = {key: value for key, value in row.items() if key != "ResponseMetadata"}
    for path, value in members(shown):
        if not isinstance(path[-1], int):
            yield Change(repr(row), path, "left out")
        if isinstance(value, str):
            yield Change(repr(row), path, "empty", "")
        if isinstance(value, str) and re.match(r"\d+\.\d+\.\d+\.\d+", value):
            for other in ("999.1.2.3", "10.0.0.0/99", "fd00::1", "no address"):
                yield Change(repr(row), path, "no address", other)
        for other in (None, "text", 7, True, [], ["text"], [None], {}, {"text": None}):
            if type(other) is not type(value):
                yield Change(repr(row), path, "of another type", other)


class TwoHalves:
    """Everything in one half of an account may be changed; the other half has nothing to do with
    it, apart from the calls. In each, an instance waits for its sensor."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        far, near = scene.vpc("10.9.0.0/16"), scene.default_vpc
        scene.route_table(near, [route("10.9.0.0/16", pcx=True)], main=True)
        owner = scene.other()
        theirs = owner.sensor(owner.subnet(vpc=owner.vpc("10.8.0.0/16")))
        owner.share(theirs)
        owner.session("eni-00000000000000000", theirs)
        listed = scene.group(rule(prefix_list=scene.prefix_list("10.0.0.0/8")))
        allowed = [acl_entry(100, "allow")]
        self.changed = [
            scene.sensor(scene.subnet(acl=allowed), [listed], quota=99),
            scene.sensor(scene.subnet(vpc=far, acl=allowed), quota=99, sessions=1),
            scene.sensor(scene.subnet(), state="stopped"),
            scene.nlb_sensor([scene.subnet()]),
            theirs,
        ]
        scene.instance(scene.subnet(), interfaces=2, tags={"x": ""})
        scene.mirrored(self.changed[0])
        # The other half: a VPC of its own, in a zone of its own.
        vpc = scene.vpc("10.7.0.0/16")
        self.sensor = scene.sensor(scene.subnet("b", vpc=vpc, acl=allowed), quota=99)
        self.instance = scene.instance(scene.subnet("b", vpc=vpc))
        self.untouched = (vpc, self.sensor, self.instance, scene.first_interface(self.instance))
        scene.configure(
            [*self.changed, self.sensor],
            SENSOR_ROLE_ARNS=owner.role("reader"),
            EXCLUDE_TAGS="mirror=no",
        )
        self.before = {session["TrafficMirrorSessionId"] for session in scene.sessions()}
        self.seen: dict[str, dict[str, Answer]] = {operation: {} for operation in OPERATIONS}
        self.change: Change | None = None
        self.operation = ""  # the one whose answers are changed
        self.runs = 0
        for operation in OPERATIONS:
            scene.show(operation, lambda found, name=operation: self._show(name, found))

    def _show(self, operation: str, answer: Answer) -> None:
        for row in rows_of(operation, answer):
            shown = repr(row)
            if self.change is None and not any(name in shown for name in self.untouched):
                self.seen[operation][shown] = copy.deepcopy(row)
            elif self.change and self.is_meant(operation, shown):
                self.change.apply(row)

    def is_meant(self, operation: str, shown: str) -> bool:
        """Whether it is the row to change; new sessions and credentials are others each time."""
        assert self.change
        is_new = operation not in ROWS and operation == self.operation
        return shown == self.change.row or (
            is_new and not any(name in shown for name in self.untouched)
        )

    def run(self, sweep: bool) -> str:
        """What went wrong, if anything did; the sessions that were made go again."""
        self.runs += 1
        ids = [row["InstanceId"] for row in self.instances()]
        event = {"id": f"event-{self.runs}", "instance-ids": ids}
        wrong = ""
        try:
            deliver(scheduled_event() if sweep else event)
        except ConfigurationError:
            pass
        except Exception as error:  # noqa: BLE001
            wrong = f"{type(error).__name__}: {error}"
        targets: dict[str, list[str]] = {}
        for session in self.scene.sessions():
            if session["TrafficMirrorSessionId"] not in self.before:
                made = targets.setdefault(session["NetworkInterfaceId"], [])
                made.append(session["TrafficMirrorTargetId"])
                self.scene.delete_session(session["TrafficMirrorSessionId"])
        if any(len(made) > 1 for made in targets.values()):
            wrong = wrong or f"two sessions for one interface: {targets}"
        self.mirrored = targets.get(self.scene.first_interface(self.instance)) == [self.sensor]
        return wrong

    def instances(self) -> list[Answer]:
        found = self.scene.ec2.describe_instances()["Reservations"]
        return [instance for reservation in found for instance in reservation["Instances"]]

    def is_about_all(self, operation: str, change: Change) -> bool:
        """Whether the call has failed: a row lacks the ID by which it is looked up."""
        if operation == "DescribeInstances":
            return len(change.path) < 3 or change.path[2:] == ("InstanceId",)
        return operation in ROWS and change.path == (ROWS[operation].key,)


# How many changes are tried of each operation, for an event and for a sweep.
TRIED = int(os.environ.get("ANSWERS", "15"))


@pytest.mark.parametrize("sweep", [False, True], ids=["event", "sweep"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_whatever_member_cannot_be_read_nothing_escapes_and_neighbours_are_unharmed(
    scene: Scene, shared_client: None, clock: Clock, operation: str, sweep: bool
) -> None:
    world = TwoHalves(scene)
    assert (world.run(sweep), world.mirrored) == ("", True)
    world.operation = operation
    by_member: dict[Path, list[Change]] = {}
    for row in world.seen[operation].values():
        for change in changes(row):
            name = tuple(key for key in change.path if isinstance(key, str))
            by_member.setdefault((*name, change.of_another_type), []).append(change)
    assert by_member
    rng = random.Random(OPERATIONS.index(operation) + 100 * sweep)
    some = [rng.choice(found) for found in by_member.values()]
    if len(some) < TRIED:
        some = [change for found in by_member.values() for change in found]
    found = []
    for world.change in rng.sample(some, min(TRIED, len(some))):
        if operation == "AssumeRole":
            for role in filter(None, list(lambda_traffic_mirror._clients)):  # it is assumed anew
                lambda_traffic_mirror._clients.pop(role)
        wrong = world.run(sweep)
        exempt = world.change.of_another_type or world.is_about_all(operation, world.change)
        if wrong or not (world.mirrored or exempt):
            found.append(f"{wrong or 'the neighbour is not mirrored'}: {world.change}")
    assert found == []


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

    def change(answer: Answer) -> None:
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


def instances_twice(answer: Answer) -> None:
    for reservation in answer["Reservations"]:
        reservation["Instances"] *= 2


def interfaces_twice(answer: Answer) -> None:
    for reservation in answer["Reservations"]:
        for instance in reservation["Instances"]:
            instance["NetworkInterfaces"] *= 2


TWICE: dict[str, tuple[str, Callable[[Answer], object]]] = {
    **{
        operation: (
            operation,
            lambda answer, rows=rows: answer.update({rows.name: answer[rows.name] * 2}),
        )
        for operation, rows in ROWS.items()
    },
    "an instance of one reservation": ("DescribeInstances", instances_twice),
    "an interface of one instance": ("DescribeInstances", interfaces_twice),
}


@pytest.mark.parametrize("sweep", [False, True], ids=["event", "sweep"])
@pytest.mark.parametrize(("operation", "change"), TWICE.values(), ids=TWICE.keys())
def test_a_row_that_comes_twice_counts_once(
    scene: Scene, simple: str, operation: str, change: Callable[[Answer], None], sweep: bool
) -> None:
    scene.show(operation, change)
    event = scheduled_event() if sweep else running_event(simple)
    rest = {"exists": 1, "skipped": 1} if sweep else {}
    assert scene.run(event | {"dry_run": True}).summary == {"planned": 1, **rest}
    assert scene.run(event).summary == {"created": 1, **rest}
    assert scene.count(CREATE) == 1


# Tokens of the next page, each by the number of the page, and whether the reading fails.
TOKENS: dict[str, tuple[Callable[[int], object], bool]] = {
    "an empty one is the end": (lambda page: "", False),
    "none is the end": (lambda page: None, False),
    "three pages with the same rows": (lambda page: f"page-{page}" if page < 3 else None, False),
    "one that repeats": (lambda page: "the-same", True),
}


@pytest.mark.parametrize("operation", ROWS)
@pytest.mark.parametrize(("token", "fails"), TOKENS.values(), ids=TOKENS.keys())
def test_the_token_of_the_next_page(
    scene: Scene, simple: str, operation: str, token: Callable[[int], object], fails: bool
) -> None:
    pages: list[Answer] = []

    def change(answer: Answer) -> None:
        if "the-rest" in pages:
            return
        pages.append(answer)
        assert len(pages) < 60, "It is read without end."
        answer["NextToken"] = token(len(pages))
        if answer["NextToken"] is None:
            del answer["NextToken"]

    # The account knows no such token: whatever is asked for, it shows the first page.
    scene.gates.append(lambda call, values: call == operation and values.pop("NextToken", None))
    scene.show(operation, change)
    if fails:
        assert missing(error_of(running_event(simple)), "1 failed", operation) == []
        assert len(pages) <= 10
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
NONSENSE: list[tuple[str, str]] = [
    *(("AWS_ENDPOINT_URL", url) for url in ("nonsense", "http://", "http://[", "\u00e9")),
    *(("AWS_ENDPOINT_URL", f"{url}/") for url in ("ftp://127.0.0.1", "http://127.0.0.1:99999")),
    ("AWS_ENDPOINT_URL", "http://127.0.0.1:1/"),
    ("AWS_ENDPOINT_URL_EC2", "not a url"),
    *(("AWS_DEFAULT_REGION", region) for region in ("", "no region", "us-east-1/../x", "a" * 300)),
]


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """No account is simulated; the network ends at this machine."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1/",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": "*",
        "filter_id": "tmf-1",
        "targets": "tmt-1",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(("variable", "value"), NONSENSE, ids=ascii)
def test_nonsense_in_variables_of_botocore_is_a_failure(
    outside: None, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    for event in (running_event("i-00000000000000000"), scheduled_event()):
        with pytest.raises((MirroringError, ConfigurationError)):
            lambda_handler(event, LambdaContext())


ERRORS: list[Exception] = [
    botocore.exceptions.NoCredentialsError(),
    botocore.exceptions.ClientError({"Error": {"Code": "AccessDenied"}}, "AssumeRole"),
    botocore.exceptions.ClientError({}, "AssumeRole"),
    RuntimeError("Credentials were refreshed, but they are still expired."),
    KeyError("AccessKeyId"),
    OSError(13, "Permission denied"),
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
    outside: None, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("botocore.credentials.CredentialResolver.load_credentials", fail)
    assert "1 failed" in error_of(running_event("i-00000000000000000"))
