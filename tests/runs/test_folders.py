import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from whycluster.data.listing import FINISHED, UNFINISHED, is_unfinished_run
from whycluster.data.listing import REQUEST as REQUEST_FILE
from whycluster.runs.folders import Run, find_checkpoint

RESULTS = ("model.ckpt", "tensorboard")
REQUEST = {"command": "train", "seed": 0, "data": {"kind": "digits"}, "beta": "inf"}
FLAT = {"command": "train", "seed": 0, "data.kind": "digits", "beta": "inf"}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def begin(folder, request=REQUEST, resume=False):
    return Run(folder, RESULTS, request, resume)


def names(folder):
    """What is in a folder, but the lock."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


class Killed(BaseException):
    """A process that ends without a chance to do anything about it."""


def stopped(folder, request=REQUEST):
    """A run that has done something, and was then killed."""
    run = begin(folder, request)
    with pytest.raises(Killed), run.working():  # noqa: PT012
        (run.state / "0-8.pt").write_text("done")
        raise Killed
    return run


def finished(folder, request=REQUEST):
    return begin(folder, request, resume=True).is_finished()


def test_a_run_that_is_done_leaves_its_results_only(folder):
    run = begin(folder)
    with run.working():
        assert names(folder) == [UNFINISHED]
        assert json.loads((run.state / "request.json").read_text()) == FLAT
        (folder / "model.ckpt").touch()
        assert not finished(folder)
    assert finished(folder)
    assert names(folder) == [".request.json", "model.ckpt"]
    assert not begin(folder).is_finished()  # who does not go on wants a run of their own
    with pytest.raises(ValueError, match=r"was begun with seed=0, and now it is 1"):
        finished(folder, REQUEST | {"seed": 1})


def claim(folder, request=REQUEST, **settings):
    """Takes the folder and is interrupted at once."""
    with pytest.raises(Killed), begin(folder, request, **settings).working():
        raise Killed


def test_a_folder_of_somebody_elses_with_that_name_is_left_alone(folder):
    (folder / UNFINISHED).mkdir(parents=True)
    (folder / UNFINISHED / "thesis.txt").touch()
    for settings in ({}, {"resume": True}):
        with pytest.raises(ValueError, match="already holds unfinished"):
            claim(folder, **settings)
    assert names(folder) == [UNFINISHED]
    assert names(folder / UNFINISHED) == ["thesis.txt"]


def test_a_run_that_fails_before_it_has_done_anything_leaves_nothing(folder):
    with (
        pytest.raises(ValueError, match="no"),
        begin(folder).working(),
    ):
        raise ValueError("no")
    assert names(folder) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_what_is_done_stays_when_a_run_fails(folder, error):
    run = begin(folder)
    with pytest.raises(error), run.working():  # noqa: PT012
        (run.state / "0-8.pt").touch()
        raise error
    assert not finished(folder)
    with begin(folder, resume=True).working():
        assert (run.state / "0-8.pt").exists()


def test_an_unfinished_run_is_not_begun_anew(folder):
    state = stopped(folder).state
    with pytest.raises(ValueError, match=r"did not finish; go on with it by resume=true, or choose another"):
        claim(folder)
    assert names(state) == ["0-8.pt", "request.json"]


@pytest.mark.parametrize("change", [{"seed": 1}, {"data": {"kind": "folder"}}, {"beta": 1}, {"more": 1}])
def test_a_run_goes_on_only_as_it_was_begun(folder, change):
    stopped(folder)
    [name] = change
    name = name.replace("data", r"data\.kind")
    with pytest.raises(ValueError, match=rf"begun with {name}=.*now it is .*hydra\.run\.dir"):
        claim(folder, REQUEST | change, resume=True)
    claim(folder, resume=True)  # and was let go of


def test_a_setting_that_is_gone_is_another_setting(folder):
    stopped(folder)
    with pytest.raises(ValueError, match=r"begun with beta=inf, and now it is None"):
        claim(folder, {name: value for name, value in REQUEST.items() if name != "beta"}, resume=True)


def test_going_on_where_nothing_was_begun_begins(folder):
    with begin(folder, resume=True).working():
        (folder / "model.ckpt").touch()
    assert finished(folder)


@pytest.mark.parametrize("settings", [{}, {"resume": True}])
def test_what_is_not_of_a_run_is_never_replaced(folder, settings):
    (folder / "tensorboard").mkdir(parents=True)
    (folder / "tensorboard" / "photo.png").touch()
    with pytest.raises(ValueError, match="already holds tensorboard"):
        claim(folder, **settings)
    assert names(folder) == ["tensorboard"]
    assert names(folder / "tensorboard") == ["photo.png"]


def test_results_are_never_replaced(folder):
    with begin(folder).working():
        (folder / "model.ckpt").touch()
    with pytest.raises(ValueError, match=r"already holds model\.ckpt; choose another by hydra\.run\.dir"):
        claim(folder)
    assert names(folder) == [FINISHED, "model.ckpt"]


def test_a_run_that_fails_with_results_but_no_state_goes_on(folder):
    with pytest.raises(Killed), begin(folder).working():  # noqa: PT012
        (folder / "tensorboard").mkdir()
        raise Killed
    with begin(folder, resume=True).working():
        assert names(folder) == ["tensorboard", UNFINISHED]


CHANGES = (
    *((os, "replace"), (shutil, "rmtree"), (shutil, "copyfile")),
    *((Path, name) for name in ("mkdir", "rmdir", "unlink", "write_text")),
)


@pytest.mark.parametrize("step", range(14))
def test_a_run_killed_as_it_begins_or_finishes_goes_on_or_is_finished(folder, monkeypatch, step):
    """Before each change of the file system; what was done is there, or was not needed any more."""
    left, worked, ended = [step], [], []

    def counted(change):
        def until_killed(*arguments, **settings):
            left[0] -= 1
            if left[0] < 0:  # a killed process tidies nothing up either
                raise Killed
            return change(*arguments, **settings)

        return until_killed

    with monkeypatch.context() as patch:
        for owner, name in CHANGES:
            patch.setattr(owner, name, counted(getattr(owner, name)))
        with suppress(Killed):
            with begin(folder).working():
                (folder / "model.ckpt").touch()
                os.mkdir(folder / UNFINISHED / "features")
                for name in ("features/0-8.pt", "lloyd.ckpt"):
                    (folder / UNFINISHED / name).touch()
                worked.append(True)
            ended.append(True)
    assert bool(ended) == (step == 13)  # all steps are tried
    assert is_unfinished_run(folder) or not worked or find_checkpoint(str(folder)) == folder / "model.ckpt"
    if not finished(folder):
        with begin(folder, resume=True).working():
            assert (folder / UNFINISHED / "features" / "0-8.pt").exists() == bool(worked)
            assert (folder / UNFINISHED / "lloyd.ckpt").exists() == bool(worked)
            (folder / "model.ckpt").touch()
    assert finished(folder)
    assert names(folder) == [FINISHED, "model.ckpt"] or (
        names(folder)[-1] == UNFINISHED and not names(folder / UNFINISHED)
    )


def test_a_folder_in_a_finished_run_that_is_somebody_elses_stays(folder):
    with begin(folder).working():
        (folder / "model.ckpt").touch()
    (folder / UNFINISHED).mkdir()
    (folder / UNFINISHED / "thesis.txt").touch()
    assert finished(folder)
    assert names(folder / UNFINISHED) == ["thesis.txt"]


def test_settings_that_cannot_change_results_may_differ(folder):
    request = REQUEST | {"num_workers": 2, "trainer": {"devices": 1, "precision": 32}}
    stopped(folder, request)
    claim(folder, request | {"num_workers": 0, "trainer": {"devices": 2, "precision": 32}}, resume=True)
    with pytest.raises(ValueError, match=r"begun with trainer\.precision=32, and now it is 16"):
        claim(folder, request | {"trainer": {"devices": 1, "precision": 16}}, resume=True)


HOLD = """
import sys, time; from pathlib import Path; from whycluster.runs.folders import Run
run = Run(Path(sys.argv[1]), ("model.ckpt",), {"command": "train", "seed": 0}, True)
with run.working():
    (run.state / "0-8.pt").touch()
    print("held", flush=True)
    time.sleep(100)
"""


def test_a_second_process_is_refused_and_a_killed_one_keeps_nobody_out(folder):
    with subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            for settings in ({"resume": True}, {"resume": False}):
                with pytest.raises(ValueError, match="is worked on by another process"):
                    claim(folder, **settings)
        finally:
            process.kill()
    with begin(folder, {"command": "train", "seed": 0}, resume=True).working():
        assert (folder / UNFINISHED / "0-8.pt").exists()


def test_the_newest_finished_run_is_latest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no finished train run"):
        find_checkpoint("latest")
    for name in ("a", "b"):
        path = tmp_path / "outputs" / "train" / name / "model.ckpt"
        path.parent.mkdir(parents=True)
        path.touch()
        (path.parent / FINISHED).write_text("{}")
    (path.parent / FINISHED).unlink()
    (path.parent / UNFINISHED).mkdir()
    (path.parent / UNFINISHED / REQUEST_FILE).touch()
    photo = tmp_path / "outputs" / "train" / "a" / "clusters" / "0" / "model.ckpt"
    photo.parent.mkdir(parents=True)
    photo.touch()
    (tmp_path / "outputs" / "train" / "model.ckpt").touch()  # of no run
    assert find_checkpoint("latest") == Path("outputs/train/a/model.ckpt")
    with pytest.raises(ValueError, match="did not finish"):
        find_checkpoint("outputs/train/b")
    with pytest.raises(ValueError, match="did not finish"):
        find_checkpoint("outputs/train/b/model.ckpt")
