"""The limiter's Lua agrees with the pure functions to the last bit, on a clock of our own in a real Redis."""

from __future__ import annotations

import re
import socket
import struct
from importlib import resources

import hiredis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spooled_samples import IDS

from mailfarm.backends.memory import MemoryLimiter
from mailfarm.limits import Limit, Quota, gcra
from mailfarm.ports import Charge

_CLOCK = """
local real = redis
local redis = {call = function(verb, ...)
  if verb == 'TIME' then return {ARGV[4], ARGV[5]} end
  if verb == 'SET' then local words = {...}; return real.call('SET', words[1], words[2]) end
  return real.call(verb, ...)
end}
"""
"""Before the script: time is an argument, and nothing expires."""

LIMITS = st.builds(Limit, st.integers(1, 1000), st.floats(0.01, 86_400.0))
MICROSECONDS = st.sampled_from([0, 12_345_678_901, 1_700_000_000_000_000])


@pytest.fixture(scope="module")
def redis_of_the_script(redis):
    """Talks to a real server, blocking, as hypothesis does."""
    with socket.create_connection(("127.0.0.1", redis.port), 20) as connection:
        reader = hiredis.Reader()

        def command(*words):
            connection.sendall(hiredis.pack_command(words))
            while (reply := reader.gets()) is False:
                reader.feed(connection.recv(65536))
            if isinstance(reply, Exception):
                raise reply
            return reply

        text = resources.files("mailfarm.backends").joinpath("limiter.lua").read_text()
        digest = command("SCRIPT", "LOAD", _CLOCK + text)
        yield command, digest


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LIMITS, MICROSECONDS, st.data())
def test_the_script_and_the_pure_function_agree_to_the_last_bit(redis_of_the_script, limit, micros, data):
    command, digest = redis_of_the_script
    key = f"agree:{IDS.new()}"
    tat = 0.0
    steps = data.draw(
        st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(0, min(limit.count, 40) + 1)), min_size=1, max_size=40)
    )
    for gap, cost in steps:
        micros += int(gap * limit.period / limit.count * 1e6)
        seconds, rest = divmod(micros, 1_000_000)
        now = seconds + rest / 1e6
        wait, tat = gcra(tat, now, limit, cost)
        (answer,) = command(
            "EVALSHA", digest, 1, key, struct.pack("<I", 1), struct.pack("<4d", 0, limit.count, limit.period, cost),
            1, seconds, rest,
        )  # fmt: skip
        assert (0.0 if answer in (0, 1) else float(answer.split()[1])) == wait
        assert (answer == 1) == (wait == 0 and limit.count >= 100 and 2 * (max(tat, now) - now) <= limit.period)
        assert struct.unpack("<d", command("GET", key) or bytes(8))[0] == tat


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.builds(Quota, st.integers(1, 50), st.integers(1, 100_000)), MICROSECONDS, st.data())
def test_the_script_and_the_memory_agree_about_quotas(redis_of_the_script, quota, micros, data):
    command, digest = redis_of_the_script
    key = f"agree:{IDS.new()}"
    wall = 0.0
    memory = MemoryLimiter(lambda: 0.0, wall=lambda: wall)
    steps = data.draw(
        st.lists(st.tuples(st.floats(-0.3, 1.5), st.integers(0, quota.count + 1)), min_size=1, max_size=40)
    )
    for gap, cost in steps:
        micros = max(0, micros + int(gap * quota.period * 1e6))
        seconds, rest = divmod(micros, 1_000_000)
        wall = seconds + rest / 1e6
        refusal = memory.charge([Charge("k", quota, cost)]).result
        (answer,) = command(
            "EVALSHA", digest, 1, key, struct.pack("<I", 1), struct.pack("<4d", 1, quota.count, quota.period, cost),
            1, seconds, rest,
        )  # fmt: skip
        assert (None if answer in (0, 1) else float(answer.split()[1])) == (refusal.wait if refusal else None)


def test_the_script_names_nothing_it_was_not_given():
    """A key that is not among KEYS would be hidden from access lists."""
    text = resources.files("mailfarm.backends").joinpath("limiter.lua").read_text()
    assert re.search(r"\bcall\('[A-Z]+', key", text)
    assert not re.search(r"\bcall\('[A-Z]+', '", text)


def ask(redis_of_the_script, key, seconds, kind, limit, cost=1):
    command, digest = redis_of_the_script
    charge = struct.pack("<4d", kind, limit.count, limit.period, cost)
    (answer,) = command("EVALSHA", digest, 1, key, struct.pack("<I", 1), charge, 1, seconds, 0)
    return 0.0 if answer in (0, 1) else float(answer.split()[1])


def test_a_clock_that_was_far_ahead_and_is_put_back_keeps_nobody_out_for_longer_than_a_period(redis_of_the_script):
    key, now = f"back:{IDS.new()}", 1_700_000_000
    hour, day = Limit(2, 3600.0), Quota(2)
    ahead = now + 40 * 365 * 86_400
    assert [ask(redis_of_the_script, key + "r", ahead, 0, hour) for _ in range(2)] == [0, 0]
    assert [ask(redis_of_the_script, key + "q", ahead, 1, day) for _ in range(2)] == [0, 0]
    assert ask(redis_of_the_script, key + "r", now, 0, hour) == 1800
    assert ask(redis_of_the_script, key + "q", now, 1, day) == 0


def test_a_clock_that_is_put_back_a_little_gives_nothing_back(redis_of_the_script):
    key, midnight = f"back:{IDS.new()}", 1_700_000_000 // 86_400 * 86_400
    hour, day = Limit(2, 3600.0), Quota(2)
    assert [ask(redis_of_the_script, key + "r", midnight, 0, hour) for _ in range(2)] == [0, 0]
    assert [ask(redis_of_the_script, key + "q", midnight, 1, day) for _ in range(2)] == [0, 0]
    assert ask(redis_of_the_script, key + "r", midnight - 600, 0, hour) == 1800 + 600
    assert ask(redis_of_the_script, key + "q", midnight - 600, 1, day) == 86_400 + 600
