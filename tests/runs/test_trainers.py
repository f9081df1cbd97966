from functools import partial

import pytest
import torch

from whycluster import UserError
from whycluster.runs import make_trainer
from whycluster.runs.trainers import check_trainer


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


@pytest.mark.parametrize(
    ("name", "cure"), [("max_epochs", "set head.max_iter"), ("callbacks", "leave it out"), ("logger", "set logger")]
)
def test_settings_that_a_run_decides_itself_are_refused(name, cure):
    check_trainer(partial(make_trainer, devices=2))
    with pytest.raises(UserError, match=f"trainer.{name} is decided by the run itself; {cure}"):
        check_trainer(partial(make_trainer, **{name: 1}))
