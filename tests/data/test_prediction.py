import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from whycluster.data import Digits, PreparedImages, Progress
from whycluster.data.prediction import ImagePass, PassWriter


class Ink(ImagePass):
    def predict_step(self, batch):
        return batch.images.float().mean((1, 2, 3))


class Kept(PassWriter):
    def __init__(self, progress):
        super().__init__(progress)
        self.found = {}

    def write(self, prediction, batch):
        self.found |= dict(zip(batch.indices.tolist(), prediction.tolist(), strict=True))
        self.watch.lap("network")
        self.progress.add(batch.rows[0], len(batch), self.watch.taken(), skipped=batch.skipped)

    def on_predict_end(self, trainer, pl_module):
        self.progress.note()


def shown(images, writer, done):
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[writer])
    trainer.predict(Ink(images, 4, 0, done), return_predictions=False)
    return writer.found


@pytest.mark.parametrize("rows", [None, range(2, 9)])
def test_what_is_done_is_not_done_again(tmp_path, rows):
    digits = Digits(limit=11)
    images = PreparedImages(digits, lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1), rows)
    expected = {index: images.prepare(digits.load(index)).float().mean().item() for index in images.rows}
    done = np.zeros(11, dtype=bool)
    done[[*images.rows][:4]] = True
    found = shown(images, Kept(Progress(tmp_path, "ink", 11)), done)
    assert found == {index: ink for index, ink in expected.items() if not done[index]}
    progress = Progress(tmp_path, "ink", 11)
    assert [index for index in range(11) if progress.done[index]] == list(found)
    assert set(progress.times()) == {"waiting for images", "network"}
