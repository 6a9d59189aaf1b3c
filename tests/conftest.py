"""What all tests share."""

import gc
import os

from browser import browser_page, chromium
from hypothesis import HealthCheck, settings

__all__ = ["browser_page", "chromium"]  # fixtures

# A machine that is held up is no counterexample. Draws are those of each test's name; `make test-all` draws anew.
settings.register_profile(
    "motet",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=os.environ.get("MOTET_TEST_DRAWS") != "new",
)
settings.load_profile("motet")


def pytest_collection_finish():
    """Torch and transformers are a million objects that stay: every later collection leaves them out."""
    gc.collect()
    gc.freeze()
