"""Open a model from a run or a checkpoint, and the data that it was trained on."""

from pathlib import Path

from image_pipeline.configs import DataConfig, ImageRunConfig, SamplingConfig, from_json
from image_pipeline.data import RANGES, ImageDataset
from image_pipeline.data.splits import open_data
from image_pipeline.interop import Imported, native
from image_pipeline.interop.imported import is_shape
from image_pipeline.model import ImageModel
from image_pipeline.nets import plain_config
from image_pipeline.nets.sigma_label import SigmaLabel
from pcdiff.diffusion import EDMProcess, Process
from pcdiff.errors import InputError, UnknownName
from pcdiff.runtime.memory_limit import built_for
from pcdiff.training import checkpoint


def open_own_data(model: ImageModel, split: str, instead: str) -> ImageDataset:
    """Load a split of the data that a model was trained on.

    Args:
        model: of `load_model`.
        split: train, test or all.
        instead: the flag that names other images, for the message.

    Raises:
        InputError: the data are unknown, or others lie in their place.
    """
    known = model.metadata["dataset"].get("fingerprint")
    if known is None:
        raise InputError(f"{model.file}: no record of what it was trained on; give {instead}")
    dataset = open_data(model.config.data, split)
    if dataset.identity.fingerprint != known:
        place = model.config.data.dataset_path
        raise InputError(f"{model.file}: trained on other data than lie at {place}; give {instead}")
    return dataset


def load_model(path: Path, which: str = "auto", ema: bool = True) -> ImageModel:
    """Rebuild a trained image model from a run's folder or a checkpoint file.

    Args:
        path: a run's folder, one of its `checkpoints/*.safetensors`, or what `convert` wrote.
        which: in a run's folder: `best`, `last`, or `auto` (best where there is one).
        ema: take the moving average of the weights where the checkpoint has one.

    Returns:
        The model in evaluation mode, on the CPU; `model.metadata` holds the step, data set and scores, and
        `model.file` the checkpoint's path.

    Raises:
        InputError: nothing there, a damaged file, a point clouds' checkpoint, or weights that do not fit.

    Example:
        >>> images = load_model(Path("runs/digits")).sample(4)
    """
    file = checkpoint.locate(Path(path), which)
    tensors, metadata = checkpoint.read(file, ("model.", "ema."))
    if metadata.get("kind") == native.KIND:
        return of_imported(native.load(file), file)
    if metadata.get("kind") == "image classifier":
        raise InputError(f"{file}: is a classifier of train-classifier; it guides a model by --classifier")
    prefix = "ema." if ema and any(name.startswith("ema.") for name in tensors) else "model."
    config = from_json(metadata.get("config"), str(file))
    checkpoint.check_facts(metadata, str(file))
    shape = (metadata.get("dataset") or {}).get("shape")
    if not isinstance(shape, list) or len(shape) != 3 or not is_shape(tuple(shape)):
        raise InputError(f"{file}: damaged: it has no shape of its images; use another checkpoint")
    try:
        model = built_for(checkpoint.of_prefix(tensors, prefix), lambda: ImageModel(config, shape))
    except InputError as error:
        raise InputError(f"{file}: its config is damaged: {error}") from None
    checkpoint.load_weights(model, tensors, prefix, str(file))
    model.metadata, model.file = metadata, file
    return model.eval()


def of_imported(found: Imported, file: Path) -> ImageModel:
    """Make other people's denoiser a model of ours, with a sampler that suits its process.

    Raises:
        InputError: it is of no images, or has no size.
    """
    if found.image_shape is None or None in found.image_shape:
        raise InputError(f"{file}: has no size of its images; convert it again with --size")
    names = {value: key for key, value in RANGES.items()}
    if found.data_range not in names:
        raise UnknownName(f"{file}: its images' range", found.data_range, names)
    process, net = found.denoiser.process, found.denoiser.net
    inner = net.net if isinstance(net, SigmaLabel) else net
    config = ImageRunConfig(
        preset=found.name,
        net=plain_config(inner.config)["name"],
        model=inner.config,
        data=DataConfig(data_range=names[found.data_range]),
        sampling=_suited(process),
    )
    model = ImageModel(config, found.image_shape, found.denoiser)
    model.metadata = {"step": None, "dataset": {"name": f"unknown, of {found.name}", "fingerprint": None}}
    model.file = file
    return model.eval()


def _suited(process: Process) -> SamplingConfig:
    if process.num_steps is not None and not process.exploding:
        return SamplingConfig(sampler="ancestral")
    if isinstance(process, EDMProcess):
        return SamplingConfig(sampler="heun", num_steps=18)
    if process.exploding:
        return SamplingConfig(sampler="reverse_diffusion", corrector="langevin", snr=0.16)
    return SamplingConfig(sampler="euler_maruyama")
