"""The walk: images forward once, relevance backward from the output to the pixels, and a receipt for both."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from whycluster.lrp.composites import Composite
from whycluster.lrp.graph import Step, trace
from whycluster.lrp.operations import LinearMap, Routing
from whycluster.lrp.rules import Absorbed, Signal, per_image, redistribute


@dataclass(frozen=True)
class Receipt:
    """Where the relevance of each image went; `entered = arrived + absorbed`, but for rounding.

    Attributes:
        entered: relevance at the output, `(N,)`.
        arrived: relevance at the pixels, `(N,)`.
        layers: name of a layer `->` what it absorbed, in the order of the walk.
    """

    entered: Tensor
    arrived: Tensor
    layers: dict[str, Absorbed]

    @property
    def absorbed(self) -> Tensor:
        """What all layers kept, `(N,)`."""
        return sum((layer.total for layer in self.layers.values()), torch.zeros_like(self.entered))


class Attribution(NamedTuple):
    """Output of the network, relevance of its images (shaped as they are), and the receipt."""

    output: Tensor
    relevance: Tensor
    receipt: Receipt


class LRP:
    """Layer-wise relevance propagation through any network that `torch.fx` can trace.

    The network is read, never changed: no hook is set, no parameter replaced, no gradient written.

    Args:
        network: images `(N, ...)` `->` one tensor `(N, ...)`; explained as it computes in evaluation mode.
        composite: the rule of each kind of layer.

    Raises:
        ValueError: if the network cannot be traced, or has an operation or layer without a rule.

    Example:
        >>> from whycluster.lrp import LRP, EpsilonPlus
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
        >>> lrp = LRP(network, EpsilonPlus())
        >>> output, relevance = lrp(torch.rand(5, 3, 4, 4), lambda output: output)
        >>> relevance.shape
        torch.Size([5, 3, 4, 4])
    """

    def __init__(self, network: nn.Module, composite: Composite) -> None:
        self.network = network
        self.composite = composite
        self._build()

    def __call__(
        self, images: Tensor, relevance_of_output: Tensor | Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Output and relevance of the images; see `attribute`."""
        attribution = self.attribute(images, relevance_of_output)
        return attribution.output, attribution.relevance

    def attribute(self, images: Tensor, relevance_of_output: Tensor | Callable[[Tensor], Tensor]) -> Attribution:
        """Explains a batch of images.

        Args:
            images: `(N, ...)`, as the network takes them.
            relevance_of_output: shaped as the output, or a function that makes it from the output.

        Returns:
            The output, the relevance of the images, and the receipt.
        """
        with torch.inference_mode(False), torch.no_grad():
            recording = self.record(images)
            relevance = relevance_of_output(recording.output) if callable(relevance_of_output) else relevance_of_output
            return recording.propagate(relevance, keep=False)

    def record(self, images: Tensor) -> "Recording":
        """Runs the network forward and keeps what the walk back needs, for one target after another."""
        with torch.inference_mode(False), torch.no_grad():
            if self._state() != self._built_from:
                self._build()
            return Recording(self.steps, self.composite, _ordinary(images))

    def _build(self) -> None:
        self._built_from = self._state()
        self.steps = trace(self.network)
        for step in self.steps:
            if isinstance(step.operation, LinearMap):
                self.composite.row(step.operation, step.first)  # a missing rule is reported before any image

    def _state(self) -> list[tuple[int, int]]:
        """Changes whenever a weight or statistic does: on training, `load_state_dict` and `to`."""
        tensors = [*self.network.parameters(), *self.network.buffers()]
        return [(tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version) for tensor in tensors]


class Recording:
    """A forward pass whose values are kept for the walk back.

    Attributes:
        output: of the network.
    """

    def __init__(self, steps: Sequence[Step], composite: Composite, images: Tensor) -> None:
        self._steps, self._composite = steps, composite
        self._values: dict[int, Tensor] = {-1: images}
        last_use = {i: at for at, step in enumerate(steps) for i in step.inputs}
        for at, step in enumerate(steps):
            self._values[at] = step.operation.forward(*(self._values[i] for i in step.inputs))
            for i in set(step.inputs):
                if last_use[i] == at and i >= 0 and steps[i].operation.recomputed:
                    del self._values[i]
        self.output = self._values[len(steps) - 1]

    def propagate(self, relevance: Tensor, keep: bool = True) -> Attribution:
        """Walks back from the output to the images.

        Args:
            relevance: shaped as the output.
            keep: whether another walk may follow; `False` frees each value once it is passed.

        Raises:
            ValueError: if the relevance is not shaped as the output.
        """
        if relevance.shape != self.output.shape:
            raise ValueError(
                f"relevance of shape {tuple(relevance.shape)} does not fit the output, {tuple(self.output.shape)}."
            )
        with torch.inference_mode(False), torch.no_grad():
            return self._walk(_ordinary(relevance), keep)

    def _walk(self, entering: Tensor, keep: bool) -> Attribution:
        arriving = {len(self._steps) - 1: entering}
        layers: dict[str, Absorbed] = {}
        for at in reversed(range(len(self._steps))):
            relevance = arriving.pop(at, None)
            if relevance is None:  # a branch that the output does not depend on
                continue
            step = self._steps[at]
            for i, passed in zip(step.inputs, self._pass(at, relevance, layers), strict=True):
                arriving[i] = arriving[i] + passed if i in arriving else passed
            if not keep:
                self._values.pop(at, None)
        receipt = Receipt(per_image(entering), per_image(arriving[-1]), layers)
        return Attribution(self.output, arriving[-1], receipt)

    def _pass(self, at: int, relevance: Tensor, layers: dict[str, Absorbed]) -> Sequence[Tensor]:
        """Relevance of each input of a step."""
        step = self._steps[at]
        inputs = [self._value(i) for i in step.inputs]
        if isinstance(step.operation, Routing):
            return step.operation.route(inputs, relevance)
        assert isinstance(step.operation, LinearMap)  # there is no third kind
        rule, stabilizer = self._composite.row(step.operation, step.first)
        signal = Signal(inputs[0], self._value(at), step.nonnegative)
        passed, absorbed = redistribute(step.operation, signal, rule, relevance, stabilizer)
        before = layers.get(step.name)  # of a module that the network calls more than once
        layers[step.name] = Absorbed(*map(torch.add, before, absorbed)) if before else absorbed
        return (passed,)

    def _value(self, at: int) -> Tensor:
        """What a step computed: kept, or computed again from what was."""
        if at in self._values:
            return self._values[at]
        step = self._steps[at]
        return step.operation.forward(*(self._value(i) for i in step.inputs))


def _ordinary(tensor: Tensor) -> Tensor:
    """A tensor that gradients could be taken of; one made in inference mode could not, and is copied."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()
