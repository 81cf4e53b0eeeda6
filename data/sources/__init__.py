"""Sources: functions that gin binds and that return an `Examples` table, or a `Stream` that a store makes one of."""

from data.sources.arrays import arrays
from data.sources.bundled import digits, synthetic
from data.sources.folder import SPLIT_FOLDERS, folder
from data.sources.mixture import mixture
from data.sources.table import table
from data.sources.tfds_source import tfds
from data.sources.tfrecord import tfrecord

__all__ = [
    "SPLIT_FOLDERS",
    "arrays",
    "digits",
    "folder",
    "mixture",
    "synthetic",
    "table",
    "tfds",
    "tfrecord",
]
