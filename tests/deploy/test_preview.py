"""deploy/preview.sh: what it shows, that it only reads, and its page, in a browser too."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder

import boto3
import pytest
from aws import SimulatedAccount, acl_entry, route, rule
from browser import Browser, executable
from commands import __main__, preview, shown, stack
from commands.aws import Exit
from commands.picture import ADVICE, MEANT, Sensor, Survey
from conftest import Scene
from moto.server import ThreadedMotoServer
from rich.console import Console
from worlds import Builder

import lambda_traffic_mirror
from lambda_traffic_mirror import Choice, Entry, Interface, Request, Source, Verdict, rejects

PROJECT = Path(__file__).resolve().parent.parent.parent
POLICY = json.loads((PROJECT / "deploy" / "preview-policy.json").read_text(encoding="utf-8"))
ALLOWED = [action for statement in POLICY["Statement"] for action in statement["Action"]]
# Without these there is nothing to judge; the others decide only now and then.
NEEDED = POLICY["Statement"][0]["Action"]
VXLAN = rule("udp", (4789, 4789), cidr="10.0.0.0/8")


def allowed(operation: str, _: Any) -> None:
    """Whatever a test shows, the preview's policy is enough for it."""
    permission = operation if ":" in operation else f"ec2:{operation}"
    # The first needs no permission, the second is the roles' own business.
    if permission not in ("sts:GetCallerIdentity", "sts:AssumeRole", *ALLOWED):
        pytest.fail(f"{permission} is not in preview-policy.json")


@pytest.fixture
def scene(clean_slate: None) -> Iterator[Scene]:
    """A simulated account that an operator looks at."""
    with Scene() as scene:
        scene.gates[:] = [allowed]
        yield scene


class Shown:
    """What a run of preview.sh says and how it ends."""

    def __init__(self, *arguments: str) -> None:
        out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            self.status = __main__.main(["preview", *arguments])
        out.seek(0)
        self.text, self.errors = out.read(), err.getvalue()
        self.words = " ".join(self.text.split())

    @property
    def renumbered(self) -> list[str]:
        """The lines, with the IDs of resources numbered as they appear."""
        names: dict[str, str] = {}
        counts: Counter[str] = Counter()

        def name(found: re.Match[str]) -> str:
            if found[0] not in names:
                counts[found[1]] += 1
                names[found[0]] = f"{found[1]}-{counts[found[1]]:0{len(found[2])}}"
            return names[found[0]]

        text = re.sub(r"\b([a-z]{1,5})-([0-9a-f]{17})\b", name, self.text)
        return [line.rstrip() for line in text.splitlines()]


# --------------------------------------------------------------------------------------
# On a terminal
# --------------------------------------------------------------------------------------


def dark(scene: SimulatedAccount) -> list[str]:
    """Something of everything that can stay dark, but for other accounts."""
    open_group = scene.group(rule("udp", (4789, 4789), cidr="10.0.0.0/9"))
    deny = [acl_entry(90, "deny", protocol="17"), acl_entry(100, "allow", protocol="-1")]
    sensor = scene.sensor(scene.subnet("a"), [open_group])
    behind = scene.sensor(scene.subnet("b", acl=deny), [open_group])
    stopped = scene.sensor(scene.subnet("d"), [open_group], state="stopped")
    first, _ = scene.instances(2, scene.subnet("a"), [scene.group()])
    scene.session(scene.first_interface(first), sensor)
    scene.instances(2, scene.subnet("b"), [scene.group()])
    scene.instances(3, scene.subnet("c"), [scene.group()], tags={"Name": "web"})
    for cidr, routes in (("10.128.0.0/16", []), ("10.1.0.0/16", [route("0.0.0.0/0", igw=True)])):
        vpc = scene.vpc(cidr)
        scene.route_table(vpc, routes, main=True)
        scene.instance(scene.subnet("a", vpc=vpc), [scene.group(vpc=vpc)])
    (mirrored,) = scene.instances(1, scene.subnet("d"), [scene.group()])
    scene.session(scene.first_interface(mirrored), stopped)
    (elsewhere,) = scene.instances(1, scene.subnet("d"), [scene.group()])
    scene.session(scene.first_interface(elsewhere), scene.sensor(scene.subnet("d"), [open_group]))
    scene.instance(scene.subnet("a"), [scene.group()], tags={"mirror": "no"})
    targets = f"{sensor},{behind},{stopped},{scene.missing_sensor()}"
    return ["--targets", targets, "--filter", scene.filter_id, "EXCLUDE_TAGS=mirror=no"]


DARK = (Path(__file__).parent / "preview.txt").read_text(encoding="utf-8")


def test_the_picture_on_a_terminal(scene: Scene) -> None:
    run = Shown(*dark(scene))
    assert run.renumbered == DARK.splitlines()
    assert (run.status, run.errors) == (Exit.DARK, "")


@pytest.mark.parametrize("width", [60, 80, 100])
def test_it_stays_within_the_columns_and_what_to_do_is_on_the_first_screen(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = Shown(*dark(scene)).text.splitlines()
    assert max(map(len, lines)) <= width
    first_screen = " ".join(" ".join(lines[: 22 if width > 60 else 28]).split())
    stages = ("zone", "network_acl", "unavailable", "route", "security_group")
    assert all(ADVICE[stage][1] in first_screen for stage in stages)


def test_text_of_the_account_is_no_markup_of_a_terminal() -> None:
    hostile = "[red]x[/red] \x1b[2J\a¦\n"
    drawn = found_in(entry("skipped", reason=hostile), entry(name=hostile))
    out = io.StringIO()
    shown.draw(drawn, Console(file=out, width=100))
    assert "[red]x[/red] ?[2J?|?" in out.getvalue()


# --------------------------------------------------------------------------------------
# What is gathered, from entries made by hand
# --------------------------------------------------------------------------------------


def entry(
    outcome: str = "unmirrored",
    verdicts: Mapping[str, Verdict] | None = None,
    number: int = 1,
    *,
    name: str = "",
    zone: str = "a",
    address: str = "",
    database: bool = False,
    **members: Any,
) -> Entry:
    """An entry of the function, of an interface with this number."""
    instance = None if database else members.pop("instance_id", f"i-{number:017x}")
    place = Interface(
        f"eni-{number:017x}",
        description="RDSNetworkInterface",
        zone=zone,
        vpc_id="vpc-1",
        address=address or f"10.0.{number >> 8}.{number & 255}",  # type: ignore[arg-type]
    )
    ranked = [key for key, verdict in (verdicts or {}).items() if verdict.stage is None]
    return Entry(
        Request("preview", dry_run=True),
        outcome,
        members.pop("reason", "A reason."),
        instance_id=instance,
        interface_id=place.interface_id,
        source=Source(place, instance, {"Name": name}),
        choice=Choice(verdicts or {}, ranked, dict.fromkeys(ranked, 0)),
        **members,
    )


def fell(stage: str, text: str = "A finding", **about: object) -> Verdict:
    """A verdict that rejects."""
    return Verdict(stage, (rejects(text, **about),))


def planned(number: int, *targets: str, **members: Any) -> Entry:
    """An interface that would be mirrored to the first of these targets that can take it."""
    verdicts = dict.fromkeys(targets, Verdict(None))
    return entry("planned", verdicts, number, target_id=targets[0], **members)


def found_in(*entries: Entry, known: Mapping[str, Sensor] | None = None) -> Survey:
    """A survey of these entries."""
    survey = Survey("1" * 12, "us-east-1")
    survey.known = dict(known or {})
    for each in entries:
        survey.add(each)
    return survey


def shown_words(survey: Survey) -> str:
    """What a terminal shows of it, in one line."""
    out = io.StringIO()
    shown.draw(survey, Console(file=out, width=100))
    return " ".join(out.getvalue().split())


def dark_entries() -> list[Entry]:
    return [entry(verdicts={"tmt-1": fell(stage)}, number=n) for n, stage in enumerate(ADVICE)][:8]


@pytest.mark.parametrize(
    ("numbers", "where"),
    [
        ((7,), "10.0.0.7"),
        ((4, 5), "addresses in 10.0.0.4/31"),
        ((1, 250), "addresses in 10.0.0.0/24"),
    ],
)
def test_interfaces_that_fall_for_the_same_rule_stand_together(
    numbers: tuple[int, ...], where: str
) -> None:
    text = "No rule of {groups} admits udp/4789 from {address}"
    survey = found_in(
        *(
            entry(
                verdicts={
                    "tmt-1": fell(
                        "security_group", text, groups="sg-1", address=f"10.0.0.{number}"
                    ),
                    "tmt-2": fell(
                        "security_group", text, groups="sg-2", address=f"10.0.0.{number}"
                    ),
                    "tmt-3": fell("zone", "Elsewhere"),
                },
                number=number,
            )
            for number in numbers
        )
    )
    (group,) = survey.groups("dark")
    (finding,) = group.findings
    assert (group.label, finding.number) == ("security_group", len(numbers))
    expected = f"tmt-1 (and 1 further sensor): No rule of sg-1 admits udp/4789 from {where}"
    assert str(finding) == expected


def test_zones_without_a_sensor_are_named_the_largest_number_first() -> None:
    zones = enumerate("dccbbbaaaaeeeee")
    survey = found_in(
        *(entry(verdicts={"tmt-1": fell("zone")}, number=n, zone=z) for n, z in zones)
    )
    (group,) = survey.groups("dark")
    assert group.title == "No sensor in e, a, b and 2 more"
    assert [str(each) for each in group.findings][:2] == ["No sensor in e", "No sensor in a"]


@pytest.mark.parametrize(
    ("now", "limited", "count", "certain", "maybe", "full"),
    [
        ((0, 0, 0), True, 100, 30, 70, 0),
        ((0, 0, 0), True, 320, 30, 270, 20),
        ((8, 9, 10), True, 3, 3, 0, 0),
        ((8, 9, 10), True, 4, 3, 1, 0),
        ((40, 0, 0), True, 80, 80, 0, 0),  # the first has more than 10, so it takes 100
        ((0, 0, 0), False, 400, 400, 0, 0),  # load balancers
    ],
)
def test_what_may_not_fit_is_counted(
    now: tuple[int, ...], limited: bool, count: int, certain: int, maybe: int, full: int
) -> None:
    known = {f"tmt-{n}": Sensor(f"tmt-{n}", now=has, limited=limited) for n, has in enumerate(now)}
    entries = [
        planned(n, *sorted(known, key=lambda key: key[-1] != str(n % 3))) for n in range(count)
    ]
    survey = found_in(*entries, known=known)
    fates = survey.coverage()["interfaces"]
    assert (fates["planned"], fates["maybe"], fates["dark"]) == (certain, maybe, full)
    assert survey.complete is (certain == count)
    tight = [sensor.target_id for sensor in survey.sensors() if sensor.tight]
    assert bool(tight) >= bool(maybe)


@pytest.mark.parametrize(
    ("number", "status", "headline"),
    [
        (30, Exit.DONE, "All 30 interfaces would be mirrored"),
        (
            100,
            Exit.DARK,
            "30 of 100 would be mirrored for certain, 70 more only if your sensors are of sizes",
        ),
    ],
)
def test_the_headline_promises_no_more_than_aws_takes(
    scene: Scene, number: int, status: int, headline: str
) -> None:
    targets = [scene.sensor(scene.subnet(), [scene.group(VXLAN)]) for _ in range(3)]
    scene.instances(number, scene.subnet(), [scene.group()])
    run = Shown("--targets", ",".join(targets))
    assert headline in run.words
    assert run.status == status


def test_what_is_charged_is_counted_in_interface_hours() -> None:
    blocked = entry("blocked", {"tmt-1": fell("route")}, 1, session_id="tms-1")
    covered = entry("exists", number=2, session_id="tms-2", target_id="tmt-1")
    elsewhere = entry("exists", number=3, session_id="tms-3", metric="Elsewhere")
    words = shown_words(found_in(blocked, covered, elsewhere, planned(4, "tmt-1")))
    assert "1,460 a month now, 2,190 after (3 interfaces x 730 hours)" in words


def test_names_vpcs_and_owners_stand_beside_ids(scene: Scene) -> None:
    target = scene.sensor(scene.subnet(), [scene.group(VXLAN)])
    (host,) = (
        r["Instances"][0]["InstanceId"] for r in scene.ec2.describe_instances()["Reservations"]
    )
    scene.ec2.create_tags(Resources=[host], Tags=[{"Key": "Name", "Value": "sensor-1"}])
    scene.instance(scene.subnet("b"), [scene.group()], tags={"Name": "web-1"})
    run = Shown("--targets", target)
    assert re.search(r"of i-\w+ \(web-1, vpc-\w+\)", run.text)
    assert re.search(
        r"tmt-\w+ +us-east-1a +123456789012.*\n +sensor-1 +vpc-\w+ +m5.large", run.text
    )


# --------------------------------------------------------------------------------------
# Reading only
# --------------------------------------------------------------------------------------


def test_only_reading_and_what_gives_credentials_may_leave() -> None:
    operations = boto3.client("ec2", region_name="us-east-1").meta.service_model.operation_names
    assert len(operations) > 500
    may = {f"ec2.{name}": name.startswith(("Describe", "Get")) for name in operations}
    may |= dict.fromkeys(("sts.AssumeRole", "sts.AssumeRoleWithWebIdentity"), True)
    may |= dict.fromkeys(("sso.GetRoleCredentials", "sso-oidc.CreateToken"), True)
    may |= dict.fromkeys(("ec2.CreateToken", "iam.CreateUser", "lambda.Invoke"), False)
    for name, reads in may.items():
        with contextlib.nullcontext() if reads else pytest.raises(preview.NotReadOnly):
            preview.check_reading(*name.split("."))


def test_even_a_function_that_creates_creates_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = scene.sensor(scene.subnet(), [scene.group(VXLAN)])
    scene.instances(3)
    request = lambda_traffic_mirror.Request

    def wet(**arguments: Any) -> Any:
        return request(**(arguments | {"dry_run": False}))

    monkeypatch.setattr(lambda_traffic_mirror, "Request", wet)
    with pytest.raises(preview.NotReadOnly, match="ec2:CreateTrafficMirrorSession"):
        Shown("--targets", target)
    assert scene.sessions() == []
    assert scene.count("CreateTrafficMirrorSession") == 0


# --------------------------------------------------------------------------------------
# How it ends
# --------------------------------------------------------------------------------------


@pytest.mark.parametrize("permission", NEEDED)
def test_a_permission_that_is_missing_is_named(scene: Scene, permission: str) -> None:
    arguments = dark(scene)
    scene.deny(permission)
    run = Shown(*arguments)
    assert run.status == Exit.WRONG
    assert permission in run.errors
    assert "the function's role" not in run.words + run.errors
    assert (run.text == "") is (permission in NOTHING_WITHOUT)


# Without these no interface can be judged: there is an error and no picture.
NOTHING_WITHOUT = ("ec2:DescribeInstances",)


def test_a_role_that_lets_only_the_function_in_is_told(scene: Scene) -> None:
    """Another sensor takes the interfaces, so nothing stays dark for it."""
    scene.instances(2, scene.subnet())
    here, elsewhere = scene.sensor(scene.subnet(), [scene.group(VXLAN)]), scene.other()
    there = elsewhere.sensor(elsewhere.subnet("a", vpc=elsewhere.vpc("10.4.0.0/16")))
    elsewhere.share(there)
    role = elsewhere.role("sensors", trusts=[])
    run = Shown("--targets", f"{here},{there}", f"SENSOR_ROLE_ARNS={role}")
    assert run.status == Exit.DONE
    assert f"your AWS identity needs sts:AssumeRole on {role}" in run.words
    assert "sts:AssumeRole is missing and could settle 2 verdicts." in run.words


TARGETS = ("--targets", "tmt-1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--targets is missing"),
        (("--targets",), "--targets: expected one argument"),
        ((*TARGETS, "--frobnicate"), "unrecognized arguments: --frobnicate"),
        ((*TARGETS, "LOCAL_ZONE=false"), "LOCAL_ZONE=false sets no variable of the function: "),
        ((*TARGETS, "LOCAL_ZONE_ONLY=maybe"), "LOCAL_ZONE_ONLY is 'maybe'; accepted: true/false"),
        ((*TARGETS, "--html", "/no/such/folder/x.html"), "/no/such/folder/x.html cannot be writ"),
    ],
)
def test_a_wrong_call_is_told(
    scene: Scene, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    status: object
    try:
        status = __main__.main(["preview", *arguments])
    except SystemExit as error:
        status = error.code
    out, err = capsys.readouterr()
    assert (status, out, scene.count()) == (Exit.WRONG, "", 0)
    assert words in err


NO_REGION = {"AWS_REGION": None, "AWS_DEFAULT_REGION": None}
NO_KEYS = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}


@pytest.mark.parametrize(
    ("variables", "arguments", "code", "words"),
    [
        (NO_REGION, (), "", "no Region is set"),
        ({"AWS_PROFILE": "none"}, (), "", "profile"),
        ({}, ("--profile", "none"), "", "profile"),
        (NO_KEYS, (), "", "credentials"),
        ({}, (), "ExpiredToken", "ExpiredToken"),
        ({}, (), "InvalidClientTokenId", "InvalidClientTokenId"),  # or a Region that is not enabled
    ],
)
def test_where_aws_cannot_be_asked_there_is_an_error_and_no_picture(
    scene: Scene,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str | None],
    arguments: tuple[str, ...],
    code: str,
    words: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    if code:
        scene.fail("sts:GetCallerIdentity", code, status=403)
    run = Shown(*TARGETS, *arguments)
    assert (run.status, run.text) == (Exit.WRONG, "")
    assert words in run.errors


@pytest.mark.parametrize("option", [True, False], ids=["as option", "as variable"])
def test_credentials_and_region_may_come_from_a_profile(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, option: bool
) -> None:
    """Also for the clients that the function makes, though keys stand in variables."""
    target = scene.sensor(scene.subnet(), [scene.group(VXLAN)])
    scene.instance()
    config = tmp_path / "config"
    keys = [f"{name} = {os.environ[name.upper()]}" for name in KEYS]
    config.write_text("\n".join(["[profile ours]", "region = us-east-1", *keys]), encoding="utf-8")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "" if option else "ours")
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in KEYS:
        monkeypatch.setenv(name.upper(), "wrong") if option else monkeypatch.delenv(name.upper())
    run = Shown("--targets", target, *(("--profile", "ours") if option else ()))
    assert (run.errors, run.status) == ("", Exit.DONE)


KEYS = ("aws_access_key_id", "aws_secret_access_key")


def test_without_a_stack_it_looks_with_the_settings_that_deploy_begins_with(scene: Scene) -> None:
    """Such as EXCLUDE_TAGS, without which a load balancer's sensor is not used."""
    target = scene.nlb_sensor([scene.subnet()], [scene.group(VXLAN)])
    scene.instance()
    run = Shown("--targets", target)
    assert (run.status, "All 1 interface would be mirrored" in run.text) == (Exit.DONE, True)
    assert Shown("--targets", target, "EXCLUDE_TAGS=").status == Exit.DARK


@pytest.mark.parametrize("dry_run", ["true", "false"])
def test_with_a_stack_it_looks_with_that_stacks_parameters(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, dry_run: str
) -> None:
    target = scene.sensor(scene.subnet("b"), [scene.group(VXLAN)])
    scene.instance(scene.subnet("a"))
    given = {"Targets": target, "LocalZoneOnly": "false", "DryRun": dry_run, "SweepRate": "5"}
    stacks = {"ours": SimpleNamespace(parameters=given)}
    monkeypatch.setattr(stack, "read", lambda _, name: stacks.get(name))
    run = Shown("--stack", "ours")
    assert run.status == Exit.DONE
    assert "another Availability Zone" in run.words
    assert ("DRY_RUN is on" in run.words) is (dry_run == "true")
    assert Shown("--stack", "ours", "LocalZoneOnly=true").status == Exit.DARK
    assert Shown("--stack", "theirs").status == Exit.WRONG


def test_what_could_not_be_read_stays_dark(scene: Scene, quick: None) -> None:
    """Throttling is no missing permission: what could be looked at is shown."""
    target = scene.sensor(scene.subnet(), [scene.group(VXLAN)])
    scene.instances(3)
    scene.show_pages_of(5)
    scene.instances(9)
    scene.fail("DescribeInstances", "RequestLimitExceeded", status=503, after=1)
    run = Shown("--targets", target)
    assert (run.status, "Not everything was read." in run.text) == (Exit.DARK, True)


# --------------------------------------------------------------------------------------
# The page, the file of entries
# --------------------------------------------------------------------------------------


class Page(HTMLParser):
    """A page, taken apart; what is opened has to be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.builder, self.open = TreeBuilder(), ["page"]
        self.builder.start("page", {})
        self.feed(text)
        self.close()
        assert self.open == ["page"]
        self.builder.end("page")
        self.root = self.builder.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.builder.start(tag, {name: value or "" for name, value in attrs})
        self.open.append(tag)
        if tag in ("meta", "br"):
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.builder.end(tag)

    def handle_data(self, data: str) -> None:
        self.builder.data(data)

    def every(self, *tags: str) -> list[Element]:
        """All with one of these tags, in order."""
        return [element for element in self.root.iter() if element.tag in tags]

    def texts(self, *tags: str) -> list[str]:
        return [" ".join("".join(element.itertext()).split()) for element in self.every(*tags)]


def page_of(survey: Survey) -> Page:
    return Page("".join(shown.page(survey)))


def test_the_page_is_well_built_loads_nothing_and_runs_nothing(
    scene: Scene, tmp_path: Path
) -> None:
    path = tmp_path / "preview.html"
    run = Shown(*dark(scene), "--html", str(path))
    assert f"Written: {path}" in run.text
    page = Page(path.read_text(encoding="utf-8"))
    assert page.texts("h1") == ["8 of 11 interfaces would stay dark"]
    levels = [int(element.tag[1]) for element in page.every("h1", "h2", "h3", "h4")]
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
    assert [len(page.every(tag)) for tag in ("main", "header", "footer", "title")] == [1, 1, 1, 1]
    ids = [element.attrib["id"] for element in page.root.iter() if "id" in element.attrib]
    assert len(set(ids)) == len(ids)
    assert {element.get("aria-labelledby") for element in page.every("section")} <= {*ids}
    assert len(page.every("caption")) == len(page.every("thead")) == len(page.every("table"))
    assert all("scope" in cell.attrib for cell in page.every("th"))
    assert all(element.get("aria-hidden") == "true" for element in page.every("svg"))
    links = [element.attrib["href"] for element in page.root.iter() if "href" in element.attrib]
    assert len(links) == 5
    assert all(link[0] == "#" and link[1:] in ids for link in links)
    assert not page.every("script", "link", "img", "iframe", "object", "embed", "form", "base")
    assert not any(name[:2] == "on" or name == "src" for e in page.root.iter() for name in e.attrib)
    assert not re.search(r"url\(|@import", page.texts("style")[0])


HOSTILE = "<script>alert(1)</script><b title='\"&amp;`"


def test_text_of_the_account_is_text_on_the_page() -> None:
    survey = found_in(
        *(
            entry(
                outcome, {HOSTILE: fell(stage, HOSTILE)}, reason=HOSTILE, name=HOSTILE, zone=HOSTILE
            )
            for outcome in ("unmirrored", "blocked", "failed", "skipped", "exists")
            for stage in lambda_traffic_mirror.STAGES
        ),
        planned(1, HOSTILE, name=HOSTILE),
        known={HOSTILE: Sensor(*(HOSTILE,) * 7)},
    )
    survey.account = survey.region = HOSTILE
    survey.remarks = survey.unread = [HOSTILE]
    page = page_of(survey)
    assert not page.every("script")
    assert not any("title" in element.attrib for element in page.root.iter())
    assert page.texts("page")[0].count("<script>alert(1)</script>") > 50


@pytest.mark.parametrize("seed", range(20))
def test_the_numbers_are_the_accounts(scene: Scene, seed: int) -> None:
    scene.gates.clear()
    world = Builder(scene, seed, alone=True).build()
    variables = {**world.environment, "filter_id": scene.filter_id, "DRY_RUN": "false"}
    at_first = Counter(session["TrafficMirrorTargetId"] for session in scene.sessions())
    entries: list[Entry] = []
    survey = preview.survey(boto3.Session(region_name="us-east-1"), variables, entries.append)

    # What is gathered is what the function then says.
    os.environ.update(variables)
    event = {"sweep": True, "id": "preview"}
    body = scene.run(event | {"dry_run": True}).body
    assert Counter(each.outcome for each in entries) == body["summary"]
    found = [each.as_dict() for each in entries]
    assert all(each in found for each in body["interfaces"])
    counts = Counter(body["summary"])
    fates = survey.coverage()["interfaces"]
    dark_ones = counts["unmirrored"] + counts["blocked"]
    assert fates["planned"] + fates["maybe"] + fates["dark"] == counts["planned"] + dark_ones
    assert fates["covered"] + fates["elsewhere"] == counts["exists"]
    groups = survey.groups(*MEANT, "skipped")
    assert sum(group.total for group in groups) == len(entries) == len(survey.interfaces)
    assert survey.complete is (fates["maybe"] + fates["dark"] == 0)

    # And each sensor has in the end what it would have.
    scene.quota.clear()
    scene.default_quota = 10_000
    scene.run(event)
    in_the_end = Counter(session["TrafficMirrorTargetId"] for session in scene.sessions())
    mirrored = {session["NetworkInterfaceId"] for session in scene.sessions()}
    planned = [each for each in entries if each.outcome == "planned"]
    refused = [each for each in planned if each.interface_id not in mirrored]
    sensors = survey.sensors()
    assert sum(sensor.after - in_the_end[sensor.target_id] for sensor in sensors) == len(refused)
    for sensor in sensors:
        assert sensor.now == at_first[sensor.target_id]
        # What AWS refuses, for a filter that does not exist, say, makes others go elsewhere.
        assert refused or sensor.after == in_the_end[sensor.target_id]


def test_the_file_of_entries_has_the_form_of_the_functions_result(
    scene: Scene, tmp_path: Path
) -> None:
    file = tmp_path / "entries.json"
    arguments = dark(scene)
    Shown(*arguments, "--json", str(file))
    written = json.loads(file.read_text(encoding="utf-8"))
    os.environ.update(filter_id=scene.filter_id, targets=arguments[1], EXCLUDE_TAGS="mirror=no")
    body = scene.run({"sweep": True, "dry_run": True, "id": "preview"}).body
    by_id = {each["interface_id"]: each for each in body["interfaces"]}
    assert {each["interface_id"]: each for each in written.pop("interfaces")} == by_id
    assert written == {
        "dry_run": True,
        "summary": body["summary"],
        "message": "8 of 11 interfaces would stay dark.",
    }


def large(interfaces: int, sensors: int) -> Iterator[Entry]:
    """The entries of an account in which no two interfaces stay dark for the same reason."""
    for number in range(interfaces):
        verdict = fell("security_group", "No rule of {groups} admits", groups=f"sg-{number:017x}")
        yield entry(verdicts={f"tmt-{k:017x}": verdict for k in range(sensors)}, number=number)


def test_the_page_of_ten_thousand_interfaces_is_below_five_megabytes() -> None:
    known = {
        f"tmt-{k:017x}": Sensor(f"tmt-{k:017x}", zone=f"us-east-1{'abc'[k % 3]}")
        for k in range(300)
    }
    survey = found_in(*large(10_000, 1), known=known)
    assert 1_000_000 < sum(len(piece.encode()) for piece in shown.page(survey)) < 5_000_000
    out = io.StringIO()
    shown.draw(survey, Console(file=out, width=100))
    assert out.getvalue().count("\n") < 140


@pytest.mark.parametrize("lacking", [None, "ec2:DescribeSecurityGroups"])
def test_the_command_looks_at_an_emulator_that_lets_it_only_describe(
    scene: Scene, tmp_path: Path, lacking: str | None
) -> None:
    arguments = dark(scene)
    if lacking:
        scene.deny(lacking)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    code = f"import sys; sys.path[0] = {str(PROJECT / 'deploy')!r}; import commands.__main__ as m; "
    command = [sys.executable, "-c", f"{code}sys.exit(m.main())", "preview", *arguments]
    variables = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "PYTHONIOENCODING": "utf-8"}
    try:
        run = subprocess.run(
            [*command, "--html", "x.html"],
            cwd=tmp_path,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        server.stop()
    (headline,) = Page((tmp_path / "x.html").read_text(encoding="utf-8")).texts("h1")
    assert headline in run.stdout
    if lacking:
        assert run.returncode == Exit.WRONG
        assert f"missing permission: {lacking}\n" in run.stderr
    else:
        assert (run.returncode, run.stderr) == (Exit.DARK, "")


def test_the_demonstration_writes_the_page_of_its_account(tmp_path: Path) -> None:
    script = str(PROJECT / "tests" / "simulations" / "demo.py")
    event = str(PROJECT / "deploy" / "dry-run-sweep.json")
    command = [sys.executable, script, event, "--html", "demo.html"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    (headline,) = Page((tmp_path / "demo.html").read_text(encoding="utf-8")).texts("h1")
    assert headline in run.stdout
    assert not re.search(" $", run.stdout, re.MULTILINE)


# --------------------------------------------------------------------------------------
# In a browser
# --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = executable()
    if not program:
        pytest.skip("There is no Chromium here: apt-get install chromium")
    with Browser(program) as browser:
        yield browser


def long_names() -> Survey:
    """Everything there can be, with IDs and words as long as simulators and people make them."""
    target = "traf-mir-tar-" + "0" * 40
    sensor = Sensor(
        target, "i-1", "x" * 60, "c6in.32xlarge", "eu-a, eu-b", "vpc-1, vpc-2", "2" * 12
    )
    return found_in(
        *(
            entry(
                outcome,
                {target: fell(stage, words)},
                n,
                reason=words,
                name=words,
                session_id="s" * 40,
            )
            for outcome in ("unmirrored", "blocked", "failed", "skipped", "exists")
            for stage in lambda_traffic_mirror.STAGES
            for n, words in enumerate(("x" * 300, "network-interface/" * 12))
        ),
        *(planned(n, target) for n in range(20)),
        known={target: sensor, "tmt-1": Sensor("tmt-1")},
    )


# Of every text on the page: how far it stands out from what is behind it.
CONTRASTS = """
(() => {
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => {
    const [r, g, b] = numbers(colour).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (numbers(colour)[3] !== 0) return colour;
    }
    return null;
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let least = 99, number = 0;
  while (texts.nextNode()) {
    if (!texts.currentNode.data.trim()) continue;
    const element = texts.currentNode.parentElement;
    const pair = [light(getComputedStyle(element).color), light(behind(element))];
    least = Math.min(least, (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05));
    number += 1;
  }
  return [least, number];
})()
"""
# IDs of AWS's length that stand on more than one line.
BROKEN_IDS = """
[...document.querySelectorAll('code')].filter(e => /^[a-z]{1,4}-[0-9a-f]{17}$/.test(e.textContent)
  && e.getClientRects().length + (e.clientHeight > 30) > 1).map(e => e.textContent)
"""
PAGES: dict[str, Callable[[], Survey]] = {
    "small": lambda: found_in(*dark_entries(), planned(9, "tmt-" + "0" * 17)),
    "long": long_names,
    "empty": Survey,
}


@pytest.mark.parametrize("dark_scheme", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1440])
@pytest.mark.parametrize("name", PAGES)
def test_in_a_browser_nothing_scrolls_sideways_no_id_breaks_and_all_can_be_read(
    browser: Browser, tmp_path: Path, name: str, width: int, dark_scheme: bool
) -> None:
    path = tmp_path / "page.html"
    path.write_text("".join(shown.page(PAGES[name]())), encoding="utf-8")
    browser.open(path, width=width, dark=dark_scheme)
    browser.run("document.querySelectorAll('details').forEach(e => e.open = true)")
    wide, window = browser.run("[document.documentElement.scrollWidth, window.innerWidth]")
    assert (wide, window) == (width, width)
    assert browser.run(BROKEN_IDS) == []
    contrast, texts = browser.run(CONTRASTS)
    assert contrast >= 4.5
    assert texts > (10 if name == "empty" else 50)
    background = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background))) < 384) is dark_scheme
    kinds = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
    assert [event for event in browser.events if event.get("method") in kinds] == []
    sent = [e for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    assert [event["params"]["request"]["url"] for event in sent] == [path.as_uri()]
