"""The owner's floor, from a TOML file."""

import threading
import time

import pytest

from client.errors import PolicyRefusedError
from client.policy import Policy, PolicyFileError, load_policy
from client.policy_file import PolicyFile


def write(tmp_path, text):
    path = tmp_path / "policy.toml"
    path.write_text(text)
    return path


def test_every_clause_is_read(tmp_path):
    path = write(
        tmp_path,
        "max_epsilon = 8\ntarget_delta = 1e-6\nmin_noise_multiplier = 0.5\nmax_clipping_norm = 2.0\n"
        'require_privacy = true\nallowed_base_models = ["minilm"]\nallowed_methods = ["flora"]\n',
    )
    assert load_policy(path) == Policy(
        max_epsilon=8,
        target_delta=1e-6,
        min_noise_multiplier=0.5,
        max_clipping_norm=2.0,
        require_privacy=True,
        allowed_base_models=("minilm",),
        allowed_methods=("flora",),
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("max_epsilom = 8\n", "Did you mean max_epsilon"),
        ("max_epsilon = 0\n", "max_epsilon has an unusable value 0"),
        ("max_epsilon = true\n", "max_epsilon has an unusable value"),
        ("max_epsilon = nan\n", "max_epsilon has an unusable value"),
        ('max_epsilon = "8"\n', "max_epsilon has an unusable value"),
        ("require_privacy = 1\n", "require_privacy has an unusable value"),
        ('allowed_methods = "flora"\n', "allowed_methods has an unusable value"),
        ('allowed_units = ["persons"]\n', "allowed_units has an unusable value"),
        ("allowed_units = []\n", "allowed_units has an unusable value"),
        ("allowed_methods = [1]\n", "allowed_methods has an unusable value"),
        ("max_epsilon = \n", "not TOML"),
        ('max_epsilon = "8"\n', "expected: a number above 0"),
        ("require_privacy = 1\n", "expected: true or false"),
        ('allowed_methods = "flora"\n', "expected: a list of texts"),
        ('[data_sets."a.jsonl"]\nmax_epsilon = -1\n', "expected: a number above 0"),
    ],
)
def test_a_file_that_can_not_be_used_stops_the_client_before_it_starts(tmp_path, text, told):
    with pytest.raises(PolicyFileError, match=r"policy\.toml") as caught:
        load_policy(write(tmp_path, text))
    assert told in caught.value.message
    assert "docs/policy.md" in caught.value.hint


def test_a_missing_file_is_no_empty_policy(tmp_path):
    with pytest.raises(PolicyFileError, match="no such policy file"):
        load_policy(tmp_path / "none.toml")


def test_a_policy_file_that_lost_its_clauses_is_no_policy_without_clauses(tmp_path):
    path = tmp_path / "policy.toml"
    for nothing in ("", "\n", "# max_epsilon = 3\n"):
        path.write_text(nothing)
        with pytest.raises(PolicyFileError, match="holds no clause"):
            load_policy(path)


@pytest.mark.parametrize("delta", ["0", "1", "1e5", "nan", "inf", "-1e-5", "true", '"1e-5"'])
def test_a_delta_of_which_every_epsilon_is_zero_is_no_delta(tmp_path, delta):
    path = tmp_path / "policy.toml"
    path.write_text(f"target_delta = {delta}\n")
    with pytest.raises(PolicyFileError, match="target_delta"):
        load_policy(path)
    path.write_text("target_delta = 1e-6\n")
    assert load_policy(path).target_delta == 1e-6


def test_a_policy_file_that_is_read_while_it_is_written_never_loses_its_floor(tmp_path, monkeypatch):
    """Written in place, as editors do: empty, then some clauses, then all of them, with pauses between."""
    path = tmp_path / "policy.toml"
    parts = ["max_parallel_runs = 2\n", "max_epsilon = 3.0\n", "require_privacy = true\n"]
    path.write_text("".join(parts))
    monkeypatch.setattr(
        "client.policy_file.SETTLED_S", 2.0
    )  # a machine that is held up between two pieces does no harm
    policy_file = PolicyFile(path)
    seen, done = [], threading.Event()

    def look():
        while not done.is_set():
            try:
                seen.append(policy_file.current())
            except PolicyRefusedError:
                seen.append(None)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(3):
            with path.open("w") as file:
                for part in ["", *parts, "max_lora_rank = 8\n"]:
                    file.write(part)
                    file.flush()
                    time.sleep(0.03)
        deadline = time.monotonic() + 60
        while (
            not (seen and seen[-1] is not None and seen[-1].max_lora_rank == 8)
            and time.monotonic() < deadline
        ):
            time.sleep(0.05)
    finally:
        done.set()
        looking.join(60)
    assert seen[-1] is not None
    assert seen[-1].max_lora_rank == 8
    assert {p.max_epsilon for p in seen if p is not None} == {3.0}


@pytest.mark.parametrize(
    "written", ["data/ward-a.jsonl", "./data/ward-a.jsonl", "data//ward-a.jsonl", "data/x/../ward-a.jsonl"]
)
def test_a_cap_of_a_data_set_holds_however_its_path_is_written(written):
    policy = Policy(data_sets={written: 3.0})
    assert policy.epsilon_cap("ds-1", "data/ward-a.jsonl", "/srv/data/ward-a.jsonl", "ward-a.jsonl") == 3.0


def test_a_data_set_that_no_cap_names_is_not_one_without_a_cap():
    with pytest.raises(PolicyRefusedError, match="clause data_sets"):
        Policy(data_sets={"ward-b.jsonl": 3.0}).epsilon_cap("ds-1", "ward-a.jsonl")
    assert Policy(data_sets={"ward-b.jsonl": 3.0}, max_epsilon=8.0).epsilon_cap("ward-a.jsonl") == 8.0
    assert Policy().epsilon_cap("ward-a.jsonl") is None  # control: who caps nothing has no cap
