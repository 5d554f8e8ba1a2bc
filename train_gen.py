"""Train a generator of 3D shapes, then sample and score it (Luo & Hu, CVPR 2021).

python train_gen.py --categories airplane # the paper's recipe (a GPU's work)

python train_gen.py --categories airplane --preset quick # minutes on two CPU cores

python train_gen.py --resume runs/NAME # go on exactly where a run stopped

torchrun --nproc-per-node K train_gen.py --out runs/NAME ... # share every batch among K processes
"""

import time

from data import Batches, announce, load_clouds
from pcdiff import cli, distributed, runs, sessions
from pcdiff.config import RunConfig
from pcdiff.devices import resolve_device
from pcdiff.endings import score_generator
from pcdiff.errors import InputError
from pcdiff.planning import planned
from pcdiff.presets import GENERATOR_PRESETS
from pcdiff.rehearsal import rehearse
from pcdiff.runs import NOWHERE
from pcdiff.validation import GeneratorValidation


def main() -> None:
    """Read the flags; train, with the other processes of the job if there are any."""
    config = cli.parse_run(GENERATOR_PRESETS, description=__doc__)
    if config.model.kind == "autoencoder":
        raise InputError("--kind must be flow or gaussian here; train_ae.py trains autoencoders")
    with distributed.joined():
        train(config)


def train(config: RunConfig) -> None:
    """Load, train, sample, score on the validation split."""
    started = time.monotonic()
    data, device = config.data, resolve_device(config.device)
    clouds, val = (load_clouds(data.dataset_path, data.categories, s, data.normalisation) for s in ("train", "val"))
    batches = Batches(clouds.points, config.train.batch_size, data.num_points, config.seed, device, data.rotate)
    reference, identity = val.points[: config.train.val_clouds], clouds.identity.to_dict()
    points = min(config.train.val_points, reference.shape[1])
    validation = GeneratorValidation(reference, points, config.seed, flexibility=config.flexibility)
    parts = batches, identity, device, validation, clouds.statistics
    if config.dry_run:
        rehearse(planned(config, NOWHERE, started, len(reference), points, *parts), *parts)
        return
    config, folder = runs.open_run(config, "gen")
    with runs.logging_to(folder):
        runs.log.info(announce(clouds.identity))
        config = planned(config, folder, started, len(reference), points, *parts)
        trainer = sessions.make_trainer(config, folder, *parts)
        outcome = sessions.fit(config, trainer)
        if outcome.reason != "interrupted":
            made = validation.made if trainer.validated == outcome.step else None
            score_generator(
                config, folder, trainer.sampling_model, outcome, identity, reference, points, made, clouds.points
            )


if __name__ == "__main__":
    cli.run(main)
