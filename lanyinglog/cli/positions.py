"""Where a subscription starts, as people write it: a place in the log, or a time.

================================  ===================================================================
``first``                         the oldest message
``new``                           the first one published from now on
``1042``                          the message with that seq
``2026-05-01T12:00:00Z``          the first at or after that time; without a zone it is local time
``-90s`` ``-5m`` ``-2h`` ``-1d``  the first at or after that long ago (also ``ms``)
``1790000000000000000`` or ``ns``  nanoseconds since the epoch: 17 digits or more, or the suffix ``ns``
================================  ===================================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from lanyinglog.errors import ConfigError

SEQ_MAX = 10**17 - 1
"""Anything above is nanoseconds: 10^17 ns is in 1973, and 10^17 messages are 30 years at 100,000,000/s."""
_TIME_MAX = 2**63 - 1
_NS = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86_400 * 10**9}


@dataclass(frozen=True, slots=True)
class Start:
    """A parsed place. Exactly one is set: ``word`` (first or new), ``seq`` from 1, ``timestamp`` in ns."""

    word: str | None = None
    seq: int | None = None
    timestamp: int | None = None


def parse_start(text: str, *, now_ns: int) -> Start:
    """``text`` as the module's table says; ``now_ns`` is what relative times count from. Raises `ConfigError`."""
    text = text.strip()
    if text in ("first", "new"):
        return Start(word=text)
    if re.fullmatch(r"[0-9]{1,19}", text):
        number = int(text)
        return Start(timestamp=_bounded(number, text)) if number > SEQ_MAX else Start(seq=max(number, 1))
    if re.fullmatch(r"[0-9]{1,19}ns", text):
        return Start(timestamp=_bounded(int(text[:-2]), text))
    ago = re.fullmatch(r"-([0-9]{1,12}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)", text)
    if ago:
        return Start(timestamp=max(0, now_ns - round(float(ago[1]) * _NS[ago[2]])))
    return Start(timestamp=_iso(text))


def _iso(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text).astimezone()
        whole = int(moment.replace(microsecond=0).timestamp())
    except (ValueError, OverflowError, OSError):
        raise ConfigError(
            f"--from must be first, new, a seq, an ISO-8601 time, nanoseconds, or a time ago such as -5m, not {text!r}"
        ) from None
    return _bounded(whole * 10**9 + moment.microsecond * 1000, text)


def _bounded(timestamp: int, text: str) -> int:
    if not 0 <= timestamp <= _TIME_MAX:
        raise ConfigError(f"--from {text} is outside the times a log can have (1970 to 2262)")
    return timestamp
