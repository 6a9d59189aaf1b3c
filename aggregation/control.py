"""Control variates (SCAFFOLD): the mean of the clients' gradients, kept beside the global state.

Karimireddy et al. 2020, https://arxiv.org/abs/1910.06378, algorithm 1, option II. With x the round's start, y_i what
client i ended with after K steps of rate eta, c the mean of all clients' variates and c_i its own:

    a step at the client:  y <- y - eta (g(y) - c_i + c)
    after the round:       c_i+ = c_i - c + (x - y_i) / (K eta)
    at the coordinator:    c+ = c + |S| / N * mean over S of (c_i+ - c_i)

``c_i+ - c_i`` is made of x, y_i and c alone, all of which the coordinator has. So nothing is uploaded for it, and
nothing is released that was not: under DP-SGD y_i is noised, and a variate is post-processing of noised values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aggregation.methods.base import RunningMean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import torch

    from aggregation.adapter import AdapterState, ClientUpdate


def trained_values(state: AdapterState) -> dict[str, torch.Tensor]:
    """What a client's update consists of, by ``A/<layer>``, ``B/<layer>``, ``core/<layer>``, ``dense/<name>``."""
    values = {}
    for layer, pair in state.lora.items():
        values[f"A/{layer}"], values[f"B/{layer}"] = pair.A, pair.B
    values |= {f"{half.side}/{layer}": half.value for layer, half in state.halves.items()}
    values |= {f"core/{layer}": core for layer, core in state.cores.items()}
    return values | {f"dense/{name}": value for name, value in state.dense.items()}


def shifted(
    control: Mapping[str, torch.Tensor],
    mean_control: Mapping[str, torch.Tensor],
    start: Mapping[str, torch.Tensor],
    end: Mapping[str, torch.Tensor],
    *,
    num_steps: int,
    rates: Mapping[str, float],
) -> dict[str, torch.Tensor]:
    """``control - mean_control + (start - end) / (K eta)``, of option II.

    Args:
      control: a client's c_i, or the mean c itself; a missing key counts as zero.
      mean_control: c; a missing key counts as zero.
      start: x by key.
      end: y by key, of the same keys and shapes.
      num_steps: K, at least 1.
      rates: eta by key, positive.

    Returns:
      by key of ``end``, float64.

    Raises:
      KeyError: ``start`` or ``rates`` lacks a key of ``end``.
      ValueError: shapes differ.
    """
    made = {}
    for key, value in end.items():
        moved = (start[key].double() - value.double()) / (num_steps * rates[key])
        for sign, part in ((1.0, control.get(key)), (-1.0, mean_control.get(key))):
            if part is not None:
                if part.shape != moved.shape:
                    raise ValueError(f"{key}: a variate is {tuple(part.shape)}, not {tuple(moved.shape)}")
                moved = moved + sign * part.double()
        made[key] = moved
    return made


class ControlTally:
    """Means of what clients ended with, gathered while their updates pass by; one sum is resident."""

    def __init__(self) -> None:
        self._mean = RunningMean({})

    def watch(self, updates: Iterable[ClientUpdate]) -> Iterator[ClientUpdate]:
        """Pass updates on."""
        for update in updates:
            self._mean.add(trained_values(update.state), 1.0)
            yield update

    def next_control(
        self,
        before: Mapping[str, torch.Tensor],
        start: Mapping[str, torch.Tensor],
        *,
        num_steps: int,
        rates: Mapping[str, float],
        num_clients: int,
    ) -> dict[str, torch.Tensor]:
        """The mean variate after the round: ``c + |S| / N (mean_S (x - y_i) / (K eta) - c)``.

        Args:
          before: c; empty in the first round.
          start: x.
          num_steps: K.
          rates: eta by key.
          num_clients: N, of the whole federation; at least as many as have passed by.

        Returns:
          by key, float32.

        Raises:
          ValueError: more clients have passed by than there are, or none.
        """
        if not 0 < self._mean.count <= num_clients:
            raise ValueError(f"{self._mean.count} of {num_clients} clients can not move a mean variate")
        share = self._mean.count / num_clients
        moved = shifted({}, before, start, self._mean.mean_double(), num_steps=num_steps, rates=rates)
        return {
            key: (change * share + (before[key].double() if key in before else 0.0)).float()
            for key, change in moved.items()
        }
