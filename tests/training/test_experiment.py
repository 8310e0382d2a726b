"""What happens before the first step of a run."""

import subprocess
import sys

import jax
import pytest
import toy
from toyrun import config

from eggroll.training import initial_state, memory, prepare


@pytest.mark.parametrize("algorithm", ["eggroll", "backprop"])
def test_one_batch_is_drawn_to_check_a_run(tmp_path, monkeypatch, algorithm):
    drawn, batch = [], toy.Line.batch

    def counted(self, state, step, key):
        drawn.append(step)
        return batch(self, state, step, key)

    monkeypatch.setattr(toy.Line, "batch", counted)
    initial_state(prepare(config(tmp_path, f"algorithm={algorithm}")))
    assert drawn == [0]


@pytest.mark.parametrize(("task", "members"), [("Line", 1), ("HalfBroken", 8)])
def test_backprop_evaluates_each_row_of_the_data_once(tmp_path, task, members):
    assert prepare(config(tmp_path, task=task)).algorithm.members == members


def test_whoever_trains_loads_nothing_that_draws():
    code = "import sys, eggroll.training; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_memory_of_a_step_is_that_of_its_larger_program(tmp_path):
    made = config(tmp_path, "algorithm=eggroll", "inputs=256", "outputs=64")
    experiment = prepare(made)
    parts, state = experiment.algorithm.parts, initial_state(experiment)
    assert parts is not None
    data = experiment.task.batch(state.task, 0, state.key)
    found = jax.eval_shape(parts.programs[0], state, data)
    taken = []
    for program, given in ((parts.evaluate, data), (parts.learn, found)):
        of = program.lower(state, given).compile().memory_analysis()
        taken.append(
            of.argument_size_in_bytes + of.output_size_in_bytes + of.temp_size_in_bytes
        )
    assert memory(experiment).peak == pytest.approx(max(taken), rel=0.25)
