"""deploy/preview.sh: what it shows, that it only reads, and its page, in a browser too.

docs/preview.png is made from the page that `tests/demo.sh --html page.html` writes, by
`chromium --headless --hide-scrollbars --window-size=1200,1000 --screenshot=preview.png page.html`.
"""

from __future__ import annotations

import contextlib
import html
import io
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import boto3
import pytest
from aws import SimulatedAccount, acl_entry, route, rule
from commands import __main__, preview, shown, stack
from commands.aws import Exit
from commands.picture import ADVICE, MEANT, Sensor, Survey
from conftest import Scene
from rich.console import Console
from worlds import Builder

import lambda_traffic_mirror
from lambda_traffic_mirror import Choice, Entry, Interface, Request, Source, Verdict, rejects

PROJECT = Path(__file__).resolve().parent.parent.parent
POLICY = json.loads((PROJECT / "deploy" / "preview-policy.json").read_text(encoding="utf-8"))
ALLOWED = [action for statement in POLICY["Statement"] for action in statement["Action"]]
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
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            self.status = __main__.main(["preview", *arguments])
        self.text, self.errors = out.getvalue(), err.getvalue()
        self.words = " ".join(self.text.split())


# --- On a terminal


def dark(scene: SimulatedAccount) -> list[str]:
    """Something of everything that can stay dark, but for other accounts."""
    open_group = scene.group(rule("udp", (4789, 4789), cidr="10.0.0.0/9"))
    deny = [acl_entry(90, "deny", protocol="17"), acl_entry(100, "allow", protocol="-1")]
    sensor = scene.sensor(scene.subnet("a"), [open_group])
    behind = scene.sensor(scene.subnet("b", acl=deny), [open_group])
    stopped = scene.sensor(scene.subnet("d"), [open_group], state="stopped")
    other = scene.sensor(scene.subnet("d"), [open_group])
    hosts = [scene.sensor_instance(each) for each in (sensor, behind, other)]
    scene.ec2.create_tags(Resources=hosts, Tags=[{"Key": "Name", "Value": "sensor"}])
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
    scene.session(scene.first_interface(elsewhere), other)
    scene.instance(scene.subnet("a"), [scene.group()], tags={"mirror": "no"})
    targets = f"{sensor},{behind},{stopped},{scene.missing_sensor()}"
    return ["--targets", targets, "--filter", scene.filter_id, "EXCLUDE_TAGS=mirror=no"]


def renumbered(text: str) -> list[str]:
    """The lines, with the IDs of resources numbered as they appear."""
    names: dict[str, str] = {}

    def name(found: re.Match[str]) -> str:
        number = sum(one.startswith(f"{found[1]}-") for one in names) + 1
        return names.setdefault(found[0], f"{found[1]}-{number:0{len(found[2])}}")

    text = re.sub(r"\b([a-z]{1,5})-([0-9a-f]{17})\b", name, text)
    return [line.rstrip() for line in text.splitlines()]


def test_the_picture_on_a_terminal_and_in_few_columns_what_to_do_on_the_first_screen(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Shown(*(arguments := dark(scene)))
    assert renumbered(run.text) == (Path(__file__).parent / "preview.txt").read_text().splitlines()
    assert (run.status, run.errors) == (Exit.DARK, "")
    for width, height in ((60, 28), (80, 22)):
        monkeypatch.setenv("COLUMNS", str(width))
        lines = Shown(*arguments).text.splitlines()
        assert max(map(len, lines)) <= width
        first_screen = " ".join(" ".join(lines[:height]).split())
        for stage in ("zone", "network_acl", "unavailable", "route", "security_group"):
            assert ADVICE[stage][1] in first_screen


# --- What is gathered, from entries made by hand


def entry(
    outcome: str = "unmirrored",
    verdicts: Mapping[str, Verdict] | None = None,
    number: int = 1,
    *,
    name: str = "",
    zone: str = "a",
    reason: str = "A reason.",
    **members: Any,
) -> Entry:
    """An entry of the function, of an interface with this number."""
    interface_id, instance_id = f"eni-{number:017x}", f"i-{number:017x}"
    address: Any = f"10.0.{number >> 8}.{number & 255}"
    place = Interface(interface_id, zone=zone, vpc_id="vpc-1", address=address)
    source = Source(place, instance_id, {"Name": name})
    ranked = [key for key, verdict in (verdicts or {}).items() if verdict.stage is None]
    choice = Choice(verdicts or {}, ranked, dict.fromkeys(ranked, 0))
    ids = {"instance_id": instance_id, "interface_id": interface_id}
    request = Request("preview", dry_run=True)
    return Entry(request, outcome, reason, **ids, source=source, choice=choice, **members)


def fell(stage: str, text: str = "A finding") -> Verdict:
    return Verdict(stage, (rejects(text),))


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


def drawn(survey: Survey) -> str:
    """What a terminal shows of it."""
    shown.draw(survey, Console(file=(out := io.StringIO()), width=100))
    return out.getvalue()


def test_interfaces_that_fall_for_the_same_reason_stand_together_the_most_first() -> None:
    """How their addresses are shown is in the picture."""
    far, alike = {"tmt-1": fell("zone")}, dict.fromkeys(("tmt-1", "tmt-2"), fell("route", "Why"))
    zones = enumerate("dccbbbaaaaeeeee")
    in_zones = [entry(verdicts=far, number=n, zone=zone) for n, zone in zones]
    first, second = found_in(*in_zones, entry(verdicts={**alike, **far})).groups("dark")
    assert (first.total, first.title) == (15, "No sensor in e, a, b and 2 more")
    assert [str(each) for each in first.findings][:2] == ["No sensor in e", "No sensor in a"]
    assert [str(each) for each in second.findings] == ["tmt-2: Why"]
    (third,) = found_in(entry(verdicts=alike)).groups("dark")
    assert [str(each) for each in third.findings] == ["tmt-1 (and 1 further sensor): Why"]


FITS = {
    "ten for each are certain": ((0, 0, 0), 100, (30, 70, 0), "30 of 100 would be mirrored for c"),
    "a hundred may be": ((0, 0, 0), 320, (30, 270, 20), "20 of 320 interfaces would stay dark, 2"),
    "as many as fit": ((8, 9, 10), 3, (3, 0, 0), "All 3 interfaces would be mirrored"),
    "one more": ((8, 9, 10), 4, (3, 1, 0), "3 of 4 would be mirrored for certain, 1 more only if"),
    "who has 40 takes 100": ((40, 0, 0), 80, (80, 0, 0), "All 80 interfaces would be mirrored"),
    "load balancers": ((None, None), 400, (400, 0, 0), "All 400 interfaces would be mirrored"),
    "nothing": ((), 0, (0, 0, 0), "There is no interface to be mirrored"),
}


@pytest.mark.parametrize(("now", "count", "expected", "headline"), FITS.values(), ids=FITS)
def test_the_headline_promises_no_more_than_aws_takes_for_certain(
    now: tuple[int | None, ...], count: int, expected: tuple[int, ...], headline: str
) -> None:
    """So many sessions the sensors have now; load balancers have no limit."""
    sensors = [
        Sensor(f"tmt-{n}", now=has or 0, limited=has is not None) for n, has in enumerate(now)
    ]
    known = {sensor.target_id: sensor for sensor in sensors}
    ranked = [sorted(known, key=lambda key: key[-1] != str(n % 3)) for n in range(count)]
    survey = found_in(*(planned(n, *ids) for n, ids in enumerate(ranked)), known=known)
    fates = survey.coverage()["interfaces"]
    assert (fates["planned"], fates["maybe"], fates["dark"]) == expected
    assert survey.complete is (fates["planned"] == count)
    assert any(sensor.tight for sensor in survey.sensors()) >= bool(fates["maybe"])
    assert shown.headline(survey).startswith(headline)


def full_of(text: str) -> Survey:
    """Everything there can be, with this text wherever the account's words can stand."""
    short = "tmt-" + "0" * 17
    survey = found_in(
        *(
            entry(outcome, {text: fell(stage, text)}, number, reason=text, name=text)
            for outcome in ("unmirrored", "blocked", "failed", "skipped", "exists")
            for number, stage in enumerate(lambda_traffic_mirror.STAGES)
        ),
        *(planned(number, text, name=text, zone=text) for number in range(20)),
        known={
            text: Sensor(text, text, text, text[:12], text, text, text[:12]),
            short: Sensor(short),
        },
    )
    survey.account = survey.region = text
    survey.remarks = survey.unread = [text]
    return survey


def test_text_of_the_account_is_markup_neither_on_a_terminal_nor_on_the_page() -> None:
    survey = full_of("[red]x[/red] \x1b[2J\a¦\n<script>alert(1)</script><b title='\"&amp;`")
    assert "[red]x[/red] ?[2J?|?" in drawn(survey)
    page = page_of(re.sub("[\x1b\a]", "", "".join(shown.page(survey))))
    assert not [*page.iter("script")]
    assert not any("title" in element.attrib for element in page.iter())
    assert "".join(page.itertext()).count("<script>alert(1)</script>") > 50


def test_a_page_lists_every_interface_in_500_bytes_and_a_terminal_the_most_frequent() -> None:
    """Though no two interfaces stay dark for the same reason."""
    known = {f"tmt-{n:017x}": Sensor(f"tmt-{n:017x}") for n in range(300)}
    verdicts = [fell("security_group", f"No rule of sg-{n:017x}") for n in range(2_000)]
    entries = (entry(verdicts={"tmt-1": row}, number=n) for n, row in enumerate(verdicts))
    survey = found_in(*entries, known=known)
    text = "".join(shown.page(survey))
    assert all(item.interface_id in text for item in survey.interfaces)
    assert len(text.encode()) < 1_000_000
    assert drawn(survey).count("\n") < 140


# --- Reading only


def test_only_reading_and_what_gives_credentials_may_leave() -> None:
    for name in ("ec2.DescribeTags", "sts.AssumeRole", "sso.GetRoleCredentials"):
        preview.check_reading(*name.split("."))
    preview.check_reading("sso-oidc", "CreateToken")
    for name in ("ec2.CreateTags", "ec2.CreateToken", "iam.CreateUser", "lambda.Invoke"):
        with pytest.raises(preview.NotReadOnly):
            preview.check_reading(*name.split("."))


def test_even_a_function_that_creates_creates_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = scene.sensor(scene.subnet(), [scene.group(VXLAN)])
    scene.instances(3)
    monkeypatch.setattr(
        lambda_traffic_mirror, "Request", lambda dry_run, **more: Request(dry_run=False, **more)
    )
    with pytest.raises(preview.NotReadOnly, match="ec2:CreateTrafficMirrorSession"):
        Shown("--targets", target)
    assert scene.count("CreateTrafficMirrorSession") == 0


# --- How it ends


# Without these there is nothing to judge; the policy's others decide only now and then.
@pytest.mark.parametrize("permission", POLICY["Statement"][0]["Action"])
def test_a_permission_that_is_missing_is_named(scene: Scene, permission: str) -> None:
    arguments = dark(scene)
    scene.deny(permission)
    run = Shown(*arguments)
    assert run.status == Exit.WRONG
    assert permission in run.errors
    assert "the function's role" not in run.words + run.errors
    # Without this one no interface can be judged: there is an error and no picture.
    assert (run.text == "") is (permission == "ec2:DescribeInstances")


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


def test_where_aws_cannot_be_asked_there_is_an_error_and_no_picture(
    scene: Scene, tmp_path: Path
) -> None:
    scene.fail("sts:GetCallerIdentity", "ExpiredToken", status=403)
    run = Shown("--targets", "tmt-1", "--html", str(tmp_path / "page.html"))
    assert (run.status, run.text, "ExpiredToken" in run.errors) == (Exit.WRONG, "", True)
    assert [*tmp_path.iterdir()] == []


def test_credentials_and_region_may_come_from_a_profile(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also for the clients that the function makes, though keys stand in variables."""
    target = scene.sensor(scene.subnet(), [scene.group(VXLAN)])
    scene.instance()
    lines = ["[profile ours]", "region = us-east-1"]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        lines.append(f"{name.lower()} = {os.environ[name]}")
        monkeypatch.setenv(name, "wrong")
    (tmp_path / "config").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "")
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    run = Shown("--targets", target, "--profile", "ours")
    assert (run.errors, run.status) == ("", Exit.DONE)
    assert (os.environ["AWS_PROFILE"], os.environ.get("AWS_ACCESS_KEY_ID")) == ("ours", None)


def test_without_a_stack_it_looks_with_the_settings_that_deploy_begins_with(scene: Scene) -> None:
    """Such as EXCLUDE_TAGS, without which a load balancer's sensor is not used."""
    target = scene.nlb_sensor([scene.subnet()], [scene.group(VXLAN)])
    scene.instance()
    assert Shown("--targets", target).status == Exit.DONE
    assert Shown("--targets", target, "EXCLUDE_TAGS=").status == Exit.DARK


def test_with_a_stack_it_looks_with_that_stacks_parameters(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = scene.sensor(scene.subnet("b"), [scene.group(VXLAN)])
    scene.instance(scene.subnet("a"))
    given = {"Targets": target, "LocalZoneOnly": "false", "DryRun": "true", "SweepRate": "5"}
    stacks = {"ours": SimpleNamespace(parameters=given)}
    monkeypatch.setattr(stack, "read", lambda _, name: stacks.get(name))
    run = Shown("--stack", "ours")
    assert run.status == Exit.DONE
    assert "another Availability Zone" in run.words
    assert "DRY_RUN is on" in run.words
    run = Shown("--stack", "ours", "LocalZoneOnly=true", "DRY_RUN=false")
    assert (run.status, "DRY_RUN is on" in run.words) == (Exit.DARK, False)
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


@pytest.mark.parametrize("seed", range(8))
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
    counts = Counter(scene.run(event | {"dry_run": True}).summary)
    fates = survey.coverage()["interfaces"]
    meant = counts["planned"] + counts["unmirrored"] + counts["blocked"]
    assert fates["planned"] + fates["maybe"] + fates["dark"] == meant
    assert fates["covered"] + fates["elsewhere"] == counts["exists"]
    assert sum(group.total for group in survey.groups(*MEANT, "skipped")) == counts.total()
    assert survey.complete is (fates["maybe"] + fates["dark"] == 0)

    # And each sensor has in the end what it would have.
    scene.quota.clear()
    scene.default_quota = 10_000
    scene.run(event)
    sessions = scene.sessions()
    in_the_end = Counter(session["TrafficMirrorTargetId"] for session in sessions)
    planned = {each.interface_id for each in entries if each.outcome == "planned"}
    # What AWS refuses, for a filter that does not exist, say, makes others go elsewhere.
    refused = planned - {session["NetworkInterfaceId"] for session in sessions}
    more = {one.target_id: one.after - in_the_end[one.target_id] for one in survey.sensors()}
    assert sum(more.values()) == len(refused)
    assert refused or not any(more.values())
    assert all(one.now == at_first[one.target_id] for one in survey.sensors())


# --- The page, the file of entries


def page_of(text: str) -> ElementTree.Element:
    """A page, taken apart as XML: what is opened has to be closed in order."""
    text = text.replace("<!doctype html>", "").replace("<details open>", "<details>")
    return ElementTree.fromstring(re.sub(r"<(meta[^>]*|br)>", r"<\1/>", text))


def test_the_page_can_be_read_and_loads_nothing_and_the_file_is_the_functions_result(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = dark(scene)
    run = Shown(*arguments, "--html", "x.html", "--json", "x.json")
    assert run.text.endswith("Written: x.html\nWritten: x.json\n")

    page = page_of(Path("x.html").read_text(encoding="utf-8"))
    parts = Counter(element.tag for element in page.iter())
    assert [heading.text for heading in page.iter("h1")] == ["8 of 11 interfaces would stay dark"]
    assert parts["caption"] == parts["thead"] == parts["table"] > 5
    named = [(name, value) for element in page.iter() for name, value in element.attrib.items()]
    ids = [value for name, value in named if name == "id"]
    assert len(set(ids)) == len(ids)
    links = [value for name, value in named if name == "href"]
    assert len(links) == 5
    assert {*links} <= {f"#{one}" for one in ids}
    # It loads nothing and runs nothing.
    loading = {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    assert not loading & parts.keys()
    assert not any(name == "src" or name.startswith("on") for name, _ in named)
    assert not re.search(r"url\(|@import", next(page.iter("style")).text or "")

    written = json.loads(Path("x.json").read_text(encoding="utf-8"))
    os.environ.update(filter_id=scene.filter_id, targets=arguments[1], EXCLUDE_TAGS="mirror=no")
    body = scene.run({"sweep": True, "dry_run": True, "id": "preview"}).body
    rows = [sorted(each.pop("interfaces"), key=str) for each in (written, body)]
    assert rows[0] == rows[1]
    message = "8 of 11 interfaces would stay dark."
    assert written == {"dry_run": True, "summary": body["summary"], "message": message}


# Of each page in a frame: how wide it is and how wide its frame, its background, IDs of AWS's
# length that stand on more than one line, and how far the least of its texts stands out.
LOOK = r"""
const numbers = colour => colour.match(/[\d.]+/g).map(Number);
const light = colour => numbers(colour).slice(0, 3).map(v => v / 255)
  .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const look = frame => {
  const page = frame.contentDocument, style = e => frame.contentWindow.getComputedStyle(e);
  page.querySelectorAll('details').forEach(e => e.open = true);
  const behind = e => numbers(style(e).backgroundColor)[3] === 0
    ? behind(e.parentElement) : style(e).backgroundColor;
  const texts = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  let least = 99;
  while (texts.nextNode()) {
    if (!texts.currentNode.data.trim()) continue;
    const element = texts.currentNode.parentElement;
    const [low, high] = [light(style(element).color), light(behind(element))].sort((a, b) => a - b);
    least = Math.min(least, (high + 0.05) / (low + 0.05));
  }
  const broken = [...page.querySelectorAll('code')].filter(e =>
    /^[a-z]{1,4}-[0-9a-f]{17}$/.test(e.textContent)
    && e.getClientRects().length + (e.clientHeight > 30) > 1).map(e => e.textContent);
  return [page.documentElement.scrollWidth, frame.clientWidth, light(behind(page.body)) < 0.2,
    broken, least];
};
onload = () => document.body.textContent =
  JSON.stringify([...document.querySelectorAll('iframe')].map(look));
"""


def test_in_a_browser_nothing_scrolls_sideways_no_id_breaks_and_all_can_be_read(
    tmp_path: Path,
) -> None:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    if not (program := next(filter(None, map(shutil.which, names)), None)):
        pytest.skip("There is no Chromium here: apt-get install chromium")
    pages = [
        html.escape("".join(shown.page(survey)))
        for survey in (full_of("x" * 300), full_of("network-interface/" * 12), Survey())
    ]
    cases = [*product(pages, (360, 768, 1440), ("light", "dark"))]
    frame = '<iframe srcdoc="{}" style="border: 0; width: {}px; color-scheme: {}"></iframe>'
    frames = "".join(frame.format(*case) for case in cases)
    path = tmp_path / "page.html"
    path.write_text(f"<body>{frames}<script>{LOOK}</script>", encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--user-data-dir={tmp_path}/x"]
    command = [program, *options, "--dump-dom", path.as_uri()]
    run = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, check=True)
    (text,) = re.findall(r"\[\[.*\]\]", run.stdout)
    for (_, width, scheme), (*found, contrast) in zip(cases, json.loads(text), strict=True):
        assert found == [width, width, scheme == "dark", []]
        assert contrast >= 4.5
