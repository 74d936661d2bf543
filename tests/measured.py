"""The branch coverage of the module, without the price of tracing everybody else.

Below Python 3.14 coverage is told of every line that runs, and nearly all of them are botocore's
and moto's: the tests would take twice as long. So it pauses outside the handler, and there while
botocore makes a client, a request or sense of an answer.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

from botocore.auth import SigV4Auth
from botocore.client import BaseClient
from botocore.endpoint import Endpoint
from botocore.session import Session

OF_OTHERS = (
    (Session, "create_client"),
    (BaseClient, "_convert_to_request_dict"),
    (BaseClient, "_resolve_endpoint_ruleset"),
    (SigV4Auth, "add_auth"),
    (Endpoint, "_get_response"),
)


def _switched(function: Callable[..., Any], tracer: Callable[[], Any], on: bool) -> Any:
    """The function with tracing switched on, or off, until it returns."""

    @wraps(function)
    def switched(*arguments: Any, **options: Any) -> Any:
        trace = tracer()
        if trace is None:
            return function(*arguments, **options)
        # settrace has to be called in this frame, and only the next call makes coverage's tracer
        # the one in C again: calls and returns that it counts must stay in balance.
        sys.settrace(trace if on else None)
        _begin()
        try:
            return function(*arguments, **options)
        finally:
            sys.settrace(None if on else trace)
            _begin()

    return switched


def _begin() -> None:
    """The call that a tracer begins with."""


def measure(module: Any) -> None:
    """From here on coverage, if it is at work, measures the module's handler alone."""
    trace = sys.gettrace()
    if trace is None:  # nobody measures, or without tracing
        return
    sys.settrace(None)

    def here() -> Any:
        own = threading.current_thread() is threading.main_thread() and sys.gettrace() is None
        return trace if own else None  # other threads are traced from their beginning

    module.lambda_handler = _switched(module.lambda_handler, here, on=True)
    for owner, name in OF_OTHERS:
        setattr(owner, name, _switched(getattr(owner, name), sys.gettrace, on=False))
