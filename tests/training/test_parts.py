"""A batch in parts: the same loss and gradient as in one."""

import pytest
import torch
from small_models import small_model
from small_training import batches, last, trainer

from pcdiff.errors import InputError
from pcdiff.training.micro_batches import MicroBatches

SMALL = {"latent_dim": 4, "encoder_widths": (8,), "encoder_head_widths": (8,), "net_widths": (8,), "num_steps": 5}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_parts_make_the_batch(accumulate, tmp_path):
    parts = trainer(tmp_path, accumulate=accumulate).parts
    rows = torch.cat([batches(3, rows) for rows in parts.rows])
    assert torch.equal(rows, batches(3, slice(None)))


def test_accumulated_training_is_that_of_whole_batches(tmp_path):
    for accumulate in (1, 2):
        trainer(tmp_path / str(accumulate), accumulate=accumulate, max_iters=5, ema_decay=0.5).fit()
    whole, parts = last(tmp_path / "1")[0], last(tmp_path / "2")[0]
    for name in ("model.slope", "ema.slope", "optimizer.0.exp_avg"):
        torch.testing.assert_close(whole[name], parts[name])


@pytest.mark.parametrize("kind", ["flow", "gaussian", "autoencoder", "cnf"])
def test_a_models_draws_are_cut_with_its_clouds(kind):
    config = dict(
        kind="flow" if kind == "cnf" else kind,
        flow="cnf" if kind == "cnf" else "coupling",
        flow_depth=2,
        flow_hidden_dim=8,
        cnf_widths=(8,),
        **SMALL,
    )
    torch.manual_seed(0)
    model = small_model(config, times_per_cloud=2)
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm1d):
            norm.eval()  # takes the statistics of what it is given, whatever stands beside it
    x = torch.randn(8, 6, 3, generator=torch.Generator().manual_seed(1))
    draws = model.draw(x[:4], 8, torch.Generator().manual_seed(2))
    whole = model.loss_terms(x, **draws)
    parts = MicroBatches(model, 8, 2, torch.device("cpu"))
    terms = [parts.terms(x[rows], draws, k) for k, rows in enumerate(parts.rows)]
    for name, value in whole.items():
        torch.testing.assert_close(sum(part[name] for part in terms) / 2, value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("batch_size", "accumulate"), [(4, 3), (4, 4), (3, 2)])
def test_batches_that_cannot_be_cut_are_refused(batch_size, accumulate, tmp_path):
    with pytest.raises(InputError, match=rf"batch_size must be a multiple .* = 1 x {accumulate}.*got {batch_size}"):
        trainer(tmp_path, batch_size=batch_size, accumulate=accumulate)
