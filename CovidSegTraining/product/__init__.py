"""How the bundled model is trained: what is known of each voxel, patches, lesions, pseudo-labels, 8-bit ranges."""
