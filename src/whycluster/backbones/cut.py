"""A network that runs up to one of its layers, or several, and keeps only the weights that this takes."""

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from whycluster.backbones.layers import Layer, LayerWatch, evaluated, layer_names
from whycluster.errors import UserError

Reached = Callable[[str, Any], Any]  # is called with the name of a layer and its output
NOTHING = object()  # what modules return once the layer is computed; no operation accepts it


class CutNetwork(nn.Module):
    """A network up to some of its layers: normalised images `(N, 3, H, W)` `->` the outputs of these layers.

    The network itself runs, and is stopped once the last layer has been computed: by an exception, or, under
    `torch.export`, whose record of modules an exception would leave inconsistent, by making every module return at
    once.

    Args:
        network: any network; it is not changed, and shares its weights with this copy of its modules.
        layer: a module or a function in it, see `whycluster.backbones.layers`; or several of them, by different names.
        images: normalised images that the network takes, to find the layers, and the weights that lead to them.

    Attributes:
        network: the copy. Weights that no layer depends on are replaced by zeros of the same shape that take no memory;
            they are no parameters, and not in `state_dict()`.
        layers: the names of the layers.
        read: of each layer, the names of the weights that lead to it.
        unused: the names of the weights that lead to none.

    Raises:
        UserError: for an unknown layer, with the nearest names; for none, or one that is named twice.
    """

    def __init__(self, network: nn.Module, layer: str | Sequence[str], images: Tensor) -> None:
        super().__init__()
        self.network = evaluated(network)
        self.layers = checked_layers(layer)
        self.is_joined = not isinstance(layer, str)
        self.read: list[set[str]] = []
        # Where a layer is a module, its own hook suffices: its name and call.
        self.modules_of: dict[str, tuple[str, int]] = {}
        for name in self.layers:
            with torch.no_grad(), _Reads() as reads:
                found = _find(self.network, name, images)
            if found.module is not None:
                self.modules_of[name] = found.module, found.call
            self.read.append({path for path, _, tensor in _weights(self.network) if id(tensor) in reads.identities})
        self.unused = _without_unused(self.network, set.union(*self.read))
        self.eval()
        self.register_load_state_dict_post_hook(_pass_over_unused)  # type: ignore[no-untyped-call]

    def forward(self, images: Tensor) -> Any:
        """Returns the output of the layer, or a list of those of several layers."""
        kept: dict[str, Any] = {}
        (self._run_exported if torch.compiler.is_exporting() else self._run_stopped)(images, kept)
        outputs = [kept[name] for name in self.layers]
        return outputs if self.is_joined else outputs[0]

    def _run_stopped(self, images: Tensor, kept: dict[str, Any]) -> None:
        """Runs the network up to the last layer, and keeps the outputs of all."""

        def keep(name: str, output: Any) -> None:
            if self._keep(kept, name, output):
                raise _ReachedError(output)

        with suppress(_ReachedError), self._watching(keep):
            self.network(images)
        for name in self.layers:
            if name not in kept:
                raise UserError(f"the layer {name!r} is not reached with images of shape {tuple(images.shape)}.")

    def _run_exported(self, images: Tensor, kept: dict[str, Any]) -> None:
        """Runs the network such that `torch.export` can follow."""

        def keep(name: str, output: Any) -> Any:
            if not self._keep(kept, name, output):
                return None
            if name not in self.modules_of:  # ends the module that calls the function, which then returns at once
                raise _ReachedError(output)
            return NOTHING

        def is_done() -> bool:
            return len(kept) == len(self.layers)

        with _returning_at_once(self._unwrapped(), is_done), self._watching(keep):
            self.network(images)

    def _keep(self, kept: dict[str, Any], name: str, output: Any) -> bool:
        """Keeps the output of a layer, and tells whether that was the last one to be computed."""
        is_last = len(kept) + 1 == len(self.layers)
        # The network goes on, and may overwrite its values.
        kept[name] = output if is_last else tree_map_only(Tensor, Tensor.clone, output)
        return is_last

    def _watching(self, reached: Reached) -> AbstractContextManager[Any]:
        """Calls `reached` with each layer; a module then returns what `reached` returns, unless that is `None`."""
        network, stack = self._unwrapped(), ExitStack()
        for name, (module, call) in self.modules_of.items():
            stack.enter_context(_watching_module(network.get_submodule(module), call, partial(reached, name)))
        functions = set(self.layers) - set(self.modules_of)

        def compare(layer: Layer) -> None:
            if layer.name in functions:
                reached(layer.name, layer.output)

        if functions:
            stack.enter_context(LayerWatch(network, compare))
        return stack

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
def _returning_at_once(network: nn.Module, is_done: Callable[[], bool]) -> Iterator[None]:
    """Makes all modules return as soon as all is done: those that are called then, and those that raise as a result."""

    def guarded(forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
        if is_done():
            return NOTHING
        try:
            return forward(*inputs, **options)
        except Exception:
            if is_done():
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


def checked_layers(layer: str | Sequence[str]) -> list[str]:
    """Returns the names of layers as a list; `UserError` for none, or one that is named twice."""
    layers = [layer] if isinstance(layer, str) else list(layer)
    if not layers or len(set(layers)) < len(layers) or not all(isinstance(name, str) for name in layers):
        raise UserError(f"backbone.layer={layers} should be the name of a layer, or a list of different ones.")
    return layers


def _weights(network: nn.Module) -> list[tuple[str, nn.Module, Tensor]]:
    """Lists parameters and buffers with their names and the modules that hold them; tensors that modules share, once
    for each.
    """
    return [
        (f"{path}.{name}" if path else name, module, tensor)
        for path, module in network.named_modules()
        for name, tensor in chain(module._parameters.items(), module._buffers.items())
        if tensor is not None
    ]


def _without_unused(network: nn.Module, used: set[str]) -> list[str]:
    """Replaces the weights that are not used, and returns their names."""
    unused = [one for one in _weights(network) if one[0] not in used]
    for path, module, tensor in unused:
        name = path.rpartition(".")[2]
        delattr(module, name)
        module.__dict__[name] = torch.zeros((), dtype=tensor.dtype, device=tensor.device).expand(tensor.shape)
    return [path for path, *_ in unused]
