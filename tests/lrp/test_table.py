"""What the table says of an operation is true: functions keep to their units, moves only move, sums are linear."""

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.autograd.functional import jacobian

from whycluster.lrp.operations import ROWS, TABLE, step_of
from whycluster.lrp.steps import Call, ConstantStep, Facts, LinearStep, MoveStep, PassStep, Step

aten = torch.ops.aten
VOLUME, LINE = (2, 2, 2, 2, 2), (2, 4, 4)
OTHER = torch.randn(2, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
MASK = OTHER > 0
# Arguments after the first; names that are not here take none. A tuple of numbers in the first place is another shape.
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "avg_pool1d": (LINE, [2]),
    "avg_pool2d": ([2, 2],),
    "avg_pool3d": (VOLUME, [2, 2, 2]),
    "adaptive_avg_pool1d": (LINE, [2]),
    "adaptive_avg_pool2d": ([3, 2],),
    "adaptive_avg_pool3d": (VOLUME, [1, 2, 1]),
    "_adaptive_avg_pool2d": ([3, 2],),
    "_adaptive_avg_pool3d": (VOLUME, [1, 2, 1]),
    "mean": ([2, 3],),
    "sum": ([1],),
    "cumsum": (1,),
    "upsample_nearest1d": (LINE, [7]),
    "upsample_nearest2d": ([7, 6],),
    "upsample_nearest3d": (VOLUME, [3, 3, 3]),
    "upsample_linear1d": (LINE, [7], False),
    "upsample_bilinear2d": ([7, 6], False),
    "upsample_trilinear3d": (VOLUME, [3, 3, 3], True),
    "upsample_bicubic2d": ([7, 6], False),
    "_upsample_bilinear2d_aa": ([3, 2], False),
    "_upsample_bicubic2d_aa": ([3, 2], False),
    "col2im": ((2, 12, 4), [3, 3], [2, 2], [1, 1], [0, 0], [1, 1]),
    "prelu": (torch.full((4,), 0.3, dtype=torch.float64),),
    "threshold": (0.1, -1.0),
    "pow": (3,),
    "dropout": (0.5, False),
    "alpha_dropout": (0.5, False),
    "feature_dropout": (0.5, False),
    "feature_alpha_dropout": (0.5, False),
    "to": (torch.float64,),
    "type_as": (OTHER,),
    "clamp": (-0.5, 0.5),
    "clip": (0.0, 0.5),
    "clamp_min": (0.0,),
    "clamp_max": (0.5,),
    "view": ([2, 64],),
    "_unsafe_view": ([2, 64],),
    "reshape": ([2, -1, 2],),
    "flatten": (1, 2),
    "unflatten": (1, [2, 2]),
    "permute": ([0, 2, 3, 1],),
    "transpose": (1, 2),
    "t": ((3, 4),),
    "numpy_T": ((3, 4),),
    "squeeze": ((3, 1, 4), 1),
    "unsqueeze": (1,),
    "movedim": (1, 3),
    "expand": ((2, 1, 3), [2, 4, 3]),
    "expand_as": (OTHER,),
    "repeat": ([1, 2, 1, 1],),
    "repeat_interleave": (2, 1),
    "tile": ([2, 1],),
    "slice": (1, 1, 3),
    "select": (1, 2),
    "narrow": (2, 1, 2),
    "split": (2, 1),
    "split_with_sizes": ([1, 3], 1),
    "chunk": (2, 1),
    "unbind": (1,),
    "tensor_split": (3, 1),
    "unsafe_split": (2, 1),
    "unsafe_chunk": (2, 1),
    "flip": ([2, 3],),
    "roll": ([1, 2], [2, 3]),
    "rot90": (1, [2, 3]),
    "pixel_shuffle": (2,),
    "pixel_unshuffle": (2,),
    "channel_shuffle": (2,),
    "unfold": (2, 2, 1),
    "im2col": ([2, 2], [1, 1], [0, 0], [1, 1]),
    "index": ([None, torch.tensor([0, 2, 2])],),
    "index_select": (1, torch.tensor([3, 0])),
    "gather": (1, torch.tensor([3, 0, 1]).view(1, 3, 1, 1).expand(2, 3, 4, 4)),
    "slice_scatter": (OTHER[:, :2], 1, 0, 2),
    "select_scatter": (OTHER[:, 0], 1, 3),
    "masked_fill": (MASK, -2.0),
    "maximum": (OTHER,),
    "minimum": (OTHER,),
    "max": (1,),
    "min": (1,),
    "amax": ([1],),
    "amin": ([2, 3],),
    "topk": (2, 1),
    "sort": (1,),
    "diagonal": (0, 2, 3),
    "max_pool1d": (LINE, [2]),
    "max_pool2d": ([2, 2],),
    "max_pool3d": (VOLUME, [2, 2, 2]),
    "adaptive_max_pool1d": (LINE, [2]),
    "adaptive_max_pool2d": ([3, 2],),
    "adaptive_max_pool3d": (VOLUME, [1, 2, 1]),
    "max_pool2d_with_indices": ([2, 2],),
    "max_pool3d_with_indices": (VOLUME, [2, 2, 2]),
    "reflection_pad1d": (LINE, [1, 2]),
    "reflection_pad2d": ([1, 2, 0, 1],),
    "reflection_pad3d": (VOLUME, [1, 0, 0, 1, 1, 1]),
    "replication_pad1d": (LINE, [1, 2]),
    "replication_pad2d": ([1, 2, 0, 1],),
    "replication_pad3d": (VOLUME, [1, 0, 0, 1, 1, 1]),
    "as_strided": ([2, 4], [64, 3]),
    "swapaxes": (1, 2),
    "swapdims": (1, 2),
    "broadcast_to": ((2, 1, 3), [2, 4, 3]),
    "constant_pad_nd": ([1, 1, 0, 2], 0.5),
    "pad": ([1, 1, 0, 2], "reflect"),
}
SEVERAL = ("cat", "concat", "concatenate", "stack")  # take a list of tensors
ELSEWHERE = (
    "_convolution _linear _addmm _matrix_product _layer_norm _batch_norm _sum _product _quotient _softmax _constant"
)


def of_rows() -> list[str]:
    """The operations of one tensor and constants, whose function the table states."""
    builds = [(build.func if isinstance(build, partial) else build, names.split()) for build, names in ROWS]
    names = [name for build, names in builds if build.__name__ not in ELSEWHERE.split() for name in names]
    # Of a log softmax the normalising sum, which depends on all units, is taken for a constant.
    skipped = "where", "log_softmax", "_log_softmax"
    return [name for name in names if name not in skipped and hasattr(aten, name)]


def case(name: str) -> tuple[Callable[[Tensor], Any], Tensor, tuple[Any, ...]]:
    """The operation as a function of one tensor, that tensor, and its other arguments."""
    arguments, shape = ARGUMENTS.get(name, ()), (2, 4, 4, 4)
    if arguments and isinstance(arguments[0], tuple):
        shape, *arguments = arguments
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    packet = getattr(aten, name)
    return (lambda x: packet([x, OTHER]) if name in SEVERAL else packet(x, *arguments)), x, tuple(arguments)


def step(name: str, x: Tensor, arguments: tuple[Any, ...], facts: Facts) -> Step:
    """What the table makes of a node that calls the operation."""
    graph = fx.Graph()
    images, *constants = nodes = [graph.placeholder(letter) for letter in "xabc"]
    tensors = [one for one in arguments if isinstance(one, Tensor)]
    for node, value in zip(nodes, [x, *tensors, OTHER], strict=False):
        node.meta["val"] = value
    inputs = [constants.pop(0) if isinstance(one, Tensor) else one for one in arguments]
    called = ([images, constants[0]],) if name in SEVERAL else (images, *inputs)
    return step_of(Call(graph.call_function(getattr(aten, name), called), images, {images: facts}, "attn"))


def first(found: Any) -> Tensor:
    """The first of several outputs."""
    return found if isinstance(found, Tensor) else found[0]


@pytest.mark.parametrize("name", of_rows())
def test_what_the_table_says_is_true(name: str) -> None:
    function, x, arguments = case(name)
    if name in ("sqrt", "log", "log2", "log1p"):
        x = x.abs() + 0.1
    y = first(function(x))
    found = step(name, x, arguments, Facts())
    slopes = jacobian(lambda x: first(function(x)), x).reshape(y.numel(), x.numel())
    if isinstance(found, PassStep):
        assert y.shape == x.shape
        assert slopes.fill_diagonal_(0).eq(0).all()
    elif isinstance(found, LinearStep):
        torch.testing.assert_close((slopes @ x.flatten()).view(y.shape), y)
        torch.testing.assert_close(slopes, jacobian(lambda x: first(function(x)), x + 1).reshape(slopes.shape))
    else:
        assert isinstance(found, MoveStep)
        assert ((slopes == 0) | (slopes == 1)).all()
        assert (slopes.sum(1) <= 1).all()
        if not found.adds_constants:
            torch.testing.assert_close((slopes @ x.flatten()).view(y.shape), y)
    if found.facts.nonnegative:
        assert (y >= 0).all()
    if found.rectifier and y.shape == x.shape and isinstance(found, PassStep):
        assert (x[y > 0] > 0).all()
    if step(name, x, arguments, Facts(nonnegative=True)).facts.nonnegative:
        assert (first(function(x.abs())) >= 0).all()


@pytest.mark.parametrize("name", [name for build, names in ROWS for name in names.split()])
def test_every_name_is_an_operation_of_torch(name: str) -> None:
    assert hasattr(aten, name)
    assert TABLE[getattr(aten, name)]


def test_items_of_several_outputs_are_moves() -> None:
    graph = fx.Graph()
    images = graph.placeholder("x")
    images.meta["val"] = OTHER
    found = step_of(Call(graph.call_function(operator.getitem, (images, 0)), images, {images: Facts()}, "attn"))
    assert isinstance(found, MoveStep)


def test_comparisons_are_constants() -> None:
    assert isinstance(step("gt", OTHER, (0,), Facts()), ConstantStep)
