"""The way of a request: who calls, the log, faults and denials, moto's parser and serializer."""

from __future__ import annotations

import fnmatch
import random
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from time import perf_counter, sleep, time  # bound here: a patched time.sleep changes nothing
from typing import Any
from unittest.mock import patch
from urllib.parse import parse_qsl, urlsplit

import boto3
import xmltodict
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ConnectTimeoutError, ReadTimeoutError
from botocore.model import StructureShape
from moto.core.botocore_stubber import BotocoreStubber, MockRawResponse
from moto.core.parse import PROTOCOL_PARSERS
from moto.core.serialize import SERIALIZERS, SerializationContext
from moto.core.utils import get_service_model
from moto.ec2.responses import EC2Response
from moto.iam.models import get_account_id_from
from moto.sts.responses import TokenResponse

ACCOUNT_ID = "123456789012"
OTHER_ACCOUNT_ID = "210987654321"
REGION = "us-east-1"
LOOKING = "simulated-account-looking"
CREDENTIALS = {
    "aws_access_key_id": "AKIAIOSFODNN7EXAMPLE",
    "aws_secret_access_key": "simulated",
    "aws_session_token": "simulated",
}
ISSUED = ("ASIASIM", "AKIASIM")  # how access keys begin that a simulation has issued
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


def refuse_if(wrong: object, code: str, message: str) -> None:
    """AWS answers with this error, if that is wrong."""
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
    seen: int = 0
    fired: int = 0

    def fires(self, operation: str, parameters: dict[str, Any]) -> bool:
        """Whether it concerns this attempt, which it then counts."""
        if not (fnmatch.fnmatchcase(operation, self.operation) and self.where(parameters)):
            return False
        self.seen += 1
        now = self.seen > self.after and (self.times is None or self.fired < self.times)
        self.fired += now
        return now


# ---------------------------------------------------------------------------------------------
# Clients, and the query protocol.


@cache
def shared_session() -> boto3.Session:
    """One session for the process: loading EC2's service model takes a while."""
    return boto3.Session()


@cache
def looking_client(region: str, key: str) -> Any:
    config = Config(
        user_agent_extra=LOOKING,
        retries={"total_max_attempts": 1},
        ignore_configured_endpoint_urls=True,
    )
    credentials = {**CREDENTIALS, "aws_access_key_id": key}
    return shared_session().client("ec2", region_name=region, config=config, **credentials)


_Response = tuple[int, dict[str, str], str]
_HEADERS = {"Content-Type": "text/xml;charset=UTF-8"}


def _read(service: str, action: str, values: Mapping[str, str]) -> dict[str, Any]:
    """The parameters of a query request, named and nested as boto3 takes them."""
    model = get_service_model(service)
    parser = PROTOCOL_PARSERS[model.protocol](model.operation_model(action))
    return dict(parser.parse({"values": values}))


def _success(service: str, action: str, result: Mapping[str, Any]) -> _Response:
    model = get_service_model(service)
    serializer = SERIALIZERS[model.protocol](
        model.operation_model(action), SerializationContext(str(uuid.uuid4()))
    )
    return 200, dict(_HEADERS), str(serializer.serialize(result)["body"])


def _failure(service: str, refusal: Refusal) -> _Response:
    said, number = {"Code": refusal.code, "Message": refusal.message}, str(uuid.uuid4())
    answer: dict[str, Any] = {"Response": {"Errors": {"Error": said}, "RequestID": number}}
    if service != "ec2":
        answer = {"ErrorResponse": {"Error": {"Type": "Sender", **said}, "RequestId": number}}
    return refusal.status, dict(_HEADERS), xmltodict.unparse(answer)


_MEMBERS = StructureShape.members


@contextmanager
def old_botocore(*members: str) -> Iterator[None]:
    """Meanwhile all clients, present ones too, have a botocore that does not know these members.

    A parameter is then refused by the client itself, a field of an answer is not shown. moto has
    shapes of a class of its own, so the service knows them.
    """
    shapes = {shape: member for member in members for shape in LATE_MEMBERS[member]}

    def known(shape: Any) -> Mapping[str, Any]:
        found = vars(shape).get("members") or _MEMBERS.__get__(shape, type(shape))
        missing = shapes.get(shape.name) if type(shape) is StructureShape else None
        return {k: v for k, v in found.items() if k != missing} if missing else found

    with patch.object(StructureShape, "members", property(known)):
        yield


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


# ---------------------------------------------------------------------------------------------
# Callers.


def _reason(action: str, policy: str) -> str:
    if policy == IDENTITY_BASED:
        return f"because no {policy} allows the {action} action"
    return f"with an explicit deny in a {policy}"


@dataclass
class Caller:
    """Whom an access key stands for."""

    account: Any
    role_arn: str
    arn: str  # as AWS names the caller: a session of the role
    token: str | None = None
    expires: float = float("inf")


def access_denied(caller: Caller, action: str, resource: str, policy: str | None = None) -> Refusal:
    """As services other than EC2 deny; a role that does not trust the caller, without a reason."""
    reason = f" {_reason(action, policy)}" if policy else ""
    return Refusal(
        "AccessDenied",
        f"User: {caller.arn} is not authorized to perform: {action} on resource: "
        f"{resource}{reason}",
        403,
    )


class Simulation:
    """What simulated accounts have in common: every request comes through here.

    Its access key says whose it is. Keys that nobody here has issued stand for the first account,
    whose environment may have been made by others (moto's FOOBARKEY, say).
    """

    def __init__(self, region: str) -> None:
        self.region = region
        self.accounts: dict[str, Any] = {}
        self.calls: list[Call] = []
        self.callers: dict[str, Callable[[], Caller]] = {}  # by access key
        self.clock: Callable[[], float] = time
        self.largest_page = 1000
        self.lock = threading.RLock()  # moto is not thread-safe
        self.log_lock = threading.Lock()
        self._local = threading.local()

    @property
    def first(self) -> Any:
        return next(iter(self.accounts.values()))

    def _caller(self, service: str, headers: Mapping[str, Any]) -> tuple[Caller, Refusal | None]:
        """Who calls, and what AWS has against the credentials."""
        found = re.search(r"Credential=([^/]+)/", _text(headers.get("Authorization", "")))
        key = found.group(1) if found else ""
        caller = self.callers.get(key, lambda: self.first.own_caller)()
        token = _text(headers.get("X-Amz-Security-Token", ""))
        unknown = key.startswith(ISSUED) and key not in self.callers
        if unknown or caller.token not in (None, token):
            if service == "ec2":
                text = "AWS was not able to validate the provided access credentials"
                return caller, Refusal("AuthFailure", text, 401)
            text = "The security token included in the request is invalid"
            return caller, Refusal("InvalidClientTokenId", text, 403)
        if caller.expires <= self.clock():
            if service == "ec2":
                return caller, Refusal("RequestExpired", "Request has expired.")
            text = "The security token included in the request is expired"
            return caller, Refusal("ExpiredToken", text, 403)
        return caller, None

    def _account_of(self, key: str) -> str:
        known = self.callers.get(key)
        return str(known().account.account_id) if known else get_account_id_from(key)

    def patch(self, stack: ExitStack) -> None:
        """From now on requests of clients in this process, and to moto's server, come here."""
        original = BotocoreStubber.__call__

        def call(stubber: Any, event_name: str, request: Any, **kwargs: Any) -> Any:
            if not stubber.enabled:
                return None
            moto = partial(original, stubber, event_name, request, **kwargs)
            return self._from_client(request, moto)

        stack.enter_context(patch.object(BotocoreStubber, "__call__", call))
        for service, responses in (("ec2", EC2Response), ("sts", TokenResponse)):
            dispatch = self._dispatch(service, responses._dispatch)
            stack.enter_context(patch.object(responses, "_dispatch", dispatch))
        stack.enter_context(patch("moto.iam.models.get_account_id_from", self._account_of))

    def _dispatch(self, service: str, original: Any) -> Any:
        """In place of the method by which moto's server comes to a service."""

        def dispatch(response: Any, request: Any, full_url: Any = None, headers: Any = None) -> Any:
            moto = partial(original, response, request, full_url, headers)
            if getattr(self._local, "inside", False):
                return moto()
            region = response.get_region_from_url(request, full_url or request.url)
            try:
                return self._request(service, region, request.headers, dict(request.form), moto)
            except BotoCoreError as error:
                return _failure(service, Refusal("ServiceUnavailable", str(error), 503))

        return dispatch

    def _from_client(self, request: Any, moto: Callable[[], Any]) -> Any:
        """One HTTP attempt of a botocore client in this process."""
        host = urlsplit(request.url).netloc
        if not re.search(r"\.amazonaws\.com(\.cn)?$", host):
            return moto()  # to a server, which logs it itself
        service, region = host.split(".")[:2]
        values = {"Action": _text(request.headers.get("X-Amz-Target", request.method))}
        if service in ("ec2", "sts"):
            values = dict(parse_qsl(_text(request.body or ""), keep_blank_values=True))
        result = self._request(service, region, request.headers, values, moto)
        if isinstance(result, tuple):
            status, headers, text = result
            return AWSResponse(request.url, status, headers, MockRawResponse(text))
        return result

    def _request(
        self,
        service: str,
        region: str,
        headers: Mapping[str, Any],
        values: dict[str, str],
        moto: Callable[[], Any],
    ) -> Any:
        looking = LOOKING in _text(headers.get("User-Agent", ""))
        caller, objection = self._caller(service, headers)
        action = values["Action"].rpartition(".")[2]
        parameters = _read(service, action, values) if service in ("ec2", "sts") else {}
        perform = None
        if service == "ec2" and region == self.region:
            perform = caller.account._answers(action)
        elif (service, action) == ("sts", "AssumeRole"):
            perform = partial(caller.account._assume_role, caller)
        operation = action if service == "ec2" else f"{service}:{action}"

        def answer() -> Any:
            if perform is None:
                return self._locked(moto, caller, action)
            with self.lock:
                try:
                    return _success(service, action, perform(parameters, looking))
                except Refusal as refusal:
                    return _failure(service, refusal)

        if looking:
            return answer()
        call = Call(operation, parameters, perf_counter(), caller.account.account_id)
        return self._attempt(call, caller, objection, answer)

    def _locked(self, moto: Callable[[], Any], caller: Caller, action: str) -> Any:
        with self.lock:
            self._local.inside = True
            try:
                response = moto()
            finally:
                self._local.inside = False
            if not action.startswith(("Describe", "Get")):
                caller.account._tidy()
            return response

    def _attempt(
        self, call: Call, caller: Caller, objection: Refusal | None, answer: Callable[[], Any]
    ) -> Any:
        account, service = caller.account, call.operation.rpartition(":")[0] or "ec2"
        with self.log_lock:
            self.calls.append(call)
        try:
            if latency := self.first.latency if account.latency is None else account.latency:
                sleep(latency)
            for gate in list(account.gates):
                gate(call.operation, call.parameters)
            lost = account._misbehave(call.operation, call.parameters)
            if objection is not None:
                raise objection
            account._check_permissions(call.operation, call.parameters, caller)
            response = answer()
            if lost is not None:
                raise lost
        except Refusal as refusal:
            response = _failure(service, refusal)
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


class Requests:
    """What an account says to requests with its credentials before it looks at what they ask:
    faults, denials; and what has been asked.
    """

    def _misbehave(self, operation: str, parameters: dict[str, Any]) -> Exception | None:
        """Raise what a fault asks for; or return it, if AWS is to act before the answer is lost."""
        with self._log_lock:
            fault = next((one for one in self._faults if one.fires(operation, parameters)), None)
        if fault is None:
            return None
        error = fault.make()
        if fault.lose_answer:
            return error
        raise error

    def _check_permissions(
        self, operation: str, parameters: dict[str, Any], caller: Caller
    ) -> None:
        needed = [(operation if ":" in operation else f"ec2:{operation}", "")]
        if operation == CREATE_SESSION:
            arn = f"arn:aws:ec2:{self.region}:{self.account_id}:"
            interface = f"{arn}network-interface/{parameters['NetworkInterfaceId']}"
            needed = [(f"ec2:{operation}", interface)]
            if parameters.get("TagSpecifications"):
                needed.append(("ec2:CreateTags", f"{arn}traffic-mirror-session/*"))
        for action, resource in needed:
            for pattern, policy in self._denied.items():
                if fnmatch.fnmatchcase(action, pattern):
                    if ":" in operation:
                        raise access_denied(caller, action, parameters.get("RoleArn", "*"), policy)
                    message = self._denial(caller, action, resource, policy)
                    raise Refusal("UnauthorizedOperation", message, 403)

    @staticmethod
    def _denial(caller: Caller, action: str, resource: str, policy: str | None) -> str:
        """AWS's words. For calls that read it names no resource and encodes nothing."""
        words = ["You are not authorized to perform this operation."]
        if policy is not None:
            words += [f"User: {caller.arn} is not authorized to perform: {action}"]
            if resource:
                words += [f"on resource: {resource}"]
            words += [_reason(action, policy)]
        if resource:
            words[-1] += "." if policy else ""
            words += [f"Encoded authorization failure message: {'4sT-bS0x_Qe7' * 60}"]
        return " ".join(words)

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
        self._fault(Fault(operation, lambda: Refusal(code, message, status), **which))

    def refuse(
        self, interface_id: str, code: str, message: str = "", *, status: int = 400, times: int = 1
    ) -> None:
        """The next `times` creates of a session for this interface are refused with this code."""

        def concerned(parameters: dict[str, Any]) -> bool:
            return bool(parameters["NetworkInterfaceId"] == interface_id)

        how: dict[str, Any] = {"message": message, "status": status, "times": times}
        self.fail(CREATE_SESSION, code, where=concerned, **how)

    def time_out(self, operation: str, *, connect: bool = False, **which: Any) -> None:
        """As `fail`, but no answer arrives in time; `connect`: no connection either."""
        service = operation.rpartition(":")[0] or "ec2"
        url = f"https://{service}.{self.region}.amazonaws.com/"
        kind = ConnectTimeoutError if connect else ReadTimeoutError
        self._fault(Fault(operation, lambda: kind(endpoint_url=url, error="simulated"), **which))

    def _fault(self, fault: Fault) -> None:
        with self._log_lock:
            self._faults.append(fault)

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

    def count(self, operation: str | None = None, account: str | None = None) -> int:
        """How many attempts there were, in all accounts or with this one's credentials."""
        with self._log_lock:
            return sum(
                operation in (None, call.operation) and account in (None, call.account)
                for call in self.calls
            )

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
