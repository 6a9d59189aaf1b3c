"""A coordinator's ledger with four clients."""

from __future__ import annotations

import pytest
from audit_houses import House, house_at


@pytest.fixture
def house(tmp_path) -> House:
    return house_at(tmp_path)
