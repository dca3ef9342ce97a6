"""``log info`` and ``log set`` as a user types them, and what a limit does to who reads."""

from __future__ import annotations

import pytest
from real_programs import Cluster, run

import lanyinglog
from lanyinglog.cli.log import parse_age, parse_count, parse_size
from lanyinglog.errors import ConfigError
from lanyinglog.machine.retention import BOUNDS

SIZES = {"1000": 1_000, "64MB": 64_000_000, "1 GiB": 1 << 30, "1.5GB": 1_500_000_000, "8kB": 8_000, "2TiB": 2 << 40}


@pytest.mark.parametrize(("text", "size"), SIZES.items())
def test_a_size_is_what_people_write(text: str, size: int) -> None:
    assert parse_size(text) == size


AGES = {"90s": 90, "30m": 1_800, "12h": 43_200, "7d": 604_800, "8w": 4_838_400}


@pytest.mark.parametrize(("text", "seconds"), AGES.items())
def test_an_age_is_what_people_write(text: str, seconds: int) -> None:
    assert parse_age(text) == seconds


@pytest.mark.parametrize("text", ["", "MB", "-1", "1e6", "12 parsecs", "1QB", "0x10", "nan", "1..5"])
def test_what_is_no_size_no_age_and_no_count_is_refused(text: str) -> None:
    for parse in (parse_size, parse_age, parse_count):
        with pytest.raises(ConfigError):
            parse(text)


WRONG = {
    "nothing": ((), "nothing to change"),
    "an age without a unit": (("--max-age", "7"), "--max-age must be a number and one of"),
    "no age": (("--max-age", "0d"), "--max-age must be 1s to 36600d, not 0d"),
    "more than a century": (("--max-age", "9999w"), "--max-age must be 1s to 36600d, not 9999w"),
    "both": (("--max-bytes", "1GB", "--no-max-bytes"), "exclude each other"),
    "less than a batch": (("--max-bytes", "100"), f"--max-bytes must be {BOUNDS['bytes'][0]} to "),
    "no message": (("--max-messages", "0"), "--max-messages must be 1 to "),
    "a negative count": (("--max-messages", "-5"), "--max-messages must be a number"),
}


@pytest.mark.parametrize(("arguments", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_wish_is_wrong_usage_and_changes_nothing(
    cluster: Cluster, arguments: tuple[str, ...], words: str
) -> None:
    done = run("log", "set", *arguments, "--server", cluster.server)
    assert done.code == 2
    assert words in done.err
    (info,) = run("log", "info", "--server", cluster.server).rows
    assert (info["max_age_s"], info["max_bytes"], info["max_messages"]) == (None, None, None)


def test_a_limit_is_set_seen_obeyed_and_lifted(cluster: Cluster) -> None:
    assert run("publish", "kept", "--file", "-", "--server", cluster.server, stdin=b"line\n" * 500).code == 0
    (set_to,) = run("log", "set", "--max-messages", "10", "--max-age", "7d", "--server", cluster.server).rows
    assert (set_to["max_messages"], set_to["max_age_s"], set_to["max_bytes"]) == (10, 604_800, None)
    with lanyinglog.sync.connect(cluster.server) as client:
        while client.log_info()["first_seq"] == 1:
            client.publish("kept", b"one more")
    (info,) = run("log", "info", "--server", cluster.server).rows
    assert info["first_seq"] > 1
    assert info["messages"] == info["last_seq"] - info["first_seq"] + 1
    asked = run("subscribe", "kept", "--from", "1", "--count", "1", "--server", cluster.server, "--format", "json")
    assert asked.code == 1
    assert "trimmed" in asked.err and "the log begins at" in asked.err
    first = run("subscribe", "kept", "--from", "first", "--count", "1", "--server", cluster.server).rows[0]
    assert first["seq"] >= info["first_seq"]
    (lifted,) = run("log", "set", "--no-max-messages", "--no-max-age", "--server", cluster.server).rows
    assert (lifted["max_messages"], lifted["max_age_s"]) == (None, None)
    assert run("log", "info", "--server", cluster.server, "--format", "table").code == 0
