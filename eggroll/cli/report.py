"""A run as one HTML file that needs nothing else: no network, no script."""

import base64
import html
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eggroll import runs, training
from eggroll.cli import plan
from eggroll.cli.advice import SIGNS, signs
from eggroll.errors import UserError
from eggroll.runs import Outline, atomic, curves, metrics, panels
from eggroll.training import doctor


LONGEST = 200_000  # characters of a text, and
LARGEST = 30 * 2**20  # bytes of a film that are shown
FILMS = {".gif": "image/gif", ".png": "image/png"}
FACTS = {
    "step": "steps",
    "seconds": "seconds, in all",
    "training_seconds": "seconds in steps, once compiled",
    "evaluations": "evaluations",
    "samples": "",  # called as the task calls them
    "fitness/best_ever": "best fitness of a member",
}
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1f2937; max-width: 60em;
  margin: 2em auto; padding: 0 1em; }}
h1 {{ font-size: 1.5em; }} h2 {{ font-size: 1.1em; margin-top: 2em;
  border-bottom: 1px solid #e5e7eb; }}
img {{ max-width: 100%; }}
pre {{ background: #f9fafb; padding: 1em; overflow: auto; font-size: 12px; }}
table {{ border-collapse: collapse; }}
td, th {{ padding: .15em 1.2em .15em 0; text-align: left; font-weight: normal; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
th, .quiet {{ color: #6b7280; }}
.finding {{ border-left: 3px solid #d1570c; padding-left: 1em; }}
</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""


def write(directory: Path, output: Path | None, trust: bool = False) -> Path:
    """Writes the report of a run, and returns its path.

    Args:
        directory: Of the run.
        output: Of the file; None for `report.html` of the run.
        trust: Whether what the run names may be imported, though made elsewhere.

    Raises:
        UserError: There is no run, or the file cannot be written.
    """
    outline, settings = runs.outline(directory), runs.settings_of(directory)
    rows, troubles = metrics.examine(outline.metrics)
    case = doctor.Case(rows, settings, outline.maximise, outline.leaves)
    parts = {
        "What it came to": _facts(outline, rows),
        "Curve": _curve(outline),
        "What the doctor says": _doctor(case, troubles),
        "Diagnostics": _diagnostics(case),
        "A film": _film(directory),
        "Coverage": _coverage(directory, trust),
        "Settings": _text((directory / "config.yaml").read_text("utf-8", "replace")),
    }
    body = "\n".join(
        f"<h2>{_escaped(name)}</h2>\n{part}" for name, part in parts.items() if part
    )
    path = output or directory / "report.html"
    title = _escaped(directory.resolve().name)
    try:
        atomic.write_text(path, PAGE.format(title=title, body=body))
    except OSError as error:
        raise UserError(
            f"output: {path} cannot be written ({error.strerror}): choose another "
            "file with --output"
        ) from error
    return path


def _escaped(text: object) -> str:
    return html.escape(str(text))


def _paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{_escaped(text)}</p>'


def _text(text: str) -> str:
    cut = "\n..." if len(text) > LONGEST else ""
    return f"<pre>{_escaped(text[:LONGEST] + cut)}</pre>"


def _table(rows: Iterator[tuple[str, float, str]]) -> str:
    lines = (
        f'<tr><th>{_escaped(name)}</th><td class="number">{value:,.6g}</td>'
        f'<td class="quiet">{_escaped(about)}</td></tr>'
        for name, value, about in rows
    )
    return f"<table>{''.join(lines)}</table>"


def _facts(outline: Outline, rows: Sequence[metrics.Row]) -> str:
    last: dict[str, Any] = {}
    for row in rows:
        last |= row
    names = {**FACTS, "samples": outline.samples}
    names |= {
        name: f"{name.removeprefix(curves.PREFIX)}, as last validated"
        for name in last
        if name.startswith(curves.PREFIX)
    }
    found = ((about, last[name], "") for name, about in names.items() if name in last)
    return _paragraph(f"algorithm {outline.algorithm}") + _table(found)


def _curve(outline: Outline) -> str:
    try:
        return _figure(curves.curve_figure(outline, outline), "the curve")
    except UserError as error:
        return _paragraph(str(error), "quiet")


def _diagnostics(case: doctor.Case) -> str:
    figure = panels.panels(case.rows, {name: name for name in SIGNS})
    drawn = "" if figure is None else _figure(figure, "diagnostics over the steps")
    rows = ((name, case.late(name), about) for name, about in signs(case).items())
    return f"{drawn}{_paragraph('Medians of the second half:', 'quiet')}{_table(rows)}"


def _doctor(case: doctor.Case, troubles: Sequence[str]) -> str:
    said = [_paragraph(trouble, "finding") for trouble in troubles]
    for one in doctor.findings(case):
        words = f"{one.name}: {one.words}. Try: {one.remedy}."
        said.append(_paragraph(words, "finding"))
    if case.steps < doctor.FEWEST:
        said.append(_paragraph("There are too few steps to tell.", "quiet"))
    return "".join(said) or _paragraph("Nothing is known to be wrong.")


def _film(directory: Path) -> str:
    for suffix, kind in FILMS.items():
        path = directory / f"episode{suffix}"
        if path.is_file() and path.stat().st_size <= LARGEST:
            return _image(path.read_bytes(), kind, "an episode")
    return ""


def _coverage(directory: Path, trust: bool) -> str:
    try:
        experiment = training.prepare(runs.load(directory, trust=trust).config)
    except UserError as error:
        return _paragraph(f"not looked at: {error}"[:400], "quiet")
    strategy = experiment.algorithm.strategy
    return "" if strategy is None else _text(str(plan.coverage_of(experiment)))


def _figure(figure: Any, about: str) -> str:
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=150)
    return _image(drawn.getvalue(), "image/png", about)


def _image(data: bytes, kind: str, about: str) -> str:
    text = base64.b64encode(data).decode("ascii")
    return f'<img alt="{_escaped(about)}" src="data:{kind};base64,{text}">'
