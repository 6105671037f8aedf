"""Images of labels: read whole or not at all, whatever ITK would make of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from CovidSegLib.errors import InputError
from CovidSegLib.readers.label_image import read_label_image
from helpers_ct_files import write_image

nib = pytest.importorskip("nibabel")

LABELS = (np.random.default_rng(0).integers(0, 4, (10, 12, 14))).astype(np.uint8)


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(read_label_image(path, expected="Expected labels."))


@pytest.mark.parametrize("kind", ["u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8"])
@pytest.mark.parametrize("extension", [b"", b"a note in the header, before the voxels"])
def test_nifti_that_lacks_its_last_byte_is_refused(tmp_path: Path, kind: str, extension: bytes) -> None:
    image = nib.Nifti1Image(LABELS.astype(kind).T, np.eye(4))
    if extension:
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", extension))
    nib.save(image, tmp_path / "labels.nii")
    np.testing.assert_array_equal(read(tmp_path / "labels.nii"), LABELS)
    (tmp_path / "labels.nii").write_bytes((tmp_path / "labels.nii").read_bytes()[:-1])
    with pytest.raises(InputError, match=r"labels\.nii' cannot be read: it is damaged, cut short"):
        read(tmp_path / "labels.nii")


@pytest.mark.parametrize("name", ["labels.nrrd", "labels.nhdr", "labels.mha", "labels.mhd"])
def test_compressed_voxels_that_do_not_fit_their_checksum_are_refused(tmp_path: Path, name: str) -> None:
    path = write_image(tmp_path / name, LABELS, compress=True)
    np.testing.assert_array_equal(read(path), LABELS)
    (voxels,) = [file for file in tmp_path.iterdir() if file.suffix not in (".nhdr", ".mhd")]
    raw = bytearray(voxels.read_bytes())
    raw[-2] ^= 1
    voxels.write_bytes(raw)
    with pytest.raises(InputError, match=rf"{name}' cannot be read: it is damaged"):
        read(path)


@pytest.mark.parametrize("name", ["labels.nrrd", "labels.nhdr", "labels.mha", "labels.mhd"])
def test_compressed_voxels_that_lack_their_end_are_refused(tmp_path: Path, name: str) -> None:
    path = write_image(tmp_path / name, LABELS, compress=True)
    (voxels,) = [file for file in tmp_path.iterdir() if file.suffix not in (".nhdr", ".mhd")]
    voxels.write_bytes(voxels.read_bytes()[:-3])
    with pytest.raises(InputError, match=rf"{name}' cannot be read: it is damaged"):
        read(path)


def test_unpacked_nifti_stands_beside_what_is_called_like_it(tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("no image")
    np.testing.assert_array_equal(read(write_image(tmp_path / "labels.nii", LABELS)), LABELS)
