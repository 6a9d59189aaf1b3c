"""What all tests share."""

import gc


def pytest_collection_finish():
    """Torch and transformers are a million objects that stay: every later collection leaves them out."""
    gc.collect()
    gc.freeze()
