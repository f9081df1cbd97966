import string
import sys

import numpy as np
import pytest
import torch
from PIL import ImageFont

from whycluster.backbones import pretrain
from whycluster.backbones.glyphnet import IMAGE_SIZE, WEIGHTS, GlyphNet

pytest.importorskip("matplotlib", reason="the typefaces come from matplotlib (whycluster[pretrain])")


@pytest.fixture(scope="module")
def rendered():
    return pretrain.render_letters(pretrain.face_paths()[:3])


@pytest.fixture
def settings():
    """`main` sets how torch computes; what follows should not notice."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def test_letters_only(monkeypatch):
    drawn, draw = [], pretrain.draw_letter
    monkeypatch.setattr(pretrain, "draw_letter", lambda font, letter: drawn.append(letter) or draw(font, letter))
    pretrain.render_letters(pretrain.face_paths()[:1])
    assert "".join(drawn) == pretrain.LETTERS == string.ascii_letters
    assert not set(drawn) & set(string.digits)


def test_all_typefaces_are_there():
    paths = pretrain.face_paths()
    assert len(paths) == len(set(paths)) == 21
    assert all(path.is_file() for path in paths)


def test_classes_join_capitals_of_the_same_shape():
    classes = {letter: pretrain.letter_class(letter) for letter in string.ascii_letters}
    assert classes["O"] == classes["o"] == 14
    assert classes["A"] == 26
    assert len(set(classes.values())) == 52 - len(pretrain.TWINS)


def test_letters_fill_the_middle(rendered):
    images, classes = rendered
    assert images.shape == (3 * 52, 1, pretrain.CANVAS, pretrain.CANVAS)
    assert classes.shape == (3 * 52,)
    assert (images.amin(), images.amax()) == (0, 1)
    margin = (pretrain.CANVAS - pretrain.INK) // 2
    assert (images[:, :, :margin] == 0).all()
    assert (images[:, :, margin : margin + pretrain.INK].amax((1, 2, 3)) > 0.5).all()


def test_letter_is_white_on_black():
    font = ImageFont.truetype(str(pretrain.face_paths()[0]), 2 * pretrain.CANVAS)
    letter = np.asarray(pretrain.draw_letter(font, "l"))
    assert letter[32, 32] == 255
    assert letter[32, 2] == letter[2, 32] == 0


def test_sample(rendered):
    images, classes = pretrain.sample(*rendered, 40)
    assert images.shape == (40, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert (images[:, 0] == images[:, 1]).all()
    assert (images[:, 0] == images[:, 2]).all()
    assert (images.amin(), images.amax() <= 1) == (0, True)  # black is 0, which layers without biases leave at 0
    assert (images.amax((1, 2, 3)) > 0).all()  # no letter was wiped out
    assert set(classes.tolist()) <= set(rendered[1].tolist())


def test_sample_depends_on_the_seed_alone(rendered):
    def drawn(seed):
        torch.manual_seed(seed)
        return pretrain.sample(*rendered, 8)

    (first, classes), (again, same_classes), (other, _) = drawn(3), drawn(3), drawn(4)
    assert torch.equal(first, again)
    assert torch.equal(classes, same_classes)
    assert not torch.equal(first, other)


def test_shipped_weights_name_letters(rendered):
    network = GlyphNet().eval()
    network.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    images, classes = pretrain.sample(*rendered, 200)
    assert (network(images).argmax(1) == classes).float().mean() > 0.8  # chance is 2 %


@pytest.mark.usefixtures("settings")
def test_main_writes_the_same_file_twice(tmp_path, capsys):
    files = [tmp_path / "a.pt", tmp_path / "b.pt"]
    for file in files:
        pretrain.main(["--steps", "2", "--batch-size", "8", "--threads", "1", "--output", str(file)])
    assert files[0].read_bytes() == files[1].read_bytes()
    GlyphNet().load_state_dict(torch.load(files[0], weights_only=True))
    assert sorted(tmp_path.iterdir()) == files  # nothing is left beside them
    assert "step 2/2" in capsys.readouterr().err


@pytest.mark.usefixtures("settings")
def test_another_seed_gives_another_file(tmp_path):
    files = [tmp_path / "a.pt", tmp_path / "b.pt"]
    for seed, file in enumerate(files):
        pretrain.main(
            ["--steps", "1", "--batch-size", "4", "--seed", str(seed), "--threads", "1", "--output", str(file)]
        )
    assert files[0].read_bytes() != files[1].read_bytes()


def test_saving_does_not_depend_on_the_file_name_and_replaces(tmp_path):
    network = GlyphNet(2)
    for name in ("a.pt", "longer name"):
        (tmp_path / name).write_text("old")
        pretrain.save_weights(network, tmp_path / name)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "longer name").read_bytes()


def test_missing_matplotlib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit, match=r'needs the fonts of matplotlib: pip install "whycluster\[pretrain\]"'):
        pretrain.face_paths()
