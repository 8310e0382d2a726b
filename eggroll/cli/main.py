"""The command line: `eggroll train`, `sweep`, `eval`, `plot`, ....

Mistakes that the user can mend are told in one line and exit with 2; faults of the
library keep their traceback. What only commands need is imported once one runs: help
needs none of it, and where a package is missing, the extra that brings it is told.
"""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import eggroll
from eggroll.cli import (
    advice,
    again,
    compiled,
    completion,
    distributed,
    probing,
    speaker,
    troubles,
)
from eggroll.cli.saying import say
from eggroll.cli.texts import CACHE_HELP, SETTINGS_HELP, SPEAKER_HELP
from eggroll.errors import UserError


Overrides = list[tuple[str, str]]

# The options of the commands that take settings, too, and are none of these.
OWN_OPTIONS = {
    "train": ("help", "resume", "trust", *distributed.OPTIONS),
    "info": ("help",),
    "probe": probing.OPTIONS,
    "sweep": ("help", "trials", "seeds"),
    "check-reward": ("help",),
    "replay": again.OPTIONS,
}
# What the extra `cli` brings, by the names under which it is imported.
EXTRA = ("PIL", "matplotlib", "orbax", "tqdm", "yaml")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # The tasks and models of a clone are found although only `eggroll` is installed.
    sys.path.insert(0, str(Path.cwd()))
    try:
        if speaker.is_for_it(arguments):
            compiled.keep()
            return speaker.speak(arguments[1:])
        words, (arguments, overrides) = arguments, _split(arguments)
        options = _parser().parse_args(arguments or ["--help"])
        options.words = words
        compiled.keep()
        return options.run(options, overrides)
    except UserError as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse(troubles.in_words(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA:
            raise
        return _refuse(f"{package} is not installed: pip install 'eggroll-jax[cli]'")
    except KeyboardInterrupt:
        print("eggroll: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


def _refuse(reason: str) -> int:
    print(f"eggroll: {reason}", file=sys.stderr)
    return 2


def _split(arguments: list[str]) -> tuple[list[str], Overrides]:
    """Parts the settings (`--name value`, `--name=value`) from the command's own."""
    if not arguments or arguments[0] not in OWN_OPTIONS:
        return arguments, []
    own, overrides, rest = [], [], iter(arguments)
    for word in rest:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name in OWN_OPTIONS[arguments[0]]:
            own.append(word)
            continue
        value = value if equals else next(rest, None)
        if value is None or (value.startswith("--") and not equals):
            raise UserError(f"--{name} needs a value: --{name} VALUE")
        overrides.append((name, value))
    return own, overrides


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="eggroll",
        description="Evolution strategies for any JAX model.",
        epilog=CACHE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = f"%(prog)s {eggroll.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, run, description, **more):
        made = commands.add_parser(
            name,
            help=description,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **more,
        )
        made.set_defaults(run=run)
        return made

    _describe_training(command)
    _describe_looking(command)
    advice.describe(command)
    probing.describe(command)
    completion.describe(command, parser, tuple(OWN_OPTIONS))
    again.describe(command)
    return parser


def _describe_training(command: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands that take settings."""
    train = command("train", _train, "start or resume a run", epilog=SETTINGS_HELP)
    train.usage = "eggroll train (CONFIG | --resume RUN) [--SETTING VALUE ...]"
    train.add_argument("config", metavar="CONFIG", nargs="?", help="a YAML file")
    train.add_argument("--resume", metavar="RUN", help="go on with a run's directory")
    _add_trust(train)
    distributed.describe(train)

    about = "tell what a config would run, and run nothing"
    info = command("info", _info, about, epilog=SETTINGS_HELP)
    info.usage = "eggroll info CONFIG [--SETTING VALUE ...]"
    info.add_argument("config", metavar="CONFIG", help="a YAML file")

    about = "random search over the section `sweep` of a config; again to go on"
    sweep = command("sweep", _sweep, about, epilog=SETTINGS_HELP)
    sweep.usage = "eggroll sweep CONFIG [--trials 20] [--seeds 3] [--SETTING VALUE ...]"
    sweep.add_argument("config", metavar="CONFIG", help="a YAML file")
    sweep.add_argument("--trials", type=int, default=20, help="draws of settings; 20")
    sweep.add_argument("--seeds", type=int, default=3, help="runs of each; 3")

    about = "attack a task's reward before a run does"
    check = command("check-reward", _check_reward, about, epilog=SETTINGS_HELP)
    check.usage = "eggroll check-reward CONFIG [--SETTING VALUE ...]"
    check.add_argument("config", metavar="CONFIG", help="a YAML file")


def _describe_looking(command: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands that look at runs."""

    def from_checkpoint(name, run, description, another, **more):
        made = command(name, run, description, **more)
        made.add_argument("directory", metavar="RUN")
        made.add_argument("--step", type=int, help="of the checkpoint; the newest")
        made.add_argument("--seed", type=int, default=0, help=f"another {another}; 0")
        _add_trust(made)
        return made

    about = "validate the parameters of a run afresh"
    from_checkpoint("eval", _evaluate, about, "validation")

    about = "continue a text with a run's language model"
    more = {"epilog": SPEAKER_HELP}
    sample = from_checkpoint("sample", _sample, about, "text", **more)
    sample.usage = "eggroll sample (RUN | --model FILE_OR_DIR) [--OPTION VALUE ...]"
    sample.add_argument("--prompt", default="", help="what to continue; nothing")
    sample.add_argument("--length", type=int, default=400, help="in bytes; 400")
    sample.add_argument(
        "--temperature", type=float, default=1.0, help="0 for the likeliest byte; 1"
    )

    about = "film an episode of a run's policy"
    render = from_checkpoint("render", _render, about, "episode")
    render.add_argument(
        "--output", type=Path, help=".gif, or .png for a strip; RUN/episode.gif"
    )
    render.add_argument("--steps", type=int, help="at most; the whole episode")

    about = "write what a run learnt for others to read"
    export = command("export", _export, about)
    export.add_argument("directory", metavar="RUN")
    export.add_argument("--step", type=int, help="of the checkpoint; the newest")
    _add_trust(export)
    export.add_argument(
        "--format",
        choices=("hf", "lora", "safetensors"),
        required=True,
        help="for transformers, for PEFT, or arrays by name, of any run",
    )
    export.add_argument(
        "--output", type=Path, help="a new directory; RUN/exports/step-STEP-FORMAT"
    )
    export.add_argument(
        "--member", type=int, help="of the step's population; what was learnt"
    )
    export.add_argument("--rank", type=int, help="of what was learnt, as lora; 16")

    plot = command("plot", _plot, "draw the curve of each run")
    plot.add_argument("directories", metavar="RUN", nargs="+")

    compare = command("compare", _compare, "runs against time, samples and steps")
    compare.add_argument("directories", metavar="RUN", nargs="+")
    compare.add_argument(
        "--output", type=Path, default=Path("compare.png"), help="compare.png"
    )


def _add_trust(command: argparse.ArgumentParser) -> None:
    about = "run the code that a RUN of somebody else names"
    command.add_argument("--trust", action="store_true", help=about)


def _saved(options: argparse.Namespace) -> Any:
    from eggroll.cli.commands import Saved

    return Saved(options.directory, options.step, options.trust)


def _train(options: argparse.Namespace, overrides: Overrides) -> int:
    if (options.config is None) == (options.resume is None):
        raise UserError("train needs either a CONFIG, or --resume and a RUN")
    if options.distributed:
        if not distributed.is_worker():
            return distributed.watch(options.words, options.patience, say)
        distributed.join(options.coordinator, options.processes, options.process)
    from eggroll.cli import commands

    if options.resume is not None:
        return commands.resume(options.resume, overrides, options.trust, say)
    return commands.train(options.config, overrides, say)


def _info(options: argparse.Namespace, overrides: Overrides) -> int:
    from eggroll.cli import plan

    return plan.info(options.config, overrides, say)


def _sweep(options: argparse.Namespace, overrides: Overrides) -> int:
    from eggroll.cli import commands

    trials, seeds = options.trials, options.seeds
    return commands.sweep(options.config, overrides, trials, seeds, say)


def _check_reward(options: argparse.Namespace, overrides: Overrides) -> int:
    from eggroll.cli import commands

    return commands.check_reward(options.config, overrides, say)


def _evaluate(options: argparse.Namespace, _: Overrides) -> int:
    from eggroll.cli import commands

    return commands.evaluate(_saved(options), options.seed, say)


def _sample(options: argparse.Namespace, _: Overrides) -> int:
    from eggroll.cli import commands

    wanted = commands.Sample(
        options.prompt.encode(), options.length, options.temperature, options.seed
    )
    return commands.sample(_saved(options), wanted, say)


def _render(options: argparse.Namespace, _: Overrides) -> int:
    from eggroll.cli import commands

    wanted = commands.Film(options.output, options.steps, options.seed)
    return commands.render(_saved(options), wanted, say)


def _export(options: argparse.Namespace, _: Overrides) -> int:
    from eggroll.cli import exporting

    wanted = exporting.Wanted(
        options.format, options.output, options.member, options.rank
    )
    return exporting.export(_saved(options), wanted, say)


def _plot(options: argparse.Namespace, _: Overrides) -> int:
    from eggroll.cli import commands

    return commands.plot(options.directories, say)


def _compare(options: argparse.Namespace, _: Overrides) -> int:
    from eggroll.cli import commands

    return commands.compare(options.directories, options.output, say)
