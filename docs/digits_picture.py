"""Draws the picture of the README from the newest train run of the digits: `python docs/digits_picture.py`.

For each cluster the image of largest discriminant, and beside it why it is there.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from whycluster import ClusterModel, Explainer
from whycluster.data import Digits, PreparedImages
from whycluster.data.images import collate
from whycluster.output.heatmaps import colour_scale, colours, enlarged, side_by_side
from whycluster.runs.folders import find_checkpoint

PICTURE = Path(__file__).parents[1] / ".github" / "digits.png"
COLUMNS = 5
WIDTH = 1164  # pixels of the whole picture


def main() -> None:
    """Writes the picture."""
    model = ClusterModel.load(find_checkpoint("latest"))
    collection = Digits()
    prepared = PreparedImages(collection, model.backbone.preprocessing)
    images = collate([prepared[row] for row in range(len(prepared))]).images
    assigned = model.assign(model.features(images))
    explainer = Explainer(model)
    tiles = []
    for cluster in range(model.n_clusters):
        row = int(np.where(assigned.cluster == cluster, assigned.discriminant, -1).argmax())
        relevance = explainer.explain(images[row : row + 1]).heatmap[0].numpy()
        photo = images[row].permute(1, 2, 0).numpy()
        panels = [enlarged(panel) for panel in (photo, colours(relevance, colour_scale(relevance)))]
        tiles.append(side_by_side(panels, f"cluster {cluster}: why this image is in it"))
    rows = [np.concatenate(tiles[first : first + COLUMNS], 1) for first in range(0, len(tiles), COLUMNS)]
    sheet = Image.fromarray(np.concatenate(rows))
    sheet.resize((WIDTH, round(sheet.height * WIDTH / sheet.width)), Image.Resampling.LANCZOS).save(PICTURE)


if __name__ == "__main__":
    main()
