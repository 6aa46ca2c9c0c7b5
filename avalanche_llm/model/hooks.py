"""The only hooks: one scales what a module returns, one reads it, one reads what a module is given. All always come off."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

OnInput = Callable[[int, torch.Tensor], None]
OnOutput = Callable[[int, torch.Tensor], None]


class _Hooks:
    """Registers on entry and removes on exit, also after an exception."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    def _register(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> "_Hooks":
        self._register()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


class ScaleOutput(_Hooks):
    """Multiplies the output of modules[i] by gains[i]. A gain of exactly 1 hooks nothing, so g = 1 is the plain model.

    Where a module returns a tuple (attention does), its first element is scaled.
    """

    def __init__(self, modules: Sequence[nn.Module], gains: Sequence[float]) -> None:
        super().__init__()
        self._pairs = list(zip(modules, gains, strict=True))

    def _register(self) -> None:
        for module, gain in self._pairs:
            if gain != 1.0:
                self._handles.append(module.register_forward_hook(_scaler(gain)))


class ReadInput(_Hooks):
    """Calls on_input(i, tensor) with the first argument of modules[i] on every forward pass."""

    def __init__(self, modules: Sequence[nn.Module], on_input: OnInput) -> None:
        super().__init__()
        self._modules = modules
        self._on_input = on_input

    def _register(self) -> None:
        for index, module in enumerate(self._modules):
            self._handles.append(module.register_forward_pre_hook(_reader(index, self._on_input)))


class ReadOutput(_Hooks):
    """Calls on_output(i, tensor) with what modules[i] returns on every forward pass; of a tuple, with its first element."""

    def __init__(self, modules: Sequence[nn.Module], on_output: OnOutput) -> None:
        super().__init__()
        self._modules = modules
        self._on_output = on_output

    def _register(self) -> None:
        for index, module in enumerate(self._modules):
            self._handles.append(module.register_forward_hook(_output_reader(index, self._on_output)))


def _scaler(gain: float) -> Callable[[nn.Module, Any, Any], Any]:
    def scale(module: nn.Module, arguments: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] * gain, *output[1:])
        return output * gain

    return scale


def _reader(index: int, on_input: OnInput) -> Callable[[nn.Module, Any], None]:
    def read(module: nn.Module, arguments: Any) -> None:
        on_input(index, arguments[0])

    return read


def _output_reader(index: int, on_output: OnOutput) -> Callable[[nn.Module, Any, Any], None]:
    def read(module: nn.Module, arguments: Any, output: Any) -> None:
        on_output(index, output[0] if isinstance(output, tuple) else output)

    return read
