"""DP-SGD (Abadi et al. 2016, https://arxiv.org/abs/1607.00133, algorithm 1) on top of Opacus, for one client.

Opacus finds the gradient of each example by hooks (``GradSampleHooks``) and drives the optimizer
(``DPOptimizer``). What the guarantee hangs on is overridden here at its extension points: which modules are
trusted, clipping that survives NaN, infinities and overflow, noise from a ``NoiseSource``, and division by
the expected batch size. Per-example gradients of low-rank factors are small, so materialising them in one
backward pass beats ghost clipping.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from opacus.grad_sample import GradSampleHooks
from opacus.optimizers import DPOptimizer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from privacy.errors import NonFiniteUpdateError, PerExampleGradientError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from privacy.noise import NoiseSource

# Relative slack of "the per-example gradients add up to the gradient of the batch".
_SUM_TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3}
_LOW_PRECISION_SUM_TOLERANCE = 0.1


class DpSgd:
    """DP-SGD for the trainable parameters of one model; the frozen ones may be anything.

    Formal guarantee: for fixed parameters, one ``step`` after any number of ``accumulate`` calls over one
    Poisson sample is a Poisson-subsampled Gaussian mechanism with this ``noise_multiplier`` under add/remove
    neighbours, because one example changes the sum before noise by at most ``clipping_norm`` in L2 over all
    trainable parameters together (up to float32 rounding, relative 1e-5). It holds if example i alone
    determines ``per_example_loss[i]``. With ``owners`` the same holds for a person in place of an example, where the
    Poisson sample is one of persons.

    Edge cases: an empty batch is a step with noise alone. An example with a non-finite loss or gradient
    contributes exactly zero, silently: neither an error nor a count leaves, both would tell of the data.

    Args:
      model: in training mode. Every trainable module must be of a type that Opacus has an exact sampler for
        (``nn.Linear``, as in LoRA factors, heads and Fed-SB's R, is what we test); parameters may not be
        tied.
      optimizer: over exactly the trainable parameters of ``model``.
      clipping_norm: C > 0, L2 norm of one example's whole gradient.
      noise_multiplier: sigma >= 0; the noise has standard deviation sigma * C. Zero: no privacy (tests only).
      expected_batch_size: divisor > 0 of the noised sum, a public constant, never the number of examples
        drawn.
      noise: where the noise comes from.

    Raises:
      UnsupportedModelError: a trainable part of the model has no exact sampler, batch normalisation mixes
        examples, or the optimizer holds other parameters.
      ValueError: a number is outside its range.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        clipping_norm: float,
        noise_multiplier: float,
        expected_batch_size: float,
        noise: NoiseSource,
    ) -> None:
        _check_numbers(clipping_norm, noise_multiplier, expected_batch_size)
        self._params = _check_model(model, optimizer)
        self._names = {id(param): name for name, param in model.named_parameters()}
        self._hooks = _PerExampleHooks(model, loss_reduction="sum")
        self._optimizer = _ClippingOptimizer(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=clipping_norm,
            expected_batch_size=expected_batch_size,
            noise=noise,
        )
        self._sum_was_checked = False
        self._owners_of_step: set[int] = set()
        self._closed = False

    def accumulate(self, per_example_loss: torch.Tensor, owners: Sequence[int] | None = None) -> None:
        """Backpropagate, clip each unit's gradient and add it to the sum of the current step.

        The unit is the example. With ``owners`` it is the person: the gradients of a person's examples are added up,
        and that sum is clipped to ``clipping_norm``. A person's whole contribution to a step is then bounded, however
        many examples there are, and the guarantee is for a person with all of them.

        May be called several times a step (micro-batches) with the same result as one call on the whole
        batch.

        Args:
          per_example_loss: shape (B,), on the graph of the forward pass just made; entry i depends on example
            i alone. Each is a term of a sum: do not divide by B. B = 0 adds nothing.
          owners: whose each example is, B integers >= 0; None where every example stands for itself. All examples
            that a person has in a step go into one call.

        Raises:
          PerExampleGradientError: some parameter got no per-example gradient, or they do not add up to the
            gradient of the batch (a weight was used around its module). Nothing of this batch enters the sum.
          ValueError: the loss is not one-dimensional; there are not B owners; or an owner had examples in an
            earlier call of this step already, which would be clipped apart.
        """
        self._check_open()
        if per_example_loss.ndim != 1:
            shape = tuple(per_example_loss.shape)
            raise ValueError(f"per_example_loss must have shape (B,), one loss for each example, not {shape}")
        try:
            persons = self._persons(per_example_loss, owners)
            if per_example_loss.numel() == 0:
                return
            for param in self._params:
                param.grad = None
            per_example_loss.sum().backward()  # type: ignore[no-untyped-call]
            self._check_gradients(per_example_loss.shape[0])
            if persons is not None:
                self._add_up(persons)
            self._optimizer.clip_and_accumulate()
        finally:
            self._hooks.forget()

    def step(self) -> None:
        """Add the noise once, divide by the expected batch size, step the optimizer, forget the sum.

        Works after no ``accumulate`` at all: an empty Poisson sample still takes its step and is still
        charged.

        Raises:
          NonFiniteUpdateError: the noised gradient is not finite; the parameters are as before.
        """
        self._check_open()
        try:
            self._optimizer.add_noise()
            self._optimizer.scale_grad()
            for param in self._params:
                if param.grad is None or not bool(torch.isfinite(param.grad).all()):
                    raise NonFiniteUpdateError(
                        "the noised gradient is not finite; lower clipping_norm or noise_multiplier, "
                        "or train in float32"
                    )
            self._optimizer.original_optimizer.step()
        finally:
            self._owners_of_step.clear()
            self._optimizer.zero_grad(set_to_none=True)

    def close(self) -> None:
        """Take every hook and attribute off the model, which is then as it came. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._hooks.forget()
        self._hooks.cleanup()
        for param in self._params:
            param.grad = None
            if hasattr(param, "summed_grad"):
                del param.summed_grad

    def _check_open(self) -> None:
        if self._closed:
            raise PerExampleGradientError("this DpSgd is closed; make a new one for the next round")

    def _persons(self, per_example_loss: torch.Tensor, owners: Sequence[int] | None) -> list[int] | None:
        """Position of each example's person among the persons of this call."""
        if owners is None:
            return None
        if len(owners) != len(per_example_loss):
            raise ValueError(f"{len(owners)} owners for {len(per_example_loss)} examples")
        again = self._owners_of_step.intersection(owners)
        if again:
            raise ValueError(
                "a person's examples of one step must go into one accumulate call, to be clipped together"
            )
        self._owners_of_step.update(owners)
        position = {owner: index for index, owner in enumerate(dict.fromkeys(owners))}
        return [position[owner] for owner in owners]

    def _add_up(self, persons: Sequence[int]) -> None:
        """Replace the gradient of each example by that of each person: the sum over the person's examples."""
        for param in self._params:
            gradient = _at_least_float32(param.grad_sample)  # type: ignore[attr-defined]
            whole = torch.zeros(max(persons) + 1, *param.shape, dtype=gradient.dtype, device=gradient.device)
            index = torch.tensor(persons, device=gradient.device)
            param.grad_sample = whole.index_add_(0, index, gradient)  # type: ignore[attr-defined]

    def _check_gradients(self, batch_size: int) -> None:
        """Refuse a batch whose per-example gradients are missing, misshapen or (at first) do not sum up."""
        for param in self._params:
            per_example = param.grad_sample  # type: ignore[attr-defined]
            if not isinstance(per_example, torch.Tensor) or per_example.shape != (batch_size, *param.shape):
                raise PerExampleGradientError(
                    f"no gradient for each example of {self._names[id(param)]}; it must take part in "
                    "every forward pass, in training mode, through its own module and with the batch first"
                )
        if not self._sum_was_checked:
            self._check_sum()

    def _check_sum(self) -> None:
        scale = max(float(gradient.abs().max()) for gradient in self._optimizer.grad_samples)
        if not math.isfinite(scale):
            return
        for param in self._params:
            per_example = param.grad_sample  # type: ignore[attr-defined]
            whole = torch.zeros_like(param) if param.grad is None else param.grad
            slack = _SUM_TOLERANCE.get(param.dtype, _LOW_PRECISION_SUM_TOLERANCE)
            if not torch.allclose(per_example.sum(0), whole, rtol=slack, atol=slack * max(scale, 1e-30)):
                raise PerExampleGradientError(
                    f"the gradients of the examples do not add up to that of {self._names[id(param)]}; "
                    "its weight is used outside its own module, so one example's share is not known"
                )
        self._sum_was_checked = True


class _PerExampleHooks(GradSampleHooks):
    """Opacus' hooks with two changes that save time and alter no value.

    ``nn.Linear`` uses a batched matmul; the backward hook hangs on the module's output, not on the module,
    which spares autograd the copies of a full backward hook (and its warning where the input is frozen).
    """

    GRAD_SAMPLERS: ClassVar[dict[type[nn.Module], Callable[..., Any]]] = dict(GradSampleHooks.GRAD_SAMPLERS)

    def add_hooks(
        self, *, loss_reduction: str = "mean", batch_first: bool = True, force_functorch: bool = False
    ) -> None:
        """Hook every module with a trainable parameter; all have an entry in ``GRAD_SAMPLERS`` by now."""
        del force_functorch
        if hasattr(self._module, "autograd_grad_sample_hooks"):
            raise UnsupportedModelError(
                "this model is already being trained with privacy; close that DpSgd first"
            )
        handles: list[Any] = []
        self._module.autograd_grad_sample_hooks = handles
        self.autograd_grad_sample_hooks = handles

        def after_forward(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if not (module.training and self.hooks_enabled and output.requires_grad):
                return
            self.capture_activations_hook(module, inputs, output)

            def after_backward(gradient: torch.Tensor) -> None:
                self.capture_backprops_hook(
                    module, inputs, (gradient,), loss_reduction=loss_reduction, batch_first=batch_first
                )

            output.register_hook(after_backward)  # type: ignore[no-untyped-call]

        self._hooked: list[tuple[nn.Module, list[Any]]] = []
        for module in self.iterate_submodules(self._module):
            handles.append(module.register_forward_hook(after_forward))
            self._hooked.append((module, [p for p in module.parameters(recurse=False) if p.requires_grad]))
        self.enable_hooks()

    def forget(self) -> None:
        """Drop everything kept from forward and backward passes, finished or not."""
        for module, params in self._hooked:
            # By the module's own dict: wrappers forward unknown attributes to what they wrap.
            vars(module).pop("activations", None)
            vars(module).pop("max_batch_len", None)
            for param in params:
                param.grad_sample = None
                param._forward_counter = 0  # noqa: SLF001 - Opacus keeps its count there
                vars(param).pop("_current_grad_sample", None)


def _linear_gradients(
    layer: nn.Linear, activations: list[torch.Tensor], backprops: torch.Tensor
) -> dict[torch.Tensor, torch.Tensor]:
    """Gradient of each example of ``y = x W^T + b``: ``dW_i = g_i^T x_i`` summed over positions.

    Args:
      layer: the module, weight (out, in).
      activations: one tensor (B, ..., in).
      backprops: (B, ..., out), gradient of the summed loss by the output.

    Returns:
      (B, out, in) for the weight and (B, out) for the bias, where they are trainable.
    """
    batch = backprops.shape[0]
    inputs = activations[0].to(backprops.dtype).reshape(batch, -1, layer.in_features)
    outputs = backprops.reshape(batch, -1, layer.out_features)
    gradients: dict[torch.Tensor, torch.Tensor] = {}
    if layer.weight.requires_grad:
        gradients[layer.weight] = torch.bmm(outputs.transpose(1, 2), inputs)
    bias: torch.Tensor | None = layer.bias
    if bias is not None and bias.requires_grad:
        gradients[bias] = outputs.sum(1)
    return gradients


_PerExampleHooks.GRAD_SAMPLERS[nn.Linear] = _linear_gradients


class _ClippingOptimizer(DPOptimizer):
    """Opacus' optimizer with our clipping, noise and divisor; ``param.summed_grad`` holds the sum."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        noise_multiplier: float,
        max_grad_norm: float,
        expected_batch_size: float,
        noise: NoiseSource,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_batch_size=expected_batch_size,
            loss_reduction="mean",
        )
        self._noise = noise

    def clip_and_accumulate(self) -> None:
        """Scale example i by min(1, C / (norm_i + 1e-6)); one that is not finite contributes zero.

        Norms and sums are float32 or wider. A finite gradient whose squared norm overflows counts as
        non-finite.
        """
        gradients = [_at_least_float32(gradient).flatten(1) for gradient in self.grad_samples]
        device = gradients[0].device
        squares = [torch.linalg.vector_norm(gradient, dim=1).to(device) for gradient in gradients]
        norms = torch.linalg.vector_norm(torch.stack(squares, dim=1), dim=1)
        factors = (self.max_grad_norm / (norms + 1e-6)).clamp(max=1.0)
        finite = torch.isfinite(norms)
        if not bool(finite.all()):
            factors = torch.where(finite, factors, torch.zeros_like(factors))
            # Zero times infinity is NaN: those rows are emptied as well.
            gradients = [
                torch.where(finite.to(gradient.device)[:, None], gradient, torch.zeros_like(gradient))
                for gradient in gradients
            ]
        for param, gradient in zip(self.params, gradients, strict=True):
            clipped = (factors.to(gradient) @ gradient).view(param.shape)
            param.summed_grad = clipped if param.summed_grad is None else param.summed_grad + clipped
            param.grad_sample = None

    def add_noise(self) -> None:
        """Put ``sum + N(0, (sigma C)^2)`` into ``param.grad``; without any example, the noise alone."""
        std = self.noise_multiplier * self.max_grad_norm
        for param in self.params:
            draw = self._noise.normal(tuple(param.shape), std).to(param.device)
            total = draw if param.summed_grad is None else param.summed_grad + draw
            param.summed_grad = None
            param.grad = total.to(param.dtype)

    def scale_grad(self) -> None:
        """Divide by the expected batch size: a public constant, whatever was drawn."""
        for param in self.params:
            param.grad /= self.expected_batch_size


def _at_least_float32(gradient: torch.Tensor) -> torch.Tensor:
    return gradient if gradient.dtype in (torch.float32, torch.float64) else gradient.float()


def _check_numbers(clipping_norm: float, noise_multiplier: float, expected_batch_size: float) -> None:
    if not (math.isfinite(clipping_norm) and clipping_norm > 0):
        raise ValueError(f"clipping_norm must be finite and > 0, not {clipping_norm!r}")
    if not (math.isfinite(noise_multiplier) and noise_multiplier >= 0):
        raise ValueError(f"noise_multiplier must be finite and >= 0, not {noise_multiplier!r}")
    if not (math.isfinite(expected_batch_size) and expected_batch_size > 0):
        raise ValueError(f"expected_batch_size must be finite and > 0, not {expected_batch_size!r}")


def _check_model(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """Return the trainable parameters, or refuse a model whose per-example gradients may be inexact."""
    params: list[nn.Parameter] = []
    seen: dict[int, str] = {}
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            raise UnsupportedModelError(f"{name}: batch normalisation mixes examples; use eval mode")
        for short, param in module.named_parameters(recurse=False):
            if not param.requires_grad:
                continue
            where = f"{name}.{short}" if name else short
            if type(module) not in _PerExampleHooks.GRAD_SAMPLERS:
                raise UnsupportedModelError(
                    f"{where} is trainable but {type(module).__name__} has no per-example gradient; "
                    "freeze it or train nn.Linear modules (LoRA factors, heads)"
                )
            if id(param) in seen:
                raise UnsupportedModelError(f"{where} is tied to {seen[id(param)]}; untie or freeze it")
            seen[id(param)] = where
            params.append(param)
    if not params:
        raise UnsupportedModelError("the model has no trainable parameter; attach an adapter or a head first")
    held = {id(p) for group in optimizer.param_groups for p in group["params"] if p.requires_grad}
    if held != set(seen):
        missing = sorted(where for key, where in seen.items() if key not in held)
        raise UnsupportedModelError(
            f"the optimizer must hold exactly the trainable parameters; it lacks {missing or 'none'} "
            f"and holds {len(held - set(seen))} others"
        )
    return params
