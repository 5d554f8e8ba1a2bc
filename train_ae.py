"""Train an autoencoder of 3D shapes, then reconstruct and score validation clouds (Luo & Hu, CVPR 2021).

python train_ae.py # the paper's recipe (a GPU's work)

python train_ae.py --categories chair --preset quick # minutes on two CPU cores

python train_ae.py --resume runs/NAME # go on exactly where a run stopped
"""

import torch

from data import Batches, announce, load_clouds
from pcdiff import cli, runs, sessions
from pcdiff.errors import InputError
from pcdiff.metrics import reconstruction_scores
from pcdiff.presets import AUTOENCODER_PRESETS
from pcdiff.progress import bar
from pcdiff.sampling import reconstruct
from pcdiff.training import resolve_device
from pcdiff.validation import AutoencoderValidation


def main() -> None:
    """Load, train, reconstruct, score on the validation split."""
    config = cli.parse_run(AUTOENCODER_PRESETS, description=__doc__)
    if config.model.kind != "autoencoder":
        raise InputError(
            f"--kind must be autoencoder here, got {config.model.kind}; train_gen.py trains generators"
        )
    data, device = config.data, resolve_device(config.device)
    train, val = (load_clouds(data.dataset_path, data.categories, s, data.normalisation) for s in ("train", "val"))
    batches = Batches(train.points, config.train.batch_size, data.num_points, config.seed, device, data.rotate)
    config, folder = runs.open_run(config, "ae")
    with runs.logging_to(folder):
        runs.log.info(announce(train.identity))
        identity = train.identity.to_dict()
        given = val.points[: config.train.val_clouds, : config.train.val_points]
        validation = AutoencoderValidation(given, config.seed, config.flexibility)
        trainer = sessions.make_trainer(config, folder, batches, identity, device, validation, train.statistics)
        outcome = sessions.fit(config, trainer)
        if outcome.reason == "interrupted":
            return
        model = trainer.sampling_model.eval()
        with bar("reconstructing", "step") as progress:
            chain = {"flexibility": config.flexibility, "progress": progress}
            made = torch.cat(list(reconstruct(model, given, given.shape[1], config.seed, **chain)))
        pairs = torch.stack([given, made], dim=1).flatten(0, 1)[: 2 * config.num_samples]
        title = f"input and reconstruction in turn: {identity['name']}, step {outcome.step}"
        sessions.keep_clouds(folder, "samples", made, title, pictured=pairs)
        there = {"reconstructions": made, "reference": given}
        indices = range(len(given))
        scores = reconstruction_scores(**{k: val.denormalise(v, indices) for k, v in there.items()}, emd=False)
        training = sessions.training_summary(config, outcome)
        sessions.keep_results(folder, {**scores, "dataset": identity, "split": "val", "training": training})
        runs.log.info("scores on val: %s", scores["scores"])
        runs.log.info("score the test split with: python evaluate.py --run %s", folder)


if __name__ == "__main__":
    cli.run(main)
