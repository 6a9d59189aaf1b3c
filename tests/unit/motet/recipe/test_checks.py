"""Combinations of right fields that would not be sound, and the nearest sound choice."""

import time

import pytest

from motet.recipe import RecipeError, parse_recipe
from motet.recipe.checks import check, check_shapes, distinct_ranks
from motet.recipe.explain import MOST_EXPLAINED


def recipe_text(**changed: str) -> str:
    parts = {
        "name": "r",
        "base_model": "{material: minilm}",
        "task": "{kind: sequence-classification, num_labels: 2}",
        "data": "{material: vader}",
        "method": "{name: flora}",
    } | changed
    return "".join(f"{key}: {value}\n" for key, value in parts.items())


PRIVATE = "{target_epsilon: 8, sampling_rate: 0.1}"
LM = {
    "base_model": "{material: smollm2}",
    "task": "{kind: causal-lm}",
    "data": "{material: tales}",
    "adapter": "{targets: [q_proj]}",
}

# (what changes, every word of the refusal)
UNSOUND = {
    "mixed ranks with fedit": (
        {"method": "{name: fedit}", "adapter": "{lora_rank: {amazon: 4, default: 8}}"},
        "r.yaml:6: adapter.lora_rank: clients have ranks 4, 8, but fedit needs one: B and A of different "
        "ranks have no mean. Set method.name: zero-pad, which takes mixed ranks, or give all clients one rank.",
    ),
    "mixed ranks with lora-fair": (
        {"method": "{name: lora-fair}", "adapter": "{lora_rank: {a: 2, b: 4}}"},
        "r.yaml:6: adapter.lora_rank: clients have ranks 2, 4, but lora-fair needs one: B and A of different "
        "ranks have no mean. Set method.name: flexlora, which takes mixed ranks, or give all clients one rank.",
    ),
    "mixed ranks with fed-sb": (
        {"method": "{name: fed-sb}", "adapter": "{lora_rank: {a: 2, default: 4}}"},
        "r.yaml:6: adapter.lora_rank: clients have ranks 2, 4, but fed-sb needs one: its square cores live "
        "in one shared basis. Set method.name: ffa, which takes mixed ranks, or give all clients one rank.",
    ),
    "a fallback that mixes ranks": (
        {"method": "{name: fedit}", "adapter": "{lora_rank: {a: 4, b: 4}}"},
        "r.yaml:6: adapter.lora_rank: without default, clients that are not named have rank 8, but fedit "
        "needs one: B and "
        "A of different ranks have no mean. Write lora_rank: 4, or set method.name: zero-pad.",
    ),
    "a pull past its goal": (
        {"training": "{algorithm: fedprox, optimizer: sgd, learning_rate: 0.5, proximal_weight: 2}"},
        "r.yaml:6: training.proximal_weight: 2 at learning rate 0.5 makes each step jump past the round's start "
        "that it pulls to. Use less than 2.",
    ),
    "measured ranks where all need one": (
        {"method": "{name: fedit}", "adapter": "{rank_policy: measured}"},
        "r.yaml:6: adapter.rank_policy: measured ranks differ between clients and may change, but fedit can not "
        "follow: B and A of different ranks have no mean. Set method.name: zero-pad, or rank_policy: assigned.",
    ),
    "measured ranks where each client keeps a part of its own": (
        {"method": "{name: fedsa}", "adapter": "{rank_policy: measured}"},
        "r.yaml:6: adapter.rank_policy: measured ranks differ between clients and may change, but fedsa can not "
        "follow: each client's own B has the rank of the rounds before. Set method.name: ffa, or rank_policy: "
        "assigned.",
    ),
    "a schedule out of order": (
        {"adapter": "{lora_rank_schedule: [{from_round: 2, lora_rank: 4}, {from_round: 1, lora_rank: 8}]}"},
        "r.yaml:6: adapter.lora_rank_schedule: begins at rounds 2, 1 of 3. Write ascending rounds, the first is 0, "
        "below training.rounds.",
    ),
    "a schedule past the end": (
        {"adapter": "{lora_rank_schedule: [{from_round: 3, lora_rank: 4}]}"},
        "r.yaml:6: adapter.lora_rank_schedule: begins at rounds 3 of 3. Write ascending rounds, the first is 0, "
        "below training.rounds.",
    ),
    "a schedule of bases of one rank": (
        {"method": "{name: fed-sb}", "adapter": "{lora_rank_schedule: [{from_round: 1, lora_rank: 4}]}"},
        "r.yaml:6: adapter.lora_rank_schedule: fed-sb can not change its rank: its frozen bases belong to one rank. "
        "Remove it, or set method.name: ffa.",
    ),
    "a schedule under control variates": (
        {
            "method": "{name: ffa}",
            "adapter": "{lora_rank_schedule: [{from_round: 1, lora_rank: 4}]}",
            "training": "{algorithm: scaffold, optimizer: sgd}",
            "cohort": "{clients: [a, b]}",
        },
        "r.yaml:6: adapter.lora_rank_schedule: scaffold compares gradients of all rounds, which have to have one "
        "rank. Remove it, or set training.algorithm: fedprox.",
    ),
    "control variates with fresh factors": (
        {
            "training": "{algorithm: scaffold, optimizer: sgd}",
            "cohort": "{clients: [a, b]}",
        },
        "r.yaml:6: training.algorithm: scaffold does not fit flora: clients begin each round with fresh factors, so "
        "that a kept gradient is of factors that are gone. Set method.name: ffa, or algorithm: fedprox.",
    ),
    "control variates of steps that were rescaled": (
        {
            "method": "{name: ffa}",
            "training": "{algorithm: scaffold}",
            "cohort": "{clients: [a, b]}",
        },
        "r.yaml:6: training.optimizer: scaffold reads mean gradients off the way that was gone, which adam has "
        "rescaled. Set it to sgd with a learning rate to match, or algorithm: fedprox.",
    ),
    "control variates of nobody knows whom, unlike weights and ranks": (
        {
            "method": "{name: ffa}",
            "training": "{algorithm: scaffold, optimizer: sgd}",
            "cohort": "{weights: num_examples}",
            "adapter": "{lora_rank: {a: 2, default: 4}}",
        },
        "r.yaml:7: cohort: scaffold keeps a mean over all clients, so it has to know who they are. Name them in "
        "cohort.clients, or set algorithm: fedprox.\n"
        "r.yaml:7: cohort.weights: scaffold counts every client alike, also those that miss a round. Set it to "
        "uniform, or algorithm: fedprox.\n"
        "r.yaml:8: adapter.lora_rank: scaffold compares gradients of all clients, which have to have one rank. Give "
        "all clients one rank, or set algorithm: fedprox.",
    ),
    "counts in a private run": (
        {"privacy": PRIVATE, "cohort": "{weights: num_examples}"},
        "r.yaml:7: cohort.weights: num_examples would tell each client's exact number of examples, which "
        "differential "
        "privacy hides. Set it to uniform.",
    ),
    "limit below target": (
        {"privacy": "{target_epsilon: 8, sampling_rate: 0.1, epsilon_limit: 4}"},
        "r.yaml:6: privacy.epsilon_limit: 4 is below target_epsilon 8, so that the last rounds would be "
        "refused. Set "
        "target_epsilon to 4 or less, or raise the limit.",
    ),
    "two clippings": (
        {"privacy": PRIVATE, "training": "{max_grad_norm: 1}"},
        "r.yaml:7: training.max_grad_norm: a private run clips every example already, and its noise would "
        "be clipped "
        "here. Remove it; privacy.clipping_norm is the bound.",
    ),
    "a delta that promises nothing": (
        {
            "privacy": "{target_epsilon: 8, sampling_rate: 0.1, target_delta: 0.01}",
            "data": "{material: vader, partition: {examples_per_client: 1500}}",
        },
        "r.yaml:6: privacy.target_delta: 0.01 for 1500 examples allows that one of them is published "
        "whole. Use well "
        "under 1 / 1500, such as 7e-05.",
    ),
    "an encoder as language model": (
        {"task": "{kind: causal-lm}", "data": "{material: tales}"},
        "r.yaml:3: task.kind: minilm is an encoder, which can not learn causal-lm. Use "
        "base_model.material: smollm2 (or "
        "tiny: tiny-llama), or sequence-classification.",
    ),
    "no head to train alone": (
        LM | {"method": "{name: flora, train_adapter: false}"},
        "r.yaml:5: method.train_adapter: false leaves nothing to train: causal-lm has no head of its own. "
        "Remove the "
        "line.",
    ),
    "targets of another family": (
        {"adapter": "{targets: [query, q_proj]}"},
        "r.yaml:6: adapter.targets[1]: minilm has no layer that ends in 'q_proj'. Choose from query, key, "
        "value, dense.",
    ),
    "default targets on another family": (
        {k: v for k, v in LM.items() if k != "adapter"},
        "r.yaml:1: adapter: smollm2 has no layer that ends in 'query'. Choose from q_proj, k_proj, v_proj, "
        "o_proj, "
        "gate_proj, up_proj, down_proj.\n"
        "r.yaml:1: adapter: smollm2 has no layer that ends in 'value'. Choose from q_proj, k_proj, v_proj, "
        "o_proj, "
        "gate_proj, up_proj, down_proj.",
    ),
    "a block that is not there": (
        {"adapter": "{layers: [5, 6]}"},
        "r.yaml:6: adapter.layers[1]: minilm has blocks 0 to 5, no 6. Choose blocks that it has.",
    ),
    "dropout in fed-sb": (
        {"adapter": "{dropout: 0.1}", "method": "{name: fed-sb}"},
        "r.yaml:6: adapter.dropout: fed-sb trains square cores, which have no dropout. Set it to 0, or "
        "choose another "
        "method.",
    ),
    "classes of a material": (
        {"task": "{kind: sequence-classification, num_labels: 3}"},
        "r.yaml:3: task.num_labels: vader has 2 classes, not 3. Set it to 2.",
    ),
    "nothing is shared": (
        {"method": "{name: fedsa, train_adapter: false}"},
        "r.yaml:5: method.train_adapter: false leaves nothing to share: fedsa keeps heads at their clients. "
        "Remove the line, or set method.name: fedit.",
    ),
    "fewer labels than classes by name": (
        {
            "task": "{kind: sequence-classification, num_labels: 3}",
            "data": "{material: newsgroups, classes: [sci.med, sci.space]}",
        },
        "r.yaml:3: task.num_labels: data.classes has 2 classes, not 3. Set it to 2.",
    ),
    "a class twice": (
        {"data": "{material: newsgroups, classes: [sci.med, sci.med]}"},
        "r.yaml:4: data.classes: a class is written twice. Keep one.",
    ),
    "classes by name of another material": (
        {"data": "{material: vader, classes: [sci.med, sci.space]}"},
        "r.yaml:4: data.classes: only newsgroups has classes with names. Remove it, or use data.material: "
        "newsgroups.",
    ),
    "pictures for a reader of texts": (
        {
            "task": "{kind: image-classification, num_labels: 10}",
            "data": "{material: fashion-domains}",
        },
        "r.yaml:3: task.kind: image-classification is about pictures, minilm reads texts. Use base_model.material: "
        "dinov2-small (or tiny: tiny-dinov2), or sequence-classification.",
    ),
    "texts for a reader of pictures": (
        {"base_model": "{material: dinov2-small}", "adapter": "{targets: [q_proj]}"},
        "r.yaml:3: task.kind: sequence-classification is about texts, dinov2-small reads pictures. Set it to "
        "image-classification, or use base_model.material: minilm.",
    ),
    "a picture that is no whole number of patches": (
        {
            "base_model": "{material: dinov2-small}",
            "task": "{kind: image-classification, num_labels: 10, image_size: 64}",
            "data": "{material: fashion-domains}",
            "adapter": "{targets: [q_proj]}",
        },
        "r.yaml:3: task.image_size: 64 pixels do not divide into patches of 14, as dinov2-small reads them. Use 70.",
    ),
    "texts without classes": (
        {"data": "{material: tales}"},
        "r.yaml:3: task.kind: tales has texts without classes. Use causal-lm with it, or data.material: "
        "vader or "
        "newsgroups.",
    ),
    "more replies than clients": (
        {"cohort": "{clients: [a, b], minimum: 3}"},
        "r.yaml:6: cohort.minimum: 3 replies can not come from 2 clients. Use at most 2.",
    ),
    "a client twice": (
        {"cohort": "{clients: [a, a]}"},
        "r.yaml:6: cohort.clients: a stands twice. Name each client once.",
    ),
    "nobody": (
        {"cohort": "{clients: []}"},
        "r.yaml:6: cohort.clients: is an empty list. Name clients, or remove the line.",
    ),
    "a deal to nobody knows how many": (
        {"data": "{material: vader, partition: {by: iid}}"},
        "r.yaml:4: data.partition.num_clients: by: iid needs to know how many clients there are. Set it, "
        "or name "
        "cohort.clients.",
    ),
    "more replies than dealt clients": (
        {"data": "{material: vader, partition: {by: iid, num_clients: 2}}", "cohort": "{minimum: 3}"},
        "r.yaml:6: cohort.minimum: 3 replies can not come from 2 clients. Use at most 2, or raise "
        "data.partition.num_clients.",
    ),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_an_unsound_combination_is_refused_with_the_nearest_sound_choice(name):
    changed, expected = UNSOUND[name]
    with pytest.raises(RecipeError) as caught:
        parse_recipe(recipe_text(**changed), "r.yaml")
    assert str(caught.value) == expected
    assert caught.value.exit_code == 3


SOUND = {
    "plain": {},
    "mixed ranks with flora": {"adapter": "{lora_rank: {amazon: 4, default: 8}}"},
    "one rank written twice": {"method": "{name: fedit}", "adapter": "{lora_rank: {amazon: 4, default: 4}}"},
    "mixed ranks where no adapter is trained": {
        "method": "{name: fedit, train_adapter: false}",
        "adapter": "{lora_rank: {amazon: 4, default: 8}}",
    },
    "a pull that stops short of its goal": {
        "training": "{algorithm: fedprox, optimizer: sgd, learning_rate: 0.5, proximal_weight: 1.9}"
    },
    "a strong pull with adam": {"training": "{algorithm: fedprox, learning_rate: 0.5, proximal_weight: 2}"},
    "a schedule": {
        "method": "{name: fedit}",
        "adapter": "{lora_rank_schedule: [{from_round: 0, lora_rank: 2}, {from_round: 2, lora_rank: 4}]}",
    },
    "control variates": {
        "method": "{name: ffa}",
        "training": "{algorithm: scaffold, optimizer: sgd}",
        "cohort": "{clients: [a, b]}",
    },
    "counts without privacy": {"cohort": "{weights: num_examples}"},
    "limit at target": {"privacy": "{target_epsilon: 8, sampling_rate: 0.1, epsilon_limit: 8}"},
    "language model": LM,
}


@pytest.mark.parametrize("name", SOUND)
def test_the_sound_neighbours_of_refused_recipes_are_read(name):
    parse_recipe(recipe_text(**SOUND[name]))


def test_ranks_are_those_that_some_client_may_get():
    def ranks(adapter, **more):
        return distinct_ranks(parse_recipe(recipe_text(adapter=f"{{lora_rank: {adapter}}}", **more)))

    assert ranks("4") == [4]
    assert ranks("{a: 4, b: 16}") == [4, 8, 16]
    assert ranks("{a: 4, default: 16}") == [4, 16]
    assert ranks("{a: 4, b: 16}", cohort="{clients: [a, b]}") == [4, 16]


def test_a_rank_over_a_layers_smaller_side_is_refused_when_shapes_are_known():
    recipe = parse_recipe(recipe_text(adapter="{lora_rank: {a: 4, default: 33}}"))
    shapes = {"x.query": (64, 64), "x.value": (64, 32)}
    assert [f.problem for f in check_shapes(recipe, shapes)] == [
        "rank 33 is over 32, the smaller side of x.value 64 x 32"
    ]
    assert not check_shapes(recipe, {"x.query": (64, 64)})
    assert [f.path for f in check_shapes(recipe, {})] == [("adapter", "targets")]


def test_a_long_list_of_clients_is_checked_in_time_that_grows_with_it():
    clients = [f"c{i}" for i in range(30_000)]
    recipe = parse_recipe(recipe_text())
    many = recipe.model_copy(
        update={"cohort": recipe.cohort.model_copy(update={"clients": [*clients, "c7"]})}
    )
    began = time.process_time()
    assert [f.problem for f in check(many) if f.path == ("cohort", "clients")] == ["c7 stands twice"]
    assert time.process_time() - began < 5  # it took half a minute, for whoever sent it


def test_of_a_great_many_mistakes_the_first_are_explained():
    wrong = recipe_text(adapter="{" + ", ".join(f"k{i}: 1" for i in range(3 * MOST_EXPLAINED)) + "}")
    with pytest.raises(RecipeError) as refused:
        parse_recipe(wrong)
    assert len(refused.value.problems) == MOST_EXPLAINED
