"""AWS's answers may be anything: one that cannot be read harms those who need it, and nobody else.

The answers of a real run are taken and changed, one field at a time: left out, null, of another
type, no address. What comes out is a result or an error of the contract, never another one;
interfaces that have nothing to do with the field come to their usual outcome; and nothing is
created that the true answers would not allow. Hundreds of changes are tried always; before a
release, ANSWERS=300 tries so many of each operation.
"""

from __future__ import annotations

import copy
import itertools
import logging
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import botocore.endpoint
import botocore.exceptions
import pytest
from aws import LambdaContext, acl_entry, route, rule, running_event, scheduled_event
from calls import CREATE
from conftest import Scene, Sleeps, deliver, error_of, missing

from lambda_traffic_mirror import ConfigurationError, MirroringError, lambda_handler

Answer = dict[str, Any]
Path = tuple[Any, ...]

# Where the rows of an answer stand, and what names a row.
ROWS = {
    "DescribeInstances": ("Reservations", "InstanceId"),
    "DescribeTrafficMirrorTargets": ("TrafficMirrorTargets", "TrafficMirrorTargetId"),
    "DescribeTrafficMirrorSessions": ("TrafficMirrorSessions", "TrafficMirrorSessionId"),
    "DescribeNetworkInterfaces": ("NetworkInterfaces", "NetworkInterfaceId"),
    "DescribeSecurityGroups": ("SecurityGroups", "GroupId"),
    "DescribeNetworkAcls": ("NetworkAcls", "NetworkAclId"),
    "GetManagedPrefixListEntries": ("Entries", "Cidr"),
    "DescribeRouteTables": ("RouteTables", "RouteTableId"),
}


OPERATIONS = [*ROWS, CREATE]


def named_rows(operation: str, answer: Answer) -> list[tuple[str, Answer]]:
    """The rows of an answer, each with its name."""
    items, name = ROWS[operation]
    rows = answer[items]
    first = operation == "DescribeInstances"  # a reservation is named after its first instance
    return [((row["Instances"][0] if first else row)[name], row) for row in rows]


# --------------------------------------------------------------------------------------
# AWS says something else
# --------------------------------------------------------------------------------------


@pytest.fixture
def change_answers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Answers, as botocore has read them, go through `change(operation, answer, request)`, which
    changes them or says what to answer instead."""
    make_request = botocore.endpoint.Endpoint.make_request

    def change_answers(change: Callable[[str, Answer, str], Answer | None]) -> None:
        def changed(endpoint: Any, operation_model: Any, request: Any) -> Any:
            response, answer = make_request(endpoint, operation_model, request)
            if response.status_code == 200:
                answer = change(operation_model.name, answer, str(request["body"])) or answer
            return response, answer

        monkeypatch.setattr(botocore.endpoint.Endpoint, "make_request", changed)

    return change_answers


# --------------------------------------------------------------------------------------
# One field at a time
# --------------------------------------------------------------------------------------


class Change(NamedTuple):
    """What is done to every answer of an operation, or to every row of that name in them."""

    operation: str
    row: object  # None: the answer itself
    path: Path
    how: str
    value: Any = None

    def apply(self, operation: str, answer: Answer) -> None:
        if operation != self.operation:
            return
        if self.row is None:
            self.put(answer)
            return
        for name, row in named_rows(operation, answer):
            if name == self.row:
                self.put(row)

    def put(self, value: Any) -> None:
        for key in self.path[:-1]:
            value = value[key]
        if self.how == "left out":
            del value[self.path[-1]]
        else:
            value[self.path[-1]] = copy.deepcopy(self.value)

    def __str__(self) -> str:
        where = ".".join(map(str, self.path))
        return f"{self.operation} {self.row}: {where} {self.how} {self.value!r}"


def paths(value: object, path: Path = ()) -> Iterator[tuple[Path, object]]:
    members = enumerate(value) if isinstance(value, list) else ()
    for key, member in value.items() if isinstance(value, dict) else members:
        yield (*path, key), member
        yield from paths(member, (*path, key))


NO_ADDRESSES = ["999.1.2.3", "10.0.0.0/99", "not an address", ""]


def values_instead(value: object) -> Iterator[tuple[str, Any]]:
    yield "left out", None
    yield "null", None
    for other in ("text", 7, -1.5, True, [], ["text"], [None], {}, {"text": None}):
        if type(other) is not type(value):
            yield "of another type", other
    if isinstance(value, str):
        yield "empty", ""
    if isinstance(value, str) and re.match(r"\d+\.\d+\.\d+\.\d+", value):
        for other in NO_ADDRESSES:
            yield "no address", other


def changes(answers: Sequence[tuple[str, Answer]]) -> Iterator[Change]:
    """Every change of one field of these answers."""
    seen: set[tuple[str, object]] = set()
    for operation, answer in answers:
        itself = {key: value for key, value in answer.items() if key != "ResponseMetadata"}
        things: list[tuple[object, Answer]] = [(None, itself)]
        if operation in ROWS:
            things = [*named_rows(operation, answer), (None, itself | {ROWS[operation][0]: []})]
        for row, thing in things:
            if (operation, row) in seen:
                continue
            seen.add((operation, row))
            for path, value in paths(thing):
                for how, other in values_instead(value):
                    if how == "left out" and isinstance(path[-1], int):
                        continue  # a shorter list can be read
                    yield Change(operation, row, path, how, other)


# What AWS itself leaves out to say 'none'; the last members of a path.
LEFT_OUT_FOR_NONE = {
    *("NextToken", "Tags", "TagSet", "FromPort", "ToPort", "PortRange", "Attachment", "Operator"),
    *("Association", "PeeringStatus"),
    "NetworkInterfaceId",  # a target that is a load balancer has none
    "InstanceId",  # an attachment to no instance of ours has none
    "CidrBlock",  # an entry of IPv6 has none
    "DestinationCidrBlock",  # a route of IPv6 has none
    "PrivateIpAddress",  # an interface with IPv6 only has none
    "Value",  # of a tag
}


class Temptations:
    """Two zones with sensors, one without, and everything that tempts to a wrong create."""

    def __init__(self, account: Scene) -> None:
        self.account = account
        from_inside = rule(cidr="10.0.0.0/8")
        sources = account.group()
        denying = [acl_entry(100, "deny", "10.0.0.0/8"), acl_entry(200, "allow", protocol="-1")]
        near = account.subnet("a")
        listed, unlisted = account.prefix_list("10.0.0.0/8"), account.prefix_list("192.0.2.0/24")
        self.sensors = {
            "open": account.sensor(near, [account.group(from_inside)], sessions=1, quota=10_000),
            "listed": account.sensor(
                near, [account.group(rule(prefix_list=listed))], sessions=1, quota=10_000
            ),
            "unlisted": account.sensor(near, [account.group(rule(prefix_list=unlisted))]),
            "closed": account.sensor(
                near, [account.group(rule("tcp", (4789, 4789)), rule(cidr="192.0.2.0/24"))]
            ),
            "other ports": account.sensor(near, [account.group(rule(ports=(1, 4788)))]),
            "denied": account.sensor(
                account.subnet("a", acl=denying), [account.group(from_inside)]
            ),
            "stopped": account.sensor(near, [account.group(from_inside)], state="stopped"),
            "far": account.sensor(
                account.subnet("b"), [account.group(rule(group=sources))], quota=10_000
            ),
            "peer": self.elsewhere("10.9.0.0/16", sessions=1),
            "behind a black hole": self.elsewhere("10.8.0.0/16"),
            "behind a gateway": self.elsewhere("10.7.0.0/16"),
        }
        routes = [
            route("10.9.0.0/16", pcx=True),
            route("10.8.0.0/16", pcx=True, state="blackhole"),
            route("10.0.0.0/8", igw=True),
        ]
        account.route_table(routes=routes, main=True)
        of_us = {"groups": [sources]}
        elsewhere = {zone: account.subnet(zone) for zone in "abc"}
        a, b, c = elsewhere.values()
        self.instances = {
            "one": account.instance(a, **of_us),
            "two": account.instance(a, **of_us, interfaces=2),
            "mirrored": account.instance(a, **of_us),
            "mirrored to another": account.instance(a, **of_us),
            "excluded": account.instance(a, **of_us, tags={"mirror": "no"}),
            "stopped": account.instance(a, **of_us, state="stopped"),
            "of a type": account.instance(a, **of_us, interface_type="trunk"),
            "without address": account.instance(a, **of_us, ipv6_only=True),
            "in zone b": account.instance(b, **of_us),
            "in zone c": account.instance(c, **of_us),
            "a sensor": account.sensor_instance(self.sensors["open"]),
        }
        account.session(self.faces("mirrored")[0], self.sensors["open"])
        account.session(self.faces("mirrored to another")[0], "tmt-00000000000000000")
        account.configure(list(self.sensors.values()), EXCLUDE_TAGS="mirror=no")
        self.before = {session["TrafficMirrorSessionId"] for session in account.sessions()}
        here = {self.sensors[name] for name in ("open", "listed", "peer")}
        self.allowed = {face: here for name in ("one", "two") for face in self.faces(name)}
        self.allowed[self.faces("in zone b")[0]] = {self.sensors["far"]}

    def elsewhere(self, block: str, **options: Any) -> str:
        """A sensor of zone a in another VPC."""
        vpc = self.account.vpc(block)
        group = self.account.group(rule(cidr="10.0.0.0/8"), vpc=vpc)
        return self.account.sensor(
            self.account.subnet("a", vpc=vpc), [group], quota=10_000, **options
        )

    def faces(self, name: str) -> list[str]:
        return self.account.interfaces_of(self.instances[name])

    def event(self) -> Answer:
        return {"id": "an-event", "instance-ids": list(self.instances.values())}

    def created(self) -> list[tuple[str, str]]:
        """The sessions made since the start, which go again."""
        made = [
            s for s in self.account.sessions() if s["TrafficMirrorSessionId"] not in self.before
        ]
        for session in made:
            self.account.delete_session(session["TrafficMirrorSessionId"])
        self.account._idempotency.clear()
        return [(s["NetworkInterfaceId"], s["TrafficMirrorTargetId"]) for s in made]

    # --- who needs what

    def judged(self, sweep: bool) -> set[str]:
        """The interfaces for which sensors are judged; in a sweep those with a session to one."""
        names = ["one", "two", "in zone b", "in zone c"] + ["mirrored"] * sweep
        return {face for name in names for face in self.faces(name)}

    def in_zone_a(self, sweep: bool) -> set[str]:
        names = ["one", "two"] + ["mirrored"] * sweep
        return {face for name in names for face in self.faces(name)}

    def every(self) -> set[str]:
        """Those of the sensors too."""
        return set(self.account._backend.enis)

    def groups_of(self, sensor: str) -> list[str]:
        interface = self.account.sensor_interface(self.sensors[sensor])
        return [group.id for group in self.account._backend.enis[interface]._group_set]

    def concerned(self, change: Change, sweep: bool) -> set[str]:
        """The interfaces that may come to another outcome."""
        operation, row, path = change.operation, change.row, change.path
        if row is None:
            return self.judged(sweep) if operation == CREATE else self.every()
        match operation:
            case "DescribeInstances":
                if len(path) <= 2 or path[2:] == ("InstanceId",):
                    return self.every()  # it lacks the ID by which it is looked up
                own = {
                    face.id
                    for face in self.account._backend.enis.values()
                    if face.instance is not None and face.instance.id == row
                }
                host = any(self.account.sensor_instance(t) == row for t in self.sensors.values())
                return own | (self.judged(sweep) if host else set())
            case "DescribeTrafficMirrorSessions" if path != ("NetworkInterfaceId",):
                sessions = self.account.sessions()
                (session,) = [s for s in sessions if s["TrafficMirrorSessionId"] == row]
                return {session["NetworkInterfaceId"]}
            case "DescribeNetworkInterfaces" if path[0] not in ("Attachment", "NetworkInterfaceId"):
                return self.judged(sweep)
            case "DescribeSecurityGroups" if path != ("GroupId",):
                if row in self.groups_of("far"):
                    return set(self.faces("in zone b"))
                return self.in_zone_a(sweep)
            case "DescribeNetworkAcls" | "DescribeSecurityGroups":
                return self.judged(sweep)
            case "GetManagedPrefixListEntries" | "DescribeRouteTables":
                return self.in_zone_a(sweep)
        return self.every()


@pytest.fixture
def world(scene: Scene, shared_client: None, no_sleep: Sleeps) -> Temptations:
    return Temptations(scene)


Outcomes = dict[str, str]


def invoke(event: Answer, caplog: pytest.LogCaptureFixture) -> tuple[Outcomes, str]:
    """What becomes of each interface, as the log says; and what escaped, if anything did."""
    caplog.clear()
    escaped = ""
    try:
        delivery = deliver(event)
        if delivery.result and delivery.answer.status not in (200, 400):
            escaped = f"status {delivery.answer.status}"
    except ConfigurationError:
        pass
    except Exception as error:  # noqa: BLE001
        escaped = f"{type(error).__name__}: {error}"
    outcomes = {
        record.interface_id: record.outcome
        for record in caplog.records
        if getattr(record, "interface_id", None)
    }
    return outcomes, escaped


def usual(
    world: Temptations,
    event: Answer,
    caplog: pytest.LogCaptureFixture,
    change_answers: Callable[..., None],
) -> tuple[Outcomes, list[tuple[str, Answer]]]:
    """The outcomes of an undisturbed run, and the answers that led to them."""
    answers: list[tuple[str, Answer]] = []

    def keep(operation: str, answer: Answer, _: str) -> None:
        answers.append((operation, copy.deepcopy(answer)))

    change_answers(keep)
    outcomes, escaped = invoke(event, caplog)
    assert escaped == ""
    made = world.created()
    assert {face: outcome for face, outcome in outcomes.items() if outcome == "created"} == (
        dict.fromkeys(world.allowed, "created")
    )
    assert all(target in world.allowed[face] for face, target in made)
    return outcomes, answers


# How many are tried of each operation, for an event and for a sweep. With 300 it is some 4,000.
TRIED = int(os.environ.get("ANSWERS", "12"))


def chosen(everything: Sequence[Change], seed: int) -> list[Change]:
    """Some changes: of each field, by its name, about equally many."""
    rng = random.Random(seed)
    by_field: dict[object, list[Change]] = {}
    for change in everything:
        name = tuple(key for key in change.path if isinstance(key, str))
        by_field.setdefault(name, []).append(change)
    for some in by_field.values():
        rng.shuffle(some)
    turns = itertools.zip_longest(*by_field.values())
    ordered = [change for turn in turns for change in turn if change is not None]
    return ordered[:TRIED]


@pytest.mark.parametrize("kind", ["event", "sweep"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_whatever_field_cannot_be_read(
    world: Temptations,
    caplog: pytest.LogCaptureFixture,
    change_answers: Callable[..., None],
    operation: str,
    kind: str,
) -> None:
    caplog.set_level(logging.DEBUG, "lambda_traffic_mirror")
    event = world.event() if kind == "event" else scheduled_event()
    expected, answers = usual(world, event, caplog, change_answers)
    everything = [change for change in changes(answers) if change.operation == operation]
    assert everything
    wrong: list[str] = []
    for change in chosen(everything, seed=OPERATIONS.index(operation)):

        def apply(name: str, answer: Answer, _: str, change: Change = change) -> None:
            change.apply(name, answer)

        change_answers(apply)
        outcomes, escaped = invoke(event, caplog)
        made = world.created()
        if escaped:
            wrong.append(f"{change}: {escaped}")
            continue
        concerned = world.concerned(change, sweep=kind == "sweep")
        wrong += [
            f"{change}: {face} is {outcomes.get(face)}, not {outcome}"
            for face, outcome in expected.items()
            if face not in concerned and outcomes.get(face) != outcome
        ]
        said_none = change.how in ("left out", "empty")
        if not (said_none and change.path[-1] in LEFT_OUT_FOR_NONE):
            wrong += [
                f"{change}: {face} is mirrored to {target}"
                for face, target in made
                if target not in world.allowed.get(face, ())
            ]
        wrong += [
            f"{change}: {face} has {number} sessions"
            for face, number in Counter(face for face, _ in made).items()
            if number > 1
        ]
    assert wrong == []


EMPTY = [
    ("DescribeTrafficMirrorSessions", "NetworkInterfaceId"),
    ("DescribeTrafficMirrorTargets", "TrafficMirrorTargetId"),
    ("DescribeNetworkInterfaces", "AvailabilityZone"),
    ("DescribeSecurityGroups", "GroupId"),
    ("DescribeNetworkAcls", "NetworkAclId"),
]


@pytest.mark.parametrize(("operation", "name"), EMPTY)
def test_an_empty_text_is_as_good_as_none(
    scene: Scene, sensor: str, quick: Sleeps, operation: str, name: str
) -> None:
    scene.session("eni-00000000000000000", sensor)
    rows = ROWS[operation][0]
    scene.show(operation, lambda found: [row.update({name: ""}) for row in found[rows]])
    assert f"{name} is ''" in error_of(running_event(scene.instance()))


# --------------------------------------------------------------------------------------
# ... and of another account
# --------------------------------------------------------------------------------------


class Abroad:
    """In zone a there is a sensor of ours and a better one of another account, in zone b only one
    of that account; and one there lets nobody in."""

    def __init__(self, account: Scene) -> None:
        self.account: Scene = account
        self.other = account.other()
        vpc = self.other.vpc("10.9.0.0/16")
        let_in = self.other.group(rule(cidr="10.0.0.0/8"), vpc=vpc)
        self.ours = account.sensor(account.subnet("a"), sessions=5, quota=10_000)
        self.theirs = {
            zone: self.other.sensor(self.other.subnet(zone, vpc=vpc), [let_in], quota=10_000)
            for zone in "ab"
        }
        self.closed = self.other.sensor(
            self.other.subnet("a", vpc=vpc), [self.other.group(vpc=vpc)]
        )
        targets = [*self.theirs.values(), self.closed]
        for target in targets:
            self.other.share(target)
            self.other.session("eni-00000000000000000", target)
        account.configure(
            [self.ours, *targets],
            SENSOR_ROLE_ARNS=self.other.role("reader"),
            LOCAL_ZONE_ONLY="true",
        )
        account.route_table(routes=[route("10.9.0.0/16", pcx=True)], main=True)
        self.here, self.there = account.instance(zone="a"), account.instance(zone="b")

    def event(self) -> Answer:
        return {"id": "an-event", "instance-ids": [self.here, self.there]}

    def is_theirs(self, operation: str, answer: Answer) -> bool:
        return operation != "DescribeTrafficMirrorTargets" and self.other.account_id in repr(answer)

    def created(self) -> dict[str, str]:
        """The targets of sessions made for our two interfaces, which go again."""
        made = {
            instance: session
            for instance in (self.here, self.there)
            for face in self.account.interfaces_of(instance)
            for session in self.account.sessions(interface_id=face)
        }
        for session in made.values():
            self.account.delete_session(session["TrafficMirrorSessionId"])
        self.account._idempotency.clear()
        return {instance: s["TrafficMirrorTargetId"] for instance, s in made.items()}


@pytest.fixture
def abroad(scene: Scene, shared_client: None, no_sleep: Sleeps) -> Abroad:
    return Abroad(scene)


THEIR_OPERATIONS = [
    "DescribeInstances",
    "DescribeTrafficMirrorSessions",
    "DescribeNetworkInterfaces",
    "DescribeSecurityGroups",
    "DescribeNetworkAcls",
]


@pytest.mark.parametrize("operation", THEIR_OPERATIONS)
def test_what_cannot_be_read_in_another_account_keeps_nobody_from_a_sensor_of_ours(
    abroad: Abroad,
    caplog: pytest.LogCaptureFixture,
    change_answers: Callable[..., None],
    operation: str,
) -> None:
    caplog.set_level(logging.DEBUG, "lambda_traffic_mirror")
    answers: list[tuple[str, Answer]] = []

    def keep(name: str, answer: Answer, _: str) -> None:
        if name == operation and abroad.is_theirs(name, answer):
            answers.append((name, copy.deepcopy(answer)))

    change_answers(keep)
    invoke(abroad.event(), caplog)
    undisturbed = {abroad.here: abroad.theirs["a"], abroad.there: abroad.theirs["b"]}
    assert abroad.created() == undisturbed
    everything = list(changes(answers))
    assert everything
    wrong: list[str] = []
    for change in chosen(everything, seed=3):

        def apply(name: str, answer: Answer, _: str, change: Change = change) -> None:
            if abroad.is_theirs(name, answer):
                change.apply(name, answer)

        change_answers(apply)
        _, escaped = invoke(abroad.event(), caplog)
        made = abroad.created()
        if escaped:
            wrong.append(f"{change}: {escaped}")
        elif made.get(abroad.here) not in (abroad.ours, abroad.theirs["a"]):
            wrong.append(f"{change}: the one here is mirrored to {made.get(abroad.here)}")
        elif made.get(abroad.there) not in (None, abroad.theirs["b"]):
            wrong.append(f"{change}: the one there is mirrored to {made[abroad.there]}")
    assert wrong == []


PAGES: dict[str, bytes] = {
    "a page": b"<html><head><title>Sign in</title></head><body><br>Hello.</body></html>",
    "a page that is XML": b"<html><body><h1>Sign in</h1></body></html>",
    "nothing": b"",
    "text": b"OK",
    "JSON": b'{"Reservations": []}',
    "an error without anything": b"<Error></Error>",
    "an empty answer": b"<DescribeInstancesResponse/>",
    "another operation's answer": b"<DescribeVpcsResponse><vpcSet/></DescribeVpcsResponse>",
    "half an answer": b"<DescribeInstancesResponse><reservationSet><item>",
    "bytes": bytes(range(256)),
}
ANY_PAGE = [PAGES["a page"], PAGES["nothing"]]
STS = "AssumeRole"
CREDENTIALS = ["AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration"]
STS_ANSWERS: dict[str, Callable[[Answer], Any]] = {
    "without credentials": lambda answer: answer.pop("Credentials"),
    "credentials that are null": lambda answer: answer.update(Credentials=None),
    "credentials that are text": lambda answer: answer.update(Credentials="text"),
    "empty credentials": lambda answer: answer.update(Credentials={}),
    "an end that is no date": lambda answer: answer["Credentials"].update(Expiration="tomorrow"),
    **{
        f"without {name}": lambda answer, name=name: answer["Credentials"].pop(name)
        for name in CREDENTIALS
    },
    **{
        f"{name} that is {value!r}": lambda a, row={name: value}: a["Credentials"].update(row)
        for name in CREDENTIALS
        for value in (None, 7, [], {})
    },
}


@pytest.mark.parametrize("change", STS_ANSWERS.values(), ids=STS_ANSWERS.keys())
def test_credentials_of_a_role_that_cannot_be_read_keep_nobody_from_a_sensor_of_ours(
    abroad: Abroad, caplog: pytest.LogCaptureFixture, change: Callable[[Answer], Any]
) -> None:
    abroad.account.show(STS, change)
    _, escaped = invoke(abroad.event(), caplog)
    made = abroad.created()
    assert (escaped, made.get(abroad.here) in (abroad.ours, abroad.theirs["a"])) == ("", True)
    assert made.get(abroad.there) in (None, abroad.theirs["b"])


@pytest.mark.parametrize(
    ("status", "pages"), [(200, PAGES.values()), (403, ANY_PAGE), (429, ANY_PAGE), (503, ANY_PAGE)]
)
def test_nor_do_pages_that_are_none_of_sts(
    abroad: Abroad, caplog: pytest.LogCaptureFixture, status: int, pages: Iterable[bytes]
) -> None:
    for page in pages:
        abroad.account.page_instead(STS, status, page)
        _, escaped = invoke(abroad.event(), caplog)
        assert (escaped, abroad.created()) == ("", {abroad.here: abroad.ours})


# --------------------------------------------------------------------------------------
# Pages that are none of EC2's
# --------------------------------------------------------------------------------------


@pytest.fixture
def simple(scene: Scene, shared_client: None, no_sleep: Sleeps) -> str:
    """An instance whose mirroring takes every call there is."""
    vpc = scene.vpc("10.9.0.0/16")
    group = scene.group(rule(prefix_list=scene.prefix_list("10.0.0.0/8")), vpc=vpc)
    scene.configure(scene.sensor(scene.subnet(vpc=vpc), [group], quota=100))
    scene.route_table(routes=[route("10.9.0.0/16", pcx=True)], main=True)
    return scene.instance()


NO_ANSWERS = {f"200 with {name}": (200, page) for name, page in PAGES.items()} | {
    f"{status} that says nothing": (status, b"<Error></Error>")
    for status in (301, 307, 400, 403, 404, 500, 503)
}


@pytest.mark.parametrize(("status", "page"), NO_ANSWERS.values(), ids=NO_ANSWERS.keys())
@pytest.mark.parametrize("operation", ROWS)
def test_a_page_instead_of_an_answer_is_a_failed_call(
    scene: Scene, simple: str, operation: str, status: int, page: bytes
) -> None:
    scene.page_instead(operation, status, page)
    error = error_of(running_event(simple))
    assert (missing(error, "1 failed", operation), scene.sessions()) == ([], [])


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES.keys())
def test_a_page_instead_of_the_answer_to_a_create_is_a_lost_answer(
    scene: Scene, simple: str, page: bytes
) -> None:
    scene.page_instead(CREATE, 200, page)
    entry = scene.run(simple).entry
    (session,) = scene.sessions()
    assert (entry["outcome"], entry["session_id"]) == ("created", session["TrafficMirrorSessionId"])


@pytest.mark.parametrize("operation", ["DescribeInstances", "DescribeTrafficMirrorSessions"])
def test_a_sweep_that_cannot_read_a_page_raises(scene: Scene, simple: str, operation: str) -> None:
    scene.page_instead(operation, 200, PAGES["a page that is XML"])
    assert (operation in error_of(scheduled_event()), scene.sessions()) == (True, [])


# --------------------------------------------------------------------------------------
# Rows
# --------------------------------------------------------------------------------------


def add_rows(scene: Scene, operation: str, *rows: Any) -> None:
    """Each answer has these rows besides."""
    name = ROWS[operation][0]
    scene.show(operation, lambda answer: answer[name].extend(copy.deepcopy(rows)))


SESSION: Answer = {
    "TrafficMirrorSessionId": "tms-00000000000000000",
    "TrafficMirrorTargetId": "tmt-00000000000000000",
    "TrafficMirrorFilterId": "tmf-00000000000000000",
    "NetworkInterfaceId": "eni-00000000000000000",
    "SessionNumber": 1,
}


def without(row: Answer, name: str) -> Answer:
    return {key: value for key, value in row.items() if key != name}


@pytest.mark.parametrize("name", sorted(set(SESSION) - {"NetworkInterfaceId"}))
def test_what_an_unrelated_session_lacks_harms_nobody(scene: Scene, simple: str, name: str) -> None:
    add_rows(scene, "DescribeTrafficMirrorSessions", without(SESSION, name))
    assert scene.run(simple).outcomes == ["created"]


def test_an_unrelated_session_without_its_interface_might_be_anybodys(
    scene: Scene, simple: str
) -> None:
    add_rows(scene, "DescribeTrafficMirrorSessions", without(SESSION, "NetworkInterfaceId"))
    error = error_of(running_event(simple))
    assert ("DescribeTrafficMirrorSessions" in error, scene.sessions()) == (True, [])


def target_nowhere(answer: Answer) -> None:
    for row in answer["TrafficMirrorTargets"]:
        row.pop("NetworkInterfaceId")


def action_of_entries(answer: Answer) -> None:
    for row in answer["NetworkAcls"]:
        for entry in row["Entries"]:
            entry["RuleAction"] = "count"


def address_of(row: Answer, address: str = "10.0.5.300") -> None:
    row["PrivateIpAddress"] = address
    for private in row["PrivateIpAddresses"]:
        private["PrivateIpAddress"] = address


def addresses_of_sources(answer: Answer) -> None:
    for reservation in answer["Reservations"]:
        for instance in reservation["Instances"]:
            for row in instance["NetworkInterfaces"]:
                address_of(row, "fd00::1")


def addresses_of_sensors(answer: Answer) -> None:
    for row in answer["NetworkInterfaces"]:
        address_of(row)


# What is of the right type, and yet says nothing; what the error names.
SAYS_NOTHING: dict[str, tuple[str, Callable[[Answer], None], str]] = {
    "a target of ours that is nowhere": (
        "DescribeTrafficMirrorTargets",
        target_nowhere,
        "does not say where it receives",
    ),
    "an entry that does neither": ("DescribeNetworkAcls", action_of_entries, "'count'"),
    "no address of IPv4": ("DescribeInstances", addresses_of_sources, "'fd00::1'"),
    "no address at all": ("DescribeNetworkInterfaces", addresses_of_sensors, "'10.0.5.300'"),
}


@pytest.mark.parametrize(
    ("operation", "spoil", "named"), SAYS_NOTHING.values(), ids=SAYS_NOTHING.keys()
)
def test_what_is_of_the_right_type_may_say_nothing(
    scene: Scene, simple: str, operation: str, spoil: Callable[[Answer], None], named: str
) -> None:
    scene.show(operation, spoil)
    error = error_of(running_event(simple))
    assert (missing(error, "1 failed", named), scene.sessions()) == ([], [])


@pytest.mark.parametrize("row", [None, "text", 7, [], {}], ids=ascii)
@pytest.mark.parametrize("operation", ROWS)
def test_a_row_that_is_none_is_an_answer_that_cannot_be_read(
    scene: Scene, simple: str, operation: str, row: Any
) -> None:
    """An empty one lacks the ID by which it is looked up."""
    add_rows(scene, operation, row)
    error = error_of(running_event(simple))
    assert (operation in error, scene.sessions()) == (True, [])


def test_an_instance_that_nobody_asked_for_is_not_mirrored(scene: Scene, simple: str) -> None:
    other = scene.instance()
    views = scene.ec2.describe_instances(InstanceIds=[other])["Reservations"]
    add_rows(scene, "DescribeInstances", *views)
    answer = scene.run(simple)
    assert [entry["instance_id"] for entry in answer.interfaces] == [simple]
    assert scene.sessions_of(other) == [0]


@pytest.mark.parametrize("operation", sorted(set(ROWS) - {"GetManagedPrefixListEntries"}))
def test_other_rows_that_nobody_asked_for_change_nothing(
    scene: Scene, simple: str, operation: str
) -> None:
    """They are what the operation shows of another sensor and its instance."""
    other = scene.sensor(scene.subnet(), [scene.group(rule())], sessions=3)
    ec2, view = scene.ec2, scene.interface_view(scene.sensor_interface(other))
    acl = {"NetworkAclId": "acl-00000000000000000", "VpcId": "vpc-00000000000000000"}
    shown: dict[str, Callable[[], Any]] = {
        "DescribeInstances": lambda: ec2.describe_instances(
            InstanceIds=[scene.sensor_instance(other)]
        ),
        "DescribeTrafficMirrorTargets": lambda: ec2.describe_traffic_mirror_targets(
            TrafficMirrorTargetIds=[other]
        ),
        "DescribeTrafficMirrorSessions": lambda: ec2.describe_traffic_mirror_sessions(
            Filters=[{"Name": "traffic-mirror-target-id", "Values": [other]}]
        ),
        "DescribeNetworkInterfaces": lambda: {"NetworkInterfaces": [view]},
        "DescribeSecurityGroups": lambda: ec2.describe_security_groups(
            GroupIds=[group["GroupId"] for group in view["Groups"]]
        ),
        "DescribeRouteTables": ec2.describe_route_tables,
        "DescribeNetworkAcls": lambda: {"NetworkAcls": [acl | {"Entries": [], "Associations": []}]},
    }
    rows = named_rows(operation, shown[operation]())
    seen = len(scene.sessions())
    assert rows

    def change(answer: Answer) -> None:
        there = {name for name, _ in named_rows(operation, answer)}
        answer[ROWS[operation][0]] += [copy.deepcopy(row) for key, row in rows if key not in there]

    scene.show(operation, change)
    assert scene.run(simple).outcomes == ["created"]
    assert len(scene.sessions()) == seen + 1


@pytest.mark.parametrize("operation", sorted(set(ROWS) - {"DescribeRouteTables"}))
def test_an_answer_without_the_rows_that_were_asked_for_gets_a_result(
    scene: Scene, simple: str, operation: str
) -> None:
    scene.show(operation, lambda answer: answer[ROWS[operation][0]].clear())
    outcomes = {"DescribeInstances": "skipped", "DescribeTrafficMirrorSessions": "created"}
    assert scene.run(simple).outcomes == [outcomes.get(operation, "unmirrored")]


# --- Rows that come twice


def double_rows(operation: str) -> Callable[[Answer], None]:
    return lambda answer: answer.update({ROWS[operation][0]: answer[ROWS[operation][0]] * 2})


def double_instances(answer: Answer) -> None:
    for reservation in answer["Reservations"]:
        reservation["Instances"] *= 2


def double_interfaces(answer: Answer) -> None:
    for reservation in answer["Reservations"]:
        for instance in reservation["Instances"]:
            instance["NetworkInterfaces"] *= 2


DOUBLES: dict[str, tuple[str, Callable[[Answer], None]]] = {
    **{operation: (operation, double_rows(operation)) for operation in ROWS},
    "an instance of one reservation": ("DescribeInstances", double_instances),
    "an interface of one instance": ("DescribeInstances", double_interfaces),
}
# What is asked for, and the summary that says that nothing counted twice.
ONCE: dict[str, tuple[Callable[[str], Answer], dict[str, int]]] = {
    "event": (running_event, {"created": 1}),
    "sweep": (lambda instance: scheduled_event(), {"created": 1, "skipped": 1}),
}
once = pytest.mark.parametrize(("event", "summary"), ONCE.values(), ids=ONCE.keys())


@once
@pytest.mark.parametrize(("operation", "double"), DOUBLES.values(), ids=DOUBLES.keys())
def test_what_comes_twice_counts_once(
    scene: Scene,
    simple: str,
    operation: str,
    double: Callable[[Answer], None],
    event: Callable[[str], Answer],
    summary: dict[str, int],
) -> None:
    scene.show(operation, double)
    planned = scene.run(event(simple) | {"dry_run": True}).summary["planned"]
    found = scene.run(event(simple)).summary
    assert (planned, found, scene.count(CREATE)) == (1, summary, 1)


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Answers an operation with these pages, each a function of the whole answer; with tokens of
    ours. What is asked for is written down."""
    make_request = botocore.endpoint.Endpoint.make_request

    def pages(
        operation: str,
        tokens: Callable[[int], object],
        page: Callable[[list[Any], int], list[Any]] = lambda rows, number: rows,
    ) -> list[str]:
        asked: list[str] = []
        whole: dict[str, Any] = {}

        def paged(endpoint: Any, operation_model: Any, request: Any) -> Any:
            if operation_model.name != operation:
                return make_request(endpoint, operation_model, request)
            body = dict(request["body"])
            token = body.pop("NextToken", None)
            asked.append(str(token))
            if len(asked) > 60:
                raise AssertionError("It is read without end.")
            key = str(sorted(body.items()))
            if token is None:
                whole[key] = make_request(endpoint, operation_model, request)
            response, answer = whole[key]
            number = 0 if token is None else int(re.sub(r"\D", "", str(token)) or 0)
            items = ROWS[operation][0]
            answer = copy.deepcopy(answer) | {"NextToken": tokens(number)}
            answer[items] = page(answer[items], number)
            if answer["NextToken"] is None:
                del answer["NextToken"]
            return response, answer

        monkeypatch.setattr(botocore.endpoint.Endpoint, "make_request", paged)
        return asked

    return pages


def three(number: int) -> object:
    return f"token-{number + 1}" if number < 2 else None


@once
@pytest.mark.parametrize("operation", ROWS)
def test_rows_that_come_on_every_page_count_once(
    scene: Scene,
    simple: str,
    pages: Callable[..., list[str]],
    operation: str,
    event: Callable[[str], Answer],
    summary: dict[str, int],
) -> None:
    asked = pages(operation, three)
    found = scene.run(event(simple)).summary
    assert (found, scene.count(CREATE), "token-2" in asked) == (summary, 1, True)


def test_a_session_on_two_pages_does_not_shift_the_choice(
    scene: Scene, shared_client: None, pages: Callable[..., list[str]]
) -> None:
    few, more = scene.sensor(sessions=3), scene.sensor(sessions=5)
    scene.configure([few, more])
    pages(
        "DescribeTrafficMirrorSessions",
        three,
        lambda rows, number: [r for r in rows if number == 0 or r["TrafficMirrorTargetId"] == few],
    )
    answer = scene.run(scene.instance())
    assert (answer.entry["target_id"], answer.sensors[few]["sessions"]) == (few, 3)


@pytest.mark.parametrize("dry_run", [True, False])
def test_an_instance_on_two_pages_of_a_sweep_is_worked_on_once(
    scene: Scene, simple: str, pages: Callable[..., list[str]], dry_run: bool
) -> None:
    scene.instances(4)
    pages("DescribeInstances", three, lambda rows, number: rows[number:])
    summary = scene.run({"sweep": True, "dry_run": dry_run}).body["summary"]
    assert summary == {"planned" if dry_run else "created": 5, "skipped": 1}


# --- Tokens

BAD_TOKENS: dict[str, Callable[[int], object]] = {
    "the same": lambda number: "token-1",
    "two in turn": lambda number: f"token-{number % 2 + 1}",
    "three in turn": lambda number: f"token-{number % 3 + 1}",
    "the first again at last": lambda number: f"token-{1 if number == 4 else number + 1}",
    "a number": lambda number: 7,
    "a list": lambda number: [],
    "an object": lambda number: {"t": 1},
}


@pytest.mark.parametrize("kind", ["event", "sweep"])
@pytest.mark.parametrize("tokens", BAD_TOKENS.values(), ids=BAD_TOKENS.keys())
@pytest.mark.parametrize("operation", ROWS)
def test_a_token_that_repeats_ends_the_reading_as_a_failure(
    scene: Scene,
    simple: str,
    pages: Callable[..., list[str]],
    operation: str,
    tokens: Callable[[int], object],
    kind: str,
) -> None:
    """So does one that is no text."""
    asked = pages(operation, tokens)
    error = error_of(running_event(simple) if kind == "event" else scheduled_event())
    assert (operation in error, len(asked) <= 20) == (True, True)
    if kind == "event":
        assert scene.sessions() == []


@pytest.mark.parametrize("token", ["", None], ids=ascii)
@pytest.mark.parametrize("operation", ROWS)
def test_an_empty_token_or_none_is_the_end(
    simple: str, scene: Scene, pages: Callable[..., list[str]], operation: str, token: object
) -> None:
    pages(operation, lambda number: token)
    assert scene.run(simple).outcomes == ["created"]


# --------------------------------------------------------------------------------------
# Before a call is sent
# --------------------------------------------------------------------------------------

ENDPOINTS = [
    *("nonsense", "not a url", "http://", "http:///", "http://[", "http://[::1", "//127.0.0.1"),
    *("ftp://127.0.0.1/", "file:///etc/passwd", "http://127.0.0.1:99999/", "\u00e9"),
    *("http://127.0.0.1:port/", "http://127.0.0.1:1/", "https://127.0.0.1:1/"),
    "http://user@:80@127.0.0.1:1/",
]


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch, no_sleep: Sleeps) -> None:
    """No account is simulated; the network ends at this machine."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": "*",
        "filter_id": "tmf-1",
        "targets": "tmt-1",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("variable", "url"),
    [*(("AWS_ENDPOINT_URL", url) for url in ENDPOINTS), ("AWS_ENDPOINT_URL_EC2", "not a url")],
    ids=ascii,
)
def test_a_nonsense_endpoint_is_a_failure(
    outside: None, monkeypatch: pytest.MonkeyPatch, variable: str, url: str
) -> None:
    monkeypatch.setenv(variable, url)
    event = scheduled_event() if url.startswith("http") else running_event("i-00000000000000000")
    with pytest.raises((MirroringError, ConfigurationError)):
        lambda_handler(event, LambdaContext())


@pytest.mark.parametrize("region", ["", "no region", "us-east-1/../x", "\u00e9", "-", "a" * 300])
def test_a_nonsense_region_is_a_failure(
    outside: None, monkeypatch: pytest.MonkeyPatch, region: str
) -> None:
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.setenv(name, region)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1/")
    with pytest.raises((MirroringError, ConfigurationError)):
        lambda_handler(running_event("i-00000000000000000"), LambdaContext())


ERRORS: list[Exception] = [
    botocore.exceptions.NoCredentialsError(),
    botocore.exceptions.PartialCredentialsError(provider="env", cred_var="x"),
    botocore.exceptions.CredentialRetrievalError(provider="role", error_msg="no"),
    botocore.exceptions.MetadataRetrievalError(error_msg="no"),
    botocore.exceptions.ClientError({"Error": {"Code": "AccessDenied"}}, "AssumeRole"),
    botocore.exceptions.ClientError({}, "AssumeRole"),
    RuntimeError("Credentials were refreshed, but they are still expired."),
    KeyError("AccessKeyId"),
    ValueError("Invalid header value"),
    TypeError("unhashable"),
    AttributeError("None"),
    OSError(13, "Permission denied"),
    TimeoutError("timed out"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    RecursionError("maximum recursion depth exceeded"),
    MemoryError(),
    StopIteration(),
    AssertionError("no"),
]


@pytest.mark.parametrize("kind", ["event", "sweep"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_credentials_that_fail_are_a_failed_call(
    scene: Scene, simple: str, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("botocore.credentials.Credentials.get_frozen_credentials", fail)
    message = error_of(running_event(simple) if kind == "event" else scheduled_event())
    assert ("1 failed" in message, scene.sessions()) == (True, [])


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_credentials_that_fail_while_a_client_is_made_are_a_failed_call(
    outside: None, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("botocore.credentials.CredentialResolver.load_credentials", fail)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1/")
    assert "1 failed" in error_of(running_event("i-00000000000000000"))


def test_credentials_that_fail_at_a_create_leave_it_failed(
    scene: Scene, simple: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were good for the reads, and expire then."""
    from botocore.credentials import Credentials

    good = Credentials.get_frozen_credentials

    def get(credentials: Credentials) -> Any:
        if scene.count() >= 9:
            raise KeyError("AccessKeyId")
        return good(credentials)

    monkeypatch.setattr(Credentials, "get_frozen_credentials", get)
    message = error_of(running_event(simple))
    assert (scene.first_interface(simple) in message, scene.sessions()) == (True, [])
