"""The picture of what the function did or would do: what is dark and why, and which sensor takes
how much. Drawn on a terminal here, as a page in page.py; preview.py and the demonstration use both.

It is made from entries as the function's result has them (a dictionary per interface, with a row
per sensor) and from a few facts about the sensors, and it asks AWS nothing. Entries come one by one
and only what the picture shows of them is kept, so that an account of any size can be drawn.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_network
from typing import Any, NamedTuple

# ======================================================================================
# What to do about it
# ======================================================================================


class Advice(NamedTuple):
    """What a stage means for the interfaces that fall there, and what an operator does about it.

    Attributes:
        unmirrored: why no sensor can take them, as it stands behind their number.
        blocked: why the packets of a session that exists do not arrive.
        remedy: what to do.
    """

    unmirrored: str
    blocked: str
    remedy: str


# By stage, in the order in which the function judges. README.md begins with the same words.
ADVICE = {
    "unavailable": Advice(
        "no sensor can be used",
        "the sensor is gone or does not run",
        "Start the sensor, or correct `targets`. A load balancer needs EXCLUDE_TAGS or "
        "INCLUDE_TAGS, a sensor of another account a role in SENSOR_ROLE_ARNS.",
    ),
    "zone": Advice(
        "no sensor in the Availability Zone",
        "the sensor is in another Availability Zone",
        "Add a sensor in that zone, or set LOCAL_ZONE_ONLY=false (AWS charges for traffic between "
        "zones).",
    ),
    "vpc": Advice(
        "no sensor in the VPC",
        "the sensor is in another VPC",
        "Add a sensor in that VPC, or set LOCAL_VPC_ONLY=false.",
    ),
    "security_group": Advice(
        "no sensor's security group lets VXLAN in",
        "the sensor's security groups do not let VXLAN in",
        "Let UDP 4789 from the address into a security group of the sensor.",
    ),
    "network_acl": Advice(
        "a network ACL keeps VXLAN from the sensor",
        "a network ACL keeps VXLAN from the sensor",
        "Allow inbound UDP 4789 in the network ACL that is named, with a lower rule number.",
    ),
    "route": Advice(
        "no route leads to the sensor's VPC",
        "no route leads to the sensor's VPC",
        "Mend the route that is named, in the route table of the interface's subnet.",
    ),
    "create": Advice(
        "AWS refuses the session",
        "AWS refuses the session",
        "At …PerTargetLimitExceeded all sensors are full (10 sources for most instance sizes): add "
        "one. Otherwise mend what AWS names.",
    ),
}
STAGES = tuple(ADVICE)
FAILED = Advice(
    "could not be judged, since AWS did not answer",
    "could not be judged, since AWS did not answer",
    "Grant the permission or mend what is named, and look again.",
)
# Sessions that AWS allows to a sensor's interface, for most instance sizes.
USUAL_QUOTA = 10

COVERED, PLANNED, ELSEWHERE, DARK, SKIPPED = "covered", "planned", "elsewhere", "dark", "skipped"
UNFINISHED = ("failed", "deferred")
DARK_OUTCOMES = ("unmirrored", "blocked", *UNFINISHED)
# The words of a selected sensor's reason that an operator should know before he deploys.
CAVEATS = {
    "because no sensor in": "to another Availability Zone (AWS charges for traffic between zones)",
    "not verified": "to sensors whose rules cannot be seen (ALLOW_UNVERIFIED)",
    "ranked last": "to sensors that packets may not reach: something speaks against each",
    "in another VPC": "to sensors in another VPC (what lies beyond the route is not checked)",
}
NO_CAVEAT = "to sensors in the same Availability Zone"
NO_SENSOR_IN = "No sensor in "  # before the zone or VPC, in what was found there
WHAT_DARK_MEANS = "No sensor would see their traffic."
PERMISSION = re.compile(r"\b(?:ec2|sts):[A-Z]\w+")
# The address of an interface; a block has a slash behind it.
SOURCE = re.compile(r" from (\d+\.\d+\.\d+\.\d+)(?![\d.]*/)")
ADDRESS = "\0"  # stands for the addresses of the interfaces in what was found

# ======================================================================================
# What is gathered
# ======================================================================================


class Sensor(NamedTuple):
    """What is known of a configured target, besides the verdicts in the entries.

    Attributes:
        zone: its Availability Zone, several for a load balancer; None where that is not known.
        account: the account that owns it, as far as it is known.
        sessions: what it has now; None where AWS did not say.
        limited: whether AWS limits its sources: an interface, not a load balancer.
    """

    target_id: str
    zone: str | None = None
    account: str | None = None
    sessions: int | None = None
    limited: bool = True


class Interface(NamedTuple):
    """What is kept of an entry."""

    interface_id: str
    instance_id: str
    outcome: str
    target_id: str | None
    session_id: str | None
    address: str | None


@dataclass
class Finding:
    """Interfaces of which the same was found.

    Attributes:
        evidence: what was found; ADDRESS stands for their addresses.
    """

    evidence: str
    interfaces: list[Interface] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.interfaces)

    @property
    def text(self) -> str:
        """What was found, with their address, or with the smallest block that has them all."""
        numbers = [int(IPv4Address(face.address)) for face in self.interfaces if face.address]
        if not numbers:
            return self.evidence
        low, high = min(numbers), max(numbers)
        block = ip_network((low, 32 - (low ^ high).bit_length()), strict=False)
        where = str(IPv4Address(low)) if low == high else f"addresses in {block}"
        return self.evidence.replace(ADDRESS, where)


class Kind(NamedTuple):
    """What interfaces have in common whose findings stand together.

    Attributes:
        fate: whether they are covered, dark and so on.
        label: a word for it: the stage at which they fell, as a rule.
        meaning: the same in words.
        remedy: what an operator does about it; empty where there is nothing to do.
    """

    fate: str
    label: str
    meaning: str
    remedy: str = ""


@dataclass(frozen=True)
class Coverage:
    """How many interfaces, or instances, are mirrored."""

    now: int = 0
    planned: int = 0
    elsewhere: int = 0
    dark: int = 0

    @property
    def after(self) -> int:
        """How many would be mirrored."""
        return self.now + self.planned

    @property
    def all(self) -> int:
        """How many are meant to be."""
        return self.now + self.planned + self.elsewhere + self.dark


class Load(NamedTuple):
    """A sensor, with what it would carry and, where nothing can use it, why.

    Attributes:
        planned: sessions that it would get.
        problem: the stage at which it falls for everybody, and an example.
    """

    sensor: Sensor
    planned: int
    problem: tuple[str, str] | None

    @property
    def now(self) -> int:
        """What it carries, as far as it is known."""
        return self.sensor.sessions or 0

    @property
    def after(self) -> int:
        """What it would carry."""
        return self.now + self.planned


class Picture:
    """What became, or would become, of every interface of an account.

    Attributes:
        account, region: where that is, as far as it is known.
        sensors: what is known of the configured targets, in their order. Set by whoever knows it.
        remarks: what else is to be said, a sentence each.
        unread: why a part of the account could not be looked at.
        lacking: permissions without which some interfaces could not be judged.
        settling: permissions without which a verdict stands on less; how many verdicts.
    """

    def __init__(self) -> None:
        self.account: str | None = None
        self.region: str | None = None
        self.sensors: list[Sensor] = []
        self.remarks: list[str] = []
        self.unread: list[str] = []
        self.lacking: Counter[str] = Counter()
        self.settling: Counter[str] = Counter()
        self._kinds: dict[Kind, dict[str, Finding]] = {}
        self._verdicts: dict[str, Counter[str | None]] = {}
        self._examples: dict[tuple[str, str], str] = {}

    def add(self, entry: Mapping[str, Any]) -> None:
        """Take note of an entry of the function's result."""
        for row in entry["sensors"]:
            self._take_verdict(row)
        if entry["outcome"] == "failed":
            self.lacking.update(set(PERMISSION.findall(entry["reason"])))
        if entry["interface_id"] is None and entry["outcome"] in DARK_OUTCOMES:
            self.unread.append(entry["reason"])
            return
        kind, evidence, address = classify(entry)
        finding = self._kinds.setdefault(kind, {}).setdefault(evidence, Finding(evidence))
        finding.interfaces.append(
            Interface(
                entry["interface_id"] or "",
                entry["instance_id"] or "",
                entry["outcome"],
                entry["target_id"],
                entry["session_id"],
                address,
            )
        )

    def _take_verdict(self, row: Mapping[str, Any]) -> None:
        target_id, stage = row["target_id"], row["stage"]
        counts = self._verdicts.get(target_id)
        if counts is None:
            counts = self._verdicts[target_id] = Counter()
        if stage and stage not in counts:
            self._examples[target_id, stage] = row["reason"]
        counts[stage] += 1
        if stage and stage != "zone" and ("ec2:" in row["reason"] or "sts:" in row["reason"]):
            self.settling.update(set(PERMISSION.findall(row["reason"])))

    def kinds(self, fate: str) -> list[tuple[Kind, list[Finding]]]:
        """The kinds of this fate with their findings, the largest first."""
        found = [
            (kind, sorted(findings.values(), key=len, reverse=True))
            for kind, findings in self._sorted_out().items()
            if kind.fate == fate
        ]
        return sorted(found, key=lambda item: (-total(item[1]), item[0].label))

    def _sorted_out(self) -> Mapping[Kind, dict[str, Finding]]:
        """The kinds, with those sessions apart that go to targets which are not configured. Which
        ones are may become known later than the entries."""
        ours = {sensor.target_id for sensor in self.sensors}
        kinds = {kind: findings for kind, findings in self._kinds.items() if kind.fate != COVERED}
        for kind, findings in self._kinds.items():
            if kind.fate == COVERED:
                for key, finding in findings.items():
                    place = kind if finding.interfaces[0].target_id in ours else MIRRORED_ELSEWHERE
                    kinds.setdefault(place, {})[key] = finding
        return kinds

    def interfaces(self, fate: str) -> int:
        """How many interfaces have this fate."""
        return sum(total(findings) for _, findings in self.kinds(fate))

    def coverage(self) -> tuple[Coverage, Coverage]:
        """Of interfaces and of instances. An instance counts as what its worst interface is;
        whatever is skipped does not count."""
        worst: dict[str, int] = {}
        order = (COVERED, PLANNED, ELSEWHERE, DARK)
        interfaces: Counter[int] = Counter()
        for rank, fate in enumerate(order):
            for _, findings in self.kinds(fate):
                for finding in findings:
                    interfaces[rank] += len(finding)
                    for face in finding.interfaces:
                        worst[face.instance_id] = rank  # they come in ascending order
        instances = Counter(worst.values())
        return (
            Coverage(*(interfaces[rank] for rank in range(4))),
            Coverage(*(instances[rank] for rank in range(4))),
        )

    def loads(self) -> list[Load]:
        """The sensors with their loads, in configured order."""
        planned: Counter[str | None] = Counter()
        for _, findings in self.kinds(PLANNED):
            for finding in findings:
                planned.update(face.target_id for face in finding.interfaces)
        return [
            Load(sensor, planned[sensor.target_id], self._problem(sensor.target_id))
            for sensor in self.sensors
        ]

    def _problem(self, target_id: str) -> tuple[str, str] | None:
        """At which stage the sensor falls for all for whom it is not merely too far away."""
        counts = self._verdicts.get(target_id, Counter[str | None]())
        stages = [stage for stage in STAGES if counts[stage] and stage not in ("zone", "vpc")]
        if not stages or counts[None]:
            return None
        stage = max(stages, key=lambda stage: counts[stage])
        # It is about the sensor, so whose address it was does not matter.
        return stage, SOURCE.sub("", brief(target_id, self._examples[target_id, stage]))

    @property
    def seen(self) -> bool:
        """Whether there is an interface of which anything is known."""
        return bool(self._kinds)

    @property
    def stays_dark(self) -> bool:
        """Whether something is dark, or could not be looked at."""
        return bool(self.unread or self.kinds(DARK))

    @property
    def known_dark(self) -> bool:
        """Whether something is dark for certain."""
        return any(kind.label not in UNFINISHED for kind, _ in self.kinds(DARK))

    def headline(self) -> str:
        """The answer in one sentence."""
        of_interfaces, _ = self.coverage()
        number = plural(of_interfaces.all, "interface")
        if of_interfaces.dark:
            return f"{of_interfaces.dark:,} of {number} would stay dark"
        if self.unread:
            return "The account could not be read to its end"
        if not of_interfaces.all:
            return "There is no interface to be mirrored"
        if of_interfaces.planned:
            return f"All {number} would be mirrored"
        return f"All {number} are mirrored"

    def notes(self) -> list[str]:
        """What an operator should know besides, a sentence each."""
        notes = [f"Not everything was read. {reason}" for reason in self.unread]
        notes += [
            f"{permission} is missing: {plural(count, 'interface')} could not be judged."
            for permission, count in sorted(self.lacking.items())
            if not self.unread
        ]
        full = [load for load in self.loads() if load.sensor.limited and load.after > USUAL_QUOTA]
        if full:
            most = max(full, key=lambda load: load.after)
            notes.append(
                f"{plural(len(full), 'sensor')} would have more than {USUAL_QUOTA} sessions "
                f"({most.sensor.target_id}: {most.after}). AWS allows {USUAL_QUOTA} for most "
                "instance sizes of a sensor, 100 for some large ones; a preview cannot see which, "
                "and AWS refuses what is too much."
            )
        elsewhere = self.interfaces(ELSEWHERE)
        if elsewhere:
            notes.append(
                f"Mirrored to targets that are not configured: {plural(elsewhere, 'interface')}. "
                "These count neither as covered nor as dark."
            )
        notes += [
            f"{permission} is missing and could settle {plural(count, 'verdict')}."
            for permission, count in sorted(self.settling.items())
        ]
        return notes + self.remarks


MIRRORED = Kind(COVERED, "exists", "mirrored already")
MIRRORED_ELSEWHERE = Kind(ELSEWHERE, "exists", "mirrored to targets that are not configured")


def classify(entry: Mapping[str, Any]) -> tuple[Kind, str, str | None]:
    """What an entry has in common with others: its kind and what was found, with ADDRESS in place
    of the interface's address, and that address."""
    outcome, reason = entry["outcome"], entry["reason"]
    if outcome == "exists":
        return MIRRORED, entry["target_id"] or "", None
    if outcome in ("planned", "created"):
        chosen = next((row for row in entry["sensors"] if row["verdict"] == "selected"), None)
        words = chosen["reason"] if chosen else reason
        caveat = next((text for mark, text in CAVEATS.items() if mark in words), NO_CAVEAT)
        return Kind(PLANNED, outcome, caveat), entry["target_id"] or "", None
    if outcome == "skipped":
        return Kind(SKIPPED, "skipped", nameless(reason, entry).rstrip(".")), "", None
    if outcome in UNFINISHED:
        label = FAILED.unmirrored if outcome == "failed" else "time ran out before their turn"
        return Kind(DARK, outcome, label, FAILED.remedy), nameless(reason, entry), None
    return classify_dark(entry)


def classify_dark(entry: Mapping[str, Any]) -> tuple[Kind, str, str | None]:
    """The kind of an interface that no sensor can take or whose packets do not arrive: the stage
    at which the last sensors fell, and what was found of the first of these."""
    fallen = [row for row in entry["sensors"] if row["stage"] in ADVICE]
    row = max(fallen, key=lambda row: STAGES.index(row["stage"]), default=None)
    stage = row["stage"] if row else "unavailable"
    reason = row["reason"] if row else entry["reason"]
    advice = ADVICE[stage]
    if entry["outcome"] == "blocked":
        meaning = f"mirrored, but {advice.blocked}"
        kind = Kind(DARK, f"blocked at {stage}", meaning, advice.remedy)
        reason = f"{entry['target_id']}: {reason}"
    else:
        kind = Kind(DARK, stage, advice.unmirrored, advice.remedy)
        if stage in ("zone", "vpc") and (
            place := re.search(r"the interface in ([^\s,;.]+)", reason)
        ):
            # Which sensors there are elsewhere is no news.
            return kind, f"{NO_SENSOR_IN}{place[1]}.", None
    found = SOURCE.search(reason)
    evidence = nameless(SOURCE.sub(f" from {ADDRESS}", reason), entry)
    return kind, evidence, found[1] if found else None


def nameless(reason: str, entry: Mapping[str, Any]) -> str:
    """The reason without what only this interface has in it, so that equal ones are equal."""
    for name in ("interface_id", "instance_id", "session_id"):
        if entry[name]:
            reason = reason.replace(f" {entry[name]}", "")
    return re.sub(r"\((interface) \S+\)", r"(\1)", reason)


def gist(kind: Kind, findings: Sequence[Finding]) -> str:
    """The meaning of a kind in a summary, with the zones or VPCs that have no sensor."""
    places = [finding.evidence for finding in findings]
    if not all(place.startswith(NO_SENSOR_IN) for place in places):
        return kind.meaning
    named = [place[len(NO_SENSOR_IN) : -1] for place in places[:SHOWN_EXAMPLES]]
    more = len(places) - len(named)
    return f"no sensor in {', '.join(named)}" + (f" and {more:,} more" if more else "")


def total(findings: Iterable[Finding]) -> int:
    """How many interfaces these findings are about."""
    return sum(map(len, findings))


def brief(target_id: str, reason: str) -> str:
    """What was found of a sensor, beside its ID."""
    return reason.replace(f" {target_id}", "")


def plural(count: int, noun: str) -> str:
    """A number with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def percent(part: int, whole: int) -> str:
    """In whole percent, rounded down, so that 100 means all."""
    return f"{100 * part // whole} %" if whole else "-"


# ======================================================================================
# On a terminal
# ======================================================================================

COLOURS = {
    "heading": "1",
    "good": "32",
    "chosen": "32;1",
    "planned": "36",
    "bad": "31",
    "alarm": "31;1",
    "faint": "2",
}
SHOWN_FINDINGS = 6  # of a kind
SHOWN_EXAMPLES = 3  # of a finding
SHOWN_SENSORS = 24
TIED = "\N{NO-BREAK SPACE}"  # a space at which no line ends


@dataclass(frozen=True)
class Terminal:
    """How to draw: how wide, whether in colour, and whether in more than ASCII."""

    width: int = 100
    colour: bool = False
    ascii: bool = False

    def paint(self, style: str, text: str) -> str:
        """The text in a colour, where colours are wanted."""
        return f"\033[{COLOURS[style]}m{text}\033[0m" if self.colour and text else text

    def cut(self, text: str, width: int) -> str:
        """The text on one line, no longer than this."""
        mark = "..." if self.ascii else "…"
        return text if len(text) <= width else text[: max(0, width - len(mark))].rstrip() + mark

    def wrap(self, text: str, indent: str = "", further: str | None = None) -> list[str]:
        """The text in lines; IDs stay whole."""
        lines = textwrap.wrap(
            text,
            self.width,
            initial_indent=indent,
            subsequent_indent=indent if further is None else further,
            break_on_hyphens=False,
        )
        return [line.replace(TIED, " ") for line in lines]

    def bar(self, parts: Sequence[tuple[str, int]], scale: int, width: int) -> str:
        """A bar of parts, each with its style; one that is not nothing is at least a cell."""
        cells = shares([count for _, count in parts], scale, width)
        return "".join(
            self.paint(STYLE_OF_PART[part], self.cell(part) * number)
            for (part, _), number in zip(parts, cells, strict=True)
        )

    def cell(self, part: str) -> str:
        """What a part of a bar is made of."""
        return ("#=~." if self.ascii else "█▓▒░")[list(STYLE_OF_PART).index(part)]


STYLE_OF_PART = {COVERED: "good", PLANNED: "planned", ELSEWHERE: "faint", DARK: "bad"}


def shares(counts: Sequence[int], scale: int, width: int) -> list[int]:
    """The counts as cells of a bar: in proportion, together no more than the width."""
    cells, filled, reached = [], 0, 0
    for count in counts:
        reached += count
        end = round(width * reached / scale) if scale else 0
        number = max(end - filled, 1 if count else 0)
        cells.append(number)
        filled += number
    while filled > width:  # small parts were given a cell: the largest one pays for it
        cells[cells.index(max(cells))] -= 1
        filled -= 1
    return cells


def draw(picture: Picture, terminal: Terminal) -> Iterator[str]:
    """The picture of an account, line by line: what is dark and why comes first."""
    where = [f"account {picture.account}" if picture.account else "", picture.region or ""]
    title = ["Preview", *filter(None, where), "nothing was created"]
    for line in terminal.wrap((" | " if terminal.ascii else " · ").join(title)):
        yield terminal.paint("faint", line)
    yield ""
    style = "alarm" if picture.stays_dark else "chosen"
    yield terminal.paint(style, picture.headline())
    dark = picture.kinds(DARK)
    if picture.known_dark:
        yield terminal.paint("faint", WHAT_DARK_MEANS)
    for kind, findings in dark:
        number = f"{total(findings):>7,}"
        head = f"{number}  {kind.label:<{label_width(dark)}}  "
        lines = terminal.wrap(gist(kind, findings), " " * len(head))
        lines[0] = terminal.paint("bad", number) + head[len(number) :] + lines[0].lstrip()
        yield from lines
    yield ""
    yield from draw_coverage(picture, terminal)
    for kind, findings in dark:
        yield ""
        yield from draw_dark(kind, findings, terminal)
    if picture.sensors:
        yield ""
        yield from draw_sensors(picture.loads(), terminal)
    yield from draw_planned(picture, terminal)
    yield from draw_skipped(picture, terminal)
    notes = picture.notes()
    if notes:
        yield ""
        yield terminal.paint("heading", "Note")
        for note in notes:
            yield from terminal.wrap(note, "  ")
    yield ""
    words = f"{picture.headline()}."
    if dark:
        reasons = ", ".join(f"{total(findings):,} {kind.label}" for kind, findings in dark)
        words = f"{picture.headline()}: {reasons}."
    for line in terminal.wrap(words):
        yield terminal.paint(style, line)


def label_width(kinds: Iterable[tuple[Kind, list[Finding]]]) -> int:
    """How wide the labels of these kinds are."""
    return max((len(kind.label) for kind, _ in kinds), default=0)


def draw_coverage(picture: Picture, terminal: Terminal) -> Iterator[str]:
    """Interfaces and instances: how many are mirrored now, and how many would be."""
    rows = dict(zip(("interfaces", "instances"), picture.coverage(), strict=True))
    cells = {
        name: [
            f"{count:,} of {row.all:,}  {percent(count, row.all)}" for count in (row.now, row.after)
        ]
        for name, row in rows.items()
    }
    widths = [max(len(row[at]) for row in cells.values()) for at in range(2)]
    widths = [max(widths[0], 3), max(widths[1], 5)]
    heading = f"{'Covered':<14}{'now':>{widths[0]}}   {'after':>{widths[1]}}"
    room = terminal.width - len(heading) - 3
    yield terminal.paint("heading", heading)
    for name, row in rows.items():
        now, after = (text.rjust(width) for text, width in zip(cells[name], widths, strict=True))
        bar = terminal.bar(
            [
                (COVERED, row.now),
                (PLANNED, row.planned),
                (ELSEWHERE, row.elsewhere),
                (DARK, row.dark),
            ],
            row.all,
            room,
        )
        yield f"  {name:<12}{now}   {after}   {bar}"
    words = {
        COVERED: "now",
        PLANNED: "would be",
        **({ELSEWHERE: "elsewhere"} if rows["interfaces"].elsewhere else {}),
        DARK: "dark",
    }
    length = len("   ".join(f"{terminal.cell(part)} {word}" for part, word in words.items()))
    legend = "   ".join(
        f"{terminal.paint(STYLE_OF_PART[part], terminal.cell(part))} {word}"
        for part, word in words.items()
    )
    yield " " * min(len(heading) + 3, terminal.width - length) + legend


def examples(finding: Finding) -> str:
    """A few interfaces by name, and how many more there are."""
    named = [
        f"{TIED}of{TIED}".join(filter(None, (face.interface_id, face.instance_id)))
        for face in finding.interfaces[:SHOWN_EXAMPLES]
    ]
    more = len(finding) - SHOWN_EXAMPLES
    return ", ".join(named) + (f" and {more:,} more" if more > 0 else "")


def draw_dark(kind: Kind, findings: Sequence[Finding], terminal: Terminal) -> Iterator[str]:
    """A kind of dark interfaces: what was found, where, and what to do about it."""
    where = f" at {kind.label}" if kind.label in ADVICE else f", {kind.label}"
    title = f"{total(findings):,} dark{where}: {kind.meaning}"
    for line in terminal.wrap(title):
        yield terminal.paint("heading", line)
    if kind.remedy:
        yield from terminal.wrap(f"Do this: {kind.remedy}", "  ", "           ")
    for finding in findings[:SHOWN_FINDINGS]:
        number = f"{len(finding):>7,}  "
        lines = terminal.wrap(finding.text, " " * len(number))
        lines[0] = terminal.paint("bad", number) + lines[0].lstrip()
        yield from lines
        for line in terminal.wrap(examples(finding), " " * len(number)):
            yield terminal.paint("faint", line)
    more = findings[SHOWN_FINDINGS:]
    if more:
        yield f"{total(more):>7,}  in {plural(len(more), 'further finding')}"


def draw_sensors(loads: Sequence[Load], terminal: Terminal) -> Iterator[str]:
    """The sensors: zone, account, and sessions now and after."""
    shown = sorted(enumerate(loads), key=lambda item: importance(item[1], len(loads)))
    shown = sorted(shown[:SHOWN_SENSORS])
    texts = [load.sensor.zone or "-" for load in loads]
    zone_width = max(len("zone"), *(len(text) for text in texts))
    id_width = max(len(load.sensor.target_id) for load in loads)
    account_width = 14 if any(load.sensor.account for load in loads) else 0
    heading = f"{'Sensor':<{id_width + 4}}{'zone':<{zone_width + 2}}"
    heading += f"{'account':<{account_width}}" if account_width else ""
    heading += f"{'now':>5}{'after':>7}  "
    room = max(8, terminal.width - len(heading))
    scale = max((load.after for load in loads), default=0)
    yield terminal.paint("heading", f"{heading}sessions")
    for _, load in shown:
        sensor = load.sensor
        now = "-" if sensor.sessions is None else f"{sensor.sessions:,}"
        line = f"  {sensor.target_id:<{id_width + 2}}{sensor.zone or '-':<{zone_width + 2}}"
        line += f"{sensor.account or '-':<{account_width}}" if account_width else ""
        line += f"{now:>5}{load.after:>7,}  "
        yield (
            line + terminal.bar([(COVERED, load.now), (PLANNED, load.planned)], scale, room)
        ).rstrip()
        if load.problem:
            stage, reason = load.problem
            # Two lines at most, so that the table stays one.
            words = terminal.cut(f"nobody can use it, {stage}: {reason}", 2 * terminal.width - 20)
            for line in terminal.wrap(words, "    ", "      "):
                yield terminal.paint("bad", line)
    if len(loads) > len(shown):
        yield f"  and {plural(len(loads) - len(shown), 'further sensor')} (all are in --html FILE)"


def importance(load: Load, number: int) -> tuple[bool, int]:
    """Which sensors are shown where there are too many: those of no use, then the busiest."""
    if number <= SHOWN_SENSORS:
        return False, 0
    return load.problem is None, -load.after


def draw_planned(picture: Picture, terminal: Terminal) -> Iterator[str]:
    """What would be created, grouped by what to know about it."""
    for kind, findings in picture.kinds(PLANNED):
        yield ""
        title = f"Would be created: {plural(total(findings), 'session')} {kind.meaning}"
        if kind.label == "created":
            title = f"Created: {plural(total(findings), 'session')} {kind.meaning}"
        for line in terminal.wrap(title):
            yield terminal.paint("heading", line)
        named = [f"{len(finding):,} to {finding.evidence}" for finding in findings[:SHOWN_FINDINGS]]
        more = findings[SHOWN_FINDINGS:]
        if more:
            named.append(f"{total(more):,} to {plural(len(more), 'further sensor')}")
        yield from terminal.wrap(", ".join(named), "  ")


def draw_skipped(picture: Picture, terminal: Terminal) -> Iterator[str]:
    """What is not meant to be mirrored, or cannot be."""
    kinds = picture.kinds(SKIPPED)
    if not kinds:
        return
    yield ""
    yield terminal.paint("heading", f"Skipped: {plural(picture.interfaces(SKIPPED), 'interface')}")
    for kind, findings in kinds[:SHOWN_FINDINGS]:
        number = f"{total(findings):>7,}  "
        lines = terminal.wrap(kind.meaning, " " * len(number))
        lines[0] = number + lines[0].lstrip()
        yield from lines
        for line in terminal.wrap(examples(findings[0]), " " * len(number)):
            yield terminal.paint("faint", line)
    more = [findings for _, findings in kinds[SHOWN_FINDINGS:]]
    if more:
        yield f"{sum(map(total, more)):>7,}  for {plural(len(more), 'further reason')}"


# ======================================================================================
# One interface
# ======================================================================================


def draw_interface(entry: Mapping[str, Any], terminal: Terminal) -> Iterator[str]:
    """An interface: which sensor was chosen and why the others fell, a line each."""
    name = " of ".join(filter(None, (entry["interface_id"], entry["instance_id"]))) or "Sweep"
    style = "alarm" if entry["outcome"] in DARK_OUTCOMES else "heading"
    yield terminal.paint(style, f"{name}: {entry['outcome']}")
    if not entry["sensors"]:
        yield from terminal.wrap(entry["reason"], "  ")
        return
    width = max(len(row["target_id"]) for row in entry["sensors"])
    stages = max(len(stage) for stage in STAGES)
    for row in sorted(entry["sensors"], key=place):
        mark = ">" if row["verdict"] == "selected" else " "
        head = f"  {mark} {row['target_id']:<{width}}  {row['stage'] or row['verdict']:<{stages}}  "
        line = head + terminal.cut(verdict(row), terminal.width - len(head))
        style = {"selected": "chosen", "eligible": "good"}.get(row["verdict"], "bad")
        yield terminal.paint(style, line)


def place(row: Mapping[str, Any]) -> tuple[int, int]:
    """Where a sensor stands: the chosen one first, then the fewest sessions, then how far it
    came."""
    if row["verdict"] == "rejected":
        return 2, -STAGES.index(row["stage"])
    return (0 if row["verdict"] == "selected" else 1), row["sessions"] or 0


def verdict(row: Mapping[str, Any]) -> str:
    """A sensor's verdict in as few words as will do."""
    if row["verdict"] == "rejected":
        return brief(row["target_id"], row["reason"])
    sessions = row["sessions"] or 0
    return plural(sessions, "session") + (", the best" if row["verdict"] == "selected" else "")


def draw_details(
    entry: Mapping[str, Any], terminal: Terminal, names: Mapping[str, str]
) -> Iterator[str]:
    """An interface's sensors with everything that was found, in configured order.

    Args:
        entry: the interface's entry.
        terminal: how to draw.
        names: what else there is to say of a target, by its ID.
    """
    for row in entry["sensors"]:
        words = f"{row['verdict']} at {row['stage']}" if row["stage"] else row["verdict"]
        name = f" ({names[row['target_id']]})" if row["target_id"] in names else ""
        yield from terminal.wrap(
            f"{row['target_id']}{name}: {words}. {row['reason']}", "  ", "    "
        )
