"""What the function would do in an account, before anything is deployed; see preview.sh --help.

It runs the function's own flow, as a sweep in a dry run, with the operator's credentials, and
shows what comes out. Nothing but reading leaves this process: see `read_only`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any, TextIO

from botocore.endpoint import Endpoint
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

import lambda_traffic_mirror as function
from commands import shown, template
from commands.aws import Aws, Exit, Stop, explained
from commands.picture import Sensor, Survey

PLACEHOLDER = "tmf-placeholder"  # a preview does not look at the filter
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
EPILOG = """\
NAME=VALUE sets any variable of the function, for example LOCAL_ZONE_ONLY=false. What is not given
is as the stack has it (--stack), or else as deploy.sh would deploy it.

Exit status: 0 if everything is mirrored or would be for certain; 3 if something would stay dark or
may not fit; 2 if the call is wrong, AWS cannot be asked or a permission is missing."""

# ======================================================================================
# Reading only
# ======================================================================================


class NotReadOnly(BaseException):
    """Something tried to change AWS. It is no `Exception`, so that no code takes it for an error
    of AWS and goes on."""


def check_reading(service: str, operation: str) -> None:
    """Let nothing but reading leave.

    Raises:
        NotReadOnly: the operation does something else.
    """
    name = f"{service}.{operation}"
    # The last two fetch credentials of profiles with SSO or `aws login`, which is botocore's doing.
    gives_credentials = ("sts.AssumeRole", "sso-oidc.CreateToken", "signin.CreateOAuth2Token")
    if not operation.startswith(("Describe", "Get")) and not name.startswith(gives_credentials):
        raise NotReadOnly(f"A preview only reads, and {service}:{operation} was about to be sent.")


@contextmanager
def read_only() -> Iterator[None]:
    """While it lasts, nothing but reading leaves this process, whichever client asks."""
    # Every call of every client goes through here, to STS and for credentials as well.
    make_request = Endpoint.make_request

    def guarded(endpoint: Endpoint, operation: Any, request: Any) -> Any:
        check_reading(operation.service_model.service_id.hyphenize(), operation.name)
        return make_request(endpoint, operation, request)

    Endpoint.make_request = guarded
    try:
        yield
    finally:
        Endpoint.make_request = make_request


# ======================================================================================
# The function's own flow
# ======================================================================================


def survey(
    session: Any, environment: Mapping[str, str], note: Callable[[Any], None] = lambda _: None
) -> Survey:
    """Run the function's flow over the account and gather what comes out; nothing is created.

    Args:
        session: of boto3: the account and Region.
        environment: the function's variables.
        note: called with each entry of the function.

    Raises:
        ConfigurationError: a variable is wrong.
        ClientError, BotoCoreError: AWS cannot be asked at all.
    """
    configuration = function.Configuration.from_environment(environment)
    with read_only(), warnings() as messages:
        account = session.client("sts").get_caller_identity()["Account"]
        own = function.Own(account, session.region_name)
        mirroring = function.Mirroring(configuration, function.Deadline(None), own)
        sweep = function.Request(event_id="preview", dry_run=True, sweep=True)
        gathered = Survey(account, session.region_name)
        for entry in mirroring.entries(function.Work.of([sweep], own)):
            gathered.known = gathered.known or sensors_of(mirroring.region)
            gathered.add(entry)
            note(entry)
        gathered.known = gathered.known or sensors_of(mirroring.region)
    gathered.remarks += messages
    return gathered


@contextmanager
def warnings() -> Iterator[list[str]]:
    """What the function warns of while it lasts, each once; its records go nowhere else."""
    messages: list[str] = []
    kept = MemoryHandler(10_000)
    propagate, function.logger.propagate = function.logger.propagate, False
    function.logger.addHandler(kept)
    try:
        yield messages
    finally:
        function.logger.removeHandler(kept)
        function.logger.propagate = propagate
        messages += dict.fromkeys(own_words(record.getMessage()) for record in kept.buffer)


def own_words(text: str) -> str:
    """What the function says, to an operator who asks AWS with credentials of his own."""
    return text.replace("the function's role", "your AWS identity")


def sensors_of(region: Any) -> dict[str, Sensor]:
    """What is known of the configured targets, in their order."""
    found = {}
    for target_id, sensor in region.sensors.items():
        places = [face.interface for face in sensor.faces]
        hosts = [face.host for face in sensor.faces if face.host]
        texts = (
            {host.tags.get("Name") for host in hosts},
            {host.instance_type for host in hosts},
            {place.zone for place in places},
            {place.vpc_id for place in places},
            {sensor.target and sensor.target.owner_id},
        )
        found[target_id] = Sensor(
            target_id,
            *(", ".join(sorted(filter(None, several))) for several in texts),
            region.sessions.per_target[target_id],
            bool(sensor.target and sensor.target.interface_id),
        )
    return found


# ======================================================================================
# The function's variables
# ======================================================================================


def known_variables() -> list[str]:
    """The names of the variables that the function reads."""
    asked = []

    class Noted(dict[str, str]):
        def get(self, name: str, default: Any = None) -> Any:
            asked.append(name)
            return super().get(name, default)

    function.Configuration.from_environment(Noted(filter_id="tmf-1", targets="tmt-1"))
    return sorted(asked)


def environment_of(options: argparse.Namespace, session: Any) -> dict[str, str]:
    """The function's variables: those given, else those of the stack or of a new deployment.

    Raises:
        Stop: a variable is none of the function's, or there is no such stack.
    """
    if options.stack:
        parameters = parameters_of_stack(session, options.stack)
    else:
        declared = template.parameters()
        parameters = {name: str(row.get("Default", "")) for name, row in declared.items()}
    known = known_variables()
    # The template gives the function each parameter as the variable of that name.
    variables = {re.sub("(?!^)([A-Z])", r"_\1", name).upper(): name for name in parameters}
    variables = {name: parameters[variables[name]] for name in known if name in variables}
    targets = (parameters.get("Targets", ""), parameters.get("TargetAccounts", ""))
    variables["targets"] = ",".join(filter(str.strip, targets))
    given = {}
    for setting in options.variables:
        name, equals, value = setting.partition("=")
        if not equals or name not in known:
            wrong = f"{setting!r} sets no variable of the function"
            raise Stop(Exit.WRONG, f"{wrong}. It has {', '.join(known)}")
        given[name] = value
    for option, name in (("targets", "targets"), ("filter", "filter_id")):
        value = getattr(options, option)
        if value and given.setdefault(name, value) != value:
            raise Stop(Exit.WRONG, f"--{option} and {name}= say different things")
    variables |= given
    if not variables["targets"].strip() and not function.TARGETS:
        raise Stop(Exit.WRONG, "--targets is missing, or --stack of a stack that is deployed")
    variables.setdefault("filter_id", PLACEHOLDER)
    return variables


def parameters_of_stack(session: Any, name: str) -> dict[str, str]:
    """The parameters of the stack as it runs.

    Raises:
        Stop: there is no such stack.
    """
    try:
        (stack,) = session.client("cloudformation").describe_stacks(StackName=name)["Stacks"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "ValidationError":
            raise
        where = f"there is no stack {name!r} in {session.region_name}"
        raise Stop(Exit.WRONG, f"{where}: {error}") from error
    return {row["ParameterKey"]: row["ParameterValue"] for row in stack.get("Parameters", ())}


# ======================================================================================
# Command line
# ======================================================================================


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What preview.sh takes besides the options that all commands have."""
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    more = parser.add_argument
    more("--targets", metavar="IDS", help="traffic mirror targets of your sensors, and accounts")
    more("--filter", metavar="ID", help="traffic mirror filter; a preview does not look at it")
    more("--html", metavar="FILE", type=Path, help="write the same as a page, with every interface")
    more("--json", metavar="FILE", type=Path, help="write every interface as the function's result")
    more("variables", metavar="NAME=VALUE", nargs="*", help="a variable of the function")


def run(options: argparse.Namespace) -> int:
    """Look at the account and show it; the exit status.

    Raises:
        Stop: the call is wrong, or AWS cannot be asked.
    """
    try:
        aws = Aws(options.profile, options.region)
        if options.profile:  # the function makes clients of its own, for which keys come first
            os.environ["AWS_PROFILE"] = options.profile
            for name in KEYS:
                os.environ.pop(name, None)
        aws.sign_in()
        return preview(options, aws.session)
    except (Stop, function.ConfigurationError) as error:
        raise Stop(Exit.WRONG, str(error)) from error
    except (ClientError, BotoCoreError) as error:
        raise Stop(Exit.WRONG, str(explained(error, aws))) from error


def preview(options: argparse.Namespace, session: Any) -> int:
    """Look at the account of a session and show it; the exit status."""
    environment = environment_of(options, session)
    with ExitStack() as files:
        html, entries = (opened(files, path) for path in (options.html, options.json))
        seen: Counter[str] = Counter()
        status = files.enter_context(Console(stderr=True).status("Reading"))

        if entries:
            entries.write('{"dry_run": true, "interfaces": [')

        def note(entry: Any) -> None:
            if entries:
                line = own_words(json.dumps(entry.as_dict()))
                entries.write(f",\n{line}" if seen else f"\n{line}")
            seen[entry.outcome] += 1
            status.update(f"Reading: {seen.total():,} interfaces")

        found = survey(session, environment, note)
        status.stop()
        if found.unread and not found.interfaces:
            raise Stop(Exit.WRONG, f"AWS could not be asked. {found.unread[0]}")
        if options.stack and function.Configuration.from_environment(environment).dry_run:
            found.remarks.append(f"The stack {options.stack} is on DRY_RUN and creates nothing.")
        shown.draw(found, shown.console_for_output())
        if html:
            html.writelines(shown.page(found))
        if entries:
            end = json.dumps({"summary": seen, "message": f"{found.headline()}."})
            entries.write(f"\n], {end[1:]}\n")
    for path in filter(None, (options.html, options.json)):
        print(f"Written: {path}")
    if found.lacking:
        raise Stop(Exit.WRONG, f"missing permission: {', '.join(found.lacking)}")
    return Exit.DONE if found.complete else Exit.DARK


def opened(files: ExitStack, path: Path | None) -> TextIO | None:
    """The file, opened before anything is read, so that a wrong name is told at once."""
    if path is None:
        return None
    try:
        return files.enter_context(path.open("w", encoding="utf-8"))
    except OSError as error:
        raise Stop(Exit.WRONG, f"{path} cannot be written: {error.strerror}") from None
