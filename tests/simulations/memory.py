"""How much memory a sweep takes: in a process of its own, which asks moto's server.

    .venv/bin/python tests/simulations/memory.py [planned]

is that process: with the variables and AWS_ENDPOINT_URL in its environment it prints the most
bytes of Python's that were in use at once during the sweep, imports and client aside.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aws import SimulatedAccount

PROJECT = Path(__file__).resolve().parent.parent.parent


class Context:
    """Lambda's context object, with a quarter of an hour."""

    function_name = aws_request_id = "memory"
    invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:memory"

    def __init__(self) -> None:
        self._end = time.monotonic() + 900

    def get_remaining_time_in_millis(self) -> float:
        return 1_000 * (self._end - time.monotonic())


class Nowhere(io.TextIOBase):
    """Takes all that is written, and keeps nothing."""

    def write(self, text: str) -> int:
        return len(text)


@contextmanager
def served(account: SimulatedAccount) -> Iterator[str]:
    """The address of a server that answers for the account."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # it logs every request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def peak_of_sweep(address: str, filter_id: str, targets: list[str], *, planned: bool) -> int:
    """The bytes that a sweep needs at most; `planned`: as a dry run."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION")
    environment = {name: os.environ[name] for name in (*names, "AWS_DEFAULT_REGION")}
    variables = {"filter_id": filter_id, "targets": ",".join(targets), "INCLUDE_TAGS": "mirror"}
    done = subprocess.run(
        [sys.executable, __file__, *(["planned"] if planned else [])],
        env={**environment, **variables, "AWS_ENDPOINT_URL": address, "PYTHONHASHSEED": "0"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return int(done.stdout)


def main(*options: str) -> None:
    """Sweep, and print how many bytes were in use at most."""
    os.environ["AWS_LAMBDA_FUNCTION_NAME"] = "memory"  # the client is made during the import
    sys.path.insert(0, str(PROJECT))
    import lambda_traffic_mirror as module

    logging.getLogger().addHandler(logging.StreamHandler(Nowhere()))
    event = {"sweep": True, "dry_run": "planned" in options}
    tracemalloc.start()
    with contextlib.redirect_stdout(Nowhere()):
        module.lambda_handler(event, Context())
    print(tracemalloc.get_traced_memory()[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
