"""A small explain run, made up, with all the files that its page reads."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from whycluster.explain import Target
from whycluster.output.explanations import file_of
from whycluster.output.heatmaps import heatmap_picture
from whycluster.output.tables import ASSIGNMENTS, RECEIPTS, write_table

SIDE, BOX = 48, 16
HOSTILE = (
    '"><script>document.title="taken"</script>.jpg',
    "'; alert(1); '.jpg",
    "</script><img src=x onerror=alert(1)>.jpg",
    "a\u202egpj.exe",
    "two\nlines.jpg",
    "=1+1.jpg",
    "{{ 7 * 7 }}.jpg",
    "%2e%2e?#&.jpg",
    "back\\slash.jpg",
    "w" * 250,
)


def photo_of(row):
    """A photo of one colour, from which its row can be told, `(SIDE, SIDE, 3)`."""
    return np.full((SIDE, SIDE, 3), (200 - row % 64, 30 + 2 * (row % 64), 90), np.uint8)


def concepts_of(row, n_clusters=3):
    """The relevance of each channel for an image, `(80,)`; in most, the cluster's own channel is the strongest."""
    relevance = np.zeros(80, np.float32)
    relevance[[10 + row % n_clusters, 20, 77, 5]] = (6, 3, 1, -1) if row % 4 else (1, 6, 3, -4)
    return relevance


def write_run(folder: Path, names, targets=("assigned",), n_clusters=3, flagged=False) -> Path:
    """Writes a run; image `i` is in cluster `i mod K`, and its discriminant is `1 + i`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, receipts = [], []
    relevance = np.zeros((SIDE, SIDE), np.float32)
    relevance[8:20, 8:20], relevance[30:40, 30:40] = 1, -1
    for number, name in enumerate(names):
        own = number % n_clusters
        rows.append((name, own, 1.0 + number, 0.5, (own + 1) % n_clusters, f"kind {own}"))
        for target in targets:
            receipts.append((name, target, 1.0 + number, 1.0, (1.0 + number) * (0.25 if number % 5 == 4 else 0.9), 0.1))
            for kind in ("heatmaps", "relevance"):
                file = file_of(folder, kind, Target(target), len(targets), name)
                file.parent.mkdir(parents=True, exist_ok=True)
                if kind == "relevance":
                    np.save(file, relevance)
                else:
                    Image.fromarray(heatmap_picture(photo_of(number), relevance, "a caption\nof two lines")).save(file)
    write_table(folder / "assignments.csv", ASSIGNMENTS, rows)
    write_table(folder / "receipts.csv", RECEIPTS, receipts)
    np.save(folder / "concepts.npy", np.stack([concepts_of(number, n_clusters) for number in range(len(rows))]))
    clusters = [_cluster(folder, number, list(names), n_clusters) for number in range(n_clusters)]
    if flagged:
        clusters[0]["shortcut"] = None
        clusters[1]["shortcut"] = _shortcut(list(names)[1::n_clusters], True)
        clusters[2]["shortcut"] = _shortcut(list(names)[2::n_clusters], False)
    (folder / "clusters.json").write_text(json.dumps(clusters))
    return folder


def _shortcut(own, flagged):
    """As `explain.shortcuts` words it."""
    told = "12 of 15 images leave this cluster when the <border> is filled in; 0 of 15 when another region is"
    return {
        "score": 0.9 if flagged else 0.1,
        "flagged": flagged,
        "warning": f"This cluster may be held together by the <border>: {told}." if flagged else "",
        "evidence": [told, "brightness alone tells its images from others with an AUC of 0.61"],
        "signals": {"places": 2.5, "property": 0.61},
        "images": own[::-1],
        "concepts": [{"channel": 20, "share": 0.5}, {"channel": 11, "share": 0.3}],
    }


def _cluster(folder, number, names, n_clusters):
    own = names[number::n_clusters]
    place = folder / "concepts" / f"cluster_{number}"
    place.mkdir(parents=True, exist_ok=True)
    regions = [{"path": name, "box": [8, 8, BOX]} for name in own[:2]]
    channels = (10 + number, 20)
    for channel in channels:
        np.save(place / f"channel_{channel}.npy", np.ones((len(regions), BOX, BOX), np.float32))
    rivals = [rival for rival in range(n_clusters) if rival != number]
    return {
        "cluster": number,
        "size": len(own),
        "stability": [0.9, 0.65, None][number % 3],
        "verdict": ["stable", "doubtful", "not measured"][number % 3],
        "silhouette": 0.2,
        "margin": float(np.mean([1.0 + names.index(name) for name in own])),
        "prototypes": own[:4],
        "borderline": [{"path": name, "rival": rivals[0], "discriminant": 0.1} for name in own[:2]],
        "outliers": [{"path": own[-1], "score": 4.5}] if number == 0 else [],
        "concepts": [
            {"channel": channel, "share": share, "regions": regions}
            for channel, share in zip(channels, (0.6, 0.2), strict=True)
        ],
        "contrasts": [
            {
                "rival": rival,
                "distance": 1.0 + abs(number - rival),
                "lost": len(own) if rival == (number + 1) % n_clusters else 0,
                "concepts": [{"channel": 10 + number, "share": 0.4}, {"channel": 77, "share": 0.1}],
            }
            for rival in rivals
        ],
        "places": np.full((14, 14), 1 / 196).tolist(),
    }
