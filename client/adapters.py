"""Put one adapter on a loaded base model, read it back, take it off again without a trace.

LoRA is peft's own layer. Fed-SB's square core is ``SquareLinear`` here. A change of the base (FLoRA) is added
to the frozen weight; a copy of what it touched is kept, so that ``detach`` restores every bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from aggregation.adapter import AdapterState, FactorPair
from aggregation.initial import orthonormal_bases, svd_bases
from motet.modeling import shape_of, target_layers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aggregation.methods.base import Bases, TrainedFactors
    from motet.recipe import Recipe

_ADAPTER = "default"


class SquareLinear(nn.Module):
    """``y = W0 x + s * B R A x`` with frozen W0, B, A; only ``core.weight`` = R (r, r) trains.

    R is an ``nn.Linear`` of its own so that per-example gradients see a plain linear layer.
    Singhal et al. 2025, https://arxiv.org/abs/2502.15436.
    """

    a: torch.Tensor
    b: torch.Tensor

    def __init__(
        self, base: nn.Module, b: torch.Tensor, a: torch.Tensor, core: torch.Tensor, scale: float
    ) -> None:
        super().__init__()
        self.base_layer = base
        self.scale = scale
        self.register_buffer("b", b)
        self.register_buffer("a", a)
        self.core = nn.Linear(core.shape[1], core.shape[0], bias=False)
        self.core.weight.data.copy_(core)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., n) -> (..., m)."""
        inner = self.core(nn.functional.linear(x, self.a))
        out: torch.Tensor = self.base_layer(x) + self.scale * nn.functional.linear(inner, self.b)
        return out


@dataclass(slots=True)
class Attached:
    """A model with an adapter on it. ``detach`` ends it; the object is not used afterwards."""

    model: nn.Module
    scale: float
    layers: dict[str, nn.Module]
    dense_names: tuple[str, ...]
    kept: dict[str, torch.Tensor] = field(default_factory=dict)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name -> every parameter that trains."""
        return {n: p for n, p in self.model.named_parameters() if p.requires_grad}


def trained_parameters(attached: Attached) -> dict[str, nn.Parameter]:
    """What trains, by the keys of ``aggregation.control.trained_values``."""
    named: dict[str, Any] = {}
    module: Any
    for layer, module in attached.layers.items():
        if isinstance(module, SquareLinear):
            named[f"core/{layer}"] = module.core.weight
        else:
            named[f"A/{layer}"] = module.lora_A[_ADAPTER].weight
            named[f"B/{layer}"] = module.lora_B[_ADAPTER].weight
    parameters = dict(attached.model.named_parameters())
    named |= {f"dense/{name}": parameters[name] for name in attached.dense_names}
    return {key: parameter for key, parameter in named.items() if parameter.requires_grad}


def fed_sb_bases(model: nn.Module, recipe: Recipe, rank: int) -> Bases:
    """The frozen bases of Fed-SB for every target layer: from the base weights' SVD, or from the seed. Data-free.

    Raises:
      ValueError: ``rank`` exceeds a layer's smaller side, or the basis is made of examples (``client.public_basis``)
        or in the run's first rounds (``aggregation.methods.sketched_sb``).
    """
    if recipe.method.basis in ("public_gradient", "gradient_sketch"):
        raise ValueError("a basis of public examples, or of a run's own rounds, is made elsewhere")
    layers = target_layers(model, recipe)
    if recipe.method.basis == "orthonormal":
        return orthonormal_bases({n: shape_of(m) for n, m in layers.items()}, rank, recipe.seed)
    return {
        name: svd_bases(_weight(layer).data.T if isinstance(layer, Conv1D) else _weight(layer).data, rank)
        for name, layer in layers.items()
    }


def attach(
    model: nn.Module,
    recipe: Recipe,
    state: AdapterState,
    *,
    bases: Bases | None = None,
    scale: float = 1.0,
    trains: TrainedFactors = "AB",
    heads_rest: bool = False,
) -> Attached:
    """Put ``state`` on ``model``; what it holds becomes trainable, all else stays frozen.

    Args:
      model: as ``motet.modeling.load_base`` made it, nothing attached.
      recipe: for targets and dropout.
      state: ``lora`` gets LoRA layers; ``cores`` get square layers; ``base_delta`` moves the frozen weight;
        ``dense`` replaces heads and trains them.
      bases: of Fed-SB; needed with ``cores``, unless ``state`` holds them: the pair of a layer that has a core.
      scale: PEFT scale of the square layers.
      trains: which of LoRA's factors; the other is frozen as it stands.
      heads_rest: keep heads frozen as ``state`` has them.

    Raises:
      ValueError: cores without bases, or more than one rank or scale.
      KeyError: a layer of ``state`` is not in the model.
    """
    attached = Attached(model=model, scale=scale, layers={}, dense_names=tuple(sorted(state.dense)))
    modules = dict(model.named_modules())
    with torch.no_grad():
        for layer, pair in state.base_delta.items():
            weight = _weight(modules[layer])
            attached.kept[f"{layer}.weight"] = weight.data.clone()
            delta = pair.scale * (pair.B @ pair.A)
            weight.data.add_(delta.T if isinstance(modules[layer], Conv1D) else delta)
    if state.lora and not state.cores:
        _attach_lora(attached, recipe, state.lora, trains)
    if state.cores:
        bases = bases or {layer: (pair.B, pair.A) for layer, pair in state.lora.items()}
        if not bases:
            raise ValueError("cores need bases")
        for layer, core in state.cores.items():
            square = SquareLinear(modules[layer], *bases[layer], core, scale)
            _replace(model, layer, square)
            attached.layers[layer] = square
    parameters = dict(model.named_parameters())
    for name in attached.dense_names:
        attached.kept[name] = parameters[name].data.clone()
        parameters[name].data.copy_(state.dense[name])
        parameters[name].requires_grad_(not heads_rest)
    return attached


def _attach_lora(
    attached: Attached, recipe: Recipe, lora: Mapping[str, FactorPair], trains: TrainedFactors
) -> None:
    (rank, scale), *others = {(p.lora_rank, p.scale) for p in lora.values()}
    if others:
        raise ValueError("all layers of one client share one rank and one scale")
    config = LoraConfig(
        r=rank,
        lora_alpha=scale * rank,
        lora_dropout=recipe.adapter.dropout,
        target_modules=sorted(lora),
        bias="none",
        fan_in_fan_out=any(isinstance(attached.model.get_submodule(layer), Conv1D) for layer in lora),
    )
    inject_adapter_in_model(config, attached.model, adapter_name=_ADAPTER)
    for layer, pair in lora.items():
        wrapped: Any = attached.model.get_submodule(layer)
        wrapped.lora_A[_ADAPTER].weight.data.copy_(pair.A)
        wrapped.lora_B[_ADAPTER].weight.data.copy_(pair.B)
        wrapped.lora_A[_ADAPTER].weight.requires_grad_("A" in trains)
        wrapped.lora_B[_ADAPTER].weight.requires_grad_("B" in trains)
        attached.layers[layer] = wrapped
    attached.scale = scale


def read_state(attached: Attached) -> AdapterState:
    """The trained values, copied: factors or cores, and heads."""
    lora, cores = {}, {}
    layer_module: Any
    for layer, layer_module in attached.layers.items():
        if isinstance(layer_module, SquareLinear):
            cores[layer] = layer_module.core.weight.detach().clone()
        else:
            lora[layer] = FactorPair(
                B=layer_module.lora_B[_ADAPTER].weight.detach().clone(),
                A=layer_module.lora_A[_ADAPTER].weight.detach().clone(),
                scale=attached.scale,
            )
    parameters = dict(attached.model.named_parameters())
    dense = {name: parameters[name].detach().clone() for name in attached.dense_names}
    return AdapterState(lora=lora, cores=cores, dense=dense)


def detach(attached: Attached) -> None:
    """Restore the base model bit for bit: layers, weights, heads, and what trains."""
    for layer, module in attached.layers.items():
        _replace(attached.model, layer, module.get_submodule("base_layer"))
    parameters = dict(attached.model.named_parameters())
    for name, value in attached.kept.items():
        parameters[name].data.copy_(value)
    attached.model.requires_grad_(False)
    attached.model.eval()
    for name in ("peft_config", "_hf_peft_config_loaded"):
        if name in attached.model.__dict__:
            delattr(attached.model, name)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent) if parent else model, leaf, module)


def _weight(module: nn.Module) -> nn.Parameter:
    weight = module.weight
    if not isinstance(weight, nn.Parameter):
        raise TypeError(f"{type(module).__name__} has no weight of its own")
    return weight
