"""The recipe: one run, declared as data. Unknown keys are errors; see ``motet.recipe.load``.

Every field says its unit. What changes the privacy guarantee lives in ``PrivacySection`` only.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from aggregation.sketch_rounds import SKETCH_ROUNDS

PositiveInt = Annotated[int, Field(ge=1)]
MethodName = Literal[
    "fedit",
    "flora",
    "fed-sb",
    "lora-fair",
    "zero-pad",
    "rank-index",
    "product",
    "flexlora",
    "florist",
    "fedex",
    "ffa",
    "rolora",
    "fedsa",
    "hetlora",
    "dp-lora",
]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
# Bounded, since a client lists and charges each round of a run by itself, and accountants count steps as floats.
Repeats = Annotated[int, Field(ge=1, le=100_000)]
# Of the rank, above zero: a scale of zero trains nothing, and the product of such an adapter is always zero.
Multiple = Annotated[str, Field(pattern=r"^([1-9][0-9]{0,5}(\.[0-9]{1,6})?|0\.[0-9]{0,5}[1-9][0-9]{0,5})r$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]


class Section(BaseModel):
    """Frozen, strict about unknown keys. No text holds a character that a terminal would obey or not show.

    A data owner reads a stranger's recipe on a terminal before saying yes to it: what is shown is what it says.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    @field_validator("*", mode="before")
    @classmethod
    def _shows_what_it_says(cls, value: object) -> object:
        texts = value if isinstance(value, list | dict) else [value]
        if not all(text.isprintable() for text in texts if isinstance(text, str)):
            raise PydanticCustomError("not_printable", "must be text of one line without control characters")
        return value


class BaseModelSection(Section):
    """Which frozen transformer everyone starts from.

    Exactly one of ``material`` (see ``motet materials list``), ``path`` (a local Hugging Face folder) and
    ``hub`` (a hub id, fetched once by transformers) is set. ``tiny`` names a randomly initialised model for
    tests: ``tiny-bert``, ``tiny-llama``, ``tiny-gpt2``, ``tiny-dinov2``.
    """

    material: Literal["minilm", "smollm2", "dinov2-small"] | None = None
    path: str | None = None
    hub: str | None = None
    tiny: Literal["tiny-bert", "tiny-llama", "tiny-gpt2", "tiny-dinov2"] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> BaseModelSection:
        if sum(v is not None for v in (self.material, self.path, self.hub, self.tiny)) != 1:
            msg = "set exactly one of material, path, hub, tiny"
            raise ValueError(msg)
        return self


class TaskSection(Section):
    """What is learned.

    ``max_length`` is read for texts, ``image_size`` for pictures; ``pooling`` by encoders of either.
    """

    kind: Literal["sequence-classification", "causal-lm", "image-classification"]
    num_labels: Annotated[int, Field(ge=2)] | None = None
    max_length: PositiveInt = 64
    image_size: PositiveInt = 56
    pooling: Literal["mean", "model"] = "mean"

    @model_validator(mode="after")
    def _labels(self) -> TaskSection:
        if (self.kind != "causal-lm") != (self.num_labels is not None):
            msg = (
                "num_labels belongs to sequence-classification and image-classification, and is needed there"
            )
            raise ValueError(msg)
        return self

    @property
    def reads_images(self) -> bool:
        """Whether examples are pictures; else they are texts."""
        return self.kind == "image-classification"

    @property
    def has_classes(self) -> bool:
        """Whether the answer to an example is a class; else it is the text itself."""
        return self.kind != "causal-lm"


class PartitionSection(Section):
    """How one data set is dealt to simulated clients. Deployed clients bring their own files instead.

    by = natural: one client a group of the material (VADER domain, topic file); source documents are never
    split. by = dirichlet: label proportions drawn from Dirichlet(alpha), one draw a label.
    by = iid: a shuffled deal.
    """

    by: Literal["natural", "dirichlet", "iid"] = "natural"
    alpha: PositiveFloat = 0.3
    num_clients: PositiveInt | None = None
    examples_per_client: PositiveInt | None = None


class DataSection(Section):
    """Where examples come from.

    ``path`` is a JSONL or CSV file, or a folder with one file a client
    (``<client_id>.jsonl``) and ``test.jsonl``. Of pictures it may be a folder of class folders, or a folder with
    one such folder a client and ``test``. ``classes`` names class folders in label order; of a
    material whose classes have names it keeps these only, numbered in the order written here.
    """

    material: Literal["vader", "newsgroups", "topics", "tales", "fashion-mnist", "fashion-domains"] | None = (
        None
    )
    path: str | None = None
    classes: Annotated[list[str], Field(min_length=2)] | None = None
    text_column: str = "text"
    label_column: str = "label"
    partition: PartitionSection = PartitionSection()
    test_examples: PositiveInt = 1000

    @model_validator(mode="after")
    def _one_source(self) -> DataSection:
        if (self.material is None) == (self.path is None):
            msg = "set exactly one of material, path"
            raise ValueError(msg)
        return self


class RankStep(Section):
    """From round ``from_round`` on nobody trains more than ``lora_rank``."""

    from_round: Annotated[int, Field(ge=0)]
    lora_rank: PositiveInt


class AdapterSection(Section):
    """The adapter.

    ``lora_rank`` is one rank for all, or a map from client id or capacity class to rank
    (``default`` is the fallback). ``alpha`` is a number, or ``"2r"``: that multiple of each client's own
    rank, so that the scale is the same for all. ``targets`` are endings of layer names. ``serving_lora_rank`` is
    the most that servers of the result take: exports are cut to it, training is not. ``lora_rank_schedule`` caps all
    ranks from a round on, up or down; the product is carried over. With ``rank_policy: measured`` each client tells
    the rank that its machine carries, and ``lora_rank`` is the most that it is asked for.
    """

    lora_rank: PositiveInt | dict[Name, PositiveInt] = 8
    alpha: PositiveFloat | Multiple = "2r"
    targets: Annotated[list[str], Field(min_length=1)] = ["query", "value"]
    layers: list[Annotated[int, Field(ge=0)]] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    serving_lora_rank: PositiveInt | None = None
    lora_rank_schedule: list[RankStep] = []
    rank_policy: Literal["assigned", "measured"] = "assigned"


class SelfPruningSection(Section):
    """How a client of hetlora shortens its own rank r: to ``floor(decay r)``, where its tail shrank in a round.

    The tail is what lies from component ``floor(decay r)`` on; its size is the product of the Frobenius norms of
    that part of B and of A. ``penalty_weight`` times that size is added to the client's loss.
    """

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.99
    penalty_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-3


class PublicDataSection(Section):
    """Examples that are nobody's secret, the same at everyone: one of ``material`` and ``path``.

    ``path`` is a JSONL or CSV file with the columns of the run's own data, which everyone holds at that path;
    ``sha256`` is its content's, so that nobody can have another. ``num_examples`` are drawn by the recipe's seed.
    """

    material: Literal["vader", "newsgroups", "topics", "tales", "fashion-mnist", "fashion-domains"] | None = (
        None
    )
    path: str | None = None
    sha256: str | None = None
    num_examples: PositiveInt = 64

    @model_validator(mode="after")
    def _one_source(self) -> PublicDataSection:
        if (self.material is None) == (self.path is None):
            msg = "set exactly one of material, path"
            raise ValueError(msg)
        if (self.path is None) != (self.sha256 is None):
            msg = "sha256 belongs to path, and is needed there"
            raise ValueError(msg)
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            msg = "sha256 must be 64 digits of 0-9 and a-f, as sha256sum prints them"
            raise ValueError(msg)
        return self


class MethodSection(Section):
    """How updates become one.

    ``ridge`` and ``objective`` are read by lora-fair, ``energy`` by florist, ``basis`` by fed-sb; ``public_data`` by
    ``basis: public_gradient``; ``basis: gradient_sketch`` takes the first two rounds for itself; ``self_pruning``
    belongs to hetlora; ``train_adapter: false`` trains the head alone (a baseline).
    """

    name: MethodName
    ridge: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    objective: Literal["ridge", "cosine_global", "cosine_columns"] = "ridge"
    energy: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.95
    basis: Literal["svd", "orthonormal", "public_gradient", "gradient_sketch"] = "svd"
    public_data: PublicDataSection | None = None
    self_pruning: SelfPruningSection | None = None
    train_adapter: bool = True


class TrainingSection(Section):
    """Local work of one client in one round.

    ``expected_batch_size`` is a public constant: the sum of gradients
    is divided by it, also when a Poisson batch is larger or smaller. ``algorithm`` is what the client does beside the
    data: nothing, a pull towards the round's start (fedprox, of strength ``proximal_weight``), or control variates
    that take the drift of unlike data out of each step (scaffold).
    """

    rounds: Repeats = 3
    local_steps: Repeats = 10
    expected_batch_size: PositiveInt = 16
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: PositiveFloat = 1e-3
    head_learning_rate: PositiveFloat | None = None
    learning_rate_decay: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    max_grad_norm: PositiveFloat | None = None
    algorithm: Literal["fedavg", "fedprox", "scaffold"] = "fedavg"
    proximal_weight: PositiveFloat = 0.01


class CohortSection(Section):
    """Who takes part. ``minimum`` replies close a round at the deadline; fewer abort it.

    ``draw_rate``: each client is asked with this probability in each round, by a Poisson draw from the seed; at
    least ``minimum`` are. ``over_select``: ask so many times the minimum, rounded up, and close as soon as the minimum
    is there; who comes later is late. Whoever is asked is charged. No guarantee rests on either.
    """

    clients: list[Name] | None = None
    minimum: PositiveInt = 1
    deadline_s: PositiveFloat = 600.0
    draw_rate: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    over_select: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None
    weights: Literal["uniform", "num_examples"] = "uniform"


class RobustSection(Section):
    """What bounds wrong clients. The clip is always on; a rule comes after it, and sees single updates."""

    clip_factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 10.0
    rule: Literal[
        "none", "geometric_median", "multi_krum", "trimmed", "coordinate_median", "coordinate_trimmed_mean"
    ] = "none"
    num_bad: PositiveInt = 1


class ServerOptimizerSection(Section):
    """How the mean of a round moves the global adapter; ``fedavg`` takes it as it is.

    ``learning_rate`` absent: 1 for fedavgm, 0.01 for the rules that size each step. ``beta2`` and ``tau`` are not
    read by fedavgm, ``beta2`` not by fedadagrad.
    """

    rule: Literal["fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad"] = "fedavg"
    learning_rate: PositiveFloat | None = None
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    tau: PositiveFloat = 1e-3


class CompressionSection(Section):
    """Smaller uploads: a client sends what it moved, in fewer bits. Downloads stay whole. Absent: none.

    ``block`` is read by int8 and int4, ``density`` by compeft. ``error_feedback`` absent: on where it is sound.
    """

    kind: Literal["bf16", "int8", "int4", "compeft"]
    block: PositiveInt = 64
    density: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.05
    error_feedback: bool | None = None


class PrivacySection(Section):
    """Differential privacy (Poisson sampling, add/remove neighbours). Absent: no privacy.

    ``unit`` says what one neighbour has and the other lacks. ``example`` and ``person`` are DP-SGD on the client;
    ``client`` is noise on the coordinator's sum of clipped updates, and trusts the coordinator.
    ``sampling_rate`` is a public constant, not derived from the number of examples. Exactly one of
    ``noise_multiplier`` and ``target_epsilon`` is set; the target is for the whole run.
    """

    unit: Literal["example", "person", "client"] = "example"
    unit_column: str | None = None
    max_examples_per_person: PositiveInt | None = None
    expected_cohort: PositiveFloat | None = None
    clipping_norm: PositiveFloat = 1.0
    noise_multiplier: PositiveFloat | None = None
    target_epsilon: PositiveFloat | None = None
    target_delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    sampling_rate: Annotated[float, Field(gt=0, le=1)]
    epsilon_limit: PositiveFloat | None = None

    @model_validator(mode="after")
    def _one_noise(self) -> PrivacySection:
        if (self.noise_multiplier is None) == (self.target_epsilon is None):
            msg = "set exactly one of noise_multiplier, target_epsilon"
            raise ValueError(msg)
        return self

    @property
    def noise_is_local(self) -> bool:
        """Whether each client adds its noise itself, so that what leaves it is private already."""
        return self.unit != "client"


class EvaluationSection(Section):
    """Each client keeps a share of its own examples out of training and judges on them what a round starts from.

    Without privacy only: no noise covers such a figure. Whether it leaves is the owner's word (``share_accuracy``).
    ``held_out`` is of its source documents; a hash of document and seed chooses, the same in every round.
    ``max_examples`` bounds what is judged, not what is held out.
    """

    held_out: Annotated[float, Field(gt=0, le=0.5, allow_inf_nan=False)]
    max_examples: PositiveInt = 500


class TrackerProject(Section):
    """``project``: of W&B, or the experiment of MLflow."""

    project: Name = "motet"


class TrackersSection(Section):
    """Where the coordinator records figures of closed rounds, beside its database. A list of names does as well.

    What is recorded depends on the privacy section and on owners' policies, not on what is set here.
    """

    jsonl: bool = False
    tensorboard: bool = False
    mlflow: TrackerProject | None = None
    wandb: TrackerProject | None = None

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, given: object) -> object:
        """``[jsonl, wandb]`` and ``{jsonl: true, wandb: true}`` are ``{jsonl: true, wandb: {}}``."""
        if isinstance(given, list) and all(isinstance(name, str) for name in given):
            given = dict.fromkeys(given, True)
        if not isinstance(given, dict):
            return given
        found = {}
        for name, value in given.items():
            has_keys = name in ("mlflow", "wandb")
            wanted: object = value
            if value is True or value == {}:
                wanted = {} if has_keys else True
            elif value is False and has_keys:
                wanted = None
            found[name] = wanted
        return found

    @property
    def chosen(self) -> dict[str, str]:
        """Name of each tracker that is wanted -> its project; empty for one that has none."""
        plain = {name: "" for name in ("jsonl", "tensorboard") if getattr(self, name)}
        named = {"mlflow": self.mlflow, "wandb": self.wandb}
        return plain | {name: section.project for name, section in named.items() if section is not None}


class Recipe(Section):
    """One run, whole.

    ``seed`` drives everything but privacy noise and private sampling, which come from the
    operating system and can not be seeded.
    """

    name: Name
    base_model: BaseModelSection
    task: TaskSection
    data: DataSection
    adapter: AdapterSection = AdapterSection()
    method: MethodSection
    training: TrainingSection = TrainingSection()
    cohort: CohortSection = CohortSection()
    robust: RobustSection = RobustSection()
    server_optimizer: ServerOptimizerSection = ServerOptimizerSection()
    compression: CompressionSection | None = None
    privacy: PrivacySection | None = None
    evaluation: EvaluationSection | None = None
    trackers: TrackersSection = TrackersSection()
    seed: int = 0

    def lora_rank_of(self, client_id: str, capacity_class: str | None = None) -> int:
        """The rank of one client: by id, then by capacity class, then ``default``, then 8."""
        ranks = self.adapter.lora_rank
        if isinstance(ranks, int):
            return ranks
        for key in (client_id, capacity_class, "default"):
            if key is not None and key in ranks:
                return ranks[key]
        return 8

    @property
    def most_rank(self) -> int:
        """The largest rank that any client may get."""
        ranks = self.adapter.lora_rank
        return ranks if isinstance(ranks, int) else max(*ranks.values(), self.lora_rank_of("default"))

    def rank_cap(self, round_index: int) -> int | None:
        """The most rank of a round by the schedule; None where it says nothing."""
        caps = [s.lora_rank for s in self.adapter.lora_rank_schedule if s.from_round <= round_index]
        return caps[-1] if caps else None

    def learning_rate_of(self, round_index: int, *, head: bool) -> float:
        """The rate of the heads, or of all else that trains, in a round."""
        training = self.training
        own = training.head_learning_rate if head else None
        return (own or training.learning_rate) * training.learning_rate_decay**round_index

    def expected_cohort(self) -> float | None:
        """With unit client, the public divisor of the noised sum; None where the recipe does not tell it."""
        if self.privacy is None or self.privacy.noise_is_local:
            return None
        if self.privacy.expected_cohort is not None:
            return self.privacy.expected_cohort
        clients = self.cohort.clients
        return self.privacy.sampling_rate * len(clients) if clients else None

    def sketches_in(self, round_index: int | None = None) -> bool:
        """Whether a round finds Fed-SB's bases and trains nothing; without a round, whether any of the run does."""
        method = self.method
        sketches = method.name == "fed-sb" and method.basis == "gradient_sketch" and method.train_adapter
        return sketches and (round_index is None or round_index < SKETCH_ROUNDS)

    @property
    def trains_privately(self) -> bool:
        """Whether clients train by DP-SGD. Without it their updates leave in the clear towards the coordinator."""
        return self.privacy is not None and self.privacy.noise_is_local

    def scale_of(self, lora_rank: int) -> float:
        """The PEFT scale alpha / rank of a client with ``lora_rank``."""
        alpha = self.adapter.alpha
        return float(alpha[:-1]) if isinstance(alpha, str) else float(alpha) / lora_rank
