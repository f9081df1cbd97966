import base64
import hashlib
import html
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from output.explained_run import HOSTILE, SIDE, photo_of, write_run
from PIL import Image

from whycluster.errors import UserError
from whycluster.output.report import write_report

NAMES = [f"some/{number:02d}.jpg" for number in range(12)]


@pytest.fixture
def run_of(tmp_path):
    def write(names=NAMES, **settings):
        return write_run(tmp_path / "run", names, **settings)

    return write


def content(run):
    page = (run / "report.html").read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def sheet(run, data, kind, number=0):
    url = data["sheets"][kind]["urls"][number]
    source = io.BytesIO(base64.b64decode(url.partition(",")[2])) if url.startswith("data:") else run / url
    return np.asarray(Image.open(source))


def tile(run, data, kind, slot):
    side, columns = data["sheets"][kind]["side"], data["columns"]
    at = slot % columns**2
    top, left = at // columns * side, at % columns * side
    return sheet(run, data, kind, slot // columns**2)[top : top + side, left : left + side]


def test_all_that_is_known_of_images_comes_back_from_the_page(run_of):
    run = run_of()
    assert write_report(run) == (12, 12, 0)
    data = content(run)
    images = data["images"]
    assert images["path"] == [NAMES[number] for number in (9, 6, 3, 0, 10, 7, 4, 1, 11, 8, 5, 2)]  # the surest first
    for row, path in enumerate(images["path"]):
        number = NAMES.index(path)
        assert images["cluster"][row] == number % 3
        assert images["runner_up"][row] == (number + 1) % 3
        assert images["discriminant"][row] == 1 + number
        assert images["held"][row] == pytest.approx(0.25 if number % 5 == 4 else 0.9)
        assert images["label"][row] == f"kind {number % 3}"
    first = data["clusters"][0]
    assert [images["path"][row] for row in first["prototypes"]] == NAMES[0:12:3]
    assert [images["path"][row] for row in first["outliers"]] == [NAMES[9]]
    assert [concept["channel"] for concept in first["concepts"]] == [10, 20]
    assert {one["rival"]: one["lost"] for one in first["contrasts"]} == {1: 4, 2: 0}
    assert [one["word"] for one in data["clusters"]] == ["stable", "doubtful", "not measured"]
    assert [one["shortcut"] for one in data["clusters"]] == [None] * 3


def test_sheets_hold_the_photos_heatmaps_and_regions(run_of):
    names = [f"{number:03d}.jpg" for number in range(150)]  # three sheets
    run = run_of(names)
    write_report(run)
    data = content(run)
    assert data["sheets"]["photos"]["side"] == SIDE
    assert [len(data["sheets"][kind]["urls"]) for kind in ("photos", "heatmaps")] == [3, 3]
    for row in (0, 63, 64, 149):
        slot = data["images"]["slot"][row]
        expected = photo_of(names.index(data["images"]["path"][row]))
        assert np.abs(tile(run, data, "photos", slot)[8:-8, 8:-8].astype(int) - expected[8:-8, 8:-8]).max() < 12
        heat = tile(run, data, "heatmaps", slot).astype(int)
        factor = SIDE // len(heat)
        red, blue, none = heat[14 // factor, 14 // factor], heat[35 // factor, 35 // factor], heat[2, -3]
        assert red[0] > red[2] + 50
        assert blue[2] > blue[0] + 40
        assert red[3] > 200
        assert blue[3] > 200
        assert none[3] < 20
    slots = [slot for cluster in data["clusters"] for concept in cluster["concepts"] for slot in concept["crops"]]
    assert sorted(slots) == list(range(12))
    assert tile(run, data, "crops", 3).shape == (16, 16, 3)
    assert tile(run, data, "crop_heatmaps", 3).shape == (16, 16, 4)


def test_hostile_names_are_data_and_nothing_else(run_of):
    names = [*HOSTILE, *NAMES]
    run = run_of(names, flagged=True)
    write_report(run)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert sorted(content(run)["images"]["path"]) == sorted(names)
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert "alert(1)</script>" not in page
    assert "<img" not in page
    assert "\u202e" not in page
    assert page.isascii() or not any(name in page for name in HOSTILE[:4])


def test_nothing_but_its_own_style_and_script_is_allowed(run_of):
    run = run_of()
    write_report(run)
    page = (run / "report.html").read_text(encoding="utf-8")
    policy = html.unescape(re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1])
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data: 'self' file:"
    assert "unsafe" not in policy
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        text = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert not re.search(r'(src|href)="(?!#|data:,)', page)
    assert not re.search(r"https?://", page)
    assert "innerHTML" not in page
    assert " style=" not in page


def test_many_images_get_a_folder_of_sheets_beside_the_page(run_of):
    run = run_of()
    write_report(run, largest=1000)
    data = content(run)
    urls = [url for kind in data["sheets"].values() for url in kind["urls"]]
    assert urls == [f"report_sheets/{url.split('/')[1]}" for url in urls]
    assert sorted(urls) == sorted(f"report_sheets/{file.name}" for file in (run / "report_sheets").iterdir())
    assert sheet(run, data, "photos").shape == (2 * SIDE, 8 * SIDE, 3)
    write_report(run)  # which fits into one file
    assert not (run / "report_sheets").exists()
    size = len((run / "report.html").read_bytes())
    write_report(run, largest=size)
    assert not (run / "report_sheets").exists()
    write_report(run, largest=size - 1)
    write_report(run, largest=size - 1)
    assert (run / "report_sheets").is_dir()
    assert not list(run.glob(".*"))


@pytest.mark.parametrize("largest", [1000, 25_000_000])
@pytest.mark.parametrize("name", ["thesis.docx", "my photo_1.webp", "photos_0.webp/notes.txt"])
def test_what_people_keep_beside_the_page_is_not_deleted(run_of, largest, name):
    run = run_of()
    kept = run / "report_sheets" / name
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    (run / "report").mkdir()
    with pytest.raises(UserError, match=r"move that elsewhere"):
        write_report(run, largest)
    assert kept.read_text() == "mine"
    assert (run / "report").is_dir()
    assert not (run / "report.html").exists()
    assert not list(run.glob(".*"))


def test_a_link_in_place_of_the_sheets_is_not_followed(run_of, tmp_path):
    run, elsewhere = run_of(), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "photos_0.webp").write_text("mine")
    (run / "report_sheets").symlink_to(elsewhere)
    with pytest.raises(UserError, match="move that elsewhere"):
        write_report(run)
    assert (elsewhere / "photos_0.webp").read_text() == "mine"


@pytest.mark.parametrize("largest", [1000, 25_000_000])
def test_a_full_disk_leaves_the_old_page_with_its_own_sheets(run_of, monkeypatch, largest):
    run = run_of()
    write_report(run, largest=1000)
    before = {file: file.read_bytes() for file in (run / "report.html", *(run / "report_sheets").iterdir())}
    write_bytes = Path.write_bytes

    def full(path, content):
        write_bytes(path, content[:100])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        write_report(run, largest, most_images=11)
    assert {file: file.read_bytes() for file in before} == before
    assert not list(run.glob(".*"))


def test_the_same_run_gives_the_same_bytes(run_of, tmp_path):
    run = run_of([*HOSTILE, *NAMES])
    write_report(run)
    first = (run / "report.html").read_bytes()
    moved = tmp_path / "elsewhere"
    run.rename(moved)
    write_report(moved)
    assert (moved / "report.html").read_bytes() == first


def test_pictures_that_are_gone_are_counted_and_the_others_shown(run_of):
    run = run_of()
    (run / "heatmaps" / "some" / "03.jpg.png").unlink()
    (run / "relevance" / "some" / "04.jpg.npy").write_bytes(b"no array")
    (run / "relevance" / "some" / "06.jpg.npy").write_bytes(b"")
    np.save(run / "relevance" / "some" / "08.jpg.npy", np.ones((2, 48, 48), np.float32))
    (run / "concepts" / "cluster_1" / "channel_20.npy").write_bytes(b"")
    (run / "concepts" / "cluster_2" / "channel_20.npy").unlink()
    assert write_report(run) == (12, 12, 4)
    data = content(run)
    slots = dict(zip(data["images"]["path"], data["images"]["slot"], strict=True))
    assert [slots[NAMES[number]] for number in (3, 4, 6, 8)] == [-1] * 4
    assert sorted(slots.values()) == [-1] * 4 + list(range(8))
    assert data["missing"] == 4
    assert data["clusters"][0]["concepts"][0]["crops"].count(-1) == 1  # 03.jpg is one of its two regions
    assert data["clusters"][1]["concepts"][1]["crops"] == [-1, -1]
    assert data["clusters"][2]["concepts"][1]["crops"] == [-1, -1]


@pytest.mark.parametrize("path", ["../../x.jpg", "a/../../x.jpg", "/etc/x.jpg", "..", "./../x.jpg"])
def test_no_picture_from_outside_the_run_is_shown(run_of, path):
    run = run_of()
    for table in ("assignments.csv", "receipts.csv"):
        text = (run / table).read_text()
        (run / table).write_text(text.replace(NAMES[3], path))
    with pytest.raises(UserError, match="which is not below the folder of images"):
        write_report(run)


@pytest.mark.parametrize("target", ["../x", "2:0/../..", "assigned/..", "", "all", "2:"])
def test_a_target_that_no_run_has_is_refused(run_of, target):
    run = run_of()
    text = (run / "receipts.csv").read_text()
    (run / "receipts.csv").write_text(text.replace('"assigned"', f'"{target}"', 1))
    with pytest.raises(UserError, match=r"names the target .*, which no run has"):
        write_report(run)


@pytest.mark.parametrize("name", ["clusters.json", "assignments.csv", "receipts.csv"])
def test_a_table_that_is_gone_is_named(run_of, name):
    run = run_of()
    (run / name).unlink()
    with pytest.raises(UserError, match=rf"needs {name} of an explain run"):
        write_report(run)


def test_of_too_many_images_those_that_are_named_are_kept(run_of):
    names = [f"{number:03d}.jpg" for number in range(100)]
    run = run_of(names)
    assert write_report(run, most_images=40) == (100, 40, 0)
    data = content(run)
    named = {name for number in range(3) for name in names[number::3][:4]} | {names[99]}
    assert named <= set(data["images"]["path"])
    assert data["n_images"] == 100
    others = sorted(set(data["images"]["path"]) - named)
    assert others[0] < "030.jpg" < "070.jpg" < others[-1]
    assert [one["labels"] for one in data["clusters"]] == ["34 “kind 0”", "33 “kind 1”", "33 “kind 2”"]  # of all
    weak = sum(number % 5 == 4 for number in range(3, 100, 3))  # the discriminant of image 0 is too small to tell
    assert f"In {weak} of 33 images" in data["clusters"][0]["receipts"]
    assert -1 not in data["clusters"][0]["prototypes"]


def labelled(run, labels):
    """Gives images of a run, by name, other labels."""
    table = (run / "assignments.csv").read_text().splitlines()
    for at, line in enumerate(table):
        for name, label in labels.items():
            if line.startswith(f'"{name}"'):
                table[at] = f'{line.rpartition(",")[0]},"{label}"'
    (run / "assignments.csv").write_text("\n".join(table) + "\n")


def test_images_of_another_label_than_most_are_named_and_kept(run_of):
    names = [f"{number:03d}.jpg" for number in range(100)]
    run = run_of(names)
    other = {f"{number:03d}.jpg": "of two" for number in (30, 60)}
    labelled(run, {**other, "033.jpg": "<b>alone</b>", "036.jpg": ""})
    write_report(run, most_images=10)
    data = content(run)
    found = data["clusters"][0]["unlike"]
    assert [data["images"]["path"][row] for row in found["images"]] == ["033.jpg", "060.jpg", "030.jpg"]
    assert (found["n"], found["most"], found["counts"]) == (3, "kind 0", [1, 2, 2])
    assert data["clusters"][1]["unlike"]["n"] == 0
    assert data["first"][-1][0] == {"text": "3 images", "to": {"part": "labels"}}


def test_the_strongest_concepts_of_each_image_are_taken_from_its_row(run_of):
    run = run_of()
    write_report(run)
    images = content(run)["images"]
    for path, channels, shares in zip(images["path"], images["channels"], images["shares"], strict=True):
        number = NAMES.index(path)
        expected = [10 + number % 3, 20, 77] if number % 4 else [20, 77, 10 + number % 3]
        assert channels == expected
        assert shares == [0.6, 0.3, 0.1]


def test_in_which_concepts_an_outlier_differs_is_taken_from_its_row(run_of):
    run = run_of()
    clusters = json.loads((run / "clusters.json").read_text())
    clusters[0]["outliers"] = [{"path": NAMES[0], "score": 4.5}]
    (run / "clusters.json").write_text(json.dumps(clusters))
    write_report(run)
    less, more = "concept 10 speaks for it less than usual", "concept 20 speaks for it more than usual"
    text = f"{less}; concept 5 speaks against it; {more}"
    assert content(run)["clusters"][0]["departures"] == [{"text": text, "channels": [10, 5, 20]}]


@pytest.mark.parametrize("change", ["gone", "damaged", "of other images"])
def test_without_the_relevance_of_concepts_the_page_says_nothing_of_it(run_of, change):
    run = run_of()
    file = run / "concepts.npy"
    if change == "gone":
        file.unlink()
    elif change == "damaged":
        file.write_bytes(b"")
    else:
        np.save(file, np.ones((11, 80), np.float32))
    write_report(run)
    data = content(run)
    assert data["images"]["channels"] is None
    assert [one["departures"] for one in data["clusters"]] == [[]] * 3


def test_of_a_decision_that_is_too_close_no_share_is_given(run_of):
    run = run_of()
    text = (run / "receipts.csv").read_text()
    (run / "receipts.csv").write_text(text.replace('"some/03.jpg","assigned",4.0', '"some/03.jpg","assigned",0.01'))
    write_report(run)
    data = content(run)
    held = dict(zip(data["images"]["path"], data["images"]["held"], strict=True))
    assert [path for path, share in held.items() if share is None] == ["some/03.jpg"]
    assert data["limits"]["lead"] == 6.5  # the median of 1 to 12


def test_of_several_targets_the_one_about_the_own_cluster_is_shown(run_of):
    run = run_of(targets=("0", "1", "2"))
    write_report(run)
    images = content(run)["images"]
    assert images["target"] == images["cluster"]
    assert images["file"]["0"] == "heatmaps/target_0/some/09.jpg.png"
    assert -1 not in images["slot"]


def test_of_several_pairs_the_one_against_the_runner_up_is_shown(run_of):
    run = run_of(targets=("2:1", "2:0"))  # the runner-up of cluster 2 is cluster 0
    write_report(run)
    images = content(run)["images"]
    assert [target for target, own in zip(images["target"], images["cluster"], strict=True) if own == 2] == [1] * 4
    assert images["file"]["0"] == "heatmaps/target_2:1/some/09.jpg.png"


def test_a_shortcut_is_handed_on(run_of):
    run = run_of(flagged=True)
    write_report(run)
    data = content(run)
    found = data["clusters"][1]["shortcut"]
    assert "held together by the <border>" in found["warning"]
    assert [data["images"]["path"][row] for row in found["images"]] == [NAMES[10], NAMES[7], NAMES[4], NAMES[1]]
    assert found["channels"] == [20, 11]
    assert data["clusters"][0]["shortcut"] is None
    assert data["clusters"][2]["shortcut"] is None  # judged, and not flagged
