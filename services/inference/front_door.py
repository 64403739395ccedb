"""The child process that decodes strangers' pictures: run as a script, it limits itself before it reads a byte.

Picture on stdin; exit 0 with the clean JPEG on stdout, or exit 3 with a reason code there. Any other end means that a
limit was hit. It stands alone: importing more than Pillow would double its start.
"""

import io
import resource
import sys
import warnings

FORMATS = ("JPEG", "PNG", "WEBP")
# 40 megapixels as RGBA are 160 MB; orienting and converting hold three such.
MEMORY_BYTES = 1 << 30
CPU_S = 10
MAX_PIXELS = 40_000_000
MIN_SIDE_PX = 32
# The OCR model shrinks what is larger.
MAX_SIDE_PX = 2000
REFUSED = 3


class Refused(Exception):
    """The picture is not taken; the text is the reason's code."""


def clean(encoded: bytes) -> bytes:
    """The picture upright, on white, at most 2000 px, as a JPEG that holds pixels and nothing else."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    try:
        picture = Image.open(io.BytesIO(encoded), formats=FORMATS)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise Refused("picture-too-large") from None
    except UnidentifiedImageError:
        raise Refused("unsupported-picture") from None
    except (OSError, SyntaxError, ValueError):
        raise Refused("damaged-picture") from None
    if min(picture.size) < MIN_SIDE_PX:
        raise Refused("picture-too-small")
    try:
        picture.draft("RGB", (MAX_SIDE_PX, MAX_SIDE_PX))
        picture.load()
        upright = ImageOps.exif_transpose(picture).convert("RGBA")
    except (OSError, SyntaxError, ValueError) as error:
        raise Refused("truncated-picture" if "truncated" in str(error) else "damaged-picture") from None
    upright.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
    # A fresh canvas: profiles, comments and EXIF travel with Pillow's pictures, not with pixels.
    canvas = Image.new("RGB", upright.size, "white")
    canvas.paste(upright, mask=upright.getchannel("A"))
    out = io.BytesIO()
    canvas.save(out, "JPEG", quality=92, subsampling=0)
    return out.getvalue()


def main() -> int:
    """Limit this process, then read, clean and write."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        sys.stdout.buffer.write(clean(sys.stdin.buffer.read()))
    except Refused as refused:
        sys.stdout.write(str(refused))
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
