"""Soundness across fields: an unsound pair is refused when the recipe is parsed, with the reason and the nearest sound choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from motet.recipe.model import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsound:
    """One thing that does not fit: where, why, and what to write instead."""

    field: tuple[str, ...]
    problem: str
    remedy: str


def check_soundness(recipe: Recipe) -> list[Unsound]:
    """All unsound pairs; empty when the recipe may run."""
    return [*_method(recipe), *_privacy(recipe), *_data(recipe), *_cohort(recipe)]


def _method(recipe: Recipe) -> list[Unsound]:
    found = []
    ranks = recipe.adapter.lora_rank
    mixed = isinstance(ranks, dict) and len(set(ranks.values())) > 1
    name = recipe.method.name
    if mixed and name != "flora":
        why = {
            "fedit": "averages A and B entry by entry, which needs one rank for all",
            "lora-fair": "corrects the mean of B, which needs one rank for all",
            "fed-sb": "averages square cores, which need one size for all",
        }[name]
        found.append(
            Unsound(
                field=("adapter", "lora_rank"), problem=f"ranks differ and {name} {why}",
                remedy="Use method.name: flora, which is exact for any mix of ranks, or one rank",
            )
        )  # fmt: skip
    if name in {"fedit", "lora-fair"} and isinstance(ranks, dict) and not mixed and len(ranks) and "default" not in ranks:
        only = next(iter(ranks.values()))
        if only != 8:
            found.append(
                Unsound(
                    field=("adapter", "lora_rank"),
                    problem="clients that are not named would get rank 8", remedy=f"Write lora_rank: {only}",
                )
            )  # fmt: skip
    if not recipe.method.train_adapter and recipe.task.kind == "causal-lm":
        found.append(
            Unsound(
                field=("method", "train_adapter"), problem="a causal language model has no head to train alone",
                remedy="Leave train_adapter: true",
            )
        )  # fmt: skip
    return found


def _privacy(recipe: Recipe) -> list[Unsound]:
    privacy = recipe.privacy
    if privacy is None:
        return []
    found = []
    if recipe.cohort.weights == "num_examples":
        found.append(
            Unsound(
                field=("cohort", "weights"),
                problem="the number of examples is private under add/remove neighbours and must not leave the client",
                remedy="Write weights: uniform",
            )
        )
    if recipe.training.max_grad_norm is not None:
        found.append(
            Unsound(
                field=("training", "max_grad_norm"),
                problem="private runs clip each example by privacy.clipping_norm already", remedy="Remove max_grad_norm",
            )
        )  # fmt: skip
    if privacy.epsilon_limit and privacy.target_epsilon and privacy.epsilon_limit < privacy.target_epsilon:
        found.append(
            Unsound(
                field=("privacy", "epsilon_limit"),
                problem=f"the limit {privacy.epsilon_limit:g} is below the target {privacy.target_epsilon:g}: the run would stop early",
                remedy="Raise the limit or lower target_epsilon",
            )
        )
    return found


def _data(recipe: Recipe) -> list[Unsound]:
    found = []
    text_only = {"topics", "tales"}
    if recipe.data.material in text_only and recipe.task.kind != "causal-lm":
        found.append(
            Unsound(
                field=("data", "material"), problem=f"{recipe.data.material} is text without labels",
                remedy="Use vader or newsgroups, or task.kind: causal-lm",
            )
        )  # fmt: skip
    labels = {"vader": 2, "newsgroups": 20}.get(recipe.data.material or "")
    if labels and recipe.task.num_labels is not None and recipe.task.num_labels != labels:
        found.append(
            Unsound(
                field=("task", "num_labels"), problem=f"{recipe.data.material} has {labels} labels",
                remedy=f"Write num_labels: {labels}",
            )
        )  # fmt: skip
    if recipe.data.partition.by == "dirichlet" and recipe.task.kind == "causal-lm":
        found.append(
            Unsound(
                field=("data", "partition", "by"), problem="dirichlet deals labels, and causal-lm has none",
                remedy="Use natural or iid",
            )
        )  # fmt: skip
    return found


def _cohort(recipe: Recipe) -> list[Unsound]:
    clients = recipe.cohort.clients
    found = []
    if clients is not None and len(set(clients)) != len(clients):
        found.append(Unsound(field=("cohort", "clients"), problem="a client is named twice", remedy="Name each once"))
    if clients is not None and recipe.cohort.minimum > len(clients):
        found.append(
            Unsound(
                field=("cohort", "minimum"),
                problem=f"{recipe.cohort.minimum} replies are needed and only {len(clients)} clients are named",
                remedy="Lower minimum or name more clients",
            )
        )
    return found
