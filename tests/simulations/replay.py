"""AWS's answers from a recording, so that they cost nothing; and the memory of a sweep with them.

bench.py records what the simulated account answers and plays it back. It also runs this file, in
new processes that know neither moto nor the simulated account, as Lambda would run the function:

    .venv/bin/python tests/simulations/replay.py RECORDING created|planned|refused [as-aws-shows]

prints by how many bytes the process has grown at its largest during a sweep.
"""

from __future__ import annotations

import io
import itertools
import logging
import os
import pickle
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from botocore.awsrequest import AWSResponse
from botocore.handlers import BUILTIN_HANDLERS

PROJECT = Path(__file__).resolve().parent.parent.parent
CREATE = "CreateTrafficMirrorSession"
NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"
HEADERS = {"Content-Type": "text/xml;charset=UTF-8"}

Answer = tuple[int, dict[str, str], bytes]

# The simulated account shows 2 kB of an instance, AWS 6 kB. Of the rest this is the most.
TAG = b"<item><key>department:cost-centre-%d</key><value>a value as long as they are</value></item>"
VOLUME = (
    b"<item><deviceName>/dev/sd%c</deviceName><ebs><volumeId>vol-0123456789abcdef0</volumeId>"
    b"<status>attached</status><attachTime>2026-01-01T00:00:00.000Z</attachTime>"
    b"<deleteOnTermination>true</deleteOnTermination></ebs></item>"
)
OPTIONS = (
    b"<cpuOptions><coreCount>8</coreCount><threadsPerCore>2</threadsPerCore></cpuOptions>"
    b"<capacityReservationSpecification><capacityReservationPreference>open"
    b"</capacityReservationPreference></capacityReservationSpecification>"
    b"<hibernationOptions><configured>false</configured></hibernationOptions>"
    b"<metadataOptions><state>applied</state><httpTokens>required</httpTokens>"
    b"<httpPutResponseHopLimit>2</httpPutResponseHopLimit><httpEndpoint>enabled</httpEndpoint>"
    b"<httpProtocolIpv6>disabled</httpProtocolIpv6><instanceMetadataTags>disabled"
    b"</instanceMetadataTags></metadataOptions><enclaveOptions><enabled>false</enabled>"
    b"</enclaveOptions><iamInstanceProfile><arn>arn:aws:iam::123456789012:instance-profile/"
    b"application</arn><id>AIPAIOSFODNN7EXAMPLE</id></iamInstanceProfile><bootMode>uefi</bootMode>"
    b"<currentInstanceBootMode>uefi</currentInstanceBootMode><platformDetails>Linux/UNIX"
    b"</platformDetails><usageOperation>RunInstances</usageOperation><usageOperationUpdateTime>"
    b"2026-01-01T00:00:00.000Z</usageOperationUpdateTime><privateDnsNameOptions><hostnameType>"
    b"ip-name</hostnameType><enableResourceNameDnsARecord>true</enableResourceNameDnsARecord>"
    b"<enableResourceNameDnsAAAARecord>false</enableResourceNameDnsAAAARecord>"
    b"</privateDnsNameOptions><maintenanceOptions><autoRecovery>default</autoRecovery>"
    b"<rebootMigration>default</rebootMigration></maintenanceOptions><operator><managed>false"
    b"</managed></operator><keyName>a-key-of-the-department</keyName>"
)


def as_aws_shows(answers: Mapping[Any, Answer]) -> dict[Any, Answer]:
    """The answers with as much about each instance as AWS shows."""
    volumes = b"<blockDeviceMapping>" + b"".join(VOLUME % letter for letter in b"abcd")
    tags = b"<tagSet>" + b"".join(TAG % number for number in range(14))
    more = volumes + b"</blockDeviceMapping>" + tags + b"</tagSet>" + OPTIONS
    longer = {
        request: (
            status,
            headers,
            body.replace(b"<blockDeviceMapping></blockDeviceMapping>", b"").replace(
                b"<instanceId>", more + b"<instanceId>"
            ),
        )
        for request, (status, headers, body) in answers.items()
        if b"<DescribeInstancesResponse" in body
    }
    return {**answers, **longer}


class PlayedBack(io.BytesIO):
    """An answer as urllib3 would hand it over."""

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self.getvalue()


class Tape:
    """Keeps the HTTP answers that EC2 clients get, by request, and plays them back.

    Creates are answered whatever they ask for, and so are looks for the sessions that they may
    have made: which sensor is chosen may depend on an order that differs from run to run.
    """

    def __init__(self, answers: dict[Any, Answer] | None = None) -> None:
        self.answers = answers if answers is not None else {}  # by the body of the request
        self.latency: Callable[[str], float] = lambda operation: 0.0  # until an answer comes
        self.refuses = False  # creates
        self._playing = False
        self._numbers = itertools.count(1)
        self._local = threading.local()

    def install(self) -> None:
        """From now on, every client that is made can be recorded and played to."""
        BUILTIN_HANDLERS.insert(0, ("before-send.ec2", self._before_send))
        BUILTIN_HANDLERS.insert(0, ("response-received.ec2", self._response_received))

    @contextmanager
    def playing(self) -> Iterator[None]:
        """Answers come from the recording; otherwise they are recorded."""
        self._playing = True
        try:
            yield
        finally:
            self._playing = False

    def _before_send(self, request: Any, **_: Any) -> AWSResponse | None:
        self._local.request = request.body
        if not self._playing:
            return None  # somebody else answers
        body = request.body if isinstance(request.body, str) else request.body.decode()
        parameters = dict(parse_qsl(body, keep_blank_values=True))
        operation = parameters["Action"]
        seconds = self.latency(operation)
        if seconds:
            time.sleep(seconds)
        status, headers, answer = self.answers.get(request.body) or self._made_up(parameters)
        return AWSResponse(request.url, status, headers, PlayedBack(answer))

    def _response_received(self, response_dict: Any, **_: Any) -> None:
        if response_dict and not self._playing:
            self.answers[self._local.request] = (
                response_dict["status_code"],
                dict(response_dict["headers"]),
                response_dict["body"],
            )

    def _made_up(self, parameters: dict[str, str]) -> Answer:
        operation = parameters["Action"]
        if operation == CREATE and self.refuses:
            text = (
                "<Response><Errors><Error><Code>InvalidParameterValue</Code><Message>"
                f"{parameters['NetworkInterfaceId']} cannot be mirrored as it is</Message>"
                "</Error></Errors><RequestID>simulated</RequestID></Response>"
            )
            return 400, HEADERS, text.encode()
        if operation == CREATE:
            of = ("NetworkInterface", "TrafficMirrorTarget", "TrafficMirrorFilter")
            fields = {f"{name[0].lower()}{name[1:]}Id": parameters[f"{name}Id"] for name in of}
            fields["sessionNumber"] = parameters["SessionNumber"]
            shown = "".join(f"<{name}>{value}</{name}>" for name, value in fields.items())
            number = f"tms-{next(self._numbers):017x}"
            text = (
                f"<trafficMirrorSession><trafficMirrorSessionId>{number}</trafficMirrorSessionId>"
                f"{shown}</trafficMirrorSession>"
            )
        elif operation == "DescribeTrafficMirrorSessions" and "NextToken" not in parameters:
            text = "<trafficMirrorSessionSet/>"
        else:
            raise KeyError(f"{operation} has not been recorded with {parameters}")
        text = f'<{operation}Response xmlns="{NAMESPACE}">{text}</{operation}Response>'
        return 200, HEADERS, text.encode()


# --------------------------------------------------------------------------------------
# A sweep in a process of its own
# --------------------------------------------------------------------------------------


class Context:
    """Lambda's context object, with a quarter of an hour."""

    function_name = "benchmark"
    aws_request_id = "benchmark"
    invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:benchmark"

    def __init__(self) -> None:
        self._end = time.monotonic() + 900

    def get_remaining_time_in_millis(self) -> float:
        return 1_000 * (self._end - time.monotonic())


def largest() -> int:
    """The bytes that the process has had in memory at its largest, since `forget_largest`."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024
    return 1_024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def forget_largest() -> None:
    """Let `largest` begin anew, where the system can do that."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def main(recording: str, what: str, *options: str) -> None:
    """Sweep with the answers of a recording, and print by how much the process has grown."""
    os.environ.update(AWS_LAMBDA_FUNCTION_NAME="benchmark", AWS_DEFAULT_REGION="us-east-1")
    os.environ.update(AWS_ACCESS_KEY_ID="simulated", AWS_SECRET_ACCESS_KEY="simulated")
    variables, answers = pickle.loads(Path(recording).read_bytes())  # made by bench.py
    os.environ.update(variables)
    tape = Tape(as_aws_shows(answers) if "as-aws-shows" in options else answers)
    del answers
    tape.refuses = what == "refused"
    tape.install()
    logging.getLogger().addHandler(logging.StreamHandler(_Nowhere()))
    sys.path.insert(0, str(PROJECT))
    import lambda_traffic_mirror as module

    time.sleep = lambda seconds: None  # pauses change nothing here
    event = {"sweep": True, "dry_run": what == "planned"}
    forget_largest()
    before = largest()
    with tape.playing(), redirect_stdout(_Nowhere()):
        result = module.lambda_handler(event, Context())
    grown = largest() - before
    print(grown, result["body"][:300])


class _Nowhere(io.TextIOBase):
    """Takes all that is written, and keeps nothing."""

    def write(self, text: str) -> int:
        return len(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
