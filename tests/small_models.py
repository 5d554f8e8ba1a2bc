"""Small models for tests, by a few sizes in short words."""

from pcdiff.config import RunConfig, run_from_dict
from pcdiff.models import build_model


def small_run(sizes, **objective):
    """Return a run's config of a model of these sizes.

    The words are those of configs of version 0.1, so that each of these tests reads one of them, too.
    """
    sizes = {name: list(value) if isinstance(value, tuple) else value for name, value in sizes.items()}
    values = {"model": {"num_steps": 100} | sizes, "objective": objective}
    config = run_from_dict(values, "a small run")
    assert isinstance(config, RunConfig)
    return config


def small_model(sizes, **objective):
    """Return a model of these sizes; see `small_run`."""
    return build_model(small_run(sizes, **objective))
