import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from whycluster.data.listing import FINISHED, UNFINISHED
from whycluster.data.listing import REQUEST as REQUEST_FILE
from whycluster.runs.folders import Run, digest, find_checkpoint, working_on

RESULTS = ("model.ckpt", "tensorboard")
REQUEST = {"seed": 0, "data": {"kind": "digits"}, "beta": "inf"}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def stopped(folder, request=REQUEST):
    """A run that has done something, and was then killed."""
    run = Run(folder, RESULTS)
    run.claim(request)
    (run.state / "extracted.0.jsonl").write_text("{}\n")
    run.lock.release()
    return run


def finished(folder, request=REQUEST):
    return Run(folder, RESULTS, resume=True).is_finished(request)


def test_a_run_that_is_done_leaves_its_results_only(folder):
    run = Run(folder, RESULTS)
    with working_on(run, REQUEST):
        assert [path.name for path in folder.iterdir()] == [UNFINISHED]
        assert json.loads((run.state / "request.json").read_text()) == REQUEST
        (folder / "model.ckpt").touch()
        assert not finished(folder)
    assert finished(folder)
    assert sorted(path.name for path in folder.iterdir()) == [".request.json", "model.ckpt"]
    assert not Run(folder, RESULTS).is_finished(REQUEST)  # who does not go on wants a run of his own
    with pytest.raises(ValueError, match=r"finished was begun with seed=0, and now it is 1"):
        finished(folder, REQUEST | {"seed": 1})


@pytest.mark.parametrize("left", [".unfinished.gone", "unfinished"])
def test_what_a_killed_process_has_left_of_a_finished_run_goes(folder, left):
    run = Run(folder, RESULTS)
    with working_on(run, REQUEST):
        (folder / "model.ckpt").touch()
    (folder / left).mkdir()
    assert finished(folder)
    run.tidy()
    assert sorted(path.name for path in folder.iterdir()) == [".request.json", "model.ckpt"]


def test_tidying_up_leaves_a_run_that_begins_anew_alone(folder):
    with working_on(Run(folder, RESULTS), REQUEST):
        (folder / "model.ckpt").touch()
    other = Run(folder, RESULTS, overwrite=True)
    other.claim(REQUEST)
    Run(folder, RESULTS).tidy()
    assert other.begun() == REQUEST
    (other.state / "request.json").unlink()  # as if it had not come to that yet
    Run(folder, RESULTS).tidy()
    assert other.state.exists()


def test_a_folder_of_somebody_elses_with_that_name_is_left_alone(folder):
    (folder / UNFINISHED).mkdir(parents=True)
    (folder / UNFINISHED / "thesis.txt").touch()
    for settings in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(ValueError, match=r"holds unfinished, which is not of a run"):
            Run(folder, RESULTS, **settings).claim(REQUEST)
    assert [path.name for path in folder.rglob("*.*")] == ["thesis.txt"]


def test_tidying_up_leaves_what_is_of_others(folder):
    with working_on(Run(folder, RESULTS), REQUEST):
        (folder / "model.ckpt").touch()
    (folder / UNFINISHED).mkdir()
    (folder / UNFINISHED / "thesis.txt").touch()
    assert finished(folder)
    Run(folder, RESULTS).tidy()
    assert [path.name for path in (folder / UNFINISHED).iterdir()] == ["thesis.txt"]


def test_a_run_that_fails_before_it_has_done_anything_leaves_nothing(folder):
    with (
        pytest.raises(ValueError, match="no"),
        working_on(Run(folder, RESULTS), REQUEST),
    ):
        raise ValueError("no")
    assert not list(folder.iterdir())


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_what_is_done_stays_when_a_run_fails(folder, error):
    run = Run(folder, RESULTS)
    with pytest.raises(error), working_on(run, REQUEST):  # noqa: PT012
        (run.state / "extracted.0.jsonl").touch()
        raise error
    assert not finished(folder)
    with working_on(Run(folder, RESULTS, resume=True), REQUEST):
        assert (run.state / "extracted.0.jsonl").exists()


def test_an_unfinished_run_is_not_begun_anew_unless_asked(folder):
    state = stopped(folder).state
    with pytest.raises(ValueError, match=r"did not finish; go on with it by resume=true, or .* overwrite=true"):
        Run(folder, RESULTS).claim(REQUEST)
    assert (state / "extracted.0.jsonl").exists()
    with working_on(Run(folder, RESULTS, overwrite=True), {"seed": 1}):
        assert sorted(path.name for path in state.iterdir()) == ["lock", "request.json"]
        assert json.loads((state / "request.json").read_text()) == {"seed": 1}


@pytest.mark.parametrize(
    "launcher",
    [
        {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "{n}"},
        {
            "SLURM_NTASKS": "{n}",
            "SLURM_NTASKS_PER_NODE": "{n}",
            "SLURM_JOB_NAME": "photos",
            "SLURM_JOB_ID": "1",
            "SLURM_PROCID": "0",
        },
    ],
)
def test_processes_that_start_at_once_do_not_begin_anew_what_did_not_finish(folder, launcher, monkeypatch):
    state = stopped(folder).state
    for n in (2, 1):
        for name, value in launcher.items():
            monkeypatch.setenv(name, value.format(n=n))
        run = Run(folder, RESULTS, overwrite=True)
        if n == 2:
            with pytest.raises(ValueError, match="cannot agree on its end; remove the folder"):
                run.claim(REQUEST)
            Run(folder, RESULTS, resume=True).claim(REQUEST)
            assert (state / "extracted.0.jsonl").exists()
        else:
            run.claim(REQUEST)
            assert not (state / "extracted.0.jsonl").exists()


@pytest.mark.parametrize("change", [{"seed": 1}, {"data": {"kind": "folder"}}, {"beta": 1}, {"more": 1}])
def test_a_run_goes_on_only_as_it_was_begun(folder, change):
    stopped(folder)
    [name] = change
    name = name.replace("data", r"data\.kind")
    with pytest.raises(ValueError, match=rf"begun with {name}=.*now it is .*overwrite=true"):
        Run(folder, RESULTS, resume=True).claim(REQUEST | change)
    Run(folder, RESULTS, resume=True).claim(REQUEST)  # and was let go of


def test_a_setting_that_is_gone_is_another_setting(folder):
    stopped(folder)
    with pytest.raises(ValueError, match=r"begun with beta=inf, and now it is None"):
        Run(folder, RESULTS, resume=True).claim({name: value for name, value in REQUEST.items() if name != "beta"})


def test_going_on_where_nothing_was_begun_begins(folder):
    with working_on(Run(folder, RESULTS, resume=True), REQUEST):
        (folder / "model.ckpt").touch()
    assert finished(folder)


@pytest.mark.parametrize("settings", [{}, {"overwrite": True}, {"resume": True}])
def test_what_is_not_of_a_run_is_never_replaced(folder, settings):
    (folder / "tensorboard").mkdir(parents=True)
    (folder / "tensorboard" / "photo.png").touch()
    with pytest.raises(ValueError, match=r"already holds tensorboard, which is not of a run, and stays"):
        Run(folder, RESULTS, **settings).claim(REQUEST)
    assert [path.name for path in folder.rglob("*")] == ["tensorboard", "photo.png"]


def test_results_are_not_replaced_unless_asked(folder):
    with working_on(Run(folder, RESULTS), REQUEST):
        (folder / "model.ckpt").touch()
    with pytest.raises(ValueError, match=r"already holds model\.ckpt; choose another hydra\.run\.dir, or overwrite"):
        Run(folder, RESULTS).claim(REQUEST)
    assert sorted(path.name for path in folder.iterdir()) == [FINISHED, "model.ckpt"]
    run = Run(folder, RESULTS, overwrite=True)
    with working_on(run, REQUEST):
        assert (folder / "model.ckpt").exists()  # until new ones are sure to come
        run.clear()
        assert not (folder / "model.ckpt").exists()


def test_going_on_and_beginning_anew_contradict(folder):
    with pytest.raises(ValueError, match="choose one"):
        Run(folder, RESULTS, resume=True, overwrite=True)


def test_a_run_that_replaces_an_unfinished_one_and_fails_at_once_does_not_pass_for_finished(folder):
    stopped(folder)
    (folder / "model.ckpt").touch()
    run = Run(folder, RESULTS, overwrite=True)
    with pytest.raises(ValueError, match="no"), working_on(run, REQUEST):
        raise ValueError("no")
    assert run.state.exists()
    assert not finished(folder)
    with pytest.raises(ValueError, match="did not finish"):
        Run(folder, RESULTS).claim(REQUEST)


def test_state_that_was_being_removed_counts_for_nothing(folder):
    run = stopped(folder)
    (run.state / "request.json").unlink()  # the first to go
    run = Run(folder, RESULTS, resume=True)
    run.claim({"seed": 5})
    assert sorted(path.name for path in run.state.iterdir()) == ["lock", "request.json"]


def test_a_run_killed_as_it_finishes_finishes_again(folder):
    run = Run(folder, RESULTS)
    remove, run._remove_state = run._remove_state, lambda: None
    with working_on(run, REQUEST):
        (folder / "model.ckpt").touch()
        (run.state / "extracted.0.jsonl").touch()
    run.lock.release()
    assert not finished(folder)
    run = Run(folder, RESULTS, resume=True)
    with working_on(run, REQUEST):
        assert (run.state / "extracted.0.jsonl").exists()
    assert finished(folder)
    remove()


def test_links_in_a_run_folder_are_removed_and_not_followed(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").touch()
    folder.mkdir()
    (folder / "tensorboard").symlink_to(tmp_path / "elsewhere")
    Run(folder, RESULTS).clear()
    assert not (folder / "tensorboard").is_symlink()
    assert (tmp_path / "elsewhere" / "precious").exists()


@pytest.mark.parametrize("overwrite", [True, False])
def test_what_was_being_written_when_a_run_was_stopped_goes(folder, overwrite):
    stopped(folder)
    (folder / "heatmaps").mkdir()
    (folder / "heatmaps" / ".a.png.1.2.part").touch()
    (folder / "heatmaps" / "a.png").touch()
    (folder / "heatmaps" / ".mine.part").touch()
    run = Run(folder, RESULTS, resume=not overwrite, overwrite=overwrite)
    run.claim(REQUEST)
    assert sorted(path.name for path in (folder / "heatmaps").iterdir()) == [".mine.part", "a.png"]


HOLD = """
import sys, time; from pathlib import Path; from whycluster.runs.folders import Run
run = Run(Path(sys.argv[1]), ("model.ckpt",), resume=True)
run.claim({"seed": 0, "data": {"kind": "digits"}, "beta": "inf"})
(run.state / "extracted.0.jsonl").touch()
print("held", flush=True)
time.sleep(100)
"""


def test_a_second_process_is_refused_and_a_killed_one_keeps_nobody_out(folder):
    with subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            for settings in ({"resume": True}, {"resume": False}, {"overwrite": True}):
                with pytest.raises(ValueError, match="another process works on the run folder"):
                    Run(folder, RESULTS, **settings).claim(REQUEST)
        finally:
            process.kill()
    run = Run(folder, RESULTS, resume=True)
    run.claim(REQUEST)


def test_the_newest_finished_run_is_latest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no finished train run"):
        find_checkpoint("latest")
    for name in ("a", "b"):
        path = tmp_path / "outputs" / "train" / name / "model.ckpt"
        path.parent.mkdir(parents=True)
        path.touch()
        (path.parent / FINISHED).write_text("{}")
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


def test_a_digest_is_of_content(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"1")
    tensors = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0], dtype=torch.bfloat16), torch.tensor(3)
    assert digest([tmp_path / "a"]) == digest([tmp_path / "b"])
    assert digest(["a", "b"]) == digest(iter(["a", "b"])) != digest(["ab", ""])
    assert len({digest([tensor]) for tensor in tensors}) == 3
    assert digest([torch.arange(6).view(2, 3).T]) != digest([torch.arange(6)])
