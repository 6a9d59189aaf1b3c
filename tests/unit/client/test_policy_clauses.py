"""Each clause of the owner's floor: a recipe one step beyond is refused with its name, the one within is accepted."""

import datetime

import pytest

from client.base_hash import folder_sha256
from client.errors import OutsideHoursError, PolicyRefusedError
from client.policy import Policy, PolicyFileError, check_hours, check_policy, load_policy
from client.policy_file import PolicyFile
from motet.recipe import parse_recipe

PRIVATE = "privacy: {noise_multiplier: 1.0, sampling_rate: 0.1, clipping_norm: 1.0}\n"


def recipe_of(
    *,
    base="tiny: tiny-bert",
    method="name: flora",
    targets="[query, value]",
    extra=PRIVATE,
    cohort="clients: [a, b], minimum: 2",
):
    return parse_recipe(
        f"name: t\nbase_model: {{{base}}}\ntask: {{kind: sequence-classification, num_labels: 2}}\n"
        f"data: {{path: x.jsonl}}\nadapter: {{lora_rank: 4, targets: {targets}}}\nmethod: {{{method}}}\n"
        f"cohort: {{{cohort}}}\ntraining: {{rounds: 2, local_steps: 3}}\n{extra}"
    )


def check(policy, recipe):
    noise_multiplier = recipe.privacy.noise_multiplier if recipe.privacy else None
    check_policy(policy, recipe, lora_rank=4, noise_multiplier=noise_multiplier)


PLAIN = recipe_of(extra="")
CLIENT_UNIT = recipe_of(
    method="name: ffa",
    cohort="clients: [a, b]",
    extra="privacy: {unit: client, noise_multiplier: 1.0, sampling_rate: 0.5, clipping_norm: 1.0}\n",
)
# clause, a recipe within it, the same one step beyond
CLAUSES = [
    ("max_epsilon", {"max_epsilon": 8.0}, recipe_of(), PLAIN),
    ("data_sets", {"data_sets": {"a.jsonl": 3.0}}, recipe_of(), PLAIN),
    ("require_privacy", {"require_privacy": True}, recipe_of(), PLAIN),
    (
        "min_noise_multiplier",
        {"min_noise_multiplier": 1.0},
        recipe_of(),
        recipe_of(extra=PRIVATE.replace("noise_multiplier: 1.0", "noise_multiplier: 0.99")),
    ),
    (
        "max_clipping_norm",
        {"max_clipping_norm": 1.0},
        recipe_of(),
        recipe_of(extra=PRIVATE.replace("clipping_norm: 1.0", "clipping_norm: 1.01")),
    ),
    ("allowed_units", {"allowed_units": ("example",)}, recipe_of(), CLIENT_UNIT),
    (
        "allowed_base_models",
        {"allowed_base_models": ("tiny-bert",)},
        PLAIN,
        recipe_of(base="tiny: tiny-gpt2", targets="[c_attn]"),
    ),
    ("allowed_methods", {"allowed_methods": ("flora",)}, PLAIN, recipe_of(method="name: fedit")),
    ("allowed_targets", {"allowed_targets": ("query", "value")}, PLAIN, recipe_of(targets="[query, key]")),
    (
        "allowed_tasks",
        {"allowed_tasks": ("sequence-classification",)},
        PLAIN,
        parse_recipe(
            "name: t\nbase_model: {tiny: tiny-llama}\ntask: {kind: causal-lm}\ndata: {path: x.jsonl}\n"
            "method: {name: flora}\nadapter: {lora_rank: 4, targets: [q_proj]}\ncohort: {minimum: 2}\n"
        ),
    ),
]


@pytest.mark.parametrize(("clause", "clauses", "within", "beyond"), CLAUSES, ids=[c[0] for c in CLAUSES])
def test_a_recipe_one_step_beyond_a_clause_is_refused_with_its_name(clause, clauses, within, beyond):
    check(Policy(**clauses), within)
    check(Policy(), beyond)  # positive control: without the clause nothing refuses it
    with pytest.raises(PolicyRefusedError, match=f"clause {clause}:"):
        check(Policy(**clauses), beyond)


@pytest.mark.parametrize(
    ("clause", "within", "beyond"), [("max_lora_rank", 4, 3), ("min_cohort", 2, 3)], ids=lambda v: str(v)
)
def test_a_bound_on_a_number_holds_at_its_edge(clause, within, beyond):
    check(Policy(**{clause: within}), PLAIN)
    with pytest.raises(PolicyRefusedError, match=f"clause {clause}:"):
        check(Policy(**{clause: beyond}), PLAIN)


def test_public_files_admits_the_file_that_the_owner_named_and_no_other():
    public = "name: fed-sb, basis: public_gradient, public_data: {path: p.jsonl, sha256: " + "a" * 64 + "}"
    recipe = recipe_of(method=public)
    check(Policy(public_files=("a" * 64,)), recipe)
    with pytest.raises(PolicyRefusedError, match="clause public_files:"):
        check(Policy(public_files=("b" * 64,)), recipe)


def test_allowed_base_sha256_goes_by_content_not_by_name(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"weights")
    known = folder_sha256(base)
    recipe = recipe_of(base=f"path: {base}")
    check(Policy(allowed_base_sha256=(known,)), recipe)
    (base / "model.safetensors").write_bytes(b"weightS")
    assert folder_sha256(base) != known
    with pytest.raises(PolicyRefusedError, match="clause allowed_base_sha256:") as caught:
        check(Policy(allowed_base_sha256=(known,)), recipe)
    assert known not in caught.value.message  # what lies here is not told
    with pytest.raises(PolicyRefusedError, match="clause allowed_base_sha256:"):
        check(Policy(allowed_base_sha256=(known,)), PLAIN)  # a random model has no content that was looked at


def test_a_folders_hash_is_the_one_that_a_shell_gives(tmp_path):
    import shutil
    import subprocess

    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum here")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    shell = "LC_ALL=C; sha256sum config.json *.safetensors | sort -k2 | sha256sum"
    told = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert told.stdout.split()[0] == folder_sha256(tmp_path)


@pytest.mark.parametrize("mode", ["honest_but_curious_server", "malicious_server"])
def test_trust_modes_that_need_secure_sums_are_refused_with_the_reason(mode):
    check(Policy(trust_mode="trusted_server"), PLAIN)
    with pytest.raises(PolicyRefusedError, match=r"clause trust_mode: .*no secure sums yet"):
        check(Policy(trust_mode=mode), PLAIN)


# -- hours -----------------------------------------------------------------------------------------------------------


def at(text):
    return datetime.datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("when", "is_open"),
    [
        ("2026-11-20T21:59:00+01:00", False),  # a Friday
        ("2026-11-20T22:00:00+01:00", True),
        ("2026-11-21T05:59:00+01:00", True),  # the window of Friday
        ("2026-11-21T06:00:00+01:00", False),
        ("2026-11-21T22:30:00+01:00", False),  # Saturday has none
        ("2026-11-20T21:00:00+00:00", True),  # the same moment as 22:00 in Berlin
    ],
)
def test_hours_are_the_owners_and_a_window_over_midnight_belongs_to_its_first_day(when, is_open):
    policy = Policy(hours=("22:00-06:00",), days=("fri",), time_zone="Europe/Berlin")
    if is_open:
        check_hours(policy, at(when))
        return
    with pytest.raises(OutsideHoursError, match="clause hours:"):
        check_hours(policy, at(when))


def test_outside_hours_says_when_they_begin():
    policy = Policy(hours=("22:00-06:00",), time_zone="Europe/Berlin")
    with pytest.raises(OutsideHoursError) as caught:
        check_hours(policy, at("2026-11-20T12:00:00+00:00"))
    assert caught.value.until == "22:00"
    weekdays = Policy(days=("mon",))
    with pytest.raises(OutsideHoursError) as caught:
        check_hours(weekdays, at("2026-11-20T12:00:00+00:00"))
    assert caught.value.until == "Mon 00:00"


# -- the file --------------------------------------------------------------------------------------------------------


def write(tmp_path, text):
    path = tmp_path / "policy.toml"
    path.write_text(text)
    return path


def test_the_new_clauses_are_read(tmp_path):
    text = (
        'hours = "22:00-06:00"\ndays = ["mon", "tue"]\ntime_zone = "Europe/Berlin"\ntrust_mode = "trusted_server"\n'
        f'approval = "manual"\nallowed_targets = ["query"]\nallowed_tasks = ["causal-lm"]\nmax_parallel_runs = 2\n'
        f'allowed_base_sha256 = ["{"a" * 64}"]\n[data_sets."ward-a.jsonl"]\nmax_epsilon = 3\n'
    )
    policy = load_policy(write(tmp_path, text))
    assert policy == Policy(
        hours=("22:00-06:00",),
        days=("mon", "tue"),
        time_zone="Europe/Berlin",
        trust_mode="trusted_server",
        approval="manual",
        allowed_targets=("query",),
        allowed_tasks=("causal-lm",),
        max_parallel_runs=2,
        allowed_base_sha256=("a" * 64,),
        data_sets={"ward-a.jsonl": 3.0},
    )
    assert len(policy.sha256) == 64


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('hours = "22-6"\n', "write windows such as 22:00-06:00"),
        ('hours = ["25:00-26:00"]\n', "write windows such as 22:00-06:00"),
        ('days = ["friday"]\n', "is not one of mon, tue"),
        ('time_zone = "Mars/Olympus"\n', "is not known"),
        ('trust_mode = "none"\n', "expected: trusted_server"),
        ('approval = "manually"\n', "expected: any, rule, manual"),
        ("max_parallel_runs = 1.5\n", "max_parallel_runs has an unusable value"),
        ('allowed_base_sha256 = ["abc"]\n', "64 digits"),
        ('allowed_tasks = ["translation"]\n', "expected: sequence-classification"),
        ('[data_sets."a"]\nmax_epsilom = 1\n', "Did you mean max_epsilon"),
        ('[data_sets."a"]\nmax_epsilon = 0\n', "data_sets.a.max_epsilon has an unusable value"),
        ('data_sets = "a"\n', "data_sets is a table"),
        ('aproval = "manual"\n', "Did you mean approval"),
    ],
)
def test_an_unusable_new_clause_is_an_error_in_words(tmp_path, text, told):
    with pytest.raises(PolicyFileError) as caught:
        load_policy(write(tmp_path, text))
    assert told in caught.value.message


@pytest.mark.parametrize(
    ("names", "cap"),
    [((), 8.0), (("l-1",), 3.0), (("x", "ward.jsonl"), 5.0), (("l-1", "ward.jsonl"), 3.0), (("l-9",), 8.0)],
)
def test_the_tightest_cap_that_names_a_data_set_holds(names, cap):
    policy = Policy(max_epsilon=8.0, data_sets={"l-1": 3.0, "ward.jsonl": 5.0})
    assert policy.epsilon_cap(*names) == cap
    assert Policy().epsilon_cap("l-1") is None


def test_a_changed_file_holds_at_once_and_a_broken_one_refuses_everything_until_it_is_mended(
    tmp_path, caplog
):
    path = write(tmp_path, "max_lora_rank = 4\n")
    followed = PolicyFile(path)
    check(followed.current(), PLAIN)
    write(tmp_path, "max_lora_rank = 3\n# changed\n")
    with pytest.raises(PolicyRefusedError, match="clause max_lora_rank"):
        check(followed.current(), PLAIN)
    write(tmp_path, "max_lora_rang = 3\n")
    with pytest.raises(PolicyRefusedError, match="its own log says why") as caught:
        followed.current()
    assert "max_lora_rang" not in caught.value.message  # it goes to the coordinator
    assert "Did you mean max_lora_rank" in caplog.text
    path.unlink()
    with pytest.raises(PolicyRefusedError, match="its own log says why"):
        followed.current()
    assert "no such policy file" in caplog.text
    write(tmp_path, "max_lora_rank = 4\n# mended again\n")
    check(followed.current(), PLAIN)
