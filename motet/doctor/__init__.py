"""``motet doctor``: what stands in the way of a coordinator or a client, and the command that mends it.

``checks`` decides and is pure; ``machine``, ``coordinator_side`` and ``client_side`` look at the world. Nothing here is
changed, and torch is not imported.
"""

from motet.doctor.findings import Finding, Level

__all__ = ["Finding", "Level"]
