"""Of which channel each feature is."""

import pytest
import torch

from whycluster.backbones.pooling import channel_of_feature, pooled

CHANNELS = 6
NUMBERS = torch.arange(CHANNELS, dtype=torch.float32)
# The same in every layout: each value is the number of its channel.
OUTPUTS = {
    "no places": NUMBERS[None],
    "tokens": NUMBERS.expand(1, 5, CHANNELS),
    "tokens last": NUMBERS[:, None].expand(CHANNELS, 5)[None],
    "channels first": NUMBERS[:, None, None].expand(CHANNELS, 4, 3)[None],
    "channels last": NUMBERS.expand(1, 4, 3, CHANNELS),
    "groups": NUMBERS.view(2, 3, 1, 1).expand(2, 3, 4, 5)[None],
}


@pytest.mark.parametrize("layout", OUTPUTS)
@pytest.mark.parametrize("pool", ["avg", "max", "flatten"])
def test_channels_of_features(layout, pool):
    features = pooled(OUTPUTS[layout], pool, layout)[0]
    torch.testing.assert_close(channel_of_feature(OUTPUTS[layout], pool, layout).float(), features)


def test_the_class_token_has_a_feature_for_each_channel():
    assert channel_of_feature(OUTPUTS["tokens"], "cls", "tokens").tolist() == list(range(CHANNELS))
