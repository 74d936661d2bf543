"""What the environment variables say, one line per variable and spelling."""

from __future__ import annotations

import os
from unittest.mock import patch

import pytest
from aws import running_event
from conftest import VARIABLES, Scene, missing

import lambda_traffic_mirror
from lambda_traffic_mirror import Configuration, ConfigurationError, Tag, lambda_handler

pytestmark = pytest.mark.usefixtures("shared_client")


def read(**variables: str) -> Configuration:
    """What these variables say beside the two that are required."""
    return Configuration.from_environment({"filter_id": "tmf-1", "targets": "tmt-1", **variables})


# --- Defaults and spellings

DEFAULTS = Configuration(
    filter_id="tmf-1",
    targets=("tmt-1",),
    sensor_roles=(),
    local_zone_only=True,
    local_vpc_only=False,
    include_tags=(),
    exclude_tags=(),
    filter_tag="",
    targets_tag="",
    mirror_databases=False,
    session_number=1,
    virtual_network_id=None,
    packet_length=None,
    session_tags=(),
    mirror_alongside=False,
    allow_unverified=False,
    cache_seconds=0,
    dry_run=False,
)
OPTIONAL = VARIABLES[2:]
BOOLEANS = (
    *("LOCAL_ZONE_ONLY", "LOCAL_VPC_ONLY", "MIRROR_DATABASES", "MIRROR_ALONGSIDE"),
    *("ALLOW_UNVERIFIED", "DRY_RUN"),
)


def test_the_defaults() -> None:
    assert read() == DEFAULTS


@pytest.mark.parametrize("variable", OPTIONAL)
def test_a_blank_value_counts_as_unset(variable: str) -> None:
    assert read(**{variable: ""}) == read(**{variable: " \t\n"}) == read()


TRUE = ("true", "TRUE", "Yes", "on", "1", " true\n")
FALSE = ("false", "FALSE", "No", "off", "0", "\tno ")


@pytest.mark.parametrize("variable", BOOLEANS)
def test_booleans_are_accepted_in_four_spellings_and_any_case(variable: str) -> None:
    for text in TRUE + FALSE:
        assert getattr(read(**{variable: text}), variable.lower()) is (text in TRUE), text


VALUES: dict[str, tuple[str, str, object]] = {
    "a filter with white space around it": ("filter_id", "  tmf-7\n", "tmf-7"),
    "targets on lines": ("targets", "tmt-7\ntmt-8\r\n\ttmt-9\n", ("tmt-7", "tmt-8", "tmt-9")),
    "targets between commas and spaces": ("targets", " tmt-7 , tmt-8,, ", ("tmt-7", "tmt-8")),
    "duplicates fold, the order stays": ("targets", "tmt-8,tmt-7,tmt-8", ("tmt-8", "tmt-7")),
    "an account among targets": ("targets", "123456789012 x", ("123456789012", "x")),
    "the lowest session number": ("SESSION_NUMBER", "1", 1),
    "the highest session number": ("SESSION_NUMBER", "32766", 32766),
    "a number with zeros in front": ("SESSION_NUMBER", " 0007\n", 7),
    "the lowest virtual network ID": ("VIRTUAL_NETWORK_ID", "0", 0),
    "the highest virtual network ID": ("VIRTUAL_NETWORK_ID", "16777215", 16777215),
    "the shortest packets": ("PACKET_LENGTH", "1", 1),
    "the longest packets": ("PACKET_LENGTH", "8500", 8500),
    "the key of a tag that names a filter": ("FILTER_TAG", " mirror filter\n", "mirror filter"),
    "the key of a tag that names targets": ("TARGETS_TAG", " mirror=to ", "mirror=to"),
}


@pytest.mark.parametrize(("variable", "text", "value"), VALUES.values(), ids=VALUES.keys())
def test_a_value_is_read(variable: str, text: str, value: object) -> None:
    assert getattr(read(**{variable: text}), variable.lower()) == value


def test_roles_go_by_account_and_the_same_one_twice_folds() -> None:
    china = "arn:aws-cn:iam::111122223333:role/a/b+c"
    roles = read(SENSOR_ROLE_ARNS=f" {ROLE_ARN},\n{china} {ROLE_ARN},").sensor_roles
    assert roles == (("210987654321", ROLE_ARN), ("111122223333", china))
    assert read(SENSOR_ROLE_ARNS=" ").sensor_roles == ()


TAGS: dict[str, tuple[str, tuple[Tag, ...]]] = {
    "a key": ("mirror", (Tag("mirror", None),)),
    "key and value": ("mirror=yes", (Tag("mirror", "yes"),)),
    "an empty value": ("mirror=", (Tag("mirror", ""),)),
    "split at the first equals sign": ("team=red=blue", (Tag("team", "red=blue"),)),
    "the same key twice": ("env=a,env=b", (Tag("env", "a"), Tag("env", "b"))),
    "white space around": (" mirror=yes ,\n team ", (Tag("mirror", "yes"), Tag("team", None))),
    "colons, slashes, commas too many": (",aws:x/y=a:b,,", (Tag("aws:x/y", "a:b"),)),
}


@pytest.mark.parametrize(("text", "tags"), TAGS.values(), ids=TAGS.keys())
def test_tags_are_keys_or_keys_with_values(text: str, tags: tuple[Tag, ...]) -> None:
    assert read(INCLUDE_TAGS=text, EXCLUDE_TAGS="x") == read(EXCLUDE_TAGS="x")._replace(
        include_tags=tags
    )
    assert read(EXCLUDE_TAGS=text).exclude_tags == tags


def test_forty_nine_session_tags_are_accepted() -> None:
    tags = read(SESSION_TAGS=",".join(f"k{n}=a=b" for n in range(49))).session_tags
    assert tags == tuple(Tag(f"k{n}", "a=b") for n in range(49))


# --- The constants at the top of the file

# The constant, the text of its variable, and what is meant.
IN_THE_FILE: dict[str, tuple[str, object, str, object]] = {
    "targets, a list": ("TARGETS", ["tmt-8", "tmt-7"], "", ("tmt-8", "tmt-7")),
    "targets, a tuple with a duplicate": ("TARGETS", ("tmt-8", "tmt-8"), " ", ("tmt-8",)),
    "targets, a text": ("TARGETS", "tmt-8, tmt-7", "", ("tmt-8", "tmt-7")),
    "targets, before which the variable goes": ("TARGETS", ["tmt-8"], "tmt-9", ("tmt-9",)),
    "local_zone_only": ("LOCAL_ZONE_ONLY", False, "", False),
    "local_zone_only, a text": ("LOCAL_ZONE_ONLY", "false", "", False),
    "local_zone_only, before which true goes": ("LOCAL_ZONE_ONLY", False, "true", True),
}


@pytest.mark.parametrize(
    ("constant", "value", "text", "meant"), IN_THE_FILE.values(), ids=IN_THE_FILE.keys()
)
def test_a_constant_in_the_file_is_the_default(
    monkeypatch: pytest.MonkeyPatch, constant: str, value: object, text: str, meant: object
) -> None:
    monkeypatch.setattr(lambda_traffic_mirror, constant, value)
    variable = "targets" if constant == "TARGETS" else constant
    assert getattr(read(**{variable: text}), constant.lower()) == meant


# --- Values that are not accepted

BOOLEAN = "true/false, yes/no, on/off or 1/0"
TAG = "key=value or key"
ROLE_ARN = "arn:aws:iam::210987654321:role/sensors"
NO_ROLES = [
    *("sensors", "210987654321", "arn;aws:iam::210987654321:role/sensors"),
    *("arn:aws:iam::210987654321:user/sensors", "arn:aws:iam::21098765432:role/sensors"),
    *("arn:aws:iam::*:role/sensors", "arn:aws:iam::210987654321:role/"),
]

# What is accepted of a variable, and what is not.
BAD_VALUES: dict[tuple[str, str], list[str]] = {
    ("filter_id", "the ID of the traffic mirror filter"): ["tmf-1 tmf-2", "tmf-1,tmf-2", ","],
    ("targets", "the IDs of the traffic mirror targets"): [",", " , ,"],
    **{(variable, BOOLEAN): ["maybe", "2"] for variable in BOOLEANS},
    ("SESSION_NUMBER", "a whole number from 1 to 32766"): [
        *("0", "32767", "-1", "+1", "1.0", "1e3", "1_000", "1 2", "one", "9" * 5000),
        "٣",  # a digit, but none of ours
    ],
    ("VIRTUAL_NETWORK_ID", "a whole number from 0 to 16777215"): ["-1", "16777216", "any"],
    ("PACKET_LENGTH", "a whole number from 1 to 8500"): ["0", "8501", "all"],
    ("CACHE_SECONDS", "a whole number from 0 up"): ["-1", "0.5", "5m"],
    ("SENSOR_ROLE_ARNS", "ARNs of roles, arn:aws:iam::123456789012:role/NAME"): NO_ROLES,
    ("INCLUDE_TAGS", TAG): ["=", "=yes"],
    ("EXCLUDE_TAGS", TAG): [" = yes"],
    ("SESSION_TAGS", TAG): ["=yes"],
    ("SESSION_TAGS", "key=value, separated by commas"): ["mirror"],
    ("SESSION_TAGS", "other keys"): ["Name=web", "AWS:team=red"],
    ("SESSION_TAGS", "each key once, team too"): ["team=red,team=blue"],
    ("SESSION_TAGS", "at most 49 tags, not 50"): [",".join(f"{n}=" for n in range(50))],
}
MALFORMED = [(*key, text) for key, texts in BAD_VALUES.items() for text in texts]


def configuration_error() -> str:
    with pytest.raises(ConfigurationError) as caught:
        lambda_handler(running_event("i-1"), None)
    assert isinstance(caught.value, ValueError)
    return str(caught.value)


@pytest.mark.parametrize(
    ("variable", "accepted", "text"),
    MALFORMED,
    ids=[f"{name} is {text[:20]!a}" for name, _, text in MALFORMED],
)
def test_the_error_names_variable_value_and_what_is_accepted(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, variable: str, accepted: str, text: str
) -> None:
    scene.configure("tmt-1")
    monkeypatch.setenv(variable, text)
    assert missing(configuration_error(), variable, repr(text.strip()), accepted) == []
    assert scene.calls == []


def test_a_second_role_of_an_account_is_an_error() -> None:
    second = ROLE_ARN.replace("sensors", "path/sensors")
    with pytest.raises(ConfigurationError) as caught:
        read(SENSOR_ROLE_ARNS=f"{ROLE_ARN}, {second}")
    wanted = ("SENSOR_ROLE_ARNS", second, "one role for account 210987654321")
    assert missing(str(caught.value), *wanted) == []


def test_what_is_required_and_not_set_is_named_and_for_targets_the_file_as_well(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("filter_id", "targets"):
        for text in ("", " \n", None):
            scene.configure("tmt-1")
            os.environ.pop(variable) if text is None else os.environ.update({variable: text})
            assert f"{variable} is not set; accepted: the ID" in configuration_error()
    for constant in (None, [], ""):
        monkeypatch.setattr(lambda_traffic_mirror, "TARGETS", constant)
        assert missing(configuration_error(), "targets is not set", "TARGETS in the file") == []


# --- What becomes of it


def test_variables_are_read_anew_ids_of_any_form_work_and_what_is_unset_is_left_to_aws(
    scene: Scene,
) -> None:
    with patch.dict("moto.ec2.utils.EC2_RESOURCE_TO_PREFIX", {"traffic-mirror-target": "t-m-t"}):
        targets = [scene.sensor(), scene.sensor()]
    for target in targets:
        filter_id = scene.filter()
        scene.configure(target, filter_id=filter_id)
        entry = scene.run(scene.instance()).entry
        assert (entry["target_id"], target[:6]) == (target, "t-m-t-")
        sent = scene.calls[-1].parameters
        assert sent["TrafficMirrorFilterId"] == filter_id
        assert not {"VirtualNetworkId", "PacketLength"} & set(sent)


def test_wildcards_and_thirteen_digits_are_ids_of_targets_that_do_not_exist(scene: Scene) -> None:
    scene.sensor()
    scene.configure(["tmt-*", "tmt-?????????????????", "1234567890123"])
    assert scene.run(scene.instance()).stages == ["unavailable"] * 3


def test_a_value_that_is_no_text_is_named() -> None:
    """Python reads bytes that are not UTF-8 as surrogates, which no call could carry."""
    with pytest.raises(ConfigurationError, match=r"targets is 'tmt-.*UTF-8"):
        Configuration.from_environment({"filter_id": "tmf-1", "targets": "tmt-\udcff"})
