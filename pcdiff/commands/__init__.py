"""What `pcdiff COMMAND` does.

The modules that read flags import no torch; those that do the work are imported once the flags are right.
"""
