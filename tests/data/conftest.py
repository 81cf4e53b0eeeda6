"""Fixtures for the tests of `data`."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.errors import UserError


@pytest.fixture
def complaint() -> Callable:
    """`with complaint("cat"):` expects an error in four parts that names every culprit."""

    @contextlib.contextmanager
    def expected(*culprits: str) -> Iterator[None]:
        with pytest.raises(UserError) as caught:
            yield
        error = caught.value
        assert error.exit_status == 2
        for part in (error.found, error.where, error.expected, error.do):
            assert part and part.strip()
            assert part in str(error)
        for culprit in culprits:
            assert culprit in str(error)

    return expected


@pytest.fixture
def photos(tmp_path) -> Callable:
    """`photos({"cat/a.png": (8, 10)})` writes random pictures of those heights and widths and returns their root."""

    def write(pictures: dict[str, tuple[int, int]], *, below: str = "photos") -> Path:
        root = tmp_path / below
        random = np.random.default_rng(len(pictures))
        for name, (height, width) in pictures.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        return root

    return write
