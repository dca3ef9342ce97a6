"""Topics and filters: the names messages carry, and the patterns subscriptions ask for.

A topic is dot-separated tokens, ``orders.eu.paris``. A filter is a topic in which a token may be ``*`` (any
one token) and the last may be ``>`` (one token or more). ``>`` alone is everything.

Rules (promise: a name with control characters costs at most its own connection): 1 to 255 bytes of UTF-8, no
empty token, no whitespace, no control characters; ``*`` and ``>`` only as whole tokens and only in filters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from lanyinglog.errors import BadTopic

TOPIC_BYTES_MAX = 255
_TOKEN = re.compile(r"[^\s\x00-\x1f\x7f-\x9f.*>]+")


def check_topic(topic: str) -> str:
    """``topic`` itself if it may label a message, else `BadTopic` with the reason."""
    return _check(topic, wildcards=False)


def check_filter(pattern: str) -> str:
    """``pattern`` itself if a subscription may ask for it, else `BadTopic` with the reason."""
    return _check(pattern, wildcards=True)


@lru_cache(maxsize=4096)
def _check(name: str, *, wildcards: bool) -> str:
    noun = "filter" if wildcards else "topic"
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        raise BadTopic(f"{noun} is not valid Unicode") from None
    if not 1 <= length <= TOPIC_BYTES_MAX:
        raise BadTopic(f"{noun} has {length} bytes; 1 to {TOPIC_BYTES_MAX} are allowed")
    tokens = name.split(".")
    for place, token in enumerate(tokens):
        if token == "*" or (token == ">" and place == len(tokens) - 1):
            if wildcards:
                continue
            raise BadTopic(f"topic {name!r} has the wildcard {token!r}: only filters may")
        if not _TOKEN.fullmatch(token):
            raise BadTopic(f"{noun} {name!r}: {_flaw(token)}")
    return name


def _flaw(token: str) -> str:
    if not token:
        return "a token is empty (two dots in a row, or one at an end)"
    if token == ">":
        return "the wildcard '>' stands for the rest, so it must be the last token"
    if "*" in token or ">" in token:
        return f"a wildcard must be a whole token, unlike in {token!r}"
    return f"the token {token!r} has whitespace or control characters"


def matcher(filters: Sequence[str]) -> Callable[[str], bool]:
    """A predicate: does a (valid) topic match one of ``filters``? Answers are cached for the last 4,096 topics."""
    return _matcher(tuple(filters))


@lru_cache(maxsize=256)
def _matcher(filters: tuple[str, ...]) -> Callable[[str], bool]:
    if ">" in filters:
        return lambda topic: True
    exact = frozenset(pattern for pattern in filters if not _has_wildcard(pattern))
    patterns = [_compile(pattern) for pattern in filters if _has_wildcard(pattern)]
    if not patterns:
        return exact.__contains__
    return lru_cache(maxsize=4096)(
        lambda topic: topic in exact or any(pattern.fullmatch(topic) is not None for pattern in patterns)
    )


def _has_wildcard(pattern: str) -> bool:
    tokens = pattern.split(".")
    return "*" in tokens or tokens[-1] == ">"


def _compile(pattern: str) -> re.Pattern[str]:
    parts = []
    for token in pattern.split("."):
        if token == "*":
            parts.append(r"[^.]+")
        elif token == ">":
            parts.append(r".+")
        else:
            parts.append(re.escape(token))
    return re.compile(r"\.".join(parts), re.DOTALL)
