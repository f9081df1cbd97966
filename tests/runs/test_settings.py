import pytest

from whycluster.runs import KMeansClusterer, make_trainer
from whycluster.runs.settings import decoding_workers, whole_number


@pytest.mark.parametrize("value", ["many", 1.5, None, True, 0])
def test_what_is_no_whole_number_is_named(value):
    with pytest.raises(ValueError, match=f"limit={value} should be a whole number >= 1"):
        whole_number("limit", value, 1)


def test_few_images_need_no_workers_and_a_wish_is_a_wish():
    assert decoding_workers(None, 10, 32) == 0
    assert decoding_workers(3, 10, 32) == 3
    with pytest.raises(ValueError, match="num_workers=-1"):
        decoding_workers(-1, 10, 32)


@pytest.mark.parametrize("wrong", [{"n_clusters": 1}, {"tol": "abc"}, {"tol": -1}, {"beta": -1}, {"n_init": 0}])
def test_impossible_heads_are_refused_before_any_work(wrong):
    with pytest.raises(ValueError, match=f"head.{next(iter(wrong))}="):
        KMeansClusterer(**{"n_clusters": 3, **wrong})


def test_auto_never_takes_a_device_without_double_precision():
    trainer = make_trainer("auto", logger=False)
    assert type(trainer.accelerator).__name__ in ("CPUAccelerator", "CUDAAccelerator")
