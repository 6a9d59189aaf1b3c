"""The table of methods says what the code does: every column is held to behaviour, not to itself."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from aggregation.adapter import AdapterState, ClientUpdate, FactorPair, HalfPair
from aggregation.control import trained_values
from aggregation.floats import floats_down
from aggregation.methods import METHODS
from aggregation.serialize import flatten
from aggregation.table import COLUMNS, NEEDS, TABLE, No, as_markdown, nearest, refusal

ROOT = Path(__file__).resolve().parents[3]
SHAPES = {"q": (12, 9), "v": (7, 10)}
EVERY = pytest.mark.parametrize("name", sorted(METHODS))


def started(name, rank=3):
    return METHODS[name].initial_state(
        SHAPES, lora_rank=rank, scale=2.0, dense={"head": torch.zeros(2)}, seed=0
    )


def sent(name, state, k, *, round_index=0, rank=3):
    """What client k sends: random values of the right kind."""
    method, g = METHODS[name], torch.Generator().manual_seed(k)
    start = method.local_start(
        method.starting_point(state, lora_rank=rank, scale=2.0),
        layer_shapes=SHAPES, lora_rank=rank, scale=2.0, seed=0, fresh_seed=k,
    )  # fmt: skip
    which = method.trained_factors(round_index)
    lora = {
        layer: FactorPair(
            B=torch.randn(p.B.shape, generator=g) if "B" in which else p.B,
            A=torch.randn(p.A.shape, generator=g) if "A" in which else p.A,
            scale=p.scale,
        )
        for layer, p in start.lora.items()
    }
    cores = {layer: torch.randn(c.shape, generator=g) for layer, c in start.cores.items()}
    whole = AdapterState(lora=lora, cores=cores, dense={"head": torch.randn(2, generator=g)})
    return method.trained_part(whole, round_index)


def reduced(name, state, states):
    updates = [ClientUpdate(client_id=f"c{k}", weight=1.0, state=s) for k, s in enumerate(states)]
    return METHODS[name].reduce(state, updates)


def shifted(state, sign):
    """Every tensor moved by the same fixed amount; opposite signs on two clients leave every sum."""

    def step(tensor):
        return (
            tensor + sign * 0.25 * torch.arange(1, tensor.numel() + 1).reshape(tensor.shape) / tensor.numel()
        )

    return dataclasses.replace(
        state,
        lora={k: FactorPair(B=step(p.B), A=step(p.A), scale=p.scale) for k, p in state.lora.items()},
        halves={
            k: HalfPair(side=h.side, value=step(h.value), scale=h.scale) for k, h in state.halves.items()
        },
        cores={k: step(c) for k, c in state.cores.items()},
    )


def test_the_table_has_a_row_for_each_method_and_each_no_has_a_reason_and_a_way_out():
    assert list(TABLE) == list(METHODS)
    for name in TABLE:
        for need in NEEDS:
            no = refusal(name, need)
            if no is not None:
                assert no.reason
                assert refusal(no.instead, need) is None, (name, need)
    with pytest.raises(KeyError, match="there are"):
        refusal("fedavg", "exact")
    with pytest.raises(KeyError, match="there are"):
        refusal("fedit", "speed")


@EVERY
def test_mixed_ranks_are_taken_or_refused_as_the_table_says(name):
    assert METHODS[name].allows_mixed_ranks == (refusal(name, "mixed_ranks") is None)
    state = started(name)
    mixed = [sent(name, state, 0, rank=3), sent(name, state, 1, rank=3)]
    small = {
        "lora": {k: FactorPair(B=p.B[:, :2], A=p.A[:2], scale=p.scale) for k, p in mixed[1].lora.items()},
        "halves": {
            k: HalfPair(side=h.side, value=h.value[:, :2] if h.side == "B" else h.value[:2], scale=h.scale)
            for k, h in mixed[1].halves.items()
        },
        "cores": {k: c[:2, :2] for k, c in mixed[1].cores.items()},
    }
    mixed[1] = dataclasses.replace(mixed[1], **small)
    if refusal(name, "mixed_ranks") is None:
        assert reduced(name, state, mixed).num_clients == 2
    else:
        with pytest.raises(ValueError, match=r"use flora|shapes differ|use ffa"):
            reduced(name, state, mixed)


@EVERY
def test_a_method_of_secure_sums_sees_nothing_but_the_sum(name):
    state = started(name)
    plain = [sent(name, state, k) for k in range(3)]
    other = [shifted(plain[0], 1), shifted(plain[1], -1), plain[2]]
    before, after = (flatten(reduced(name, state, states).state) for states in (plain, other))
    same = all(
        before[k].shape == after[k].shape and torch.allclose(before[k], after[k], rtol=1e-4, atol=1e-5)
        for k in before
    )
    if name == "hetlora":  # its sums are of S_k X_k and of S_k, which a client makes at home
        assert not same
        assert refusal(name, "secure_sums") is None
    else:
        assert same == (refusal(name, "secure_sums") is None)


@EVERY
def test_the_download_is_constant_where_the_table_says_so(name):
    few, many = (floats_down(name, SHAPES, [1] * k, 1, 0, 1) for k in (3, 6))
    assert (few == many) == (refusal(name, "constant_download") is None)


@EVERY
def test_the_base_changes_where_the_table_says_so(name):
    state = started(name)
    found = reduced(name, state, [sent(name, state, k) for k in range(3)]).state
    assert bool(found.base_delta) == TABLE[name].base_changes == METHODS[name].changes_base


@EVERY
def test_a_personal_part_is_kept_where_the_table_says_so(name):
    pair = FactorPair(B=torch.ones(12, 3), A=torch.ones(3, 9))
    kept = METHODS[name].personal_part(AdapterState(lora={"q": pair}, dense={"head": torch.ones(2)}))
    assert bool(kept.halves or kept.dense) == (refusal(name, "personal_part") is None)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"fedsa", "florist"}))
def test_a_method_is_exact_where_the_table_says_so(name):
    """On random factors, more of them than the global rank can hold."""
    state = started(name)
    error = reduced(name, state, [sent(name, state, k) for k in range(3)]).relative_error
    assert (error < 1e-5) == (refusal(name, "exact") is None)


@EVERY
def test_control_variates_fit_where_the_next_round_starts_at_the_mean_of_what_was_sent(name):
    """In the same coordinates, on the same base, with nothing that only one client has."""
    method, state = METHODS[name], started(name)
    updates = [sent(name, state, k) for k in range(3)]
    after = reduced(name, state, updates).state
    received = method.starting_point(after, lora_rank=3, scale=2.0)
    start = method.local_start(
        received, layer_shapes=SHAPES, lora_rank=3, scale=2.0, seed=0, fresh_seed=7, personal=None
    )
    begun = trained_values(method.trained_part(start, 1))
    ended = [trained_values(u) for u in updates]
    same = begun.keys() == ended[0].keys() and all(
        torch.allclose(begun[k], torch.stack([e[k] for e in ended]).mean(0), atol=1e-5) for k in begun
    )
    fits = same and not method.changes_base and refusal(name, "personal_part") is not None
    assert fits == (refusal(name, "control_variates") is None)


def test_example_privacy_covers_all_methods_and_noise_counts_nothing_else():
    assert [name for name in TABLE if refusal(name, "example_dp")] == []


def test_with_client_privacy_one_clipped_client_moves_the_sum_by_no_more_than_its_bound():
    """Of the methods that say yes and send whole factors: replacing a client moves each mean by at most 2 C / K."""
    bound, count = 1.0, 5
    for name in (n for n in TABLE if refusal(n, "client_dp") is None):
        state = started(name)
        clipped = []
        for k in range(count + 1):
            values = sent(name, state, k)
            size = (
                sum(float(v.square().sum()) for key, v in flatten(values).items() if "scale" not in key)
                ** 0.5
            )
            clipped.append(scaled(values, bound / size))
        one, other = (
            flatten(reduced(name, state, [*clipped[: count - 1], last]).state)
            for last in clipped[count - 1 :]
        )
        moved = sum(float((one[k] - other[k]).square().sum()) for k in one if "scale" not in k) ** 0.5
        assert 0 < moved <= 2 * bound / count + 1e-6, name


def scaled(state, factor):
    return dataclasses.replace(
        state,
        lora={k: FactorPair(B=p.B * factor, A=p.A * factor, scale=p.scale) for k, p in state.lora.items()},
        halves={
            k: HalfPair(side=h.side, value=h.value * factor, scale=h.scale) for k, h in state.halves.items()
        },
        cores={k: c * factor for k, c in state.cores.items()},
        dense={k: d * factor for k, d in state.dense.items()},
    )


def test_the_same_bound_fails_for_a_mean_over_the_few_that_have_a_component():
    state = started("rank-index")
    small = AdapterState(lora={"q": FactorPair(B=torch.zeros(12, 1), A=torch.zeros(1, 9), scale=2.0)})
    large = AdapterState(lora={"q": FactorPair(B=torch.ones(12, 2) / 5, A=torch.ones(2, 9) / 5, scale=2.0)})
    states = [small] * 4
    state = AdapterState(lora={"q": state.lora["q"]})
    norms = {}
    for name in ("rank-index", "zero-pad"):
        one = reduced(name, state, [*states, large]).state.lora["q"]
        norms[name] = float(one.B[:, 1].norm() / large.lora["q"].B[:, 1].norm())
    assert norms["rank-index"] == pytest.approx(1.0)
    assert norms["zero-pad"] == pytest.approx(0.2)
    assert isinstance(refusal("rank-index", "client_dp"), No)
    assert refusal("zero-pad", "client_dp") is None


@EVERY
def test_the_nearest_method_meets_every_need_or_there_is_none(name):
    for left in NEEDS:
        for right in NEEDS:
            found = nearest(name, frozenset({left, right}))
            able = [n for n in TABLE if refusal(n, left) is None and refusal(n, right) is None]
            assert (found in able) if able else (found is None)
    assert nearest(name, frozenset()) == name
    assert nearest("flora", frozenset({"secure_sums", "mixed_ranks"})) == "ffa"
    assert nearest("fedit", frozenset({"exact", "personal_part"})) is None


def test_the_page_is_current_and_speaks_of_each_method():
    page = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    assert as_markdown() in page
    for name, row in TABLE.items():
        section = re.search(rf"^### {name}\n(.*?)(?=^###|\Z)", page, flags=re.MULTILINE | re.DOTALL)
        assert section, name
        text = section.group(1)
        assert all(word in text for word in ("What:", "When:")), name
        assert row.url in text, name
    assert all(title in page for title, _ in COLUMNS.values())
    done = subprocess.run([sys.executable, ROOT / "scripts/gen_methods.py", "--check"], capture_output=True)
    assert done.returncode == 0


def test_the_check_of_the_page_fails_on_a_changed_cell(tmp_path):
    page = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    assert as_markdown() not in page.replace("| `fedit` | no |", "| `fedit` | yes |")


def test_the_table_can_be_read_without_torch():
    code = "import sys, aggregation.table, aggregation.floats; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
