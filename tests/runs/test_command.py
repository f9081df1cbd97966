import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import OmegaConf

from whycluster.runs import command as frame


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data=folder"], "data.root is missing"),
        (["data=folder", "data.root=nowhere"], "the image folder 'nowhere' does not exist"),
        (["data=folder", "data.root=empty"], "the image folder 'empty' has no files in it"),
        (["data.limit=5"], "head.n_clusters=10 should be <= the number of files, 5"),
        (["head.n_clusters=many"], "head.n_clusters='many' should be a whole number >= 2"),
        (["backbone=nonsense"], "Could not find 'backbone/nonsense'"),
        (["backbone=torchvision", "backbone.name=resnet51"], "the nearest are resnet50"),
        (["backbone.layer=featurs.3"], "the nearest are features.3"),
        (["backbone.weights=text.txt"], "the weights file 'text.txt' is damaged"),
        (["export=paper"], "export='paper' is unknown"),
        (["clusters=5"], "there is no setting clusters; --help lists all of them."),
        (["seed=-1"], "seed=-1 should be a whole number >= 0"),
        (["seed=99999999999"], "seed=99999999999 should be below 4294967296"),
        (["head=null"], "Config group override must be a string or a list"),
        (["resume=no", "data.limit=20"], "resume='no' should be true or false"),
        (["+trainer.max_epochs=1"], "trainer.max_epochs is decided by the run itself; leave it out"),
        (["head.n_clusters=[1"], "no viable alternative at input '[1'"),
    ],
)
def test_train_tells_what_is_wrong_in_one_line(command, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("no weights")
    status, said = command("train.py", *arguments)
    assert status == 1
    assert said.startswith("error: ")
    assert message in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is no finished train run in outputs/train"),
        (["checkpoint=nowhere"], "there is no checkpoint 'nowhere'"),
        (["checkpoint=text.txt"], "'text.txt' is not a checkpoint of whycluster"),
        (["checkpoint=MODEL", "target=77"], "target='77': there is no cluster 77; the model has 0 to 5"),
        (["checkpoint=MODEL", "composite=none"], "composite='none' is unknown"),
        (["checkpoint=MODEL", "composite=null"], "composite=None should be the name of a composite"),
        (["checkpoint=MODEL", "check=maybe"], "check='maybe' should be true or false"),
        (["checkpoint=MODEL", "beta=stiff"], "beta='stiff' should be a number >= 0, or 'auto'"),
        (["checkpoint=MODEL", "head_rule=half"], "head_rule='half' is unknown"),
        (["checkpoint=MODEL", "residual=half"], "residual='half' is unknown; choose from ratio, norm"),
        (["checkpoint=MODEL", "limit=0"], "limit=0 should be a whole number >= 1"),
        (["checkpoint=MODEL", "images=nowhere"], "the image folder 'nowhere' does not exist"),
    ],
)
def test_explain_tells_what_is_wrong_in_one_line(command, trained, tmp_path, arguments, message):
    (tmp_path / "text.txt").write_text("no model")
    status, said = command("explain.py", *(argument.replace("MODEL", str(trained)) for argument in arguments))
    assert status == 1
    assert said.startswith("error: ")
    assert message in said
    assert len(said.splitlines()) == 1


def numpy_broadcast(*_, **__):
    return np.ones(3) + np.ones(4)


def key_error(*_, **__):
    return {}["labels"]


def type_error(*_, **__):
    return len(3)


@pytest.mark.parametrize("place", ["whycluster.runs.training.fingerprint", "whycluster.data.collections.load_digits"])
@pytest.mark.parametrize(
    ("fault", "name"), [(numpy_broadcast, "ValueError"), (key_error, "KeyError"), (type_error, "TypeError")]
)
def test_a_fault_of_the_program_keeps_its_traceback(command, monkeypatch, fault, name, place):
    monkeypatch.setattr(place, fault)
    status, said = command("train.py")
    assert status == 1
    assert f"in {fault.__name__}" in said
    assert f"\n{name}: " in said
    assert said.splitlines()[-1].startswith("this is a bug in whycluster ")
    assert "error: " not in said.replace(f"{name}: ", "")


def test_a_traceback_can_be_asked_for(command, monkeypatch):
    monkeypatch.setenv("WHYCLUSTER_TRACEBACK", "1")
    status, said = command("train.py", "export=paper")
    assert status == 1
    assert "in check_export" in said
    assert said.splitlines()[-1].startswith("error: export='paper' is unknown")


def test_a_setting_that_was_added_and_that_nothing_takes_is_refused(command):
    status, said = command("train.py", "+head.n_cluster=4")
    assert status == 1
    assert said.startswith("error: Error in call to target 'whycluster.runs.")
    assert "unexpected keyword argument 'n_cluster'" in said
    assert len(said.splitlines()) == 1


def test_a_sweep_goes_on_behind_a_job_that_fails(command, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settings = ("data.limit=40", "head.n_init=1", "num_workers=0", "hydra.sweep.dir=sweep", "trainer.accelerator=cpu")
    status, said = command("train.py", "-m", "head.n_clusters=3,5000,4", *settings)
    assert status == 1
    assert "error: head.n_clusters=5000 should be <= the number of files, 40; lower it." in said.splitlines()
    assert "Traceback" not in said
    assert [(tmp_path / "sweep" / job / "model.ckpt").exists() for job in "012"] == [True, False, True]


def test_paths_are_those_of_the_user_wherever_hydra_goes(command, photos, tmp_path):
    settings = ("data=folder", "data.root=photos", "head.n_clusters=2", "head.n_init=1", "hydra.run.dir=a/run")
    assert command("train.py", *settings, "num_workers=0", "hydra.job.chdir=true") == (0, "")
    assert (tmp_path / "a" / "run" / "model.ckpt").exists()
    settings = ("checkpoint=a/run", "limit=1", "images=photos/dark", "hydra.run.dir=a/why", "num_workers=0")
    assert command("explain.py", *settings, "hydra.job.chdir=true") == (0, "")
    assert (tmp_path / "a" / "why" / "heatmaps" / "0.png.png").exists()
    assert Path.cwd() == tmp_path


def disk_full(*_):
    raise OSError(28, "No space left on device")


def memory_full(*_):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def worker_gone(*_):
    raise RuntimeError("DataLoader worker (pid(s) 3476) exited unexpectedly")


@pytest.mark.parametrize(
    ("fault", "message"),
    [(disk_full, "No space left on device"), (memory_full, "lower batch_size"), (worker_gone, "lower num_workers")],
)
def test_a_fault_of_the_machine_is_one_line(command, monkeypatch, fault, message):
    monkeypatch.setattr("whycluster.runs.training.extract", fault)
    ended, said = command("train.py", "data.limit=9", "head.n_clusters=2")
    assert ended == 1
    assert said.startswith("error: ")
    assert message in said
    assert len(said.splitlines()) == 1


def test_a_fault_in_a_process_that_decodes_keeps_its_traceback(command, monkeypatch):
    def fault(*_):
        raise RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback: shapes differ")

    monkeypatch.setattr("whycluster.runs.training.extract", fault)
    ended, said = command("train.py", "data.limit=9", "head.n_clusters=2")
    assert ended == 1
    assert "in fault" in said
    assert said.splitlines()[-1].startswith("this is a bug in whycluster ")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("made", [SystemExit(1), AttributeError("tidy_up"), RuntimeError("DataLoader worker exited")])
def test_an_interrupt_is_one_line_whatever_a_library_makes_of_it(command, monkeypatch, sent, made):
    def interrupted(*_):
        try:
            os.kill(os.getpid(), sent)
            time.sleep(60)
        finally:
            raise made

    monkeypatch.setattr("whycluster.runs.training.extract", interrupted)
    ended, said = command("train.py", "data.limit=9", "head.n_clusters=2")
    assert ended == 128 + sent
    [line] = said.splitlines()
    assert line.startswith("interrupted; go on by: ")


@pytest.mark.parametrize(
    ("typed", "printed"),
    [
        (["seed=3", "-m"], "python train.py seed=3 hydra.run.dir=a resume=true -m"),
        (["-m", "seed=3", "resume=true"], "python train.py seed=3 hydra.run.dir=a resume=true -m"),
        (["--config-dir", "own", "seed=3"], "python train.py seed=3 hydra.run.dir=a resume=true --config-dir own"),
        ([], "python train.py hydra.run.dir=a resume=true"),
    ],
)
def test_the_line_that_goes_on_has_settings_side_by_side(monkeypatch, tmp_path, typed, printed):
    monkeypatch.chdir(tmp_path)
    hydra = OmegaConf.create({"mode": "RUN", "runtime": {"output_dir": "a"}, "job": {"config_name": "train"}})
    monkeypatch.setattr(frame, "_jobs", [hydra])
    monkeypatch.setattr(sys, "argv", ["train.py", *typed])
    assert frame._way_on() == f"go on by: {printed}"


@pytest.mark.parametrize("n_finished", [0, 1])
def test_a_sweep_interrupted_between_two_jobs_tells_how_to_go_on(command, tmp_path, monkeypatch, n_finished):
    executed, compose = [], ConfigLoaderImpl.load_sweep_config

    def interrupted(*arguments, **settings):
        if len(executed) == n_finished:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        return compose(*arguments, **settings)

    monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", interrupted)
    monkeypatch.setattr(frame, "_execute", executed.append)
    ended, said = command("train.py", "-m", "seed=1,2")
    [sweep] = (tmp_path / "outputs" / "train").glob("*")
    assert (ended, len(executed)) == (130, n_finished)
    if n_finished:
        assert said.endswith(f"train.py seed=1,2 hydra.sweep.dir={sweep.relative_to(tmp_path)} resume=true -m\n")
    else:
        assert said == "interrupted; nothing was done.\n"


def test_processes_that_start_at_once_need_a_folder(command, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    status, said = command("train.py", "data.limit=20", "head.n_clusters=2")
    assert status == 1
    assert said.startswith(
        "error: processes that are started at once, as by torchrun, need a folder: hydra.run.dir=..."
    )
