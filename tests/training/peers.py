"""What two processes of one job compute together, for test_peers.py."""

import torch
from small_models import small_model
from torch import nn

from pcdiff.errors import InputError
from pcdiff.models.sampling import reconstruct_all, sample_all
from pcdiff.runtime import distributed
from pcdiff.runtime.sync_batchnorm import synchronize

# Of this process (the row) and step (the column).
VOTES = [[0, 1, 0, 0, 3, 0], [0, 0, 2, 0, 1, 0]]


def join_two(nursery, folder):
    """Run `find` in two processes; return what each of them found."""
    files = [folder / f"{rank}.pt" for rank in range(2)]
    job = nursery.start_job(folder / "errors", "peers:find", *[[file] for file in files])
    for rank, pid in enumerate(job):
        assert nursery.wait(pid) == 0, (folder / f"errors.{rank}").read_text()
    return [torch.load(file) for file in files]


def normalized(rows, synced):
    """Train a small net with batch normalization for two steps on these rows of a batch; return all it made."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7, momentum=0.3), nn.Tanh(), nn.Linear(7, 2)).double()
    nn.init.normal_(net[1].weight)
    if synced:
        net = synchronize(net, torch.device("cpu"))
    made = {}
    for step in range(2):
        x, weights = (torch.randn(12, n, dtype=torch.float64, generator=_seeded(step)) for n in (5, 2))
        x = (
            x[rows] * (1 + torch.arange(5)) + 100
        ).requires_grad_()  # far from 0: sums of squares would lose digits
        y = net(x)
        (y * weights[rows]).sum().backward()
        made |= {f"y{step}": y.detach(), f"dx{step}": x.grad}
    made |= {f"d{name}": parameter.grad for name, parameter in net.named_parameters()}
    return made | net.eval().state_dict() | {"evaluated": net(x).detach()}


def clouds():
    """Sample and reconstruct more clouds than one chunk holds."""
    torch.manual_seed(0)
    small = {"encoder_widths": (8,), "encoder_head_widths": (8,), "net_widths": (8,), "num_steps": 3}
    model = small_model(dict(latent_dim=4, flow_depth=2, flow_hidden_dim=8, **small)).eval()
    given = torch.randn(70, 16, 3, generator=_seeded(9))
    return {"sampled": sample_all(model, 70, 16, seed=3), "again": reconstruct_all(model, given, 16, seed=3)}


def refused(mine):
    """Return what this process raises where it, or the other one, is refused."""
    try:
        with distributed.refused_together():
            if mine:
                raise InputError(mine)
    except InputError as error:
        return str(error)
    return None


def agreed(votes):
    """Return what is heard at each step."""
    together = distributed.Agreement()
    heard = [together(vote) for vote in votes]
    together.close()
    return heard


def _seeded(seed):
    return torch.Generator().manual_seed(seed)


def find(file):
    """Be one of the two."""
    with distributed.joined():
        rank = distributed.rank()
        found = {
            "normalized": normalized(slice(6 * rank, 6 * rank + 6), synced=True),
            "clouds": clouds(),
            "refused": [refused(text) for text in (None, ["", "of one"][rank], ["of the first", "of both"][rank])],
            "agreed": agreed(VOTES[rank]),
            "mean": distributed.mean(torch.tensor([1.0, 10.0]) * (rank + 1)),
            "gathered": distributed.gather(f"from {rank}"),
            "broadcast": distributed.broadcast(f"from {rank}"),
        }
    torch.save(found, file)
