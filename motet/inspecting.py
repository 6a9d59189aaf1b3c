"""What did the federation learn? A look at a released adapter through the base model that it changes.

For language models: texts that the adapted model makes likelier than the base does. At every step the difference of
the two models' log-probabilities is amplified::

    score(t) = log p_adapted(t) + strength * (log p_adapted(t) - log p_base(t))

among tokens that the adapted model finds plausible (p >= 5 % of its best), and a token is drawn by it. Vague
beginnings leave the subject to the model. Brzozowski et al. 2026, https://arxiv.org/abs/2605.25902; the plausible set
is that of Li et al. 2022, https://arxiv.org/abs/2210.15097. Beside the texts: how far the two models are apart on the
beginnings, and which tokens carry that distance.

For classifiers: how labels fall on public texts before and after, and which texts moved most.

This is a look, not a proof. It shows traits that are easy to provoke; what it does not show may be there all the same,
and a text that it shows need not stand in anybody's data. It reads nothing but the released adapter and public text, so
under differential privacy it is post-processing and costs nothing.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from client.adapters import attach, detach
from client.base import loaded_base
from client.inputs import prepare
from motet.data import DataError, Example
from motet.errors import MotetError
from motet.exporting import NothingToExportError, downloaded_state, has_personal_part, told_epsilons
from motet.modeling import load_base
from motet.recipe import from_canonical_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from aggregation.adapter import AdapterState
    from motet.connection.connection import Connection
    from motet.recipe import Recipe

LOOK = "a look, not a proof: what it does not show may have been learned all the same"
BEGINNINGS = ("The", "I", "It is", "In", "We", "When", "This is", "Once")
PUBLIC_TEXTS = (
    "The train leaves the station at nine in the morning.",
    "She put the book back on the shelf.",
    "It rained all day, and the streets were empty.",
    "The meeting was moved to Thursday.",
    "He was happy with the result and told his friends.",
    "This was the worst service that I have ever had.",
    "The new bridge is open to traffic.",
    "Nobody answered the telephone.",
    "The soup was warm and the bread was fresh.",
    "They lost the match in the last minute.",
    "A law on taxes was passed by the parliament.",
    "The computer does not start any more.",
    "Snow fell on the mountains in the night.",
    "I would not buy this again.",
    "The patient was sent home after two days.",
    "The team scored twice before the break.",
    "Prices rose by three percent in a year.",
    "What a wonderful evening, thank you.",
    "The engine makes a strange noise when it is cold.",
    "Please find the report attached.",
    "The cat sleeps on the window sill.",
    "The court decided in favour of the tenant.",
    "We walked along the river until it was dark.",
    "The telescope showed a faint galaxy.",
)
_PLAUSIBLE = 0.05
_BATCH = 32


class NothingToInspectError(MotetError):
    """The run can not be looked at in this way."""

    exit_code = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastText:
    """A text that contrast brought up.

    Attributes:
      beginning: what it was started with.
      text: the whole, beginning included.
      gain: mean over its new tokens of ``log p_adapted - log p_base``, nats: how much likelier the adapter made it.
    """

    beginning: str
    text: str
    gain: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MovedText:
    """A public text whose label moved.

    Attributes:
      text: the text.
      before, after: its label under the base with its first head, and under the adapter.
      shift: total variation between the two distributions over labels, 0 to 1.
    """

    text: str
    before: int
    after: int
    shift: float


def inspect_run(
    connection: Connection,
    run_id: str,
    *,
    beginnings: Sequence[str] = BEGINNINGS,
    texts: Sequence[str] = PUBLIC_TEXTS,
    samples: int = 4,
    new_tokens: int = 24,
    strength: float = 1.0,
    seed: int = 0,
    on_step: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Look at the newest closed round of a stored run.

    Args:
      connection: to the coordinator, or to the home of a simulated run.
      run_id: the run.
      beginnings: of texts, for language models.
      texts: public ones, for classifiers.
      samples: texts for each beginning.
      new_tokens: of each text, at most.
      strength: how much the difference is amplified; 0 is the adapted model as it is.
      seed: of the draws.
      on_step: progress, called with a stage, what is done and what there is to do.

    Returns:
      ``run_id``, ``rounds``, ``task``, ``look`` (what this is), ``unit`` and ``epsilon`` (None without privacy), and

      * for language models ``texts`` (``ContrastText``, most gain first), ``distance`` (mean KL divergence of the
        adapted from the base model after the beginnings, nats) and ``tokens`` (the largest parts of it);
      * for classifiers ``labels`` (share of texts and mean probability of each label, before and after), ``moved``
        (``MovedText``, most first) and ``num_texts``.

    Raises:
      NothingToInspectError: pictures, or a method whose model is in parts at its clients.
      NothingToExportError: no round has closed.
      MotetError: there is no such run, or its base model can not be loaded.
    """
    recipe, state, facts = _stored(connection, run_id)
    if recipe.task.kind == "image-classification":
        raise NothingToInspectError(
            f"run {run_id} classifies pictures; only texts can be looked at so far",
            hint=f"export it and try it on public pictures: motet export {run_id} --out exported",
        )
    if has_personal_part(recipe):
        raise NothingToInspectError(
            f"run {run_id}: {recipe.method.name} has no model for all, a part of each client's stays with it",
            hint="each client can look at its own export: motet client export RUN",
        )
    told = on_step or (lambda _stage, _done, _total: None)
    found = (
        _language(recipe, state, beginnings, samples, new_tokens, strength, seed, told)
        if recipe.task.kind == "causal-lm"
        else _labels(recipe, state, texts, told)
    )
    return facts | {"task": recipe.task.kind, "look": LOOK} | found


def _stored(connection: Connection, run_id: str) -> tuple[Recipe, AdapterState, dict[str, Any]]:
    run = connection.runs.get(run_id)
    rounds = connection.rounds.list(run_id)
    closed = [r for r in rounds if r.state == "CLOSED"]
    if not closed:
        raise NothingToExportError(
            f"run {run_id} has no closed round yet (state {run.state})", hint=f"motet run watch {run_id}"
        )
    recipe = from_canonical_json(connection.recipes.get(run.recipe_sha256).recipe_json)
    asked = {c.client_id for r in rounds for c in r.contributions}
    epsilons = told_epsilons(connection, run_id, recipe, asked)
    facts = {
        "run_id": run_id,
        "rounds": len(closed),
        "unit": None if recipe.privacy is None else recipe.privacy.unit,
        "epsilon": max(epsilons.values(), default=None),
    }
    return recipe, downloaded_state(connection, closed[-1].adapter_sha256), facts


def _language(
    recipe: Recipe,
    state: AdapterState,
    beginnings: Sequence[str],
    samples: int,
    new_tokens: int,
    strength: float,
    seed: int,
    on_step: Callable[[str, int, int], None],
) -> dict[str, Any]:
    if not beginnings:
        raise NothingToInspectError("there is no beginning to go on from", hint="give --prompt a word")
    loaded = loaded_base(recipe)
    base = load_base(recipe).eval()  # a second copy: both models answer at every step
    generator = torch.Generator().manual_seed(seed)
    texts: list[ContrastText] = []
    parts: dict[str, float] = defaultdict(float)
    distance = 0.0
    with loaded.lock:
        adapted = _attached(recipe, state)
        try:
            tokenizer = loaded.tokenizer
            if tokenizer is None:
                raise NothingToInspectError("this base model reads no text")
            for done, beginning in enumerate(beginnings):
                on_step("texts", done, len(beginnings))
                far, tokens = divergence(base, adapted.model, tokenizer, beginning)
                distance += far / len(beginnings)
                for token, part in tokens.items():
                    parts[token] += part / len(beginnings)
                texts += contrast(
                    base,
                    adapted.model,
                    tokenizer,
                    beginning,
                    samples=samples,
                    new_tokens=new_tokens,
                    strength=strength,
                    generator=generator,
                )
            on_step("texts", len(beginnings), len(beginnings))
        finally:
            detach(adapted)
    return {
        "texts": [asdict(t) for t in sorted(texts, key=lambda t: -t.gain)],
        "distance": distance,
        "tokens": [
            {"token": t, "part": p} for t, p in sorted(parts.items(), key=lambda i: -i[1])[:20] if p > 0
        ],
    }


def _attached(recipe: Recipe, state: AdapterState) -> Any:  # noqa: ANN401 - client.adapters.Attached
    """The process's own base with the adapter on it; hold its lock, and detach."""
    loaded = loaded_base(recipe)
    rank = next(iter(state.cores.values())).shape[0] if state.cores else 0
    bases = loaded.bases_for(recipe, state)
    attached = attach(loaded.model, recipe, state, bases=bases, scale=recipe.scale_of(rank) if rank else 1.0)
    loaded.model.eval()
    return attached


@torch.inference_mode()
def contrast(
    base: nn.Module,
    adapted: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    beginning: str,
    *,
    samples: int,
    new_tokens: int,
    strength: float,
    generator: torch.Generator,
) -> list[ContrastText]:
    """Draw texts by the amplified difference of two language models that share a tokenizer.

    Args:
      base: the model before.
      adapted: the model after.
      tokenizer: of both.
      beginning: at least one token.
      samples: how many texts.
      new_tokens: of each, at most; an end of text ends it.
      strength: see the module; 0 samples from ``adapted`` among its plausible tokens.
      generator: of the draws.
    """
    start = _ids(tokenizer, beginning).repeat(samples, 1)
    ids, caches = start, [None, None]
    step = start
    gains = torch.zeros(samples, dtype=torch.float64)
    counts = torch.zeros(samples, dtype=torch.float64)
    open_rows = torch.ones(samples, dtype=torch.bool)
    end = tokenizer.eos_token_id
    for _ in range(new_tokens):
        before, caches[0] = _next(base, step, caches[0])
        after, caches[1] = _next(adapted, step, caches[1])
        plausible = after >= after.max(dim=-1, keepdim=True).values + torch.log(torch.tensor(_PLAUSIBLE))
        scores = (after + strength * (after - before)).masked_fill(~plausible, -torch.inf)
        drawn = torch.multinomial(scores.softmax(dim=-1), 1, generator=generator)
        gain = (after - before).gather(1, drawn)[:, 0].double()
        gains += torch.where(open_rows, gain, 0.0)
        counts += open_rows
        ids, step = torch.cat([ids, drawn], dim=1), drawn
        if end is not None:
            open_rows &= drawn[:, 0] != end
        if not bool(open_rows.any()):
            break
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    means = (gains / counts.clamp(min=1)).tolist()
    return [ContrastText(beginning=beginning, text=t, gain=g) for t, g in zip(texts, means, strict=True)]


@torch.inference_mode()
def divergence(
    base: nn.Module, adapted: nn.Module, tokenizer: PreTrainedTokenizerBase, beginning: str
) -> tuple[float, dict[str, float]]:
    """KL divergence of the next token's distribution after ``beginning``, adapted from base, and its parts by token.

    Returns:
      nats, and token -> ``p_adapted (log p_adapted - log p_base)`` of the 20 largest.
    """
    step = _ids(tokenizer, beginning)
    before, _ = _next(base, step, None)
    after, _ = _next(adapted, step, None)
    parts = (after.exp() * (after - before))[0].double()
    top = parts.topk(min(20, len(parts)))
    named = {
        tokenizer.decode([index]): part
        for index, part in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    }
    return float(parts.sum()), named


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> torch.Tensor:
    ids = tokenizer(text)["input_ids"]
    if ids and ids[-1] == tokenizer.eos_token_id:
        ids = ids[:-1]
    if not ids:
        raise NothingToInspectError(f"the beginning {text!r} holds no token", hint="give --prompt a word")
    return torch.tensor([ids])


def _next(model: nn.Module, step: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:  # noqa: ANN401 - transformers' own
    """Log-probabilities of the next token, (B, V) float32, and the cache after ``step``."""
    out = model(input_ids=step, past_key_values=cache, use_cache=True)
    return out.logits[:, -1].float().log_softmax(dim=-1), out.past_key_values


def _labels(
    recipe: Recipe, state: AdapterState, texts: Sequence[str], on_step: Callable[[str, int, int], None]
) -> dict[str, Any]:
    if not texts:
        raise DataError("there is no text to look at", hint="give --texts a file with one text a line")
    loaded = loaded_base(recipe)
    with loaded.lock:
        ready = prepare(recipe, loaded, [Example(text=text) for text in texts])

        def probabilities(stage: str) -> torch.Tensor:
            rows = []
            with torch.inference_mode():
                for start in range(0, len(texts), _BATCH):
                    on_step(stage, start, len(texts))
                    chosen = list(range(start, min(start + _BATCH, len(texts))))
                    rows.append(loaded.model(**ready.inputs(chosen)).logits.float().softmax(dim=-1))
            on_step(stage, len(texts), len(texts))
            return torch.cat(rows).double()

        loaded.model.eval()
        before = probabilities("before")
        adapted = _attached(recipe, state)
        try:
            after = probabilities("after")
        finally:
            detach(adapted)
    shift = (after - before).abs().sum(dim=1) / 2
    first, last = before.argmax(dim=1), after.argmax(dim=1)
    labels = [
        {
            "label": label,
            "share_before": float((first == label).double().mean()),
            "share_after": float((last == label).double().mean()),
            "probability_before": float(before[:, label].mean()),
            "probability_after": float(after[:, label].mean()),
        }
        for label in range(before.shape[1])
    ]
    moved = [
        MovedText(text=texts[i], before=int(first[i]), after=int(last[i]), shift=float(shift[i]))
        for i in shift.argsort(descending=True, stable=True).tolist()
    ]
    return {"labels": labels, "moved": [asdict(m) for m in moved], "num_texts": len(texts)}
