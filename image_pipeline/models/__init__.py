"""Image models: load one from a run or a checkpoint, draw images with it, and classifiers that guide it."""
