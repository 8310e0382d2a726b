"""RandOpt: members that are drawn once, and of which the best vote."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
import tiny_llm
from toyrun import resume

from eggroll import UserError, runs, training
from eggroll.cli.main import main
from eggroll.config import resolve
from eggroll.runs.checkpoint import digests
from models.llm.checkpoint import load
from models.llm.generation import GREEDY
from tasks.reasoning import held_out
from tasks.reasoning.randopt import Tally, ranking
from tasks.reasoning.verifier import Verifier
from tasks.reasoning.voting import answer_of, elected


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(tiny_llm.write(tmp_path_factory.mktemp("tiny") / "model"))


def early(completion: str) -> float:
    """What perturbed members differ in."""
    return sum(ord(x) % 32 for x in completion) / 100


def config(checkpoint, output, **strategy):
    return resolve(
        {
            "task": {
                "class": "tasks.reasoning.task:Reasoning",
                "checkpoint": checkpoint,
                "dataset": "addition",
                "dataset_options": {"low": 0, "high": 9, "prompt": "{a}{sign}{b}="},
                "reward": "tests.tasks.reasoning.test_randopt:early",
                "validation_prompts": 4,
                "validation_batch": 4,
                "prompt_tokens": 12,
                "new_tokens": 3,
                "prompts": 2,
                "workers": 0,
                "halvings": 0,
                "solved_at": 0.4,
                "randopt": {"best": 3},
            },
            "algorithm": "randopt",
            "strategy": {"population": 6, "sigma": 0.2, **strategy},
            "budget": {"generations": 3},
            "evaluate_every": 3,
            "checkpoint_every": 1,
            "mesh": {"devices": 1},
            "output": str(output),
            "name": "run",
        }
    )


@pytest.fixture(scope="module")
def run(checkpoint, tmp_path_factory):
    """A run of three steps, and what it came to."""
    settings = config(checkpoint, tmp_path_factory.mktemp("runs"))
    experiment, made = training.prepare(settings), runs.create(settings)
    return experiment, made, training.train(experiment, made)


@pytest.fixture(scope="module")
def members(run):
    """The parameters of each, drawn as at the start."""
    experiment = run[0]
    start = training.initial_state(experiment)
    strategy, generation = training.generation_of(experiment, start)
    write = quick.jit(lambda i: strategy.member(generation, start.params, i))
    return [write(i) for i in range(6)]


@pytest.mark.slow
def test_members_stay_and_what_they_got_is_added_up(run, members):
    experiment, _, outcome = run
    task, total = experiment.task, np.zeros(6)
    start = training.initial_state(experiment)
    for step in range(3):
        data = task.batch((), step, start.key)
        done = [
            jax.device_get(task.completer(one, data, GREEDY, start.key))
            for one in members
        ]
        total += task.score(
            {"completions": jax.tree.map(lambda *x: np.stack(x), *done)}, data
        )[0]
    np.testing.assert_allclose(outcome.state.opt_state.total, total, rtol=1e-5)
    assert len({*total.tolist()}) > 2
    assert outcome.state.opt_state.steps == 3
    jax.tree.map(np.testing.assert_array_equal, outcome.state.params, start.params)


@pytest.mark.slow
def test_the_best_members_vote_and_before_any_step_the_model_answers_alone(
    run, members
):
    experiment, made, outcome = run
    task, state = experiment.task, outcome.state
    first = ranking(state.opt_state)[:3]
    rows = held_out.rows_of(task)
    every = [
        held_out.completed(task, members[i], rows, GREEDY, state.key) for i in first
    ]
    votes = [[answer_of(text) for text in task.texts(done)] for done in every]
    scores = [task.scored(done, rows).scores for done in every]
    chosen = [scores[voter][i] for i, voter in enumerate(elected(votes))]
    told = [
        row for row in runs.metrics.read(made.metrics) if "validation/reward" in row
    ]
    assert told[-1]["validation/reward"] == pytest.approx(np.mean(chosen))
    assert told[-1]["validation/first_alone"] == np.mean(scores[0] >= 0.4)
    alone = task.validate(state.params, (), state.key)
    assert told[0]["validation/reward"] == pytest.approx(alone["reward"])
    assert told[-1]["randopt/first"] == first[0]
    assert outcome.validation == training.validated(experiment, state, state.key)


@pytest.mark.slow
def test_a_resumed_run_equals_one_that_never_stopped_bit_for_bit(run, tmp_path):
    _, made, outcome = run
    copied = tmp_path / "run"
    shutil.copytree(made.path, copied)
    for step in (2, 3):
        shutil.rmtree(copied / "checkpoints" / str(step))
    assert digests(resume(copied).state) == digests(outcome.state)


@pytest.mark.slow
def test_a_member_is_exported_and_info_tells_of_members(run, members, tmp_path, capsys):
    _, made, _ = run
    words = [
        "export",
        str(made.path),
        "--format",
        "hf",
        "--output",
        str(tmp_path / "a"),
    ]
    assert main([*words, "--member", "5"]) == 0
    found = load(tmp_path / "a")[1]
    jax.tree.map(np.testing.assert_array_equal, found, members[5])
    assert main(["info", str(made.path / "config.yaml")]) == 0
    assert "6 members on 1 device(s)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "strategy",
    [
        {"population": 2},
        {"sigma": {"start": 1.0, "end": 0.1, "steps": 3, "kind": "linear"}},
    ],
)
def test_settings_that_contradict_it_are_refused(checkpoint, tmp_path, strategy):
    with pytest.raises(UserError, match="'randopt' draws its members once"):
        training.prepare(config(checkpoint, tmp_path, **strategy))


def test_the_best_come_first_and_of_equals_the_first():
    tally = Tally(jnp.asarray([1.0, 3, 2, 3]), jnp.int32(2))
    assert ranking(tally).tolist() == [1, 3, 2, 0]


# ------------------------------------------------------------------------ votes


def test_the_majority_s_answer_is_spoken_for_by_its_best_voter():
    votes = [["a", "x", "", ""], ["b", "y", "", "z"], ["b", "z", "", ""]]
    assert elected(votes) == [1, 0, 0, 1]


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("so it is #### 1,234.0\nor so", "1234"),
        (r"\boxed{0.5}", "1/2"),
        ("<answer> Paris. </answer>", "paris"),
        ("  Two  Words!", "two words"),
        ("", ""),
    ],
)
def test_equal_answers_are_equal_strings(completion, answer):
    assert answer_of(completion, Verifier()) == answer


def test_a_verifier_may_say_itself_what_is_answered():
    @dataclasses.dataclass(frozen=True)
    class Own(Verifier):
        def answer_of(self, completion):
            return completion[0] if completion else None

    assert answer_of("xyz", Own()) == "x"
    assert answer_of("", Own()) == ""
