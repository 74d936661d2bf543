"""Every call that the function makes, and the ways in which it can come to nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

ATTEMPTS = 5

# Every call that mirroring one interface can take, in the order of the round trips.
READS = (
    "DescribeInstances",
    "DescribeTrafficMirrorTargets",
    "DescribeTrafficMirrorSessions",
    "DescribeNetworkInterfaces",
    "DescribeSecurityGroups",
    "DescribeNetworkAcls",
    "GetManagedPrefixListEntries",
)
CREATE = "CreateTrafficMirrorSession"
CALLS = (*READS, CREATE)
ROUND_TRIPS = (READS[:3], READS[3:4], ("DescribeInstances", *READS[4:6]), READS[6:7], (CREATE,))

# How the attempts at a call come to nothing; `when` as for SimulatedAccount.fail.
FAULTS: dict[str, Callable[..., None]] = {
    "throttled": lambda account, call, **when: account.fail(
        call, "RequestLimitExceeded", status=503, **when
    ),
    "server error": lambda account, call, **when: account.fail(
        call, "InternalError", status=500, **when
    ),
    "unavailable": lambda account, call, **when: account.fail(
        call, "ServiceUnavailable", status=503, **when
    ),
    "no connection": lambda account, call, **when: account.time_out(call, connect=True, **when),
    "no answer": lambda account, call, **when: account.time_out(call, **when),
    "denied": lambda account, call, **when: account.fail(
        call, "UnauthorizedOperation", status=403, **when
    ),
}
FOUR_FAULTS = ("throttled", "server error", "no answer", "denied")
TRANSIENT = ("throttled", "server error", "unavailable", "no connection", "no answer")
CODES = {
    "throttled": "RequestLimitExceeded",
    "server error": "InternalError",
    "unavailable": "ServiceUnavailable",
    "no connection": "ConnectTimeoutError",
    "no answer": "ReadTimeoutError",
    "denied": "UnauthorizedOperation",
}


def of_interface(interface_id: str) -> Callable[[dict[str, Any]], bool]:
    return lambda parameters: parameters.get("NetworkInterfaceId") == interface_id


def named(call: str, fault: str) -> str:
    """How the message says which call failed."""
    return f"needs ec2:{call}" if fault == "denied" else f"{call} failed with {CODES[fault]}"
