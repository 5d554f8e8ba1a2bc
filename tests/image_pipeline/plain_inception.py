"""FID's Inception written out once more, straight from the published description, as an oracle.

Padding is given for every convolution; nothing is shared with the implementation but the names of the weights.
"""

import torch
from torch.nn import functional


def features(weights, x):
    """Return the 2,048 features of normalized images `(B, 3, 299, 299)`."""

    def unit(name, x, stride=1, padding=0):
        x = functional.conv2d(x, weights[f"{name}.conv.weight"], stride=stride, padding=padding)
        names = ("running_mean", "running_var", "weight", "bias")
        return functional.relu(functional.batch_norm(x, *(weights[f"{name}.bn.{n}"] for n in names), eps=1e-3))

    def mean_inside(x):
        ones = torch.ones_like(x[:1, :1])
        total = functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1)), 3, stride=1) * 9
        return total / (functional.avg_pool2d(functional.pad(ones, (1, 1, 1, 1)), 3, stride=1) * 9)

    def a(n, x):
        return torch.cat(
            [
                unit(f"{n}.branch1x1", x),
                unit(f"{n}.branch5x5_2", unit(f"{n}.branch5x5_1", x), padding=2),
                unit(
                    f"{n}.branch3x3dbl_3",
                    unit(f"{n}.branch3x3dbl_2", unit(f"{n}.branch3x3dbl_1", x), padding=1),
                    padding=1,
                ),
                unit(f"{n}.branch_pool", mean_inside(x)),
            ],
            1,
        )

    def b(n, x):
        double = unit(f"{n}.branch3x3dbl_2", unit(f"{n}.branch3x3dbl_1", x), padding=1)
        return torch.cat(
            [
                unit(f"{n}.branch3x3", x, stride=2),
                unit(f"{n}.branch3x3dbl_3", double, stride=2),
                functional.max_pool2d(x, 3, 2),
            ],
            1,
        )

    def c(n, x):
        one = unit(f"{n}.branch7x7_2", unit(f"{n}.branch7x7_1", x), padding=(0, 3))
        one = unit(f"{n}.branch7x7_3", one, padding=(3, 0))
        two = unit(f"{n}.branch7x7dbl_1", x)
        for i, padding in ((2, (3, 0)), (3, (0, 3)), (4, (3, 0)), (5, (0, 3))):
            two = unit(f"{n}.branch7x7dbl_{i}", two, padding=padding)
        return torch.cat([unit(f"{n}.branch1x1", x), one, two, unit(f"{n}.branch_pool", mean_inside(x))], 1)

    def d(n, x):
        two = unit(f"{n}.branch7x7x3_2", unit(f"{n}.branch7x7x3_1", x), padding=(0, 3))
        two = unit(f"{n}.branch7x7x3_3", two, padding=(3, 0))
        return torch.cat(
            [
                unit(f"{n}.branch3x3_2", unit(f"{n}.branch3x3_1", x), stride=2),
                unit(f"{n}.branch7x7x3_4", two, stride=2),
                functional.max_pool2d(x, 3, 2),
            ],
            1,
        )

    def e(n, x, pooled):
        one = unit(f"{n}.branch3x3_1", x)
        two = unit(f"{n}.branch3x3dbl_2", unit(f"{n}.branch3x3dbl_1", x), padding=1)
        return torch.cat(
            [
                unit(f"{n}.branch1x1", x),
                unit(f"{n}.branch3x3_2a", one, padding=(0, 1)),
                unit(f"{n}.branch3x3_2b", one, padding=(1, 0)),
                unit(f"{n}.branch3x3dbl_3a", two, padding=(0, 1)),
                unit(f"{n}.branch3x3dbl_3b", two, padding=(1, 0)),
                unit(f"{n}.branch_pool", pooled),
            ],
            1,
        )

    x = unit("Conv2d_1a_3x3", x, stride=2)
    x = unit("Conv2d_2b_3x3", unit("Conv2d_2a_3x3", x), padding=1)
    x = unit("Conv2d_4a_3x3", unit("Conv2d_3b_1x1", functional.max_pool2d(x, 3, 2)))
    x = functional.max_pool2d(x, 3, 2)
    for block, names in ((a, "5b 5c 5d"), (b, "6a"), (c, "6b 6c 6d 6e"), (d, "7a")):
        for name in names.split():
            x = block(f"Mixed_{name}", x)
    x = e("Mixed_7b", x, mean_inside(x))
    x = e("Mixed_7c", x, functional.max_pool2d(x, 3, 1, 1))
    return x.flatten(2).mean(dim=2)
