"""A recipe in plain words, for the data owner who has to say yes or no to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from motet.recipe.model import PrivacySection, Recipe

_TASKS = {
    "sequence-classification": "puts texts into {labels} classes",
    "causal-lm": "writes text",
    "image-classification": "puts pictures into {labels} classes",
}
_UNITS = {
    "example": "each single example is hidden, from the coordinator as well; the noise is added on your machine",
    "person": "each person with all of their examples is hidden, from the coordinator as well; the noise is added on "
    "your machine",
    "client": "each client as a whole is hidden from users of the result; the coordinator sees your update without "
    "noise",
}


def in_words(recipe: Recipe) -> list[str]:
    """What a recipe does with an owner's data, one sentence a line; every figure is the recipe's own."""
    training, cohort = recipe.training, recipe.cohort
    base = recipe.base_model
    model = base.material or base.hub or base.path or f"{base.tiny} (random, for tests)"
    task = _TASKS[recipe.task.kind].format(labels=recipe.task.num_labels)
    return [
        f"{recipe.name}: a model that {task}, made from {model}.",
        _what_trains(recipe),
        f"It trains {training.rounds} rounds of {training.local_steps} steps, each on about "
        f"{training.expected_batch_size} of your examples.",
        _what_leaves(recipe),
        *_privacy(recipe.privacy, training.rounds),
        _who(cohort.clients, cohort.minimum),
        *_reads(recipe),
        *_held_out(recipe),
        *_recorded(recipe),
    ]


def _held_out(recipe: Recipe) -> list[str]:
    if recipe.evaluation is None:
        return []
    return [
        f"About {recipe.evaluation.held_out:.0%} of your documents are kept out of training, and each adapter is "
        f"judged on at most {recipe.evaluation.max_examples} examples of them. Loss and accuracy leave only if your "
        "policy says share_accuracy = true."
    ]


def _recorded(recipe: Recipe) -> list[str]:
    if not recipe.trackers.chosen:
        return []
    names = ", ".join(recipe.trackers.chosen)
    if recipe.privacy is None:
        what = "Figures of each round, and of your updates, are recorded"
    elif recipe.trains_privately:
        what = "Figures that follow from noised updates are recorded"
    else:
        what = "Of each round the epsilon alone is recorded"
    return [f"{what} at the coordinator for {names}; nothing is sent elsewhere by Motet."]


def _what_trains(recipe: Recipe) -> str:
    if not recipe.method.train_adapter:
        return "Only the head is trained; the base model stays as it is."
    ranks = recipe.adapter.lora_rank
    rank = f"rank {ranks}" if isinstance(ranks, int) else f"ranks up to {recipe.most_rank}"
    return (
        f"Adapters of {rank} on {', '.join(recipe.adapter.targets)} are trained and combined by {recipe.method.name}; "
        "the base model stays as it is."
    )


def _what_leaves(recipe: Recipe) -> str:
    if recipe.privacy is None:
        return "Your trained adapter and the number of your examples leave in the clear. No example leaves."
    noised = "noised " if recipe.trains_privately else ""
    return f"Your {noised}trained adapter leaves, and nothing else. No example and no count leaves."


def _privacy(privacy: PrivacySection | None, rounds: int) -> list[str]:
    if privacy is None:
        return ["There is no privacy guarantee: nothing bounds what the adapter tells about an example."]
    aim = (
        f"a noise multiplier of {privacy.noise_multiplier:g}"
        if privacy.noise_multiplier is not None
        else f"noise for epsilon {privacy.target_epsilon:g} over the {rounds} rounds"
    )
    lines = [
        f"Privacy: {_UNITS[privacy.unit]}.",
        f"It uses {aim} at delta {privacy.target_delta:g}, clipping at {privacy.clipping_norm:g}, and draws "
        f"each of them with chance {privacy.sampling_rate:g} in a step.",
    ]
    if privacy.epsilon_limit is not None:
        lines.append(f"The coordinator stops before epsilon {privacy.epsilon_limit:g} over all its runs.")
    return lines


def _who(clients: list[str] | None, minimum: int) -> str:
    named = f"{', '.join(clients)} are asked" if clients else "Whoever is there is asked"
    return f"{named}; a round closes with {minimum} or more."


def _reads(recipe: Recipe) -> list[str]:
    public = recipe.method.public_data
    if public is None:
        return []
    return [f"It also reads {public.material or public.path} on your machine as public data."]
