"""Torch's first square root, made in one thread; what computes with tensors imports this module.

Torch's square roots come from a library that sets itself up at the first call. When two threads make that call
together, one of them may compute with errors of up to 3e-4 (1 in 14 processes, torch 2.13): one makes it here.
"""

import torch

torch.ones(1).sqrt()
torch.ones(1, dtype=torch.float64).sqrt()
