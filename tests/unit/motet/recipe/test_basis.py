"""``method.basis`` and ``method.public_data``: what does not fit, or is not built, is refused in words."""

import pytest

from motet.recipe import RecipeError, parse_recipe

BASE = """\
name: r
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2, max_length: 16}
data: {DATA}
method: {METHOD}
"""
SHA = "sha256: '" + "a" * 64 + "'"
FILE = f"public_data: {{path: p.jsonl, {SHA}}}"


def text(method, data="path: x.jsonl"):
    return BASE.replace("METHOD", method).replace("DATA", data)


REFUSED = {
    "not built": (
        text("name: fed-sb, basis: gradient_sketch"),
        "r.yaml:5: method.basis: gradient_sketch is not built: a basis from a noised sketch of the clients' own "
        "gradients would have to be charged to their budgets. Set it to public_gradient with method.public_data, or to "
        "svd; both read no private example.",
    ),
    "another method": (
        text(f"name: ffa, basis: public_gradient, {FILE}"),
        "r.yaml:5: method.basis: public_gradient makes the frozen factors of fed-sb, which ffa does not have. Set "
        "method.name: fed-sb, or remove it.",
    ),
    "no public data": (
        text("name: fed-sb, basis: public_gradient"),
        "r.yaml:5: method.basis: public_gradient needs examples that are public. Name them in method.public_data, or "
        "set basis: svd, which needs none.",
    ),
    "another basis": (
        text(f"name: fed-sb, {FILE}"),
        "r.yaml:5: method.public_data: is read with basis: public_gradient only, not with basis: svd. Set basis: "
        "public_gradient, or remove it.",
    ),
    "the run's own file": (
        text(f"name: fed-sb, basis: public_gradient, {FILE}", "path: p.jsonl"),
        "r.yaml:5: method.public_data: p.jsonl is the data that clients train on: a basis made of it would tell of "
        "that data, and nobody would be charged. Name another data set, or set basis: svd.",
    ),
    "the run's own material": (
        text("name: fed-sb, basis: public_gradient, public_data: {material: vader}", "material: vader"),
        "r.yaml:5: method.public_data: vader is the data that clients train on: a basis made of it would tell of that "
        "data, and nobody would be charged. Name another data set, or set basis: svd.",
    ),
    "another task": (
        text("name: fed-sb, basis: public_gradient, public_data: {material: newsgroups}"),
        "r.yaml:5: method.public_data.material: newsgroups does not fit the task: newsgroups has 20 classes, not 2. "
        "Name another data set, or a file of your own in method.public_data.path.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_with_the_reason_and_the_nearest_choice(case):
    recipe, wanted = REFUSED[case]
    with pytest.raises(RecipeError) as caught:
        parse_recipe(recipe, "r.yaml")
    assert [str(p) for p in caught.value.problems] == [wanted]


PICTURES = """\
name: r
base_model: {tiny: tiny-dinov2}
task: {kind: image-classification, num_labels: 10, image_size: 8}
data: {material: fashion-mnist}
method: {name: fed-sb, basis: public_gradient, public_data: {material: fashion-domains}}
adapter: {targets: [q_proj]}
"""
TALES = """\
name: r
base_model: {tiny: tiny-llama}
task: {kind: causal-lm, max_length: 16}
data: {material: tales}
method: {name: fed-sb, basis: public_gradient, public_data: {material: topics}}
adapter: {targets: [q_proj]}
"""


def test_two_names_of_the_same_examples_are_one():
    with pytest.raises(RecipeError, match="fashion-domains is the data that clients train on"):
        parse_recipe(PICTURES)
    parse_recipe(TALES)  # positive control


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("{num_examples: 3}", "set exactly one of material, path"),
        (f"{{material: vader, path: p, {SHA}}}", "set exactly one of material, path"),
        ("{path: p}", "sha256 belongs to path"),
        (f"{{material: vader, {SHA}}}", "sha256 belongs to path"),
        ("{path: p, sha256: 'abc'}", "64 digits"),
        (f"{{path: p, {SHA}, num_examples: 0}}", "num_examples"),
        (f"{{path: p, {SHA}, seed: 0}}", "no key 'seed'"),
    ],
)
def test_a_section_that_names_no_single_pinned_source_is_an_error(section, said):
    with pytest.raises(RecipeError, match=said):
        parse_recipe(text(f"name: fed-sb, basis: public_gradient, public_data: {section}"))


@pytest.mark.parametrize("section", ["{material: vader}", f"{{path: p.jsonl, {SHA}, num_examples: 8}}"])
def test_what_fits_is_read(section):
    recipe = parse_recipe(text(f"name: fed-sb, basis: public_gradient, public_data: {section}"))
    assert recipe.method.public_data.num_examples in (8, 64)
