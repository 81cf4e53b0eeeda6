"""Reads `.npz` files of which any byte may have changed."""

import io
import zipfile
from pathlib import Path

import numpy as np


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by their names, each compared with its checksum. Pickled objects are refused.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file, or not as it was written.
    """
    content = io.BytesIO(path.read_bytes())
    try:
        with zipfile.ZipFile(content) as archive:
            # A member as a whole: NumPy by itself stops reading, and comparing, where a damaged header says so.
            return {
                name.removesuffix(".npy"): np.lib.format.read_array(io.BytesIO(archive.read(name)), allow_pickle=False)
                for name in archive.namelist()
            }
    # Zip, its decompressors and NumPy raise what they like on bytes that are none of theirs.
    except Exception as error:
        raise ValueError(str(error) or type(error).__name__) from error
