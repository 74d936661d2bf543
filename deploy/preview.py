"""What the function would do in an account, before anything is deployed; see preview.sh --help.

It runs the function's own flow, as a sweep in a dry run, with the operator's credentials, and
draws what comes out. Whatever happens, nothing but reading leaves it: see `read_only`.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple, TextIO

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import botocore.exceptions
import botocore.session
import page
from botocore.endpoint import Endpoint
from picture import Picture, Sensor, Terminal, draw

import lambda_traffic_mirror as function

PLACEHOLDER = "tmf-placeholder"
COVERED, WRONG, DARK = 0, 2, 3  # exit status


class Stop(Exception):
    """The call is wrong, or AWS cannot be asked; the message says what to mend."""


# ======================================================================================
# Reading only
# ======================================================================================

# What fetches or renews the operator's credentials (profiles with SSO or `aws login`). It is
# botocore's own doing and no act on the account.
SIGN_IN = frozenset({"sso-oidc.CreateToken", "signin.CreateOAuth2Token"})


class NotReadOnly(BaseException):
    """Something tried to change AWS. No `Exception`, so that nobody takes it for an error of AWS
    and goes on."""


def check_reading(service: str, operation: str) -> None:
    """Let nothing but reading leave.

    Raises:
        NotReadOnly: it is something else.
    """
    if operation.startswith(("Describe", "Get")) or f"{service}.{operation}" in SIGN_IN:
        return
    if service == "sts" and operation.startswith("AssumeRole"):
        return
    raise NotReadOnly(f"A preview only reads, and {service}:{operation} was about to be sent.")


@contextmanager
def read_only(tell: Callable[[Any, Mapping[str, Any]], None]) -> Iterator[None]:
    """While it lasts, nothing but reading leaves this process, whoever made the client.

    Args:
        tell: called with each request's parameters and its answer.
    """
    # The one door: every call of every client goes through it, to STS and for credentials as well.
    make_request = Endpoint.make_request

    def guarded(endpoint: Endpoint, operation: Any, request: Any) -> Any:
        check_reading(operation.service_model.service_id.hyphenize(), operation.name)
        response, parsed = make_request(endpoint, operation, request)
        tell(request.get("body"), parsed)
        return response, parsed

    Endpoint.make_request = guarded
    try:
        yield
    finally:
        Endpoint.make_request = make_request


# ======================================================================================
# Progress
# ======================================================================================


class Progress:
    """How far the reading is, on one line of a terminal that is written again and again."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.wanted = stream.isatty()
        self.started = self.shown = time.monotonic()
        self.pages = self.instances = self.interfaces = 0
        self.account: str | None = None

    def answered(self, parameters: Any, answer: Mapping[str, Any]) -> None:
        """AWS has answered a call. Of instances the running ones are read, page by page; those
        that host sensors are only looked up."""
        if "Reservations" in answer and "instance-state-name" in str(parameters):
            self.pages += 1
            for reservation in answer["Reservations"]:
                self.instances += len(reservation.get("Instances") or ())
                self.account = reservation.get("OwnerId") or self.account
        self.show()

    def judged(self) -> None:
        """An interface has its outcome."""
        self.interfaces += 1
        self.show()

    def show(self) -> None:
        """Show it, a few times a second at most."""
        now = time.monotonic()
        if self.wanted and now - self.shown > 0.1:
            self.shown = now
            self.stream.write(
                f"\rReading: {self.pages:,} pages, {self.instances:,} instances, "
                f"{self.interfaces:,} interfaces judged, {now - self.started:.0f} s \033[K"
            )
            self.stream.flush()

    def end(self) -> None:
        """Leave nothing on the line."""
        if self.wanted:
            self.stream.write("\r\033[K")
            self.stream.flush()


# ======================================================================================
# The function's own flow
# ======================================================================================


def own_words(text: str) -> str:
    """What the function says, for somebody who asks AWS with his own credentials."""
    return text.replace("the function's role", "your AWS identity")


def in_own_words(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry with its reasons in own words."""
    places = (entry, *entry["sensors"])
    if not any("the function's role" in place["reason"] for place in places):
        return entry
    sensors = [{**row, "reason": own_words(row["reason"])} for row in entry["sensors"]]
    return {**entry, "reason": own_words(entry["reason"]), "sensors": sensors}


class Survey:
    """The function's flow over a whole account. All that is known here of its insides is here."""

    def __init__(self, configuration: function.Configuration) -> None:
        self.mirroring = function.Mirroring(configuration, function.Deadline(None), function.Own())
        self.planned: Counter[str | None] = Counter()

    def entries(self) -> Iterator[dict[str, Any]]:
        """Every interface's entry as the result has it, page by page; nothing is created."""
        sweep = function.Request(event_id="preview", dry_run=True, sweep=True)
        for entry in self.mirroring.entries(function.Work.of([sweep], function.Own())):
            if entry.outcome == "planned":
                self.planned[entry.target_id] += 1
            yield in_own_words(entry.as_dict())

    def remarks(self) -> list[str]:
        """What there is to say of the configuration."""
        without = self.mirroring.accounts_without_targets()
        return [f"{function.no_targets_of(without).capitalize()}."] if without else []

    def sensors(self) -> list[Sensor]:
        """What is known of the configured targets."""
        region = self.mirroring.region
        found = {} if region.error else region.sensors.judged
        ids = function.asked(lambda: region.sensors.ids)
        known = () if isinstance(ids, function.Unanswered) else ids
        return [self._sensor(target_id, found) for target_id in known]

    def _sensor(self, target_id: str, found: Mapping[str, Any]) -> Sensor:
        region = self.mirroring.region
        sensor = found[target_id][0] if target_id in found else None
        zones = {face.zone for face in sensor.interfaces if face.zone} if sensor else set()
        # What was planned counts there already.
        sessions = None if region.error else region.count(target_id)
        return Sensor(
            target_id,
            ", ".join(sorted(zones)) or None,
            self._owner(target_id),
            None if sessions is None else sessions - self.planned[target_id],
            sensor is not None and not sensor.behind_load_balancer,
        )

    def _owner(self, target_id: str) -> str | None:
        if self.mirroring.region.error:
            return None
        targets = self.mirroring.region.sensors.targets.every()
        return next((t.owner_id for t in targets if t.target_id == target_id), None)


class Warnings(logging.Handler):
    """Keeps what the function warns of, less what stands in an entry anyway."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: dict[str, None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record's message, each once."""
        if not hasattr(record, "outcome"):
            self.messages[own_words(record.getMessage())] = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While it lasts, the function's records come here and go nowhere else."""
        propagate, function.logger.propagate = function.logger.propagate, False
        function.logger.addHandler(self)
        try:
            yield
        finally:
            function.logger.removeHandler(self)
            function.logger.propagate = propagate


class EntriesFile:
    """The entries in a file, in the form of the function's result, one on a line, as they come."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream
        self.number = 0
        self.summary: dict[str, int] = {}
        if stream:
            stream.write('{"dry_run": true, "interfaces": [')

    def write(self, entry: Mapping[str, Any]) -> None:
        """Write one."""
        outcome = entry["outcome"]
        self.summary[outcome] = self.summary.get(outcome, 0) + 1
        if self.stream:
            self.stream.write(",\n" if self.number else "\n")
            self.stream.write(json.dumps(entry))
            self.number += 1

    def end(self, message: str) -> None:
        """What is known only in the end."""
        if self.stream:
            rest = json.dumps({"summary": self.summary, "message": message})
            self.stream.write(f"\n], {rest[1:]}\n")


def survey(
    configuration: function.Configuration, entries_file: TextIO | None, progress: Progress
) -> Picture:
    """Run the function's flow over the account and gather what comes out.

    Raises:
        Stop: AWS cannot be asked at all.
    """
    picture = Picture()
    warnings = Warnings()
    file = EntriesFile(entries_file)
    survey_of_account = Survey(configuration)
    with read_only(progress.answered), warnings.listening():
        try:
            for entry in survey_of_account.entries():
                picture.add(entry)
                file.write(entry)
                progress.judged()
        except botocore.exceptions.BotoCoreError as error:
            raise Stop(f"AWS cannot be asked: {error}") from error
        finally:
            progress.end()
    picture.account, picture.sensors = progress.account, survey_of_account.sensors()
    file.end(picture.headline() + ".")
    picture.remarks += [*survey_of_account.remarks(), *warnings.messages]
    return picture


# ======================================================================================
# Command line
# ======================================================================================


class Call(NamedTuple):
    """What the command line asks for."""

    configuration: function.Configuration
    region: str | None
    html: Path | None
    json: Path | None
    placeholder: bool


class Variables(dict[str, str]):
    """The function's environment variables; notes which ones it asks for, so that a name it does
    not know is a mistake that is told."""

    def __init__(self, values: Mapping[str, str]) -> None:
        super().__init__(values)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """The value, as the function asks for it."""
        self.asked.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> str:
        self.asked.add(key)
        return super().__getitem__(key)


def understand(arguments: Sequence[str]) -> Call:
    """What the command line asks for.

    Raises:
        Stop: it is wrong.
    """
    options = dict.fromkeys(("--targets", "--filter", "--region", "--html", "--json"), "")
    variables: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name in options:
            value = value if equals else next(rest, "")
            if not value or value.startswith("--"):
                raise Stop(f"{name} needs a value")
            options[name] = value
        elif equals and name and not name.startswith("-"):
            variables[name] = value
        else:
            raise Stop(f"do not understand {argument!r}")
    for option, name in (("--targets", "targets"), ("--filter", "filter_id")):
        if options[option] and variables.setdefault(name, options[option]) != options[option]:
            raise Stop(f"{option} and {name}= say different things")
    placeholder = not variables.get("filter_id", "").strip()
    environment = Variables(variables | ({"filter_id": PLACEHOLDER} if placeholder else {}))
    if not variables.get("targets", "").strip() and not function.TARGETS:
        raise Stop("--targets is missing")
    try:
        configuration = function.Configuration.from_environment(environment)
    except function.ConfigurationError as error:
        raise Stop(str(error)) from None
    for name in environment.keys() - environment.asked:
        known = ", ".join(sorted(environment.asked - {"targets", "filter_id"}))
        raise Stop(f"the function has no variable {name}; it has {known}")
    files = [Path(options[name]) if options[name] else None for name in ("--html", "--json")]
    return Call(configuration, options["--region"] or None, files[0], files[1], placeholder)


def set_region(wanted: str | None) -> str:
    """Have one Region for every call, as the AWS command line chooses it.

    Raises:
        Stop: there is none, or the profile cannot be read.
    """
    region = wanted or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region:
        try:
            region = botocore.session.get_session().get_config_variable("region")
        except botocore.exceptions.BotoCoreError as error:
            raise Stop(f"AWS cannot be asked: {error}") from error
    if not region:
        raise Stop("no Region is set. Give --region, or set AWS_REGION")
    os.environ["AWS_REGION"] = os.environ["AWS_DEFAULT_REGION"] = region
    return str(region)


def terminal_of(stream: TextIO) -> Terminal:
    """How to draw on this stream: 100 columns, less where the terminal has less."""
    columns = shutil.get_terminal_size((100, 24)).columns
    colour = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    ascii_only = not (stream.encoding or "ascii").lower().replace("-", "").startswith("utf")
    return Terminal(max(60, min(100, columns)), colour, ascii_only)


@contextmanager
def writing(path: Path | None) -> Iterator[TextIO | None]:
    """The file, opened before anything is read, so that a wrong name is told at once."""
    if path is None:
        yield None
        return
    try:
        stream = path.open("w", encoding="utf-8")
    except OSError as error:
        raise Stop(f"{path} cannot be written: {error.strerror}") from None
    with stream:
        yield stream


def preview(arguments: Sequence[str]) -> int:
    """Look at the account and draw it; the exit status.

    Raises:
        Stop: the call is wrong, or AWS cannot be asked.
    """
    call = understand(arguments)
    region = set_region(call.region)
    with writing(call.html) as html, writing(call.json) as entries:
        progress = Progress(sys.stderr)
        picture = survey(call.configuration, entries, progress)
        picture.region = region
        if call.placeholder:
            picture.remarks.append(
                "No --filter was given. A preview needs none, and does not look at it."
            )
        for line in draw(picture, terminal_of(sys.stdout)):
            print(line)
        if html:
            html.writelines(page.pieces(picture, datetime.now(timezone.utc)))
    for path in filter(None, (call.html, call.json)):
        print(f"Written: {path}")
    if picture.lacking:
        raise Stop(f"missing permission: {', '.join(picture.lacking)}")
    if picture.unread and not picture.seen:
        raise Stop(f"AWS could not be asked. {picture.unread[0]}")
    return DARK if picture.stays_dark else COVERED


def main(arguments: Sequence[str]) -> int:
    """Run the command; the exit status."""
    try:
        return preview(arguments)
    except Stop as stop:
        print(f"preview.sh: {stop}\nSee deploy/preview.sh --help", file=sys.stderr)
        return WRONG


if __name__ == "__main__":
    # Whoever reads only the beginning, with head, gets no traceback, and neither does Ctrl-C.
    with suppress(AttributeError, ValueError):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(main(sys.argv[1:]))
