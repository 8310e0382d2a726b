"""The task of reasoning, on a tiny checkpoint that a fixture makes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_llm

from eggroll import UserError, check_task
from eggroll.cli.main import main
from eggroll.config import resolve
from eggroll.training import initial_state, prepare
from models.llm.generation import Completions
from tasks.reasoning.checkpoint import padded
from tasks.reasoning.likelihood import Likelihood
from tasks.reasoning.task import Reasoning


ADDITION = {
    "dataset": "addition",
    "dataset_options": {"low": 0, "high": 9, "prompt": "{a}{sign}{b}="},
    "validation_prompts": 6,
    "validation_batch": 4,
    "prompt_tokens": 12,
    "new_tokens": 3,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(tiny_llm.write(tmp_path_factory.mktemp("tiny") / "model"))


@pytest.fixture(scope="module")
def task(checkpoint):
    return Reasoning(
        checkpoint=checkpoint, prompts=2, workers=0, halvings=0, **ADDITION
    )


def config(checkpoint, algorithm="eggroll", **task):
    return resolve(
        {
            "task": {
                "class": "tasks.reasoning.task:Reasoning",
                "checkpoint": checkpoint,
                "prompts": 2,
                "workers": 0,
                "halvings": 0,
                **ADDITION,
                **task,
            },
            "algorithm": algorithm,
            "strategy": {"population": 4, "sigma": 0.3},
            "optimizer": {"name": "sgd", "learning_rate": 0.1},
            "budget": {"generations": 2},
            "diagnose_every": 0,
            "mesh": {"devices": 1},
        }
    )


def texts(task, *answers):
    """Completions with these texts."""
    rows = [[*task.words.encode(text), tiny_llm.END] for text in answers]
    tokens, lengths = padded(rows, task.new_tokens)
    return Completions(tokens, lengths, np.ones(len(rows), bool))


def test_the_task_meets_the_protocol(task):
    figures = check_task(task)
    names = ["solved", "reward", "length", "ended", "drift", "divergence"]
    assert list(figures) == names


def test_forms_are_those_of_what_is_read(task):
    like = jax.tree.map(lambda x: (x.shape, x.dtype), task.params_like())
    read = jax.tree.map(lambda x: (x.shape, x.dtype), task.init(jax.random.key(0)))
    assert like == read
    data = task.batch((), 0, jax.random.key(0))
    assert [x.shape for x in data] == [x.shape for x in task.batch_like()]


def test_prompts_are_a_user_s_turn_by_the_template_or_plain_texts(task):
    names = {"<u>": 257, "<a>": 258}
    letters = lambda text: [tiny_llm.tokenizer().encode(x).ids[0] for x in text]
    told = [names["<u>"], *letters("1+2="), names["<a>"]]
    assert task.tokens_of("1+2=") == told
    plain = dataclasses.replace(task, chat=False, prefix="!")
    assert plain.tokens_of("1+2=") == letters("1+2=!")
    with_prefix = dataclasses.replace(task, prefix="!")
    assert with_prefix.tokens_of("1+2=") == [*told, *letters("!")]


def test_fitness_is_the_mean_reward_of_a_member_s_completions(task):
    data = task.batch((), 0, jax.random.key(0))
    answers = [task.data.train[i].columns["answer"] for i in data.rows.tolist()]
    done = texts(task, *answers, answers[0], "x", "y", "z")
    stacked = jax.tree.map(lambda x: x.reshape(3, 2, *x.shape[1:]), done)
    fitness, figures = task.score({"completions": stacked}, data)
    assert fitness.tolist() == [1, 0.5, 0]
    assert figures["solved"] == figures["reward"] == 0.5


def test_groups_have_prompts_of_their_own_and_are_centred(task):
    grouped = dataclasses.replace(task, groups=2)
    data = grouped.batch((), 0, jax.random.key(0))
    assert data.tokens.shape == (2, 2, task.prompt_tokens)
    assert len({*data.rows.reshape(-1).tolist()}) == 4
    rows = [grouped.data.train[i].columns["answer"] for i in data.rows[0].tolist()]
    done = texts(grouped, *rows, rows[0], "x", *["y"] * 4)
    stacked = jax.tree.map(lambda x: x.reshape(4, 2, *x.shape[1:]), done)
    fitness, figures = grouped.score({"completions": stacked}, data)
    np.testing.assert_allclose(fitness, [0.25, -0.25, 0, 0])
    assert figures["reward"] == 3 / 8


@pytest.mark.slow
@pytest.mark.parametrize("sampled", [False, True])
def test_a_step_is_the_same_whenever_it_is_made(checkpoint, sampled):
    sampling = {"temperature": 1.0, "completions": 2} if sampled else {}
    experiment = prepare(config(checkpoint, **sampling))
    task, algorithm = experiment.task, experiment.algorithm
    state = initial_state(experiment)
    data = task.batch((), 0, state.key)
    one, figures = algorithm.step(state, data)
    two, _ = algorithm.step(state, data)
    assert {"reward", "solved", "length", "ended"} <= figures.keys()
    jax.tree.map(np.testing.assert_array_equal, one.params, two.params)


@pytest.mark.slow
def test_grpo_learns_on_the_same_task(checkpoint):
    task = {"temperature": 1.0, "completions": 2, "grpo": {"minibatches": 2}}
    experiment = prepare(config(checkpoint, "grpo", **task))
    state = initial_state(experiment)
    state, figures = experiment.algorithm.step(
        state, experiment.task.batch((), 0, state.key)
    )
    assert int(state.step) == 1
    assert figures["samples"] <= 2 * 2 * 3
    assert np.isfinite(figures["gradient/norm"])


@pytest.mark.slow
def test_a_likelihood_is_that_of_the_answers_tokens(checkpoint):
    task = Likelihood(checkpoint=checkpoint, examples=2, **ADDITION)
    params, data = task.init(jax.random.key(0)), task.batch((), 0, jax.random.key(0))
    fitness, _, aux = task.evaluate(params, data, (), jax.random.key(0))
    model, total, count = task.language_model, 0.0, 0
    for tokens, start, end in zip(*data, strict=True):
        hidden = model.hidden(params, jnp.asarray(tokens[None, :end]))
        likely = jax.nn.log_softmax(model.head(params, hidden)[0])
        total += sum(float(likely[i - 1, tokens[i]]) for i in range(start, end))
        count += int(end - start)
    assert float(fitness) == pytest.approx(total / count, rel=1e-5)
    assert int(aux["steps"]) == count
    assert tiny_llm.END in data.tokens[0]
    assert task.validate(params, (), jax.random.key(0))["loss"] > 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"checkpoint": "nowhere"}, "nowhere lacks .*name a directory"),
        ({"model": "qwen9"}, "'qwen9' is not known; there is .*qwen2.5-0.5b"),
        ({"completions": 2}, "all the same at temperature 0"),
        ({"prompts": 0}, "prompts: expected at least 1, got 0"),
        ({"prompt_tokens": 999}, "999 \\+ 3 do not fit the model's context of 256"),
        ({"model": "qwen2.5-0.5b"}, "which is not qwen2.5-0.5b"),
    ],
)
def test_settings_that_cannot_be_are_refused(checkpoint, settings, said):
    with pytest.raises(UserError, match=said):
        Reasoning(**{"checkpoint": checkpoint, "workers": 0, **ADDITION, **settings})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prompt_tokens": 5}, "expected prompts of 1 to 5 tokens, got 6 of"),
        ({"reward": "countdown"}, "reads a column 'numbers'"),
        ({"dataset": "none.jsonl", "dataset_options": {}}, "no file 'none.jsonl'"),
    ],
)
def test_what_a_run_lacks_is_told_before_it(checkpoint, settings, said):
    task = Reasoning(**{"checkpoint": checkpoint, "workers": 0, **ADDITION, **settings})
    with pytest.raises(UserError, match=said):
        task.ready()


def test_answers_that_would_be_cut_off_are_refused_before_a_run(checkpoint):
    short = ADDITION | {"new_tokens": 1}
    with pytest.raises(UserError, match=r"answers of at most 1 tokens.* got [23] of"):
        Likelihood(checkpoint=checkpoint, examples=2, **short).ready()


def test_files_that_are_missing_are_named_with_how_to_get_them(capsys, tmp_path):
    where = str(tmp_path / "model")
    command = ["train", "configs/reasoning/qwen2.5_0.5b_countdown.yaml"]
    assert main([*command, "--checkpoint", where, "--output", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert f"{where} lacks config.json" in said
    assert "hf download Qwen/Qwen2.5-0.5B-Instruct" in said
    assert not list(tmp_path.iterdir())
