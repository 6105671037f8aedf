"""Files of any kind to voxels on a grid: DICOM, NIfTI, NRRD, MetaImage, zip; faults are said, not guessed."""
