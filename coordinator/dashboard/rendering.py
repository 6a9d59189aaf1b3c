"""Pages as HTML: Jinja with escaping always on, and the words for times, sizes and states."""

from __future__ import annotations

import datetime
import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from coordinator.dashboard.charts.scale import NONE, epsilon, number, percent, seconds, size

HERE = Path(__file__).parent
STATIC = HERE / "static"
TONES = {
    "RUNNING": "live",
    "FINISHED": "good",
    "CLOSED": "good",
    "FAILED": "bad",
    "ABORTED": "bad",
    "CANCELLED": "quiet",
    "QUEUED": "wait",
    "PROPOSED": "wait",
    "HELD": "wait",
    "PLANNED": "live",
}


def moment(at: float | None) -> Markup:
    """A time in UTC, which the browser turns into the reader's own and a span; a dash for none."""
    if not at:
        return escape(NONE)
    when = datetime.datetime.fromtimestamp(at, datetime.UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        when.strftime("%Y-%m-%dT%H:%M:%SZ"), when.strftime("%d %b %Y %H:%M UTC")
    )


def pill(state: str) -> Markup:
    """A state as a word in its colour."""
    return Markup('<span class="pill {}">{}</span>').format(TONES.get(state, "quiet"), state.lower())


def short(text: str, most: int = 12) -> str:
    """The beginning of a hash."""
    return text if len(text) <= most else text[:most]


@lru_cache(maxsize=1)
def environment() -> Environment:
    """The templates; every value is escaped, and a name that is not there is an error."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(moment=moment, pill=pill, size=size, seconds=seconds, number=number, short=short)
    made.filters.update(epsilon=epsilon, percent=percent)
    made.globals["asset"] = asset
    return made


def render(template: str, **values: Any) -> str:  # noqa: ANN401 - what the template shows
    """A page."""
    return environment().get_template(template).render(**values)


@lru_cache(maxsize=32)
def asset(name: str) -> str:
    """Address of a static file; it changes with the file, so that a browser may keep it."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
    return f"/static/{name}?v={digest}"
