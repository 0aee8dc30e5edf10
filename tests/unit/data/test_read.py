"""Reading: every format gives its rows with their lines, and rot is located, counted and survived."""

from __future__ import annotations

import gzip
import importlib
import json
import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcraft.core.errors import UserError
from lmcraft.data import jsonrows, lines, read
from lmcraft.data.lines import Row
from lmcraft.data.records import Problem

ROWS = [{"text": "plain"}, {"text": "zwei\nZeilen", "n": 1}, {"text": "naïve 🙂", "more": [1, {"a": None}]}]


def found(path):
    """(rows as (line, value), problems as (line, text))."""
    everything = list(read.rows(path))
    return (
        [(one.where.line, one.value) for one in everything if isinstance(one, Row)],
        [(one.where.line, one.what) for one in everything if isinstance(one, Problem)],
    )


@pytest.fixture
def file(tmp_path):
    """Writes a file and returns its path."""

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


# -- the formats ----------------------------------------------------------------------------------------------------


def test_json_lines(file):
    """A failure would mean rows lost, or named by a wrong line."""
    text = "\n".join([json.dumps(ROWS[0]), "", json.dumps(ROWS[1]), "   ", json.dumps(ROWS[2])])
    assert found(file("x.jsonl", text)) == ([(1, ROWS[0]), (3, ROWS[1]), (5, ROWS[2])], [])


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ROWS, indent=1),
        json.dumps({"version": "1", "data": ROWS, "end": None}),
        json.dumps({"rows": ROWS}),
        json.dumps({"a": ROWS[0], "b": ROWS[1], "c": ROWS[2]}),
        "\ufeff" + json.dumps(ROWS) + "\n\n",
    ],
)
def test_json_in_its_usual_layouts(file, text):
    """A failure would mean that a common way to publish a data set cannot be read."""
    rows, problems = found(file("x.json", text))
    assert ([value for _, value in rows], problems) == (ROWS, [])


def test_json_rows_know_their_lines(file):
    """A failure would mean that a problem in a .json file cannot be found again."""
    assert [line for line, _ in found(file("x.json", '[\n{"a": 1},\n\n {"a":\n 2}\n,{"a": 3}]'))[0]] == [
        2,
        4,
        6,
    ]
    assert found(file("one.json", '{"messages": [{"role": "user"}]}'))[0] == [
        (1, {"messages": [{"role": "user"}]})
    ]
    assert [line for line, _ in found(file("ids.json", '{\n"x": {"a": 1},\n"y": {"a": 2}}'))[0]] == [2, 3]


def test_csv(file):
    """A failure would mean that quotes, line breaks in cells or a byte order mark shift columns or lines."""
    text = '\ufefftext,label\r\n"a, ""b""",x\r\n\r\n"two\r\nlines",y\r\nlast,z\r\n'
    expected = [
        (2, {"text": 'a, "b"', "label": "x"}),
        (4, {"text": "two\nlines", "label": "y"}),
        (6, {"text": "last", "label": "z"}),
    ]
    assert found(file("x.csv", text)) == (expected, [])
    assert found(file("x.tsv", "text\tlabel\na, b\tx\n"))[0] == [(2, {"text": "a, b", "label": "x"})]


def test_parquet(tmp_path):
    """A failure would mean that Parquet files, the usual format of large data sets, cannot be read."""
    arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    rows = [{"text": f"row {n}", "list": [n, n]} for n in range(600)]
    path = tmp_path / "x.parquet"
    parquet.write_table(arrow.Table.from_pylist(rows), path, row_group_size=100)
    packed = tmp_path / "y.parquet.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    expected = ([(n + 1, row) for n, row in enumerate(rows)], [])
    assert found(path) == found(packed) == expected


@pytest.mark.parametrize("name", ["x.txt", "x.jsonl", "x.json", "x.csv"])
def test_gzip_changes_nothing(file, name):
    """A failure would mean that packing a file changes what is learned from it."""
    text = json.dumps(ROWS) if name == "x.json" else 'text\n{"text": "a"}\n'
    text = '{"text": "a"}\n{"text": "b"}\n' if name == "x.jsonl" else text
    assert found(file(name, text)) == found(file(name + ".gz", gzip.compress(text.encode())))


# -- text files -----------------------------------------------------------------------------------------------------


def test_a_text_file_is_one_document(file):
    """A failure would mean that paragraphs are learned as if they had nothing to do with each other."""
    assert found(file("x.txt", "\n\nOne.\r\n\r\nTwo.\n  three\n")) == (
        [(3, {"text": "One.\n\nTwo.\n  three"})],
        [],
    )


def test_end_of_text_lines_part_documents(file):
    """A failure would mean that documents run into each other, or that the mark itself is learned as words."""
    text = "One.\n<|endoftext|>\n\nTwo.\nstill two, <|endoftext|> in a line is text\n <|endoftext|> \n<|endoftext|>\n"
    rows = [(1, {"text": "One."}), (4, {"text": "Two.\nstill two, <|endoftext|> in a line is text"})]
    assert found(file("x.txt", text)) == (rows, [])


def test_plain_turns_part_at_a_blank_line(file):
    """A failure would mean that conversations of the plain format are merged, or cut inside an answer."""
    text = "<user>\nq\n<assistant>\na\n\nb\n<user>\nr\n<assistant>\nc\n\n<user>\ns\n<assistant>\nd\n\n<system>\ne\n"
    rows, _ = found(file("x.txt", text))
    assert [(line, value["text"].count("<user>")) for line, value in rows] == [(1, 2), (12, 1), (17, 0)]
    assert "a\n\nb" in rows[0][1]["text"]


# -- rot ------------------------------------------------------------------------------------------------------------


def test_byte_order_mark_and_crlf_leave_no_trace(file):
    """A failure would mean that a model learns invisible characters of Windows files."""
    plain = '{"text": "a"}\n{"text": "b"}\n'
    windows = b"\xef\xbb\xbf" + plain.replace("\n", "\r\n").encode()
    assert found(file("x.jsonl", windows)) == found(file("y.jsonl", plain))
    assert found(file("x.txt", b"\xef\xbb\xbfone\r\ntwo\r\n"))[0] == [(1, {"text": "one\ntwo"})]


BROKEN_LINES = {
    b'{"text": "a"': "not JSON: Expecting ',' delimiter at column 13",
    b"[1, 2]": 'a row must be an object like {"text": ...}, found a list',
    b'"text"': 'a row must be an object like {"text": ...}, found a string',
    b"null": 'a row must be an object like {"text": ...}, found null',
    b'{"n": NaN}': "NaN is not JSON",
    b'{"n": -Infinity}': "-Infinity is not JSON",
    b'{"a": 1, "a": 2}': "the key 'a' comes twice",
    b'{"x": {"a": 1, "a": 2}}': "the key 'a' comes twice",
    b'{"text": "\\ud800"}': "half a surrogate pair: the text cannot be written as UTF-8",
    b'{"text": "\xff"}': "not UTF-8: byte 0xff at position 11 of the line",
    b'{"text": ' + b"[" * 100_000: "nested too deeply",
    b"\x00\x00\x00": "not JSON: Expecting value at column 1",
    b'{"n": ' + b"9" * 5000 + b"}": (
        "Exceeds the limit (4300 digits) for integer string conversion: value has 5000 digits"
    ),
}


@pytest.mark.parametrize("line", BROKEN_LINES)
def test_one_bad_line_is_located_and_costs_nothing_else(file, line):
    """A failure would mean that one bad row in a million hides, stops the reading, or takes its neighbours along."""
    good = b'{"text": "good"}\n'
    rows, problems = found(file("x.jsonl", good + line + b"\n" + good))
    assert rows == [(1, {"text": "good"}), (3, {"text": "good"})]
    assert problems == [(2, BROKEN_LINES[line])]


def test_a_surrogate_pair_is_one_character(file):
    """A failure would mean that emoji written as escapes are refused."""
    assert found(file("x.jsonl", '{"text": "\\ud83d\\ude42"}'))[0] == [(1, {"text": "🙂"})]
    assert found(file("x.json", '[{"text": "\\ud83d"}]'))[1][0][1].startswith("half a surrogate pair")


def test_an_endless_line_is_not_held_in_memory(file):
    """A failure would mean that one hostile or torn file exhausts the machine's memory."""
    path = file("x.jsonl", b"")
    with path.open("wb") as out:
        out.write(b'{"text": "a"}\n')
        for _ in range(64):
            out.write(b"x" * 2**20)
        out.write(b'\n{"text": "b"}\n')
    tracemalloc.start()
    rows, problems = found(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [line for line, _ in rows] == [1, 3]
    assert problems == [(2, "the line is 67,108,865 bytes long, at most 16,777,216 are read")]
    assert peak < 3 * lines.LINE_BYTES


def test_a_line_of_exactly_the_limit_is_read(file, monkeypatch):
    """A failure would mean that the limit is off by one, in one direction or the other."""
    monkeypatch.setattr(lines, "LINE_BYTES", 20)
    fits, longer = '{"text": "12345678"}', '{"text": "123456789"}'
    assert (len(fits), len(longer)) == (20, 21)
    for end in ("", "\n"):
        assert found(file("x.jsonl", fits + end))[0] == [(1, json.loads(fits))]
        assert len(found(file("x.jsonl", longer + end))[1]) == 1


def test_bad_bytes_in_a_text_end_a_document(file):
    """A failure would mean that words become neighbours that never were, or that a book is lost for one byte."""
    rows, problems = found(file("x.txt", b"one\ntwo\nbr\xfcken\nthree\n"))
    assert rows == [(1, {"text": "one\ntwo"}), (4, {"text": "three"})]
    assert problems == [(3, "not UTF-8: byte 0xfc at position 3 of the line")]


def test_bad_bytes_in_a_conversation_leave_it_out(file):
    """A failure would mean that a conversation with a missing sentence is trained on."""
    rows, problems = found(file("x.txt", b"<user>\n\xff\n<assistant>\na\n\n<user>\nq\n<assistant>\nb\n"))
    assert rows == [(6, {"text": "<user>\nq\n<assistant>\nb"})]
    assert len(problems) == 1


def test_a_document_has_a_limit(file, monkeypatch):
    """A failure would mean that a file of many gigabytes is silently held in memory as one string."""
    monkeypatch.setattr(read, "DOCUMENT_CHARACTERS", 50)
    rows, problems = found(file("x.txt", "word\n" * 20 + "<|endoftext|>\nshort\n"))
    assert rows == [(22, {"text": "short"})] and "part it with <|endoftext|> lines" in problems[0][1]
    monkeypatch.setattr(jsonrows, "FILE_BYTES", 50)
    with pytest.raises(UserError, match="too large to be read whole"):
        found(file("x.json", json.dumps(ROWS)))


@pytest.mark.parametrize("name", ["x.txt", "x.jsonl", "x.json", "x.csv", "x.jsonl.gz"])
@pytest.mark.parametrize("content", ["", "\n", " \r\n\n"])
def test_an_empty_file_says_so(file, name, content):
    """A failure would mean that an empty file passes as data."""
    content = gzip.compress(content.encode()) if name.endswith(".gz") else content
    assert found(file(name, content)) == ([], [(1, "the file is empty: it holds no rows")])


def test_damaged_archives_name_the_last_good_line(file):
    """A failure would mean that a download that broke off is used as if it were whole."""
    packed = gzip.compress(b'{"text": "a"}\n' * 1000, compresslevel=0)
    rows, problems = found(file("x.jsonl.gz", packed[: len(packed) // 2]))
    assert 100 < len(rows) < 1000
    assert problems[0][0] == rows[-1][0] and "gzip data is damaged" in problems[0][1]
    assert "gzip data is damaged" in found(file("y.jsonl.gz", b"not gzip"))[1][0][1]


def test_broken_json_gives_what_came_before(file):
    """A failure would mean that the place of the damage is not told, or that good rows are lost."""
    rows, problems = found(file("x.json", '[{"a": 1},\n{"a": 2},\n{"a": ]'))
    assert [line for line, _ in rows] == [1, 2]
    assert problems == [(3, "not JSON: Expecting value at column 7; reading stopped here")]
    assert "name it .jsonl" in found(file("y.json", '{"text": "a"}\n{"text": "b"}'))[1][0][1]
    assert found(file("z.json", b'[{"a":\n"\xff"}]'))[1] == [
        (2, "not UTF-8: byte 0xff; nothing of this file is used")
    ]
    assert "expected [ or {" in found(file("s.json", "hello"))[1][0][1]


def test_broken_csv_rows(file):
    """A failure would mean that a cell too many shifts columns, or a lost quote swallows the file unseen."""
    rows, problems = found(file("x.csv", "text,label\na\nb,c,d\ne,f\n"))
    assert rows == [(4, {"text": "e", "label": "f"})]
    assert problems == [(2, "1 columns, the header has 2"), (3, "3 columns, the header has 2")]
    rows, problems = found(file("y.csv", 'text,label\na,b\n"open,c\nd,e\n'))
    assert rows == [(2, {"text": "a", "label": "b"})] and problems[0][1].startswith("not CSV")


def test_csv_headers_that_mislead(file):
    """A failure would mean that one of two equal columns is dropped, or that semicolons make one huge column."""
    with pytest.raises(UserError, match="names 'text' twice"):
        found(file("x.csv", "text,text\na,b\n"))
    with pytest.raises(UserError, match="not parted by commas"):
        found(file("x.csv", "text;label\na;b\n"))


def test_a_damaged_parquet_file(file):
    """A failure would mean a traceback of the Parquet library."""
    assert "not a whole Parquet file" in found(file("x.parquet", b"PAR1 and nothing else"))[1][0][1]


def test_parquet_without_pyarrow(file, monkeypatch):
    """A failure would mean that a user without the extra is not told what to install."""
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError) as error:
        found(file("x.parquet", b""))
    assert "pip install 'lmcraft[data]'" in str(error.value)


def test_wide_characters_are_named(file):
    """A failure would mean that a UTF-16 file is reported as a thousand bad lines instead of one cause."""
    with pytest.raises(UserError, match="UTF-16") as error:
        found(file("x.jsonl", '{"text": "a"}'.encode("utf-16")))
    assert "iconv -f UTF-16" in str(error.value)


def test_what_is_no_data_file(file, tmp_path):
    """A failure would mean that a wrong path ends in a traceback, or in silence."""
    (tmp_path / "d.jsonl").mkdir()
    for path, words in {
        tmp_path / "d.jsonl": "found a directory",
        tmp_path / "none.jsonl": "no such data file",
        file("x.docx", "a"): "cannot tell the format",
        file("noend", "a"): "cannot tell the format",
    }.items():
        with pytest.raises(UserError, match=words) as error:
            list(read.rows(path))
        assert str(path) in str(error.value)


# -- properties -----------------------------------------------------------------------------------------------------

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
records = st.lists(
    st.dictionaries(st.text(max_size=8), values, min_size=1, max_size=4), min_size=1, max_size=8
)


@given(rows=records, escape=st.booleans(), crlf=st.booleans(), indent=st.none() | st.integers(0, 2))
def test_what_is_written_is_read(tmp_path_factory, rows, escape, crlf, indent):
    """A failure would mean that some text does not survive a file: escapes, line ends, or characters of any script."""
    folder = tmp_path_factory.mktemp("trip")
    end = "\r\n" if crlf else "\n"
    lined = end.join(json.dumps(row, ensure_ascii=escape) for row in rows)
    (folder / "x.jsonl").write_bytes(lined.encode())
    (folder / "x.json").write_bytes(json.dumps(rows, ensure_ascii=escape, indent=indent).encode())
    for name in ("x.jsonl", "x.json"):
        got, problems = found(folder / name)
        assert ([value for _, value in got], problems) == (rows, [])


@pytest.mark.parametrize("name", ["x.txt", "x.jsonl", "x.json", "x.csv", "x.jsonl.gz"])
def test_no_mutation_gets_past(file, name):
    """A failure would mean that some broken file ends in a traceback: 1,000 mutations of each format."""
    whole = {
        "x.txt": b"<user>\nq\n<assistant>\na\n\n<system>\ns\n<|endoftext|>\ntext\n",
        "x.jsonl": json.dumps(ROWS[2]).encode() + b"\n" + json.dumps(ROWS[1]).encode() + b"\n",
        "x.json": json.dumps({"data": ROWS}, indent=1).encode(),
        "x.csv": b'text,label\n"a ""b""\nc",1\nd,2\n',
        "x.jsonl.gz": gzip.compress(json.dumps(ROWS[1]).encode() * 3),
    }[name]
    draw = random.Random(name)
    for _ in range(1000):
        content = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(content))
            content[at : at + draw.choice((0, 1, 1, 9))] = draw.choice(
                (b"", bytes([draw.randrange(256)]), b'"', b"\n", b"{", b"[" * 50, b"\\ud800", b"\x00\xff")
            )
        try:
            for one in read.rows(file(name, bytes(content))):
                assert one.where.line >= 1
        except UserError as error:
            assert name in str(error)
