"""Training of image models and of the classifiers that guide them."""
