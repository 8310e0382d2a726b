"""The demonstration: an integer language model learns to write a little Python.

    python -m tasks.language.demo configs/language/demo.yaml

Prints a text from the untrained model and one from the trained, and fails unless the
held-out part takes 0.4 bits a byte less than the entropy of its single bytes.
"""

import sys
from collections.abc import Sequence

from eggroll.config import Config, load
from eggroll.runs import create, curves
from eggroll.training import (
    Purpose,
    State,
    initial_state,
    key_for,
    prepare,
    train,
)
from tasks.language.task import Language


MARGIN = 0.4  # bits a byte below the unigram entropy
PROMPT = b"def "


def main(arguments: Sequence[str]) -> int:
    """Runs the demonstration.

    Args:
        arguments: a config, then pairs of settings that it shall change.

    Returns:
        0 if the figure was reached, else 1.
    """
    path, *changes = arguments
    pairs = zip(changes[0::2], changes[1::2], strict=True)
    overrides = [(name.removeprefix("--"), value) for name, value in pairs]
    config = load(path, overrides, name="demo-language")
    experiment = prepare(config)
    task = experiment.task
    assert isinstance(task, Language)
    wanted = task.reference["unigram"] - MARGIN
    say(
        f"corpus: {len(task.text.train):,} bytes to learn from; the held-out part takes"
    )
    say("  " + ", ".join(f"{k} {v:.2f}" for k, v in task.reference.items()))
    write(task, config, initial_state(experiment), "before")
    run = create(config)
    outcome = train(experiment, run, report=say)
    write(task, config, outcome.state, "after")
    reached = outcome.validation["bits/byte"]
    say(f"curve: {curves.curve(run, task)}")
    say(
        f"{reached:.3f} bits/byte after {outcome.progress.seconds:.0f} s; "
        f"wanted: {wanted:.3f}"
    )
    return int(reached > wanted)


def write(task: Language, config: Config, state: State, when: str) -> None:
    """Prints a text from the model of a state."""
    key = key_for(state.key, Purpose.EVALUATE, config.seed)
    made = b"".join(task.sample(state.params, PROMPT, 240, key, temperature=0.75))
    say(f"--- {when} ---\n{(PROMPT + made).decode(errors='replace')}\n---")


def say(text: str) -> None:
    """Writes a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
