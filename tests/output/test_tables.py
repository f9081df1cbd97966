import csv

import pytest

from whycluster.output.tables import plain, write_skipped, write_table

COLUMNS = ("path", "cluster", "discriminant", "label")


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return [tuple(row) for row in csv.reader(file)]


def test_the_text_of_a_table(tmp_path):
    rows = [("a.png", 0, 1.5, ""), ("b,c/d.png", 12, -1234567.89, 'say "hi"'), ("Käse\n.png", -3, 1e-12, "日本")]
    write_table(tmp_path / "t.csv", COLUMNS, rows)
    assert (tmp_path / "t.csv").read_bytes().decode("utf-8") == (
        "path,cluster,discriminant,label\r\n"
        "a.png,0,1.5,\r\n"
        '"b,c/d.png",12,-1234568,"say ""hi"""\r\n'
        '"Käse\n.png",-3,1e-12,日本\r\n'
    )


@pytest.mark.parametrize("text", ["a,b", 'a"b', "a\nb", "a\r\nb", "ärger", "a;b", " a ", "'a'", "a\tb", ""])
def test_text_is_read_back_as_it_was(tmp_path, text):
    write_table(tmp_path / "t.csv", COLUMNS, [(text, 0, 0.0, text)])
    assert read(tmp_path / "t.csv") == [COLUMNS, (text, "0", "0", text)]


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t", "\r"])
def test_no_spreadsheet_takes_text_for_a_formula(tmp_path, sign):
    write_table(tmp_path / "t.csv", COLUMNS, [(f"{sign}1/a.png", 0, 0.0, f"{sign}cmd")])
    assert read(tmp_path / "t.csv")[1] == (f"./{sign}1/a.png", "0", "0", f"'{sign}cmd")


@pytest.mark.parametrize("sign", [";", "\t", "|"])
def test_lines_that_a_spreadsheet_could_split_elsewhere_are_quoted(tmp_path, sign):
    write_table(tmp_path / "t.csv", COLUMNS, [("a.png", 1, 0.5, ""), (f"a{sign}=1+1.png", 1, 0.5, "")])
    assert (tmp_path / "t.csv").read_text().splitlines()[1:] == ["a.png,1,0.5,", f'"a{sign}=1+1.png","1","0.5",""']


@pytest.mark.parametrize("text", ["a=b", "1-2", "x@y", "a+b", "dir/=a", "ends\t"])
def test_signs_within_text_are_left(text):
    assert plain((text, text)) == (text, text)


@pytest.mark.parametrize(
    ("number", "text"),
    [(-1, "-1"), (-0.25, "-0.25"), (0.1234567891, "0.1234568"), (1e20, "1e+20"), (float("-inf"), "-inf"), (1.0, "1")],
)
def test_numbers_stay_numbers(number, text):
    assert plain(("a", number)) == ("a", text)
    assert float(plain(("a", number))[1]) == pytest.approx(number, rel=1e-6)


def test_a_table_that_fails_midway_leaves_the_old_one(tmp_path):
    def rows():
        yield ("a.png", 0, 1.0, "")
        raise RuntimeError("midway")

    write_table(tmp_path / "t.csv", COLUMNS, [("old.png", 1, 2.0, "")])
    with pytest.raises(RuntimeError, match="midway"):
        write_table(tmp_path / "t.csv", COLUMNS, rows())
    assert read(tmp_path / "t.csv")[1:] == [("old.png", "1", "2", "")]
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_skipped_files_are_sorted(tmp_path):
    write_skipped(tmp_path / "skipped.csv", {"b.txt": "no image", "=a.txt": "-"})
    assert read(tmp_path / "skipped.csv") == [("path", "reason"), ("./=a.txt", "'-"), ("b.txt", "no image")]


def test_nothing_skipped_is_a_header(tmp_path):
    write_skipped(tmp_path / "skipped.csv", {})
    assert (tmp_path / "skipped.csv").read_bytes() == b"path,reason\r\n"
