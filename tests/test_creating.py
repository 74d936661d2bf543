"""How the session is created, and what follows from each kind of refusal by AWS.

test_rounds.py has what many creates at a time add, test_races.py other invocations.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from aws import LambdaContext, Refusal, running_event, scheduled_event
from calls import CREATE, INSTANCES, SESSIONS
from conftest import Clock, Scene, deliver, error_of, missing

import lambda_traffic_mirror as function

AT_ONCE = 10  # creates that are under way at a time

pytestmark = pytest.mark.usefixtures("shared_client", "clock")


def created(scene: Scene) -> list[dict[str, Any]]:
    """The parameters of each create, refused ones too."""
    return [call.parameters for call in scene.calls if call.operation == CREATE]


def refuse(scene: Scene, code: str, *interfaces: str, **options: Any) -> None:
    """AWS refuses every create with this code, or those of these interfaces."""
    scene.fail(
        CREATE,
        code,
        where=lambda p: not interfaces or p["NetworkInterfaceId"] in interfaces,
        **{"status": 400, **options},
    )


def at_create(scene: Scene, number: int, act: Callable[[], object]) -> None:
    """Do this when the n-th create is sent."""
    sent = itertools.count(1)
    scene.gates.append(lambda call, _: call == CREATE and next(sent) == number and act())


# --- What is created


def test_the_session_has_these_parameters_and_a_name_tag_of_four_characters_of_each_id(
    scene: Scene,
) -> None:
    target, instance = scene.sensor(), scene.instance()
    numbers = {"SESSION_NUMBER": "7", "VIRTUAL_NETWORK_ID": "0", "PACKET_LENGTH": "256"}
    scene.configure(target, **numbers, SESSION_TAGS="team=net=work,Empty=")
    interface = scene.run(instance).entry["interface_id"]
    (parameters,) = created(scene)
    tags = {"Name": f"eh-mirror-{interface[4:8]}{target[4:8]}", "team": "net=work", "Empty": ""}
    pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
    assert parameters == {
        "NetworkInterfaceId": interface,
        "TrafficMirrorTargetId": target,
        "TrafficMirrorFilterId": scene.filter_id,
        "SessionNumber": 7,
        "VirtualNetworkId": 0,
        "PacketLength": 256,
        "TagSpecifications": [{"ResourceType": "traffic-mirror-session", "Tags": pairs}],
        "ClientToken": parameters["ClientToken"],
    }


# --- Alongside another tool's sessions


class TwoTools(NamedTuple):
    """An interface whose first session goes to the target of another tool."""

    ours: str
    theirs: str
    instance: str
    interface: str


@pytest.fixture
def two_tools(scene: Scene) -> TwoTools:
    instance = scene.instance()
    made = TwoTools(scene.sensor(), scene.sensor(), instance, scene.first_interface(instance))
    scene.session(made.interface, made.theirs)
    scene.configure(made.ours, MIRROR_ALONGSIDE="true", SESSION_NUMBER="2", EXCLUDE_TAGS="x")
    return made


def test_with_mirror_alongside_there_is_one_session_of_ours_besides_the_other_tools(
    two_tools: TwoTools, scene: Scene
) -> None:
    found = []
    for value in ("false", "true", "true"):
        scene.configure(two_tools.ours, MIRROR_ALONGSIDE=value)
        entry = scene.run(two_tools.instance).entry
        found.append((entry["outcome"], entry["target_id"]))
    ours = two_tools.ours
    assert found == [("exists", two_tools.theirs), ("created", ours), ("exists", ours)]
    assert scene.sessions_of(two_tools.instance) == [2]


# Numbers of the other tool's further sessions, and SESSION_NUMBER.
NO_ROOM = {"the number is taken": ((), "1"), "there are three sessions": ((3, 4), "2")}


@pytest.mark.parametrize(("theirs", "number"), NO_ROOM.values(), ids=NO_ROOM)
def test_where_there_is_no_room_for_one_more_session_no_create_is_sent(
    two_tools: TwoTools, scene: Scene, theirs: tuple[int, ...], number: str
) -> None:
    for other in theirs:
        scene.session(two_tools.interface, two_tools.theirs, other)
    scene.configure(two_tools.ours, SESSION_NUMBER=number)
    event = running_event(two_tools.instance)
    for sent in (event, event | {"dry_run": True}, scheduled_event()):
        entry = scene.run(sent).of(two_tools.instance)
        assert (entry["outcome"], entry["sensors"], scene.count(CREATE)) == ("unmirrored", [], 0)
        ids = [session["TrafficMirrorSessionId"] for session in scene.sessions()]
        assert missing(entry["reason"], *ids) == []


def test_alongside_a_session_of_the_other_tool_is_none_that_a_faster_invocation_created(
    two_tools: TwoTools, scene: Scene
) -> None:
    at_create(scene, 1, lambda: scene.session(two_tools.interface, two_tools.theirs, 2))
    entry = scene.run(two_tools.instance).entry
    assert (entry["outcome"], "InvalidParameterValue" in entry["reason"]) == ("unmirrored", True)


# --- ClientToken

USUAL = {"event": "event-1", "SESSION_NUMBER": "1", "SESSION_TAGS": "team=a"}
USUAL |= {"VIRTUAL_NETWORK_ID": "", "PACKET_LENGTH": "", "filter_id": "tmf-own"}
# What is no longer as usual.
DIFFERENCES = {
    "nothing": {},
    "the event": {"event": "event-2"},
    "the session number": {"SESSION_NUMBER": "2"},
    "the virtual network ID": {"VIRTUAL_NETWORK_ID": "0"},
    "the packet length": {"PACKET_LENGTH": "100"},
    "the filter": {"filter_id": "tmf-other"},
    "the value of a session tag": {"SESSION_TAGS": "team=b"},
    "the key of a session tag": {"SESSION_TAGS": "group=a"},
}
ONE, TWO = (LambdaContext(aws_request_id=name) for name in ("request-1", "request-2"))


@pytest.fixture
def token_of(scene: Scene) -> Callable[..., str]:
    """Mirrors the same interface again and again, and returns the token. AWS refuses each create,
    so that there is no session the next time."""
    refuse(scene, "TrafficMirrorSessionLimitExceeded")
    instance, target = scene.instance(), scene.sensor()

    def token(context: object = None, **changes: Any) -> str:
        variables = USUAL | changes
        event = running_event(instance) | {"id": variables.pop("event")}
        scene.configure(target, **variables)
        scene.run({key: value for key, value in event.items() if value is not None}, context)
        return str(created(scene)[-1]["ClientToken"])

    return token


def test_the_token_differs_with_the_event_and_with_every_parameter_and_with_nothing_else(
    token_of: Callable[..., str],
) -> None:
    usual = token_of()
    assert re.fullmatch("[0-9a-f]{64}", usual)
    tokens = {name: token_of(**changes) for name, changes in DIFFERENCES.items()}
    assert [name for name, token in tokens.items() if token == usual] == ["nothing"]


def test_without_a_text_as_event_id_the_request_id_takes_its_place_in_the_token(
    token_of: Callable[..., str],
) -> None:
    for event_id in (None, "", 7, ["event-1"]):
        first, again, other = (token_of(context, event=event_id) for context in (ONE, ONE, TWO))
        assert (event_id, first == again, first == other) == (event_id, True, False)
    assert token_of(object(), event=None) != token_of(object(), event=None)


def test_the_token_differs_with_interface_and_target(scene: Scene) -> None:
    full = [scene.sensor(quota=0) for _ in range(2)]
    scene.configure([*full, scene.sensor(sessions=1)])
    scene.run(scene.instance(interfaces=2))
    tokens = {parameters["ClientToken"] for parameters in created(scene)}
    assert len(tokens) == len(created(scene)) == 4


# --- AWS refuses because of the target: the next best one

TARGET_CODES = [
    "TrafficMirrorSourcesPerTargetLimitExceeded",
    "TrafficMirrorSessionsPerTargetLimitExceeded",
    "InvalidTrafficMirrorTarget",
    "InvalidTrafficMirrorTargetId.NotFound",
]


@pytest.mark.parametrize("code", TARGET_CODES)
def test_after_a_refusal_that_is_about_the_target_the_next_best_sensor_is_tried(
    scene: Scene, code: str
) -> None:
    busy, best, next_best = (scene.sensor(sessions=count) for count in (5, 0, 3))
    scene.fail(CREATE, code, status=400, where=lambda p: p["TrafficMirrorTargetId"] == best)
    scene.configure([busy, best, next_best])
    answer = scene.run(scene.instance())
    assert answer.entry["target_id"] == next_best
    assert answer.stages == ["(eligible)", "create", "(selected)"]
    assert code in answer.sensors[best]["reason"]


def test_a_refused_sensor_is_tried_again_in_the_next_invocation_only(scene: Scene) -> None:
    full, other = scene.sensor(quota=0), scene.sensor(sessions=3, quota=1_000)
    scene.configure([full, other])
    answer = scene.run({"instance-ids": scene.instances(30)})
    tried = Counter(parameters["TrafficMirrorTargetId"] for parameters in created(scene))
    assert (answer.summary, tried[other]) == ({"created": 30}, 30)
    assert 1 <= tried[full] <= AT_ONCE  # those that were on their way already
    scene.quota[full] = 1
    assert scene.run(scene.instance()).entry["target_id"] == full


def test_a_refused_sensor_that_fell_earlier_keeps_its_stage(scene: Scene) -> None:
    scene.configure([scene.sensor(quota=0), scene.sensor(zone="b", quota=0)])
    answer = scene.run({"instance-ids": [scene.instance(), scene.instance(zone="b")]})
    stages = [[row["stage"] for row in entry["sensors"]] for entry in answer.interfaces]
    assert stages == [["create", "zone"], ["zone", "create"]]


# --- AWS does not mirror the interface, or its instance type

NOT_SUPPORTED = "NetworkInterfaceNotSupported"
IN_USE = "InterfaceInUseByTrafficMirrorTarget"  # it is a sensor of another tool's


@pytest.mark.parametrize("code", [NOT_SUPPORTED, IN_USE])
def test_what_aws_does_not_mirror_is_skipped_and_not_looked_up(
    scene: Scene, clock: Clock, code: str
) -> None:
    refuse(scene, code)
    scene.configure([scene.sensor(), scene.sensor()])
    answer = scene.run(scene.instance())
    assert (answer.status, answer.outcomes, clock.seconds) == (200, ["skipped"], [])
    assert code in answer.entry["reason"]
    assert (scene.count(CREATE), scene.count(SESSIONS)) == (1, 1)


OTHERS = 14  # more than go out together
FIRST = NOT_SUPPORTED, 0
BY_EKS = {"Principal": "eks.amazonaws.com"}
# The code, and which of the instance's two interfaces is refused; what DescribeInstances shows of
# the instance and of where its first interface is attached; whether the other instances of its
# type are set aside.
ASIDE: dict[str, tuple[tuple[str, int], dict[str, Any], dict[str, Any], bool]] = {
    "the first interface": (FIRST, {}, {}, True),
    "the first interface, not managed": (
        FIRST,
        {"Operator": BY_EKS | {"Managed": False}},
        {},
        True,
    ),
    "of an instance that a service manages": (
        FIRST,
        {"Operator": BY_EKS | {"Managed": True}},
        {},
        False,
    ),
    "of an instance without a type": (FIRST, {"InstanceType": ""}, {}, False),
    "at device index 1": (FIRST, {}, {"DeviceIndex": 1}, False),
    "on network card 1": (FIRST, {}, {"NetworkCardIndex": 1}, False),
    "the second interface": ((NOT_SUPPORTED, 1), {}, {}, False),
    "a sensor of another tool": ((IN_USE, 0), {}, {}, False),
}


@pytest.mark.parametrize(("refused", "view", "place", "aside"), ASIDE.values(), ids=ASIDE)
def test_whether_an_interface_that_aws_does_not_mirror_sets_its_instance_type_aside(
    scene: Scene, refused: tuple[str, int], view: dict[str, Any], place: dict[str, Any], aside: bool
) -> None:
    """The others that are on their way wait for the refusal."""
    scene.configure(scene.sensor(quota=1_000))
    instance, others = scene.instance(interfaces=2), scene.instances(OTHERS)
    code, index = refused
    interface = scene.interfaces_of(instance)[index]

    def change(found: dict[str, Any]) -> None:
        for row in (row for rows in found["Reservations"] for row in rows["Instances"]):
            if row["InstanceId"] == instance:
                row.update(view)
                row["NetworkInterfaces"][0]["Attachment"].update(place)

    scene.show(INSTANCES, change)
    is_refused = threading.Event()

    def gate(operation: str, parameters: dict[str, Any]) -> None:
        if operation != CREATE:
            return
        if parameters["NetworkInterfaceId"] == interface:
            is_refused.set()
            raise Refusal(code)
        is_refused.wait(1)
        threading.Event().wait(0.02)  # until the refusal has come back

    scene.gates.append(gate)
    answer = scene.run({"instance-ids": [instance, *others]})
    outcomes = {entry["interface_id"]: entry["outcome"] for entry in answer.interfaces}
    assert outcomes.pop(interface) == "skipped"
    assert "skipped" in outcomes.values() if aside else set(outcomes.values()) == {"created"}
    assert scene.count(CREATE) <= (AT_ONCE if aside else 2 + OTHERS)


def test_an_interface_that_aws_does_not_mirror_is_remembered_for_an_hour(
    scene: Scene, clock: Clock
) -> None:
    """Its type is not, and being skipped does not prolong the hour."""
    scene.configure(scene.sensor(), EXCLUDE_TAGS="sensor")
    instance, other = scene.instances(2)
    refuse(scene, NOT_SUPPORTED, scene.first_interface(instance))
    event = running_event(instance)
    assert scene.run(instance).outcomes == ["skipped"]
    assert scene.run(other).outcomes == ["created"]
    for minutes in (0, 59):
        clock.advance(60 * minutes)
        for sent in (event, event | {"dry_run": True}, scheduled_event()):
            entry = scene.run(sent).of(instance)
            assert (entry["outcome"], NOT_SUPPORTED in entry["reason"]) == ("skipped", True)
    assert scene.count(CREATE) == 2
    clock.advance(61)
    assert scene.run(event | {"dry_run": True}).outcomes == ["planned"]
    assert scene.run(instance).outcomes == ["skipped"]
    assert scene.count(CREATE) == 3


def test_what_was_remembered_for_an_hour_takes_no_memory_afterwards(
    scene: Scene, sensor: str, clock: Clock
) -> None:
    refuse(scene, NOT_SUPPORTED)
    for instance in scene.instances(3):
        scene.run(instance)
        clock.advance(31 * 60)
    assert len(function._unsupported) == 2


# --- EC2 does not know the interface yet, or it is gone

UNKNOWN_INTERFACE = "InvalidNetworkInterfaceID.NotFound"


@pytest.mark.parametrize("times", [1, 2])
def test_an_interface_that_ec2_does_not_know_yet_is_created_in_a_round_that_follows(
    scene: Scene, sensor: str, clock: Clock, times: int
) -> None:
    refuse(scene, UNKNOWN_INTERFACE, times=times)
    answer = scene.run(scene.instance())
    assert (answer.outcomes, answer.stages) == (["created"], ["(selected)"])
    assert (scene.count(CREATE), clock.seconds) == (1 + times, [1.0] * times)


def test_an_interface_that_stays_unknown_after_two_more_rounds_is_failed_never_unmirrored(
    scene: Scene, sensor: str
) -> None:
    """What is gone is skipped when it is delivered again."""
    instance = scene.instance()
    for code in (UNKNOWN_INTERFACE, "InvalidNetworkInterfaceId.NotFound"):
        scene.heal()
        scene.forget_calls()
        refuse(scene, code)
        error = error_of(instance)
        assert missing(error, "1 failed", scene.first_interface(instance), code) == []
        assert (scene.count(CREATE), scene.count(SESSIONS)) == (3, 3)
    scene.heal()
    at_create(scene, 1, lambda: scene.terminate(instance))
    assert error_of(instance).startswith("1 failed")
    assert scene.run(instance).outcomes == ["skipped"]


def test_an_unknown_interface_whose_session_shows_meanwhile_exists(
    scene: Scene, sensor: str
) -> None:
    instance = scene.instance()
    refuse(scene, UNKNOWN_INTERFACE)
    at_create(scene, 2, lambda: scene.session(scene.first_interface(instance), sensor))
    assert scene.run(instance).outcomes == ["exists"]


def test_where_the_target_of_an_unknown_interface_is_refused_by_then_the_next_best_is_tried(
    scene: Scene, clock: Clock
) -> None:
    target, other = scene.sensor(), scene.sensor(sessions=3)
    scene.configure([target, other])
    refuse(scene, UNKNOWN_INTERFACE, times=1)
    at_create(scene, 2, lambda: scene.quota.update({target: 0}))
    assert (scene.run(scene.instance()).entry["target_id"], scene.count(CREATE)) == (other, 3)
    assert clock.seconds == [1.0]  # it is not looked up once more


# --- AWS creates nothing at all

TOTAL_CODES = [
    "TrafficMirrorSessionLimitExceeded",
    "TagPolicyViolation",
    "InvalidTrafficMirrorFilterId.NotFound",
    "InvalidTrafficMirrorFilter",
]


def test_nothing_more_is_created_once_the_account_is_full_or_a_tag_policy_or_filter_refuses_all(
    scene: Scene,
) -> None:
    """Neither in this round nor in the next one."""
    targets = [scene.sensor(), scene.sensor(zone="b"), scene.sensor(groups=[scene.group()])]
    scene.configure(targets, LOCAL_ZONE_ONLY="false")
    instances = scene.instances(105)
    for code in TOTAL_CODES:
        scene.heal()
        refuse(scene, code)
        scene.forget_calls()
        answer = scene.run({"instance-ids": instances})
        assert (answer.status, answer.summary) == (400, {"unmirrored": 105})
        assert [e["instance_id"] for e in answer.interfaces if code not in e["reason"]] == []
        stages = {tuple(row["stage"] for row in entry["sensors"]) for entry in answer.interfaces}
        assert stages == {("create", None, "security_group")}
        assert 1 <= scene.count(CREATE) <= AT_ONCE  # what was on its way already


def test_when_the_account_is_full_what_no_sensor_can_take_keeps_its_own_reason(
    scene: Scene,
) -> None:
    scene.account_quota = 0
    scene.configure(scene.sensor())
    words = {
        scene.instance(): "TrafficMirrorSessionLimitExceeded",
        scene.instance(zone="b"): "zone",
        scene.instance(state="stopped"): "stopped",
    }
    answer = scene.run({"instance-ids": list(words)})
    assert [i for i, word in words.items() if word not in answer.of(i)["reason"]] == []


# --- AWS refuses for another reason: another invocation may have been faster

# How many looks do not show the faster session yet; the outcome, and the looks that are taken.
LAGS = [(0, "exists", 1), (1, "exists", 2), (2, "exists", 3), (3, "unmirrored", 3)]


@pytest.mark.parametrize(("lag", "outcome", "looks"), LAGS)
def test_the_session_of_a_faster_invocation_is_looked_for_three_times_a_second_apart(
    scene: Scene, clock: Clock, lag: int, outcome: str, looks: int
) -> None:
    """Whichever target it goes to."""
    target, other, instance = scene.sensor(), scene.sensor(), scene.instance()
    goes_to = other if lag else target
    at_create(scene, 1, lambda: scene.session(scene.first_interface(instance), goes_to, lag=lag))
    scene.configure(target)
    entry = scene.run(instance).entry
    found = (entry["outcome"], scene.count(SESSIONS) - 1, clock.seconds)
    assert found == (outcome, looks, [1.0] * (looks - 1))
    if outcome == "exists":
        (session,) = scene.sessions()
        shown = (entry["session_id"], entry["target_id"], entry["sensors"])
        assert shown == (session["TrafficMirrorSessionId"], goes_to, [])
        assert ("not one of our targets" in entry["reason"]) == bool(lag)
    else:
        assert missing(entry["reason"], "InvalidParameterValue", "Session number 1") == []


def test_without_a_session_it_is_unmirrored_and_no_other_sensor_is_tried(scene: Scene) -> None:
    refuse(scene, "SomethingNew")
    scene.configure([scene.sensor(), scene.sensor(sessions=1), scene.sensor(zone="b")])
    answer = scene.run(scene.instance())
    assert answer.outcomes == ["unmirrored"]
    assert missing(answer.entry["reason"], "SomethingNew", "Simulated SomethingNew") == []
    assert (answer.stages, scene.count(CREATE)) == (["create", "(eligible)", "zone"], 1)


# --- What is no refusal at all

# How AuthFailure's message goes on, and the outcome, whatever the status.
AUTH_FAILURES = {
    "You do not have access to this resource": "unmirrored",
    "AWS was not able to validate the provided access Credentials": "failed",
}


@pytest.mark.parametrize(("message", "outcome"), AUTH_FAILURES.items())
def test_auth_failure_at_a_create_is_about_the_interface_unless_it_speaks_of_credentials(
    scene: Scene, sensor: str, message: str, outcome: str
) -> None:
    for status in (400, 401, 403):
        scene.heal()
        refuse(scene, "AuthFailure", status=status, message=message)
        delivery = deliver(running_event(scene.instance()))
        assert delivery.error or delivery.answer.outcomes == ["unmirrored"]
        assert ("1 failed" in delivery.error) == (outcome == "failed")


# Codes that botocore would send again, with a status that says otherwise, and codes that say
# nothing about the call.
NOT_FINAL = [
    *("RequestTimeout", "RequestTimeoutException", "PriorRequestNotComplete", "InternalError"),
    *("LimitExceededException", "BandwidthLimitExceeded", "SlowDown", "RequestLimitExceeded"),
    *("Throttling", "ThrottlingException", "ThrottledException", "EC2ThrottledException"),
    *("RequestThrottledException", "RequestThrottled", "TooManyRequestsException"),
    *("ProvisionedThroughputExceededException", "TransactionInProgressException"),
    *("InternalFailure", "ServiceUnavailable", "Unavailable"),
    *("Blocked", "OptInRequired", "PendingVerification"),
    *("RequestExpired", "ExpiredToken", "SignatureDoesNotMatch", "InvalidClientTokenId"),
]


def test_no_final_refusal_is_a_code_that_says_nothing_about_the_create(scene: Scene) -> None:
    scene.configure([scene.sensor(), scene.sensor(sessions=1)])
    instance = scene.instance()
    for code in NOT_FINAL:
        scene.heal()
        refuse(scene, code)
        wanted = ("1 failed", scene.first_interface(instance), code)
        assert missing(error_of(instance), *wanted) == []
    assert scene.count(CREATE) == len(NOT_FINAL)


# What a proxy answers in AWS's place, by status.
PAGE = b"<html><body><h1>Not today</h1></body></html>"
CODE = b"<Response><Errors><Error><Code>%s</Code></Error></Errors></Response>"
PROXIES: dict[str, tuple[int, bytes]] = {
    "400 with nothing": (400, b""),
    "400 with a page that is no XML": (400, b"<html><body>Not today<br></body></html>"),
    "400 with an empty error": (400, b"<Error></Error>"),
    "400 with a blank code": (400, CODE % b" "),
    **{f"{status} with a page": (status, PAGE) for status in (403, 407, 429, 502)},
    "403 with a text": (403, b"Forbidden"),
    "403 with JSON": (403, b'{"message": "no"}'),
    "403 with no error at all": (403, b"<Response/>"),
    "429 with any code": (429, CODE % b"Other"),  # botocore sends it again, whatever the code
    "503 with any code": (503, CODE % b"Other"),
}


@pytest.mark.parametrize("carried_out", [False, True])
def test_an_error_without_a_code_of_ec2_is_no_final_refusal_and_what_it_hid_is_found_later(
    scene: Scene, sensor: str, carried_out: bool
) -> None:
    if not carried_out:
        scene.fail(CREATE)  # the create does not reach EC2
    for name, (status, page) in PROXIES.items():
        scene.page_instead(CREATE, status, page)
        instance = scene.instance()
        wanted = ("1 failed", scene.first_interface(instance))
        assert (name, missing(error_of(instance), *wanted)) == (name, [])
        assert scene.sessions_of(instance) == [int(carried_out)]
    if carried_out:
        assert scene.run(instance).outcomes == ["exists"]


# --- A create that is denied

ENCODED = "Zm9v-X_" * 60
ACTIONS = "ec2:CreateTrafficMirrorSession", "ec2:CreateTags"
# How AWS says why, and what the error makes of it.
WHY = {
    "because no identity-based policy allows it": "the function's role needs {action}",
    "because no permissions boundary allows it": "{action} is denied to the function's role",
    "because no session policy allows it": "{action} is denied to the function's role",
    "with an explicit deny in a service control policy": "{action} is denied to",
}


def test_a_denied_create_names_what_aws_says_is_missing(scene: Scene, sensor: str) -> None:
    """Only the operator can decode the encoded part, at some effort."""
    instance, begin = scene.instance(), "You are not authorized to perform this operation."
    end = f". Encoded authorization failure message: {ENCODED}"
    says = {
        f"{begin} User: x is not authorized to perform: {action} on resource: arn:y {why}{end}": (
            [made_of_it.format(action=action), "arn:y", why],
            [other, ENCODED[:20]],
        )
        for why, made_of_it in WHY.items()
        for action, other in (ACTIONS, ACTIONS[::-1])
    }
    says |= {f"{begin}{more}": ([*ACTIONS], [ENCODED[:20]]) for more in ("", end)}
    for message, (named, unnamed) in says.items():
        for code in ("UnauthorizedOperation", "AccessDenied"):
            scene.heal()
            refuse(scene, code, status=403, message=message)
            error = error_of(instance)
            assert (message, missing(error, "1 failed", *named)) == (message, [])
            assert [word for word in unnamed if word in error] == []


@pytest.mark.parametrize("code", ["UnauthorizedOperation", "SomethingNew", "InternalError"])
def test_what_aws_says_is_shown_on_one_line(
    scene: Scene, sensor: str, caplog: pytest.LogCaptureFixture, code: str
) -> None:
    """And is cut to 500 characters."""
    caplog.set_level("DEBUG", "lambda_traffic_mirror")
    refuse(scene, code, message=f"one\nERROR two\ttab\x85nel\u2028end{'x' * 500}")
    delivery = deliver(running_event(scene.instance()))
    texts = [r.getMessage() for r in caplog.records if r.name == "lambda_traffic_mirror"]
    if delivery.result:
        entry = delivery.answer.entry
        texts += [entry["reason"], entry["sensors"][0]["reason"]]
    else:
        texts.append(delivery.error)
    assert any("two\\ttab\\x85nel\\u2028end" in text for text in texts)
    assert [text for text in texts if len(text.splitlines()) != 1 or "x" * 470 in text] == []
