"""CovidSeg's engine, scene layer and command line.

Importing this package does no work: torch and MONAI are imported inside the
functions that need them, so that Slicer starts as fast with it as without.
"""

__version__ = "0.1.0"

DISCLAIMER = "Research software, not a medical device; not for clinical use."
