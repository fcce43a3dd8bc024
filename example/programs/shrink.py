"""Write an image (binary PPM) at half its size: python shrink.py SOURCE TARGET."""

import os
import sys
from pathlib import Path

source, target = Path(sys.argv[1]), Path(sys.argv[2])
kind, size, depth, pixels = source.read_bytes().split(b"\n", 3)
if (kind, depth) != (b"P6", b"255"):
    sys.exit(f"{source} is no binary PPM with 8 bits")
width, height = map(int, size.split())
if len(pixels) != 3 * width * height:
    sys.exit(f"{source} is damaged: it has {len(pixels)} bytes of {3 * width * height}")
kept = b"".join(
    pixels[3 * (y * width + x) : 3 * (y * width + x + 1)] for y in range(0, height, 2) for x in range(0, width, 2)
)
# Nobody sees half of it, and a second run replaces it.
unfinished = target.with_name(f".{target.name}.{os.getpid()}")
unfinished.write_bytes(b"P6\n%d %d\n255\n%s" % ((width + 1) // 2, (height + 1) // 2, kept))
unfinished.replace(target)
