"""The table of operations: how relevance passes each operation of a graph.

| step | operations | relevance |
| --- | --- | --- |
| `LinearStep` | convolutions, linear layers, norms, poolings, sums, matrix products | by the rule of the composite |
| `PassStep` | activations, casts, products with a constant or a gate | stays with its unit |
| `MoveStep` | views, slices, concatenation, padding, maximum | goes where the value came from |
| `SoftmaxStep` | softmax | AttnLRP; a constant with `attention="cp"`, and as a factor of a product of units |
| `ConstantStep` | deviations, norms, comparisons | none: constants |

An operation that is not in the table may be computed, but relevance must not arrive there.
"""

import operator
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from whycluster.lrp import linear_maps as maps
from whycluster.lrp import steps
from whycluster.lrp.graph import batch_factor, function_of
from whycluster.lrp.steps import Build, Call, ConstantStep, Facts, LinearStep, MoveStep, PassStep, Step, Values

aten = torch.ops.aten


# --- linear maps ---


def _layer(kind: type[Any], x: fx.Node, *weights: Any, **settings: Any) -> Step:
    """Returns the step of a layer that is made of the values of its weights, and of settings."""
    return LinearStep(kind, lambda value: kind(*map(value, weights), **settings), [x], weights)


def _check_constant(call: Call, *weights: Any) -> None:
    if any(call.is_relevance_input(weight) for weight in weights):
        raise steps.UnknownOperationError("LRP knows layers whose weights do not depend on the image")


def _convolution(call: Call) -> Step:
    x, weight, bias, *settings = call.args
    _check_constant(call, weight, bias)
    names = "stride padding dilation transposed output_padding groups"
    return _layer(maps.Convolution, x, weight, bias, **dict(zip(names.split(), settings, strict=True)))


def _linear(call: Call) -> Step:
    return _fully_connected(call, call.args[0], call.argument(1, "weight"), call.argument(2, "bias"))


def _fully_connected(call: Call, x: Any, weight: Any, bias: Any, turned: bool = False) -> Step:
    """Returns the step of a linear layer; `turned`: with weights `(in, out)`."""
    _check_constant(call, weight, bias)
    shape = x.meta["val"].shape  # an image has several rows in tokens, and in what views make of them
    kind = maps.TokenLinear if len(shape) > 2 or batch_factor(shape[0], call.images) > 1 else maps.Linear

    def make(value: Values) -> maps.LinearMap:
        return kind(value(weight).mT if turned else value(weight), value(bias))

    return LinearStep(kind, make, [x], [weight, bias])


def _addmm(call: Call) -> Step:
    bias, x, weight = call.args[:3]
    if call.node.kwargs.get("alpha", 1) != 1 or call.node.kwargs.get("beta", 1) != 1:
        raise steps.UnknownOperationError("LRP knows addmm without alpha and beta")
    return _fully_connected(call, x, weight, bias, turned=True)


def _matrix_product(call: Call) -> Step:
    left, right = call.args[:2]
    if call.is_relevance_input(left) and call.is_relevance_input(right):
        return LinearStep(maps.Bilinear, lambda value: maps.Bilinear(), [left, right])
    if call.is_relevance_input(left) and right.meta["val"].ndim == 2:
        return _fully_connected(call, left, right, None, turned=True)
    left_is_constant = not call.is_relevance_input(left)
    x, weight = (right, left) if left_is_constant else (left, right)
    return _layer(maps.MatrixProduct, x, weight, left=left_is_constant)


def _layer_norm(call: Call) -> Step:
    weight, bias, eps = call.argument(2, "weight"), call.argument(3, "bias"), call.argument(4, "eps", 1e-5)
    return _layer(maps.LayerNorm, call.args[0], weight, bias, shape=call.args[1], eps=eps)


def _batch_norm(call: Call) -> Step:
    x, *numbers = call.args[:5]
    shape = (-1, *[1] * (x.meta["val"].ndim - 2))

    def make(value: Values) -> maps.LinearMap:
        values = [value(one) for one in numbers]
        scale, shift = (one.to(values[3].dtype) for one in scale_and_shift(values, call.args[-1]))
        return maps.BatchNorm(scale.reshape(shape), shift.reshape(shape))

    return LinearStep(maps.BatchNorm, make, [x], numbers)


def scale_and_shift(numbers: Sequence[Any], eps: float) -> tuple[Tensor, Tensor]:
    """Computes the factor and the summand of each channel in a batch norm, in double precision where the device has it,
    from weight, bias, mean and variance (`(channels,)` each; the first two may be `None`).
    """
    weight, bias, mean, variance = numbers
    exact = torch.float32 if mean.device.type == "mps" else torch.float64
    scale = (variance.to(exact) + eps).rsqrt() * (1 if weight is None else weight.to(exact))
    shift = -mean.to(exact) * scale
    return scale, shift if bias is None else shift + bias.to(exact)


def _average(call: Call) -> Step:
    """Returns the step of an average, a sum or an interpolation, which are linear in their one tensor."""
    x, *others = call.args
    function, options = function_of(call.node), call.node.kwargs

    def make(value: Values) -> maps.LinearMap:
        arguments = [value(one) for one in others]
        return maps.AveragePool(lambda values: function(values, *arguments, **options))

    facts = call.joint._replace(nonnegative=call.joint.nonnegative and "bicubic" not in str(call.node.target))
    return LinearStep(maps.AveragePool, make, [x], others, facts)


def _sum(call: Call, signs: tuple[int, int]) -> Step:
    first, second = call.args[:2]
    alpha = call.argument(2, "alpha", 1)  # factor of the second operand
    by = (signs[0], signs[1] * alpha) if signs[0] > 0 else (signs[0] * alpha, signs[1])
    if call.is_relevance_input(first) and call.is_relevance_input(second):
        facts = call.joint._replace(nonnegative=call.joint.nonnegative and min(by) >= 0)
        return LinearStep(maps.Add, lambda value: maps.Add(by), [first, second], (), facts)
    facts = Facts(gate=2 if call.joint.gate == 2 else 0)  # 1 + tanh(x) is a gate, as tanh(x) is
    return LinearStep(maps.Shift, lambda value: maps.Shift(by), call.relevance_inputs, [first, second], facts)


# --- products ---


def _product(call: Call) -> Step:
    factors = [one for one in call.args[:2] if call.is_relevance_input(one)]
    if len(factors) == 2 and call.facts[factors[0]].gate != call.facts[factors[1]].gate:
        factors = [min(factors, key=lambda one: call.facts[one].gate)]  # the other one is a gate, and constant
    positive = all(call.nonnegative(one) for one in call.args[:2] if one not in factors)
    gate = call.facts[factors[0]].gate if len(call.relevance_inputs) == len(factors) == 1 else 0
    facts = Facts(positive and all(map(call.nonnegative, factors)), gate)
    return PassStep(factors, facts, rectifier=positive and len(factors) == 1)


def _quotient(call: Call) -> Step:
    first, second = call.args[:2]
    if call.node.kwargs.get("rounding_mode") is not None:
        raise steps.UnknownOperationError("LRP knows quotients without rounding")
    if not call.is_relevance_input(first):
        return ConstantStep()
    positive = isinstance(second, int | float) and second > 0
    facts = call.facts[first]
    return PassStep([first], Facts(facts.nonnegative and positive, facts.gate), rectifier=positive)


# --- all others ---


def _pass(call: Call, nonnegative: bool = False, gate: int = 0, rectifier: bool = False) -> Step:
    # The base of a power may be a number.
    if isinstance(call.args[0], fx.Node) and not call.is_relevance_input(call.args[0]):
        return ConstantStep()
    return PassStep(call.relevance_inputs[:1], Facts(nonnegative or rectifier, gate), rectifier)


def _copy(call: Call) -> Step:
    """Returns the step of a copy, a cast or a dropout, which return the value itself."""
    if not call.is_relevance_input(call.args[0]):
        return ConstantStep()
    return PassStep([call.args[0]], call.facts[call.args[0]], rectifier=True)


def _clamp(call: Call, least: float | None = None, most: float | None = None) -> Step:
    low, high = call.argument(1, "min", least), call.argument(2, "max", most)
    known = isinstance(low, int | float)
    facts = Facts(known and low >= 0, gate=1 if low is None or high is None else 2)
    return PassStep(call.relevance_inputs[:1], facts, rectifier=known and low == 0)


def _move(call: Call) -> Step:
    """Returns the step of a move, also of several values (concatenation, maximum); constants among them keep their
    relevance.
    """
    tensors = [one for one in call.node.all_input_nodes if isinstance(one.meta.get("val"), Tensor)]
    constants = any(one not in call.facts for one in tensors)
    facts = call.joint._replace(nonnegative=call.joint.nonnegative and not constants)
    return MoveStep(call.relevance_inputs, facts, adds_constants=constants)


def _pad(call: Call, by_mode: bool = False) -> Step:
    """Returns the step of a padding; `by_mode`: with an argument that says whether it is padded with a constant."""
    constant = not by_mode or call.argument(2, "mode", "constant") == "constant"
    value = call.argument(3 if by_mode else 2, "value", 0)
    adds_constants = constant and any(size > 0 for size in call.args[1])
    return MoveStep(call.relevance_inputs, Facts(call.joint.nonnegative and value >= 0), adds_constants=adds_constants)


def _constant(call: Call) -> Step:
    return ConstantStep()


def _softmax(call: Call) -> Step:
    if call.attention == "attn":
        return steps.SoftmaxStep(call.relevance_inputs[:1], Facts(nonnegative=True, gate=2), dim=call.args[1])
    return ConstantStep()


ROWS: tuple[tuple[Build, str], ...] = (
    (_convolution, "convolution"),
    (_linear, "linear"),
    (_addmm, "addmm"),
    (_matrix_product, "matmul mm bmm mv"),
    (_layer_norm, "layer_norm"),
    (_batch_norm, "_native_batch_norm_legit_no_training"),
    (_average, "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d mean sum"),
    (_average, "_adaptive_avg_pool2d _adaptive_avg_pool3d cumsum upsample_nearest1d upsample_nearest2d"),
    (_average, "upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d"),
    (_average, "_upsample_bilinear2d_aa _upsample_bicubic2d_aa col2im"),
    (partial(_sum, signs=(1, 1)), "add"),
    (partial(_sum, signs=(1, -1)), "sub"),
    (partial(_sum, signs=(-1, 1)), "rsub"),
    (_product, "mul multiply"),
    (_quotient, "div divide true_divide"),
    (partial(_pass, rectifier=True), "relu"),
    (partial(_pass, rectifier=True, gate=2), "relu6"),
    (partial(_pass, nonnegative=True, gate=2), "sigmoid hardsigmoid"),
    (partial(_pass, gate=2), "tanh erf sin cos"),
    (partial(_pass, nonnegative=True, gate=1), "softplus exp square sqrt abs"),
    (partial(_pass, gate=1), "gelu silu hardswish mish elu selu celu leaky_relu prelu rrelu log_sigmoid"),
    (partial(_pass, gate=1), "threshold hardshrink softshrink expm1 log log1p log2 pow log_softmax _log_softmax"),
    (_pass, "neg"),
    (_clamp, "clamp clip clamp_min"),
    (partial(_clamp, least=-1, most=1), "hardtanh"),
    (partial(_pass, gate=1), "clamp_max"),
    (_copy, "clone alias detach contiguous dropout alpha_dropout feature_dropout feature_alpha_dropout to _to_copy"),
    (_copy, "type_as lift_fresh_copy lift_fresh"),
    (_move, "view _unsafe_view reshape flatten unflatten permute transpose t numpy_T squeeze unsqueeze movedim"),
    (_move, "expand expand_as repeat repeat_interleave tile slice select narrow split split_with_sizes chunk unbind"),
    (_move, "tensor_split unsafe_split unsafe_chunk cat concat concatenate stack flip roll rot90 pixel_shuffle"),
    (_move, "pixel_unshuffle channel_shuffle unfold im2col index index_select gather"),
    (_move, "slice_scatter select_scatter masked_fill where maximum minimum max min amax amin topk sort diagonal"),
    (_move, "max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d"),
    (_move, "max_pool2d_with_indices max_pool3d_with_indices reflection_pad1d reflection_pad2d reflection_pad3d"),
    (_move, "replication_pad1d replication_pad2d replication_pad3d as_strided swapaxes swapdims mT broadcast_to"),
    (_pad, "constant_pad_nd"),
    (partial(_pad, by_mode=True), "pad"),
    (_softmax, "softmax _softmax"),
    (_constant, "linalg_vector_norm norm frobenius_norm std var var_mean std_mean rsqrt reciprocal logsumexp"),
    (_constant, "eq ne lt le gt ge logical_not logical_and logical_or isnan isinf argmax argmin argsort sign floor"),
    (_constant, "round ceil new_zeros new_ones new_full new_empty zeros_like ones_like full_like empty_like size"),
    (_constant, "sym_size sym_numel _assert_tensor_metadata bernoulli rand_like randn_like one_hot fill"),
)

TABLE: dict[Any, Build] = {
    getattr(aten, name): build for build, names in ROWS for name in names.split() if hasattr(aten, name)
}
TABLE[operator.getitem] = _move
REGISTERED: dict[Any, Build] = {}  # operations that other packages define (see `heads`)


def step_of(call: Call) -> Step:
    """Returns the step of a node: how relevance passes it.

    Raises:
        UnknownOperationError: for arguments that relevance cannot pass on to.
    """
    target, value = call.node.target, call.node.meta.get("val")
    if isinstance(value, Tensor) and not (value.is_floating_point() or value.is_complex()):
        return ConstantStep()  # whole numbers, such as the indices of a maximum
    key = getattr(target, "overloadpacket", target)
    build = REGISTERED.get(key) or TABLE.get(key)
    if build is None:
        raise steps.UnknownOperationError(f"LRP does not know how relevance passes {target}")
    return build(call)
