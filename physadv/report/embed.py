"""Pictures that need no file."""

import base64
import io

from PIL import Image

_LOSSLESS_PX = 128  # larger photographs travel as JPEG: the page stays small, and the eye sees no difference


def data_uri(image: Image.Image) -> str:
    """A picture that needs no file."""
    buffer = io.BytesIO()
    lossless = image.mode == "RGBA" or max(image.size) <= _LOSSLESS_PX
    image.save(buffer, "PNG") if lossless else image.save(buffer, "JPEG", quality=90)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
