"""The gradient of each example, for every trained ``nn.Linear``, in the one backward pass of an ordinary step.

This is Opacus' extension point for it (``AbstractGradSampleHooks``), with another way to get there than its hooks.
While attached, a trained linear layer computes what it always does, but its backward pass answers for each example
where it would have added all of them up: the batched product ``g_i^T x_i`` takes the place of the weight's own
gradient, at the same number of operations, and no second pass is needed. For LoRA that is ``(s B^T g)^T x`` for A and
``g^T (s A x)`` for B: a few thousand numbers an example. For Fed-SB it is r x r.

A layer that sees one position an example (a head after pooling) keeps ``g_i`` and ``x_i`` themselves: their product is
never formed. With more positions it is always formed, although norms could be had without it (ghost clipping, Li et
al. 2022, https://arxiv.org/abs/2110.05679): then a norm and the gradient that it clips would be rounded apart, and an
example whose positions cancel could count for more than its norm says. Here what is added is what was measured.
"""

from __future__ import annotations

from typing import Any

import torch
from opacus.grad_sample.gsm_base import AbstractGradSampleHooks
from torch import nn
from torch.autograd.function import once_differentiable

from privacy.errors import PerExampleGradientError, UnsupportedModelError


class DenseShares:
    """Each example's gradient of one parameter, as it is.

    Norms are taken at once: what was just written is still in the processor's cache, and is gone when they are asked.
    """

    def __init__(self, gradients: torch.Tensor) -> None:
        self._gradients = gradients
        self._norms: torch.Tensor = torch.linalg.vector_norm(gradients.flatten(1), dim=1)

    @property
    def batch_size(self) -> int:
        """B."""
        return self._gradients.shape[0]

    def dense(self) -> torch.Tensor:
        """(B, *shape)."""
        return self._gradients

    def norms(self) -> torch.Tensor:
        """(B,) L2 norms; not finite where a gradient, or its square, is not."""
        return self._norms

    def without(self, lost: torch.Tensor) -> DenseShares:
        """The same with the rows emptied where ``lost`` (B,) is True: zero times infinity would be NaN."""
        return DenseShares(_emptied(self._gradients, lost))

    def added_up(self, persons: torch.Tensor) -> DenseShares:
        """Shares of each person: the sums over its examples; ``persons`` (B,) holds 0, 1, ... up to the last one."""
        return _by_person(self._gradients, persons)

    def weighted_sum(self, factors: torch.Tensor) -> torch.Tensor:
        """Sum over examples of factor times gradient; factors (B,)."""
        flat = self._gradients.flatten(1)
        return torch.mv(flat.T, factors.to(flat)).view(self._gradients.shape[1:])


class OuterShares:
    """Each example's gradient of one weight, as the product ``g_i x_i^T`` of two vectors that is never formed."""

    def __init__(self, outputs: torch.Tensor, inputs: torch.Tensor) -> None:
        self._outputs, self._inputs = outputs, inputs

    @property
    def batch_size(self) -> int:
        """B."""
        return self._outputs.shape[0]

    def dense(self) -> torch.Tensor:
        """(B, out, in)."""
        return self._outputs[:, :, None] * self._inputs[:, None, :]

    def norms(self) -> torch.Tensor:
        """(B,) L2 norms in float64: a factor alone may leave the range of float32 where the product does not."""
        norms: torch.Tensor = torch.linalg.vector_norm(self._outputs.double(), dim=1)
        norms *= torch.linalg.vector_norm(self._inputs.double(), dim=1)
        return norms

    def without(self, lost: torch.Tensor) -> OuterShares:
        """As ``DenseShares.without``."""
        return OuterShares(_emptied(self._outputs, lost), _emptied(self._inputs, lost))

    def added_up(self, persons: torch.Tensor) -> DenseShares:
        """As ``DenseShares.added_up``."""
        return _by_person(self.dense(), persons)

    def weighted_sum(self, factors: torch.Tensor) -> torch.Tensor:
        """As ``DenseShares.weighted_sum``."""
        scaled = self._outputs * factors.to(self._outputs)[:, None]
        return scaled.transpose(0, 1) @ self._inputs


Shares = DenseShares | OuterShares


class OneBackwardHooks(AbstractGradSampleHooks):  # type: ignore[misc]
    """Records what each example gives to the gradient of every trained ``nn.Linear`` of a model.

    Other kinds of layers that train, and linear ones whose ``forward`` is not torch's own, are refused. No weight gets
    a ``grad`` by way of its layer while this is attached: one that has it was used around its layer.

    Args:
      model: its trained layers get another ``forward``, with the same results, until ``cleanup``.

    Raises:
      UnsupportedModelError: a trainable parameter lies elsewhere or in two places, or a layer is not plain.
    """

    def __init__(self, model: nn.Module) -> None:
        self._recorders = {name: _Recorder(layer) for name, layer in _trained_layers(model).items()}
        self.parameters: dict[str, nn.Parameter] = {
            f"{name}.{short}" if name else short: parameter
            for name, recorder in self._recorders.items()
            for short, parameter in recorder.layer.named_parameters(recurse=False)
            if parameter.requires_grad
        }
        super().__init__(model, batch_first=True, loss_reduction="sum")
        for recorder in self._recorders.values():
            recorder.layer.forward = recorder.forward  # type: ignore[method-assign]

    def shares(self, batch_size: int) -> dict[nn.Parameter, Shares]:
        """What the backward passes since the last ``forget`` gave, for each of ``parameters``.

        Args:
          batch_size: number of losses.

        Raises:
          PerExampleGradientError: a parameter took no part, has another number of examples, or was used around its
            layer, so that the share of a single example is not known.
        """
        found: dict[int, Shares] = {}
        for recorder in self._recorders.values():
            found.update(recorder.found())
        for name, parameter in self.parameters.items():
            shares = found.get(id(parameter))
            if shares is None or shares.batch_size != batch_size:
                raise PerExampleGradientError(
                    f"no gradient for each example of {name}; it must take part in every forward pass, through its "
                    "own layer and with the batch first"
                )
            if parameter.grad is not None:
                raise PerExampleGradientError(
                    f"{name} is used around its own layer as well, so one example's share of its gradient is not known"
                )
        return {parameter: found[id(parameter)] for parameter in self.parameters.values()}

    def forget(self) -> None:
        """Drop what backward passes left, finished or not."""
        for recorder in self._recorders.values():
            recorder.forget()
        for parameter in self.parameters.values():
            parameter.grad = None

    def remove_hooks(self) -> None:
        """Give every layer its own forward back."""
        for recorder in self._recorders.values():
            vars(recorder.layer).pop("forward", None)


class _Recorder:
    """One layer's forward pass, and what its backward passes told of each example."""

    def __init__(self, layer: nn.Linear) -> None:
        self.layer = layer
        self._weight: Shares | None = None
        self._bias: Shares | None = None
        self._room: torch.Tensor | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name
        """As ``nn.Linear.forward``."""
        layer = self.layer
        if not torch.is_grad_enabled():
            return nn.functional.linear(input, layer.weight, layer.bias)
        out: torch.Tensor = _RecordedLinear.apply(input, layer.weight, layer.bias, self)  # type: ignore[no-untyped-call]
        return out

    def record(self, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        """Add one use of the layer.

        Args:
          inputs: (B, ..., in).
          outputs: (B, ..., out), gradient of the summed loss by the layer's output.
        """
        if inputs.ndim < 2:
            raise PerExampleGradientError(
                "a trained layer saw an input without a batch; the batch comes first"
            )
        x, g = _with_positions(inputs), _with_positions(outputs)
        if self.layer.weight.requires_grad:
            one_position = x.shape[1] == 1
            new = OuterShares(g[:, 0], x[:, 0]) if one_position else DenseShares(self._products(g, x))
            self._weight = _together(self._weight, new)
        bias: nn.Parameter | None = self.layer.bias
        if bias is not None and bias.requires_grad:
            self._bias = _together(self._bias, DenseShares(g.sum(1)))

    def _products(self, g: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """``g_i^T x_i``, (B, out, in), in memory that is used again at every step: fresh pages cost more than the sums.

        What an earlier pass left there is gone with ``forget``; a second use of the layer in one pass gets its own.
        """
        shape = (len(g), g.shape[2], x.shape[2])
        if self._weight is not None:
            return torch.bmm(g.mT, x)
        room = self._room
        if room is None or len(room) < shape[0] or (room.dtype, room.device) != (x.dtype, x.device):
            room = self._room = x.new_empty(shape)
        return torch.bmm(g.mT, x, out=room[: shape[0]])

    def found(self) -> dict[int, Shares]:
        """Shares by ``id`` of the parameter, for those that a backward pass came by."""
        pairs = ((self.layer.weight, self._weight), (self.layer.bias, self._bias))
        return {id(parameter): shares for parameter, shares in pairs if shares is not None}

    def forget(self) -> None:
        """Back to the start."""
        self._weight = self._bias = None


class _RecordedLinear(torch.autograd.Function):
    """``y = x W^T + b`` whose backward pass gives x its gradient, and hands (x, g) to a recorder instead of W and b."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's own type is not public
        inputs: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        recorder: _Recorder,
    ) -> torch.Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.recorder = recorder
        return nn.functional.linear(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:  # noqa: ANN401
        inputs, weight = ctx.saved_tensors
        ctx.recorder.record(inputs, gradient)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        # Under autocast the output's dtype is not that of input and weight.
        return (gradient @ weight.to(gradient.dtype)).to(inputs.dtype), None, None, None


def _trained_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Name -> layer with a trainable parameter; refuses what has no exact share of an example."""
    layers: dict[str, nn.Linear] = {}
    seen: dict[int, str] = {}
    for name, module in model.named_modules():
        for short, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            where = f"{name}.{short}" if name else short
            # A subclass may compute something else; weight normalisation leaves other names.
            if type(module) is not nn.Linear or short not in ("weight", "bias"):
                raise UnsupportedModelError(
                    f"{where} is trainable but {type(module).__name__} has no per-example gradient; "
                    "freeze it or train nn.Linear modules (LoRA factors, heads)"
                )
            if "forward" in vars(module):
                raise UnsupportedModelError(
                    f"{name or 'the model'}: its forward pass is not its own; if it is being trained with privacy, "
                    "close that DpSgd first"
                )
            if id(parameter) in seen:
                raise UnsupportedModelError(f"{where} is tied to {seen[id(parameter)]}; untie or freeze it")
            seen[id(parameter)] = where
            layers[name] = module
    if not layers:
        raise UnsupportedModelError("the model has no trainable parameter; attach an adapter or a head first")
    return layers


def _together(first: Shares | None, second: Shares) -> Shares:
    """Shares of a layer that was used again: an example's gradients add up before anything is clipped."""
    if first is None:
        return second
    if first.batch_size != second.batch_size:
        raise PerExampleGradientError(
            "a trained layer saw batches of two sizes in one pass; the batch comes first"
        )
    return DenseShares(first.dense() + second.dense())


def _by_person(gradients: torch.Tensor, persons: torch.Tensor) -> DenseShares:
    whole = gradients.new_zeros(int(persons.max()) + 1, *gradients.shape[1:])
    return DenseShares(whole.index_add_(0, persons.to(gradients.device), gradients))


def _with_positions(tensor: torch.Tensor) -> torch.Tensor:
    """(B, ..., n) as (B, T, n), float32 or wider."""
    wide = tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
    return wide if wide.ndim == 3 else wide.reshape(tensor.shape[0], -1, tensor.shape[-1])


def _emptied(rows: torch.Tensor, lost: torch.Tensor) -> torch.Tensor:
    """``rows`` (B, ...) with zeros where ``lost`` (B,)."""
    where = lost.to(rows.device).reshape(-1, *[1] * (rows.ndim - 1))
    return torch.where(where, torch.zeros_like(rows), rows)
