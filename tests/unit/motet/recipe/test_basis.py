"""``method.basis`` and ``method.public_data``: what does not fit is refused in words."""

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
SKETCH = "name: fed-sb, basis: gradient_sketch"
FILE = f"public_data: {{path: p.jsonl, {SHA}}}"


def text(method, data="path: x.jsonl"):
    return BASE.replace("METHOD", method).replace("DATA", data)


REFUSED = {
    "a sketch for another method": (
        text("name: ffa, basis: gradient_sketch"),
        "r.yaml:5: method.basis: gradient_sketch makes the frozen factors of fed-sb, which ffa does not have. Set "
        "method.name: fed-sb, or remove it.",
    ),
    "a sketch and no round to train in": (
        text(SKETCH) + "training: {rounds: 2}\n",
        "r.yaml:6: training.rounds: the first 2 rounds of gradient_sketch find the basis, so that 2 leave none to "
        "train in. Set it to 3 or more, or set method.basis: public_gradient or svd.",
    ),
    "a sketch of whole clients": (
        text(SKETCH) + "privacy: {unit: client, noise_multiplier: 1.0, sampling_rate: 0.5}\n",
        "r.yaml:5: method.basis: gradient_sketch does not go with privacy.unit: client: clipping_norm bounds an update "
        "of the model, and a sketch is a gradient, of another size. Set method.basis: public_gradient or svd, or "
        "privacy.unit: example.",
    ),
    "a sketch and control variates": (
        text(SKETCH) + "training: {algorithm: scaffold, optimizer: sgd}\ncohort: {clients: [a, b]}\n",
        "r.yaml:5: method.basis: gradient_sketch does not go with scaffold: what trains has other coordinates in the "
        "first rounds than later, so that a kept gradient is of factors that are gone. Set method.basis: "
        "public_gradient or svd, or training.algorithm: fedprox.",
    ),
    "a sketch by coordinates": (
        text(SKETCH) + "robust: {rule: coordinate_median}\n",
        "r.yaml:6: robust.rule: coordinate_median does not go with basis: gradient_sketch: what it takes number by "
        "number is the gradient of no one, and so would its directions be. Set it to geometric_median, or set "
        "method.basis: public_gradient or svd.",
    ),
    "a sketch and momentum": (
        text(SKETCH) + "server_optimizer: {rule: fedavgm}\n",
        "r.yaml:6: server_optimizer.rule: fedavgm does not go with basis: gradient_sketch: the first 2 rounds are no "
        "steps of a model. Set it to fedavg, or set method.basis: public_gradient or svd.",
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


@pytest.mark.parametrize(
    "extra",
    [
        "",
        "privacy: {noise_multiplier: 1.0, sampling_rate: 0.5}\n",
        "compression: {kind: int8}\nrobust: {rule: geometric_median}\n",
        "training: {algorithm: fedprox}\n",
    ],
)
def test_a_sketch_that_fits_is_read_and_takes_the_first_two_rounds(extra):
    recipe = parse_recipe(text(SKETCH) + extra)
    assert [recipe.sketches_in(t) for t in range(4)] == [True, True, False, False]
    head = recipe.model_copy(update={"method": recipe.method.model_copy(update={"train_adapter": False})})
    assert not head.sketches_in()  # the baseline of the head alone has no basis to find
    assert not parse_recipe(text("name: fed-sb")).sketches_in()
