"""The template's alarms on the metric lines that the function prints.

Sweeps come every five minutes. In one period something is wrong; what the function prints, and what
Lambda counts besides, goes to the alarms. The topic has to hear of it once, from the alarm that is
about it, and again when it is over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from alarms import ALARM, OK, Data, Notice, notices
from aws import LambdaContext, rule, running_event, scheduled_event
from checks import Resolved, of_lambda
from cloudformation import resolve
from conftest import Scene, Sleeps, deliver

BAD = 6
LAST = BAD + 10

RESOLVED: Resolved = resolve(
    parameters={
        "CodeBucket": "my-bucket",
        "CodeKey": "lambda_traffic_mirror.zip",
        "Targets": "tmt-1",
        "AlarmTopicArn": "arn:aws:sns:us-east-1:123456789012:alarms",
    }
)
FUNCTION = "traffic-mirror-Function"

Send = Callable[..., None]  # an event, and the call after which time is up
Wrong = Callable[[Scene, Send], Callable[[], object]]  # makes it wrong, returns what mends it


def out_of_zone(scene: Scene, send: Send) -> Callable[[], object]:
    instance = scene.instance(scene.subnet("c"))
    send(running_event(instance))
    return lambda: scene.terminate(instance)


def unreachable(scene: Scene, send: Send) -> Callable[[], object]:
    """A session whose packets the sensor's group no longer lets in."""
    (target,) = scene.targets
    (group,) = scene.interface_view(scene.sensor_interface(target))["Groups"]
    allowed = {"GroupId": group["GroupId"], "IpPermissions": [RULE]}
    scene.ec2.revoke_security_group_ingress(**allowed)
    send(scheduled_event())
    return lambda: scene.ec2.authorize_security_group_ingress(**allowed)


RULE = {
    "IpProtocol": "udp",
    "FromPort": 4789,
    "ToPort": 4789,
    "IpRanges": [{"CidrIp": "0.0.0.0/0"}],
}


def denied(scene: Scene, send: Send) -> Callable[[], object]:
    scene.deny("ec2:DescribeSecurityGroups")
    send(running_event(scene.instance()))
    send(scheduled_event())
    return scene.heal


def no_time(scene: Scene, send: Send) -> Callable[[], object]:
    scene.instance()
    send(scheduled_event(), "DescribeSecurityGroups")
    return lambda: None


def not_understood(scene: Scene, send: Send) -> Callable[[], object]:
    send({"key1": "value1"})
    return lambda: None


def started(scene: Scene, send: Send) -> Callable[[], object]:
    send(running_event(scene.instance()))
    return lambda: None


def another_state(scene: Scene, send: Send) -> Callable[[], object]:
    send(running_event(scene.instance(), state="stopped"))
    return lambda: None


CASES: list[tuple[Wrong, str]] = [
    (started, ""),
    (another_state, ""),
    (out_of_zone, "UnmirroredAlarm"),
    (unreachable, "BlockedAlarm"),
    (denied, "FailureAlarm"),
    (no_time, "DeferredAlarm"),
    (not_understood, "InvalidAlarm"),
]


@pytest.fixture
def sweeps(
    scene: Scene, quick: Sleeps, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[Notice]]:
    """Runs sweeps, one every five minutes but in some periods, and something wrong at BAD."""
    scene.configure(scene.sensor(scene.subnet("a"), [scene.group(rule())], quota=1_000))
    data = Data()

    def sweeps(wrong: Wrong | None, without: range = range(0)) -> list[Notice]:
        for period in range(LAST + 1):

            def send(event: dict[str, Any], last_call: str = "", period: int = period) -> None:
                capsys.readouterr()
                context = LambdaContext(300, function_name=FUNCTION)

                def time_is_up(operation: str, parameters: object) -> None:
                    if operation == last_call:
                        context._end = 0.0

                scene.gates.append(time_is_up)
                delivery = deliver(event, context)
                scene.gates.remove(time_is_up)
                data.put_lines(capsys.readouterr().out, period)
                # What Lambda counts by itself. A sweep is not tried again.
                data.put(of_lambda(RESOLVED, "Errors"), period, bool(delivery.error))
                if delivery.error and event.get("source") == "aws.events":
                    data.put(of_lambda(RESOLVED, "AsyncEventsDropped"), period, 1)

            mend = wrong(scene, send) if wrong and period == BAD else lambda: None
            if period not in without and not (wrong and period == BAD):
                send(scheduled_event())
            mend()
        return notices(RESOLVED, data, 4, LAST)

    return sweeps


@pytest.mark.parametrize(("wrong", "alarm"), CASES, ids=[wrong.__name__ for wrong, _ in CASES])
def test_the_topic_hears_of_it_once_and_when_it_is_over(
    sweeps: Callable[..., list[Notice]], scene: Scene, wrong: Wrong, alarm: str
) -> None:
    scene.instance(scene.subnet("a"))
    heard = sweeps(wrong)
    expected = [(alarm, ALARM), (alarm, OK)] if alarm else []
    assert [(one.alarm, one.state) for one in heard] == expected
    if heard:
        assert heard[0].period == BAD


@pytest.mark.parametrize("periods", [1, 7])
def test_the_topic_hears_when_no_sweep_comes(
    sweeps: Callable[..., list[Notice]], scene: Scene, periods: int
) -> None:
    """One that is missing is no cause for alarm."""
    scene.instance(scene.subnet("a"))
    heard = sweeps(None, without=range(BAD, BAD + periods))
    expected = [("SweepAlarm", ALARM), ("SweepAlarm", OK)] if periods > 1 else []
    assert [(one.alarm, one.state) for one in heard] == expected


def test_the_topic_hears_when_sweeps_run_but_cannot_read(
    sweeps: Callable[..., list[Notice]], scene: Scene
) -> None:
    """Nothing is switched off, but a permission is gone: a failure, and no sweep is complete."""

    def lost(scene: Scene, send: Send) -> Callable[[], object]:
        scene.deny("ec2:DescribeInstances")
        send(scheduled_event())
        return lambda: None

    heard = sweeps(lost)
    assert [one.state for one in heard] == [ALARM, ALARM]
    assert [one.alarm for one in heard] == ["FailureAlarm", "SweepAlarm"]
