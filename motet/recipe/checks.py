"""What single fields can not see: combinations that would not be sound, or would not do what they seem to.

Each check is short, pure and light (no torch, no accountant, no files), so that a coordinator, a client and
an editor can all run it. What needs layer shapes is in ``check_shapes``; what needs an accountant, in
``motet.plan``.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from aggregation.options import clash, least_clients, mixed_rule_refusal, option_refusal
from aggregation.table import refusal
from motet.recipe.finding import Finding
from motet.recipe.sketch_checks import gradient_sketch
from motet.recipe.task_checks import public_basis, task_and_data, task_and_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from motet.recipe.model import Recipe


def check(recipe: Recipe) -> list[Finding]:
    """Everything that is wrong with a recipe whose single fields are right; empty when it is sound."""
    return [finding for rule in _RULES for finding in rule(recipe)]


def check_shapes(recipe: Recipe, layer_shapes: Mapping[str, tuple[int, int]]) -> list[Finding]:
    """What shows only when the model is known.

    Args:
      recipe: a sound recipe.
      layer_shapes: (out, in) of each adapted layer.
    """
    if not recipe.method.train_adapter:
        return []
    if not layer_shapes:
        remedy = (
            "name endings of its linear layers, such as query, q_proj or c_attn; see adapter.layers as well"
        )
        return [
            Finding(path=("adapter", "targets"), problem="no layer of the base model matches", remedy=remedy)
        ]
    layer, shape = min(layer_shapes.items(), key=lambda item: (min(item[1]), item[0]))
    largest = max(distinct_ranks(recipe))
    if largest <= min(shape):
        return []
    problem = f"rank {largest} is over {min(shape)}, the smaller side of {layer} {shape[0]} x {shape[1]}"
    return [Finding(path=("adapter", "lora_rank"), problem=problem, remedy=f"use at most {min(shape)}")]


def distinct_ranks(recipe: Recipe) -> Sequence[int]:
    """Every rank that some client may get, ascending; the least and the most where clients tell theirs."""
    ranks = recipe.adapter.lora_rank
    if recipe.adapter.rank_policy == "measured" or recipe.method.self_pruning is not None:
        return sorted({1, recipe.most_rank})
    if isinstance(ranks, int):
        return [ranks]
    clients = recipe.cohort.clients
    if clients is not None and all(c in ranks for c in clients):
        return sorted({ranks[c] for c in clients})
    return sorted({*ranks.values(), recipe.lora_rank_of("default")})


def _mixed_ranks(recipe: Recipe) -> Iterator[Finding]:
    name, ranks = recipe.method.name, recipe.adapter.lora_rank
    refused = refusal(name, "mixed_ranks")
    if refused is None or not recipe.method.train_adapter or isinstance(ranks, int):
        return
    named = sorted({*ranks.values()})
    why = f"but {name} needs one: {refused.reason}"
    if len({*named, recipe.lora_rank_of("default")}) == 1:
        return
    if len(named) > 1:
        yield Finding(
            path=("adapter", "lora_rank"),
            problem=f"clients have ranks {', '.join(map(str, named))}, {why}",
            remedy=f"set method.name: {refused.instead}, which takes mixed ranks, or give all clients one rank",
        )
    else:
        yield Finding(
            path=("adapter", "lora_rank"),
            problem=f"without default, clients that are not named have rank 8, {why}",
            remedy=f"write lora_rank: {named[0] if named else 8}, or set method.name: {refused.instead}",
        )


def _head_alone(recipe: Recipe) -> Iterator[Finding]:
    if not recipe.method.train_adapter and recipe.task.kind == "causal-lm":
        yield Finding(
            path=("method", "train_adapter"),
            problem="false leaves nothing to train: causal-lm has no head of its own",
            remedy="remove the line",
        )
    if not recipe.method.train_adapter and recipe.method.name == "fedsa":
        yield Finding(
            path=("method", "train_adapter"),
            problem="false leaves nothing to share: fedsa keeps heads at their clients",
            remedy="remove the line, or set method.name: fedit",
        )


def _dropout(recipe: Recipe) -> Iterator[Finding]:
    if recipe.method.name == "fed-sb" and recipe.adapter.dropout > 0:
        yield Finding(
            path=("adapter", "dropout"),
            problem="fed-sb trains square cores, which have no dropout",
            remedy="set it to 0, or choose another method",
        )


def _algorithm(recipe: Recipe) -> Iterator[Finding]:
    training = recipe.training
    if training.algorithm == "fedprox" and training.optimizer == "sgd":
        rate = max(training.learning_rate, training.head_learning_rate or 0.0)
        if rate * training.proximal_weight >= 1:
            yield Finding(
                path=("training", "proximal_weight"),
                problem=f"{training.proximal_weight:g} at learning rate {rate:g} makes each step jump past the "
                "round's start that it pulls to",
                remedy=f"use less than {1 / rate:g}",
            )


def _scaffold(recipe: Recipe) -> Iterator[Finding]:
    training, name = recipe.training, recipe.method.name
    if training.algorithm != "scaffold":
        return
    refused = refusal(name, "control_variates")
    if refused is not None and recipe.method.train_adapter:
        yield Finding(
            path=("training", "algorithm"),
            problem=f"scaffold does not fit {name}: {refused.reason}",
            remedy=f"set method.name: {refused.instead}, or algorithm: fedprox",
        )
    if training.optimizer != "sgd":
        yield Finding(
            path=("training", "optimizer"),
            problem="scaffold reads mean gradients off the way that was gone, which adam has rescaled",
            remedy="set it to sgd with a learning rate to match, or algorithm: fedprox",
        )
    if recipe.cohort.clients is None:
        yield Finding(
            path=("cohort",),
            problem="scaffold keeps a mean over all clients, so it has to know who they are",
            remedy="name them in cohort.clients, or set algorithm: fedprox",
        )
    if recipe.cohort.weights != "uniform":
        yield Finding(
            path=("cohort", "weights"),
            problem="scaffold counts every client alike, also those that miss a round",
            remedy="set it to uniform, or algorithm: fedprox",
        )
    if len(distinct_ranks(recipe)) > 1 and recipe.method.train_adapter:
        yield Finding(
            path=("adapter", "lora_rank"),
            problem="scaffold compares gradients of all clients, which have to have one rank",
            remedy="give all clients one rank, or set algorithm: fedprox",
        )


def _measured_ranks(recipe: Recipe) -> Iterator[Finding]:
    if recipe.adapter.rank_policy != "measured" or not recipe.method.train_adapter:
        return
    name = recipe.method.name
    for need in ("mixed_ranks", "rank_changes"):
        refused = refusal(name, "mixed_ranks" if need == "mixed_ranks" else "rank_changes")
        if refused is not None:
            yield Finding(
                path=("adapter", "rank_policy"),
                problem=f"measured ranks differ between clients and may change, but {name} can not follow: "
                f"{refused.reason}",
                remedy=f"set method.name: {refused.instead}, or rank_policy: assigned",
            )
            return


def _self_pruning(recipe: Recipe) -> Iterator[Finding]:
    name = recipe.method.name
    if recipe.method.self_pruning is None:
        return
    if name != "hetlora":
        yield Finding(
            path=("method", "self_pruning"),
            problem=f"is of hetlora: clients of {name} do not choose their ranks by what they learned",
            remedy="set method.name: hetlora, or remove it; adapter.lora_rank_schedule cuts ranks from outside",
        )
    if not recipe.method.train_adapter:
        yield Finding(
            path=("method", "self_pruning"),
            problem="prunes the adapter, which train_adapter: false leaves out",
            remedy="remove one of the two",
        )
    if recipe.adapter.lora_rank_schedule:
        yield Finding(
            path=("adapter", "lora_rank_schedule"),
            problem="sets ranks from outside, and with method.self_pruning each client sets its own, which never grows",
            remedy="remove one of the two",
        )


def _rank_schedule(recipe: Recipe) -> Iterator[Finding]:
    steps, path = recipe.adapter.lora_rank_schedule, ("adapter", "lora_rank_schedule")
    if not steps:
        return
    begins = [step.from_round for step in steps]
    if begins != sorted(set(begins)) or begins[-1] >= recipe.training.rounds:
        yield Finding(
            path=path,
            problem=f"begins at rounds {', '.join(map(str, begins))} of {recipe.training.rounds}",
            remedy="write ascending rounds, the first is 0, below training.rounds",
        )
    refused = refusal(recipe.method.name, "rank_changes")
    if refused is not None and recipe.method.train_adapter:
        yield Finding(
            path=path,
            problem=f"{recipe.method.name} can not change its rank: {refused.reason}",
            remedy=f"remove it, or set method.name: {refused.instead}",
        )
    if recipe.training.algorithm == "scaffold":
        yield Finding(
            path=path,
            problem="scaffold compares gradients of all rounds, which have to have one rank",
            remedy="remove it, or set training.algorithm: fedprox",
        )


def _privacy(recipe: Recipe) -> Iterator[Finding]:
    privacy = recipe.privacy
    if privacy is None:
        return
    if recipe.cohort.weights == "num_examples":
        yield Finding(
            path=("cohort", "weights"),
            problem="num_examples would tell each client's exact number of examples, which differential "
            "privacy hides",
            remedy="set it to uniform",
        )
    if recipe.training.max_grad_norm is not None and recipe.trains_privately:
        yield Finding(
            path=("training", "max_grad_norm"),
            problem="a private run clips every example already, and its noise would be clipped here",
            remedy="remove it; privacy.clipping_norm is the bound",
        )
    limit, target = privacy.epsilon_limit, privacy.target_epsilon
    if limit is not None and target is not None and limit < target:
        yield Finding(
            path=("privacy", "epsilon_limit"),
            problem=f"{limit:g} is below target_epsilon {target:g}, so that the last rounds would be refused",
            remedy=f"set target_epsilon to {limit:g} or less, or raise the limit",
        )
    most = recipe.data.partition.examples_per_client
    if most is not None and recipe.trains_privately and privacy.target_delta * most >= 1:
        yield Finding(
            path=("privacy", "target_delta"),
            problem=f"{privacy.target_delta:g} for {most} examples allows that one of them is "
            "published whole",
            remedy=f"use well under 1 / {most}, such as {0.1 / most:.0e}",
        )


def _evaluation(recipe: Recipe) -> Iterator[Finding]:
    if recipe.evaluation is not None and recipe.privacy is not None:
        yield Finding(
            path=("evaluation",),
            problem="a client would tell its loss and accuracy on its own examples, which no noise covers and no "
            "charge counts, so that it does not go with a privacy section",
            remedy="remove it; judge the exported adapter on data that may be public",
        )


_OF_UNIT = {"unit_column": "person", "max_examples_per_person": "person", "expected_cohort": "client"}


def _unit(recipe: Recipe) -> Iterator[Finding]:
    privacy = recipe.privacy
    if privacy is None:
        return
    for field, unit in _OF_UNIT.items():
        is_set = getattr(privacy, field) is not None
        if is_set and privacy.unit != unit:
            yield Finding(
                path=("privacy", field),
                problem=f"is read with unit: {unit} only, not with unit: {privacy.unit}",
                remedy=f"remove it, or set unit: {unit}",
            )
        if not is_set and privacy.unit == unit == "person":
            remedy = (
                "name the column that says whose an example is"
                if field == "unit_column"
                else "set it, such as 8: a step draws that many of a person who has more"
            )
            yield Finding(path=("privacy", field), problem="is missing; unit: person needs it", remedy=remedy)


def _client_unit(recipe: Recipe) -> Iterator[Finding]:
    """What noise on the sum of clipped updates rests on."""
    privacy = recipe.privacy
    if privacy is None or privacy.noise_is_local:
        return
    refused = refusal(recipe.method.name, "client_dp")
    if refused is not None and recipe.method.train_adapter:
        yield Finding(
            path=("method", "name"),
            problem=f"{recipe.method.name} has no client-level privacy: {refused.reason}",
            remedy=f"set it to {refused.instead}, or set privacy.unit: example",
        )
    if recipe.training.algorithm == "scaffold":
        yield Finding(
            path=("training", "algorithm"),
            problem="scaffold's mean control variate is made of single updates and goes to all clients without noise",
            remedy="set it to fedprox or fedavg",
        )
    if recipe.cohort.minimum > 1:
        yield Finding(
            path=("cohort", "minimum"),
            problem=f"{recipe.cohort.minimum} would draw a cohort again until it is large enough, which the accounting "
            "of privacy.unit: client does not cover",
            remedy="remove it; a round closes with whoever arrived, also with nobody",
        )
    for name, unset in (("draw_rate", 1.0), ("over_select", None)):
        if getattr(recipe.cohort, name) != unset:
            yield Finding(
                path=("cohort", name),
                problem="privacy.unit: client has a draw of its own, and its guarantee rests on that",
                remedy="remove it; set privacy.sampling_rate",
            )


def _robust(recipe: Recipe) -> Iterator[Finding]:
    name, robust = recipe.method.name, recipe.robust
    if robust.rule == "none":
        return
    by_coordinate = robust.rule.startswith("coordinate_")
    refused = option_refusal(name, "coordinate_rule" if by_coordinate else "robust_rule")
    if refused is None and len(distinct_ranks(recipe)) > 1:
        refused = mixed_rule_refusal(name)
    if refused is not None and recipe.method.train_adapter:
        rules = "robust.rule: geometric_median, " if by_coordinate else ""
        yield Finding(
            path=("robust", "rule"),
            problem=f"{robust.rule} does not go with {name}: {refused.reason}",
            remedy=f"set {rules}{'or ' if rules else ''}method.name: {refused.instead}, or remove the rule",
        )
    for other in _options_in(recipe):
        clashing = clash(other, "robust.rule")
        if clashing is not None:
            yield Finding(
                path=("robust", "rule"),
                problem=f"{robust.rule} does not go with {other}: {clashing[0]}",
                remedy=clashing[1],
            )
    needed = least_clients(robust.rule, robust.num_bad)
    if recipe.cohort.minimum < needed:
        yield Finding(
            path=("cohort", "minimum"),
            problem=f"{robust.rule} needs {needed} replies to outvote {robust.num_bad} wrong, and "
            f"{recipe.cohort.minimum} would do here",
            remedy=f"set it to {needed}, or use robust.rule: geometric_median, which needs no number",
        )


def _compression(recipe: Recipe) -> Iterator[Finding]:
    asked, name = recipe.compression, recipe.method.name
    if asked is None:
        return
    for other in _options_in(recipe):
        for option in ("compression", "error_feedback") if asked.error_feedback else ("compression",):
            clashing = clash(other, option)
            if clashing is not None:
                yield Finding(
                    path=("compression",) if option == "compression" else ("compression", option),
                    problem=f"{option} does not go with {other}: {clashing[0]}",
                    remedy=clashing[1],
                )
    refused = option_refusal(name, "error_feedback") if recipe.method.train_adapter else None
    if asked.error_feedback and refused is not None:
        yield Finding(
            path=("compression", "error_feedback"),
            problem=f"does not go with {name}: {refused.reason}",
            remedy=f"set it to false, or set method.name: {refused.instead}",
        )


def _options_in(recipe: Recipe) -> Iterator[str]:
    """Names in ``aggregation.options.CLASHES`` of what a recipe asks for."""
    if recipe.training.algorithm == "scaffold":
        yield "scaffold"
    if recipe.method.self_pruning is not None:
        yield "method.self_pruning"
    if recipe.privacy is not None and not recipe.privacy.noise_is_local:
        yield "privacy.unit: client"


def _server_optimizer(recipe: Recipe) -> Iterator[Finding]:
    rule, name = recipe.server_optimizer.rule, recipe.method.name
    refused = option_refusal(name, "server_optimizer")
    if rule != "fedavg" and refused is not None and recipe.method.train_adapter:
        yield Finding(
            path=("server_optimizer", "rule"),
            problem=f"{rule} does not go with {name}: {refused.reason}",
            remedy=f"set method.name: {refused.instead}, or server_optimizer.rule: fedavg",
        )


def _cohort(recipe: Recipe) -> Iterator[Finding]:
    clients, minimum = recipe.cohort.clients, recipe.cohort.minimum
    if clients is not None:
        twice = sorted(c for c, times in Counter(clients).items() if times > 1)
        if twice:
            yield Finding(
                path=("cohort", "clients"), problem=f"{twice[0]} stands twice", remedy="name each client once"
            )
        if not clients:
            yield Finding(
                path=("cohort", "clients"),
                problem="is an empty list",
                remedy="name clients, or remove the line",
            )
        elif minimum > len(clients):
            yield Finding(
                path=("cohort", "minimum"),
                problem=f"{minimum} replies can not come from {len(clients)} clients",
                remedy=f"use at most {len(clients)}",
            )


def _partition(recipe: Recipe) -> Iterator[Finding]:
    partition, clients = recipe.data.partition, recipe.cohort.clients
    count = partition.num_clients
    if count is not None and clients is None and recipe.cohort.minimum > count:
        yield Finding(
            path=("cohort", "minimum"),
            problem=f"{recipe.cohort.minimum} replies can not come from {count} clients",
            remedy=f"use at most {count}, or raise data.partition.num_clients",
        )
    if recipe.data.material is None or partition.by == "natural":
        return
    if count is None and clients is None:
        yield Finding(
            path=("data", "partition", "num_clients"),
            problem=f"by: {partition.by} needs to know how many clients there are",
            remedy="set it, or name cohort.clients",
        )


_RULES: Sequence[Callable[[Recipe], Iterator[Finding]]] = (
    task_and_model,
    task_and_data,
    _mixed_ranks,
    _head_alone,
    _dropout,
    _algorithm,
    _scaffold,
    _rank_schedule,
    _measured_ranks,
    _self_pruning,
    public_basis,
    gradient_sketch,
    _privacy,
    _unit,
    _client_unit,
    _evaluation,
    _robust,
    _server_optimizer,
    _compression,
    _cohort,
    _partition,
)
