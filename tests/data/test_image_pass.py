import threading
import time

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from whycluster.data import Digits, PreparedImages, Shards, image_pass
from whycluster.data.image_pass import ImagePass, ShardWriter


class Ink(ImagePass):
    def predict_step(self, batch):
        return batch.images.float().mean((1, 2, 3))


class Kept(ShardWriter):
    def results(self, prediction, batch):
        return {"ink": dict(zip(batch.indices.tolist(), prediction.tolist(), strict=True))}


@pytest.fixture
def images():
    return PreparedImages(Digits(limit=11), lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1))


def predict(images, shards, writer=Kept, module=Ink):
    settings = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    pl.Trainer(**settings, callbacks=[writer(shards)]).predict(module(images, shards, 2, 0), return_predictions=False)
    return {number: ink for shard in shards for number, ink in shard["ink"].items()}


def expected(images):
    return {number: images[number][1].float().mean().item() for number in range(11)}


def test_what_is_done_is_not_done_again(images, tmp_path):
    shards = Shards(tmp_path, 11)
    for first in (2, 6):
        shards.write({"first": first, "end": first + 2, "skipped": {}, "ink": {first: -1.0, first + 1: -1.0}})
    found = predict(images, shards)
    assert found == expected(images) | dict.fromkeys((2, 3, 6, 7), -1.0)
    assert shards.done().all()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "0-2.pt",
        "10-11.pt",
        "2-4.pt",
        "4-6.pt",
        "6-8.pt",
        "8-10.pt",
    ]


def test_a_failure_keeps_what_was_done(images, tmp_path):
    class Failing(Ink):
        def predict_step(self, batch):
            if 6 in batch.indices:
                raise RuntimeError("no")
            return super().predict_step(batch)

    shards = Shards(tmp_path, 11)
    with pytest.raises(RuntimeError, match="no"):
        predict(images, shards, module=Failing)
    assert np.flatnonzero(shards.done()).tolist() == list(range(6))
    assert predict(images, shards) == expected(images)


def test_what_cannot_be_written_is_not_done(images, tmp_path):
    class Full(Kept):
        def results(self, prediction, batch):
            if 4 in batch.indices:
                raise OSError(28, "No space left on device")
            return super().results(prediction, batch)

    shards = Shards(tmp_path, 11)
    with pytest.raises(OSError, match="No space left"):
        predict(images, shards, writer=Full)
    assert not shards.done()[4:6].any()
    assert predict(images, shards) == expected(images)


def test_writing_does_not_hold_up_the_network_nor_fall_far_behind_it(images, tmp_path, monkeypatch):
    monkeypatch.setattr(image_pass, "UNDER_WAY", 2)
    computed, lag = [], []

    class Counted(Ink):
        def predict_step(self, batch):
            computed.append(batch.rows[0])
            return super().predict_step(batch)

    class Slow(Kept):
        def results(self, prediction, batch):
            time.sleep(0.05)
            assert threading.current_thread() is not threading.main_thread()
            lag.append(len(computed) - 1 - computed.index(batch.rows[0]))
            return super().results(prediction, batch)

    assert predict(images, Shards(tmp_path, 11), writer=Slow, module=Counted) == expected(images)
    assert 1 <= max(lag) <= 4


@pytest.mark.parametrize("n", [1, 8, 21])
def test_a_cpu_computes_few_images_at_once(n):
    batch = torch.arange(n)
    parts = image_pass.computed_at_once(batch)
    assert torch.equal(torch.cat(parts), batch)
    assert max(len(part) for part in parts) <= image_pass.CPU_BATCH
