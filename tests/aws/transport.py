"""The way of a request: who calls, the log, faults and denials. moto parses and serializes."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from time import perf_counter, sleep  # bound here: a patched time.sleep changes nothing
from typing import Any
from unittest.mock import patch
from urllib.parse import parse_qsl, urlsplit
from xml.sax.saxutils import escape

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ConnectTimeoutError, ReadTimeoutError
from botocore.model import StructureShape
from moto.core.botocore_stubber import BotocoreStubber
from moto.core.parse import PROTOCOL_PARSERS
from moto.core.serialize import EC2Serializer, QuerySerializer
from moto.core.utils import get_service_model
from moto.ec2.responses import EC2Response
from moto.iam.models import get_account_id_from
from moto.sts.responses import TokenResponse

ACCOUNT_ID = "123456789012"
OTHER_ACCOUNT_ID = "210987654321"
REGION = "us-east-1"
CREDENTIALS = {
    "aws_access_key_id": "AKIAIOSFODNN7EXAMPLE",
    "aws_secret_access_key": "simulated",
    "aws_session_token": "simulated",
}
CREATE_SESSION = "CreateTrafficMirrorSession"
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
        self.code, self.message, self.status = code, message or f"Simulated {code}.", status


def refuse_if(wrong: object, code: str, message: str) -> None:
    if wrong:
        raise Refusal(code, message)


@dataclass
class Call:
    """One HTTP attempt. `ended` and `status` are None while it is under way.

    `status` stays None where no answer arrived (a timeout); `code` is then the botocore exception's
    name, otherwise the error code of the answer, None for success.
    """

    operation: str  # of EC2; of other services with their name, 'sts:AssumeRole'
    parameters: dict[str, Any]
    started: float
    account: str  # whose credentials it carries
    ended: float | None = None
    status: int | None = None
    code: str | None = None


@dataclass
class Fault:
    operation: str
    make: Callable[[], Exception]
    times: int | None = None
    after: int = 0
    where: Callable[[dict[str, Any]], bool] = lambda _: True
    lose_answer: bool = False

    def fires(self, call: Call) -> bool:
        """Whether it concerns this attempt, which it then counts."""
        if self.operation not in ("*", call.operation) or not self.where(call.parameters):
            return False
        self.after -= 1
        if self.after >= 0 or self.times == 0:
            return False
        self.times = self.times and self.times - 1
        return True


@cache
def shared_session() -> boto3.Session:
    """One session for the process: loading EC2's service model takes a while."""
    return boto3.Session()


@cache
def looking_client(key: str) -> Any:
    config = Config(retries={"total_max_attempts": 1}, ignore_configured_endpoint_urls=True)
    credentials = {**CREDENTIALS, "aws_access_key_id": key}
    return shared_session().client("ec2", region_name=REGION, config=config, **credentials)


_members = StructureShape.members


@contextmanager
def old_botocore(*members: str) -> Iterator[None]:
    """Meanwhile all clients, present ones too, have a botocore that does not know these members.

    A parameter is then refused by the client itself, a field of an answer is not shown. moto has
    shapes of a class of its own, so the service knows them.
    """
    shapes = {shape: member for member in members for shape in LATE_MEMBERS[member]}

    def known(shape: Any) -> Mapping[str, Any]:
        found = vars(shape).get("members") or _members.__get__(shape, type(shape))
        missing = shapes.get(shape.name) if type(shape) is StructureShape else None
        return {k: v for k, v in found.items() if k != missing} if missing else found

    with patch.object(StructureShape, "members", property(known)):
        yield


# --- the query protocol

_Response = tuple[int, Mapping[str, str], Any]


def _xml(tree: Mapping[str, Any]) -> str:
    parts = []
    for name, value in tree.items():
        for one in value if isinstance(value, list) else [value]:
            inner = _xml(one) if isinstance(one, dict) else escape(str(one))
            parts.append(f"<{name}>{inner}</{name}>")
    return "".join(parts)


class _Plain:
    """What is answered here are dictionaries. moto looks for attributes with several names, and
    checks what it writes, which takes half the time of a call."""

    def get_value(self, value: Any, key: str, shape: Any) -> Any:
        return value.get(key)

    def _serialize_namespace_attribute(self, serialized: Any) -> None:
        """botocore reads past it."""

    def _serialize_body(self, body: Mapping[str, Any]) -> str:
        return _xml(body)


class _Ec2(_Plain, EC2Serializer): ...


class _Sts(_Plain, QuerySerializer): ...


def _refuse(service: str, refusal: Refusal) -> _Response:
    error = {"Code": refusal.code, "Message": refusal.message}
    answer: dict[str, Any] = {"Response": {"Errors": {"Error": error}, "RequestID": "simulated"}}
    if service != "ec2":
        answer = {"ErrorResponse": {"Error": {"Type": "Sender", **error}, "RequestId": "simulated"}}
    return refusal.status, {}, _xml(answer)


# --- callers


@dataclass
class Caller:
    """Whom an access key stands for."""

    account: Any
    arn: str  # as AWS names the caller: a session of the role
    token: str | None = None
    expires: float = float("inf")
    looking: bool = False  # sees what is hidden or late, and leaves no trace

    def denial(self, action: str, resource: str = "", trusted: bool = True) -> Refusal:
        """AWS's words. EC2 names no resource for calls that read; STS gives no reason where the
        role does not trust the caller."""
        said = f"User: {self.arn} is not authorized to perform: {action}"
        said += f" on resource: {resource}" if resource else ""
        if trusted:
            said += f" because no identity-based policy allows the {action} action"
        if not action.startswith("ec2:"):
            return Refusal("AccessDenied", said, 403)
        if resource:
            said += f". Encoded authorization failure message: {'4sT-bS0x_Qe7' * 60}"
        text = "You are not authorized to perform this operation."
        return Refusal("UnauthorizedOperation", f"{text} {said}", 403)


# What is wrong with the credentials, by service.
_UNKNOWN = {
    "ec2": ("AuthFailure", "AWS was not able to validate the provided access credentials", 401),
    "sts": ("InvalidClientTokenId", "The security token in the request is invalid", 403),
}
_EXPIRED = {
    "ec2": ("RequestExpired", "Request has expired.", 400),
    "sts": ("ExpiredToken", "The security token included in the request is expired", 403),
}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class Simulation:
    """What simulated accounts have in common: every request comes through here.

    Its access key says whose it is. Keys that nobody here has issued stand for the first account,
    whose environment may have been made by others (moto's FOOBARKEY, say).
    """

    def __init__(self) -> None:
        self.accounts: dict[str, Any] = {}
        self.calls: list[Call] = []
        self.callers: dict[str, Caller] = {}  # by access key
        self.largest_page = 1000
        self.lock = threading.RLock()  # moto is not thread-safe

    @property
    def first(self) -> Any:
        return next(iter(self.accounts.values()))

    def _account_of(self, key: str) -> str:
        known = self.callers.get(key)
        return str(known.account.account_id) if known else get_account_id_from(key)

    def patch(self, stack: ExitStack) -> None:
        """From now on requests of clients in this process, and to moto's server, come here."""
        process = BotocoreStubber.process_request

        def from_client(stubber: Any, request: Any) -> Any:
            host = urlsplit(request.url).netloc
            moto = partial(process, stubber, request)
            if not host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
                return moto()  # to a server, which answers as below
            service = host.partition(".")[0]
            values = {"Action": request.method}
            if service in ("ec2", "sts"):
                values = dict(parse_qsl(_text(request.body), keep_blank_values=True))
            headers = {name: _text(value) for name, value in request.headers.items()}
            return self._answer(service, headers, values, moto)

        stack.enter_context(patch.object(BotocoreStubber, "process_request", from_client))
        for service, responses in (("ec2", EC2Response), ("sts", TokenResponse)):
            call = partial(self._from_server, service, responses.call_action)
            # A function, which becomes a method.
            stack.enter_context(patch.object(responses, "call_action", lambda r, c=call: c(r)))
        stack.enter_context(patch("moto.iam.models.get_account_id_from", self._account_of))

    def _from_server(self, service: str, call_action: Callable[[Any], Any], response: Any) -> Any:
        moto = partial(call_action, response)
        if not response.is_werkzeug_request:
            return moto()  # of a client, which has come here already
        values = {key: value for key, (value,) in response.querystring.items()}
        try:
            return self._answer(service, response.headers, values, moto)
        except BotoCoreError as error:
            return _refuse(service, Refusal("ServiceUnavailable", str(error), 503))

    def _answer(
        self,
        service: str,
        headers: Mapping[str, str],
        values: Mapping[str, str],
        moto: Callable[[], Any],
    ) -> Any:
        found = re.search(r"Credential=([^/]+)/", headers.get("Authorization", ""))
        key, action = found[1] if found else "", values["Action"]
        caller = self.callers.get(key, self.first.own_caller)
        account: Any = caller.account
        perform: Callable[[Caller, dict[str, Any]], Any] | None = None
        parameters: dict[str, Any] = {}
        if service in ("ec2", "sts"):
            model = get_service_model(service)
            shape = model.operation_model(action)
            parameters = dict(PROTOCOL_PARSERS[model.protocol](shape).parse({"values": values}))
            perform = account.answers(action)

        def answer() -> _Response:
            with self.lock:
                if not perform:
                    return moto()
                writer = (_Ec2 if service == "ec2" else _Sts)(shape)
                made = writer.serialize(perform(caller, parameters))
            return made["status_code"], made["headers"], made["body"]

        operation = action if service == "ec2" else f"{service}:{action}"
        call = Call(operation, parameters, perf_counter(), account.account_id)
        try:
            if caller.looking:
                return answer()
            self.calls.append(call)
            if self.first.latency:
                sleep(self.first.latency)
            lost = account.obstruct(call, caller)
            if caller.token not in (None, headers.get("X-Amz-Security-Token")):
                raise Refusal(*_UNKNOWN[service])
            if caller.expires <= self.first.clock():
                raise Refusal(*_EXPIRED[service])
            account.check_permissions(call, caller)
            response = answer()
            if lost is not None:
                raise lost
        except Refusal as refusal:
            response = _refuse(service, refusal)
        except Exception as error:
            call.code = type(error).__name__
            raise
        finally:
            call.ended = perf_counter()
        call.status = int(response[0])
        if call.status >= 400:
            code = re.search(r"<Code>(.*?)</Code>", str(response[2]))
            call.code = code[1] if code else str(call.status)
        return response


class Requests:
    """Gates, faults and denials of an account, and what it has been asked."""

    def obstruct(self, call: Call, caller: Caller) -> Exception | None:
        """Raise what keeps AWS from acting; or return what is to hide its answer."""
        for gate in list(self.gates):
            gate(call.operation, call.parameters)
        with self._lock:
            fault = next((one for one in self._faults if one.fires(call)), None)
        if fault and not fault.lose_answer:
            raise fault.make()
        return fault and fault.make()

    def check_permissions(self, call: Call, caller: Caller) -> None:
        operation, parameters = call.operation, call.parameters
        permission = operation if ":" in operation else f"ec2:{operation}"
        needed = {permission: parameters.get("RoleArn", "")}
        if operation == CREATE_SESSION:
            arn = f"arn:aws:ec2:{self.region}:{self.account_id}:"
            needed[permission] = f"{arn}network-interface/{parameters['NetworkInterfaceId']}"
            if parameters.get("TagSpecifications"):
                needed["ec2:CreateTags"] = f"{arn}traffic-mirror-session/*"
        for action, resource in needed.items():
            if action in self._denied:
                raise caller.denial(action, resource)

    # --- misbehaviour

    def fail(
        self,
        operation: str,
        code: str = "RequestLimitExceeded",
        *,
        status: int = 503,
        message: str = "",
        **which: Any,
    ) -> None:
        """Every attempt at the operation ('*': any) fails, retries of botocore included.

        Of `which`, the first `after` attempts get through, then `times` fail (None: all); `where`
        picks the attempts by their parameters. `lose_answer`: AWS acts, and the failure hides its
        answer.
        """
        self._faults.append(Fault(operation, partial(Refusal, code, message, status), **which))

    def refuse(self, interface_id: str, code: str, message: str = "", **how: int) -> None:
        """The next create of a session for this interface is refused with this code; `how`:
        `status`, 400 if not given, and `times`."""
        concerned = lambda parameters: parameters["NetworkInterfaceId"] == interface_id  # noqa: E731
        how = {"status": 400, "times": 1, **how}
        self.fail(CREATE_SESSION, code, message=message, where=concerned, **how)

    def time_out(self, operation: str, *, connect: bool = False, **which: Any) -> None:
        """As `fail`, but no answer arrives in time; `connect`: no connection either."""
        service = operation.rpartition(":")[0] or "ec2"
        url = f"https://{service}.{self.region}.amazonaws.com/"
        kind = ConnectTimeoutError if connect else ReadTimeoutError
        make = partial(kind, endpoint_url=url, error="simulated")
        self._faults.append(Fault(operation, make, **which))

    def deny(self, *permissions: str) -> None:
        """From now on no policy allows these: 'ec2:DescribeNetworkAcls'."""
        self._denied.update(permissions)

    def heal(self) -> None:
        self._faults.clear()
        self._denied.clear()

    # --- call log

    def count(self, operation: str | None = None, account: str | None = None) -> int:
        """How many attempts there were, in all accounts or with this one's credentials."""
        return sum(
            operation in (None, call.operation) and account in (None, call.account)
            for call in list(self.calls)
        )

    def round_trips(self) -> int:
        """The critical path: the longest chain of calls, each begun after the one before ended.

        Only with `latency` above 0 do calls that go out together overlap reliably.
        """
        spans = [(call.ended, call.started) for call in list(self.calls) if call.ended is not None]
        length, end = 0, float("-inf")
        for ended, started in sorted(spans):  # the earliest end leaves most room for the others
            if started >= end:
                length, end = length + 1, ended
        return length

    def forget_calls(self) -> None:
        self.calls.clear()
