"""The native ops: loading them, and the reference in their place where they are missing."""

import os
import warnings
from importlib.util import find_spec

import torch
from torch.func import debug_unwrap

from pcdiff.errors import InputError
from pcdiff.ops import _check

# Of the schemas that this package calls; `interface_version` and `cuda_interface_version` tell a library's own.
_INTERFACE = 3
_HOW_TO_BUILD = "build them with `PCDIFF_BUILD={} pip install --no-build-isolation -e .`"


def _load_library(name: str, what: str, build: str, version: str) -> str | None:
    """Load an extension, whose op `version` tells its interface; return None, or why there is none."""
    how = _HOW_TO_BUILD.format(build)
    # The library holds only torch ops, no Python module, so it is located like one but loaded by torch.
    spec = find_spec(f"pcdiff.ops.{name}")
    if spec is None or spec.origin is None:
        return f"{what} are not built; {how}"
    try:
        torch.ops.load_library(spec.origin)
    except (OSError, RuntimeError) as error:
        return f"{what} at {spec.origin} do not load ({str(error).splitlines()[0]}); re{how}"
    number = getattr(torch.ops.pcdiff, version, None)
    if number is None or number() != _INTERFACE:
        return f"{what} at {spec.origin} are of another version than this package; re{how}"
    return None


def _load() -> str | None:
    """Load the CPU extension, which also declares every op; return None, or why there is none."""
    wanted = os.environ.get("PCDIFF_NATIVE", "1")
    if wanted not in ("0", "1"):
        raise InputError(f"PCDIFF_NATIVE must be 0 (hide the native ops) or 1, got {wanted}")
    if wanted == "0":
        return "PCDIFF_NATIVE=0 hides the native ops; unset it to use them"
    return _load_library("_C", "the native ops", "cpu", "interface_version")


def _load_cuda() -> str | None:
    """Load the CUDA extension; return None, or why there is none."""
    if _missing is not None:
        return _missing
    if torch.version.cuda is None:
        return f"this torch ({torch.__version__}) is built without CUDA"
    return _load_library("_cuda", "the CUDA kernels", "cuda", "cuda_interface_version")


_ENV = "PCDIFF_CPU_CAPABILITY"
_missing = _load()
_missing_cuda = _load_cuda()
_warned: set[str] = set()


def backend(device: torch.device | str = "cpu") -> str:
    """Return what runs the ops for tensors on `device`: `"cpu"` or `"cuda"` (kernels), or `"reference"` (PyTorch).

    Example:
        >>> pcdiff.ops.backend("meta")
        'reference'
    """
    kind = torch.device(device).type
    missing = {"cpu": _missing, "cuda": _missing_cuda}.get(kind, "no kernels")
    return kind if missing is None else "reference"


def has_kernels(device: torch.device | str) -> bool:
    """Return whether native kernels run the ops for tensors on `device`."""
    return backend(device) != "reference"


def cpu_capabilities() -> tuple[str, ...]:
    """Return the values of `PCDIFF_CPU_CAPABILITY` that this machine can run, slowest first; empty if not built."""
    if _missing is not None:
        return ()
    return ("baseline", "avx2", "avx512")[: torch.ops.pcdiff.cpu_capability() + 1]


def _warn_once(device: torch.device) -> None:
    """Announce the fallback, once for each kind of device."""
    if device.type in _warned:
        return
    _warned.add(device.type)
    if device.type == "cpu":
        message = f"pcdiff.ops runs on its slow PyTorch reference: {_missing}"
    elif device.type == "cuda":
        message = f"pcdiff.ops runs CUDA tensors on its slow PyTorch reference: {_missing_cuda}"
    else:
        message = f"pcdiff.ops has no kernels for {device.type} tensors and runs them on its PyTorch reference"
    warnings.warn(message, RuntimeWarning, stacklevel=5)


def _blame(error: Exception, **tensors: torch.Tensor) -> Exception:
    """Return a native error as an `InputError` where the user is at fault, else as it came."""
    try:
        _check.finite(**tensors)
    except InputError as better:
        return better
    text = str(error).splitlines()[0]
    return InputError(text[text.index(_ENV) :]) if f"{_ENV} must" in text else error


def prepare_reference(**tensors: torch.Tensor) -> None:
    """Announce the fallback and check its input; the native kernels check theirs themselves."""
    # Inside a compiled graph neither is possible: a warning is Python, and asking for a value breaks the graph.
    if not torch.compiler.is_compiling():
        _warn_once(next(iter(tensors.values())).device)
        check_finite(**tensors)


def check_finite(**tensors: torch.Tensor) -> None:
    """Refuse NaN and infinity, as the native kernels do of theirs."""
    _check.finite(**{name: debug_unwrap(tensor) for name, tensor in tensors.items()})


def _without_padding(op, arguments: tuple, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors with 0 in the rows at or past the lengths, if the op was given lengths for them."""
    names = [argument.name for argument in op._schema.arguments]
    given = dict(zip(names, (*tensors.values(), *arguments), strict=True))
    out = {}
    for name, tensor in tensors.items():
        lengths = given.get(f"{name}_lengths", given.get("lengths"))
        if lengths is not None:
            rows = torch.arange(tensor.shape[1], device=tensor.device)
            tensor = tensor.where((rows < lengths[:, None])[..., None], 0)
        out[name] = tensor
    return out


def _check_on_device(op, arguments: tuple, tensors: dict[str, torch.Tensor]) -> None:
    """Check the input of a CUDA kernel, which cannot refuse it; one wait for the device in the good case.

    Raises:
        InputError: a coordinate is NaN or infinite.
    """
    # In a graph no value can be asked for; the kernels then let NaN through to the result.
    if _check.out_of_reach(next(iter(tensors.values())).device):
        return
    if not bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors.values()]).all()):
        _check.finite(**_without_padding(op, arguments, tensors))


def call(name: str, *arguments, **tensors: torch.Tensor):
    """Run the native op `pcdiff::name` on the tensors, in order, then the other arguments.

    Raises:
        InputError: the op refused its input, by its own word or because a coordinate is NaN or infinite.
    """
    op = getattr(torch.ops.pcdiff, name).default
    # Within vmap no value can be asked for; the rule of `foldable` calls again, with tensors that have values.
    if torch.compiler.is_compiling() or any(debug_unwrap(t).ndim > t.ndim for t in tensors.values()):
        return op(*tensors.values(), *arguments)
    if next(iter(tensors.values())).device.type == "cuda":
        _check_on_device(op, arguments, tensors)
    try:
        return op(*tensors.values(), *arguments)
    except (RuntimeError, ValueError) as error:
        raise _blame(error, **tensors) from None


def fake(name: str):
    """Return a decorator that registers shapes and dtypes of the native op `pcdiff::name`, if it is there."""
    return torch.library.register_fake(f"pcdiff::{name}") if _missing is None else lambda function: function


def foldable(name: str, clouds: tuple[str, ...] = ("x", "y")) -> None:
    """Register how `torch.vmap` runs the native op `pcdiff::name`, if it is there: mapped clouds join the batch.

    The op's first arguments must be `clouds`, and the batch be the first dimension of all it takes and returns.
    """
    if _missing is not None:
        return

    def rule(info, in_dims, *arguments):
        def folded(value, dim):
            if not isinstance(value, torch.Tensor):
                return value
            whole = value.expand(info.batch_size, *value.shape) if dim is None else value.movedim(dim, 0)
            return whole.flatten(0, 1)

        given = [folded(*pair) for pair in zip(arguments, in_dims, strict=True)]
        found = call(name, *given[len(clouds) :], **dict(zip(clouds, given, strict=False)))
        if isinstance(found, torch.Tensor):
            return found.unflatten(0, (info.batch_size, -1)), 0
        return tuple(out.unflatten(0, (info.batch_size, -1)) for out in found), (0,) * len(found)

    torch.library.register_vmap(f"pcdiff::{name}", rule)
