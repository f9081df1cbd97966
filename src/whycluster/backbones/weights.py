"""Loading of weights files into a cut network, in the forms in which training programs save them."""

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from whycluster.backbones.cut import CutNetwork
from whycluster.errors import UserError

# Keys under which training programs save a `state_dict`; of several in a file, the first in this list is used: averaged
# weights and teachers are what these programs evaluate.
WRAPPERS = ("state_dict_ema", "model_ema", "ema", "teacher", "state_dict", "model", "model_state", "student")
# Of several networks in one file that fit equally well, the one whose prefix has the first of these words is used.
PREFERRED = ("teacher", "encoder_q", "")
# Files of DenseNets, including the published ones, have the names of modules before these were renamed.
OLD_DENSE_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
COUNTER = "num_batches_tracked"  # a counter of batch norms that only training reads

Tensors = Mapping[str, Tensor]


class Weights(NamedTuple):
    """The content of a weights file."""

    path: Path
    tensors: dict[str, Tensor]  # the `state_dict`
    wrapped: str  # the key in the file that held it, if any

    @classmethod
    def read(cls, path: Path) -> "Weights":
        """Reads a file; nothing in it is executed.

        Raises:
            UserError: in one sentence, if it is damaged or holds no `state_dict`.
        """
        content, wrapped = _content(path), ""
        while isinstance(content, Mapping) and not _is_state_dict(content):
            key = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
            if key is None:
                break
            content, wrapped = content[key], f"{wrapped}.{key}".lstrip(".")
        if not isinstance(content, Mapping) or not _is_state_dict(content):
            raise UserError(f"the weights file {str(path)!r} holds no state_dict: names and tensors are wanted.")
        return cls(path, {OLD_DENSE_NAME.sub(r"\1\2", key): value for key, value in content.items()}, wrapped)

    def load_into(
        self,
        cut: CutNetwork,
        network: nn.Module,
        name: str,
        convert: Callable[[Tensors], Tensors] | None = None,
    ) -> None:
        """Loads the weights that the cut uses; in the file, other weights may be missing or differ.

        Args:
            cut: the network to load into.
            network: the whole network, from which it was cut.
            name: of the network, for messages.
            convert: converts a published file, if it does not fit as it is.

        Raises:
            UserError: in one sentence, if the file does not fit.
        """
        wanted = {key.removeprefix("network."): value for key, value in cut.state_dict().items()}
        known = network.state_dict()
        prefix = common_prefix(wanted, self.tensors)
        found: Tensors = _without(prefix, self.tensors)
        wrong = differences(wanted, found, known)
        if wrong and convert is not None:
            converted = _converted(convert, [found, self.tensors])
            found = next((tensors for tensors in converted if not differences(wanted, tensors, known)), found)
            wrong = differences(wanted, found, known)
        if wrong:
            raise UserError(f"the weights file {str(self.path)!r} does not fit {name}: {wrong}.")
        load(cut, {f"network.{key}": value for key, value in found.items()})
        self._warn(prefix, [key for key in found if not _is_as_in(known, key, found[key])])

    def _warn(self, prefix: str, strange: list[str]) -> None:
        """Warns in one line of what was done to a file to make it fit, if anything was."""
        done = [f"taken from its key {self.wrapped!r}"] if self.wrapped else []
        done += [f"names read without {prefix!r}"] if prefix else []
        done += [f"{_named(strange, 'tensors')} left out, which the cut does not use"] if strange else []
        if done:
            warnings.warn(f"weights of {str(self.path)!r}: {'; '.join(done)}.", stacklevel=4)


def common_prefix(wanted: Tensors, tensors: Tensors) -> str:
    """Finds the prefix of the names in a file without which most of the wanted names are found.

    Example:
        >>> conv, fc = torch.zeros(1), torch.zeros(2)
        >>> common_prefix({"conv": conv}, {"module.encoder_k.conv": conv, "module.encoder_q.conv": conv, "fc": fc})
        'module.encoder_q.'
    """
    found: Counter[str] = Counter()
    for name in tensors:
        parts = name.split(".")
        found.update(".".join([*parts[:at], ""]) for at in range(len(parts)) if ".".join(parts[at:]) in wanted)
    most = max(found.values(), default=0)
    best = [prefix for prefix, count in found.items() if count == most]
    if not best or "" in best:
        return ""
    return min(best, key=lambda prefix: [word in prefix for word in PREFERRED].index(True))


def differences(wanted: Tensors, tensors: Tensors, known: Tensors) -> str:
    """Describes in a few words how weights differ from those wanted; empty if they do not.

    Args:
        wanted: the weights that are used.
        tensors: those of a file. It may contain other weights if they are known, or belong to a part of the network
            that is not used at all, such as another classifier.
        known: all weights of the network.
    """
    parts = {name.split(".")[0] for name in wanted}
    missing = [name for name in wanted if name not in tensors and not name.endswith(COUNTER)]
    unknown = [name for name in tensors if name not in known and not name.endswith(COUNTER)]
    extra = [name for name in unknown if name.split(".")[0] in parts]
    shapes = [name for name in wanted if name in tensors and wanted[name].shape != tensors[name].shape]
    kinds = ((missing, "tensors missing"), (extra, "unknown"), (shapes, "of another shape"))
    return ", ".join(_named(names, what) for names, what in kinds if names)


def load(cut: CutNetwork, tensors: Tensors) -> None:
    """Loads those of the tensors that the cut uses; only counters of batch norms may be missing."""
    fitting = cut.state_dict()  # also has the metadata that modules read, such as their versions
    fitting.update({name: tensor for name, tensor in tensors.items() if name in fitting})
    cut.load_state_dict(fitting)


def check_finite(cut: CutNetwork, weights: str | None) -> None:
    """Checks the weights that the cut uses; some published weights have NaN in the classifier on purpose.

    Raises:
        UserError: if a weight is NaN or infinite.
    """
    broken = [key.removeprefix("network.") for key, value in cut.state_dict().items() if not value.isfinite().all()]
    if broken:
        raise UserError(
            f"backbone.weights={weights!r} has values that are not finite in {_named(broken, 'tensors')}: "
            "the file is damaged, or its training diverged."
        )


def _content(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return _safetensors(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise UserError(f"to read {str(path)!r}, install safetensors: pip install safetensors.") from error
    except (PermissionError, IsADirectoryError) as error:
        raise UserError(f"the weights file {str(path)!r} cannot be read: {error.strerror}.") from error
    except Exception as error:  # a damaged file makes torch, pickle and zip raise errors of many kinds
        raise UserError(
            f"the weights file {str(path)!r} is damaged, or holds more than names and tensors and is refused because "
            f"it could run code ({type(error).__name__}); torch.save(network.state_dict(), …) writes what can be read."
        ) from error


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file  # comes with timm, and is not needed without such files

    tensors: dict[str, Tensor] = load_file(path)
    return tensors


def _is_state_dict(content: Mapping[Any, Any]) -> bool:
    return all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())


def _without(prefix: str, tensors: Tensors) -> dict[str, Tensor]:
    """Selects the tensors whose names begin with a prefix, and removes it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _converted(convert: Callable[[Tensors], Tensors], candidates: list[Tensors]) -> Iterator[Tensors]:
    for tensors in candidates:
        try:
            yield convert(dict(tensors))
        except (AttributeError, KeyError, IndexError, RuntimeError, TypeError, ValueError):
            continue  # no file of the kind that it translates


def _is_as_in(known: Tensors, name: str, tensor: Tensor) -> bool:
    return name.endswith(COUNTER) or (name in known and known[name].shape == tensor.shape)


def _named(names: list[str], what: str) -> str:
    return f"{len(names)} {what} ({names[0]}{', …' if len(names) > 1 else ''})"
