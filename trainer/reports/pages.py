"""What all pages share: how templates become a page that needs nothing else, and pictures inside it."""

import base64
import io
from collections.abc import Mapping

import jinja2
import markupsafe
import numpy as np
from PIL import Image

from data.fingerprints import upright

# Side in pixels of a thumbnail.
THUMBNAIL = 160


def render(template: str, values: Mapping[str, object]) -> str:
    """The page. Whatever text the values hold, names and paths above all, is shown as text.

    Args:
        template: a file in `templates/`.
        values: by the names that it uses; all of them.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trainer.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_encodable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)


def _encodable(value: object) -> object:
    """Bytes of a name that are no UTF-8 are kept as half a surrogate pair, which no file can hold."""
    if isinstance(value, str) and not isinstance(value, markupsafe.Markup):
        return value.encode("utf-8", "backslashreplace").decode()
    return value


def address(image: Image.Image, kind: str, **settings) -> str:
    """The picture as a `data:` address; `kind` is JPEG or PNG."""
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def thumbnail(canvas: np.ndarray, orientation: int = 1) -> str:
    """A `data:` address of a JPEG of at most THUMBNAIL pixels a side.

    Args:
        canvas: [h, w, 3] uint8.
        orientation: EXIF orientation, 1 to 8, that it is still to be turned by.
    """
    image = upright(Image.fromarray(canvas), orientation)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return address(image, "JPEG", quality=80)
