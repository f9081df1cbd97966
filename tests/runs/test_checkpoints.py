from pathlib import Path

import pytest

from whycluster.runs.checkpoints import WholeFiles


def test_a_checkpoint_that_is_not_written_whole_leaves_the_one_before(tmp_path, monkeypatch):
    path, files = tmp_path / "lloyd.ckpt", WholeFiles()
    files.save_checkpoint({"epoch": 1}, path)

    def half(file, content):
        file.write_text("half")
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="no space left"):
        files.save_checkpoint({"epoch": 2}, path)
    assert files.load_checkpoint(path, weights_only=True) == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["lloyd.ckpt"]
