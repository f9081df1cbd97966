"""The walk: the graph runs forward under autograd, whose backward pass then carries relevance in place of gradients.

Each step is a function of autograd with a backward of its own, or, where values only move, an operation whose
derivative moves relevance to where they came from. So autograd sums what several readers send back, shares the forward
pass among targets (`retain_graph`), and frees each value once relevance has passed it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.autograd import Function

from whycluster.lrp.fast_rules import redistribute_fast
from whycluster.lrp.graph import Batch
from whycluster.lrp.linear_maps import Add, LinearMap, Shift
from whycluster.lrp.plan import Planned
from whycluster.lrp.receipts import Absorbed, Ledger
from whycluster.lrp.redistribution import Passage
from whycluster.lrp.steps import ConstantStep, LinearStep, MoveStep, PassStep, SoftmaxStep

Look = Callable[[Planned, Any], None]


@dataclass(frozen=True)
class Site:
    """The place of a step in one run of a program."""

    planned: Planned
    ledger: Ledger  # takes what the step absorbs
    batch: Batch  # where the images are in its output
    sources: Sequence[Batch | None]  # where they are in each operand; `None` for a constant
    dtype: torch.dtype  # of relevance

    def record_absorbed(self, relevance: Tensor, passed: Sequence[Tensor]) -> None:
        """Records the relevance that was not passed on as absorbed by a constant."""
        n = self.ledger.n
        absorbed = self.batch.per_image(relevance, n)
        for part, batch in zip(passed, self.sources, strict=True):
            absorbed = absorbed - batch.per_image(part, n) if batch is not None else absorbed
        self.ledger.add(self.planned.name, Absorbed.nothing(relevance, n)._replace(bias=absorbed))


class LinearRelevance(Function):
    """A linear map whose backward is its rule."""

    @staticmethod
    def forward(ctx: Any, layer: LinearMap, site: Site, *xs: Tensor) -> Tensor:
        if isinstance(layer, Add):
            xs = tuple(layer.signed(xs))
        z = layer.forward(xs)
        if site.planned.with_relu:
            z.relu_()
        z = z.to(site.dtype)
        total = z.sum()
        if isinstance(layer, Shift) and total == -torch.inf:  # a mask of attention; the softmax is zero there
            xs = tuple(x.masked_fill(x == -torch.inf, 0) for x in xs)
            total = z.masked_fill(z == -torch.inf, 0).sum()
        site.ledger.sums.append(total)
        ctx.layer, ctx.site, ctx.memo = layer, site, {}
        ctx.save_for_backward(*xs, z)
        return z

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Any, ...]:
        *xs, z = ctx.saved_tensors
        site: Site = ctx.site
        one, ledger = site.planned, site.ledger
        assert one.rule is not None  # every linear map has one
        memo = ctx.memo if ledger.retain or ctx.memo else None
        if z.ndim == 4 and z.is_contiguous(memory_format=torch.channels_last):  # makes convolutions faster
            relevance = relevance.contiguous(memory_format=torch.channels_last)
        passage = Passage(ctx.layer, one.rule, xs, z, site.batch, ledger.n, one.nonnegative, one.rectified, memo)
        passed, absorbed = redistribute_fast(passage, relevance)
        for part, batch in zip(passed, site.sources, strict=True):
            if batch is None:  # the relevance of a constant counts as that of a bias
                absorbed = absorbed._replace(bias=absorbed.bias + site.batch.per_image(part, ledger.n))
        ledger.add(one.name, absorbed)
        before = site.sources[0]
        if passed[0].ndim <= 2 and before is not None:  # where it costs nothing
            ledger.unsigned.append(before.per_image(passed[0].abs(), ledger.n))
        return None, None, *passed


class PassRelevance(Function):
    """A function of single units, which keep their relevance; several inputs get equal parts."""

    @staticmethod
    def forward(ctx: Any, compute: Callable[[], Tensor], site: Site, *xs: Tensor) -> Tensor:
        ctx.shapes = [x.shape for x in xs]
        value = compute()
        return value.to(site.dtype) if value.is_floating_point() else value

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Any, ...]:
        part = relevance if len(ctx.shapes) == 1 else relevance / len(ctx.shapes)
        return None, None, *(part if part.shape == shape else part.sum_to_size(shape) for shape in ctx.shapes)


class MoveRelevance(Function):
    """A move that also brings in constants, whose relevance is recorded as absorbed."""

    @staticmethod
    def forward(ctx: Any, compute: Callable[..., Tensor], site: Site, *xs: Tensor) -> Tensor:
        ctx.compute, ctx.site = compute, site
        ctx.save_for_backward(*xs)
        return compute(*xs)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Any, ...]:
        leaves = [x.detach().requires_grad_() for x in ctx.saved_tensors]
        with torch.enable_grad():
            passed = torch.autograd.grad(ctx.compute(*leaves), leaves, relevance, materialize_grads=True)
        ctx.site.record_absorbed(relevance, passed)
        return None, None, *passed


class SoftmaxRelevance(Function):
    """A softmax, `R_i = x_i (R_i - s_i Σ_j R_j)` (Achtibat et al., arXiv 2402.05602, eq. 12); what it does not pass on
    is recorded as absorbed.
    """

    @staticmethod
    def forward(ctx: Any, dim: int, site: Site, x: Tensor) -> Tensor:
        softmax = x.softmax(dim)
        ctx.dim, ctx.site = dim, site
        ctx.save_for_backward(x, softmax)
        return softmax

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Any, ...]:
        x, softmax = ctx.saved_tensors
        total = relevance.sum(ctx.dim, keepdim=True)
        passed = torch.addcmul(relevance, softmax, total, value=-1).mul_(x)
        if not passed.sum().isfinite():  # scores that a mask makes infinite
            passed.masked_fill_(x == -torch.inf, 0)
        ctx.site.record_absorbed(total, [passed])
        return None, None, passed


@dataclass(frozen=True)
class Program:
    """A planned graph with its weights, ready to run."""

    planned: Sequence[Planned]  # the steps, in order of computation
    batches: Mapping[fx.Node, Batch]  # where the images are in values
    images: fx.Node  # the node of the images
    outputs: Sequence[fx.Node]  # the nodes that the network returns
    constants: Mapping[fx.Node, Any]  # values that do not depend on the images
    layers: Mapping[fx.Node, LinearMap]  # linear maps whose weights do not depend on the images

    def run(self, images: Tensor, ledger: Ledger, look: Look | None = None) -> list[Tensor]:
        """Runs the graph forward to the outputs, from which autograd carries relevance back to the images.

        Args:
            images: `(N, ...)`, which require gradients.
            ledger: takes what layers absorb, when relevance comes back.
            look: is shown every value and what is planned for its node.
        """
        values: dict[fx.Node, Any] = {self.images: images}
        last = {source: one.node for one in self.planned for source in one.reads}
        for one in self.planned:
            if one.node in self.constants:
                continue
            values[one.node] = self._value(one, values, ledger, images.dtype)
            if look is not None:
                look(one, values[one.node])
            for source in one.reads:
                if last[source] is one.node and source not in self.outputs:
                    values.pop(source, None)
        return [values[node] for node in self.outputs]

    def _value(self, one: Planned, values: Mapping[fx.Node, Any], ledger: Ledger, dtype: torch.dtype) -> Any:
        """Computes the value of a node such that autograd passes relevance back through it."""
        step = one.step

        def look_up(source: fx.Node) -> Any:
            value = self.constants[source] if source in self.constants else values[source]
            return value.detach() if isinstance(value, Tensor) and source not in step.relevance_inputs else value

        if one.done_by_layer:
            return look_up(step.relevance_inputs[0])
        if isinstance(step, ConstantStep):
            with torch.no_grad():
                return one.compute(look_up)
        if isinstance(step, MoveStep) and not step.adds_constants:
            return one.compute(look_up)
        summed = isinstance(step, LinearStep) and issubclass(step.kind, Add)
        sources: Sequence[Any] = one.node.args[:2] if summed else step.relevance_inputs
        xs: list[Any] = [fx.map_arg(source, look_up) for source in sources]
        batches = [self.batches[source] if source in step.relevance_inputs else None for source in sources]
        if summed:
            before, xs = xs, _summands(xs, dtype)
            batches = [
                batch and batch._replace(axis=batch.axis + x.ndim - old.ndim)  # new dimensions come first
                for batch, x, old in zip(batches, xs, before, strict=True)
            ]
        site = Site(one, ledger, self.batches[one.node], batches, dtype)
        if isinstance(step, LinearStep):
            layer = self.layers.get(one.node) or step.make(lambda argument: fx.map_arg(argument, look_up))
            return LinearRelevance.apply(layer, site, *xs)
        if isinstance(step, SoftmaxStep):
            return SoftmaxRelevance.apply(step.dim, site, *xs)
        if isinstance(step, PassStep):
            return PassRelevance.apply(lambda: one.compute(look_up), site, *xs)
        # Not the values themselves, which would live as long as the function does.
        fixed = {source: look_up(source) for source in one.node.all_input_nodes if source not in step.relevance_inputs}

        def compute(*xs: Tensor) -> Any:
            return one.compute({**fixed, **dict(zip(step.relevance_inputs, xs, strict=True))}.__getitem__)

        return MoveRelevance.apply(compute, site, *xs)


def _summands(operands: Sequence[Any], dtype: torch.dtype) -> list[Tensor]:
    """Broadcasts tensors and numbers to the shape of their sum; a number takes the precision of the other operand."""
    values = [one if isinstance(one, Tensor) else torch.as_tensor(one, dtype=dtype) for one in operands]
    device = next(value.device for value in values if value.ndim)
    shape = torch.broadcast_shapes(*(value.shape for value in values))  # type: ignore[no-untyped-call]
    return [value.to(device, dtype).expand(shape) for value in values]
