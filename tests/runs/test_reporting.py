import shutil

import pytest
from filelock import FileLock


@pytest.fixture(scope="module")
def explained(trained, run, tmp_path_factory):
    """A finished explain run of 12 digits."""
    return run("explain", tmp_path_factory.mktemp("explain") / "why", f"checkpoint={trained}", "limit=12")


@pytest.fixture
def again(explained, run, tmp_path):
    """Writes the page of a copy of the run anew, after some change to it; returns the copy."""

    def change_and_write(change=lambda folder: None):
        folder = tmp_path / "copy"
        shutil.copytree(explained, folder)
        change(folder)
        return run("explain", folder, "report=only", "checkpoint=/no/model")

    return change_and_write


def test_an_explain_run_ends_with_a_page_which_is_written_again_from_its_files(explained, again):
    page = (explained / "report.html").read_bytes()
    assert b"0003" in page
    folder = again(lambda folder: (folder / "report.html").unlink())
    assert (folder / "report.html").read_bytes() == page
    names = {path.name for path in folder.iterdir()}
    assert names == {path.name for path in explained.iterdir()}


def test_without_a_page(trained, run, tmp_path, capsys):
    folder = run("explain", tmp_path / "why", f"checkpoint={trained}", "limit=5", "report=false")
    assert not (folder / "report.html").exists()
    assert "open in a browser" not in capsys.readouterr().out


def test_what_is_gone_is_told(again, capsys):
    again(lambda folder: (folder / "heatmaps" / "0003.png").unlink())
    assert "1 of 12 images have no picture: files in heatmaps or relevance are gone" in capsys.readouterr().out


def test_a_table_that_is_gone_is_an_error(again):
    with pytest.raises(ValueError, match=r"needs receipts\.csv of an explain run"):
        again(lambda folder: (folder / "receipts.csv").unlink())


def test_only_a_finished_explain_run_has_a_page(trained, run, tmp_path):
    with pytest.raises(ValueError, match=r"holds none; name its folder by hydra\.run\.dir="):
        run("explain", tmp_path / "empty", "report=only")
    with pytest.raises(ValueError, match="holds none"):
        run("explain", trained, "report=only")


def test_a_run_that_is_worked_on_is_left_alone(again):
    locks = []
    with pytest.raises(ValueError, match="worked on by another process"):
        again(lambda folder: locks.append(FileLock(folder / ".lock").acquire()))


@pytest.mark.parametrize("report", ["yes", "1", "onyl"])
def test_other_settings_are_refused(trained, run, tmp_path, report):
    with pytest.raises(ValueError, match=r"report=.* should be true, false or only"):
        run("explain", tmp_path / "why", f"checkpoint={trained}", f"report='{report}'")
