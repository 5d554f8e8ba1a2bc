"""What `pcdiff images COMMAND`, which is `python -m image_pipeline COMMAND` too, does: its flags, and the work."""
