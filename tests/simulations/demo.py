"""The main job, the real handler against a simulated AWS account, and a picture of its decisions.

Usage: demo.py [FILE], where FILE holds an event as JSON. Without it, the event of a running
instance as EventBridge sends it is sent twice.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import signal
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

PROJECT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests"), str(PROJECT / "tests/deploy")]

from aws import LambdaContext, SimulatedAccount, acl_entry, rule  # noqa: E402
from moto.moto_api._internal import mock_random  # noqa: E402

import lambda_traffic_mirror  # noqa: E402

WIDTH = 100
SEED = 4789  # the same IDs at every run
EVENT = PROJECT / "deploy" / "running-event.json"
COLOURS = {"selected": "32;1", "eligible": "32", "rejected": "31", "heading": "1", "faint": "2"}


def paint(style: str, text: str) -> str:
    """The text in a colour, on a terminal that wants one."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\033[{COLOURS[style]}m{text}\033[0m"


def build(account: SimulatedAccount, instance_ids: list[str]) -> dict[str, str]:
    """An account with three zones and nine sensors; the sensors' target IDs and what they are."""
    vxlan = account.group(rule("udp", (4789, 4789), cidr="10.0.0.0/16"))
    closed = account.group(rule("udp", (53, 53)), rule("tcp", (4789, 4789)))
    here = account.subnet("a")
    sensors_a = account.subnet("a")
    deny = [
        acl_entry(90, "deny", protocol="17"),
        acl_entry(100, "allow", protocol="-1", ports=None),
    ]
    behind_acl = account.subnet("a", acl=deny)
    busy = account.sensor(sensors_a, [vxlan], sessions=5)
    sensors = {
        busy: "zone a, 5 sessions",
        account.sensor(sensors_a, [vxlan], sessions=3): "zone a, 3 sessions",
        account.sensor(sensors_a, [vxlan], sessions=1, quota=1): "zone a, full",
        account.sensor(sensors_a, [closed]): "zone a, no rule for VXLAN",
        account.sensor(behind_acl, [vxlan]): "zone a, behind a network ACL",
        account.sensor(account.subnet("b"), [vxlan]): "zone b",
        account.sensor(account.subnet("c"), [vxlan], state="stopped"): "zone c, stopped",
        account.missing_sensor(): "does not exist",
        account.nlb_sensor([sensors_a], [vxlan]): "Network Load Balancer in zone a",
    }
    # The load balancer has taken its share already.
    balancer = list(sensors)[-1]
    for _ in range(4):
        account.session(account.interface(sensors_a), balancer)
    for instance_id in instance_ids:
        with patch("moto.ec2.models.instances.random_instance_id", return_value=instance_id):
            account.instance(here, [account.group()], interfaces=2)
    return sensors


def send(event: object) -> dict[str, Any]:
    """The handler's result. What it prints, its metrics, is for CloudWatch."""
    with contextlib.redirect_stdout(io.StringIO()):
        return lambda_traffic_mirror.lambda_handler(event, LambdaContext(seconds=60))


def wrap(text: str, width: int) -> list[str]:
    """The text in lines; IDs stay whole."""
    return textwrap.wrap(text, width, break_on_hyphens=False)


def picture(interface: Mapping[str, Any], sensors: Mapping[str, str]) -> Iterator[str]:
    """An interface's outcome and a table with a row per sensor."""
    outcome = f"{interface['interface_id'] or '-'} of {interface['instance_id'] or '-'}"
    yield ""
    yield paint("heading", f"{outcome}: {interface['outcome']}")
    yield from textwrap.wrap(
        interface["reason"], WIDTH, initial_indent="  ", subsequent_indent="  "
    )
    if not interface["sensors"]:
        return
    yield ""
    yield f"  {'sensor':<22} {'zone':<5}{'group':<6}{'ACL':<5}{'sessions':<9} reason"
    for sensor in interface["sensors"]:
        yield from row(sensor, sensors.get(sensor["target_id"], ""))


def row(sensor: Mapping[str, Any], description: str) -> Iterator[str]:
    """A sensor: what each stage said of it, its sessions, and why."""
    stages = ("zone", "security_group", "network_acl")
    fell = sensor["stage"]
    marks = []
    for stage in stages:
        if fell == stage:
            marks.append("NO")
        elif fell == "unavailable" or "NO" in marks:
            marks.append("-")
        else:
            marks.append("yes")
    sessions = "-" if sensor["sessions"] is None else str(sensor["sessions"])
    pointer = ">" if sensor["verdict"] == "selected" else " "
    cells = (
        f"{pointer} {sensor['target_id']:<22} {marks[0]:<5}{marks[1]:<6}{marks[2]:<5}{sessions:<9} "
    )
    verdict = f"{sensor['verdict']} at {fell}" if fell else sensor["verdict"]
    reason = wrap(f"{verdict}. {sensor['reason']}", WIDTH - len(cells))
    second = f"  ({description})" if len(description) < len(cells) - 5 else ""
    lines = [cells, *([second] if second else [])]
    for index in range(max(len(lines), len(reason))):
        left = lines[index] if index < len(lines) else ""
        right = reason[index] if index < len(reason) else ""
        line = f"{left:<{len(cells)}}{right}".rstrip()
        yield paint(sensor["verdict"] if index == 0 else "faint", line)


def show(title: str, event: object, sensors: Mapping[str, str]) -> list[dict[str, Any]]:
    """Send an event and print what came of it; the interfaces of the result."""
    print(paint("heading", f"== {title}"))
    result = send(event)
    if "body" not in result:
        print(json.dumps(result, indent=2))
        return []
    body = json.loads(result["body"])
    print(f"{result['statusCode']} {body['message']}")
    for interface in body["interfaces"]:
        print("\n".join(picture(interface, sensors)))
    print()
    return list(body["interfaces"])


def main(arguments: list[str]) -> int:
    """Run the demonstration."""
    path = Path(arguments[0]) if arguments else EVENT
    try:
        event = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        print(f"demo: {path} cannot be read as a JSON event: {error}", file=sys.stderr)
        return 2
    random.seed(SEED)
    mock_random.seed(SEED)
    # Instances that the event names exist in the account; a sweep finds one as well.
    named = sorted(set(re.findall(r"\bi-[0-9a-f]{8,17}\b", json.dumps(event))))
    with SimulatedAccount() as account:
        sensors = build(account, named or ["i-0123456789abcdef0"])
        os.environ.update(
            filter_id=account.filter_id,
            targets=",".join(sensors),
            # Instances behind a load balancer cannot be recognised as sensors, so a tag says so.
            EXCLUDE_TAGS="traffic-mirror=sensor",
        )
        if arguments:
            show(f"{path.name} against the simulated account", event, sensors)
            return 0
        interfaces = show("A new instance with two interfaces starts", event, sensors)
        print(paint("heading", "== The sessions, as DescribeTrafficMirrorSessions shows them"))
        for interface in interfaces:
            for session in account.sessions(interface["interface_id"]):
                print(json.dumps(session, indent=2))
        print()
        show("The same event is delivered again", event, sensors)
    return 0


if __name__ == "__main__":
    # Whoever reads only the beginning, with head, gets no traceback.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main(sys.argv[1:]))
