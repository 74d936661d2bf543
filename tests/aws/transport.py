"""What travels between a client and the simulated account: the query protocol, the log, faults."""

from __future__ import annotations

import fnmatch
import random
import re
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from time import perf_counter, sleep  # bound here: a patched time.sleep changes nothing
from typing import Any
from unittest.mock import patch
from urllib.parse import parse_qsl, urlsplit
from xml.sax.saxutils import escape

import boto3
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ConnectTimeoutError, ReadTimeoutError
from botocore.model import StructureShape
from moto.core.botocore_stubber import MockRawResponse

ACCOUNT_ID = "123456789012"
OTHER_ACCOUNT_ID = "210987654321"
REGION = "us-east-1"
LOOKING = "simulated-account-looking"
CREDENTIALS = {
    "aws_access_key_id": "AKIAIOSFODNN7EXAMPLE",
    "aws_secret_access_key": "simulated",
    "aws_session_token": "simulated",
}
CREATE_SESSION = "CreateTrafficMirrorSession"
IDENTITY_BASED = "identity-based policy"
# What older versions of botocore do not know, and the shapes that it is missing from.
LATE_MEMBERS = {
    "IncludeManagedResources": ("DescribeInstancesRequest", "DescribeNetworkInterfacesRequest"),
    "AvailabilityZoneId": ("Placement", "NetworkInterface"),
}


def new_id(prefix: str) -> str:
    return f"{prefix}-{random.getrandbits(68):017x}"


class Refusal(Exception):
    """AWS answers with this error code, message and HTTP status."""

    def __init__(self, code: str, message: str = "", status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message or f"Simulated {code}."
        self.status = status


@dataclass
class Call:
    """One HTTP attempt. `ended` and `status` are None while it is under way.

    `status` stays None where no answer arrived (a timeout); `code` is then the botocore exception's
    name, otherwise the error code of the answer, None for success.
    """

    operation: str
    parameters: dict[str, Any]
    started: float
    thread_id: int
    ended: float | None = None
    status: int | None = None
    code: str | None = None


@dataclass
class Fault:
    operation: str
    make: Callable[[], Exception]
    times: int | None
    after: int
    where: Callable[[dict[str, Any]], bool] | None
    lose_answer: bool
    seen: int = 0
    fired: int = 0


# ---------------------------------------------------------------------------------------------
# The EC2 query protocol: requests to parameters as boto3 spells them, answers to XML.


@cache
def shared_session() -> boto3.Session:
    """One session for the process: loading EC2's service model takes a while."""
    return boto3.Session()


@cache
def looking_client(region: str) -> Any:
    config = Config(
        user_agent_extra=LOOKING,
        retries={"total_max_attempts": 1},
        ignore_configured_endpoint_urls=True,
    )
    return shared_session().client("ec2", region_name=region, config=config, **CREDENTIALS)


@cache
def _service_model() -> Any:
    return looking_client(REGION).meta.service_model


def _query_name(name: str, shape: Any) -> str:
    serialization = shape.serialization
    if "queryName" in serialization:
        return str(serialization["queryName"])
    name = serialization.get("name", name)
    return name[0].upper() + name[1:]


def _read_shape(shape: Any, tree: Any) -> Any:
    if shape.type_name == "structure":
        return {
            name: _read_shape(member, tree[key])
            for name, member in shape.members.items()
            if (key := _query_name(name, member)) in tree
        }
    if shape.type_name == "list":
        return [_read_shape(shape.member, tree[key]) for key in sorted(tree, key=int)]
    text = tree.get("", "") if isinstance(tree, dict) else tree
    if shape.type_name == "boolean":
        return text.lower() == "true"
    if shape.type_name in ("integer", "long"):
        return int(text)
    return text


def _read_parameters(operation: str, pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The parameters of a query request, named and nested as boto3 takes them."""
    tree: dict[str, Any] = {}
    for key, value in pairs:
        *path, last = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    shape = _service_model().operation_model(operation).input_shape
    return _read_shape(shape, tree) if shape is not None else {}


_NAMES: dict[str, list[tuple[str, str, Any]]] = {}


def _write_shape(shape: Any, value: Any, out: list[str]) -> None:
    kind = shape.type_name
    if kind == "structure":
        names = _NAMES.get(shape.name)
        if names is None:
            names = _NAMES[shape.name] = [
                (key, member.serialization.get("name", key), member)
                for key, member in shape.members.items()
            ]
        for key, tag, member in names:
            child = value.get(key)
            if child is None:
                continue
            out.append(f"<{tag}>")
            _write_shape(member, child, out)
            out.append(f"</{tag}>")
    elif kind == "list":
        member = shape.member
        for child in value:
            out.append("<item>")
            _write_shape(member, child, out)
            out.append("</item>")
    elif kind == "boolean":
        out.append("true" if value else "false")
    elif kind == "timestamp":
        out.append(value.strftime("%Y-%m-%dT%H:%M:%S.000Z"))
    elif kind == "string":
        out.append(escape(value))
    else:
        out.append(str(value))


_Response = tuple[int, dict[str, str], str]


def _headers(request_id: str) -> dict[str, str]:
    return {"Content-Type": "text/xml;charset=UTF-8", "x-amzn-requestid": request_id}


def _success(operation: str, result: Mapping[str, Any]) -> _Response:
    request_id = str(uuid.uuid4())
    out = [
        '<?xml version="1.0" encoding="UTF-8"?>\n',
        f'<{operation}Response xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">',
        f"<requestId>{request_id}</requestId>",
    ]
    _write_shape(_service_model().operation_model(operation).output_shape, result, out)
    out.append(f"</{operation}Response>")
    return 200, _headers(request_id), "".join(out)


def _failure(refusal: Refusal) -> _Response:
    request_id = str(uuid.uuid4())
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error>'
        f"<Code>{escape(refusal.code)}</Code><Message>{escape(refusal.message)}</Message>"
        f"</Error></Errors><RequestID>{request_id}</RequestID></Response>"
    )
    return refusal.status, _headers(request_id), body


@contextmanager
def old_botocore(*members: str) -> Iterator[None]:
    """Meanwhile all clients, present ones too, have a botocore that does not know these members.

    A parameter is then refused by the client itself, a field of an answer is not shown.
    """
    shapes = {shape: member for member in members for shape in LATE_MEMBERS[member]}
    original = StructureShape.members

    def known(shape: Any) -> Any:
        found = vars(shape).get("members") or original.__get__(shape, type(shape))
        missing = shapes.get(shape.name)
        return {k: v for k, v in found.items() if k != missing} if missing else found

    with patch.object(StructureShape, "members", property(known)):
        yield


class Transport:
    """Every request comes through here: logged, delayed, faulted or denied, then answered."""

    # --- every request comes through here

    def _from_client(self, request: Any, moto: Callable[[], Any]) -> Any:
        """One HTTP attempt of a botocore client in this process."""
        agent = request.headers.get("User-Agent", b"")
        agent = agent.decode() if isinstance(agent, bytes) else agent
        looking = LOOKING in agent
        host = urlsplit(request.url).netloc
        if not re.search(r"\.amazonaws\.com(\.cn)?$", host):
            return moto()  # to a server, which logs it itself
        if not host.startswith("ec2."):
            if looking:
                return self._locked(moto)
            target = request.headers.get("X-Amz-Target", request.method)
            target = target.decode() if isinstance(target, bytes) else target
            operation = f"{host.split('.')[0]}:{target.split('.')[-1]}"
            result = self._attempt(operation, {}, lambda: self._locked(moto))
        else:
            body = request.body or ""
            body = body.decode() if isinstance(body, bytes) else body
            pairs = parse_qsl(body, keep_blank_values=True)
            operation, parameters = self._read(pairs)
            ours = host.split(".")[1] == self.region

            def answer() -> Any:
                return self._answer(operation, parameters, looking, ours, moto)

            result = answer() if looking else self._attempt(operation, parameters, answer)
        if isinstance(result, tuple):
            status, headers, text = result
            return AWSResponse(request.url, status, headers, MockRawResponse(text))
        return result

    def _from_server(self, response: Any, request: Any, url: Any, moto: Callable[[], Any]) -> Any:
        """One request that moto's server received."""
        looking = LOOKING in request.headers.get("User-Agent", "")
        operation, parameters = self._read(list(request.form.items()))
        region = response.get_region_from_url(request, url or request.url)

        def answer() -> Any:
            return self._answer(operation, parameters, looking, region == self.region, moto)

        if looking:
            return answer()
        try:
            return self._attempt(operation, parameters, answer)
        except BotoCoreError as error:
            return _failure(Refusal("ServiceUnavailable", str(error), 503))

    @staticmethod
    def _read(pairs: list[tuple[str, str]]) -> tuple[str, dict[str, Any]]:
        operation = next((value for key, value in pairs if key == "Action"), "")
        fields = [pair for pair in pairs if pair[0] not in ("Action", "Version")]
        return operation, _read_parameters(operation, fields)

    def _locked(self, moto: Callable[[], Any]) -> Any:
        with self._lock:
            self._local.inside = True
            try:
                return moto()
            finally:
                self._local.inside = False

    def _answer(
        self,
        operation: str,
        parameters: dict[str, Any],
        looking: bool,
        ours: bool,
        moto: Callable[[], Any],
    ) -> Any:
        perform = self._operations.get(operation) if ours else None
        with self._lock:
            if perform is None:
                response = self._locked(moto)
                if not operation.startswith(("Describe", "Get")):
                    self._tidy()
                return response
            try:
                if parameters.get("DryRun"):
                    raise Refusal(
                        "DryRunOperation",
                        "Request would have succeeded, but DryRun flag is set.",
                        412,
                    )
                return _success(operation, perform(parameters, looking))
            except Refusal as refusal:
                return _failure(refusal)

    def _attempt(
        self, operation: str, parameters: dict[str, Any], answer: Callable[[], Any]
    ) -> Any:
        call = Call(operation, parameters, perf_counter(), threading.get_ident())
        with self._log_lock:
            self.calls.append(call)
        try:
            if self.latency:
                sleep(self.latency)
            for gate in list(self.gates):
                gate(operation, parameters)
            lost = self._misbehave(operation, parameters)
            self._check_permissions(operation, parameters)
            response = answer()
            if lost is not None:
                raise lost
        except Refusal as refusal:
            response = _failure(refusal)
        except Exception as error:
            call.code = type(error).__name__
            raise
        finally:
            call.ended = perf_counter()
        if isinstance(response, tuple):
            call.status, body = int(response[0]), response[2]
        elif response is not None:
            call.status, body = int(response.status_code), ""
            if call.status >= 400:
                body = response.raw.getvalue().decode(errors="replace")
        if call.status is not None and call.status >= 400:
            found = re.search(r"<Code>(.*?)</Code>", body)
            call.code = found.group(1) if found else str(call.status)
        return response

    def _misbehave(self, operation: str, parameters: dict[str, Any]) -> Exception | None:
        """Raise what a fault asks for; or return it, if AWS is to act before the answer is lost."""
        with self._log_lock:
            for fault in self._faults:
                if not fnmatch.fnmatchcase(operation, fault.operation):
                    continue
                if fault.where is not None and not fault.where(parameters):
                    continue
                fault.seen += 1
                if fault.seen <= fault.after:
                    continue
                if fault.times is not None and fault.fired >= fault.times:
                    continue
                fault.fired += 1
                error = fault.make()
                if fault.lose_answer:
                    return error
                raise error
        return None

    def _check_permissions(self, operation: str, parameters: dict[str, Any]) -> None:
        needed = [(f"ec2:{operation}", "")]
        if operation == CREATE_SESSION:
            arn = f"arn:aws:ec2:{self.region}:{self.account_id}:"
            interface = f"{arn}network-interface/{parameters['NetworkInterfaceId']}"
            needed = [(f"ec2:{operation}", interface)]
            if parameters.get("TagSpecifications"):
                needed.append(("ec2:CreateTags", f"{arn}traffic-mirror-session/*"))
        for action, resource in needed:
            for pattern, policy in self._denied.items():
                if fnmatch.fnmatchcase(action, pattern):
                    raise Refusal(
                        "UnauthorizedOperation", self._denial(action, resource, policy), 403
                    )

    def _denial(self, action: str, resource: str, policy: str | None) -> str:
        """AWS's words. For calls that read it names no resource and encodes nothing."""
        words = ["You are not authorized to perform this operation."]
        if policy is not None:
            words += [f"User: {self._caller} is not authorized to perform: {action}"]
            if resource:
                words += [f"on resource: {resource}"]
            if policy == IDENTITY_BASED:
                words += [f"because no {policy} allows the {action} action"]
            else:
                words += [f"with an explicit deny in a {policy}"]
        if resource:
            words[-1] += "." if policy else ""
            words += [f"Encoded authorization failure message: {'4sT-bS0x_Qe7' * 60}"]
        return " ".join(words)

    @property
    def _caller(self) -> str:
        return f"arn:aws:sts::{self.account_id}:assumed-role/traffic-mirror/traffic-mirror"

    # --- misbehaviour

    def fail(
        self,
        operation: str,
        code: str = "RequestLimitExceeded",
        *,
        status: int = 503,
        times: int | None = None,
        after: int = 0,
        where: Callable[[dict[str, Any]], bool] | None = None,
        lose_answer: bool = False,
        message: str = "",
    ) -> None:
        """Every attempt at the operation ('*': any) fails, retries of botocore included.

        The first `after` attempts get through, then `times` fail (None: all). `where` picks the
        attempts by their parameters. `lose_answer`: AWS acts, and the failure hides its answer.
        """
        self._fault(
            operation,
            lambda: Refusal(code, message, status),
            times,
            after,
            where,
            lose_answer,
        )

    def refuse(
        self, interface_id: str, code: str, message: str = "", *, status: int = 400, times: int = 1
    ) -> None:
        """The next `times` creates of a session for this interface are refused with this code."""
        self.fail(
            CREATE_SESSION,
            code,
            status=status,
            times=times,
            where=lambda parameters: parameters["NetworkInterfaceId"] == interface_id,
            message=message,
        )

    def time_out(
        self,
        operation: str,
        *,
        times: int | None = None,
        after: int = 0,
        where: Callable[[dict[str, Any]], bool] | None = None,
        lose_answer: bool = False,
        connect: bool = False,
    ) -> None:
        """As `fail`, but no answer arrives in time; `connect`: no connection either."""
        url = f"https://ec2.{self.region}.amazonaws.com/"
        kind = ConnectTimeoutError if connect else ReadTimeoutError
        self._fault(
            operation,
            lambda: kind(endpoint_url=url, error="simulated"),
            times,
            after,
            where,
            lose_answer,
        )

    def _fault(self, *arguments: Any) -> None:
        with self._log_lock:
            self._faults.append(Fault(*arguments))

    def deny(self, *permissions: str, policy: str | None = IDENTITY_BASED) -> None:
        """From now on these permissions ('ec2:DescribeNetworkAcls', wildcards too) are missing.

        `policy`: no identity-based policy allows it; or the kind of policy that denies it, such as
        'service control policy'; None: AWS does not say.
        """
        self._denied.update(dict.fromkeys(permissions, policy))

    def heal(self) -> None:
        """No fault and no denial from now on."""
        with self._log_lock:
            self._faults.clear()
        self._denied.clear()

    # --- call log

    def count(self, operation: str | None = None) -> int:
        with self._log_lock:
            return sum(operation in (None, call.operation) for call in self.calls)

    def round_trips(self) -> int:
        """The critical path: the longest chain of calls, each begun after the one before ended.

        Only with `latency` above 0 do calls that go out together overlap reliably.
        """
        with self._log_lock:
            spans = [(call.ended, call.started) for call in self.calls if call.ended is not None]
        length, end = 0, float("-inf")
        for ended, started in sorted(spans):  # the earliest end leaves most room for the others
            if started >= end:
                length, end = length + 1, ended
        return length

    def forget_calls(self) -> None:
        with self._log_lock:
            self.calls.clear()
