"""Reading a CSV file in pieces: the rows, and the one line that is named when something is wrong."""

import gzip
import re

import polars as pl
import pytest

from contract.errors import LogError
from training.importers.csv_chunks import ID, OPTIONAL_ID, STAMP, CsvColumn, CsvFile, Rule

COLUMNS = {
    "user": ID,
    "time": STAMP,
    "kind": CsvColumn("text", values=("pv", "buy")),
    "price": CsvColumn("number", low=0, high=1e30),
    "brand": OPTIONAL_ID,
}
HEAD = "user,time,kind,price,brand\n"
GOOD = ["1,5,pv,1.5,7", "2,-3,buy,0,NULL", "3,0,pv,1e3,", "4294967294,9,buy,2,0"]
ROWS = [
    (1, 5, "pv", 1.5, 7),
    (2, -3, "buy", 0.0, None),
    (3, 0, "pv", 1000.0, None),
    (4294967294, 9, "buy", 2.0, 0),
]


@pytest.fixture(name="file")
def _file(tmp_path):
    def write(content, **options):
        path = tmp_path / "log.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return CsvFile(path, COLUMNS, **options)

    return write


def rows(source, size=1000):
    return pl.concat([frame for frame, _ in source.chunks(size)]).rows()


@pytest.mark.parametrize("size", [1, 7, 30, 10_000])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "windows"])
@pytest.mark.parametrize("last", [True, False], ids=["closed", "open"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte order mark"])
def test_the_rows_do_not_depend_on_how_the_file_is_cut(file, size, end, last, mark):
    text = mark + (HEAD + "\n".join(GOOD) + "\n" * last).replace("\n", end)
    assert rows(file(text), size) == ROWS


def test_columns_are_found_by_name_wherever_they_stand(file):
    source = file(" brand ,extra,price,kind,time,user \n7,x y,1.5,pv,5,1\n")
    assert rows(source) == ROWS[:1]


def test_without_a_header_columns_have_their_order(file):
    assert rows(file("\n".join(GOOD), header=False)) == ROWS


def test_the_bytes_read_are_told(file):
    source = file(HEAD + "\n".join(GOOD))
    done = [read for _, read in source.chunks(20)]
    assert done == sorted(done)
    assert done[-1] == source.size


BAD = {
    "text in a number column": ("5,5,pv,many,7", "column 'price': 'many' is not a number from 0 to "),
    "text in an integer column": ("5,5x,pv,1,7", "column 'time': '5x' is not an integer"),
    "fraction": ("5,5.5,pv,1,7", "column 'time': '5.5' is not an integer"),
    "not finite": ("5,5,pv,inf,7", "column 'price': 'inf' is not a number"),
    "not a number": ("5,5,pv,nan,7", "column 'price': 'nan' is not a number"),
    "negative id": ("-5,5,pv,1,7", "column 'user': '-5' is not an integer from 0 to 4,294,967,294"),
    "id of more than 32 bits": (
        "4294967295,5,pv,1,7",
        "column 'user': '4294967295' is not an integer from 0",
    ),
    "id of more than 64 bits": (
        "99999999999999999999,5,pv,1,7",
        "column 'user': '99999999999999999999' is not",
    ),
    "unknown word": ("5,5,click,1,7", "column 'kind': 'click' is not one of pv, buy"),
    "missing id": (",5,pv,1,7", "column 'user': '' is not an integer"),
    "NULL id": ("NULL,5,pv,1,7", "column 'user': 'NULL' is not an integer"),
    "truncated": ("5,5,pv", "has 3 fields, not 5: b'5,5,pv'"),
    "truncated before an optional value": ("5,5,pv,1", "has 4 fields, not 5"),
    "too long": ("5,5,pv,1,7,8", "has 6 fields, not 5"),
    "blank": ("", "has 1 fields, not 5"),
    "quoted": ('"5",5,pv,1,7', "column 'user': '\"5\"' is not an integer"),
}


@pytest.mark.parametrize("size", [25, 10_000], ids=["small pieces", "one piece"])
@pytest.mark.parametrize(("bad", "words"), BAD.values(), ids=BAD)
def test_a_bad_line_is_named_with_its_number(file, size, bad, words):
    source = file(HEAD + "\n".join([*GOOD, *GOOD, bad, *GOOD]))
    with pytest.raises(LogError) as caught:
        rows(source, size)
    assert str(caught.value).startswith(f"{source.path}: line 10: {words}")
    assert "\n" not in str(caught.value)


def test_a_short_line_is_not_made_up_for_by_a_long_one(file):
    with pytest.raises(LogError, match=r"line 2: has 4 fields, not 5"):
        rows(file(HEAD + "1,5,pv,1\n" + "1,5,pv,1,7,8\n"))


@pytest.mark.parametrize("size", [1000, 10_000_000])
def test_a_line_without_end_is_named_and_not_read_to_its_end(file, size):
    source = file((HEAD + "\n".join(GOOD) + "\n").encode() + b"\0" * 3_000_000)
    with pytest.raises(LogError, match="line 6: is longer than 1,048,576 bytes"):
        rows(source, size)


def test_bytes_of_another_encoding_are_named_with_their_line(file):
    source = file((HEAD + "1,5,pv,1.5,7\n1,5,").encode() + "收藏".encode("gbk") + b",1.5,7\n")
    with pytest.raises(LogError, match=r"log\.csv: line 3: is not UTF-8; convert the file first"):
        rows(source)


FOREIGN = {
    "gzip": (gzip.compress(HEAD.encode()), "is compressed with gzip; unpack it first"),
    "zip": (b"PK\x03\x04....", "is a zip archive; unpack it first"),
    "utf-16": (HEAD.encode("utf-16"), "is UTF-16; convert it to UTF-8 first"),
    "utf-16 without a mark": (HEAD.encode("utf-16-le"), "line 1: holds null bytes"),
    "gbk": ("用户,时间\n".encode("gbk"), "line 1: is not UTF-8"),
    "empty": (b"", "line 1: is empty"),
    "no header": (b"1,5,pv,1.5,7\n", "column 'user' is missing; line 1 has 1, 5, pv, 1.5, 7"),
    "wrong column": (b"userid,time,kind,price,brand\n", "column 'user' is missing; line 1 has userid, time"),
    "twice": (b"user,time,kind,price,brand,user\n", "column 'user' stands there twice"),
}


@pytest.mark.parametrize(("content", "words"), FOREIGN.values(), ids=FOREIGN)
def test_a_file_of_another_kind_is_refused_at_once(file, content, words):
    with pytest.raises(LogError, match=re.escape(words)):
        file(content)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(LogError, match=r"gone\.csv: no such file"):
        CsvFile(tmp_path / "gone.csv", COLUMNS)


def test_a_rule_between_columns_names_the_first_line_that_breaks_it(file):
    source = file(HEAD + "\n".join(GOOD), rule=Rule("goes back", lambda frame: frame["time"] < 0))
    with pytest.raises(LogError, match=r"line 3: goes back"):
        rows(source, 20)


def test_a_sample_holds_rows_of_the_whole_file_and_leaves_bad_places_to_the_reading(file):
    lines = [f"{row},5,pv,1.5,7" for row in range(5000)]
    lines[2500:2520] = ["5,5,pv,many,7"] * 20
    sampled = pl.concat(list(file(HEAD + "\n".join(lines)).sample(10, 200)))["user"].to_list()
    assert len(sampled) > 50
    assert set(sampled) <= set(range(5000))
    assert min(sampled) < 100
    assert max(sampled) > 4400
