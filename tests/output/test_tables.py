import csv

import pytest

from whycluster.output.tables import safe_cells, write_skipped, write_table

COLUMNS = ("path", "cluster", "discriminant", "label")


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return [tuple(row) for row in csv.reader(file)]


def test_the_text_of_a_table(tmp_path):
    rows = [("a.png", 0, 1.5, ""), ("b,c/d.png", 12, -1234567.89, 'say "hi"'), ("Käse\n.png", -3, 1e-12, "日本")]
    write_table(tmp_path / "t.csv", COLUMNS, rows)
    assert (tmp_path / "t.csv").read_bytes().decode("utf-8") == (
        '"path","cluster","discriminant","label"\r\n'
        '"a.png",0,1.5,""\r\n'
        '"b,c/d.png",12,-1234568.0,"say ""hi"""\r\n'
        '"Käse\n.png",-3,1e-12,"日本"\r\n'
    )


@pytest.mark.parametrize("text", ["a,b", 'a"b', "a\nb", "a\r\nb", "ärger", "a;b", " a ", "'a'", "a\tb", ""])
def test_text_is_read_back_as_it_was(tmp_path, text):
    write_table(tmp_path / "t.csv", COLUMNS, [(text, 0, 0.0, text)])
    assert read(tmp_path / "t.csv") == [COLUMNS, (text, "0", "0.0", text)]


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t", "\r"])
def test_no_spreadsheet_takes_text_for_a_formula(tmp_path, sign):
    write_table(tmp_path / "t.csv", COLUMNS, [(f"{sign}1/a.png", 0, 0.0, f"{sign}cmd")])
    assert read(tmp_path / "t.csv")[1] == (f"./{sign}1/a.png", "0", "0.0", f"'{sign}cmd")


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_where_a_spreadsheet_splits_lines_elsewhere_text_is_left_whole(tmp_path, separator):
    write_table(tmp_path / "t.csv", COLUMNS, [(f"a{separator}=1+1.png", 1, 0.5, f"b{separator}c")])
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
        (_, row) = csv.reader(file, delimiter=separator)
    assert not any(cell.startswith("=") for cell in row)
    assert row[0].startswith(f"a{separator}=1+1.png")


@pytest.mark.parametrize("text", ["a=b", "1-2", "x@y", "a+b", "dir/=a", "ends\t"])
def test_signs_within_text_are_left(text):
    assert safe_cells((text, text)) == (text, text)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (-1, "-1"),
        (-0.25, "-0.25"),
        (0.1234567891, "0.1234568"),
        (12345678.9, "12345680.0"),
        (1e20, "1e+20"),
        (1.23456789e-9, "1.234568e-09"),
        (float("-inf"), "-inf"),
        (1.0, "1.0"),
        (123456789, "123456789"),
    ],
)
def test_numbers_stay_numbers(tmp_path, number, text):
    write_table(tmp_path / "t.csv", ("path", "number"), [("a", number)])
    assert (tmp_path / "t.csv").read_text().splitlines()[1] == f'"a",{text}'


def test_a_table_that_fails_midway_leaves_the_old_one(tmp_path):
    def rows():
        yield ("a.png", 0, 1.0, "")
        raise RuntimeError("midway")

    write_table(tmp_path / "t.csv", COLUMNS, [("old.png", 1, 2.0, "")])
    with pytest.raises(RuntimeError, match="midway"):
        write_table(tmp_path / "t.csv", COLUMNS, rows())
    assert read(tmp_path / "t.csv")[1:] == [("old.png", "1", "2.0", "")]
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_skipped_files_are_sorted(tmp_path):
    write_skipped(tmp_path / "skipped.csv", {"b.txt": "no image", "=a.txt": "-"})
    assert read(tmp_path / "skipped.csv") == [("path", "reason"), ("./=a.txt", "'-"), ("b.txt", "no image")]


def test_nothing_skipped_is_a_header(tmp_path):
    write_skipped(tmp_path / "skipped.csv", {})
    assert (tmp_path / "skipped.csv").read_bytes() == b'"path","reason"\r\n'
