"""A report is one file that shows a run, whoever made it, and runs nothing."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from eggroll import runs
from eggroll.cli.main import main
from eggroll.config import load
from eggroll.runs import metrics, panels


ROOT = Path(__file__).parent.parent.parent
VOID = {"meta", "img", "br"}
HOSTILE = "<script>alert('1')</script>&\"'$\\x$"


class Page(HTMLParser):
    """Refuses what is not closed, and collects the rest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def a_run(path: Path, settings: str, figure: str = "error", steps: int = 30) -> Path:
    """A run's directory, as training leaves it."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.yaml").write_text(settings)
    facts = {"samples": HOSTILE, "reference": {HOSTILE: 0.5}, "leaves": [HOSTILE]}
    (path / "task.json").write_text(json.dumps(facts))
    sink = metrics.JsonLines(path / "metrics.jsonl")
    for step in range(steps):
        row = {
            f"validation/{figure}": 1 / (1 + step),
            f"validation/{figure}_sem": 0.1,
            "fitness/mean": -1 / (1 + step),
            "fitness/spread": 0.1,
            "fitness/best": 0.0,
            "update/largest": 3.0,
            "update/leaf": 0.0,
            "update/ratio": 0.01,
            "samples": 10.0 * step,
        }
        sink.write(step, row)
    sink.close()
    return path


def reported(path: Path, *words: str) -> Page:
    assert main(["report", str(path), *words]) == 0
    return Page((path / "report.html").read_text(encoding="utf-8"))


def test_a_report_shows_all_there_is_of_a_run(tmp_path, capsys):
    words = [("output", str(tmp_path))]
    made = runs.create(load(ROOT / "configs/supervised/regression.yaml", words))
    path = a_run(made.path, (made.path / "config.yaml").read_text())
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(path / "episode.gif", save_all=True, append_images=frames[1:])
    page = reported(path)
    assert capsys.readouterr().out == f"{path}/report.html\n"
    kinds = [v[:14] for name, v in page.attributes if name == "src"]
    assert kinds == ["data:image/png", "data:image/png", "data:image/gif"]
    assert "one leaf explodes: the leaf <script>" in page.text
    assert "rank 1, " in page.text  # of the coverage
    assert "learning_rate: 0.01" in page.text


def test_what_a_stranger_wrote_is_text(tmp_path):
    path = tmp_path / "<i>run"
    task = {"class": "os:system", "note": HOSTILE}
    page = reported(a_run(path, yaml.safe_dump({"task": task}), figure=HOSTILE))
    assert "script" not in page.tags
    assert "i" not in page.tags
    assert page.text.count("alert(") >= 4  # in settings, samples, figures, leaves
    assert "not looked at: " in page.text


def test_nothing_is_fetched_from_anywhere(tmp_path):
    page = reported(a_run(tmp_path / "run", "task: {class: 'os:system'}"))
    links = [v for name, v in page.attributes if name in ("src", "href", "action")]
    assert all(link.startswith("data:") for link in links)
    assert any("default-src 'none'" in (v or "") for _, v in page.attributes)


@pytest.mark.parametrize("steps", [0, 1])
def test_a_run_that_has_just_begun_has_a_report(tmp_path, steps):
    page = reported(a_run(tmp_path / "run", "task: {class: 'os:system'}", steps=steps))
    assert "There are too few steps to tell." in page.text
    assert ("there is nothing to draw" in page.text) == (steps == 0)


def test_a_report_that_cannot_be_written_says_where(tmp_path, capsys):
    path = a_run(tmp_path / "run", "task: {class: 'os:system'}")
    (tmp_path / "file").touch()
    words = ["report", str(path), "--output", str(tmp_path / "file" / "x.html")]
    assert main(words) == 2
    assert "choose another file with --output" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "nothing")]) == 2
    assert "is no run" in capsys.readouterr().err


def test_bands_are_the_quantiles_of_the_parts_of_a_run():
    steps = np.arange(1000.0)
    table = np.stack([steps, np.tile(np.arange(40.0), 25)], axis=1)
    at, low, middle, high = panels.bands(table)
    assert len(at) == panels.WINDOWS
    np.testing.assert_allclose(at, np.arange(25) * 40 + 19.5)
    np.testing.assert_allclose([low[3], middle[3], high[3]], [3.9, 19.5, 35.1])


def test_figures_that_no_row_has_are_not_drawn():
    rows = [{"step": i, "a": 1.0} for i in range(3)]
    assert panels.panels(rows, {"b": "b"}) is None
    figure = panels.panels(rows, {"a": "A", "b": "B"})
    assert figure is not None
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.axison] == ["A"]
