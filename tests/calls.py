"""Every call that the function makes, what allows it, and the ways in which it can come to nothing.

A throttled create: `FAULTS["throttled"](account, CREATE, times=1)`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from aws import SimulatedAccount

PROJECT = Path(__file__).resolve().parent.parent

INSTANCES = "DescribeInstances"
TARGETS = "DescribeTrafficMirrorTargets"
SESSIONS = "DescribeTrafficMirrorSessions"
INTERFACES = "DescribeNetworkInterfaces"
GROUPS = "DescribeSecurityGroups"
ACLS = "DescribeNetworkAcls"
PREFIX_LIST = "GetManagedPrefixListEntries"
ROUTES = "DescribeRouteTables"
CREATE = "CreateTrafficMirrorSession"
ASSUME = "sts:AssumeRole"

# What is read of sensors, in one call each as long as no list is full.
SENSOR_READS = (TARGETS, INTERFACES, GROUPS, ACLS)
# Every call that mirroring one interface can take within a VPC and an account, in order.
READS = (INSTANCES, TARGETS, SESSIONS, INTERFACES, GROUPS, ACLS, PREFIX_LIST)
CALLS = (*READS, CREATE)

# One event, nothing cached, no prefix list: what goes out together, and after that what.
COLD = [[INSTANCES, SESSIONS, TARGETS], [INTERFACES], [INSTANCES, ACLS, GROUPS], [CREATE]]
# The same with what is known of the sensors in the cache.
WARM = [[INSTANCES, SESSIONS], [CREATE]]

# A sensor that only an ACL and a prefix list let in (the fixture `every_call`).
ROUND_TRIPS = [*COLD[:3], [PREFIX_LIST], COLD[3]]

# What deploy/permissions.json allows, and what is asked for only where it decides.
PERMISSIONS = {f"ec2:{PREFIX_LIST}", f"ec2:{ROUTES}", ASSUME} | set(
    re.findall(r"ec2:\w+", (PROJECT / "deploy" / "permissions.json").read_text(encoding="utf-8"))
)


class Fault(NamedTuple):
    """How a call comes to nothing."""

    code: str  # AWS's code, or the name of botocore's error
    status: int = 0  # of AWS's answer; 0: there is none
    connect: bool = False  # not even a connection

    def __call__(self, account: SimulatedAccount, call: str, **when: Any) -> None:
        """From now on the call comes to nothing; `when` as for `SimulatedAccount.fail`."""
        if self.status:
            account.fail(call, self.code, status=self.status, **when)
        else:
            account.time_out(call, connect=self.connect, **when)


FAULTS = {
    "throttled": Fault("RequestLimitExceeded", 503),
    "server error": Fault("InternalError", 500),
    "unavailable": Fault("ServiceUnavailable", 503),
    "no connection": Fault("ConnectTimeoutError", connect=True),
    "no answer": Fault("ReadTimeoutError"),
    "denied": Fault("UnauthorizedOperation", 403),
}
# What botocore tries again, and what may hide that a create was carried out.
TRANSIENT = [name for name in FAULTS if name != "denied"]
LOSSES = ("server error", "unavailable", "no answer")
ATTEMPTS = 5


def named(call: str, fault: str) -> str:
    """How the message says which call failed."""
    code = FAULTS[fault].code
    return f"needs ec2:{call}" if fault == "denied" else f"{call} failed with {code}"


def of_interface(interface_id: str) -> Callable[[dict[str, Any]], bool]:
    """Only the calls about this interface: `account.fail(CREATE, where=of_interface(eni))`."""
    return lambda parameters: parameters.get("NetworkInterfaceId") == interface_id
