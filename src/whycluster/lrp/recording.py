"""The walk: images forward once, and relevance backward from the output to the pixels, as often as wanted."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from whycluster.lrp.composites import Composite
from whycluster.lrp.graph import IMAGE, Step
from whycluster.lrp.linear_maps import LinearMap
from whycluster.lrp.operations import Plain, Routing
from whycluster.lrp.receipts import Absorbed, Attribution, Receipt, per_image
from whycluster.lrp.rules import Rule
from whycluster.lrp.shares import Passed, Share, Signal, redistribute

# Bytes of a block that the C library's allocator reuses; larger ones it fetches from the system page by page, which
# takes as long as several sweeps over them.
CHEAP = 32 * 2**20


class Arriving(NamedTuple):
    """Relevance on its way to a step.

    Attributes:
        relevance: shaped as the output of the step.
        confined: whether it is known to be zero where that output is not positive.
    """

    relevance: Tensor
    confined: bool

    def joined(self, other: "Arriving | None") -> "Arriving":
        """Both together, if there is another."""
        if other is None:
            return self
        return Arriving(self.relevance + other.relevance, self.confined and other.confined)


class Recording:
    """A forward pass whose values are kept for the walk back.

    Args:
        steps: of the network.
        composite: the rules.
        images: `(N, ...)`.
        checked: whether to look for a NaN or an infinity at every step, on both ways.

    Attributes:
        output: of the network.
    """

    def __init__(self, steps: Sequence[Step], composite: Composite, images: Tensor, checked: bool = False) -> None:
        self._steps, self._composite, self._checked = steps, composite, checked
        kind = images.device.type  # the walk back, whenever it comes, multiplies as the forward pass did
        precision, enabled = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        self._autocast = partial(torch.autocast, kind, dtype=precision, enabled=enabled)
        self._short = enabled or _multiplies_short(images)
        self._used_up = False
        self._shapes: dict[int, torch.Size] = {}
        self._totals: dict[tuple[int, int], dict[int, Tensor]] = {}
        self._values: dict[int, Any] = {IMAGE: images}
        self._run()
        # A copy, as a caller may write into it.
        self.output = self._values[len(steps) - 1].clone(memory_format=torch.contiguous_format)
        if not self.output.ndim or len(self.output) != len(images):
            raise ValueError(
                f"the network makes an output of shape {tuple(self.output.shape)} from images of shape "
                f"{tuple(images.shape)}; it should have a row for each image. Let it keep the batch dimension."
            )

    def _run(self) -> None:
        """Forward; of what was computed only what the walk back cannot cheaply compute again is kept."""
        last_use = {i: at for at, step in enumerate(self._steps) for i in step.inputs}
        for at, step in enumerate(self._steps):
            value = self._values[at] = step.operation.forward(*(self._values[i] for i in step.inputs))
            if isinstance(value, Tensor):
                self._shapes[at] = value.shape
                self._look_at(value, f"the output of {step.name!r}")
            for i in set(step.inputs):
                if last_use[i] == at and i != IMAGE and not self._steps[i].kept:
                    del self._values[i]

    def propagate(self, relevance: Tensor, keep: bool = True) -> Attribution:
        """Walks back from the output to the images.

        Args:
            relevance: shaped as the output.
            keep: whether another walk may follow, which shares all denominators with this one; `False` frees each value
                once it is passed.

        Raises:
            ValueError: if the relevance is not shaped as the output, or if a NaN or an infinity appears on the way.
        """
        if not isinstance(relevance, Tensor):
            raise ValueError(
                f"relevance of the output should be a tensor of shape {tuple(self.output.shape)}, or a function that "
                f"makes one from the output; here it is {relevance!r:.100}."
            )
        if relevance.shape != self.output.shape:
            raise ValueError(
                f"relevance of shape {tuple(relevance.shape)} does not fit the output, {tuple(self.output.shape)}."
            )
        if self._used_up:
            raise ValueError("this recording was used up by propagate(…, keep=False); make another one.")
        self._used_up = not keep
        with torch.inference_mode(False), torch.no_grad(), self._autocast():
            entering = relevance.detach().to(self._values[IMAGE].dtype, copy=True)
            attribution = self._walk(entering, keep)
            # R / inf is 0: a receipt may balance over an infinity. Finite values may have an infinite sum.
            balanced = attribution.receipt.is_plausible(self._short)
            if not (balanced and all(torch.isfinite(total) for total in self._sums)):
                self._find_fault(entering, balanced)
            return attribution

    def _walk(self, entering: Tensor, keep: bool) -> Attribution:
        arriving = {len(self._steps) - 1: Arriving(entering.clone(), confined=False)}
        layers: dict[str, Absorbed] = {}
        self._sums: list[Tensor] = []
        for at, step in reversed(list(enumerate(self._steps))):
            arrived = arriving.pop(at, None)
            if arrived is not None:  # a gate, a size: nothing arrives
                passed, absorbed = self._pass(at, arrived, keep)
                for i, part in zip(self._carriers(step), passed, strict=True):
                    self._look_at(part.relevance, f"the relevance that {step.name!r} passes on")
                    if self._is_plain(i):
                        absorbed = (absorbed or Absorbed.nothing(arrived.relevance)).plus(_by_constant(part.relevance))
                        continue
                    if part.relevance.shape != self._shape(i):
                        part = part._replace(relevance=part.relevance.sum_to_size(self._shape(i)))
                    arriving[i] = part.joined(arriving.get(i))
                if absorbed is not None:  # a module that the network calls more than once has one entry
                    layers[step.name] = layers[step.name].plus(absorbed) if step.name in layers else absorbed
            if not (keep and step.kept):
                self._values.pop(at, None)
        pixels = arriving[IMAGE].relevance.contiguous()
        unsigned = per_image(entering.abs()), per_image(pixels.abs())
        receipt = Receipt(per_image(entering), per_image(pixels), layers, unsigned)
        return Attribution(self.output.clone(), pixels, receipt)

    def _pass(self, at: int, arrived: Arriving, keep: bool) -> tuple[Sequence[Arriving], Absorbed | None]:
        """Relevance of each carrier of a step, and what the step absorbed if it could."""
        step = self._steps[at]
        operation, relevance = step.operation, arrived.relevance
        if isinstance(operation, Routing):
            known = [operation.reads_values or self._is_plain(i) for i in step.inputs]
            inputs = [self._value(i) if read else self._blank(i) for i, read in zip(step.inputs, known, strict=True)]
            routed = operation.route(inputs, relevance)
            passed = [Arriving(part, arrived.confined and operation.keeps_positive) for part in routed]
            if operation.adds_constants:
                lost = per_image(relevance) - sum(map(per_image, routed))
                return passed, Absorbed.nothing(relevance)._replace(bias=lost)
            return passed, None
        assert isinstance(operation, LinearMap)  # nothing arrives at what is plain
        inputs, z = [self._value(i) for i in step.inputs], self._value(at)
        self._sums.append(z.sum())
        carriers = [i != IMAGE and self._steps[i].nonnegative for i in self._carriers(step)]
        signal = Signal(operation.operands(inputs, z), z, all(carriers), arrived.confined)
        shared = self._share_out(at, operation.given(inputs), signal, relevance, keep)
        # Of inputs that cannot be negative, what goes in proportion to them reaches only the positive.
        confined = [shared.proportional and nonnegative for nonnegative in carriers]
        return list(map(Arriving, shared.operands, confined)), shared.absorbed

    def _share_out(self, at: int, layer: LinearMap, signal: Signal, relevance: Tensor, keep: bool) -> Passed:
        """By the rule of a layer, some images after the others where all at once would be slow."""
        rule, stabilizer = self._composite.row(layer, self._steps[at].first)
        whole: list[Tensor] = [torch.empty_like(x, dtype=relevance.dtype) for x in signal.operands]
        parts = []
        for some in _parts(signal):
            key = at, some.start
            totals = self._totals.setdefault(key, {}) if keep else self._totals.pop(key, None)
            part = signal.of(some)
            passed = redistribute(layer, part, _shares(rule, layer, part), relevance[some], stabilizer, totals)
            if len(passed.absorbed.bias) == len(relevance):  # all at once
                return passed
            for all_, one in zip(whole, passed.operands, strict=True):
                all_[some] = one
            parts.append(passed._replace(operands=()))
        absorbed = Absorbed(*map(torch.cat, zip(*(part.absorbed for part in parts), strict=True)))
        return Passed(whole, absorbed, all(part.proportional for part in parts))

    def _is_plain(self, at: int) -> bool:
        return at != IMAGE and isinstance(self._steps[at].operation, Plain)

    def _carriers(self, step: Step) -> list[int]:
        return [step.inputs[at] for at in step.operation.carriers(len(step.inputs))]

    def _value(self, at: int) -> Any:
        """What a step computed: kept, or computed again from what was."""
        if at not in self._values:
            step = self._steps[at]
            self._values[at] = step.operation.forward(*(self._value(i) for i in step.inputs))
        return self._values[at]

    def _shape(self, at: int) -> torch.Size:
        return self._values[IMAGE].shape if at == IMAGE else self._shapes[at]

    def _blank(self, at: int) -> Any:
        """Something of the right shape, where only that matters."""
        if at != IMAGE and at not in self._shapes:
            return self._value(at)  # a size
        return self._values[IMAGE].new_zeros(()).expand(self._shape(at))

    def _look_at(self, tensor: Tensor, what: str) -> None:
        if self._checked and not tensor.isfinite().all():
            kind = "NaN" if tensor.isnan().any() else "an infinity"
            raise ValueError(f"{what} holds {kind}; look at the weights there, or raise the stabilizer of its rule.")

    def _find_fault(self, entering: Tensor, balanced: bool) -> None:
        """Goes both ways again, looking at every step.

        Raises:
            ValueError: with the name of the first node whose values are not finite, if there is one.
        """
        images = self._values[IMAGE]
        if not images.isfinite().all():
            raise ValueError("the batch of images holds values that are not finite.")
        again = Recording(self._steps, self._composite, images, checked=True)
        if not entering.isfinite().all():
            raise ValueError("the relevance given for the output holds values that are not finite.")
        again._walk(entering, keep=False)
        if balanced:
            return
        raise ValueError(
            "what entered is not what arrived and was absorbed: the weights were changed through .data, which goes "
            "unnoticed (make a new LRP); the numbers are too short for this network (compute in float64); or a rule "
            "of your own has shares that take more or less than all of the relevance."
        )


def _multiplies_short(images: Tensor) -> bool:
    """Whether single precision may be multiplied with the digits of half precision, as GPUs do by default."""
    exact = images.device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"
    return images.dtype == torch.float32 and not exact


def _shares(rule: Rule, layer: LinearMap, signal: Signal) -> Iterable[Share]:
    """Of a rule, which should yield them."""
    shares = rule(layer, signal)
    if shares is None or isinstance(shares, Share):
        name = getattr(rule, "__name__", type(rule).__name__)
        raise ValueError(f"the rule {name!r} should yield shares; it returned {type(shares).__name__}.")
    return shares


def _parts(signal: Signal) -> Iterator[slice]:
    """Images that are passed through a layer at once: as many as keep what is computed on the way in cheap memory."""
    n = len(signal.z)
    size = n
    if n and signal.z.device.type == "cpu" and all(len(x) == n for x in signal.operands):
        largest = max(x.numel() * x.element_size() for x in (signal.z, *signal.operands))
        size = max(1, n * CHEAP // largest) if largest else n
    for start in range(0, max(n, 1), max(size, 1)):
        yield slice(start, start + size)


def _by_constant(relevance: Tensor) -> Absorbed:
    """What a constant takes counts as a bias."""
    return Absorbed.nothing(relevance)._replace(bias=per_image(relevance))
