"""The probe measures what a run would, and proposes by simple rules."""

import dataclasses

import numpy as np
import pytest
import sick  # noqa: F401 - named in settings
import yaml
from toyrun import config, figures, train

from eggroll import UserError
from eggroll.cli.main import main
from eggroll.config import plain
from eggroll.training import probe
from eggroll.training.probe import Point, proposal


def settings(tmp_path, task, *words):
    more = "algorithm=eggroll", "population=64", "diagnose_every=1", *words
    made = config(tmp_path, *more)
    task = dataclasses.replace(made.task, path=f"sick:{task}", options={})
    return dataclasses.replace(made, task=task)


def point(sigma, agreement, error=0.01, **more):
    more = {"rank": 1, "move": sigma / 10, "mean": 0.0, "spread": 1.0} | more
    more = {"tied": 0.0, "equal": 0.0, "failed": 0.0, "values": 9} | more
    return Point(sigma=sigma, agreement=agreement, error=error, **more)


@pytest.mark.slow
def test_a_point_is_what_a_run_that_does_not_move_measures(tmp_path):
    made = settings(tmp_path, "Wide", "learning_rate=0", "generations=3")
    rows = figures(train(made)[0])[1:]
    (found,) = probe.probe(made, [0.05], repeats=3)
    mean = lambda name: np.mean([row[name] for row in rows])
    assert found.mean == pytest.approx(mean("fitness/mean"), rel=1e-5)
    assert found.spread == pytest.approx(mean("fitness/spread"), rel=1e-5)
    assert found.tied == mean("fitness/tied")
    assert found.agreement == pytest.approx(mean("gradient/agreement"), abs=1e-4)


def test_the_middle_of_the_sigmas_as_good_as_the_best_is_proposed(tmp_path):
    shares = {0.01: 0.30, 0.05: 0.305, 0.1: 0.31, 0.5: 0.1}
    points = [point(sigma, share) for sigma, share in shares.items()]
    found = proposal(points, settings(tmp_path, "Wide", "learning_rate=0.05"))
    assert found.best.sigma == 0.05
    # A step of 0.1 sigma at 0.05 is one of STEP at twice that.
    assert found.learning_rate == pytest.approx(0.05 * probe.STEP / 0.1)
    assert found.is_signal


def test_the_population_grows_as_the_signal_is_weak(tmp_path):
    """Halves agree by s / (1 + s), and s grows with the population, here 64."""
    made = settings(tmp_path, "Wide")
    s = probe.AGREEMENT / (1 - probe.AGREEMENT)
    for times in (1, 4):
        share = s / times / (1 + s / times)
        assert proposal([point(0.1, share * 1.0001)], made).population == 64 * times


def test_without_a_signal_it_says_so(tmp_path):
    found = proposal([point(0.1, 0.01), point(0.2, -0.01)], settings(tmp_path, "Wide"))
    assert not found.is_signal
    with pytest.raises(UserError, match="at no sigma is there a gradient"):
        proposal([point(0.1, np.nan)], settings(tmp_path, "Wide"))


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5])
def test_pairs_are_equal_by_chance_as_coins_are(share):
    coins = np.random.default_rng(0).random((200_000, 2)) < share
    equal = np.mean(coins[:, 0] == coins[:, 1])
    assert abs(probe.by_chance(share) - equal) <= 5 * 0.5 / np.sqrt(200_000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sigmas": [0.0]}, "sigmas above 0"),
        ({"sigmas": []}, "sigmas above 0"),
        ({"sigmas": [0.1], "repeats": 1}, "at least 2 repeats"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        probe.probe(settings(tmp_path, "Wide"), **arguments)
    with pytest.raises(UserError, match="'backprop' has no sigma to probe"):
        probe.probe(config(tmp_path), [0.1])


def test_the_command_predicts_pairs_without_advantage(tmp_path, capsys):
    path = tmp_path / "hard.yaml"
    path.write_text(yaml.safe_dump(plain(settings(tmp_path / "runs", "Hard"))))
    picture = tmp_path / "probe.png"
    words = ["--sigmas", "0.05,0.2", "--plot", str(picture), "--population", "128"]
    assert main(["probe", str(path), *words]) == 0
    said = capsys.readouterr().out
    assert "of the pairs would have no advantage at sigma" in said
    assert "proposed: --sigma" in said
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "runs").exists()
    assert main(["probe", str(path), "--sigmas", "a,b"]) == 2
    assert "--sigmas: expected numbers with commas" in capsys.readouterr().err
