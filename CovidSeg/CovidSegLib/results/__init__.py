"""What is made of a labelmap: segments, curves, classes and pictures, and segmentations read back from files."""
