import torch


def test_both_commands_switch_tf32_off(run, trained, tmp_path, monkeypatch):
    """In TF32, convolutions on a GPU would differ from those on a CPU in the fourth digit."""
    for command, options in (("train", ("data.limit=20", "head.n_clusters=2")), ("explain", ("limit=2",))):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
        run(command, tmp_path / command, *options, *([f"checkpoint={trained}"] if command == "explain" else []))
        assert torch.backends.cudnn.allow_tf32 is False
