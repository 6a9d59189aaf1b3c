"""What was spent by (client, data set, unit), from data owners' own signed records.

Only an owner can say which charges were of one data set; the coordinator is not told (docs/adr/0009). So each figure
rests on the owner's word, and none is above what its owner spent in all: an owner that names one data set twice makes
both look cheaper, to the loss of its own people, and the figure by client is the one that is enforced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from motet.audit.receipts import EVERY_DATA_SET
from privacy.accounting import epsilon_pld, epsilon_rdp
from privacy.events import of_unit, units_of
from privacy.ledger.rules import charged_event

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from privacy.events import Unit
    from privacy.ledger.canonical import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSetSpending:
    """One budget of a data owner.

    Attributes:
      client_id: the owner.
      data_set: the owner's tag, which nobody else can make or test; ``every`` where no data set is named.
      unit: what a charge protects.
      charges: of the data set, those of every data set included.
      target_delta: of both epsilons.
      epsilon_pld: by privacy loss distributions.
      epsilon_rdp: by Renyi DP.
    """

    client_id: str
    data_set: str
    unit: Unit
    charges: int
    target_delta: float
    epsilon_pld: float
    epsilon_rdp: float


def spending_by_data_set(
    client_id: str, charges: Sequence[Mapping[str, Value]], target_delta: float
) -> list[DataSetSpending]:
    """Add up a countersignature.

    Args:
      client_id: who signed it.
      charges: of ``motet.audit.receipts.open_receipts``.
      target_delta: in (0, 1).

    Returns:
      one for each data set and unit, by name; a charge that can not be read costs infinity.
    """
    tags = [str(charge["data_set"]) for charge in charges]
    events = [charged_event(str(charge["event"])) for charge in charges]
    named = sorted(set(tags) - {EVERY_DATA_SET}) or sorted(set(tags))
    spending = []
    for tag in named:
        of_set = [e for e, told in zip(events, tags, strict=True) if told in (tag, EVERY_DATA_SET)]
        for unit in units_of(of_set):
            own = of_unit(of_set, unit)
            spending.append(
                DataSetSpending(
                    client_id=client_id,
                    data_set=tag,
                    unit=unit,
                    charges=len(own),
                    target_delta=target_delta,
                    epsilon_pld=epsilon_pld(own, target_delta),
                    epsilon_rdp=epsilon_rdp(own, target_delta),
                )
            )
    return spending
