"""The main job, the real handler against a simulated AWS account, and a picture of its decisions.

Without a file, the event of a running instance as EventBridge sends it is sent twice, and then
deploy/preview.sh looks at the whole account.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import re
import signal
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

PROJECT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "deploy"), str(PROJECT / "tests")]

from aws import LambdaContext, SimulatedAccount, acl_entry, route, rule  # noqa: E402
from commands import __main__, shown  # noqa: E402
from moto.moto_api._internal import mock_random  # noqa: E402
from rich.text import Text  # noqa: E402

import lambda_traffic_mirror  # noqa: E402

SEED = 4789  # the same IDs at every run
EVENT = PROJECT / "deploy" / "running-event.json"
# Instances behind a load balancer cannot be recognised as sensors, so a tag says so.
EXCLUDE = "traffic-mirror=sensor"
VXLAN = rule("udp", (4789, 4789), cidr="10.0.0.0/12")


class Demonstration:
    """An account with three zones and thirteen sensors, with something wrong with most of them."""

    def __init__(self, account: SimulatedAccount) -> None:
        self.account = account
        vxlan = account.group(VXLAN)
        closed = account.group(rule("udp", (53, 53)), rule("tcp", (4789, 4789)))
        deny = [
            acl_entry(90, "deny", protocol="17"),
            acl_entry(100, "allow", protocol="-1", ports=None),
        ]
        sensors_a = account.subnet("a")
        sensors_b = account.subnet("b")
        self.busy = account.sensor(sensors_a, [vxlan], sessions=5)
        self.full = account.sensor(sensors_a, [vxlan], sessions=1, quota=1)
        self.behind_acl = account.sensor(account.subnet("a", acl=deny), [vxlan])
        self.other_zone = account.sensor(sensors_b, [vxlan])
        self.stopped = account.sensor(account.subnet("c"), [vxlan], state="stopped")
        balancer = account.nlb_sensor([sensors_a], [vxlan])
        elsewhere = account.other()
        sensors = [
            self.busy,
            account.sensor(sensors_a, [vxlan], sessions=3),
            self.full,
            account.sensor(sensors_a, [closed]),
            self.behind_acl,
            self.other_zone,
            self.stopped,
            account.missing_sensor(),
            balancer,
            in_vpc(account, "10.1.0.0/16", 6),
            in_vpc(account, "10.2.0.0/16", 7),
            in_vpc(account, "10.3.0.0/16", 0),
            in_vpc(elsewhere, "10.4.0.0/16", 8),
        ]
        elsewhere.share(sensors[-1])
        routes = [
            route("10.1.0.0/16", pcx=True),
            route("10.2.0.0/16", tgw=True),
            route("10.3.0.0/16", pcx=True, state="blackhole"),
            route("10.4.0.0/16", tgw=True),
        ]
        account.route_table(routes=routes, main=True)
        # The load balancer has taken its share already.
        for _ in range(4):
            account.session(account.interface(sensors_a), balancer)

        # What the function is configured with, less the filter.
        self.variables = {
            "targets": ",".join(sensors),
            "EXCLUDE_TAGS": EXCLUDE,
            "SENSOR_ROLE_ARNS": elsewhere.role("sensors"),
            "FILTER_TAG": "mirror-filter",
            "TARGETS_TAG": "mirror-to",
            "MIRROR_DATABASES": "true",
        }

    def start(self, instance_ids: list[str]) -> None:
        """Instances with these IDs start, in zone a."""
        here = self.account.subnet("a")
        for instance_id in instance_ids:
            with patch("moto.ec2.models.instances.random_instance_id", return_value=instance_id):
                self.account.instance(here, [self.account.group()], interfaces=2)

    def steer(self) -> None:
        """A database in zone a, and an instance whose tags name its sensor and its filter."""
        here = self.account.subnet("a")
        self.account.database(here)
        tags = {"mirror-to": self.busy, "mirror-filter": self.account.filter()}
        self.account.instance(here, [self.account.group()], tags=tags)

    def populate(self) -> None:
        """What runs in the account besides: some of it mirrored, some of it dark."""
        account = self.account
        account.quota[self.full] = 10
        for zone, number in (("a", 6), ("b", 5), ("c", 4)):
            account.instances(number, account.subnet(zone), [account.group()])
        # No sensor's security group lets the one in, and no route leads from the other.
        for cidr, number in (("10.64.0.0/16", 3), ("10.9.0.0/16", 2)):
            vpc = account.vpc(cidr)
            account.route_table(vpc, main=True)
            account.instances(number, account.subnet("b", vpc=vpc), [account.group(vpc=vpc)])
        for target, number in ((self.busy, 2), (self.other_zone, 4), (self.behind_acl, 2)):
            for instance_id in account.instances(number, account.subnet("a"), [account.group()]):
                self.mirror(instance_id, target)
        self.mirror(account.instance(account.subnet("c"), [account.group()]), self.stopped)
        foreign = account.sensor(account.subnet("b"), [account.group()])
        self.mirror(account.instance(account.subnet("b"), [account.group()]), foreign)
        key, value = EXCLUDE.split("=")
        account.instances(2, account.subnet("a"), [account.group()], tags={key: value})

    def mirror(self, instance_id: str, target_id: str) -> None:
        """The instance is mirrored to the target already."""
        self.account.session(self.account.first_interface(instance_id), target_id)


def in_vpc(account: SimulatedAccount, cidr: str, sessions: int) -> str:
    """A sensor in zone a of a VPC of its own."""
    vpc = account.vpc(cidr)
    return account.sensor(
        account.subnet("a", vpc=vpc), [account.group(VXLAN, vpc=vpc)], sessions=sessions
    )


@contextlib.contextmanager
def the_same_at_every_run() -> Iterator[None]:
    """Whatever is random in the account comes out alike: what is built in it, and in which order
    creates come in."""
    random.seed(SEED)
    mock_random.seed(SEED)
    ids = random.Random(SEED)
    with (
        patch("aws.account.uuid.uuid4", lambda: uuid.UUID(int=ids.getrandbits(128), version=4)),
        patch("lambda_traffic_mirror.PARALLEL_CREATES", 1),
    ):
        yield


def show_interface(entry: Mapping[str, Any]) -> None:
    """An interface: which sensor was chosen and why the others fell, a line each."""
    head = f"{entry['interface_id']} of {entry['instance_id']}: {entry['outcome']}"
    CONSOLE.print(Text(f"\n{head}", "bold"))
    if not entry["sensors"]:
        CONSOLE.print(Text(f"  {entry['reason']}"))
    stages = (*lambda_traffic_mirror.STAGES, None)

    def place(row: Mapping[str, Any]) -> tuple[int, bool, int]:
        return -stages.index(row["stage"]), row["verdict"] != "selected", row["sessions"] or 0

    for row in sorted(entry["sensors"], key=place):
        chosen = row["verdict"] == "selected"
        words = row["reason"].replace(f" {row['target_id']}", "")
        if not row["stage"]:
            words = f"{row['sessions']} sessions{', the best' if chosen else ''}"
        line = f"  {'>' if chosen else ' '} {row['target_id']}  "
        line = Text(f"{line}{row['stage'] or row['verdict']:<14}  {words}", COLOURS[row["verdict"]])
        line.truncate(CONSOLE.width, overflow="ellipsis")
        CONSOLE.print(line)


def show(title: str, event: object, *outcomes: str) -> None:
    """Send an event and print what came of it, of these outcomes if any are named."""
    CONSOLE.print(Text(f"== {title}", "bold"))
    with contextlib.redirect_stdout(io.StringIO()):  # its metrics, for CloudWatch
        result = lambda_traffic_mirror.lambda_handler(event, LambdaContext(seconds=60))
    if "body" not in result:
        print(json.dumps(result, indent=2))
        return
    body = json.loads(result["body"])
    print(f"{result['statusCode']} {body['message']}")
    for interface in body["interfaces"]:
        if not outcomes or interface["outcome"] in outcomes:
            show_interface(interface)
    print()


def main() -> None:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, help="an event as JSON")
    parser.add_argument("--html", metavar="PAGE", help="where the preview is written as a page")
    asked = parser.parse_args()
    path = asked.file or EVENT
    try:
        event = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        parser.error(f"{path} cannot be read as a JSON event: {error}")
    # Instances that the event names exist in the account; a sweep finds one as well.
    named = sorted(set(re.findall(r"\bi-[0-9a-f]{8,17}\b", json.dumps(event))))
    with the_same_at_every_run(), SimulatedAccount() as account:
        scene = Demonstration(account)
        scene.start(named or ["i-0123456789abcdef0"])
        with patch.dict("os.environ", {"filter_id": account.filter_id, **scene.variables}):
            if asked.file:
                show(f"{path.name} against the simulated account", event)
            else:
                show("A new instance with two interfaces starts", event)
                show("The same event is delivered again", event)
                scene.steer()
                title = "A sweep finds a database, and an instance whose tags steer it"
                show(title, {"sweep": True}, "created")
            if asked.html or not asked.file:
                scene.populate()
                CONSOLE.print(Text("== The whole account, as deploy/preview.sh shows it", "bold"))
                arguments = [f"{name}={value}" for name, value in scene.variables.items()]
                __main__.main(["preview", *arguments, *(["--html", asked.html] * bool(asked.html))])
                print()


CONSOLE = shown.console_for_output()
COLOURS = {"selected": "bold green", "eligible": "green", "rejected": "red"}

if __name__ == "__main__":
    # Whoever reads only the beginning, with head, gets no traceback.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    main()
