"""A network that runs up to one of its layers, and keeps only the weights that this takes."""

import difflib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from whycluster.backbones.layers import Layer, LayerWatch, evaluated, layer_names
from whycluster.errors import UserError

NOTHING = object()  # what modules return once the layer is computed; no operation accepts it


class CutNetwork(nn.Module):
    """A network up to one of its layers: normalised images `(N, 3, H, W)` `->` the output of that layer.

    The network itself runs, and is stopped once the layer has been computed: by an exception, or, under `torch.export`,
    whose record of modules an exception would leave inconsistent, by making every module return at once.

    Args:
        network: any network; it is not changed, and shares its weights with this copy of its modules.
        layer: a module or a function in it, see `whycluster.backbones.layers`.
        images: normalised images that the network takes, to find the layer, and the weights that lead to it.

    Attributes:
        network: the copy. Weights that the layer does not depend on are replaced by zeros of the same shape that take
            no memory; they are no parameters, and not in `state_dict()`.
        unused: the names of these weights.

    Raises:
        UserError: for an unknown layer, with the nearest names.
    """

    def __init__(self, network: nn.Module, layer: str, images: Tensor) -> None:
        super().__init__()
        self.network = evaluated(network)
        self.layer = layer
        with torch.no_grad(), _Reads() as reads:
            found = _find(self.network, layer, images)
        # Where the layer is a module, its own hook suffices.
        self.module, self.call = found.module, found.call
        self.unused = _without_unused(self.network, reads.identities)
        self.eval()
        self.register_load_state_dict_post_hook(_pass_over_unused)  # type: ignore[no-untyped-call]

    def forward(self, images: Tensor) -> Any:
        return self._exported(images) if torch.compiler.is_exporting() else self._stopped(images)

    def _stopped(self, images: Tensor) -> Any:
        def stop(output: Any) -> None:
            raise _ReachedError(output)

        try:
            with self._watching(stop):
                self.network(images)
        except _ReachedError as reached:
            return reached.output
        raise UserError(f"the layer {self.layer!r} is not reached with images of shape {tuple(images.shape)}.")

    def _exported(self, images: Tensor) -> Any:
        kept: list[Any] = []

        def keep(output: Any) -> Any:
            kept.append(output)
            if self.module is None:  # ends the module that calls the function, which then returns at once
                raise _ReachedError(output)
            return NOTHING

        with _returning_at_once(self._unwrapped(), kept), self._watching(keep):
            self.network(images)
        return kept[0]

    def _watching(self, reached: Callable[[Any], Any]) -> AbstractContextManager[Any]:
        """Calls `reached` with the output of the layer; a module then returns what `reached` returns."""
        if self.module is not None:
            return _watching_module(self._unwrapped().get_submodule(self.module), self.call, reached)

        def compare(layer: Layer) -> None:
            if layer.name == self.layer:
                reached(layer.output)

        return LayerWatch(self._unwrapped(), compare)

    def _unwrapped(self) -> nn.Module:
        """Returns the network itself: during an export attributes return proxies, several of them for one module."""
        network: nn.Module = vars(self)["_modules"]["network"]
        return network

    def _apply(self, fn: Any, recurse: bool = True) -> "CutNetwork":
        """Moves and casts unused weights along with the others, as the network may read their device and type."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name in self.unused:
            module, _, tensor = name.rpartition(".")
            attributes = self.network.get_submodule(module).__dict__
            old = attributes[tensor]
            attributes[tensor] = fn(old.new_zeros(())).expand(old.shape)
        return self

    def train(self, mode: bool = True) -> "CutNetwork":
        """Stays in evaluation mode."""
        return super().train(False)


class _ReachedError(Exception):
    """Carries the output of a layer out of the network; never seen outside."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


class _Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the identity of every tensor that an operation reads."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.identities: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.identities.update(id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        return func(*args, **(kwargs or {}))


@contextmanager
def _returning_at_once(network: nn.Module, kept: list[Any]) -> Iterator[None]:
    """Makes all modules return as soon as `kept` holds a value: those that are called then, and those that raise as a
    result.
    """

    def guarded(forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
        if kept:
            return NOTHING
        try:
            return forward(*inputs, **options)
        except Exception:
            if kept:
                return NOTHING
            raise

    own = {module: module.__dict__.get("forward") for module in network.modules()}
    for module in own:
        module.__dict__["forward"] = partial(guarded, module.forward)
    try:
        yield
    finally:
        for module, forward in own.items():
            if forward is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = forward


@contextmanager
def _watching_module(module: nn.Module, call: int, reached: Callable[[Any], Any]) -> Iterator[None]:
    calls = 0

    def count(module: nn.Module, inputs: Any, output: Any) -> Any:
        nonlocal calls
        calls += 1
        return reached(output) if calls == call + 1 else None

    handle = module.register_forward_hook(count)
    try:
        yield
    finally:
        handle.remove()


def _find(network: nn.Module, name: str, images: Tensor) -> Layer:
    """Runs a network up to the layer of this name."""

    def compare(layer: Layer) -> None:
        if layer.name == name:
            raise _ReachedError(layer)

    try:
        with LayerWatch(network, compare):
            network(images)
    except _ReachedError as reached:
        found: Layer = reached.output
        return found._replace(output=None)
    near = ", ".join(difflib.get_close_matches(name, layer_names(network, images), n=4, cutoff=0))
    raise UserError(f"backbone.layer={name!r} is no layer of this network; the nearest are {near}.")


def _pass_over_unused(cut: Any, keys: Any) -> None:
    """Ignores unused weights in a `state_dict`: that of the whole network has them, and batch norms add counters."""
    unused = tuple(f"network.{name}" for name in cut.unused)
    keys.unexpected_keys[:] = [key for key in keys.unexpected_keys if not key.endswith(unused)]


def _without_unused(network: nn.Module, used: set[int]) -> list[str]:
    """Replaces the weights that are not used, and returns their names."""
    names = []
    for path, module in network.named_modules():
        for name, tensor in list(chain(module._parameters.items(), module._buffers.items())):
            if tensor is not None and id(tensor) not in used:
                delattr(module, name)
                module.__dict__[name] = torch.zeros((), dtype=tensor.dtype, device=tensor.device).expand(tensor.shape)
                names.append(f"{path}.{name}" if path else name)
    return names
