"""What reading a .zip, or a .npz, that nobody has checked may raise. Imports no torch."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib

# On a damaged archive or member, by how it is packed. RuntimeError: encrypted, or packed in a way that this Python cannot unpack.
# ValueError: damaged names, or what numpy makes of a member that is no array.
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, OSError, EOFError, ValueError, RuntimeError)
