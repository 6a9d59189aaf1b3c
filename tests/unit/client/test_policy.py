"""The owner's floor, from a TOML file."""

import pytest

from client.policy import Policy, PolicyFileError, load_policy


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
        ("max_epsilon = \n", "policy.toml"),
    ],
)
def test_a_file_that_can_not_be_used_stops_the_client_before_it_starts(tmp_path, text, told):
    with pytest.raises(PolicyFileError, match=r"policy\.toml") as caught:
        load_policy(write(tmp_path, text))
    assert told in caught.value.message


def test_a_missing_file_is_no_empty_policy(tmp_path):
    with pytest.raises(PolicyFileError, match="no such policy file"):
        load_policy(tmp_path / "none.toml")
