"""An execution environment of Lambda: AWS's own runtime client, awslambdaric, in a process.

The client asks the Runtime API for the next event, calls the handler and posts what comes of it.
Here is that API, as far as the client uses it.

    with Runtime(task, provided, variables) as runtime:
        invocation = runtime.invoke({"detail": {"instance-id": "i-0123456789abcdef0"}})
        assert invocation.result["statusCode"] == 200
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FUNCTION_NAME = "traffic-mirror"
FUNCTION_ARN = f"arn:aws:lambda:us-east-1:123456789012:function:{FUNCTION_NAME}"
HANDLER = "lambda_traffic_mirror.lambda_handler"
SECRET_KEY = "the-secret-access-key"
SESSION_TOKEN = "the-session-token"
SECONDS = 60.0  # for anything that is waited for


@dataclass(frozen=True)
class Invocation:
    """What came of one event."""

    result: Any  # that the handler returned; None after an error
    error: dict[str, Any] | None  # `errorType`, `errorMessage`, `stackTrace`
    log: list[Any]  # of the meantime: objects in the JSON format, otherwise text
    metrics: list[dict[str, Any]]  # documents in the embedded metric format


class _RuntimeApi(ThreadingHTTPServer):
    """Hands out events, and keeps what the client says: `next`, `response`, `error`, `init`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.events: queue.Queue[tuple[dict[str, str], Any] | None] = queue.Queue()
        self.said: queue.Queue[tuple[str, Any]] = queue.Queue()


class _Handler(BaseHTTPRequestHandler):
    server: _RuntimeApi

    def log_message(self, *arguments: object) -> None:
        """Stay quiet."""

    def do_GET(self) -> None:
        assert self.path.endswith("/runtime/invocation/next")
        self.server.said.put(("next", None))
        event = self.server.events.get()
        if event is not None:  # the end
            self._send(200, *event)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        *_, of, kind = self.path.split("/")
        self.server.said.put(("init" if of == "init" else kind, body))
        self._send(202, {}, {"status": "OK"})

    def _send(self, status: int, headers: Mapping[str, str], answer: Any) -> None:
        body = json.dumps(answer).encode()
        common = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        self.send_response(status)
        for name, value in {**common, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class Runtime(ExitStack):
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
        log_level: str = "INFO",
        timeout: float = 60,
    ) -> None:
        super().__init__()
        self.timeout = timeout
        self._task = task
        self._environment = {
            "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
            # Lambda has no such files.
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13",
            "AWS_LAMBDA_FUNCTION_NAME": FUNCTION_NAME,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_FORMAT": log_format,
            "AWS_REGION": "us-east-1",
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_SESSION_TOKEN": SESSION_TOKEN,
            "LAMBDA_TASK_ROOT": str(task),
            # The client adds the working folder, which is the function's, and Python its library.
            "PYTHONPATH": str(provided),
            **({"AWS_LAMBDA_LOG_LEVEL": log_level} if log_format == "JSON" else {}),
            **variables,
        }

    def __enter__(self) -> Runtime:
        self._api = self.enter_context(_RuntimeApi())
        threading.Thread(target=self._api.serve_forever, args=(0.05,), daemon=True).start()
        self.callback(self._api.shutdown)
        self.callback(self._api.events.put, None)
        # A file, not a pipe: nothing has to empty it while the process runs. What goes to standard
        # error stands out among the log records.
        written = self.enter_context(tempfile.NamedTemporaryFile())
        self._output = self.enter_context(Path(written.name).open(encoding="utf-8"))
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-m", "awslambdaric", HANDLER],
            cwd=self._task,
            env=self._environment
            | {"AWS_LAMBDA_RUNTIME_API": "{}:{}".format(*self._api.server_address)},
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
        )
        self.callback(self._process.wait)
        self.callback(self._process.kill)
        threading.Thread(target=self._tell_of_the_end, daemon=True).start()
        return self

    def _tell_of_the_end(self) -> None:
        self._process.wait()
        self._api.said.put(("ended", None))

    def _said(self, *kinds: str) -> tuple[str, Any]:
        """The next that the process says, which has to be of one of these kinds."""
        kind, body = self._api.said.get(timeout=SECONDS)
        assert kind in kinds, (kind, body, self.output())
        return kind, body

    def wait_until_ready(self) -> None:
        """Waits for the end of the init phase, when the process asks for its first event."""
        self._said("next")
        self._api.said.put(("next", None))

    def init_error(self) -> dict[str, Any]:
        """Waits for the error that the init phase ends with."""
        return dict(self._said("init")[1])

    def invoke(self, event: Any, timeout: float | None = None) -> Invocation:
        """Sends an event and waits for what comes of it in so many seconds, or as many as usual."""
        self._said("next")
        self.output()  # forget what was written before
        deadline = time.time() + (self.timeout if timeout is None else timeout)
        headers = {
            "Lambda-Runtime-Aws-Request-Id": str(uuid.uuid4()),
            "Lambda-Runtime-Deadline-Ms": str(int(1000 * deadline)),
            "Lambda-Runtime-Invoked-Function-Arn": FUNCTION_ARN,
        }
        self._api.events.put((headers, event))
        kind, body = self._said("response", "error")
        # The answer is the last thing that the process sends, so its output is complete.
        written = self.output()
        return Invocation(
            result=body if kind == "response" else None,
            error=body if kind == "error" else None,
            log=[one for one in written if "_aws" not in one],
            metrics=[one for one in written if "_aws" in one],
        )

    def output(self) -> list[Any]:
        """What has been logged and printed since the last look: objects, and lines of text."""
        return [json.loads(one) if one[0] == "{" else one for one in self._output if one.strip()]
