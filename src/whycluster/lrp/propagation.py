"""Layer-wise relevance propagation through a network, from its output to its images."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from whycluster.lrp.composites import Composite
from whycluster.lrp.description import described
from whycluster.lrp.graph import trace
from whycluster.lrp.linear_maps import LinearMap
from whycluster.lrp.receipts import Attribution
from whycluster.lrp.recording import Recording

PLAIN = (bool, int, float, str, type(None))


class LRP:
    """Layer-wise relevance propagation through any network that `torch.fx` can trace.

    The network is read, never changed: no hook is set, no parameter replaced, no gradient written. Weights and settings
    of its modules that change later are noticed, unless they are written through `.data`.

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
        if not isinstance(network, nn.Module):
            raise ValueError(f"the network should be an nn.Module; here it is {network!r:.100}.")
        if not isinstance(composite, Composite):
            raise ValueError(
                f"composite={composite!r:.100} should be a composite such as EpsilonPlus(); named_composite makes one "
                "from a name."
            )
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

    def record(self, images: Tensor) -> Recording:
        """Runs the network forward and keeps what the walk back needs, for one target after another.

        Args:
            images: `(N, ...)`; a copy is kept, so they may be overwritten.

        Raises:
            ValueError: for images that are no tensor of floating point numbers, or an output without a row for each.
        """
        if not isinstance(images, Tensor) or not images.is_floating_point() or not images.ndim:
            kind = f"one of {images.dtype}, {tuple(images.shape)}" if isinstance(images, Tensor) else f"{images!r:.60}"
            raise ValueError(f"images should be a tensor (N, ...) of floating point numbers; here it is {kind}.")
        with torch.inference_mode(False), torch.no_grad():
            self._refresh()
            return Recording(self.steps, self.composite, _copied(images.detach()))

    def _refresh(self) -> None:
        if self._state() != self._built_from:
            self._build()

    def _build(self) -> None:
        with torch.inference_mode(False), torch.no_grad():
            self.steps = trace(self.network)
        self._built_from = self._state()
        for step in self.steps:
            if step.reached and isinstance(step.operation, LinearMap):
                try:
                    self.composite.row(step.operation, step.first)
                except ValueError as error:  # before any image
                    raise ValueError(f"{error}, node {step.name!r}.") from error

    def describe(self) -> str:
        """A table of what happens at each node: operation, rule, and the batch norm folded into it."""
        self._refresh()
        return described(self.steps, self.composite)

    def _state(self) -> list[Any]:
        """Changes whenever a weight, a statistic, a setting or a module does: on training, `load_state_dict`, `to`.

        What is written through `.data` leaves no trace.
        """
        read = {name for step in self.steps for name in (step.name, *(step.norm.split(", ") if step.norm else ()))}
        tensors: list[Tensor] = [*self.network.parameters()]
        settings, modules = [], []
        for place, module in self.network.named_modules():
            modules.append(id(module))
            settings += [(name, _frozen(value)) for name, value in vars(module).items() if name != "training"]
            for name, value in (*module._buffers.items(), *vars(module).items()):
                # Of other tensors, what the network remembers of its last images, say, nothing depends on them.
                if isinstance(value, Tensor) and (place in read or f"{place}.{name}".lstrip(".") in read):
                    tensors.append(value)
        versions = [(tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version) for tensor in tensors]
        return [versions, settings, modules]


def _copied(images: Tensor) -> Tensor:
    """A copy, on a CPU with the channels last: its convolutions are the faster for it, by a sixth."""
    fast = images.ndim == 4 and images.device.type == "cpu" and images.dtype == torch.float32
    return images.clone(memory_format=torch.channels_last if fast else torch.preserve_format)


def _frozen(value: Any) -> Any:
    """A copy of what may be a setting of a module, such as a stride or an epsilon; `None` of everything else."""
    if isinstance(value, list | tuple):
        return [_frozen(one) for one in value if one is None or _frozen(one) is not None]
    if type(value) is dict:
        return _frozen(list(value.items()))
    return value if type(value) in PLAIN else None
