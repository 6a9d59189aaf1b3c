"""DP-SGD (Abadi et al. 2016, https://arxiv.org/abs/1607.00133, algorithm 1) on top of Opacus, for one client.

Opacus drives the optimizer (``DPOptimizer``) and names the place where gradients of examples come from
(``AbstractGradSampleHooks``, see ``privacy.per_example``). What the guarantee hangs on is overridden at these extension
points: which modules are trusted, gradients in one backward pass, clipping that survives NaN, infinities and overflow,
noise from a ``NoiseSource``, and division by the expected batch size.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from opacus.optimizers import DPOptimizer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from privacy.errors import NonFiniteUpdateError, PerExampleGradientError, UnsupportedModelError
from privacy.per_example import OneBackwardHooks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from privacy.noise import NoiseSource
    from privacy.per_example import Shares


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
      model: every trainable module must be an ``nn.Linear`` (LoRA factors, heads, Fed-SB's R); parameters may not
        be tied.
      optimizer: over exactly the trainable parameters of ``model``.
      clipping_norm: C > 0, L2 norm of one example's whole gradient.
      noise_multiplier: sigma >= 0; the noise has standard deviation sigma * C. Zero: no privacy (tests only).
      expected_batch_size: divisor > 0 of the noised sum, a public constant, never the number of examples
        drawn.
      noise: where the noise comes from.

    Raises:
      UnsupportedModelError: a trainable part of the model has no exact share of an example, batch normalisation mixes
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
        self._normalisations = [(n, m) for n, m in model.named_modules() if isinstance(m, _BatchNorm)]
        self._check_normalisations()
        self._hooks = OneBackwardHooks(model)
        try:
            _check_optimizer(optimizer, self._hooks.parameters)
        except UnsupportedModelError:
            self._hooks.cleanup()
            raise
        self._params = list(self._hooks.parameters.values())
        self._optimizer = _ClippingOptimizer(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=clipping_norm,
            expected_batch_size=expected_batch_size,
            noise=noise,
        )
        self._examples_were_apart = False
        self._owners_of_step: set[int] = set()
        self._closed = False

    def accumulate(self, per_example_loss: torch.Tensor, owners: Sequence[int] | None = None) -> None:
        """Backpropagate, clip each unit's gradient and add it to the sum of the current step.

        The unit is the example. With ``owners`` it is the person: the gradients of a person's examples are added up,
        and that sum is clipped to ``clipping_norm``. A person's whole contribution to a step is then bounded, however
        many examples there are, and the guarantee is for a person with all of them.

        May be called several times a step (micro-batches, as memory allows) with the same result as one call on the
        whole batch. The first batch of two or more is also backpropagated for its first loss alone, to see that no
        other example takes part in it.

        Args:
          per_example_loss: shape (B,), on the graph of the forward pass just made; entry i depends on example
            i alone. Each is a term of a sum: do not divide by B. B = 0 adds nothing.
          owners: whose each example is, B integers >= 0; None where every example stands for itself. All examples
            that a person has in a step go into one call.

        Raises:
          PerExampleGradientError: some parameter got no per-example gradient, its weight was used around its module,
            or the loss of one example reaches another. Nothing of this batch enters the sum.
          ValueError: the loss is not one-dimensional; there are not B owners; or an owner had examples in an
            earlier call of this step already, which would be clipped apart.
        """
        self._check_open()
        if per_example_loss.ndim != 1:
            shape = tuple(per_example_loss.shape)
            raise ValueError(f"per_example_loss must have shape (B,), one loss for each example, not {shape}")
        self._check_normalisations()
        persons = self._persons(per_example_loss, owners)
        self._hooks.forget()
        try:
            if per_example_loss.numel() == 0:
                return
            if not self._examples_were_apart and per_example_loss.numel() > 1:
                self._check_examples_apart(per_example_loss)
            per_example_loss.sum().backward()  # type: ignore[no-untyped-call]
            shares = self._hooks.shares(per_example_loss.numel())
            if persons is not None:
                shares = {param: share.added_up(persons) for param, share in shares.items()}
            self._optimizer.clip_and_add(shares)
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
                if param.grad is None or not math.isfinite(float(param.grad.sum(dtype=torch.float64))):
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
            if hasattr(param, "summed_grad"):
                del param.summed_grad

    def _check_open(self) -> None:
        if self._closed:
            raise PerExampleGradientError("this DpSgd is closed; make a new one for the next round")

    def _persons(self, per_example_loss: torch.Tensor, owners: Sequence[int] | None) -> torch.Tensor | None:
        """Position of each example's person among the persons of this call, (B,) int64."""
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
        return torch.tensor([position[owner] for owner in owners], dtype=torch.int64)

    def _check_normalisations(self) -> None:
        for name, module in self._normalisations:
            if module.training:
                raise UnsupportedModelError(f"{name}: batch normalisation mixes examples; use eval mode")

    def _check_examples_apart(self, per_example_loss: torch.Tensor) -> None:
        """Refuse a loss of the first example that has a gradient at another: they can not be clipped apart then."""
        per_example_loss[0].backward(retain_graph=True)  # type: ignore[no-untyped-call]
        norms = torch.stack(
            [
                shares.norms().double().cpu()
                for shares in self._hooks.shares(per_example_loss.numel()).values()
            ]
        )
        self._hooks.forget()
        if not bool(torch.isfinite(norms).all()):
            return  # an infinity of another example shows here as well; a later batch will tell
        if bool(norms[:, 1:].any()):
            raise PerExampleGradientError(
                "the loss of one example depends on another, or the batch does not come first in every layer; "
                "use a loss without in-batch negatives, balance terms or means over the batch"
            )
        self._examples_were_apart = True


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

    @torch.no_grad()
    def clip_and_add(self, shares: Mapping[nn.Parameter, Shares]) -> None:
        """Scale example i by min(1, C / (norm_i + 1e-6)) and add it; one that is not finite contributes zero.

        Norms and products are float32 or wider, the sum is float64. A finite gradient whose squared norm overflows
        counts as non-finite.

        Args:
          shares: of each of ``params``.
        """
        parts = [shares[param] for param in self.params]
        each = [part.norms() for part in parts]
        norms = torch.linalg.vector_norm(torch.stack([norm.to(each[0]) for norm in each], dim=1), dim=1)
        factors = (self.max_grad_norm / (norms + 1e-6)).clamp(max=1.0)
        finite = torch.isfinite(norms)
        if not bool(finite.all()):
            factors = torch.where(finite, factors, torch.zeros_like(factors))
            parts = [part.without(~finite) for part in parts]
        for param, part in zip(self.params, parts, strict=True):
            clipped = part.weighted_sum(factors.to(param.device)).double()
            param.summed_grad = clipped if param.summed_grad is None else param.summed_grad.add_(clipped)

    def add_noise(self) -> None:
        """Put ``sum + N(0, (sigma C)^2)`` into ``param.grad``; without any example, the noise alone."""
        std = self.noise_multiplier * self.max_grad_norm
        sizes = [param.numel() for param in self.params]
        draws = torch.split(self._noise.normal((sum(sizes),), std), sizes)
        for param, draw in zip(self.params, draws, strict=True):
            total = draw.view(param.shape).to(param.device)
            if param.summed_grad is not None:
                total = param.summed_grad.add_(total)
            param.summed_grad = None
            param.grad = total.to(param.dtype)

    def scale_grad(self) -> None:
        """Divide by the expected batch size: a public constant, whatever was drawn."""
        for param in self.params:
            param.grad /= self.expected_batch_size


def _check_numbers(clipping_norm: float, noise_multiplier: float, expected_batch_size: float) -> None:
    if not (math.isfinite(clipping_norm) and clipping_norm > 0):
        raise ValueError(f"clipping_norm must be finite and > 0, not {clipping_norm!r}")
    if not (math.isfinite(noise_multiplier) and noise_multiplier >= 0):
        raise ValueError(f"noise_multiplier must be finite and >= 0, not {noise_multiplier!r}")
    if not (math.isfinite(expected_batch_size) and expected_batch_size > 0):
        raise ValueError(f"expected_batch_size must be finite and > 0, not {expected_batch_size!r}")


def _check_optimizer(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> None:
    """The optimizer holds what trains, all of it and nothing else."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"] if p.requires_grad}
    trained = {id(parameter): name for name, parameter in parameters.items()}
    if held != set(trained):
        missing = sorted(name for key, name in trained.items() if key not in held)
        raise UnsupportedModelError(
            f"the optimizer must hold exactly the trainable parameters; it lacks {missing or 'none'} "
            f"and holds {len(held - set(trained))} others"
        )
