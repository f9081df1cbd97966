import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from whycluster.backbones import build_backbone
from whycluster.clustering.extraction import FeatureExtractor, FeatureWriter
from whycluster.clustering.features import FeatureStore
from whycluster.data import Folder, PreparedImages, Progress, read_image


@pytest.fixture
def folder(tmp_path):
    random = np.random.RandomState(0)
    for number in range(7):
        Image.fromarray(random.randint(0, 256, (40, 50, 3), np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "3.png").write_text("no image")
    return tmp_path


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_features_lie_at_the_numbers_of_their_images(folder, tmp_path_factory, batch_size):
    backbone = build_backbone("glyphnet", "DEFAULT", pool="flatten")
    collection = Folder(folder)
    images = PreparedImages(collection, backbone.preprocessing)
    state = tmp_path_factory.mktemp("run")
    progress = Progress(state, "extracted", 7)
    writer = FeatureWriter(state / "features.npy", backbone.n_features, progress)
    trainer = pl.Trainer(accelerator="cpu", logger=False, callbacks=[writer], enable_progress_bar=False)
    trainer.predict(FeatureExtractor(backbone, images, batch_size, num_workers=0), return_predictions=False)
    stored = FeatureStore(writer.path).open()
    assert progress.skipped() == {3: "not an image, or in a format that is not known"}
    assert progress.written == 7
    assert not stored[3].any()
    for row in (0, 1, 2, 4, 5, 6):
        image = backbone.preprocessing(read_image(folder / collection.paths[row]))
        torch.testing.assert_close(torch.tensor(stored[row]), backbone(image[None])[0], rtol=1e-4, atol=1e-4)


def test_what_is_done_is_not_done_again(folder, tmp_path_factory):
    state = tmp_path_factory.mktemp("run")
    FeatureStore.create(state / "features.npy", 7, 2).open(writable=True)[:] = 7

    def extract(backbone):
        progress = Progress(state, "extracted", 7)
        writer = FeatureWriter(state / "features.npy", 2, progress)
        trainer = pl.Trainer(accelerator="cpu", logger=False, callbacks=[writer], enable_progress_bar=False)
        images = PreparedImages(Folder(folder), lambda image: torch.zeros(3, 4, 4, dtype=torch.uint8))
        trainer.predict(FeatureExtractor(backbone, images, 2, 0, progress.done), return_predictions=False)
        return progress

    class Interrupted(torch.nn.Module):
        calls = 0

        def forward(self, images):
            self.calls += 1
            if self.calls == 3:
                raise ValueError("the disk is full")
            return torch.ones(len(images), 2)

    with pytest.raises(ValueError, match="full"):
        extract(Interrupted())
    half = FeatureStore(state / "features.npy").open()
    assert half[:, 0].tolist() == [1, 1, 1, 7, 7, 7, 7]
    assert extract(lambda images: torch.full((len(images), 2), 2.0)).written == 3
    assert FeatureStore(state / "features.npy").open()[:, 0].tolist() == [1, 1, 1, 7, 2, 2, 2]
    assert [entry["rows"] for entry in Progress(state, "extracted", 7).entries()] == [[0, 2], [2, 4], [4, 6], [6, 7]]
