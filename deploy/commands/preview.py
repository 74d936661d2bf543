"""Shows what the function would do in an account; only reads."""

import argparse
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from botocore.endpoint import Endpoint
from rich.console import Console

import lambda_traffic_mirror as function
from lambda_traffic_mirror import Configuration, ConfigurationError

from . import shown, stack, template
from .aws import Aws, Exit, Stop, asking
from .picture import PERMISSION, Sensor, Survey, own_words


class NotReadOnly(BaseException):
    """Something tried to change AWS. It is no `Exception`, so that no code takes it for an error
    of AWS and goes on."""


def check_reading(service: str, operation: str) -> None:
    """Raise NotReadOnly if the operation does anything but read."""
    # The last two fetch credentials of profiles with SSO or `aws login`, which is botocore's doing.
    gives_credentials = ("sts.AssumeRole", "sso-oidc.CreateToken", "signin.CreateOAuth2Token")
    reads = operation.startswith(("Describe", "Get"))
    if not reads and not f"{service}.{operation}".startswith(gives_credentials):
        raise NotReadOnly(f"A preview only reads, and {service}:{operation} was about to be sent.")


@contextmanager
def read_only() -> Iterator[list[str]]:
    """While it lasts, nothing but reading leaves this process, whichever client asks, and what the
    function warns of is gathered."""
    # Every call of every client goes through here, to STS and for credentials as well.
    make_request, messages = Endpoint.make_request, []

    def guarded(endpoint: Endpoint, operation: Any, request: Any) -> Any:
        check_reading(operation.service_model.service_id.hyphenize(), operation.name)
        return make_request(endpoint, operation, request)

    def keep(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            messages.append(own_words(record.getMessage()))
        return False

    Endpoint.make_request = guarded
    function.logger.addFilter(keep)
    try:
        yield messages
    finally:
        Endpoint.make_request = make_request
        function.logger.removeFilter(keep)


def survey(
    session: Any, environment: Mapping[str, str], note: Callable[[Any], None] = lambda _: None
) -> Survey:
    """Run the function's flow, with these variables, over the account of a session of boto3 and
    gather what comes out; nothing is created. `note` is called with each of its entries.

    Raises:
        ConfigurationError: a variable is wrong.
    """
    configuration = Configuration.from_environment(environment)
    # The function makes clients of its own, for which keys in variables come before a profile.
    os.environ["AWS_REGION"] = os.environ["AWS_DEFAULT_REGION"] = session.region_name
    profile = session.profile_name
    if profile in session.available_profiles and session.get_credentials().method != "env":
        os.environ["AWS_PROFILE"] = profile
        os.environ.pop("AWS_ACCESS_KEY_ID", None)
    hosts = {}
    with read_only() as messages:
        account = session.client("sts").get_caller_identity()["Account"]
        sweep = function.Request(event_id="preview", dry_run=True, sweep=True)
        mirroring = function.Mirroring(configuration, function.Deadline(None), account, sweep=True)
        found = Survey(account, session.region_name)
        for entry in mirroring.entries(function.Work.of([sweep])):
            found.known = found.known or sensors_of(mirroring.region)
            found.add(entry._replace(reason=own_words(entry.reason)))
            note(entry)
            if entry.outcome == "skipped" and entry.source:  # a sensor's instance, perhaps
                hosts[entry.instance_id] = entry.source
    for target_id, sensor in found.known.items():
        if host := hosts.get(sensor.host_id):
            named = sensor._replace(name=host.tags.get("Name", ""), size=host.instance_type)
            found.known[target_id] = named
    if why := mirroring.region.why_no_targets:
        found.remarks.append(f"{why.capitalize()}.")
    found.remarks += dict.fromkeys(messages)
    return found


def sensors_of(region: Any) -> dict[str, Sensor]:
    """What is known of the configured targets, in their order."""
    found = {}
    for target_id, faces in region.sensors.items():
        target, hidden = faces[0].sensor.target, faces[0].sensor.hidden_sessions
        hosts = [face.interface.host_id for face in faces if face.interface.host_id]
        known = isinstance(target, function.Target)
        found[target_id] = Sensor(
            target_id,
            zone=", ".join(sorted({face.interface.zone for face in faces} - {None})),
            vpc_id=", ".join(sorted({face.interface.vpc_id for face in faces} - {None})),
            owner=(target.owner_id or "") if known else "",
            host_id=hosts[0] if len(hosts) == 1 else "",
            now=region.sessions.per_target[target_id] + (hidden if isinstance(hidden, int) else 0),
            limited=not known or not target.descriptions,
        )
    return found


def variable_names() -> dict[str, str]:
    """The function's variables by the parameters that the template sets them from: LOCAL_ZONE_ONLY
    by LocalZoneOnly."""
    properties = template.template()["Resources"]["Function"]["Properties"]
    return {name.title().replace("_", ""): name for name in properties["Environment"]["Variables"]}


def given_by(options: argparse.Namespace) -> dict[str, str]:
    """The function's variables that a call sets, by their own or their parameters' names."""
    names = variable_names()
    given: dict[str, str] = {}
    pairs = [("targets", "=", options.targets), ("filter_id", "=", options.filter)]
    for name, equals, value in (*pairs, *(text.partition("=") for text in options.variables)):
        variable = names.get(name, name)
        if variable not in names.values() or not equals:
            text = f"{name}{equals}{value} sets no variable of the function: "
            raise Stop(Exit.WRONG, text + ", ".join(names.values()))
        if value is not None:
            given[variable] = value
    if not (given.get("targets") or options.stack or function.TARGETS):
        raise Stop(Exit.WRONG, "--targets is missing, or the --stack whose targets are meant")
    return given


def environment_of(parameters: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """The function's variables: those given, else as the template sets them from parameters."""
    names = variable_names()
    variables = {names[key]: value for key, value in parameters.items() if key in names}
    variables["targets"] = f"{parameters.get('Targets', '')} {parameters.get('TargetAccounts', '')}"
    # A preview does not look at the filter, which a stack may have made itself.
    return {**variables, "filter_id": "tmf-any", **given}


def run(options: argparse.Namespace) -> Exit:
    """Look at the account and show it; how it ended."""
    files = [path for path in (options.html, options.json) if path]
    new = [path for path in files if not path.exists()]
    try:
        given = given_by(options)
        declared = template.parameters().items()
        parameters = {name: str(row.get("Default", "")) for name, row in declared}
        environment = environment_of(parameters, {"targets": "tmt-any", **given})
        # What can be wrong is found before AWS is asked.
        Configuration.from_environment(environment)
        for path in files:
            path.open("a").close()
        with asking(options) as (aws, _):
            if options.stack:
                running = stack.read(aws, options.stack)
                parameters = running.parameters if running else {}
            return preview(aws, options, parameters, given)
    except OSError as error:
        raise Stop(Exit.WRONG, f"{error.filename} cannot be written: {error.strerror}") from error
    except (Stop, ConfigurationError) as error:
        raise Stop(Exit.WRONG, str(error)) from error
    finally:
        for path in new:  # never an empty picture
            if path.exists() and not path.stat().st_size:
                path.unlink()


def preview(
    aws: Aws, options: argparse.Namespace, parameters: dict[str, str], given: dict[str, str]
) -> Exit:
    """Look at the account and show it on the terminal and in files; how it ended."""
    if not parameters:
        raise Stop(Exit.WRONG, f"there is no stack {options.stack!r} in {aws.region}")
    environment = environment_of(parameters, given)
    entries: list[dict[str, Any]] = []

    def note(entry: Any) -> None:
        if options.json:
            entries.append(json.loads(own_words(json.dumps(entry.as_dict()))))

    with Console(stderr=True).status("Reading the account"):
        found = survey(aws.session, environment, note)
    failed = [each.reason for each in found.interfaces if each.outcome == "failed"]
    missing = dict.fromkeys(PERMISSION.findall(" ".join(found.unread + failed)))
    if found.unread and not found.interfaces:
        raise Stop(Exit.WRONG, f"AWS could not be asked. {found.unread[0]}")
    if Configuration.from_environment(environment).dry_run:
        found.remarks.append("DRY_RUN is on: the function plans sessions and creates none.")
    shown.draw(found, shown.console_for_output())
    if options.html:
        with options.html.open("w", encoding="utf-8") as file:
            file.writelines(shown.page(found))
    if options.json:
        summary = Counter(entry["outcome"] for entry in entries)
        rows = {"dry_run": True, "interfaces": entries, "summary": summary}
        rows["message"] = f"{shown.headline(found)}."
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    for path in filter(None, (options.html, options.json)):
        print(f"Written: {path}")
    if missing:
        raise Stop(Exit.WRONG, f"missing permission: {', '.join(missing)}")
    return Exit.DONE if found.complete else Exit.DARK
