"""A model of your own: a factory named in the configuration, behind the call and the parameter names that the project knows.

The factory's module is not changed. What it draws at random (frozen parameters, buffers, and the weights whose scale is the base
initialisation) is a function of the section's seed. docs/own-model.md says what such a model must be.

Legend: B batch, C channels, h w latent height and width.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from mudit.config.models import ExternalSection
from mudit.errors import ConfigError
from mudit.models.condition import Condition

_NORMED_WEIGHTS = (SpectralNorm, WeightNorm)  # before torch had parametrizations: a hook computes the weight
Call = Callable[[nn.Module, Tensor, Tensor, Condition], Tensor]


@dataclass(frozen=True)
class ModuleFactory:
    """Your module as a function of its width in channels, with everything that it draws as a function of `seed`."""

    factory: str  # package.module:callable
    width_argument: str
    width_unit: int  # channels per unit of that argument
    options: Mapping[str, Any]
    seed: int

    @classmethod
    def of(cls, section: ExternalSection) -> Self:
        """The factory of a configured model."""
        return cls(section.factory, section.width_argument, section.width_unit, section.options, section.seed)

    def __call__(self, width: int) -> nn.Module:
        """Build the module on the current default device; torch's CPU generator is left as it was.

        Raises ConfigError if the factory cannot be found, fails, or returns what cannot be trained here.
        """
        if width <= 0 or width % self.width_unit:
            raise ConfigError(f"width {width} is not a positive multiple of model.width_unit {self.width_unit}")
        function = find(self.factory, "model.factory")
        arguments = {self.width_argument: width // self.width_unit, **self.options}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            try:
                module = function(**arguments)
            except ConfigError as error:  # a factory that says itself what is wrong
                raise ConfigError(f"model.factory: {self.factory}: {error}") from error
            except Exception as error:
                shown = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
                raise ConfigError(f"model.factory: {self.factory}({shown}) raised {_one_line(error)}") from error
        if not isinstance(module, nn.Module):
            raise ConfigError(f"model.factory: {self.factory} returned {type(module).__name__}, not a torch.nn.Module")
        for complaint in _unfit(module):
            raise ConfigError(f"model.factory: {self.factory}: {complaint}")
        return module


def build_external(section: ExternalSection, width: int) -> nn.Module:
    """The configured module at `width` channels, called like every family. Raises ConfigError as `ModuleFactory` does."""
    module = ModuleFactory.of(section)(width)
    call = None if section.call is None else find(section.call, "model.call")
    return Adapter(module, call, section.channels * (2 if section.learns_variance else 1))


class Adapter(nn.Module):
    """Another module under our call, `model(x, t, condition)`.

    It has no parameters and children of its own: it shows those of the module as they are, so names carry no prefix and the state
    dict is the module's.
    """

    module: nn.Module

    def __init__(self, module: nn.Module, call: Call | None, out_channels: int) -> None:
        """`call`: (module, x, t, condition) -> output; None: the module takes (x, t, condition) itself."""
        super().__init__()
        # Past nn.Module's bookkeeping, which would register the module as a child and put its name before every parameter's.
        self.__dict__["module"] = module
        for registered in ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules"):
            self.__dict__[registered] = module.__dict__[registered]
        self._call, self._out_channels = call, out_channels
        self._trained = 0  # calls in training mode, as far as they are looked at

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """x (B, C, h, w), t (B), labels (B) or captions -> (B, C or 2C, h, w).

        The first two calls in training mode, and those before, raise ConfigError if the module is not what a run can do with.
        """
        if self._trained == 2 or torch.compiler.is_compiling():
            return self._run(x, t, condition)
        buffers = {name: (id(buffer), buffer._version) for name, buffer in self.module.named_buffers()}
        output = self._watched(x, t, condition)
        changed = [name for name, buffer in self.module.named_buffers() if buffers.get(name) != (id(buffer), buffer._version)]
        if changed and self._trained == 1:  # the first call may have filled a cache
            raise ConfigError(
                f"model.factory: the forward pass of {self.name} changes its buffer {changed[0]}, which checkpoints leave out, so "
                "no run could be resumed; take it out of the forward pass"
            )
        self._trained += self.training
        return output

    def _watched(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """As `_run`. Raises ConfigError if that fails, returns something else, or draws random numbers."""
        before = _generator_states(x)
        try:
            output = self._run(x, t, condition)
        except (ConfigError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            call = "its own forward" if self._call is None else f"model.call on {self.name}"
            raise ConfigError(
                f"model: {call} raised {_one_line(error)}; it gets (x, t, condition) as docs/own-model.md says"
            ) from error
        expected = (x.shape[0], self._out_channels, *x.shape[2:])
        if not isinstance(output, Tensor) or output.shape != expected:
            found = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise ConfigError(f"model.call: {self.name} returned {found}, not a tensor of shape {expected} (B, C, h, w)")
        if any(not torch.equal(a, b) for a, b in zip(before, _generator_states(x), strict=True)):
            raise ConfigError(
                f"model.factory: the forward pass of {self.name} draws random numbers, so no run could be repeated or resumed; "
                "switch off dropout, and the model's own dropping of conditions (diffusion.condition_dropout does that)"
            )
        return output

    @property
    def name(self) -> str:
        """The class of the module."""
        return type(self.module).__name__

    def train(self, mode: bool = True) -> Self:
        """Also the module's own mode, which its children do not carry."""
        self.module.train(mode)
        self.training = mode
        return self

    def state_dict(self, *arguments: Any, **keywords: Any) -> Any:
        """The module's, with whatever its class does about it."""
        return self.module.state_dict(*arguments, **keywords)

    def load_state_dict(self, *arguments: Any, **keywords: Any) -> Any:
        """The module's, with whatever its class does about it."""
        return self.module.load_state_dict(*arguments, **keywords)

    def _run(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.module(x, t, condition) if self._call is None else self._call(self.module, x, t, condition)


def find(target: str, where: str) -> Callable[..., Any]:
    """The callable `package.module:name`, looked for in the working directory before installed packages, as `python -m` does.

    Raises ConfigError, which starts with `where`, if there is none or its module cannot be imported.
    """
    module_name, _, path = target.partition(":")
    found: Any = _import(module_name, where)
    for name in path.split("."):
        if not hasattr(found, name):
            raise ConfigError(f"{where}: {module_name} has no {path!r}")
        found = getattr(found, name)
    if not callable(found):
        raise ConfigError(f"{where}: {target} is a {type(found).__name__}, which cannot be called")
    return found


def _import(name: str, where: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and (name == missing or name.startswith(f"{missing}.")):
            raise ConfigError(f"{where}: no module {missing!r} in {here} or among the installed packages") from None
        raise ConfigError(f"{where}: importing {name} raised {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _unfit(module: nn.Module) -> Iterator[str]:
    """Why a run of the module would not be a function of its seed and its checkpoints, or its parameters have no roles."""
    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    if not trained:
        yield "no parameter requires a gradient"
    for name, parameter in trained:
        if parameter.dtype != torch.float32:
            yield f"{name} is {parameter.dtype}; weights are float32 here, and optimizer.precision says how products are computed"
    for name, child in module.named_modules():
        if is_parametrized(child) or any(isinstance(hook, _NORMED_WEIGHTS) for hook in child._forward_pre_hooks.values()):
            yield f"{name or 'the module'} computes a weight from others, whose roles are unknown; remove the parametrization"
        if (isinstance(child, _DropoutNd) and child.p > 0) or (isinstance(child, nn.MultiheadAttention) and child.dropout > 0):
            yield f"{name or 'the module'} drops activations at random, outside of the run's seed; set its dropout to 0"
        if isinstance(child, _NormBase) and child.track_running_stats:
            yield f"{name or 'the module'} keeps statistics of past batches, which checkpoints leave out; use another norm"


def _generator_states(x: Tensor) -> list[Tensor]:
    return [torch.get_rng_state()] + ([torch.cuda.get_rng_state(x.device)] if x.is_cuda else [])
