import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from whycluster.backbones import build_backbone
from whycluster.clustering.extraction import FeatureExtractor, FeatureWriter
from whycluster.data import Folder, PreparedImages, Shards, read_image


@pytest.fixture
def folder(tmp_path):
    random = np.random.RandomState(0)
    for number in range(7):
        Image.fromarray(random.randint(0, 256, (40, 50, 3), np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "3.png").write_text("no image")
    return tmp_path


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_features_are_those_of_each_image_alone(folder, tmp_path_factory, batch_size):
    backbone = build_backbone("glyphnet", "DEFAULT", pool="flatten")
    collection = Folder(folder)
    shards = Shards(tmp_path_factory.mktemp("shards"), 7)
    images = PreparedImages(collection, backbone.preprocessing)
    trainer = pl.Trainer(accelerator="cpu", logger=False, callbacks=[FeatureWriter(shards)], enable_progress_bar=False)
    trainer.predict(FeatureExtractor(backbone, images, shards, batch_size, num_workers=0), return_predictions=False)
    assert shards.done().all()
    assert shards.skipped() == {3: "not an image, or in a format that is not known"}
    found = torch.cat([entry["features"] for entry in shards if len(entry["features"])])
    assert found.dtype == torch.float32
    readable = [read_image(folder / path) for path in collection.paths if path != "3.png"]
    expected = torch.cat([backbone(backbone.preprocessing(image)[None]) for image in readable])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 3, 5, 32])
def test_equal_images_have_equal_features_whatever_comes_with_them(tmp_path, batch_size):
    root = tmp_path / "photos"
    root.mkdir()
    for number in range(7):
        Image.new("RGB", (40, 40), (9, 90, 200)).save(root / f"{number}.png")
    backbone = build_backbone("glyphnet", "DEFAULT", pool="flatten")
    shards = Shards(tmp_path / "shards", 7)
    images = PreparedImages(Folder(root), backbone.preprocessing)
    trainer = pl.Trainer(accelerator="cpu", logger=False, callbacks=[FeatureWriter(shards)], enable_progress_bar=False)
    trainer.predict(FeatureExtractor(backbone, images, shards, batch_size, num_workers=0), return_predictions=False)
    features = torch.cat([entry["features"] for entry in shards])
    assert torch.equal(features, features[:1].expand(7, -1))
