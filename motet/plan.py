"""What a recipe will cost, before anything starts: bytes, trained parameters, epsilon, measured time.

Bytes are counted, not guessed, to the byte: four for each float of ``aggregation.floats`` and the header that names
them, or what compression makes of them. Ids and the recipe in an order add a few kilobytes a message. Epsilon is what
the ledger will hold at the end of the run, if empty before.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from aggregation import sketch_rounds
from aggregation.floats import control_shapes, received_shapes, sent_shapes, trained_numbers
from aggregation.table import TABLE
from motet.asking import Asking, asking_of, asking_words, most_asked
from motet.errors import MotetError
from motet.recipe import Problem, Recipe, RecipeError, recipe_sha256
from motet.recipe.checks import check_shapes
from motet.recipe.units import cohort_warnings
from motet.recipe.yaml_text import dotted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import torch

    from privacy.events import Unit

_PROBE_EXAMPLES = 8
_PROBE_PASSES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientPlan:
    """One client.

    Attributes:
      client_id: its id, or a word for all clients when the recipe does not name them.
      lora_rank: its rank; the largest, where a schedule changes it.
      trainable_parameters: numbers that it trains in a round, adapter and head together; the most of any round, where
        factors take turns or ranks change. Frozen factors do not count.
      bytes_up: sent in a round, at most.
      bytes_up_total: sent over the whole run.
      bytes_down: received, for each round.
      num_examples: training examples; None when the data was not looked at.
    """

    client_id: str
    lora_rank: int
    trainable_parameters: int
    bytes_up: int
    bytes_up_total: int
    bytes_down: tuple[int, ...]
    num_examples: int | None

    @property
    def total_bytes(self) -> int:
        """Both ways, over the whole run."""
        return self.bytes_up_total + sum(self.bytes_down)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyPlan:
    """What each client's data is charged.

    Attributes:
      unit: what is protected: example, person or client.
      expected_cohort: public divisor of the noised sum, with unit client; else None.
      noise_multiplier: standard deviation over the clipping norm; calibrated when the recipe gives a target.
      sampling_rate: of a unit in a step.
      num_steps: of the whole run.
      target_delta: of the epsilons here.
      epsilon: of the whole run (PLD).
      expected_epsilon: of the rounds in which a client is expected to be asked, rounded up; None where that is all.
      epsilon_limit: of the recipe.
      rounds_within_limit: rounds that the limit allows, at most those of the recipe.
    """

    unit: Unit
    expected_cohort: float | None
    noise_multiplier: float
    sampling_rate: float
    num_steps: int
    target_delta: float
    epsilon: float
    expected_epsilon: float | None
    epsilon_limit: float | None
    rounds_within_limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The cost of one recipe.

    Attributes:
      name, recipe_sha256, method: of the recipe.
      rounds, local_steps: of the recipe.
      adapted_layers: how many layers get an adapter.
      total_parameters: of the base model, or None when it was not loaded.
      clients: one for each client, or for each rank class when clients are not named.
      clients_are_known: whether ``clients`` are the real ones.
      asking: how often a client is asked; None where all are in every round, or nobody knows how many there are.
      privacy: None when the recipe is not private.
      seconds_per_step: of one optimiser step here, measured; None when it was not.
      notes: what a person should know before starting.
    """

    name: str
    recipe_sha256: str
    method: str
    rounds: int
    local_steps: int
    adapted_layers: int
    total_parameters: int | None
    clients: tuple[ClientPlan, ...]
    clients_are_known: bool
    asking: Asking | None
    privacy: PrivacyPlan | None
    seconds_per_step: float | None
    notes: tuple[str, ...]

    @property
    def seconds_per_round(self) -> float | None:
        """Training of one client in one round, here; clients of a deployment train at the same time."""
        return None if self.seconds_per_step is None else self.seconds_per_step * self.local_steps

    @property
    def expected_bytes(self) -> float:
        """Both ways, of all clients over the whole run, as often as they are expected to be asked."""
        share = 1.0 if self.asking is None else self.asking.share
        return share * sum(client.total_bytes for client in self.clients)

    @property
    def fits_budget(self) -> bool:
        """Whether every round stays within ``privacy.epsilon_limit``, also for a client that is asked in each."""
        return self.privacy is None or self.privacy.rounds_within_limit >= self.rounds

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON; an infinite epsilon becomes null."""
        values = asdict(self)
        for client, plain in zip(self.clients, values["clients"], strict=True):
            plain["total_bytes"] = client.total_bytes
        if self.privacy is not None and not math.isfinite(self.privacy.epsilon):
            values["privacy"]["epsilon"] = None
        return values | {
            "seconds_per_round": self.seconds_per_round,
            "fits_budget": self.fits_budget,
            "expected_bytes": self.expected_bytes,
        }


def plan(recipe: Recipe, *, probe: bool = True) -> Plan:
    """Work out what ``recipe`` costs.

    Args:
      recipe: a sound recipe.
      probe: also read the data (who the clients are, how many examples each has) and time a few steps here.
        What can not be looked at becomes a note. Without it only the model's configuration is read.

    Raises:
      RecipeError: the rank is over a layer's size, or no noise reaches the target.
      motet.errors.MotetError: the base model's configuration is not there.
    """
    from motet.modeling import dense_shapes, layer_shapes

    notes: list[str] = []
    shapes = layer_shapes(recipe) if recipe.method.train_adapter else {}
    _refuse_bad_shapes(recipe, shapes)
    heads = dense_shapes(recipe)
    sizes = _client_sizes(recipe, notes) if probe else {}
    known = bool(sizes)
    if not known:
        sizes, known = _clients_in_recipe(recipe)
    if not known:
        notes.append("the recipe does not name its clients: one row stands for each rank")
    clients = _clients(recipe, shapes, heads, sizes)
    if recipe.compression is not None and recipe.compression.kind == "compeft":
        notes.append(
            "compeft's messages depend on the values: what a client sends is the most that it can be"
        )
    seconds, total = _measure(recipe, notes) if probe else (None, None)
    asking = asking_of(recipe, len(sizes)) if known else None
    privacy = _privacy(_with_roster(recipe, sizes) if known else recipe, asking)
    if asking is not None:
        notes.append(asking_words(asking, recipe.training.rounds))
    notes += _notes(recipe, sizes, known=known)
    if privacy is not None:
        trained = max((client.trainable_parameters for client in clients), default=0)
        told = _with_roster(recipe, sizes) if known else recipe
        notes += cohort_warnings(
            told, trained, noise_multiplier=privacy.noise_multiplier, epsilon=privacy.epsilon
        )
    return Plan(
        name=recipe.name,
        recipe_sha256=recipe_sha256(recipe),
        method=recipe.method.name,
        rounds=recipe.training.rounds,
        local_steps=recipe.training.local_steps,
        adapted_layers=len(shapes),
        total_parameters=total,
        clients=clients,
        clients_are_known=known,
        asking=asking,
        privacy=privacy,
        seconds_per_step=seconds,
        notes=tuple(notes),
    )


def _refuse_bad_shapes(recipe: Recipe, shapes: Mapping[str, tuple[int, int]]) -> None:
    found = check_shapes(recipe, shapes)
    if found:
        raise RecipeError(
            [
                Problem(
                    source=recipe.name, line=None, field=dotted(f.path), problem=f.problem, remedy=f.remedy
                )
                for f in found
            ]
        )


def _clients_in_recipe(recipe: Recipe) -> tuple[dict[str, int | None], bool]:
    """Clients as far as the recipe alone tells them, and whether these are the real ones."""
    if recipe.cohort.clients is not None:
        return dict.fromkeys(sorted(recipe.cohort.clients)), True
    dealt, count = recipe.data.partition, recipe.data.partition.num_clients
    if recipe.data.material is not None and dealt.by != "natural" and count is not None:
        return {
            f"client-{i:0{len(str(count))}d}": None for i in range(1, count + 1)
        }, True  # as motet.data names them
    ranks = recipe.adapter.lora_rank
    if isinstance(ranks, int):
        return {"each client": None}, False
    return dict.fromkeys([*sorted(k for k in ranks if k != "default"), "default"]), False


def _client_sizes(recipe: Recipe, notes: list[str]) -> dict[str, int | None]:
    from motet.data.partition import partition

    try:
        return {client: len(examples) for client, examples in partition(recipe).train.items()}
    except MotetError as error:
        notes.append(
            f"the data was not looked at: {error.message}" + (f" ({error.hint})" if error.hint else "")
        )
        return {}


def _clients(
    recipe: Recipe,
    shapes: Mapping[str, tuple[int, int]],
    heads: Mapping[str, tuple[int, ...]],
    sizes: Mapping[str, int | None],
) -> tuple[ClientPlan, ...]:
    ranks = {client: recipe.lora_rank_of(client) for client in sizes}
    most = most_asked(recipe.cohort.minimum, recipe.cohort.over_select)
    summed = sorted(ranks.values(), reverse=True)[
        :most
    ]  # so many updates are in one sum, the largest of them
    rows = []
    for client in ranks:
        up, down = _bytes_of(recipe, shapes, heads, summed, ranks[client])
        held = [_capped(recipe, ranks[client], t) for t in range(recipe.training.rounds)]
        numel = sum(math.prod(shape) for shape in heads.values())
        trained = [
            sketch_rounds.trained_numbers(shapes, r, numel, t)
            if recipe.sketches_in()
            else trained_numbers(recipe.method.name, shapes, r, numel, t)
            for t, r in enumerate(held)
        ]
        rows.append(
            ClientPlan(
                client_id=client,
                lora_rank=max(held),
                trainable_parameters=max(trained),
                bytes_up=max(up),
                bytes_up_total=sum(up),
                bytes_down=tuple(down),
                num_examples=sizes[client],
            )
        )
    return tuple(rows)


def _bytes_of(
    recipe: Recipe,
    shapes: Mapping[str, tuple[int, int]],
    heads: Mapping[str, tuple[int, ...]],
    summed: Sequence[int],
    lora_rank: int,
) -> tuple[list[int], list[int]]:
    """Bytes that a client of a rank sends and receives in each round; with compeft, the most that it sends.

    ``summed``: ranks of the updates that one round sums, at most.
    """
    from aggregation.compression import payload_bytes
    from aggregation.serialize import message_bytes
    from motet.recipe.method import scheme_of

    method, scaffold = recipe.method.name, recipe.training.algorithm == "scaffold"
    scheme = scheme_of(recipe)
    up, down = [], []
    for t in range(recipe.training.rounds):
        rank = _capped(recipe, lora_rank, t)
        sent, received = (
            (
                sketch_rounds.sent_shapes(shapes, rank, heads, t),
                sketch_rounds.received_shapes(shapes, rank, heads, t),
            )
            if recipe.sketches_in()
            else (
                sent_shapes(method, shapes, rank, heads, t),
                received_shapes(method, shapes, summed, rank, heads, t),
            )
        )
        moved = {key: shape for key, shape in sent.items() if not key.endswith("/scale")}
        up.append(message_bytes(sent) if scheme is None else payload_bytes(moved, scheme))
        if scaffold and t:
            received |= control_shapes(method, shapes, rank, heads)
        down.append(message_bytes(received))
    return up, down


def _capped(recipe: Recipe, lora_rank: int, round_index: int) -> int:
    cap = recipe.rank_cap(round_index)
    return lora_rank if cap is None else min(lora_rank, cap)


def _with_roster(recipe: Recipe, clients: Iterable[str]) -> Recipe:
    """The recipe with its clients named, as a simulation names them."""
    if recipe.cohort.clients is not None:
        return recipe
    return recipe.model_copy(update={"cohort": recipe.cohort.model_copy(update={"clients": sorted(clients)})})


def _privacy(recipe: Recipe, asking: Asking | None) -> PrivacyPlan | None:
    if recipe.privacy is None:
        return None
    from motet.recipe.noise import round_event
    from privacy.accounting import epsilon_pld

    event = round_event(recipe)
    if event is None:
        return None
    delta, limit, rounds = recipe.privacy.target_delta, recipe.privacy.epsilon_limit, recipe.training.rounds
    epsilon = epsilon_pld([event] * rounds, delta)
    within = rounds
    if limit is not None and epsilon > limit:
        low, high = 0, rounds  # epsilon grows with rounds: low rounds fit, high rounds do not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if epsilon_pld([event] * middle, delta) <= limit else (low, middle)
        within = low
    return PrivacyPlan(
        unit=event.unit,
        expected_cohort=recipe.expected_cohort(),
        noise_multiplier=event.noise_multiplier,
        sampling_rate=event.sampling_rate,
        num_steps=rounds * event.num_steps,
        target_delta=delta,
        epsilon=epsilon,
        expected_epsilon=None
        if asking is None
        else epsilon_pld([event] * max(1, math.ceil(asking.expected_rounds - 1e-9)), delta),
        epsilon_limit=limit,
        rounds_within_limit=within,
    )


def _notes(recipe: Recipe, sizes: Mapping[str, int | None], *, known: bool) -> Sequence[str]:
    notes = []
    ranks, method = recipe.adapter.lora_rank, recipe.method
    if known and isinstance(ranks, dict):
        strangers = sorted(set(ranks) - set(sizes) - {"default"})
        if strangers:
            notes.append(
                f"adapter.lora_rank names {', '.join(strangers)}: no client has that name (fine for a "
                f"capacity class)"
            )
    if "ridge" in method.model_fields_set and method.name != "lora-fair":
        notes.append(f"method.ridge is not read by {method.name}")
    if "basis" in method.model_fields_set and method.name != "fed-sb":
        notes.append(f"method.basis is not read by {method.name}")
    if recipe.sketches_in():
        notes.append(
            f"the first {sketch_rounds.SKETCH_ROUNDS} of {recipe.training.rounds} rounds sketch gradients to find "
            "fed-sb's basis: the model learns nothing in them"
            + (", and they are charged as any other" if recipe.trains_privately else "")
        )
    notes += _training_notes(recipe)
    privacy = recipe.privacy
    if privacy is None:
        return notes
    is_by_example = privacy.unit == "example"
    counts = {client: count for client, count in sizes.items() if count and is_by_example}
    batch = recipe.training.expected_batch_size
    odd = sorted(c for c, n in counts.items() if not 0.5 <= privacy.sampling_rate * n / batch <= 2)
    if odd:
        mean = privacy.sampling_rate * counts[odd[0]]
        notes.append(
            f"{odd[0]} will see about {mean:.0f} examples a step, but sums are divided by {batch} "
            "(training.expected_batch_size): its steps are that much longer or shorter"
        )
    loose = sorted(c for c, n in counts.items() if privacy.target_delta * n >= 1)
    if loose:
        notes.append(f"privacy.target_delta is not under 1 / {counts[loose[0]]}, the examples of {loose[0]}")
    if recipe.seed != 0:
        notes.append("the seed does not fix noise and sampling: a second private run gives another adapter")
    return notes


def _training_notes(recipe: Recipe) -> Sequence[str]:
    notes = []
    if recipe.evaluation is not None:
        notes.append(
            f"evaluation: examples that are held out are counted as if they trained; judging up to "
            f"{recipe.evaluation.max_examples} of them comes on top of a round, and clients whose owners share receive "
            "the last adapter once more"
        )
    if recipe.adapter.rank_policy == "measured":
        notes.append("ranks are the most that clients are asked for; each tells what its machine carries")
    if recipe.method.self_pruning is not None:
        notes.append(
            "clients prune their own ranks: ranks, parameters and bytes are the most that they can be"
        )
    if recipe.adapter.lora_rank_schedule and TABLE[recipe.method.name].base_changes:
        notes.append(
            "what is folded into the base is counted as if the schedule cut no rank: downloads are less"
        )
    if recipe.training.algorithm == "scaffold":
        notes.append(
            "scaffold doubles what a client receives after the first round (the mean control variate), not what it "
            "sends: the coordinator derives the change of that mean from the updates"
        )
    if "proximal_weight" in recipe.training.model_fields_set and recipe.training.algorithm != "fedprox":
        notes.append(f"training.proximal_weight is not read by {recipe.training.algorithm}")
    return notes


def _measure(recipe: Recipe, notes: list[str]) -> tuple[float | None, int | None]:
    """Seconds of one step of ``expected_batch_size`` examples here, and the size of the base model.

    A forward and a backward pass through the adapted layers' own weights on random tokens of full length, the
    best of a few; an adapter's own products are small beside them.
    """
    from motet.modeling import load_base, target_layers

    try:
        model = load_base(recipe)
    except MotetError as error:
        notes.append(f"no time was measured: {error.message}" + (f" ({error.hint})" if error.hint else ""))
        return None, None
    total = sum(p.numel() for p in model.parameters())
    if recipe.method.train_adapter:
        for layer in target_layers(model, recipe).values():
            layer.requires_grad_(True)
    for name, parameter in model.named_parameters():
        if name.startswith(("head.", "classifier.", "score.")):
            parameter.requires_grad_(True)
    batch = min(_PROBE_EXAMPLES, recipe.training.expected_batch_size)
    inputs = _random_inputs(recipe, batch)
    best = math.inf
    for _ in range(_PROBE_PASSES):
        model.zero_grad(set_to_none=True)
        start = time.perf_counter()
        model(**inputs).loss.backward()
        best = min(best, time.perf_counter() - start)
    if recipe.trains_privately:
        notes.append("time is that of a step without privacy; clipping each example adds to it")
    return best / batch * recipe.training.expected_batch_size, total


def _random_inputs(recipe: Recipe, batch: int) -> dict[str, torch.Tensor]:
    import torch

    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(batch, dtype=torch.long)
    if recipe.task.reads_images:
        size = recipe.task.image_size
        return {"pixel_values": torch.randn(batch, 3, size, size, generator=generator), "labels": labels}
    tokens = torch.randint(3, 200, (batch, recipe.task.max_length), generator=generator)
    return {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "labels": labels if recipe.task.has_classes else tokens,
    }
