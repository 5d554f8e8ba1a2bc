"""Score a run's samples, or any images: generation continues where it was stopped, in memory that does not grow."""

import hashlib
from functools import partial
from typing import Any

import torch
from torch import Tensor

from image_pipeline.commands.checkpoint_sweep import sweep
from image_pipeline.commands.flags import Evaluate
from image_pipeline.commands.trained_model import check_guidance, merged
from image_pipeline.data import ImageDataset, ImageIdentity, load_images, to_bytes
from image_pipeline.data.image_files import check_shape, read_images
from image_pipeline.data.stored_images import StoredImages, generated
from image_pipeline.metrics import (
    METRICS,
    FeatureNet,
    FeatureStatistics,
    check_request,
    dataset_statistics,
    load_statistics,
    open_feature_net,
    save_statistics,
    score_images,
    try_net,
)
from image_pipeline.model import ImageModel
from image_pipeline.models.loading import load_model, open_own_data
from image_pipeline.models.sampling import draw_chunk
from image_pipeline.viz import save_grid
from pcdiff.errors import InputError, Lines
from pcdiff.evaluation.job import Places, finish
from pcdiff.evaluation.report import source_commit
from pcdiff.runtime import distributed, run_folder
from pcdiff.runtime.devices import prepare, resolve_device
from pcdiff.runtime.file_lock import sole_writer
from pcdiff.runtime.progress import Progress, bar
from pcdiff.runtime.resumable import ResumableMap
from pcdiff.runtime.run_folder import write_json
from pcdiff.runtime.stopping import Stop, interruptible
from pcdiff.version import __version__

_MOST = 50_000  # samples of a published FID
_SHOWN = 100
# Images below which FID's bias is said aloud: the mean's error alone adds trace(covariance) / N for each set.
_FEW = 10_000


def evaluate(config: Evaluate) -> dict[str, Any] | None:
    """Score, print the scores, and write them where asked.

    Returns:
        The result, or None when a limit or a signal stopped the work.

    Raises:
        InputError: the flags contradict each other, a file or the run does not fit, or weights are missing.
    """
    _check(config)
    with (
        distributed.joined(),
        interruptible(config.max_minutes) as stop,
        run_folder.logging_to(config.out or config.run),
    ):
        if config.checkpoints is not None:
            return sweep(config, partial(_evaluate, stop=stop))
        return _evaluate(config, stop)


def _check(config: Evaluate) -> None:
    if (config.run is None) == (config.samples is None):
        raise InputError("give one of --run, to generate, and --samples, to score files")
    unknown = [name for name in config.metrics if name not in METRICS]
    if unknown or not config.metrics:
        raise InputError(f"--metrics must be of {', '.join(METRICS)}, got {unknown[0] if unknown else 'none'}")
    if config.samples is not None and config.reference is None and config.statistics is None:
        raise InputError("--samples needs --reference or --statistics to compare with")
    if config.samples is not None and any(value is not None for value in vars(config.sampling).values()):
        raise InputError("how images are drawn goes with --run; --samples are drawn already")
    if config.reference is not None and config.statistics is not None:
        raise InputError("give one of --reference and --statistics")
    if config.checkpoints is not None:
        for name, instead in (("output", "--out"), ("max_iters", "--max-minutes"), ("samples", "--run")):
            if getattr(config, name) is not None:
                flag = name.replace("_", "-")
                raise InputError(f"--{flag} does not go with --checkpoints; give {instead}")


def _evaluate(config: Evaluate, stop: Stop) -> dict[str, Any] | None:
    with stop.at_once():  # there is nothing to save yet
        device = prepare(resolve_device(config.device))
        net = open_feature_net(config.features, config.weights, device)
        model = None if config.run is None else load_model(config.run, config.checkpoint).to(device)
        reference = _reference(config, model)
        if isinstance(reference, ImageDataset) and reference.enlarged is not None:
            run_folder.log.warning("reference: %s", reference.enlarged)
        if config.save_statistics is not None:
            if not isinstance(reference, ImageDataset):
                raise InputError("--save-statistics needs a reference of images")
            with sole_writer(config.save_statistics if distributed.rank() == 0 else None):
                statistics = dataset_statistics(reference, net, config.batch_size, distributed.share_out)
                if distributed.rank() == 0:
                    save_statistics(config.save_statistics, statistics)
                    run_folder.log.info("statistics: %s", config.save_statistics)
    places = Places.asked_for(config, config.run)
    settings = _settings(config, net, reference)
    if model is None:
        return finish(
            config, places, settings, lambda work: _scored_files(config, net, reference, places, work), stop
        )
    count = config.num_samples or min(_MOST, _size(reference))
    drawn = merged(model.config.sampling, config.sampling)
    # hours before they would be asked
    if isinstance(reference, ImageDataset):
        check_shape(config.reference or "the run's data", reference.images.shape[1:], model.image_shape)
    check_request(reference, net, list(config.metrics))
    try_net(net, model.image_shape, count, list(config.metrics), config.batch_size)
    check_guidance(model, config.sampling)
    model.check_sampling(drawn)
    settings |= {
        "checkpoint": hashlib.sha256(model.file.read_bytes()).hexdigest(),
        "num_samples": count,
        "sampling": vars(drawn),
        "precision": config.precision,
    }

    def draw(k: int, progress: Progress) -> Tensor:
        first = k * config.batch_size
        images = draw_chunk(
            model,
            k,
            config.seed,
            size=config.batch_size,
            count=min(config.batch_size, count - first),
            settings=drawn,
            precision=config.precision,
            progress=progress,
        )
        return to_bytes(images, model.config.data.data_range)

    def job(work: ResumableMap) -> dict[str, Any]:
        folder = places.folder if places.folder is not None else places.results.parent
        samples = generated(folder / "samples.npy", (count, *model.image_shape), config, draw, work)
        facts = {
            "trained_on": model.metadata["dataset"],
            "checkpoint": model.file.name,
            "step": model.metadata.get("step"),
            "sampling": vars(drawn),
        }
        return _scored(config, net, samples, reference, places, facts, work)

    return finish(config, places, settings, job, stop)


def _reference(config: Evaluate, model: ImageModel | None) -> ImageDataset | FeatureStatistics:
    if config.statistics is not None:
        return load_statistics(config.statistics)
    if config.reference is None:
        return open_own_data(model, config.split, "--reference")
    if config.reference.suffix in (".npz", ".npy"):
        images = read_images(config.reference, None if model is None else model.image_shape)
        fingerprint = hashlib.sha256(images.numpy().tobytes()).hexdigest()[:16]
        identity = ImageIdentity(config.reference.name, tuple(images.shape[1:]), "none", "none", fingerprint)
        return ImageDataset(images, None, (), "all", identity)
    if model is None:
        return load_images(str(config.reference), config.split)
    data = model.config.data
    return load_images(
        str(config.reference), config.split, data.size, data.crop, data.filter, model.image_shape[0], "none"
    )


def _size(reference: ImageDataset | FeatureStatistics) -> int:
    count = reference.count if isinstance(reference, FeatureStatistics) else len(reference)
    return _MOST if count is None else count


def _settings(config: Evaluate, net: FeatureNet, reference: ImageDataset | FeatureStatistics) -> dict[str, Any]:
    """Return all that the result depends on, for the journal."""
    if isinstance(reference, FeatureStatistics):
        compared = hashlib.sha256(reference.mean.numpy().tobytes()).hexdigest()[:16]
    else:
        compared = [reference.identity.fingerprint, reference.split]
    return {
        "features": net.identity.to_dict(),
        "metrics": list(config.metrics),
        "reference": compared,
        "batch_size": config.batch_size,
        "kid_subset_size": config.kid_subset_size,
        "seed": config.seed,
    }


def _scored_files(
    config: Evaluate,
    net: FeatureNet,
    reference: ImageDataset | FeatureStatistics,
    places: Places,
    work: ResumableMap,
) -> dict[str, Any]:
    path = config.samples
    shape = tuple(reference.images.shape[1:]) if isinstance(reference, ImageDataset) else None
    if path.suffix == ".npy":
        images = StoredImages(path, shape)
    elif path.suffix == ".npz":
        images = read_images(path, shape)
    else:
        images = load_images(str(path), "all").images
    return _scored(config, net, images, reference, places, {"samples": str(path)}, work)


def _scored(
    config: Evaluate,
    net: FeatureNet,
    samples: Any,
    reference: ImageDataset | FeatureStatistics,
    places: Places,
    facts: dict[str, Any],
    work: ResumableMap,
) -> dict[str, Any]:
    """Score; the process that writes prints and saves the result.

    Raises:
        Stopped: `work` is to stop; the features so far are lost.
    """
    done, total = 0, len(samples) + (len(reference) if isinstance(reference, ImageDataset) else 0)
    with bar("features", "image") as progress:

        def moved(count: int) -> None:
            nonlocal done
            done += count
            progress(min(done, total), total)
            work.check()

        sizes = [len(samples)] + ([len(reference)] if isinstance(reference, ImageDataset) else [])
        scores = score_images(
            samples,
            reference,
            net,
            config.metrics,
            config.batch_size,
            kid_subset_size=min(config.kid_subset_size, *sizes),
            seed=config.seed,
            progress=moved,
            share_out=distributed.share_out,
        )
    result = {**scores.to_dict(), **facts, "seed": config.seed}
    result |= {"version": __version__, "commit": source_commit()}
    if distributed.rank() > 0:
        return result
    run_folder.log.info("%s", Lines(table(result)))
    if places.results is not None:
        write_json(places.results, result)
        shown = samples[torch.arange(min(_SHOWN, len(samples)))]
        save_grid(places.beside(".png"), shown)
        run_folder.log.info("results: %s, %s", places.results, places.beside(".png"))
    return result


def table(result: dict[str, Any]) -> str:
    """Return scores in lines for people."""
    net = result["feature_net"]["name"]
    lines = [f"{result['num_samples']} images against {result['num_reference']}, features of {net}"]
    if "fid" in result:
        lines.append(f"fid: {result['fid']:.4f}")
        count = min(n for n in (result["num_samples"], result["num_reference"]) if n is not None)
        if count < _FEW:
            lines.append(
                f"fid of {count:,} images is biased upwards even for a perfect model, more the fewer they are: "
                "compare it only with FIDs of as many images (published: 50,000), or take kid, which has no bias"
            )
    for name in ("kid", "inception_score", "prc"):
        numbers = [f"{k} {v:.5g}" for k, v in result.get(name, {}).items() if isinstance(v, float)]
        if numbers:
            lines.append(f"{name}: {', '.join(numbers)}")
    if not net.startswith("inception"):
        lines.append(f"features of {net} are a STAND-IN: these scores compare with nothing published")
    return "\n".join(lines)
