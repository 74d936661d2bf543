"""An `aws` command that carries answers: an account in memory behind the AWS CLI's interface.

The command itself is a few lines that send their arguments to this process and print what comes
back. So a test can look into the account, and make a call fail, while a script runs. Queries are
evaluated by jmespath, page by page as the AWS CLI does with `--output text`, and every call is held
to botocore's model of the service, so that a misspelt operation, option or field is noticed.

    with FakeAws(folder) as aws:
        aws.targets["tmt-1"] = aws.account
        aws.fail("s3 cp", "AccessDenied")
        subprocess.run(["deploy/deploy.sh", ...], env={"PATH": str(folder)})
        assert aws.made("cloudformation deploy") == []
"""

from __future__ import annotations

import base64
import hashlib
import socketserver
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
import jmespath
from botocore import xform_name
from cloudformation import ParameterError, check_parameter, load

# In bash, which starts ten times as fast as Python: a script makes a dozen calls. Everything that
# is sent ends with a NUL: variables, an empty text, arguments; then status, output and errors.
COMMAND = r"""#!/usr/bin/env bash
exec 3<>/dev/tcp/127.0.0.1/{port}
for name in AWS_REGION AWS_DEFAULT_REGION AWS_PAGER AWS_RETRY_MODE AWS_MAX_ATTEMPTS; do
  [ -z "${{!name+set}}" ] || printf '%s\0' "$name=${{!name}}" >&3
done
printf '%s\0' '' "$@" {end} >&3
IFS= read -r -d '' status <&3
IFS= read -r -d '' out <&3
IFS= read -r -d '' err <&3
printf '%s' "$out"
printf '%s' "$err" >&2
exit "$status"
"""

END = "the-end-of-the-call"

# Commands that the AWS CLI adds to what the services' models have, with their options.
OF_THE_CLI = {
    "configure get": set(),
    "s3 cp": {"only-show-errors"},
    "s3 ls": set(),
    "cloudformation deploy": {
        *("stack-name", "template-file", "capabilities", "parameter-overrides", "tags", "role-arn"),
        *("no-fail-on-empty-changeset", "no-execute-changeset", "notification-arns"),
    },
    "cloudformation wait": {"stack-name"},
}
GLOBAL = {"query", "output", "no-paginate", "region"}
# Of these the AWS CLI reads one page after the other by itself.
PAGED = {
    "ec2 describe-traffic-mirror-targets": "TrafficMirrorTargets",
    "ec2 describe-traffic-mirror-filters": "TrafficMirrorFilters",
    "ec2 describe-traffic-mirror-sessions": "TrafficMirrorSessions",
    "cloudformation describe-stack-events": "StackEvents",
}


class Refused(Exception):
    """AWS refuses a call: its code and what the AWS CLI prints."""

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(code)
        self.code, self.message = code, message or f"{code} was planted."


@dataclass
class Call:
    """One call of the command."""

    args: list[str]
    options: dict[str, list[str]]  # arguments that begin with `--`, each with its values
    environment: dict[str, str]  # the variables of AWS that the script has set

    @property
    def command(self) -> str:
        """Service and operation."""
        return " ".join(self.args[:2])

    def __getitem__(self, option: str) -> str:
        (value,) = self.options[option]
        return value


@dataclass
class Stack:
    """A stack: what is told of it, and how its next operation ends."""

    status: str
    parameters: dict[str, str]
    outputs: dict[str, str]
    stack_id: str = "arn:aws:cloudformation:eu-west-1:123456789012:stack/traffic-mirror/1"
    events: list[tuple[str, str, str | None]] = field(default_factory=list)


@dataclass
class Bucket:
    """A bucket, with the metadata of nothing: keys are all that scripts look at."""

    region: str
    keys: set[str] = field(default_factory=set)
    shows_region: bool = True  # older versions of the AWS CLI leave BucketRegion out


@dataclass
class _Fault:
    command: str
    code: str | None
    message: str
    left: float
    where: Callable[[Call], bool]


class FakeAws:
    """The account, and the command that speaks for it, in a folder on the PATH of the script."""

    account = "123456789012"
    page_size = 2

    def __init__(self, folder: Path) -> None:
        self.region = "eu-west-1"  # that the AWS CLI is configured for
        self.buckets = {"my-bucket": Bucket("eu-west-1")}
        self.targets: dict[str, str] = {}  # ID and owner
        self.filters: list[str] = []
        self.sessions: dict[str, dict[str, Any]] = {}
        self.queues: set[str] = set()
        self.stack: Stack | None = None
        self.ends: str | None = None  # how a deployment ends, where it is not well
        self.failures: list[tuple[str, str]] = []  # resources and reasons, in order of time
        self.code_sha256: str | None = None  # of the function, where it is not that of the zip
        self.calls: list[Call] = []
        self.after: dict[str, Callable[[], None]] = {}  # happens once, after a call of a command
        self.errors: list[str] = []  # of the scripts, or of this; a test has none
        self._sessions_made = 0
        self._faults: list[_Fault] = []
        self._lock = threading.Lock()
        self._folder = folder

    def __enter__(self) -> FakeAws:
        fake = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                said: list[str] = []
                text = b""
                while said[-1:] != [END]:
                    text += self.rfile.read1()
                    *complete, text = text.split(b"\0")
                    said += [one.decode() for one in complete]
                for part in fake._answer(said[:-1]):
                    self.wfile.write(f"{part}\0".encode())

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        command = self._folder / "aws"
        port = self._server.server_address[1]
        command.write_text(COMMAND.format(port=port, end=END), encoding="utf-8")
        command.chmod(0o755)
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        assert self.errors == []

    # What tests plant and look at

    def fail(
        self,
        command: str,
        code: str | None,
        message: str = "",
        *,
        times: float = float("inf"),
        where: Callable[[Call], bool] = lambda _: True,
    ) -> None:
        """Makes calls of a command (`s3 cp`) fail, so many times, those that `where` picks.

        Without an error code of AWS no answer comes, and only the message is printed.
        """
        self._faults.append(_Fault(command, code, message, times, where))

    def made(self, command: str) -> list[Call]:
        """The calls of a command, in order."""
        return [call for call in self.calls if call.command == command]

    def add_session(
        self,
        interface: str,
        target: str,
        filter_id: str,
        *,
        owner: str | None = None,
        label: str | None = None,
    ) -> str:
        """Adds a session as the function makes it, or with other owner or Name; returns its ID."""
        self._sessions_made += 1
        session = f"tms-{self._sessions_made:017x}"
        label = f"eh-mirror-{interface[4:8]}{target[4:8]}" if label is None else label
        tags = [{"Key": "team", "Value": "x"}] + [{"Key": "Name", "Value": label}] * bool(label)
        self.sessions[session] = {
            "TrafficMirrorSessionId": session,
            "NetworkInterfaceId": interface,
            "TrafficMirrorTargetId": target,
            "TrafficMirrorFilterId": filter_id,
            "OwnerId": owner or self.account,
            "Tags": tags,
        }
        return session

    def deployed(self, **parameters: str) -> Stack:
        """A stack that a deployment has left, with these parameters and the template's outputs."""
        values = {
            "CodeBucket": "my-bucket",
            "CodeKey": f"lambda_traffic_mirror/1.0.0-{'0' * 64}.zip",
            **parameters,
        }
        outputs = {name: f"output {name}" for name in load()["Outputs"]}
        outputs |= {
            "FunctionName": "traffic-mirror-Function",
            "FilterId": values.get("FilterId") or "tmf-made",
            "DeadLetterQueueUrl": "https://sqs/dead",
            "FailedSweepQueueUrl": "https://sqs/sweeps",
        }
        self.stack = Stack("CREATE_COMPLETE", values, outputs)
        self._event("traffic-mirror", "CREATE_COMPLETE")
        return self.stack

    # The command

    def _answer(self, said: list[str]) -> tuple[int, str, str]:
        call = parsed(said)
        with self._lock:
            self.calls.append(call)
            try:
                check_call(call)
                self._refuse_what_is_planted(call)
                out = self._text(call)
            except Refused as refused:
                return _failure(call, refused)
            except Exception as error:  # noqa: BLE001 - shown where the test can see it
                self.errors.append(f"{call.args}: {error!r}")
                return 99, "", f"fake_aws: {error!r}\n"
            finally:
                if happens := self.after.pop(call.command, None):
                    happens()
        return 0, out, ""

    def _refuse_what_is_planted(self, call: Call) -> None:
        for fault in self._faults:
            if fault.command == call.command and fault.left > 0 and fault.where(call):
                fault.left -= 1
                raise Refused(fault.code or "", fault.message)

    def _text(self, call: Call) -> str:
        name = "_" + call.command.replace(" ", "_").replace("-", "_")
        answer = getattr(self, name)(call)
        if isinstance(answer, str):
            return answer
        if key := PAGED.get(call.command):
            size = self.page_size
            # An empty answer is a page, too, and EC2 may add an empty one.
            rows = answer[key]
            pages = [{key: rows[at : at + size]} for at in range(0, len(rows) + 1, size)]
            answers = pages[:1] if "no-paginate" in call.options else pages
        else:
            answers = [answer]
        assert call["output"] in ("text", "table")
        return "".join(_formatted(jmespath.search(call["query"], page)) for page in answers)

    # What it knows

    def _configure_get(self, _: Call) -> str:
        if not self.region:
            raise Refused("", "")
        return f"{self.region}\n"

    def _sts_get_caller_identity(self, _: Call) -> dict[str, Any]:
        return {"Account": self.account, "Arn": f"arn:aws:iam::{self.account}:user/operator"}

    def _ec2_describe_traffic_mirror_targets(self, _: Call) -> dict[str, Any]:
        rows = self.targets.items()
        views = [{"TrafficMirrorTargetId": target, "OwnerId": owner} for target, owner in rows]
        return {"TrafficMirrorTargets": views}

    def _ec2_describe_traffic_mirror_filters(self, _: Call) -> dict[str, Any]:
        return {"TrafficMirrorFilters": [{"TrafficMirrorFilterId": one} for one in self.filters]}

    def _ec2_describe_traffic_mirror_sessions(self, _: Call) -> dict[str, Any]:
        return {"TrafficMirrorSessions": list(self.sessions.values())}

    def _ec2_delete_traffic_mirror_session(self, call: Call) -> str:
        session = call["traffic-mirror-session-id"]
        if self.sessions.pop(session, None) is None:
            raise Refused("InvalidTrafficMirrorSessionId.NotFound")
        return ""

    def _ec2_delete_traffic_mirror_filter(self, call: Call) -> str:
        wanted = call["traffic-mirror-filter-id"]
        if any(one["TrafficMirrorFilterId"] == wanted for one in self.sessions.values()):
            raise Refused("TrafficMirrorFilterInUse")
        if wanted not in self.filters:
            raise Refused("InvalidTrafficMirrorFilterId.NotFound")
        self.filters.remove(wanted)
        return ""

    def _sqs_delete_queue(self, call: Call) -> str:
        if call["queue-url"] not in self.queues:
            raise Refused("AWS.SimpleQueueService.NonExistentQueue")
        self.queues.remove(call["queue-url"])
        return ""

    def _bucket(self, name: str) -> Bucket:
        if name not in self.buckets:
            raise Refused("404", "Not Found")
        return self.buckets[name]

    def _s3api_head_bucket(self, call: Call) -> dict[str, Any]:
        bucket = self._bucket(call["bucket"])
        return {"BucketRegion": bucket.region} if bucket.shows_region else {}

    def _s3api_get_bucket_location(self, call: Call) -> dict[str, Any]:
        region = self._bucket(call["bucket"]).region
        return {"LocationConstraint": None if region == "us-east-1" else region}

    def _s3api_head_object(self, call: Call) -> dict[str, Any]:
        if call["key"] not in self._bucket(call["bucket"]).keys:
            raise Refused("404", "Not Found")
        return {"ContentLength": 11}

    def _s3_cp(self, call: Call) -> str:
        name, _, key = call.args[3].removeprefix("s3://").partition("/")
        self._bucket(name).keys.add(key)
        return ""

    def _s3_ls(self, call: Call) -> str:
        name, _, prefix = call.args[2].removeprefix("s3://").partition("/")
        keys = sorted(key for key in self._bucket(name).keys if key.startswith(prefix))
        return "".join(f"2026-01-01 12:00:00      11 {key.removeprefix(prefix)}\n" for key in keys)

    def _lambda_get_function_configuration(self, call: Call) -> dict[str, Any]:
        assert call["function-name"] == "traffic-mirror-Function"
        assert self.stack is not None
        return {"CodeSha256": self.code_sha256 or sha256_in_key(self.stack.parameters["CodeKey"])}

    def _found(self, call: Call) -> Stack:
        asked = call["stack-name"]
        stack = self.stack
        if stack is None or asked not in ("traffic-mirror", "mine", stack.stack_id):
            raise Refused("ValidationError", f"Stack with id {asked} does not exist")
        return stack

    def _cloudformation_describe_stacks(self, call: Call) -> dict[str, Any]:
        stack = self._found(call)
        shown: dict[str, Any] = {
            "StackName": "traffic-mirror",
            "StackId": stack.stack_id,
            "StackStatus": stack.status,
        }
        for kind, values in (("Parameter", stack.parameters), ("Output", stack.outputs)):
            rows = [{f"{kind}Key": key, f"{kind}Value": value} for key, value in values.items()]
            shown |= {f"{kind}s": rows} if rows or kind == "Parameter" else {}
        return {"Stacks": [shown]}

    def _cloudformation_describe_stack_events(self, call: Call) -> dict[str, Any]:
        rows = [
            {
                "EventId": f"event-{number}",
                "LogicalResourceId": resource,
                "ResourceStatus": status,
                **({} if reason is None else {"ResourceStatusReason": reason}),
            }
            for number, (resource, status, reason) in enumerate(self._found(call).events)
        ]
        return {"StackEvents": rows[::-1]}

    def _event(self, resource: str, status: str, reason: str | None = None) -> None:
        assert self.stack is not None
        self.stack.events.append((resource, status, reason))

    def _cloudformation_deploy(self, call: Call) -> str:
        assert Path(call["template-file"]).is_file()
        given = dict(one.split("=", 1) for one in call.options["parameter-overrides"])
        stack = self.stack
        new = stack is None or stack.status == "REVIEW_IN_PROGRESS"
        values = {}
        # As the AWS CLI does it: what is not given keeps its value, or takes the default, and what
        # the template does not know is dropped.
        for name, declaration in load()["Parameters"].items():
            kept = {} if new or stack is None else stack.parameters
            value = given.get(name, kept.get(name, declaration.get("Default")))
            if value is None:
                raise Refused("ValidationError", f"Parameters: [{name}] must have values")
            try:
                check_parameter(name, declaration, str(value))
            except ParameterError as error:
                raise Refused("ValidationError", str(error)) from error
            values[name] = str(value)
        if "no-execute-changeset" in call.options:
            return "Changeset created successfully. Run the following command to review changes:\n"
        if not new and stack is not None and stack.parameters == values and not self.ends:
            return "\nNo changes to deploy. Stack traffic-mirror is up to date\n"
        events = [] if stack is None else stack.events
        if self.ends:
            kept = values if new or stack is None else stack.parameters
            self.stack = Stack(self.ends, kept, {}, events=events)
            for resource, reason in self.failures:
                self._event(resource, "CREATE_FAILED" if new else "UPDATE_FAILED", reason)
            self._event("traffic-mirror", self.ends)
            raise Refused("", "Failed to create/update the stack. Run the following command\n")
        made = self.deployed(**values)
        made.events[:0] = events
        made.status = "CREATE_COMPLETE" if new else "UPDATE_COMPLETE"
        return "\nSuccessfully created/updated stack - traffic-mirror\n"

    def _cloudformation_delete_stack(self, call: Call) -> str:
        stack = self._found(call)
        stack.status = self.ends or "DELETE_COMPLETE"
        for resource, reason in self.failures:
            self._event(resource, "DELETE_FAILED", reason)
        return ""

    def _cloudformation_wait(self, call: Call) -> str:
        assert call.args[2] == "stack-delete-complete"
        if self._found(call).status == "DELETE_FAILED":
            raise Refused(
                "", "Waiter StackDeleteComplete failed: Waiter encountered a terminal failure state"
            )
        self.stack = None
        return ""


def sha256_in_key(key: str) -> str:
    """The SHA-256 in the key of a zip as Lambda shows it; that of nothing where there is none."""
    digits = key.removesuffix(".zip")[-64:]
    try:
        return base64.b64encode(bytes.fromhex(digits)).decode()
    except ValueError:
        return base64.b64encode(hashlib.sha256(b"").digest()).decode()


def parsed(said: list[str]) -> Call:
    """The call that the command has sent: variables, an empty text, arguments."""
    at = said.index("")
    environment, arguments = dict(one.split("=", 1) for one in said[:at]), said[at + 1 :]
    options: dict[str, list[str]] = {}
    values: list[str] = []
    for argument in arguments:
        if argument.startswith("--"):
            values = options.setdefault(argument[2:], [])
        else:
            values.append(argument)
    return Call(arguments, options, environment)


@cache
def _model(service: str) -> Any:
    return botocore.session.get_session().get_service_model(
        {"s3api": "s3"}.get(service, service), None
    )


def check_call(call: Call) -> None:
    """Holds a call to what the AWS CLI takes, which follows from the models of the services."""
    if call.command in OF_THE_CLI:
        assert set(call.options) <= OF_THE_CLI[call.command] | GLOBAL, call
        return
    service, operation = call.args[:2]
    model = _model(service)
    names = {xform_name(name, "-"): name for name in model.operation_names}
    shape = model.operation_model(names[operation]).input_shape
    members = {xform_name(name, "-") for name in shape.members} if shape else set()
    assert set(call.options) <= members | GLOBAL, call
    required = {xform_name(name, "-") for name in shape.required_members} if shape else set()
    assert required <= set(call.options), call


def _failure(call: Call, refused: Refused) -> tuple[int, str, str]:
    if not refused.code:
        # A call that the AWS CLI does not understand has a status of its own.
        status = 252 if refused.message.startswith("Unknown options") else 255
        return status, "", f"\n{refused.message}\n" if refused.message else ""
    operation = {"s3 cp": "PutObject", "cloudformation deploy": "CreateChangeSet"}.get(
        call.command, call.args[1].title().replace("-", "")
    )
    text = f"An error occurred ({refused.code}) when calling the {operation} operation: "
    if call.command == "cloudformation wait":
        text = f"Waiter StackDeleteComplete failed: An error occurred ({refused.code}): "
    return 254, "", f"\n{text}{refused.message}\n"


def _formatted(value: Any) -> str:
    """What `--output text` makes of texts and lists of them."""
    if not isinstance(value, list):
        return f"{value}\n"
    if not any(isinstance(each, list) for each in value):
        return "\t".join(str(each) for each in value) + "\n" if value else ""
    plain: Sequence[Any] = [each for each in value if not isinstance(each, list)]
    lists = [each for each in value if isinstance(each, list)]
    return (_formatted(plain) if plain else "") + "".join(map(_formatted, lists))
