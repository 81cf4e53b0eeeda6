"""python common_user.py PROGRAM ...: runs a Python program for which file permissions hold, even if root starts it."""

import ctypes
import runpy
import struct
import sys

# Version of the interface, and the two bits of https://man7.org/linux/man-pages/man7/capabilities.7.html by which root
# reads and writes whatever it likes: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH.
VERSION, LIBERTIES = 0x20080522, 0b110


def obey_permissions() -> None:
    """Takes root's liberties from this thread and all that it starts; from others there is nothing to take."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    header, words = struct.pack("Ii", VERSION, 0), ctypes.create_string_buffer(24)
    libc.capget(ctypes.create_string_buffer(header), words)
    effective, *others = struct.unpack("6I", words.raw)
    libc.capset(ctypes.create_string_buffer(header), struct.pack("6I", effective & ~LIBERTIES, *others))


if __name__ == "__main__":
    obey_permissions()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
