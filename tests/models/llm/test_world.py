"""The World tokenizer: always the longest token, and every byte comes back."""

import random
from pathlib import Path

import pytest

from models.llm.world import WorldTokenizer, read


BYTES = [bytes((x,)) for x in range(256)]
LONGER = [
    b"th",
    b"the",
    b"there",
    b"\n\n",
    b"  ",
    "é".encode(),
    "日".encode(),
    b"\xe6\x97",
]
TOKENS = dict(enumerate(BYTES + LONGER, start=1))


def lines(tokens: dict[int, bytes] = TOKENS) -> list[str]:
    """A vocabulary as published: text where it is text, else bytes."""

    def literal(token: bytes) -> str:
        try:
            return repr(token.decode())
        except UnicodeDecodeError:
            return repr(token)

    return [f"{i} {literal(token)} {len(token)}" for i, token in tokens.items()]


def written(path: Path, rows: list[str]) -> Path:
    path.write_bytes("".join(row + "\n" for row in rows).encode())
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> WorldTokenizer:
    return read(written(tmp_path_factory.mktemp("world") / "vocabulary.txt", lines()))


def slowly(data: bytes) -> list[int]:
    ids = []
    while data:
        i, token = max(
            ((i, x) for i, x in TOKENS.items() if data.startswith(x)),
            key=lambda pair: len(pair[1]),
        )
        ids.append(i)
        data = data[len(token) :]
    return ids


def test_the_file_is_read_as_it_says(tokenizer):
    assert tokenizer.tokens == TOKENS
    assert (tokenizer.vocabulary, tokenizer.end_tokens) == (len(TOKENS) + 1, (0,))


def test_at_each_place_stands_the_longest_token(tokenizer):
    assert [TOKENS[i] for i in tokenizer.encode("there then")] == [
        b"there",
        b" ",
        b"the",
        b"n",
    ]
    draw = random.Random(0)
    for _ in range(50):
        data = b"".join(draw.choices([*LONGER, b"t", b"h", b"e", b"\xff"], k=30))
        assert tokenizer.encode(data) == slowly(data)


def test_all_bytes_come_back(tokenizer):
    data = bytes(range(256)) * 2
    assert tokenizer.decode_bytes(tokenizer.encode(data)) == data
    text = "Über 日本, the\u2028there\x85\r\n\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("") == [] == tokenizer.encode(b"")


def test_a_letter_may_be_spread_over_tokens(tokenizer):
    start, rest = tokenizer.encode("日".encode()[:2]), [1 + "日".encode()[2]]
    assert tokenizer.decode([*start, *rest]) == "日"
    assert tokenizer.decode(start) == "\ufffd"  # what is no text is replaced


def test_the_end_and_ids_beyond_the_vocabulary_are_no_text(tokenizer):
    ids = tokenizer.encode("the")
    assert tokenizer.decode([*ids, 0, 60_000]) == "the"


def test_a_conversation_is_turns_and_empty_lines(tokenizer):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " One.\n\n\nTwo?\n"},
    ]
    text = "System: Be brief.\n\nUser: One.\nTwo?"
    chat = lambda **options: tokenizer.decode(tokenizer.chat(messages, **options))
    assert chat(answer=False) == text
    assert chat() == text + "\n\nAssistant:"
    assert chat(enable_thinking=True) == text + "\n\nAssistant: <think"
    with pytest.raises(ValueError, match="one of system, user, assistant, got 'tool'"):
        tokenizer.chat([{"role": "tool", "content": ""}])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("300 'in' 3", "line 1 of .* has a token of 2 bytes, and says 3"),
        ("3 'in' 2", "line 4 of .* has the id 3, which was there before"),
        ("300 'in' 2", "ids of a World vocabulary must count from 1 on"),
        ("265 'the' 3", "the token b'the' has more than one id"),
        ("265 '' 0", "and nothing must not"),
        ("x 'in' 2", "must be an id, a literal of str or bytes and a length"),
        ("265 in 2", "must be an id, a literal"),
        ("265 __import__('os').system('true') 1", "must be an id, a literal"),
        ("265 'a' + 'b' 2", "must be an id, a literal"),
        ("265 'a', 'b' 2", "must be an id, a literal"),
        ("265 f'{1}' 1", "must be an id, a literal"),
        ("265 'a' 'b' 'c", "must be an id, a literal"),
        ("265 'ab 2", "must be an id, a literal"),
        ("265 b'é' 2", "must be an id, a literal"),
        ("265 '" + "a" * 2000 + "' 2000", "must be an id, a literal"),
        ("", "must be an id, a literal"),
    ],
)
def test_a_line_that_is_wrong_is_refused_with_its_number(line, message, tmp_path):
    first = line.startswith("300 'in' 3")
    rows = [line, *lines()] if first or line[:2] == "3 " else [*lines(), line]
    with pytest.raises(ValueError, match=message):
        read(written(tmp_path / "vocabulary.txt", rows))


def test_a_vocabulary_without_all_bytes_or_no_text_is_refused(tmp_path):
    fewer = dict(enumerate(BYTES[:-1], start=1))
    with pytest.raises(ValueError, match="each of the 256 bytes must be a token"):
        WorldTokenizer(fewer)
    (path := tmp_path / "vocabulary.txt").write_bytes(b"1 '\xff' 1\n")
    with pytest.raises(ValueError, match="must be a text in UTF-8"):
        read(path)


@pytest.mark.parity
def test_the_published_vocabulary_encodes_as_the_package_does():
    package = pytest.importorskip("rwkv.rwkv_tokenizer")
    path = Path(package.__file__).with_name("rwkv_vocab_v20230424.txt")
    ours, theirs = read(path), package.TRIE_TOKENIZER(str(path))
    assert ours.vocabulary == 65_530
    assert ours.tokens == theirs.idx2token
    draw = random.Random(0)
    tokens = list(ours.tokens.values())
    for _ in range(200):
        data = b"".join(draw.choices(tokens, k=30)) + draw.randbytes(30)
        assert ours.encode(data) == theirs.encodeBytes(data)
        assert ours.decode_bytes(ours.encode(data)) == data
