"""Configs in a run's folder: what the scripts read back."""

from pathlib import Path

from pcdiff.config.evaluate import EvaluateConfig
from pcdiff.config.run import RunConfig, run_from_dict
from pcdiff.errors import InputError
from pcdiff.runtime.dataclass_json import from_dict, to_json
from pcdiff.runtime.invocation import command_line
from pcdiff.runtime.json_files import read_json
from pcdiff.runtime.paths import is_file

_SETTINGS = "evaluation.json"


def read_config(folder: Path) -> RunConfig:
    """Read a run's resolved config.

    Raises:
        InputError: the folder is not a run, or its config is damaged.
    """
    path = folder / "config.json"
    if not is_file(path):
        raise InputError(
            f"{folder}: not a run's folder (no config.json); expected what {command_line('train-gen')} --out made"
        )
    return run_from_dict(read_json(path), str(path))


def write_settings(folder: Path, config: EvaluateConfig) -> None:
    """Write an evaluation's resolved config, for `--resume`."""
    from pcdiff.runtime.run_folder import write_text  # with torch, which reading needs not

    write_text(folder / _SETTINGS, to_json(config))


def read_settings(folder: Path) -> EvaluateConfig | None:
    """Read the resolved config of the evaluation that writes to this folder; None where there is none.

    Raises:
        InputError: the config is damaged.
    """
    path = folder / _SETTINGS
    return from_dict(EvaluateConfig, read_json(path), str(path)) if is_file(path) else None


def remove_settings(folder: Path) -> None:
    """Remove the config that `--resume` reads: there is nothing to resume."""
    (folder / _SETTINGS).unlink(missing_ok=True)
