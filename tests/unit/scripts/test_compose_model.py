"""Reading a compose file: variables, order, and refusal of whatever would be passed over in silence."""

import pytest
from compose.dockerfile import image_facts
from compose.errors import ComposeError
from compose.interpolate import interpolated
from compose.model import load, seconds

BASE = """
x-common: &common {image: scratch, init: true, environment: &env {A: "1"}}
services:
  last: {<<: *common, depends_on: {middle: {condition: service_healthy}}, networks: [one]}
  middle:
    <<: *common
    environment: {<<: *env, B: "${B:-two}"}
    depends_on: [first]
    networks: {one: {aliases: [other]}}
  first: {image: scratch, profiles: [extra]}
networks: {one: {internal: true}}
volumes: {v: {}}
"""


@pytest.fixture
def read(tmp_path):
    def run(text, **environment):
        path = tmp_path / "docker-compose.yml"
        path.write_text(text)
        return load(path, environment)

    return run


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$A ${A} $$A", "1 1 $A"),
        ("${GONE:-x}${EMPTY:-y}${EMPTY-z}", "xy"),
        ("${A:+set}${EMPTY:+set}${EMPTY+set}", "setset"),
        ("${GONE}", ""),
    ],
)
def test_variables_are_replaced_as_compose_does(text, expected):
    assert interpolated({"k": [text]}, {"A": "1", "EMPTY": ""}) == {"k": [expected]}


@pytest.mark.parametrize("text", ["${GONE:?say it}", "cost: 5 $ a month", "${A"])
def test_a_variable_that_must_be_set_and_a_stray_dollar_are_refused(text):
    with pytest.raises(ComposeError, match=r"command"):
        interpolated({"command": [text]}, {"A": "1"})


def test_anchors_are_merged_and_services_come_after_what_they_depend_on(read):
    project = read(BASE, B="three")
    assert project.services["middle"].environment == {"A": "1", "B": "three"}
    assert project.services["last"].environment == {"A": "1"}
    assert project.ordered(["last"]) == ["first", "middle", "last"]
    assert project.services["middle"].networks == {"one": ("other",)}
    assert project.networks == {"one": True}


def test_a_profile_is_left_out_until_it_is_named(read):
    text = BASE.replace("depends_on: [first]", "depends_on: []")
    assert "first" not in read(text).enabled([])
    assert "first" in read(text).enabled(["extra"])


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("init: true", "init: true, privileged: true", "privileged"),
        ("volumes: {v: {}}", "volumes: {v: {driver: nfs}}", "driver"),
        ("volumes: {v: {}}", "volumes: {v: {}}\nconfigs: {}", "configs"),
        ("internal: true", "driver: host", "driver"),
        ("condition: service_healthy", "condition: service_lucky", "service_lucky"),
        ("{aliases: [other]}", "{ipv4_address: 1.2.3.4}", "ipv4_address"),
        ("profiles: [extra]", "network_mode: host", "network_mode"),
        ("profiles: [extra]", "networks: [two]", "two"),
        ("profiles: [extra]", "volumes: [{type: volume, source: w, target: /w}]", "no volume w"),
        ("profiles: [extra]", "volumes: ['./x:/x']", "write type"),
        ("profiles: [extra]", "command: run it", "list of words"),
        ("profiles: [extra]", "depends_on: [last]", "circle"),
        ("profiles: [extra]", "cap_drop: [NET_RAW]", "cap_drop"),
        ("profiles: [extra]", "healthcheck: {test: curl x}", "CMD"),
        ("profiles: [extra]", "restart: sometimes", "restart"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(read, old, new, named):
    read(BASE)
    with pytest.raises(ComposeError, match=named):
        read(BASE.replace(old, new, 1))


@pytest.mark.parametrize(("text", "expected"), [("90", 90), ("1m30s", 90), ("500ms", 0.5), ("1.5s", 1.5)])
def test_durations(text, expected):
    assert seconds(text, "x") == expected


def test_a_duration_without_a_unit_of_time_is_refused():
    with pytest.raises(ComposeError, match="no duration"):
        seconds("5 minutes", "x")


def test_the_last_stage_of_a_dockerfile_says_how_its_image_is_run(tmp_path):
    path = tmp_path / "Dockerfile"
    path.write_text(
        'FROM a AS b\nENV X=0\nCMD ["old"]\nFROM a\n# ENV Y=1\nENV X=1 \\\n    Z=/tmp\n'
        'USER 5:6\nWORKDIR /w\nENTRYPOINT ["run"]\n'
    )
    facts = image_facts(path)
    assert (facts.entrypoint, facts.command, facts.user, facts.working_dir) == (("run",), (), "5:6", "/w")
    assert facts.environment == {"X": "1", "Z": "/tmp"}
    path.write_text("FROM a\nENTRYPOINT run it\n")
    with pytest.raises(ComposeError, match="JSON list"):
        image_facts(path)
