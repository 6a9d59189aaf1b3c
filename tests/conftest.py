"""What all tests share."""

import gc

from browser import browser_page, chromium

__all__ = ["browser_page", "chromium"]  # fixtures


def pytest_collection_finish():
    """Torch and transformers are a million objects that stay: every later collection leaves them out."""
    gc.collect()
    gc.freeze()
