"""How many files this process and its children may have open: every connection is one, also of strangers."""

from __future__ import annotations

import logging
import resource

log = logging.getLogger(__name__)
WANTED = 65_536


def allow_many_open_files(wanted: int = WANTED) -> int:
    """Raise the soft limit to ``wanted``, or to the hard limit where that is lower; it is never lowered.

    Many systems give 1,024, which the connections of a large fleet, or a few hundred of a stranger's, use up.

    Returns:
      the limit that holds now.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if most <= soft:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (OSError, ValueError) as e:
        log.warning("this process may have %d open files and no more: %s", soft, e)
        return soft
    return most
