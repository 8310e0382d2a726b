"""Scoring on the actors of a ray cluster, one of which is killed."""

import os
import signal
import threading

import numpy as np
import pytest

from eggroll import UserError
from tasks.reasoning.cluster import Cluster
from tasks.reasoning.guard import Guard
from tasks.reasoning.rewards import find


ray = pytest.importorskip("ray")
pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=4, log_to_driver=False, include_dashboard=False)
    reward = find("reasoning_rewards:behave")
    with Cluster(reward, actors=2, processes=1, deadline=2.0, memory=0.25) as one:
        yield one
    ray.shutdown()


def of(guard, texts, groups=None):
    return guard.score([""] * len(texts), texts, {}, groups)


def test_scores_and_failures_are_those_of_a_guard_on_this_machine(cluster):
    texts = ["well", "bad", "raise", "sleep", "well", "nan", "bad", "well"]
    groups = [0, 0, 0, 1, 1, 1, 2, 2]
    found = of(cluster, texts, groups)
    with Guard(cluster.reward, deadline=2.0, memory=0.25) as here:
        wanted = of(here, texts, groups)
    np.testing.assert_array_equal(found.scores, wanted.scores)
    assert found.failures == wanted.failures


def test_a_killed_actor_costs_a_retry_and_not_the_generation(cluster):
    process = ray.get(cluster.actors[0].process.remote())
    killer = threading.Timer(1.0, lambda: os.kill(process, signal.SIGKILL))
    killer.start()
    found = of(cluster, ["nap"] * 40 + ["bad"])
    assert killer.finished.is_set()  # amid the generation
    assert found.failures == [""] * 41
    np.testing.assert_array_equal(found.scores, [1.0] * 40 + [-1.0])
    assert ray.get(cluster.actors[0].process.remote()) != process


def test_actors_without_a_machine_leave_the_work_to_the_others(cluster):
    with Cluster(cluster.reward, actors=3, processes=1, deadline=2.0) as crowded:
        assert of(crowded, ["well", "bad"]).scores.tolist() == [1, -1]


def test_a_cluster_that_is_too_small_is_told_of(cluster):
    with (
        Cluster(cluster.reward, actors=1, processes=99, start=2.0) as one,
        pytest.raises(UserError, match=r"none of 1 actors has started within 2 s"),
    ):
        of(one, ["well"])
