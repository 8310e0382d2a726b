"""Tokens are those of a slow implementation; conversations are as templates say."""

import collections
import itertools
import json
import re

import gguf_files
import numpy as np
import pytest


tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("jinja2")

from models.llm import tokenizer, tokenizer_files  # noqa: E402


TEMPLATE = (
    "{%- for m in messages -%}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}no thoughts\n"
    "{% endif %}{% endif %}"
)
TEXT = "It's 2024: the theme, they say, isn't  what\n\n it WAS in 1999, 12345 then. \t"
ASKED = [{"role": "user", "content": "hello"}]


def letters():
    """What stands for each byte in a vocabulary: itself, where that can be seen."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in seen]
    hidden = {byte: chr(256 + n) for n, byte in enumerate(rest)}
    return {byte: hidden.get(byte, chr(byte)) for byte in range(256)}


LETTERS = letters()


def pieces(rule, text):
    """A text of ASCII, cut by a rule."""
    old = (
        r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+"
    )
    new = (
        r"'(?:[sSdDmMtT]|[lL]{2}|[vV][eE]|[rR][eE])|[^\r\nA-Za-z0-9]?[A-Za-z]+|[0-9]{1,#}"
        r"| ?[^\sA-Za-z0-9]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    if rule == "smollm":
        parts = [part for part in re.split("([0-9])", text) if part]
        return [piece for part in parts for piece in re.findall(old, part)]
    form = {"gpt-2": old, "qwen2": new.replace("#", "1")}
    return re.findall(form.get(rule, new.replace("#", "3")), text)


def spelt(piece):
    return [LETTERS[byte] for byte in piece.encode()]


def merged(parts, ranks):
    """Merges the pair that was learnt first, until there is none."""
    while True:
        pairs = [pair for pair in itertools.pairwise(parts) if pair in ranks]
        if not pairs:
            return parts
        first, second = min(pairs, key=ranks.__getitem__)
        out = []
        for part in parts:
            if out and (out[-1], part) == (first, second):
                out[-1] = first + second
            else:
                out.append(part)
        parts = out


def learnt(rule, text, count=40):
    """The most frequent pairs of a text, one after the other."""
    words, ranks = [spelt(piece) for piece in pieces(rule, text)], {}
    for rank in range(count):
        pairs = collections.Counter(p for w in words for p in itertools.pairwise(w))
        if not pairs:
            break
        ranks[max(pairs, key=lambda pair: (pairs[pair], pair))] = rank
        words = [merged(word, ranks) for word in words]
    return ranks


def vocabulary(rule, **others):
    ranks = learnt(rule, TEXT)
    words = dict.fromkeys("".join(pair) for pair in ranks)
    tokens = [
        *LETTERS.values(),
        *words,
        "<|im_start|>",
        "<|im_end|>",
        "<tool>",
        "<|pad|>",
    ]
    kinds = [1] * (len(tokens) - 4) + [3, 3, 4, 3]
    known = dict(
        tokens=tokens,
        token_type=kinds,
        merges=[" ".join(pair) for pair in ranks],
        bos_token_id=len(tokens) - 4,
        eos_token_id=len(tokens) - 3,
    )
    return gguf_files.vocabulary(rule, **known | others), ranks


def made(path, rule="qwen2", template=TEMPLATE, **others):
    """The tokenizer of a file, without a model, and the pairs that it merges."""
    metadata, ranks = vocabulary(rule, **others)
    if template:
        metadata["tokenizer.chat_template"] = template
    file = gguf_files.write(path / "a.gguf", metadata, {})
    return tokenizer.load(file), ranks


RULES = [*tokenizer.PIECES]


@pytest.mark.parametrize("rule", RULES)
def test_tokens_are_those_of_merging_by_hand(tmp_path, rule):
    ours, ranks = made(tmp_path, rule, add_bos_token=False)
    draw = np.random.default_rng(0)
    texts = [TEXT, *("".join(draw.choice([*TEXT], 60)) for _ in range(100))]
    for text in texts:
        words = [merged(spelt(piece), ranks) for piece in pieces(rule, text)]
        wanted = [part for word in words for part in word]
        assert [ours.backend.id_to_token(i) for i in ours.encode(text)] == wanted


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ("gpt-2", ["a", " 12345", "6"]),
        ("smollm", ["a", " ", "1", "2", "3", "4", "5", "6"]),
        ("qwen2", ["a", " ", "1", "2", "3", "4", "5", "6"]),
        ("llama-bpe", ["a", " ", "123", "45", "6"]),
    ],
)
def test_digits_are_cut_by_the_rule(tmp_path, rule, wanted):
    merges = ["1 2", "12 3", "123 4", "1234 5", "Ġ 12345", "4 5"]
    tokens = [*LETTERS.values(), *(merge.replace(" ", "") for merge in merges)]
    metadata = gguf_files.vocabulary(
        rule, tokens=tokens, token_type=[1] * len(tokens), merges=merges
    )
    metadata["tokenizer.ggml.add_bos_token"] = False
    ours = tokenizer.load(gguf_files.write(tmp_path / "a.gguf", metadata, {}))
    assert [ours.decode([token]) for token in ours.encode("a 123456")] == wanted


@pytest.mark.parametrize("rule", RULES)
def test_any_text_comes_back(tmp_path, rule):
    ours, _ = made(tmp_path, rule)
    draw = np.random.default_rng(0)
    texts = ["", " ", "naïve — 日本語\t🎉 ²½ e\u0301\r\n  '\u017f"]
    texts += ["".join(map(chr, draw.integers(1, 0xD7FF, 30))) for _ in range(50)]
    for text in texts:
        assert ours.decode(ours.encode(text)) == text


def test_letters_of_several_tokens_are_put_together(tmp_path):
    ours, _ = made(tmp_path)
    tokens = ours.encode("日")
    assert len(tokens) == 3
    assert ours.decode(tokens) == "日"
    assert ours.decode(tokens[:1]) == "\ufffd"


def test_special_tokens_are_whole_and_hidden(tmp_path):
    ours, _ = made(tmp_path)
    text = "a<|im_end|><tool>b"
    end, tool = (ours.backend.token_to_id(one) for one in ("<|im_end|>", "<tool>"))
    tokens = ours.encode(text)
    assert len(tokens) == 4
    assert tokens[1:3] == [end, tool]
    assert ours.decode(tokens) == "a<tool>b"
    assert ours.decode(tokens, special=True) == text


@pytest.mark.parametrize(
    ("rule", "said", "begins"),
    [
        ("qwen2", {}, False),
        ("qwen2", {"add_bos_token": True}, True),
        ("llama-bpe", {}, True),
        ("llama-bpe", {"add_bos_token": False}, False),
    ],
)
def test_texts_begin_as_the_file_says_and_conversations_as_the_template(
    tmp_path, rule, said, begins
):
    ours, _ = made(tmp_path, rule, template="{{ bos_token }}hello", **said)
    start = ours.backend.token_to_id("<|im_start|>")
    assert ours.encode("hello")[: int(begins)] == [start] * begins
    assert ours.encode("hello")[int(begins) :] == ours.chat(ASKED)[1:]
    assert ours.chat(ASKED)[0] == start


def test_a_piece_that_is_a_token_needs_no_merges_where_llama_3_is_meant(tmp_path):
    for rule, count in (("llama-bpe", 1), ("qwen2", 5)):
        tokens = [*LETTERS.values(), "qqqqq"]
        kinds = dict(token_type=[1] * len(tokens), add_bos_token=False)
        metadata = gguf_files.vocabulary(rule, tokens=tokens, merges=[], **kinds)
        ours = tokenizer.load(gguf_files.write(tmp_path / "a.gguf", metadata, {}))
        assert len(ours.encode("qqqqq")) == count


def test_a_conversation_is_what_the_template_says(tmp_path):
    ours, _ = made(tmp_path)
    turns = [*ASKED, {"role": "assistant", "content": "it is"}, *ASKED]
    of = lambda *given, **options: ours.decode(
        ours.chat(*given, **options), special=True
    )
    wanted = "".join(
        f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in turns
    )
    assert of(turns, answer=False) == wanted
    assert of(turns) == f"{wanted}<|im_start|>assistant\n"
    assert of(turns, enable_thinking=False).endswith("assistant\nno thoughts\n")


TEMPLATES = {
    "no template": (None, "no chat template"),
    "what it refuses": ("{{ raise_exception('no turns') }}", "refuses .*: no turns"),
    "wrong Jinja": ("{% for %}", "template fails"),
    "what is not there": ("{{ messages[0].role.upper.x.y }}", "template fails"),
    "what must not be": ("{{ messages.__class__.__mro__[1] }}", "template fails"),
    "changes": ("{{ messages.append(1) }}", "template fails"),
    "ranges without end": ("{% for i in range(10**12) %}a{% endfor %}", "fails"),
    "no number": ("{{ 1 / 0 }}", "template fails"),
    "macros without end": (
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "template fails",
    ),
}


@pytest.mark.parametrize(("template", "said"), TEMPLATES.values(), ids=TEMPLATES)
def test_a_template_that_fails_says_so(tmp_path, template, said):
    ours, _ = made(tmp_path, template=template)
    with pytest.raises(ValueError, match=said):
        ours.chat(ASKED)


def test_json_in_templates_is_spelt_as_it_is(tmp_path):
    ours, _ = made(tmp_path, template="{{ messages | tojson }}")
    asked = [{"role": "user", "content": "<é & 'x'>"}]
    assert ours.decode(ours.chat(asked)) == json.dumps(asked, ensure_ascii=False)


WRONG = {
    "another kind": (
        dict(model="llama"),
        "of kind 'llama' with the rule 'qwen2'; gpt2",
    ),
    "another rule": (
        dict(pre="viking"),
        "rule 'viking'; gpt2 with gpt-2, smollm, qwen2",
    ),
    "tokens twice": (dict(tokens=["a", "b", "a"]), "there twice"),
    "merges of strangers": (dict(merges=["zz yy"]), "wrong merges: .*zz"),
    "merges of one": (dict(merges=["a"]), "wrong merges"),
    "a start that is none": (
        dict(bos_token_id=10**6, add_bos_token=True),
        "begin with token 1000000 of",
    ),
    "merges of another type": (dict(merges="a b"), "merges should be list, is str"),
}


@pytest.mark.parametrize(("others", "said"), WRONG.values(), ids=WRONG)
def test_a_vocabulary_that_cannot_be_is_refused(tmp_path, others, said):
    with pytest.raises(ValueError, match=said):
        made(tmp_path, **others)


def directory(path, ours, changes=(), **files):
    """A checkpoint's directory with a tokenizer, and other files of JSON."""
    ours.backend.save(str(path / "tokenizer.json"))
    said = {"eos_token": {"content": "<|im_end|>"}, "bos_token": "<|im_start|>"}
    said |= {"chat_template": TEMPLATE, **dict(changes)}
    for name, content in {"tokenizer_config": said, **files}.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def test_a_directory_s_tokenizer_equals_the_file_s(tmp_path):
    ours, _ = made(tmp_path)
    theirs = tokenizer.load(directory(tmp_path, ours), ours.vocabulary)
    assert theirs.encode(TEXT) == ours.encode(TEXT)
    assert theirs.chat(ASKED) == ours.chat(ASKED)
    assert theirs.end_tokens == ours.end_tokens
    assert theirs.names["eos_token"] == "<|im_end|>"


def test_end_tokens_come_from_all_that_name_them(tmp_path):
    ours, _ = made(tmp_path)
    files = {
        "generation_config": {"eos_token_id": [7, 3]},
        "config": {"eos_token_id": 5},
    }
    theirs = tokenizer.load(directory(tmp_path, ours, **files))
    assert theirs.end_tokens == (7, 3, 5, *ours.end_tokens)


def test_a_start_token_is_added_once(tmp_path):
    ours, _ = made(tmp_path)
    theirs = tokenizer.load(directory(tmp_path, ours, {"add_bos_token": True}))
    start = ours.backend.token_to_id("<|im_start|>")
    assert theirs.encode("a") == [start, *ours.encode("a")]
    ours.backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", start)]
    )
    theirs = tokenizer.load(directory(tmp_path, ours, {"add_bos_token": True}))
    assert theirs.encode("a") == [start, *ours.encode("a")[1:]]
    assert start not in theirs.chat([])[1:]


@pytest.mark.parametrize("start", [False, True])
def test_what_a_file_carries_is_the_same_written_as_a_directory(tmp_path, start):
    ours, _ = made(tmp_path)
    if start:
        ours = ours._replace(start=(ours.backend.token_to_id("<|im_start|>"),))
    path = tmp_path / "written"
    path.mkdir()
    assert "tokenizer.json" in tokenizer_files.save(path, ours)
    theirs = tokenizer.load(path)
    talk = [{"role": "user", "content": "a 12"}]
    assert theirs.encode("ab c") == ours.encode("ab c")
    assert theirs.chat(talk) == ours.chat(talk)
    assert theirs.end_tokens == ours.end_tokens
    (path / "tokenizer.json").write_text("mine")
    tokenizer_files.save(path, ours)
    assert (path / "tokenizer.json").read_text() == "mine"


def test_templates_are_found_where_they_may_be(tmp_path):
    ours, _ = made(tmp_path)
    several = [{"name": n, "template": n} for n in ("tool_use", "default")]
    path = directory(tmp_path, ours, {"chat_template": several})
    assert tokenizer.load(path).template == "default"
    (path / "chat_template.jinja").write_text("of the file")
    assert tokenizer.load(path).template == "of the file"
    (path / "tokenizer_config.json").unlink()
    (path / "chat_template.jinja").unlink()
    assert tokenizer.load(path).template is None


def test_a_tokenizer_of_another_size_is_refused(tmp_path):
    ours, _ = made(tmp_path)
    size = ours.vocabulary
    for wrong in (size - 1, size + 1):
        with pytest.raises(ValueError, match=f"has {size} tokens, the model {wrong}"):
            tokenizer.load(tmp_path / "a.gguf", wrong)
    path = directory(tmp_path, ours)
    assert tokenizer.load(path, size + 300).vocabulary == size  # rows to spare
    for wrong in (size - 1, size + 5000):
        with pytest.raises(ValueError, match="do not belong together"):
            tokenizer.load(path, wrong)


def test_a_directory_without_a_tokenizer_says_so(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(ValueError, match="no tokenizer could be read"):
        tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(ValueError, match="should hold an object"):
        tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match="no JSON"):
        tokenizer.load(tmp_path)
