"""Topics and filters: which names there are, and which filter matches which topic."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lanyinglog.errors import BadTopic
from lanyinglog.topics import TOPIC_BYTES_MAX, check_filter, check_topic, matcher

GOOD_TOPICS = ["a", "orders.eu.paris", "x" * 255, "ä.ö", "日本.東京", "a-b_c/d:e", "0", "$sys", "é" * 127, "a\u200bb"]
BAD_NAMES = {
    "empty": "",
    "empty first token": ".a",
    "empty last token": "a.",
    "empty token": "a..b",
    "a lone dot": ".",
    "too long": "x" * 256,
    "too long in bytes": "é" * 128,
    "a space": "a b",
    "a tab": "a\tb",
    "a newline at the end": "a\n",
    "a line separator": "a\u2028b",
    "NUL": "a\x00",
    "escape": "a\x1b[31m",
    "delete": "a\x7f",
    "a C1 control character": "a\x85b",
    "a no-break space": "a\xa0b",
    "a star inside a token": "a*.b",
    "two stars": "**",
    "a tail inside a token": "a.b>",
    "two tails": "a.>>",
    "a lone surrogate": "a\ud800",
}
FILTERS_ONLY = ["*", ">", "a.*", "*.a", "a.*.b", "a.>", "*.>", "a.*.*.>"]


@pytest.mark.parametrize("topic", GOOD_TOPICS)
def test_a_good_topic_is_a_topic_and_a_filter(topic: str) -> None:
    assert check_topic(topic) == topic
    assert check_filter(topic) == topic


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
def test_a_bad_name_is_neither_topic_nor_filter(name: str) -> None:
    for check in (check_topic, check_filter):
        with pytest.raises(BadTopic) as caught:
            check(name)
        assert caught.value.message.isprintable()  # it goes to logs and terminals


@pytest.mark.parametrize("name", FILTERS_ONLY)
def test_only_a_filter_has_wildcards(name: str) -> None:
    assert check_filter(name) == name
    with pytest.raises(BadTopic):
        check_topic(name)


@pytest.mark.parametrize("name", [">.a", "a.>.b", ">.>"])
def test_a_tail_is_the_last_token(name: str) -> None:
    with pytest.raises(BadTopic):
        check_filter(name)


@given(st.text(max_size=300))
@example("a.\ud800")
def test_any_name_is_taken_or_refused(name: str) -> None:
    try:
        check_topic(name)
    except BadTopic:
        return
    tokens = name.split(".")
    assert 1 <= len(name.encode()) <= TOPIC_BYTES_MAX
    assert all(token and not set(token) & set("*> \t\r\n\x00\x7f") for token in tokens)


def _matches(filter_: list[str], topic: list[str]) -> bool:
    """The rule as a reader would say it."""
    if not filter_ or not topic:
        return not filter_ and not topic
    if filter_[0] == ">":
        return True
    return filter_[0] in ("*", topic[0]) and _matches(filter_[1:], topic[1:])


TOKENS = st.sampled_from(["a", "b", "ab", "a+", "[a]", "日"])
TOPICS = st.lists(TOKENS, min_size=1, max_size=4)
FILTERS = st.builds(
    lambda tokens, tail: tokens + tail or ["*"],
    st.lists(TOKENS | st.just("*"), max_size=3),
    st.sampled_from([[], [">"]]),
)


@settings(max_examples=1_000, deadline=None)
@given(st.lists(FILTERS, min_size=1, max_size=3), TOPICS)
def test_filters_match_as_the_rule_says(filters: list[list[str]], topic: list[str]) -> None:
    matches = matcher([check_filter(".".join(each)) for each in filters])
    assert matches(".".join(topic)) == any(_matches(each, topic) for each in filters)


MATCHES = [
    ("orders.*", "orders.eu", True),
    ("orders.*", "orders", False),
    ("orders.*", "orders.eu.paris", False),
    ("orders.>", "orders.eu", True),
    ("orders.>", "orders.eu.paris", True),
    ("orders.>", "orders", False),
    ("*", "orders", True),
    ("*", "orders.eu", False),
    (">", "orders.eu.paris", True),
    ("orders", "orders", True),
    ("orders", "orders.eu", False),
    ("a.b", "a-b", False),
]


@pytest.mark.parametrize(("pattern", "topic", "expected"), MATCHES)
def test_a_filter_matches_as_documented(pattern: str, topic: str, expected: bool) -> None:
    assert matcher([pattern])(topic) is expected
