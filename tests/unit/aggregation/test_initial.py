import pytest
import torch

from aggregation.initial import fresh_factors, generator_for, orthonormal_bases, svd_bases

SHAPES = {"q": (12, 8), "v": (12, 8), "o": (6, 20)}


def test_fresh_factors_start_the_product_at_zero_and_differ_between_layers_of_one_shape():
    made = fresh_factors(SHAPES, 3, 2.0, seed=1)
    assert all(not p.B.any() and p.A.any() and p.scale == 2.0 for p in made.values())
    assert {k: p.shape for k, p in made.items()} == SHAPES
    assert not torch.equal(made["q"].A, made["v"].A)


def test_the_seed_alone_decides_and_the_order_of_layers_does_not():
    one, two = (
        fresh_factors(SHAPES, 3, 2.0, seed=1),
        fresh_factors(dict(reversed(SHAPES.items())), 3, 2.0, seed=1),
    )
    assert all(torch.equal(one[k].A, two[k].A) for k in SHAPES)
    assert not torch.equal(one["q"].A, fresh_factors(SHAPES, 3, 2.0, seed=2)["q"].A)


def test_no_global_generator_is_read_or_moved():
    before = torch.get_rng_state()
    made = fresh_factors(SHAPES, 3, 1.0, seed=5), orthonormal_bases(SHAPES, 3, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(123)
    again = fresh_factors(SHAPES, 3, 1.0, seed=5), orthonormal_bases(SHAPES, 3, seed=5)
    assert torch.equal(made[0]["q"].A, again[0]["q"].A)
    assert torch.equal(made[1]["q"][0], again[1]["q"][0])


def test_labels_key_the_generator_without_running_together():
    seeds = {
        generator_for(*labels).initial_seed()
        for labels in [(1, "a", "b"), (1, "ab"), (1, "b", "a"), (11, "a"), (1, 1, "a"), (1,)]
    }
    assert len(seeds) == 6


def test_orthonormal_bases_keep_norms():
    for b, a in orthonormal_bases(SHAPES, 5, seed=0).values():
        torch.testing.assert_close(b.T @ b, torch.eye(5))
        torch.testing.assert_close(a @ a.T, torch.eye(5))


def test_a_basis_wider_than_the_layer_is_refused():
    with pytest.raises(ValueError, match="smaller side of o, 6"):
        orthonormal_bases(SHAPES, 7, seed=0)
    with pytest.raises(ValueError, match="smaller side of the weight, 6"):
        svd_bases(torch.zeros(6, 20), 7)


def test_svd_bases_do_not_depend_on_the_sign_of_the_routine():
    weight = torch.randn(9, 7, generator=torch.Generator().manual_seed(0))
    b, a = svd_bases(weight, 3)
    assert (b[b.abs().argmax(dim=0), torch.arange(3)] > 0).all()
    torch.testing.assert_close(svd_bases(2 * weight, 3)[0], b)
    assert (b.shape, a.shape, b.dtype) == ((9, 3), (3, 7), torch.float32)
