"""What an event costs: which AWS calls it takes, and which of them go out together.

Counts and round trips are exact, so nothing here looks at seconds.
"""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any
from unittest.mock import patch

import pytest
from aws import (
    LambdaContext,
    SimulatedAccount,
    acl_entry,
    rule,
    running_event,
    scheduled_event,
    sqs_event,
)
from conftest import Answer, Run, Sleeps, answer_of
from model import expect
from moto.moto_api._internal import mock_random
from worlds import Builder, apply_limits, differences, read_world

import lambda_traffic_mirror

pytestmark = pytest.mark.usefixtures("shared_client")

INSTANCES = "DescribeInstances"
INTERFACES = "DescribeNetworkInterfaces"
GROUPS = "DescribeSecurityGroups"
ACLS = "DescribeNetworkAcls"
TARGETS = "DescribeTrafficMirrorTargets"
SESSIONS = "DescribeTrafficMirrorSessions"
PREFIX_LIST = "GetManagedPrefixListEntries"
CREATE = "CreateTrafficMirrorSession"

# Nothing cached: what goes out together, and after that what.
COLD = [[INSTANCES, SESSIONS, TARGETS], [INTERFACES], [INSTANCES, ACLS, GROUPS], [CREATE]]
# What is known of the sensors is cached.
WARM = [[INSTANCES, SESSIONS], [CREATE]]

Configure = Callable[..., None]


class Rounds:
    """Lets calls through only together: each is held until as many have begun as its round has.

    Calls of one round that do not go out together would wait for each other in vain, so a run that
    comes to its end has shown that they do.
    """

    def __init__(self, account: SimulatedAccount, expected: Sequence[Sequence[str]]) -> None:
        self.account = account
        self.expected = [sorted(operations) for operations in expected]
        self.ends = list(accumulate(map(len, expected)))
        self.begun: list[str] = []
        self.changed = threading.Condition()
        account.forget_calls()
        account.gates.append(self)

    def __call__(self, operation: str, parameters: dict[str, Any]) -> None:
        with self.changed:
            self.begun.append(operation)
            self.changed.notify_all()
            end = next((end for end in self.ends if end >= len(self.begun)), 0)
            together = self.changed.wait_for(lambda: len(self.begun) >= end, timeout=10)
            assert together, f"{operation} waits for calls that should go out with it: {self.begun}"

    def check(self) -> None:
        """These calls went out, in these rounds, and no other."""
        self.account.gates.remove(self)
        starts = [0, *self.ends]
        found = [sorted(self.begun[a:b]) for a, b in zip(starts, self.ends, strict=False)]
        assert (found, self.begun[self.ends[-1] :]) == (self.expected, [])
        assert self.account.round_trips() == len(self.expected)


def calls(account: SimulatedAccount) -> dict[str, int]:
    """How often each operation was called since this was asked last."""
    counts = Counter(call.operation for call in account.calls)
    account.forget_calls()
    return dict(counts)


def sensors(account: SimulatedAccount, count: int, **options: Any) -> list[str]:
    """Sensors spread over three zones, with room for everything."""
    options.setdefault("quota", 10_000)
    return [account.sensor(zone="abc"[index % 3], **options) for index in range(count)]


def new_instance(account: SimulatedAccount, zone: str = "a", **options: Any) -> str:
    """An instance in a subnet of its own, so that network ACLs have a say."""
    return account.instance(account.subnet(zone), **options)


# --------------------------------------------------------------------------------------
# One event, nothing cached
# --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 10, 50, 200])
def test_one_event_takes_eight_calls_in_four_round_trips(
    account: SimulatedAccount, configure: Configure, run: Run, count: int
) -> None:
    configure(sensors(account, count))
    instance = new_instance(account)
    rounds = Rounds(account, COLD)
    assert run(instance).outcomes == ["created"]
    rounds.check()
    assert account.count() == 8


def test_calls_overlap_where_they_take_time(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    configure(sensors(account, 3))
    account.latency = 0.3
    run(new_instance(account))
    assert account.round_trips() == 4
    for together in ([0, 1, 2], [4, 5, 6]):
        group = [account.calls[index] for index in together]
        assert max(call.started for call in group) < min(call.ended or 0 for call in group)
    assert len({call.thread_id for call in account.calls[:3]}) == 3


def test_what_the_sensors_are_does_not_matter(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    """Many groups, rules, ACLs and VPCs; missing, stopped, foreign, closed and unattached."""
    other = account.vpc("10.1.0.0/16")
    closed = [account.group(rule("tcp"), rule(cidr="192.0.2.0/24")) for _ in range(5)]
    targets = [
        account.sensor(groups=closed),
        account.sensor(account.subnet("a", acl=[acl_entry(1, "deny")])),
        account.sensor(account.subnet("a", vpc=other)),
        account.sensor(attached=False),
        account.sensor(state="stopped"),
        account.missing_sensor(),
        account.foreign_sensor(),
    ]
    configure(targets, LOCAL_ZONE_ONLY="false", ALLOW_UNVERIFIED="true")
    rounds = Rounds(account, COLD)
    assert run(new_instance(account)).outcomes == ["created"]
    rounds.check()


@pytest.mark.parametrize(
    ("sessions", "pages"), [(0, 1), (1_000, 1), (1_001, 2), (2_000, 2), (2_001, 3), (10_000, 10)]
)
def test_each_further_page_of_sessions_adds_one_call(
    account: SimulatedAccount, configure: Configure, run: Run, sessions: int, pages: int
) -> None:
    account.account_quota = 20_000
    light, heavy = account.sensor(), account.sensor(quota=20_000)
    configure([heavy, light])
    instance = new_instance(account)
    for number in range(sessions):
        account.session(f"eni-{number:017x}", heavy)
    rounds = Rounds(account, [COLD[0], *[[SESSIONS]] * (pages - 1), *COLD[1:]])
    answer = run(instance)
    rounds.check()
    assert [row["sessions"] for row in answer.sensors.values()] == [sessions, 0]


@pytest.mark.parametrize(
    ("count", "groups_each", "more"),
    [
        (200, 1, {}),
        (201, 0, {TARGETS: 1, INTERFACES: 1, INSTANCES: 1}),
        (300, 0, {TARGETS: 1, INTERFACES: 1, INSTANCES: 1}),
        (300, 1, {TARGETS: 1, INTERFACES: 1, INSTANCES: 1, GROUPS: 1}),
        (300, 5, {TARGETS: 1, INTERFACES: 1, INSTANCES: 1, GROUPS: 7}),
        (400, 1, {TARGETS: 1, INTERFACES: 1, INSTANCES: 1, GROUPS: 1}),
        (401, 1, {TARGETS: 2, INTERFACES: 2, INSTANCES: 2, GROUPS: 2}),
    ],
)
def test_lists_of_200_add_calls_but_no_round_trips(
    account: SimulatedAccount,
    configure: Configure,
    run: Run,
    count: int,
    groups_each: int,
    more: dict[str, int],
) -> None:
    def groups() -> list[str] | None:
        return [account.group(rule()) for _ in range(groups_each)] or None

    configure([account.sensor(zone="abc"[n % 3], groups=groups()) for n in range(count)])
    instance = new_instance(account)
    expected = [
        COLD[0] + [TARGETS] * more.get(TARGETS, 0),
        COLD[1] + [INTERFACES] * more.get(INTERFACES, 0),
        COLD[2] + [GROUPS] * more.get(GROUPS, 0) + [INSTANCES] * more.get(INSTANCES, 0),
        COLD[3],
    ]
    rounds = Rounds(account, expected)
    assert run(instance).outcomes == ["created"]
    rounds.check()


def test_load_balancers_add_one_call_in_the_same_round(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    subnets = [account.subnet(zone) for zone in "abc"]
    targets = [account.nlb_sensor(subnets) for _ in range(3)]
    targets += [account.gwlb_sensor(subnets), account.sensor()]
    configure(targets, EXCLUDE_TAGS="sensor")
    rounds = Rounds(account, [COLD[0], [INTERFACES, INTERFACES], *COLD[2:]])
    assert run(new_instance(account)).outcomes == ["created"]
    rounds.check()


def test_prefix_lists_are_read_together_and_only_where_nothing_else_admits(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    blocks = [f"192.0.{number}.0/24" for number in range(101)]  # two pages
    lists = [account.prefix_list(*blocks), account.prefix_list("10.0.0.0/8")]
    groups = [account.group(rule(prefix_list=key)) for key in lists]
    configure(account.sensor(groups=groups))
    rounds = Rounds(account, [*COLD[:3], [PREFIX_LIST, PREFIX_LIST], [PREFIX_LIST], [CREATE]])
    assert run(new_instance(account)).outcomes == ["created"]
    rounds.check()

    configure(account.sensor(groups=[*groups, account.group(rule())]))
    rounds = Rounds(account, COLD)
    assert run(new_instance(account)).outcomes == ["created"]
    rounds.check()


def test_an_interface_that_is_mirrored_costs_three_calls_in_one_round_trip(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    targets = sensors(account, 50)
    configure(targets)
    instance = new_instance(account)
    account.session(account.interfaces_of(instance)[0], targets[7])
    rounds = Rounds(account, COLD[:1])
    assert run(instance).outcomes == ["exists"]
    rounds.check()


@pytest.mark.parametrize("why", ["tag", "stopped", "sensor", "type", "address"])
def test_what_is_set_aside_costs_three_calls_in_one_round_trip(
    account: SimulatedAccount, configure: Configure, run: Run, why: str
) -> None:
    target = account.sensor()
    configure(target, EXCLUDE_TAGS="quiet")
    instance = {
        "tag": lambda: account.instance(tags={"quiet": ""}),
        "stopped": lambda: account.instance(state="stopped"),
        "sensor": lambda: account.sensor_instance(target),
        "type": lambda: account.instance(interface_type="efa"),
        "address": lambda: account.instance(ipv6_only=True),
    }[why]()
    rounds = Rounds(account, COLD[:1])
    assert run(instance).outcomes == ["skipped"]
    rounds.check()


@pytest.mark.parametrize(
    ("event", "status"), [(running_event("i-1", state="stopped"), 200), ({"key1": "value1"}, 400)]
)
def test_what_asks_for_nothing_costs_nothing(
    account: SimulatedAccount, configure: Configure, run: Run, event: dict[str, Any], status: int
) -> None:
    configure(account.sensor())
    assert run(event).status == status
    assert calls(account) == {}


def test_without_a_sensor_or_in_a_dry_run_only_the_create_falls_away(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    configure(account.sensor(zone="b"))
    rounds = Rounds(account, COLD[:3])
    assert run(new_instance(account)).outcomes == ["unmirrored"]
    rounds.check()

    rounds = Rounds(account, COLD[:3])
    event = {**running_event(new_instance(account, "b")), "dry_run": True}
    assert run(event).outcomes == ["planned"]
    rounds.check()


def test_each_refusal_and_each_interface_adds_one_create(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    full = [account.sensor(quota=0) for _ in range(3)]
    configure([*full, *sensors(account, 3, sessions=1)])
    rounds = Rounds(account, [*COLD[:3], *[[CREATE]] * 7])
    assert run(new_instance(account, interfaces=4)).outcomes == ["created"] * 4
    rounds.check()


def test_looking_in_other_zones_costs_nothing(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    configure(
        [account.sensor(groups=[account.group()]), account.sensor(zone="b")],
        LOCAL_ZONE_ONLY="false",
    )
    rounds = Rounds(account, COLD)
    assert run(new_instance(account)).outcomes == ["created"]
    rounds.check()


# --------------------------------------------------------------------------------------
# CACHE_SECONDS
# --------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the time of day; it stands still otherwise."""

    def set_clock(seconds: float) -> None:
        monkeypatch.setattr("time.time", lambda: 1_000_000.0 + seconds)

    set_clock(0)
    return set_clock


@pytest.mark.parametrize("count", [1, 3, 10, 50, 199])
def test_a_second_event_takes_three_calls_in_two_round_trips(
    account: SimulatedAccount, configure: Configure, run: Run, count: int
) -> None:
    configure(sensors(account, count), CACHE_SECONDS="60")
    subnet = account.subnet("a")
    first, second, third = (account.instance(subnet) for _ in range(3))
    for instance, expected in ((first, COLD), (second, WARM), (third, WARM), (third, WARM[:1])):
        rounds = Rounds(account, expected)
        run(instance)
        rounds.check()
    assert all(account.sessions(account.interfaces_of(i)[0]) for i in (first, second, third))


def test_without_cache_seconds_every_event_costs_the_same(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    configure(account.sensor())
    for _ in range(2):
        rounds = Rounds(account, COLD)
        run(new_instance(account))
        rounds.check()


def test_the_cache_expires(
    account: SimulatedAccount,
    configure: Configure,
    run: Run,
    clock: Callable[[float], None],
) -> None:
    configure(account.sensor(), CACHE_SECONDS="60")
    subnet = account.subnet("a")
    moments = ((0, COLD), (59.9, WARM), (60, COLD), (119.9, WARM), (120, COLD), (100, COLD))
    for seconds, expected in moments:
        clock(seconds)
        rounds = Rounds(account, expected)
        assert run(account.instance(subnet)).outcomes == ["created"]
        rounds.check()


def test_reading_the_cache_does_not_prolong_it(
    account: SimulatedAccount,
    configure: Configure,
    run: Run,
    clock: Callable[[float], None],
) -> None:
    configure(account.sensor(), CACHE_SECONDS="60")
    for seconds in (0, 40, 80):  # each in a new subnet, so that each adds to what is known
        clock(seconds)
        run(new_instance(account))
        assert (TARGETS in calls(account)) is (seconds != 40)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("targets", ""),
        ("LOCAL_ZONE_ONLY", "false"),
        ("LOCAL_VPC_ONLY", "true"),
        ("INCLUDE_TAGS", "Name"),
        ("EXCLUDE_TAGS", "quiet"),
        ("SESSION_NUMBER", "2"),
        ("VIRTUAL_NETWORK_ID", "7"),
        ("PACKET_LENGTH", "100"),
        ("ALLOW_UNVERIFIED", "true"),
        ("CACHE_SECONDS", "61"),
        ("DRY_RUN", "true"),
        ("filter_id", ""),
    ],
)
def test_a_changed_configuration_is_not_served_from_the_cache(
    account: SimulatedAccount,
    configure: Configure,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
) -> None:
    first, second = account.sensor(), account.sensor()
    configure([first], CACHE_SECONDS="60")
    run(new_instance(account))
    calls(account)
    if variable == "targets":
        value = f"{first} {second}"
    if variable == "filter_id":
        answer = account.ec2.create_traffic_mirror_filter()
        value = answer["TrafficMirrorFilter"]["TrafficMirrorFilterId"]
    monkeypatch.setenv(variable, value)
    run(new_instance(account, tags={"Name": "web"}))
    assert calls(account)[TARGETS] == 1


def test_sessions_are_never_cached(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    one, other = account.sensor(), account.sensor(sessions=1)
    configure([one, other], CACHE_SECONDS="60")
    first, second, third = (new_instance(account) for _ in range(3))
    assert run(first).entry["target_id"] == one
    for _ in range(5):
        account.session(f"eni-{random.getrandbits(68):017x}", one)
    assert run(second).entry["target_id"] == other
    account.session(account.interfaces_of(third)[0], "tmt-of-somebody-else")
    assert run(third).outcomes == ["exists"]
    assert calls(account)[TARGETS] == 1


def test_instances_are_never_cached(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    configure(account.sensor(), CACHE_SECONDS="60", EXCLUDE_TAGS="quiet")
    instance = account.instance()
    event = {**running_event(instance), "dry_run": True}
    assert run(event).outcomes == ["planned"]
    account.ec2.create_tags(Resources=[instance], Tags=[{"Key": "quiet", "Value": ""}])
    assert run(event).outcomes == ["skipped"]
    account.ec2.delete_tags(Resources=[instance], Tags=[{"Key": "quiet"}])
    assert run(event).outcomes == ["planned"]
    account.stop(instance)
    assert run(event).outcomes == ["skipped"]
    assert calls(account)[TARGETS] == 1


def test_a_sensor_that_has_stopped_meanwhile_is_noticed(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    one, other = account.sensor(), account.sensor(sessions=5)
    configure([one, other], CACHE_SECONDS="60")
    subnet = account.subnet("a")
    assert run(account.instance(subnet)).entry["target_id"] == one
    account.stop(account.sensor_instance(one))
    instance = account.instance(subnet)
    rounds = Rounds(account, WARM)
    answer = run(instance)
    rounds.check()
    assert answer.sensors[one]["stage"] == "unavailable"
    assert answer.sensors[other]["verdict"] == "selected"


def test_what_is_cached_does_not_say_that_there_is_no_sensor(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    group = account.group()
    one, other = account.sensor(), account.sensor(groups=[group])
    configure([one, other], CACHE_SECONDS="60")
    subnet = account.subnet("a")
    assert run(account.instance(subnet)).sensors[other]["stage"] == "security_group"
    account.stop(account.sensor_instance(one))
    account.ec2.authorize_security_group_ingress(
        GroupId=group,
        IpPermissions=[
            {
                "IpProtocol": "udp",
                "FromPort": 4789,
                "ToPort": 4789,
                "IpRanges": [{"CidrIp": "10.0.0.0/8"}],
            }
        ],
    )
    # The group is open by now; what is cached says that it is not.
    rounds = Rounds(account, [WARM[0], [TARGETS], *COLD[1:]])
    answer = run(account.instance(subnet))
    rounds.check()
    assert answer.sensors[other]["verdict"] == "selected"
    # What was read instead is what is cached now.
    rounds = Rounds(account, WARM)
    assert run(account.instance(subnet)).entry["target_id"] == other
    rounds.check()


def test_a_batch_reads_the_sensors_afresh_once(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    target = account.sensor()
    configure(target, CACHE_SECONDS="60")
    run(account.instance())
    account.stop(account.sensor_instance(target))
    calls(account)
    event = {"instance-ids": account.instances(20)}
    assert run(event).outcomes == ["unmirrored"] * 20
    expected = Counter(op for round_ in COLD[:3] for op in round_)
    assert calls(account) == expected


def test_a_subnet_that_is_newer_than_the_cache(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    near = account.sensor(account.subnet("a"))
    loaded = account.sensor(account.subnet("a"), sessions=5)
    configure([near, loaded], CACHE_SECONDS="60")
    assert run(new_instance(account)).entry["target_id"] == near
    # Packets may leave the new subnet only for the sensor with more sessions.
    found = account.ec2.describe_network_interfaces(
        NetworkInterfaceIds=[account.sensor_interface(near)]
    )
    block = f"{found['NetworkInterfaces'][0]['PrivateIpAddress']}/32"
    subnet = account.subnet(
        "a",
        acl=[
            acl_entry(1, "allow"),
            acl_entry(1, "deny", block, egress=True),
            acl_entry(2, "allow", egress=True),
        ],
    )
    rounds = Rounds(account, [WARM[0], [ACLS], [CREATE]])
    answer = run(account.instance(subnet))
    rounds.check()
    assert answer.entry["target_id"] == loaded
    # By now it is known.
    rounds = Rounds(account, WARM)
    assert run(account.instance(subnet)).entry["target_id"] == loaded
    rounds.check()


def test_a_vpc_that_is_newer_than_the_cache(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    configure(account.sensor(), CACHE_SECONDS="60")
    run(new_instance(account))
    vpc = account.vpc("10.1.0.0/16")
    subnet = account.subnet("a", vpc=vpc, acl=[acl_entry(1, "allow")])
    rounds = Rounds(account, [WARM[0], [ACLS], [CREATE]])
    answer = run(account.instance(subnet))
    rounds.check()
    # The ACL denies all that leaves, which ranks the sensor and is no reason not to take it.
    assert answer.outcomes == ["created"]
    assert "outbound rule" in str(answer.entry["sensors"])


@pytest.mark.parametrize("operation", [TARGETS, INTERFACES, GROUPS, ACLS, PREFIX_LIST])
def test_what_could_not_be_read_is_not_cached(
    account: SimulatedAccount,
    configure: Configure,
    run: Run,
    no_sleep: Sleeps,
    operation: str,
) -> None:
    listed = account.group(rule(prefix_list=account.prefix_list("10.0.0.0/8")))
    target = account.sensor(groups=[listed])
    # With another one that is fine, so that there is something to cache.
    configure([target, account.sensor(sessions=7)], CACHE_SECONDS="60")
    instance = new_instance(account)
    account.fail(operation, "InternalError", status=500)
    with pytest.raises(lambda_traffic_mirror.MirroringError, match=operation):
        run(instance)
    account.heal()
    calls(account)
    answer = run(instance)
    assert answer.entry["target_id"] == target
    assert calls(account)[operation] == 1


def test_a_denied_prefix_list_is_no_reason_to_read_all_again(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    listed = account.group(rule(prefix_list=account.prefix_list("10.0.0.0/8")))
    configure([account.sensor(groups=[listed]), account.sensor()], CACHE_SECONDS="60")
    account.deny("ec2:GetManagedPrefixListEntries")
    subnet = account.subnet("a")
    run(account.instance(subnet))
    rounds = Rounds(account, WARM)
    answer = run(account.instance(subnet))
    rounds.check()
    assert answer.outcomes == ["created"]
    assert "ec2:GetManagedPrefixListEntries" in str(answer.entry["sensors"])


@pytest.mark.parametrize("seed", range(30))
def test_a_warm_cache_changes_no_verdict(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random accounts: a dry run fills the cache, and then the model says what has to happen."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    random.seed(seed)  # IDs decide ties: the same seed makes the same IDs
    mock_random.seed(seed)
    account = SimulatedAccount._active
    assert account
    scene = Builder(account, seed).build()
    world = read_world(account)
    apply_limits(scene, world)
    dry = {**scene.event, "dry_run": True}

    def handle(event: dict[str, Any], cache_seconds: str) -> Answer:
        with patch.dict(os.environ, {**scene.environment, "CACHE_SECONDS": cache_seconds}):
            return answer_of(lambda_traffic_mirror.lambda_handler(event, LambdaContext()))

    without = handle(dry, "0")
    assert handle(dry, "60").interfaces == without.interfaces
    assert handle(dry, "60").interfaces == without.interfaces

    expected = expect(world, scene.settings, scene.instance_ids, scene.limits, scene.dry_run)
    answer = handle(scene.event, "60")
    assert not list(differences(expected, answer.body, scene, world))


# --------------------------------------------------------------------------------------
# Batches and sweeps
# --------------------------------------------------------------------------------------


def as_sqs(instance_ids: Sequence[str]) -> dict[str, Any]:
    return sqs_event(*map(running_event, instance_ids))


@pytest.mark.parametrize("count", [1, 10, 100, 200])
@pytest.mark.parametrize("sqs", [False, True], ids=["instance-ids", "SQS"])
def test_a_batch_takes_the_reads_once_and_a_create_each(
    account: SimulatedAccount, configure: Configure, count: int, sqs: bool
) -> None:
    configure(sensors(account, 50))
    ids = account.instances(count)
    event = as_sqs(ids) if sqs else {"instance-ids": ids}
    rounds = Rounds(account, [*COLD[:3], *[[CREATE]] * count])
    result = lambda_traffic_mirror.lambda_handler(event, LambdaContext())
    rounds.check()
    assert result == {"batchItemFailures": []} if sqs else result["statusCode"] == 200
    assert len(account.sessions()) == count
    assert count > 100 or account.count() <= 120


def test_a_batch_of_more_than_200_reads_two_lists(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    configure(sensors(account, 3))
    rounds = Rounds(account, [[*COLD[0], INSTANCES], *COLD[1:3]])
    run({"instance-ids": account.instances(201), "dry_run": True})
    rounds.check()


def test_a_batch_whose_instances_are_mirrored_costs_three_calls(
    account: SimulatedAccount, configure: Configure
) -> None:
    target = account.sensor(quota=1_000)
    configure(target)
    ids = account.instances(100)
    for instance in ids:
        account.session(account.interfaces_of(instance)[0], target)
    rounds = Rounds(account, COLD[:1])
    lambda_traffic_mirror.lambda_handler(as_sqs(ids), LambdaContext())
    rounds.check()


def test_an_instance_that_is_in_a_batch_twice_costs_one_create(
    account: SimulatedAccount, configure: Configure
) -> None:
    configure(account.sensor())
    instance = account.instance()
    rounds = Rounds(account, COLD)
    lambda_traffic_mirror.lambda_handler(as_sqs([instance] * 10), LambdaContext())
    rounds.check()


def test_a_batch_with_a_warm_cache(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    configure(sensors(account, 50), CACHE_SECONDS="60")
    run(account.instance())
    rounds = Rounds(account, [WARM[0], *[[CREATE]] * 100])
    lambda_traffic_mirror.lambda_handler(as_sqs(account.instances(100)), LambdaContext())
    rounds.check()


@pytest.mark.parametrize(
    ("count", "sessions", "pages"),
    [(10, 0, (1, 1)), (1_000, 1_000, (1, 1)), (2_001, 2_001, (3, 3))],
)
def test_a_sweep_reads_instances_and_sessions_once(
    account: SimulatedAccount,
    configure: Configure,
    run: Run,
    count: int,
    sessions: int,
    pages: tuple[int, int],
) -> None:
    """Mirrored and reachable interfaces cost no call of their own."""
    targets = sensors(account, 5)
    configure(targets)
    ids = account.instances(count - 5)
    interfaces = [str(nic.id) for nic in account._backend.enis.values() if nic.instance.id in ids]
    for interface in interfaces[:-2]:
        account.session(interface, targets[0])
    for number in range(sessions - len(interfaces[:-2])):
        account.session(f"eni-{number:017x}", targets[0])
    answer = run(scheduled_event(), LambdaContext(600))
    assert answer.body["summary"] == {"created": 2, "exists": count - 7, "skipped": 5}
    expected = {TARGETS: 1, INTERFACES: 1, GROUPS: 1, ACLS: 1, CREATE: 2}
    # One more for the instances that host the sensors, which come on any page.
    assert calls(account) == {**expected, INSTANCES: pages[0] + 1, SESSIONS: pages[1]}


def test_a_sweep_with_nothing_to_mirror_reads_no_sensor(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    configure(account.sensor())
    answer = run(scheduled_event())
    assert answer.body["summary"] == {"skipped": 1}
    assert calls(account) == {INSTANCES: 1, SESSIONS: 1, TARGETS: 1}


def test_a_sweep_reads_the_acls_of_each_vpc_once(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    configure(account.sensor(quota=10_000))
    for number in range(3):
        vpc = account.vpc(f"10.{number + 1}.0.0/16")
        subnet = account.subnet("a", vpc=vpc, prefix=20)
        account.instances(600, subnet)
    answer = run({"sweep": True, "dry_run": True}, LambdaContext(600))
    assert answer.body["summary"] == {"planned": 1_800, "skipped": 1}
    # Two pages of instances; the second one comes to a VPC of its own.
    expected = {TARGETS: 1, INTERFACES: 1, GROUPS: 1, ACLS: 2, INSTANCES: 3, SESSIONS: 1}
    assert calls(account) == expected


def test_a_sweep_takes_nothing_from_the_cache(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    configure(account.sensor(), CACHE_SECONDS="60")
    run(account.instance())
    account.instance()
    calls(account)
    assert run(scheduled_event()).body["summary"] == {"created": 1, "exists": 1, "skipped": 1}
    expected = {TARGETS: 1, INTERFACES: 1, GROUPS: 1, ACLS: 1, INSTANCES: 2, SESSIONS: 1, CREATE: 1}
    assert calls(account) == expected


# --------------------------------------------------------------------------------------
# Failures among calls that go out together
# --------------------------------------------------------------------------------------


def failed(run: Run, event: object, context: object = None) -> str:
    """The message of the error that the handler raises."""
    with pytest.raises(lambda_traffic_mirror.MirroringError) as caught:
        run(event, context)
    return str(caught.value)


def test_each_list_has_its_own_error(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    """Of three lists one is denied, one is refused and one is answered."""
    configure(sensors(account, 3))
    ids = sorted(account.instances(450))

    def asks_for(instance: str) -> Callable[[dict[str, Any]], bool]:
        return lambda parameters: instance in parameters["Filters"][0]["Values"]

    account.fail(INSTANCES, "UnauthorizedOperation", status=403, where=asks_for(ids[0]))
    account.fail(INSTANCES, "OperationNotPermitted", status=400, where=asks_for(ids[200]))
    # Those at the end of the first list and at the start of the second one are named first.
    event = {"instance-ids": ids[190:210] + ids[:190] + ids[210:]}
    message = failed(run, event, LambdaContext(600))
    assert "400 failed" in message
    assert "ec2:DescribeInstances" in message
    assert "OperationNotPermitted" in message
    assert len(account.sessions()) == 50


@pytest.mark.parametrize(
    ("number", "operation"),
    [(number, operation) for number, round_ in enumerate(COLD[:3]) for operation in round_],
)
def test_a_failed_call_lets_the_others_finish(
    account: SimulatedAccount, configure: Configure, run: Run, number: int, operation: str
) -> None:
    """The failure comes first, the other answers after it; no thread is left to see to them."""
    configure(sensors(account, 3))
    instance = new_instance(account)
    first = sum(map(len, COLD[:number]))  # the number of calls in earlier rounds
    failing = threading.Event()
    before = threading.enumerate()

    def gate(called: str, parameters: dict[str, Any]) -> None:
        if len(account.calls) <= first:
            return
        if called == operation:
            failing.set()
        assert failing.wait(10)

    account.gates.append(gate)
    earlier = sum(round_.count(operation) for round_ in COLD[:number])
    account.fail(operation, "UnauthorizedOperation", status=403, after=earlier)
    assert f"ec2:{operation}" in failed(run, instance)
    together = account.calls[first : first + len(COLD[number])]
    assert sorted(call.operation for call in together if call.ended) == sorted(COLD[number])
    assert threading.enumerate() == before


@pytest.mark.parametrize(("number", "denied"), [(0, COLD[0]), (2, [ACLS, GROUPS])])
def test_calls_that_all_fail_are_all_made(
    account: SimulatedAccount, configure: Configure, run: Run, number: int, denied: list[str]
) -> None:
    configure(account.sensor())
    instance = account.instance()
    before = threading.enumerate()
    account.deny(*(f"ec2:{operation}" for operation in denied))
    rounds = Rounds(account, COLD[: number + 1])
    message = failed(run, instance)
    rounds.check()
    assert any(f"ec2:{operation}" in message for operation in denied)
    assert threading.enumerate() == before


def test_an_error_that_nobody_expects_leaves_no_thread_behind(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    configure(sensors(account, 3))
    instance = new_instance(account)
    before = threading.enumerate()

    def gate(called: str, parameters: dict[str, Any]) -> None:
        if called == ACLS:
            raise KeyError("a slip")

    account.gates.append(gate)
    with pytest.raises(KeyError, match="a slip"):
        run(instance)
    assert threading.enumerate() == before


@pytest.mark.parametrize("event", ["one", "batch", "sweep"])
def test_no_thread_outlives_the_invocation(
    account: SimulatedAccount, configure: Configure, run: Run, event: str
) -> None:
    configure(sensors(account, 300))
    before = threading.enumerate()
    instances = account.instances(3)
    run(
        {
            "one": running_event(instances[0]),
            "batch": {"instance-ids": instances},
            "sweep": scheduled_event(),
        }[event]
    )
    assert threading.enumerate() == before


def test_no_call_is_begun_and_no_thread_left_when_time_is_up(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    configure(sensors(account, 3))
    instance = new_instance(account)
    before = threading.enumerate()
    now = 0.0
    context = LambdaContext(60, clock=lambda: now)

    def gate(called: str, parameters: dict[str, Any]) -> None:
        nonlocal now
        now = 59.0

    account.gates.append(gate)
    assert "time ran out" in failed(run, instance, context)
    assert len(account.calls) <= 3  # what had begun together before any call took its time
    assert threading.enumerate() == before
