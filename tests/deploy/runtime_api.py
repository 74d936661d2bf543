"""What Lambda does around a function: the Runtime API, and a process that runs the function.

The process is AWS's own runtime client, awslambdaric. It asks the Runtime API for the next event,
calls the handler and posts the result or the error. Its log goes to a file descriptor of its own
in frames, as in Lambda, so that what the function prints stays apart from what it logs.

    with Runtime(task, provided, variables) as runtime:
        runtime.wait_until_ready()
        invocation = runtime.invoke({"detail": {"instance-id": "i-0123456789abcdef0"}})
        assert invocation.result["statusCode"] == 200
"""

from __future__ import annotations

import json
import os
import queue
import socketserver
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

ACCOUNT_ID = "123456789012"
REGION = "us-east-1"
FUNCTION_NAME = "traffic-mirror"
HANDLER = "lambda_traffic_mirror.lambda_handler"
SECRET_KEY = "the-secret-access-key"
SESSION_TOKEN = "the-session-token"
SECONDS = 60.0  # for anything that is waited for
PREFIX = "/2018-06-01/runtime/"


class RuntimeFailed(Exception):
    """The process ended, or did not answer in time; the message has what it wrote."""


@dataclass(frozen=True)
class Invocation:
    """What came of one event."""

    result: Any  # that the handler returned; None after an error
    error: dict[str, Any] | None  # `errorType`, `errorMessage`, `stackTrace`
    log: list[Any]  # of the meantime: objects in the JSON format, otherwise text
    printed: list[str]  # the lines of the meantime


@dataclass
class _Answer:
    request_id: str
    kind: str
    body: Any


@dataclass
class RuntimeApi:
    """Lambda's Runtime API on a port of this machine."""

    events: queue.Queue[tuple[dict[str, str], bytes] | None] = field(default_factory=queue.Queue)
    answers: queue.Queue[_Answer] = field(default_factory=queue.Queue)
    init_errors: queue.Queue[_Answer] = field(default_factory=queue.Queue)
    asked: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> RuntimeApi:
        api = self

        class Handler(_Handler):
            runtime_api = api

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.events.put(None)
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def address(self) -> str:
        """Host and port, as AWS_LAMBDA_RUNTIME_API names them."""
        host, port = self._server.server_address[:2]
        return f"{host}:{port}"


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A process that is ended while it waits is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    runtime_api: RuntimeApi

    def log_message(self, *arguments: object) -> None:
        """Stay quiet."""

    def do_GET(self) -> None:
        assert self.path == f"{PREFIX}invocation/next"
        self.runtime_api.asked.set()
        event = self.runtime_api.events.get()
        if event is None:  # the end
            self.close_connection = True
            return
        headers, body = event
        self._send(200, headers, body)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        match self.path.removeprefix(PREFIX).split("/"):
            case ["invocation", request_id, "response" | "error" as kind]:
                self.runtime_api.answers.put(_Answer(request_id, kind, body))
            case ["init", "error"]:
                self.runtime_api.init_errors.put(_Answer("", "init", body))
        self._send(202, {"Content-Type": "application/json"}, b'{"status": "OK"}')

    def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class Runtime:
    """An execution environment: a process with the variables that Lambda sets.

    `task` is the folder with the function's code, `provided` that with what the Lambda runtime
    adds, the runtime client above all. Plain text as `log_format` has no level.
    """

    def __init__(
        self,
        task: Path,
        provided: Path,
        variables: Mapping[str, str],
        *,
        log_format: str = "JSON",
        log_level: str | None = "INFO",
        timeout: float = 60,
        execution_env: str = "python3.13",
    ) -> None:
        self.timeout = timeout
        self._read = dict.fromkeys(("log", "out", "err"), 0)
        self._stack = ExitStack()
        self._command = [sys.executable, "-S", "-m", "awslambdaric", HANDLER]
        self._task = task
        self._environment = {
            "_HANDLER": HANDLER,
            "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
            # Lambda has no such files.
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EXECUTION_ENV": f"AWS_Lambda_{execution_env}",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
            "AWS_LAMBDA_FUNCTION_NAME": FUNCTION_NAME,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_FORMAT": log_format,
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{FUNCTION_NAME}",
            "AWS_LAMBDA_LOG_STREAM_NAME": "2026/01/01/[$LATEST]0123456789abcdef",
            "AWS_REGION": REGION,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_SESSION_TOKEN": SESSION_TOKEN,
            "LAMBDA_RUNTIME_DIR": str(provided),
            "LAMBDA_TASK_ROOT": str(task),
            "LANG": "en_US.UTF-8",
            "PATH": os.defpath,
            # The client adds the working folder, which is the function's, and Python its library.
            "PYTHONPATH": str(provided),
            "TZ": ":UTC",
            **({} if log_level is None else {"AWS_LAMBDA_LOG_LEVEL": log_level}),
            **variables,
        }

    def __enter__(self) -> Runtime:
        with ExitStack() as stack:
            self._api = stack.enter_context(RuntimeApi())
            # Files, not pipes: nobody has to empty them while the process runs.
            self._files = {
                name: stack.enter_context(tempfile.TemporaryFile()) for name in self._read
            }
            log = self._files["log"].fileno()
            environment = {
                **self._environment,
                "AWS_LAMBDA_RUNTIME_API": self._api.address,
                "_LAMBDA_TELEMETRY_LOG_FD": str(log),
            }
            self._process = subprocess.Popen(
                self._command,
                cwd=self._task,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=self._files["out"],
                stderr=self._files["err"],
                pass_fds=[log],
            )
            stack.callback(self._end)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def wait_until_ready(self) -> None:
        """Waits for the end of the init phase, when the process asks for its first event."""
        self._wait(lambda: self._api.asked.wait(0.05) or None)

    def init_error(self) -> dict[str, Any]:
        """Waits for the error that the init phase ends with, and for the end of the process."""
        error: dict[str, Any] = self._wait(lambda: _taken(self._api.init_errors)).body
        self._process.wait(SECONDS)
        return error

    def invoke(self, event: Any, timeout: float | None = None) -> Invocation:
        """Sends an event and waits for what comes of it in so many seconds, or as many as usual."""
        timeout = self.timeout if timeout is None else timeout
        request_id = str(uuid.uuid4())
        headers = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": request_id,
            "Lambda-Runtime-Deadline-Ms": str(int(1000 * (time.time() + timeout))),
            "Lambda-Runtime-Invoked-Function-Arn": (
                f"arn:aws:lambda:{REGION}:{ACCOUNT_ID}:function:{FUNCTION_NAME}"
            ),
            "Lambda-Runtime-Trace-Id": "Root=1-5e1b4151-5ac6c58f3f3e8a1d2f5e7d3b;Sampled=0",
        }
        for name in ("log", "out"):  # forget what was written before
            self._new(name)
        self._api.events.put((headers, json.dumps(event).encode()))
        answer = self._wait(lambda: _taken(self._api.answers))
        assert answer.request_id == request_id
        failed = answer.kind == "error"
        # The answer is the last thing that the process sends, so its output is complete.
        return Invocation(
            result=None if failed else answer.body,
            error=answer.body if failed else None,
            log=self.log(),
            printed=self._new("out").decode().splitlines(),
        )

    def log(self) -> list[Any]:
        """What has been logged since the last look."""
        return [_record(text) for text in _frames(self._new("log"))]

    def stderr(self) -> str:
        """All that the process wrote to standard error."""
        return self._all("err").decode()

    def _wait(self, look: Callable[[], T | None]) -> T:
        """What `look` finds; it is called until it finds something."""
        end = time.monotonic() + SECONDS
        while True:
            running = self._process.poll() is None
            found = look()
            if found is not None:
                return found
            if not running or time.monotonic() > end:
                why = "did not answer in time" if running else "ended"
                output = b"".join(map(self._all, self._files))
                raise RuntimeFailed(f"The process {why}: {output.decode(errors='replace')}")

    def _all(self, name: str) -> bytes:
        """The content of a file, read without moving the place where the process writes."""
        descriptor = self._files[name].fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)

    def _new(self, name: str) -> bytes:
        """What a file has gained since the last look."""
        data = self._all(name)[self._read[name] :]
        self._read[name] += len(data)
        return data


def _taken(answers: queue.Queue[_Answer]) -> _Answer | None:
    """What is in the queue, or comes within a moment."""
    try:
        return answers.get(timeout=0.05)
    except queue.Empty:
        return None


def _frames(data: bytes) -> list[str]:
    """The messages in Lambda's log frames: kind, length, time in microseconds, text."""
    messages = []
    while data:
        kind, length, _ = struct.unpack(">IIQ", data[:16])
        assert kind >> 16 == 0xA55A, hex(kind)
        messages.append(data[16 : 16 + length].decode())
        data = data[16 + length :]
    return messages


def _record(text: str) -> Any:
    """A JSON record as an object, other text as it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text
