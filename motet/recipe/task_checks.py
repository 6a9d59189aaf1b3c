"""Checks of ``motet.recipe.checks`` that know base models and data sets by name: what fits what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from motet.recipe.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from motet.recipe.model import Recipe
    from motet.recipe.yaml_text import Path

_FAMILY = {
    "minilm": "bert",
    "tiny-bert": "bert",
    "smollm2": "llama",
    "tiny-llama": "llama",
    "tiny-gpt2": "gpt2",
    "dinov2-small": "dinov2",
    "tiny-dinov2": "dinov2",
}
_LAYER_NAMES = {
    "bert": ("query", "key", "value", "dense"),
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "gpt2": ("c_attn", "c_proj", "c_fc"),
    "dinov2": ("q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"),
}
_BLOCKS = {"minilm": 6, "smollm2": 30, "dinov2-small": 12}
_PATCHES = {"dinov2-small": 14, "tiny-dinov2": 4}
_CLASSES = {"vader": 2, "newsgroups": 20, "fashion-mnist": 10, "fashion-domains": 10}
_NAMED_CLASSES = ("newsgroups", "fashion-mnist", "fashion-domains")
_PASSAGES = ("topics", "tales")
_PICTURES = ("fashion-mnist", "fashion-domains")


def task_and_model(recipe: Recipe) -> Iterator[Finding]:
    """A base model that can do the task, and has the layers that are named."""
    base = recipe.base_model
    known = base.material or base.tiny
    family = _FAMILY.get(known or "")
    if family == "bert" and recipe.task.kind == "causal-lm":
        yield Finding(
            path=("task", "kind"),
            problem=f"{known} is an encoder, which can not learn causal-lm",
            remedy="use base_model.material: smollm2 (or tiny: tiny-llama), or sequence-classification",
        )
    yield from _pictures_and_model(recipe, known, family)
    if family is None or not recipe.method.train_adapter:
        return
    names = _LAYER_NAMES[family]
    wrong = [(i, t) for i, t in enumerate(recipe.adapter.targets) if t.rpartition(".")[2] not in names]
    for index, target in wrong:
        path: Path = (
            ("adapter", "targets", index) if "targets" in recipe.adapter.model_fields_set else ("adapter",)
        )
        yield Finding(
            path=path,
            problem=f"{known} has no layer that ends in {target!r}",
            remedy=f"choose from {', '.join(names)}",
        )
    blocks = _BLOCKS.get(known or "")
    for index, layer in enumerate(recipe.adapter.layers or []):
        if blocks is not None and layer >= blocks:
            yield Finding(
                path=("adapter", "layers", index),
                problem=f"{known} has blocks 0 to {blocks - 1}, no {layer}",
                remedy="choose blocks that it has",
            )


def _pictures_and_model(recipe: Recipe, known: str | None, family: str | None) -> Iterator[Finding]:
    if family is not None and (family == "dinov2") != recipe.task.reads_images:
        sees = family == "dinov2"
        yield Finding(
            path=("task", "kind"),
            problem=f"{recipe.task.kind} is about {'texts' if sees else 'pictures'}, {known} reads "
            f"{'pictures' if sees else 'texts'}",
            remedy="set it to image-classification, or use base_model.material: minilm"
            if sees
            else "use base_model.material: dinov2-small (or tiny: tiny-dinov2), or sequence-classification",
        )
    patch = _PATCHES.get(known or "")
    if recipe.task.reads_images and patch is not None and recipe.task.image_size % patch:
        size = recipe.task.image_size
        yield Finding(
            path=("task", "image_size"),
            problem=f"{size} pixels do not divide into patches of {patch}, as {known} reads them",
            remedy=f"use {max(1, round(size / patch)) * patch}",
        )


def task_and_data(recipe: Recipe) -> Iterator[Finding]:
    """A data set whose examples are of the task."""
    material, num_labels = recipe.data.material, recipe.task.num_labels
    if material in _PASSAGES and num_labels is not None:
        yield Finding(
            path=("task", "kind"),
            problem=f"{material} has texts without classes",
            remedy="use causal-lm with it, or data.material: vader or newsgroups",
        )
        return
    if material is not None and (material in _PICTURES) != recipe.task.reads_images:
        yield Finding(
            path=("data", "material"),
            problem=f"{material} holds {'pictures' if material in _PICTURES else 'texts'}, which {recipe.task.kind} "
            "does not read",
            remedy="choose another data set, or another task.kind",
        )
        return
    classes = recipe.data.classes
    if classes is not None and material not in _NAMED_CLASSES and not recipe.task.reads_images:
        yield Finding(
            path=("data", "classes"),
            problem="only newsgroups has classes with names",
            remedy="remove it, or use data.material: newsgroups",
        )
    elif classes is not None and len(set(classes)) != len(classes):
        yield Finding(path=("data", "classes"), problem="a class is written twice", remedy="keep one")
    count = len(classes) if classes is not None else _CLASSES.get(material or "", num_labels)
    if num_labels is not None and count != num_labels:
        yield Finding(
            path=("task", "num_labels"),
            problem=f"{'data.classes' if classes else material} has {count} classes, not {num_labels}",
            remedy=f"set it to {count}",
        )


def public_basis(recipe: Recipe) -> Iterator[Finding]:
    """A basis of public examples, and examples that are public."""
    name, asked = recipe.method.name, recipe.method.public_data
    by_gradient = recipe.method.basis == "public_gradient"
    if by_gradient and name != "fed-sb":
        yield Finding(
            path=("method", "basis"),
            problem=f"public_gradient makes the frozen factors of fed-sb, which {name} does not have",
            remedy="set method.name: fed-sb, or remove it",
        )
    if by_gradient and asked is None:
        yield Finding(
            path=("method", "basis"),
            problem="public_gradient needs examples that are public",
            remedy="name them in method.public_data, or set basis: svd, which needs none",
        )
    if asked is None:
        return
    if not by_gradient:
        yield Finding(
            path=("method", "public_data"),
            problem=f"is read with basis: public_gradient only, not with basis: {recipe.method.basis}",
            remedy="set basis: public_gradient, or remove it",
        )
    if _same_texts(asked.material, recipe.data.material) or asked.path == recipe.data.path is not None:
        yield Finding(
            path=("method", "public_data"),
            problem=f"{asked.material or asked.path} is the data that clients train on: a basis made of it would tell "
            "of that data, and nobody would be charged",
            remedy="name another data set, or set basis: svd",
        )
    if asked.material is not None:
        data = recipe.data.model_copy(update={"material": asked.material, "path": None, "classes": None})
        for finding in task_and_data(recipe.model_copy(update={"data": data})):
            yield Finding(
                path=("method", "public_data", "material"),
                problem=f"{asked.material} does not fit the task: {finding.problem}",
                remedy="name another data set, or a file of your own in method.public_data.path",
            )


_SAME_TEXTS = (frozenset({"newsgroups", "topics"}), frozenset({"fashion-mnist", "fashion-domains"}))


def _same_texts(one: str | None, other: str | None) -> bool:
    """Whether two materials hold the same examples."""
    return one is not None and (one == other or any({one, other} <= family for family in _SAME_TEXTS))
