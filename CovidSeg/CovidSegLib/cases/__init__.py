"""Many CTs, one folder each: found, named, run (also in several processes), resumed, corrected, summed up."""
