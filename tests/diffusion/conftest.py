"""Every test of the core runs on clouds and on images alike."""

import pytest


@pytest.fixture(params=[(5, 3), (2, 3, 4)], ids=["cloud (N, 3)", "image (C, H, W)"])
def dims(request):
    """Return the dimensions of one sample, without the batch."""
    return request.param
