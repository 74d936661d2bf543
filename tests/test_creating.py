"""How the session is created, and what happens when AWS refuses."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from aws import LambdaContext, SimulatedAccount, running_event
from conftest import Run, Sleeps

import lambda_traffic_mirror

Configure = Callable[..., None]

CREATE = "CreateTrafficMirrorSession"
READ_SESSIONS = "DescribeTrafficMirrorSessions"


pytestmark = pytest.mark.usefixtures("shared_client")


def created(account: SimulatedAccount) -> list[dict[str, Any]]:
    """The parameters of each create, refused ones too."""
    return [call.parameters for call in account.calls if call.operation == CREATE]


def refuse(account: SimulatedAccount, code: str, *, target: str | None = None) -> None:
    """AWS refuses every create with this code, or those to this target."""
    account.fail(
        CREATE,
        code,
        status=400,
        where=lambda parameters: target in (None, parameters["TrafficMirrorTargetId"]),
    )


# --------------------------------------------------------------------------------------
# What is created
# --------------------------------------------------------------------------------------


def test_the_session_is_created_with_exactly_these_parameters(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    target, instance = account.sensor(), account.instance()
    (interface,) = account.interfaces_of(instance)
    configure(target, SESSION_NUMBER="7", VIRTUAL_NETWORK_ID="4711", PACKET_LENGTH="256")
    run(instance)
    (parameters,) = created(account)
    name = f"eh-mirror-{interface[4:8]}{target[4:8]}"
    tags = {"ResourceType": "traffic-mirror-session", "Tags": [{"Key": "Name", "Value": name}]}
    assert parameters == {
        "NetworkInterfaceId": interface,
        "TrafficMirrorTargetId": target,
        "TrafficMirrorFilterId": account.filter_id,
        "SessionNumber": 7,
        "VirtualNetworkId": 4711,
        "PacketLength": 256,
        "TagSpecifications": [tags],
        "ClientToken": parameters["ClientToken"],
    }


def rename(resources: dict[str, Any], old: str, new: str) -> str:
    """Give a resource of the simulated account another ID."""
    resources[new] = resources.pop(old)
    resources[new].id = new
    return new


def test_the_name_tag_is_made_of_both_ids(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    target, instance = account.sensor(), account.instance()
    backend = account._backend
    rename(backend.enis, account.interfaces_of(instance)[0], "eni-055061bf5573d0a3b")
    configure(rename(backend.traffic_mirror_targets, target, "tmt-0bce8038d06d6c745"))
    assert run(instance).entry["session_name"] == "eh-mirror-05500bce"


def test_the_session_shows_the_name_that_the_result_shows(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    configure(account.sensor())
    entry = run(account.instance()).entry
    (session,) = account.sessions()
    assert session["Tags"] == [{"Key": "Name", "Value": entry["session_name"]}]


def test_there_is_one_session_per_interface(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    configure([account.sensor(), account.sensor()])
    instance = account.instance(interfaces=3)
    for _ in range(2):
        run(instance)
    assert [len(account.sessions(interface_id=i)) for i in account.interfaces_of(instance)] == [
        1,
        1,
        1,
    ]


# --------------------------------------------------------------------------------------
# ClientToken
# --------------------------------------------------------------------------------------


class Tokens:
    """Tries to mirror the same interface again and again, and shows the tokens.

    AWS refuses each create, so that there is no session the next time.
    """

    def __init__(self, account: SimulatedAccount, configure: Configure, run: Run) -> None:
        refuse(account, "TrafficMirrorSessionLimitExceeded")
        self.account, self.configure, self.run = account, configure, run
        self.instance, self.target = account.instance(), account.sensor()
        self.configure(self.target)

    def of(self, event_id: object, context: object = None, **variables: str) -> str:
        self.configure(self.target, **variables)
        event = running_event(self.instance) | {"id": event_id}
        if event_id is None:
            del event["id"]
        self.account.forget_calls()
        self.run(event, context)
        (parameters,) = created(self.account)
        return str(parameters["ClientToken"])


@pytest.fixture
def tokens(account: SimulatedAccount, configure: Configure, run: Run) -> Tokens:
    return Tokens(account, configure, run)


def test_the_token_is_a_sha_256_in_hexadecimal(tokens: Tokens) -> None:
    assert re.fullmatch("[0-9a-f]{64}", tokens.of("event-1"))


def test_the_same_event_has_the_same_token_whoever_delivers_it(tokens: Tokens) -> None:
    assert tokens.of("event-1") == tokens.of("event-1")


def test_without_an_event_id_the_request_id_takes_its_place(tokens: Tokens) -> None:
    one, two = (LambdaContext(aws_request_id=name) for name in ("request-1", "request-2"))
    first, again, other = tokens.of(None, one), tokens.of(None, one), tokens.of(None, two)
    assert (first == again, first == other) == (True, False)


@pytest.mark.parametrize("event_id", ["", 7, True, ["event-1"]], ids=ascii)
def test_an_event_id_that_is_no_text_counts_for_nothing(tokens: Tokens, event_id: object) -> None:
    one, two = (LambdaContext(aws_request_id=name) for name in ("request-1", "request-2"))
    first, again, other = (tokens.of(event_id, context) for context in (one, one, two))
    assert (first == again, first == other) == (True, False)


def test_without_a_request_id_every_token_is_another(tokens: Tokens) -> None:
    assert tokens.of(None, object()) != tokens.of(None, object())


DIFFERENCES: dict[str, tuple[str, dict[str, str]]] = {
    "event": ("event-2", {}),
    "session number": ("event-1", {"SESSION_NUMBER": "2"}),
    "virtual network ID": ("event-1", {"VIRTUAL_NETWORK_ID": "0"}),
    "packet length": ("event-1", {"PACKET_LENGTH": "100"}),
    "filter": ("event-1", {"filter_id": "tmf-other"}),
}


@pytest.mark.parametrize(("event_id", "variables"), DIFFERENCES.values(), ids=DIFFERENCES.keys())
def test_the_token_differs_with_the(
    tokens: Tokens, event_id: str, variables: dict[str, str]
) -> None:
    assert tokens.of("event-1") != tokens.of(event_id, **variables)


def test_the_token_differs_with_interface_and_target(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    full = [account.sensor(quota=0) for _ in range(2)]
    configure([*full, account.sensor(sessions=1)])
    run(account.instance(interfaces=2))
    tokens = {parameters["ClientToken"] for parameters in created(account)}
    assert len(tokens) == len(created(account)) == 4


def test_a_second_delivery_that_does_not_see_the_session_yet_creates_no_other(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    account.session_lag = 5
    configure(account.sensor())
    event = running_event(account.instance())
    made = [run(event).entry["session_id"] for _ in range(2)]
    assert (made[0] == made[1], len(account.sessions()), account.count(CREATE)) == (True, 1, 2)


# --------------------------------------------------------------------------------------
# AWS refuses because of the target: the next best one
# --------------------------------------------------------------------------------------

TARGET_CODES = [
    "TrafficMirrorSourcesPerTargetLimitExceeded",
    "TrafficMirrorSessionsPerTargetLimitExceeded",
    "InvalidTrafficMirrorTarget",
    "InvalidTrafficMirrorTargetId.NotFound",
    "InvalidTrafficMirrorTarget.Malformed",
]


@pytest.mark.parametrize("code", TARGET_CODES)
def test_the_next_best_sensor_is_tried_after(
    account: SimulatedAccount, configure: Configure, run: Run, code: str
) -> None:
    busy, best, next_best = (account.sensor(sessions=count) for count in (5, 0, 3))
    refuse(account, code, target=best)
    configure([busy, best, next_best])
    assert run(account.instance()).entry["target_id"] == next_best


@pytest.mark.parametrize("code", TARGET_CODES)
def test_the_refused_sensor_falls_at_create_and_the_reason_names(
    account: SimulatedAccount, configure: Configure, run: Run, code: str
) -> None:
    best, next_best = account.sensor(), account.sensor(sessions=3)
    refuse(account, code, target=best)
    configure([best, next_best])
    sensor = run(account.instance()).sensors[best]
    assert (sensor["verdict"], sensor["stage"], code in sensor["reason"]) == (
        "rejected",
        "create",
        True,
    )


def test_sensors_are_tried_by_sessions_to_the_last(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    targets = [account.sensor(sessions=count, quota=0) for count in (2, 0, 3, 1)]
    configure(targets)
    answer = run(account.instance())
    tried = [targets.index(parameters["TrafficMirrorTargetId"]) for parameters in created(account)]
    assert (answer.outcomes, tried) == (["unmirrored"], [1, 3, 0, 2])


def test_when_the_last_sensor_is_refused_the_reason_says_at_which_stage_it_fell(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    full = account.sensor(quota=0)
    configure([account.sensor(groups=[account.group()]), full])
    reason = run(account.instance()).entry["reason"]
    wanted = ("create", full, "TrafficMirrorSourcesPerTargetLimitExceeded")
    assert [word for word in wanted if word not in reason] == []


def test_a_refused_sensor_is_not_tried_again_in_the_invocation(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    full, other = account.sensor(quota=0), account.sensor(sessions=3)
    configure([full, other])
    answer = run({"instance-ids": account.instances(3)})
    tried = [parameters["TrafficMirrorTargetId"] for parameters in created(account)]
    assert (answer.outcomes, tried) == (["created"] * 3, [full, other, other, other])


def test_a_refused_sensor_is_tried_again_in_the_next_invocation(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    sensor = account.sensor(quota=0)
    configure([sensor, account.sensor(sessions=3)])
    run(account.instance())
    account.quota[sensor] = 1
    assert run(account.instance()).entry["target_id"] == sensor


def test_a_sensor_that_fills_up_meanwhile_gives_way(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    small, large = account.sensor(quota=2), account.sensor(sessions=3)
    configure([small, large])
    answer = run({"instance-ids": account.instances(4)})
    assert [entry["target_id"] for entry in answer.interfaces] == [small, small, large, large]


def test_the_codes_of_the_interface_are_no_refusals_of_the_target(
    account: SimulatedAccount, configure: Configure, run: Run, no_sleep: Sleeps
) -> None:
    refuse(account, "TrafficMirrorSessionsPerInterfaceLimitExceeded")
    configure([account.sensor(), account.sensor()])
    run(account.instance())
    assert account.count(CREATE) == 1


# --------------------------------------------------------------------------------------
# AWS does not mirror the instance type
# --------------------------------------------------------------------------------------


def test_an_instance_type_that_aws_does_not_mirror_is_skipped(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    account.unsupported_types.add("t2.micro")
    configure([account.sensor(), account.sensor()])
    answer = run(account.instance(instance_type="t2.micro"))
    reason = answer.entry["reason"]
    wanted = ("t2.micro", "NetworkInterfaceNotSupported")
    assert (answer.status, answer.outcomes, [word for word in wanted if word not in reason]) == (
        200,
        ["skipped"],
        [],
    )


def test_interfaces_of_that_type_are_not_tried_again_in_the_invocation(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    account.unsupported_types.add("t2.micro")
    configure(account.sensor())
    instances = [
        account.instance(instance_type=kind, interfaces=2)
        for kind in ("t2.micro", "m5.large", "t2.micro")
    ]
    outcomes = run({"instance-ids": instances}).outcomes
    wanted = ["skipped"] * 2 + ["created"] * 2 + ["skipped"] * 2
    assert (outcomes, account.count(CREATE)) == (wanted, 3)


# --------------------------------------------------------------------------------------
# AWS creates nothing at all
# --------------------------------------------------------------------------------------

TOTAL_CODES = [
    "TrafficMirrorSessionLimitExceeded",
    "InvalidTrafficMirrorFilterId.NotFound",
    "InvalidTrafficMirrorFilter",
]


@pytest.mark.parametrize("code", TOTAL_CODES)
def test_nothing_more_is_created_after(
    account: SimulatedAccount, configure: Configure, run: Run, code: str
) -> None:
    refuse(account, code)
    configure([account.sensor(), account.sensor()])
    answer = run({"instance-ids": account.instances(3)})
    named = [code in entry["reason"] for entry in answer.interfaces]
    assert (answer.status, answer.outcomes, named, account.count(CREATE)) == (
        400,
        ["unmirrored"] * 3,
        [True] * 3,
        1,
    )


@pytest.mark.parametrize("code", TOTAL_CODES)
def test_the_others_are_judged_all_the_same_after(
    account: SimulatedAccount, configure: Configure, run: Run, code: str
) -> None:
    refuse(account, code)
    configure([account.sensor(), account.sensor(groups=[account.group()])])
    answer = run({"instance-ids": account.instances(2)})
    stages = [[row["stage"] for row in entry["sensors"]] for entry in answer.interfaces]
    assert stages == [["create", "security_group"]] * 2


def test_after_that_what_is_set_aside_and_what_no_sensor_can_take_keeps_its_own_reason(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    account.account_quota = 0
    configure(account.sensor())
    instances = [account.instance(), account.instance(zone="b"), account.instance(state="stopped")]
    answer = run({"instance-ids": instances})
    reasons = {entry["instance_id"]: entry["reason"] for entry in answer.interfaces}
    words = ("TrafficMirrorSessionLimitExceeded", "zone", "stopped")
    assert [word in reasons[i] for i, word in zip(instances, words, strict=True)] == [True] * 3


def test_a_filter_that_does_not_exist_is_named(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    configure(account.sensor(), filter_id="tmf-00000000000000000")
    reason = run(account.instance()).entry["reason"]
    wanted = ("InvalidTrafficMirrorFilterId.NotFound", "tmf-00000000000000000")
    assert [word for word in wanted if word not in reason] == []


# --------------------------------------------------------------------------------------
# AWS refuses for another reason: another invocation may have been faster
# --------------------------------------------------------------------------------------

OTHER_CODES = [
    "InvalidParameterValue",
    "TrafficMirrorSessionsPerInterfaceLimitExceeded",
    "InvalidNetworkInterfaceID.NotFound",
    "SomethingNew",
]


class FasterInvocation:
    """Creates a session to `target` for every interface, just before ours.

    It takes `lag` looks until the session shows.
    """

    def __init__(self, account: SimulatedAccount, target: str, lag: int = 0) -> None:
        self.account, self.target, self.lag = account, target, lag
        account.gates.append(self)

    def __call__(self, operation: str, parameters: dict[str, Any]) -> None:
        if operation == CREATE:
            self.account.session(parameters["NetworkInterfaceId"], self.target, lag=self.lag)


LAGS = {
    "the session shows at once": (0, "exists", 1),
    "the session shows a second later": (1, "exists", 2),
    "the session shows two seconds later": (2, "exists", 3),
    "the session does not show in time": (3, "unmirrored", 3),
}


@pytest.mark.parametrize(("lag", "outcome", "looks"), LAGS.values(), ids=LAGS.keys())
def test_another_invocation_was_faster(
    account: SimulatedAccount,
    configure: Configure,
    run: Run,
    no_sleep: Sleeps,
    lag: int,
    outcome: str,
    looks: int,
) -> None:
    target = account.sensor()
    FasterInvocation(account, target, lag)
    configure(target)
    answer = run(account.instance())
    found = (answer.outcomes, account.count(READ_SESSIONS) - 1, no_sleep.seconds)
    assert found == ([outcome], looks, [1.0] * (looks - 1))


@pytest.mark.parametrize("ours", [True, False], ids=["to our target", "to another target"])
def test_the_session_of_the_faster_one_is_shown(
    account: SimulatedAccount, configure: Configure, run: Run, ours: bool
) -> None:
    target, other = account.sensor(), account.sensor()
    FasterInvocation(account, target if ours else other)
    configure(target)
    entry = run(account.instance()).entry
    (session,) = account.sessions()
    shown = (entry["session_id"], entry["target_id"], entry["sensors"])
    says_whose = "not one of our targets" in entry["reason"]
    assert (shown, says_whose) == (
        (session["TrafficMirrorSessionId"], session["TrafficMirrorTargetId"], []),
        not ours,
    )


@pytest.mark.parametrize("code", OTHER_CODES)
def test_without_a_session_it_is_unmirrored_with_code_and_message(
    account: SimulatedAccount, configure: Configure, run: Run, no_sleep: Sleeps, code: str
) -> None:
    refuse(account, code)
    configure(account.sensor())
    entry = run(account.instance()).entry
    wanted = (code, f"Simulated {code}")
    assert (entry["outcome"], [word for word in wanted if word not in entry["reason"]]) == (
        "unmirrored",
        [],
    )


@pytest.mark.parametrize("code", OTHER_CODES)
def test_the_chosen_sensor_is_rejected_at_create_and_no_other_is_tried_after(
    account: SimulatedAccount, configure: Configure, run: Run, no_sleep: Sleeps, code: str
) -> None:
    refuse(account, code)
    configure([account.sensor(), account.sensor(sessions=1), account.sensor(zone="b")])
    sensors = run(account.instance()).entry["sensors"]
    shown = [(row["verdict"], row["stage"]) for row in sensors]
    assert (shown, account.count(CREATE)) == (
        [("rejected", "create"), ("eligible", None), ("rejected", "zone")],
        1,
    )


def test_all_that_are_refused_so_are_looked_up_together_after_the_others_are_done(
    account: SimulatedAccount, configure: Configure, run: Run, no_sleep: Sleeps
) -> None:
    target, refused = account.sensor(), account.instances(2)
    interfaces = [i for instance in refused for i in account.interfaces_of(instance)]
    account.fail(
        CREATE,
        "InvalidParameterValue",
        status=400,
        where=lambda parameters: parameters["NetworkInterfaceId"] in interfaces,
    )
    configure(target)
    answer = run({"instance-ids": [refused[0], account.instance(), refused[1]]})
    operations = [call.operation for call in account.calls]
    last_create = len(operations) - 1 - operations[::-1].index(CREATE)
    assert (answer.outcomes, operations[last_create + 1 :]) == (
        ["unmirrored", "created", "unmirrored"],
        [READ_SESSIONS] * 3,
    )


def test_only_those_without_a_session_are_looked_up_again(
    account: SimulatedAccount, configure: Configure, run: Run, no_sleep: Sleeps
) -> None:
    target = account.sensor()
    faster = FasterInvocation(account, target)
    instances = account.instances(2)
    late = account.interfaces_of(instances[1])[0]
    account.gates.insert(
        0, lambda operation, p: setattr(faster, "lag", int(p.get("NetworkInterfaceId") == late))
    )
    configure(target)
    answer = run({"instance-ids": instances})
    asked = [
        call.parameters["Filters"][0]["Values"]
        for call in account.calls
        if call.operation == READ_SESSIONS and call.parameters.get("Filters")
    ]
    both = sorted(i for instance in instances for i in account.interfaces_of(instance))
    assert (answer.outcomes, asked) == (["exists", "exists"], [both, [late]])


def test_a_token_answered_with_a_session_to_another_target_means_that_it_exists(
    account: SimulatedAccount, configure: Configure, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, instance = account.sensor(), account.instance()
    session = account.session(account.interfaces_of(instance)[0], account.sensor(), lag=5)
    (view,) = account.sessions()
    client = lambda_traffic_mirror.ec2_client()
    monkeypatch.setattr(
        client,
        "create_traffic_mirror_session",
        lambda **parameters: {"TrafficMirrorSession": view},
        raising=False,
    )
    configure(target)
    entry = run(instance).entry
    assert (entry["outcome"], entry["session_id"]) == ("exists", session)
