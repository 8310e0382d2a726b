import json

import numpy as np
import pytest
from texts import folder_of

from eggroll import UserError
from tasks.language.corpus import load
from tasks.language.lanes import Lanes, references


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EGGROLL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    return str(folder_of(tmp_path / "texts"))


# ------------------------------------------------------------------------- corpora


def test_a_folder_is_split_by_file_whatever_other_files_there_are(tmp_path, folder):
    before = load(folder)
    assert before.train[0] == before.validation[0] == 0
    assert bytes(before.train).count(0) + bytes(before.validation).count(0) == 40
    (tmp_path / "texts" / "one more.txt").write_text("x" * 1000)
    after = load(folder)
    old, new = (set(bytes(c.validation).split(b"\0")) for c in (before, after))
    assert old <= new
    assert len(before.train) + len(before.validation) < len(after.train) + len(
        after.validation
    )


def test_a_corpus_is_built_once_and_memory_mapped(folder, monkeypatch):
    first = load(folder)
    monkeypatch.setattr("tasks.language.corpus._build", None)
    second = load(folder)
    assert isinstance(second.train, np.memmap)
    np.testing.assert_array_equal(first.train, second.train)


def test_a_single_file_keeps_its_end_for_validation(tmp_path):
    file = tmp_path / "play.txt"
    file.write_bytes(b"\n\n".join(b"SPEAKER %d:\nspeech" % i for i in range(100)))
    corpus = load(str(file), paragraphs=10)
    assert bytes(corpus.train).count(0) == 9
    assert bytes(corpus.validation).startswith(b"\0SPEAKER 90:")
    whole = load(str(file))
    assert len(whole.validation) / len(whole.train) == pytest.approx(1 / 9, rel=0.01)


def test_bytes_are_bytes(tmp_path):
    file = tmp_path / "data.bin"
    file.write_bytes(bytes(range(256)) * 10)
    corpus = load(str(file))
    assert {*bytes(corpus.train)} == set(range(256))


def test_pythons_own_library_is_text_enough_for_everyone():
    corpus = load("python")
    assert len(corpus.train) > 4e6
    assert 0.02 < len(corpus.validation) / len(corpus.train) < 0.3
    lines = references(corpus.validation)
    assert lines["gzip"] < lines["bigram"] < lines["unigram"] < lines["uniform"]
    assert b"def " in bytes(corpus.validation)


@pytest.mark.parametrize("own_split", [True, False])
def test_hugging_face_datasets_are_read_by_their_loader(tmp_path, own_split):
    pytest.importorskip("datasets")
    for name in ("train", "validation"):
        rows = [{"body": f"{name} document {i}"} for i in range(50)]
        text = "\n".join(json.dumps(row) for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    parts = ("train", "validation") if own_split else ("train",)
    options = {
        "data_files": {name: str(tmp_path / f"{name}.jsonl") for name in parts},
        "column": "body",
        "cache_dir": str(tmp_path / "huggingface"),
    }
    corpus = load("huggingface:json", options=options)
    validation = bytes(corpus.validation)
    assert validation.startswith(b"\0validation document 0") == own_split
    assert len(bytes(corpus.train).split(b"\0")) - 1 <= 50


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing", "no file or folder 'missing'"),
        ("empty", "holds no files"),
        ("blank.txt", "no text is left for train"),
    ],
)
def test_sources_without_text_are_refused(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank.txt").touch()
    with pytest.raises(UserError, match=message):
        load(source)


def test_files_of_which_none_is_held_out_are_refused(tmp_path):
    for name in ("2.txt", "3.txt", "4.txt"):
        (tmp_path / name).write_text("text")
    with pytest.raises(UserError, match="no text is left for validation"):
        load(str(tmp_path))


def test_options_without_a_dataset_are_refused(folder):
    with pytest.raises(UserError, match="corpus_options are for Hugging Face"):
        load(folder, options={"split": "train"})


# --------------------------------------------------------------------------- lanes


def test_lanes_are_contiguous_and_start_over():
    text = np.arange(230, dtype=np.uint8)
    lanes = Lanes(text, lanes=2, tokens=10)
    assert lanes.steps == 11
    read = np.concatenate([lanes.read(step)[:, :-1] for step in range(11)], axis=1)
    np.testing.assert_array_equal(read, text.reshape(2, 115)[:, :110])
    np.testing.assert_array_equal(lanes.read(0)[:, -1], lanes.read(1)[:, 0])
    np.testing.assert_array_equal(lanes.read(11), lanes.read(0))
    np.testing.assert_array_equal(lanes.read(3, slice(1, 2)), lanes.read(3)[1:])


def test_a_text_shorter_than_one_batch_is_refused():
    with pytest.raises(UserError, match=r"too short: 4 lanes of 10 \+ 1 bytes need 44"):
        Lanes(np.zeros(43, np.uint8), lanes=4, tokens=10)


def test_reference_lines_are_entropies():
    text = np.frombuffer(b"abababab" * 500, np.uint8)
    lines = references(text)
    assert lines["unigram"] == pytest.approx(1.0)
    assert lines["bigram"] == pytest.approx(0.0, abs=1e-3)
    assert lines["gzip"] < 0.1
