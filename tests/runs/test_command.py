import pytest

from whycluster.runs.command import Terminated


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data=folder"], "data.root is missing"),
        (["data=folder", "data.root=nowhere"], "the image folder 'nowhere' does not exist"),
        (["data=folder", "data.root=empty"], "the image folder 'empty' has no files in it"),
        (["data.limit=5"], "head.n_clusters=10 should be <= the number of files, 5"),
        (["head.n_clusters=many"], "head.n_clusters=many should be a whole number >= 2"),
        (["backbone=nonsense"], "Could not find 'backbone/nonsense'"),
        (["backbone=torchvision", "backbone.name=resnet51"], "the nearest are resnet50"),
        (["backbone.layer=featurs.3"], "the nearest are features.3"),
        (["backbone.weights=text.txt"], "the weights file 'text.txt' is damaged"),
        (["export=paper"], "export='paper' is unknown"),
        (["clusters=5"], "Could not override 'clusters'"),
        (["head.n_clusters=[1"], "the override 'head.n_clusters=[1' cannot be read"),
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


def test_a_fault_of_the_program_keeps_its_traceback(command, monkeypatch):
    monkeypatch.setattr("whycluster.runs.training.working_on", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command("train.py")


def test_a_traceback_can_be_asked_for(command, monkeypatch):
    monkeypatch.setenv("WHYCLUSTER_TRACEBACK", "1")
    with pytest.raises(ValueError, match="unknown"):
        command("train.py", "export=paper")


def disk_full():
    try:
        raise OSError(28, "No space left on device")
    finally:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")


def worker_gone():
    raise RuntimeError("DataLoader worker (pid(s) 3476) exited unexpectedly")


@pytest.mark.parametrize(
    ("fault", "message"), [(disk_full, "No space left on device"), (worker_gone, "lower num_workers")]
)
def test_what_libraries_make_of_a_fault_of_the_machine_is_one_line(command, monkeypatch, fault, message):
    monkeypatch.setattr("whycluster.runs.training.working_on", lambda *_: fault())
    ended, said = command("train.py", "data.limit=9", "head.n_clusters=2")
    assert ended == 1
    assert said.splitlines()[-1].startswith("error: ")
    assert message in said.splitlines()[-1]


@pytest.mark.parametrize(("interrupt", "status"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_an_interrupt_is_one_line_whatever_a_library_makes_of_it(command, monkeypatch, interrupt, status):
    def interrupted(*_):
        try:
            raise interrupt
        finally:
            None.tidy_up()

    monkeypatch.setattr("whycluster.runs.training.working_on", interrupted)
    ended, said = command("train.py", "data.limit=9", "head.n_clusters=2")
    assert ended == status
    assert said.splitlines()[-1] == "interrupted; nothing was done."
