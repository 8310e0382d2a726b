"""`eggroll probe`: which sigma, learning rate and population to begin with."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from eggroll.cli.saying import say
from eggroll.cli.texts import SETTINGS_HELP
from eggroll.errors import UserError


OPTIONS = ("help", "sigmas", "ranks", "repeats", "plot")


def describe(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command."""
    about = "try sigmas before training, and propose settings"
    made = command("probe", _probe, about, epilog=SETTINGS_HELP)
    made.usage = (
        "eggroll probe CONFIG [--sigmas 0.01,0.1] [--ranks 1,4] [--SETTING VALUE ...]"
    )
    made.add_argument("config", metavar="CONFIG", help="a YAML file")
    made.add_argument("--sigmas", help="with commas; a sixteenth to 16 times its own")
    made.add_argument("--ranks", help="with commas; its own")
    made.add_argument("--repeats", type=int, default=4, help="batches of each; 4")
    made.add_argument("--plot", type=Path, help="draw it into a .png")


def _probe(options: argparse.Namespace, overrides: Sequence[tuple[str, str]]) -> int:
    from eggroll.config import load
    from eggroll.training import probe

    config = load(options.config, overrides, name=Path(options.config).stem)
    own = config.strategy.sigma.start
    sigmas = _numbers(options.sigmas, "sigmas", float)
    sigmas = sigmas or [own * factor for factor in probe.FACTORS]
    ranks = _numbers(options.ranks, "ranks", int)
    points = probe.probe(config, sigmas, ranks, options.repeats)
    found = probe.proposal(points, config)
    header = ("sigma", "rank", "fitness", "spread", "tied", "equal pairs", "agreement")
    say("".join(f"{name:>13}" for name in header))
    for one in points:
        rank = "full" if one.rank is None else one.rank
        say(
            f"{one.sigma:>13.4g}{rank:>13}{one.mean:>13.5g}{one.spread:>13.4g}"
            f"{one.tied:>13.3f}{one.equal:>13.3f}{one.agreement:>13.3f} "
            f"± {one.error:.3f}{' <' if one == found.best else ''}"
        )
    _tell(found, points, say)
    if options.plot is not None:
        draw(points, found.best.sigma, options.plot)
        say(str(options.plot))
    return 0


def _tell(found: Any, points: Sequence[Any], say: Callable[[str], None]) -> None:
    from eggroll.training import probe

    best = found.best
    if max(one.values for one in points) <= 2:
        say(
            f"two rewards: {best.equal:.0%} of the pairs would have no advantage at "
            f"sigma {best.sigma:.4g} ({probe.by_chance(best.mean):.0%} if members won "
            f"{best.mean:.0%} by chance): more prompts a member, or partial credit, "
            "leave fewer"
        )
    if not found.is_signal:
        say(
            "no sigma shows a signal: the halves of the population agree on nothing, "
            "so take what follows as a guess; try a larger --population or --repeats"
        )
    say(
        f"proposed: --sigma {best.sigma:.3g} --learning-rate {found.learning_rate:.2g} "
        f"--population {found.population}"
    )
    say(
        f"(a step then moves weights by {probe.STEP:g} sigma, and half-populations "
        f"agree by {probe.AGREEMENT:g} at least)"
    )


def _numbers(text: str | None, name: str, kind: Callable[[str], Any]) -> list[Any]:
    try:
        return [kind(one) for one in (text or "").split(",") if one]
    except ValueError:
        raise UserError(
            f"--{name}: expected numbers with commas, got {text!r}"
        ) from None


def draw(points: Sequence[Any], chosen: float, path: Path) -> None:
    """Draws spread, ties and agreement against sigma, a line for each rank."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from eggroll.runs import curves

    panels = {"spread": "spread of fitness", "tied": "tied members", "agreement": ""}
    panels["agreement"] = "agreement of halves"
    with rc_context(curves.STYLE):
        figure = Figure(figsize=(11, 3.6), layout="constrained")
        axes = figure.subplots(1, len(panels))
        for panel, (name, title) in zip(axes, panels.items(), strict=True):
            panel.set(title=title, xscale="log", xlabel="sigma")
            panel.axvline(chosen, color="#6b7280", linestyle=(0, (4, 3)), linewidth=1)
            for rank, colour in zip(
                dict.fromkeys(one.rank for one in points), curves.COLOURS, strict=False
            ):
                own = [one for one in points if one.rank == rank]
                error = [one.error for one in own] if name == "agreement" else None
                panel.errorbar(
                    [one.sigma for one in own],
                    [getattr(one, name) for one in own],
                    error,
                    color=colour,
                    marker="o",
                    markersize=3,
                    label="full rank" if rank is None else f"rank {rank}",
                )
        if all(one.spread > 0 for one in points):
            axes[0].set_yscale("log")
        axes[0].legend()
        curves.save(figure, path)
