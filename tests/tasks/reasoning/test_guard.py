"""Rewards that hang, crash and eat memory, and what becomes of the others."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from adversarial import OWN, adversarial

from eggroll import UserError
from tasks.reasoning.guard import Guard, worst_of
from tasks.reasoning.processes import Watch
from tasks.reasoning.rewards import find
from tasks.reasoning.verifier import Function


DEADLINE = 1.0
ROOT = Path(__file__).parent.parent.parent.parent


@pytest.fixture(scope="module")
def guard():
    with Guard(
        find("reasoning_rewards:behave"), deadline=DEADLINE, memory=0.125
    ) as one:
        yield one


def scored(guard, texts, groups=None, **columns):
    return guard.score([""] * len(texts), texts, columns, groups)


# ------------------------------------------------------------ whatever a reward does


def test_what_fails_is_counted_by_reason_and_the_others_are_scored_right(guard):
    reasons = {
        "sleep": "deadline",
        "spin": "deadline",
        "tower": "deadline",
        "eat": "memory",
        "huge": "memory",
        "die": "crash",
        "exit": "exception",
        "raise": "exception",
        "recurse": "exception",
        "nan": "nan",
        "none": "type",
        "print": "",
        "well": "",
        "bad": "",
    }
    found = scored(guard, list(reasons))
    assert dict(zip(reasons, found.failures, strict=True)) == reasons
    good = dict(zip(reasons, found.scores, strict=True))
    assert (good["print"], good["well"], good["bad"]) == (1, 1, -1)
    failed = [one != "" for one in found.failures]
    np.testing.assert_array_equal(found.scores[failed], -1)
    assert found.failed["deadline"] == 3
    assert "ZeroDivisionError" in found.details["exception"] or "exit" in str(found)


def test_a_deadline_is_kept_and_the_time_told(guard):
    begun = time.perf_counter()
    found = scored(guard, ["sleep 1", "sleep 2", *["well"] * 20])
    assert time.perf_counter() - begun < DEADLINE + 2
    assert found.failed == {"deadline": 2}
    assert found.seconds[0] == pytest.approx(DEADLINE, abs=0.5)
    assert found.seconds[2:].max() < DEADLINE / 2


def test_what_cannot_be_scored_gets_the_worst_of_its_group(guard):
    found = scored(
        guard, ["raise", "well", "raise", "well", "bad"], groups=[1, 1, 2, 2, 2]
    )
    np.testing.assert_array_equal(found.scores, [1, 1, -1, 1, -1])


def test_the_worst_is_that_of_the_group_of_all_or_the_floor():
    nan = np.nan
    scores = np.array([nan, 0.5, 0.7, nan, nan, 0.2])
    groups = ["a", "a", "a", "b", "c", "c"]
    found = worst_of(scores, groups)
    np.testing.assert_array_equal(found, [0.5, 0.5, 0.5, 0.2, 0.2, 0.2])
    np.testing.assert_array_equal(worst_of(scores, groups, 0.0), np.zeros(6))
    np.testing.assert_array_equal(worst_of(np.array([nan]), [0]), [0])


def test_workers_import_no_jax(guard):
    assert scored(guard, ["jax"]).scores == [0]


def test_columns_reach_the_reward(guard):
    found = scored(guard, ["a", "b"], wanted=["a", "a"])
    np.testing.assert_array_equal(found.scores, [1, 0])


def test_nothing_to_score(guard):
    found = scored(guard, [])
    assert (found.scores.shape, found.failures) == ((0,), [])


def test_many_are_scored_in_their_order_whatever_hangs_between(guard):
    """In miniature what the slow test below does at full size."""
    texts = [f"word {i}" for i in range(300)]
    texts[7] = texts[150] = "sleep"
    texts[299] = "eat"
    wanted = [text if i % 2 else "" for i, text in enumerate(texts)]
    wanted[20] = "something else"
    found = scored(guard, texts, wanted=wanted)
    expected = np.ones(300)
    expected[[7, 20, 150, 299]] = 0
    np.testing.assert_array_equal(found.scores, expected)
    assert found.failed == {"deadline": 2, "memory": 1}


@pytest.mark.slow
def test_a_tenth_that_hangs_or_eats_costs_its_deadlines_and_no_more():
    texts = [f"word {i}" for i in range(1000)]
    for i in range(0, 1000, 10):
        texts[i] = ("sleep", "spin", "eat", "tower")[i // 10 % 4]
    wanted = [text if i % 3 else "another" for i, text in enumerate(texts)]
    deadline, workers, start = 0.5, 2, 0.5
    reward = find("reasoning_rewards:behave")
    with Guard(reward, processes=workers, deadline=deadline, memory=0.125) as guard:
        begun = time.perf_counter()
        found = scored(guard, texts, wanted=wanted)
        taken = time.perf_counter() - begun
    assert taken < 100 * (deadline + start) / workers + 10
    fine = np.arange(1000) % 10 != 0
    assert [bool(one) for one in found.failures] == (~fine).tolist()
    np.testing.assert_array_equal(found.scores[fine], (np.arange(1000) % 3 != 0)[fine])
    assert found.failed["deadline"] + found.failed.get("memory", 0) == 100
    np.testing.assert_array_equal(found.scores[~fine], 0)


def test_adversarial_strings_are_scored_by_the_workers_as_by_ourselves():
    texts = list(adversarial(500))
    name, options, columns = OWN[0]
    reward = find(name, options)
    given = {key: [value] * len(texts) for key, value in columns.items()}
    with Guard(reward, deadline=5) as guard:
        found = scored(guard, texts, **given)
    assert found.failed == {}
    np.testing.assert_array_equal(found.scores, reward(texts, texts, **given))


@pytest.mark.parametrize(
    ("function", "reason"), [("too_few", "count"), ("not_a_list", "type")]
)
def test_a_wrong_count_or_type_is_a_failure(function, reason):
    guard = Guard(find(f"reasoning_rewards:{function}"), processes=0)
    assert scored(guard, ["a", "b"]).failed == {reason: 2}


def test_completions_may_be_scored_together():
    reward = find("reasoning_rewards:in_batches")
    guard = Guard(reward, processes=0, together=2)
    found = scored(guard, ["a", "b", "c"], answer=["a", "x", "c"])
    np.testing.assert_allclose(found.scores, [2.1, 2.0, 1.1])


def test_without_workers_exceptions_are_caught_all_the_same():
    guard = Guard(find("reasoning_rewards:behave"), processes=0)
    found = scored(guard, ["raise", "exit", "nan", "well"])
    assert found.failures == ["exception", "exception", "nan", ""]


def test_what_could_not_be_scored_is_not_solved():
    """Though in a group of good ones its score is theirs."""
    guard = Guard(find("reasoning_rewards:behave"), processes=0)
    found = scored(guard, ["raise", "well"])
    np.testing.assert_array_equal(found.scores, [1, 1])
    np.testing.assert_array_equal(found.solved(), [False, True])
    np.testing.assert_array_equal(found.solved(1.5), [False, False])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("always_raise", r"by exception: KeyError: 'wind'(.|\n)*in always_raise"),
        ("always_nan", "by nan: expected finite numbers"),
        ("too_few", "by count: expected 1 scores, got 0"),
        ("not_a_list", "by type: expected a list of numbers, got 1.0"),
    ],
)
def test_a_reward_that_fails_on_all_is_told_before_a_run(function, message):
    guard = Guard(find(f"reasoning_rewards:{function}"), processes=0)
    with pytest.raises(UserError, match=message):
        guard.try_out("How many?", {"answer": "3"})


def test_a_reward_that_works_passes_its_trial():
    for name in ("countdown", "reasoning_rewards:behave"):
        columns = {"numbers": [1, 2], "target": 3, "solution": "1 + 2"}
        Guard(find(name), processes=0).try_out("How many?", columns)


# --------------------------------------------------------------------- processes


def alive(process) -> bool:
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_workers_end_with_their_guard_and_leave_nothing_behind():
    guard = Guard(find("reasoning_rewards:behave"), deadline=0.3)
    scored(guard, ["well", "sleep", "well", "well"])
    processes = [worker.process for worker in guard._workers if worker.process]
    assert processes
    guard.close()
    guard.close()
    assert not any(alive(process) for process in processes)  # no zombies, either
    found = scored(guard, ["well"])  # and it may be used again
    assert found.scores == [1]
    processes = [worker.process for worker in guard._workers if worker.process]
    del guard
    assert not any(alive(process) for process in processes)


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no process groups")
def test_a_killed_worker_is_replaced(guard):
    scored(guard, ["well"] * 4)
    for worker in guard._workers:
        if worker.process is not None:
            os.kill(worker.process.pid, signal.SIGKILL)
    found = scored(guard, ["well"] * 20)
    assert found.failed.get("crash", 0) <= 2
    assert scored(guard, ["well"] * 20).failed == {}


@pytest.mark.parametrize(("processes", "late"), [(2, 0), (1, 1)])
def test_ctrl_c_ends_a_score_and_its_workers(processes, late, monkeypatch):
    leave = Watch.__exit__
    slowly = lambda *args: (time.sleep(late), leave(*args))[1]
    monkeypatch.setattr(Watch, "__exit__", slowly)
    # It is ignored where the tests run in the background of a shell.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    reward = find("reasoning_rewards:behave")
    guard = Guard(reward, processes=processes, deadline=60)
    scored(guard, ["well"])
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    begun, known = time.perf_counter(), {*threading.enumerate()}
    with pytest.raises(KeyboardInterrupt):
        scored(guard, ["sleep"] * 4)
    time.sleep(0.05)
    assert {*threading.enumerate()} <= known  # others could end what comes next
    assert time.perf_counter() - begun < 10
    assert all(worker.process is None for worker in guard._workers)
    assert scored(guard, ["well"]).scores == [1]
    guard.close()
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_workers_that_were_about_to_start(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    guard = Guard(find("reasoning_rewards:behave"), deadline=60)
    start, asked = subprocess.Popen, threading.Event()

    def late(*args, **options):
        asked.set()
        time.sleep(0.3)
        return start(*args, **options)

    def interrupt():
        asked.wait()
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", late)
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            scored(guard, ["well"] * 4)
    time.sleep(0.5)
    assert all(worker.process is None for worker in guard._workers)
    assert scored(guard, ["well"]).scores == [1]
    guard.close()
    signal.signal(signal.SIGINT, before)


NOTEBOOK = """
from tasks.reasoning.guard import Guard
from tasks.reasoning.verifier import Function
def mine(completion):
    return float(len(completion))
print(Guard(Function(mine), processes=1).score([''], ['abc']).scores)
"""


def notebook(program: str) -> subprocess.CompletedProcess:
    """What a main program without a guard of its own, or a notebook, comes to."""
    return subprocess.run(
        [sys.executable, "-"], input=program, cwd=ROOT, capture_output=True, text=True
    )


def test_a_reward_of_a_notebook_is_taken_along():
    pytest.importorskip("cloudpickle")
    assert notebook(NOTEBOOK).stdout == "[3.]\n"


def test_a_reward_that_workers_cannot_import_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    def ours(completion):
        return 0.0

    with pytest.raises(UserError, match=r"cannot import the reward: .* Put it in"):
        Guard(Function(ours))
    ours.__module__, ours.__qualname__ = "__main__", "ours"
    monkeypatch.setattr("__main__.ours", ours, raising=False)
    with pytest.raises(UserError, match="in the main program or a notebook"):
        Guard(Function(ours))


def test_a_reward_that_does_not_load_is_told_with_its_traceback():
    guard = Guard(find("reasoning_rewards:Broken"), processes=1)
    message = (
        r"does not load in a worker process: RuntimeError: out of(.|\n)*in prepare"
    )
    with pytest.raises(UserError, match=message):
        scored(guard, ["a"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"processes": -1}, "processes must be at least 0, got -1"),
        ({"together": 0}, "together must be at least 1, got 0"),
        ({"deadline": 0}, "deadline must be positive, got 0"),
        ({"memory": float("nan")}, "memory must be positive, got nan"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Guard(find("countdown"), **settings)


def test_columns_of_another_length_are_refused(guard):
    with pytest.raises(UserError, match="each of 2 completions in 'wanted', got 1"):
        scored(guard, ["a", "b"], wanted=["a"])
