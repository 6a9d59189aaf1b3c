"""When an owner's machine may be asked: windows of the day, days of the week, a time zone. Pure.

A window that ends before it begins goes over midnight and belongs to the day that it begins on: ``days = ["fri"]`` with
``hours = "22:00-06:00"`` ends on Saturday at six.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WINDOW = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)")
_DAY_MINUTES = 24 * 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Hours:
    """Open hours of one owner.

    Attributes:
      windows: first and last minute of each, counted from midnight; the last one is outside, and is over 1440 where
        the window goes over midnight.
      days: 0 is Monday; on which windows begin.
      zone: of both.
    """

    windows: tuple[tuple[int, int], ...]
    days: frozenset[int]
    zone: ZoneInfo

    def is_open(self, at: datetime.datetime) -> bool:
        """Whether a moment, which knows its zone, lies in a window."""
        local = at.astimezone(self.zone)
        minute = local.hour * 60 + local.minute
        today, yesterday = local.weekday(), (local.weekday() - 1) % 7
        for start, end in self.windows:
            if today in self.days and start <= minute < end:
                return True
            if yesterday in self.days and minute + _DAY_MINUTES < end:
                return True
        return False

    def opens_at(self, at: datetime.datetime) -> datetime.datetime:
        """The next moment at or after ``at`` that lies in a window, in the owner's zone."""
        if self.is_open(at):
            return at.astimezone(self.zone)
        local = at.astimezone(self.zone)
        found = []
        for offset in range(9):
            day = local.date() + datetime.timedelta(days=offset)
            if day.weekday() not in self.days:
                continue
            for start, _ in self.windows:
                begin = datetime.datetime.combine(
                    day, datetime.time(start // 60, start % 60), tzinfo=self.zone
                )
                if begin > local:
                    found.append(begin)
        return min(found)


def parse_hours(windows: tuple[str, ...], days: tuple[str, ...], time_zone: str) -> Hours:
    """Hours as a policy writes them.

    Args:
      windows: such as ``22:00-06:00``; none is the whole day.
      days: of ``DAYS``; none is every day.
      time_zone: an IANA name such as ``Europe/Berlin``.

    Raises:
      ValueError: a window, a day or the zone is none; the message says what is expected.
    """
    try:
        zone = ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"time_zone {time_zone!r} is not known; write one such as Europe/Berlin or UTC"
        ) from None
    numbers = []
    for day in days:
        if day not in DAYS:
            raise ValueError(f"days has {day!r}, which is not one of {', '.join(DAYS)}")
        numbers.append(DAYS.index(day))
    return Hours(
        windows=tuple(_window(w) for w in windows) or ((0, _DAY_MINUTES),),
        days=frozenset(numbers) or frozenset(range(7)),
        zone=zone,
    )


def _window(text: str) -> tuple[int, int]:
    match = _WINDOW.fullmatch(text)
    parts = [int(p) for p in match.groups()] if match else []
    if len(parts) != 4 or max(parts[0], parts[2]) > 24 or max(parts[1], parts[3]) > 59:
        raise ValueError(f"hours has {text!r}; write windows such as 22:00-06:00")
    start, end = parts[0] * 60 + parts[1], parts[2] * 60 + parts[3]
    if start >= _DAY_MINUTES or end > _DAY_MINUTES or start == end:
        raise ValueError(f"hours has {text!r}; write windows such as 22:00-06:00")
    return start, end if end > start else end + _DAY_MINUTES
