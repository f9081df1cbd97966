import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from whycluster.backbones import build_backbone
from whycluster.clustering.extraction import FeatureExtractor, FeatureWriter
from whycluster.clustering.features import FeatureStore
from whycluster.data import Folder, PreparedImages, read_image


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
    writer = FeatureWriter(tmp_path_factory.mktemp("run") / "features.npy", 7, backbone.n_features)
    trainer = pl.Trainer(accelerator="cpu", logger=False, callbacks=[writer], enable_progress_bar=False)
    trainer.predict(FeatureExtractor(backbone, images, batch_size, num_workers=0), return_predictions=False)
    stored = FeatureStore(writer.path).open()
    assert list(writer.skipped) == [3]
    assert not stored[3].any()
    for row in (0, 1, 2, 4, 5, 6):
        image = backbone.preprocessing(read_image(folder / collection.paths[row]))
        torch.testing.assert_close(torch.tensor(stored[row]), backbone(image[None])[0], rtol=1e-4, atol=1e-4)
