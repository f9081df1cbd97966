from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from whycluster import UserError
from whycluster.runs import make_trainer, trainers
from whycluster.runs.trainers import LastEpoch, WholeFiles, check_loading


def test_auto_never_takes_a_device_without_double_precision():
    trainer = make_trainer("auto", logger=False)
    assert type(trainer.accelerator).__name__ in ("CPUAccelerator", "CUDAAccelerator")


def test_convolutions_are_computed_in_float32_proper(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    make_trainer("cpu", logger=False)
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("wrong", [{"devices": 0}, {"strategy": "none"}, {"presision": 32}, {"precision": 12}])
def test_what_lightning_refuses_is_a_sentence(wrong):
    with pytest.raises(UserError, match=r"Lightning's Trainer does not take trainer=…: .+"):
        make_trainer("cpu", logger=False, **wrong)


@pytest.mark.parametrize("name", ["max_epochs", "callbacks", "logger"])
def test_settings_that_a_run_decides_itself_are_refused(name):
    check_loading(partial(make_trainer, devices=2), 8, None)
    with pytest.raises(UserError, match=f"trainer.{name} is decided by the run itself; leave it out"):
        check_loading(partial(make_trainer, **{name: 1}), 8, None)


@pytest.mark.parametrize(("batch_size", "num_workers"), [(0, None), ("8", None), (8, -1), (8, True)])
def test_numbers_of_images_and_processes_are_whole(batch_size, num_workers):
    with pytest.raises(UserError, match="should be a whole number >= "):
        check_loading(make_trainer, batch_size, num_workers)


def test_a_checkpoint_that_is_not_written_whole_leaves_the_one_before(tmp_path, monkeypatch):
    path, files = tmp_path / "lloyd.ckpt", WholeFiles()
    files.save_checkpoint({"epoch": 1}, path)

    def half(file, content):
        file.write_text("half")
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="no space left"):
        files.save_checkpoint({"epoch": 2}, path)
    assert files.load_checkpoint(path) == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["lloyd.ckpt"]


class Epochs:
    """A trainer of seven epochs of four seconds each, as its callbacks see it; notes after which of them it saved."""

    max_epochs, should_stop = 7, False

    def __init__(self, monkeypatch, first_decides=lambda mine: mine):
        self.clock, self.asked, self.saved = 0.0, [], []
        monkeypatch.setattr(trainers, "time", SimpleNamespace(monotonic=lambda: self.clock))
        self.strategy = SimpleNamespace(broadcast=lambda mine: self.asked.append(mine) or first_decides(mine))

    def save_checkpoint(self, path):
        self.saved.append(self.current_epoch)

    def run(self, n_epochs=7):
        callback = LastEpoch(Path("fit.ckpt"))
        for self.current_epoch in range(n_epochs):
            self.clock += 4
            self.should_stop = self.current_epoch == n_epochs - 1 < 6
            callback.on_train_epoch_end(self, None)
        return self.saved


def test_a_fit_is_saved_every_ten_seconds_and_at_its_end(monkeypatch):
    assert Epochs(monkeypatch).run() == [2, 5, 6]
    assert Epochs(monkeypatch).run(5) == [2, 4]  # the module stopped it


@pytest.mark.parametrize(("decision", "saved"), [(True, [*range(7)]), (False, [6])])
def test_the_first_process_decides_when_all_of_them_save(monkeypatch, decision, saved):
    epochs = Epochs(monkeypatch, lambda mine: decision)
    assert epochs.run() == saved
    assert len(epochs.asked) == 7  # all processes meet after each epoch
