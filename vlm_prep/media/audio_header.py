"""The length of a file of sound where its header and its end prove it, so that nothing is decoded to be counted.

That is so for WAV with integers, whose samples are as many as its bytes hold, and for FLAC (RFC 9639), whose header
states them and whose last frame says where it stands: a file that was cut has no whole last frame, or one that stands
before the end. Damage between the ends shows when the sound is decoded, as a picture's does.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from vlm_prep.media.files import END_BYTES, Ends

Words = NDArray[np.uint16]

_PCM, _EXTENSIBLE = 0x0001, 0xFFFE
_PCM_GUID = bytes.fromhex("0100000000001000800000aa00389b71")
_BITS = (8, 16, 24, 32)
_UNTOLD = 0xFFFFFFFF
"""Size of a chunk that a recording was streamed into."""
_STREAMINFO = 34
"""Bytes of a FLAC's first metadata block."""
_BLOCK_SIZES = {1: 192, **{code: 144 << code for code in range(2, 6)}, **{code: 1 << code for code in range(8, 16)}}
"""Samples of a frame by the code in its header; 6 and 7 state them behind its number."""
_SHORTEST_FRAME, _LONGEST_HEADER = 8, 16


def stated_sound(ends: Ends) -> tuple[int, int] | None:
    """Return (samples, samples a second) of a file that proves them, None for what must be decoded to be counted.

    Args:
        ends: of the file.
    """
    head = ends.head
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return _of_wav(head, ends.size)
    if head[:4] == b"fLaC":
        return _of_flac(ends)
    return None


def _of_wav(head: bytes, size: int) -> tuple[int, int] | None:
    if (stated := int.from_bytes(head[4:8], "little")) == _UNTOLD or 8 + stated > size + 1:
        return None
    place, frame, rate = 12, 0, 0
    while place + 8 <= len(head):
        name, length = head[place : place + 4], int.from_bytes(head[place + 4 : place + 8], "little")
        body, place = place + 8, place + 8 + length + length % 2
        if name == b"fmt " and not frame:
            channels, rate, frame = _pcm(head[body : body + length])
            if not channels:
                return None
        elif name == b"data":
            # libsndfile reads what it can of a chunk that is longer than the file or ends within a sample
            whole = frame and length and length % frame == 0 and body + length <= size and body + length <= 8 + stated
            return (length // frame, rate) if whole else None
    return None


def _pcm(body: bytes) -> tuple[int, int, int]:
    """Return (channels, samples a second, bytes of a sample of all channels) of a `fmt ` chunk, zeros for others."""
    if len(body) < 16:
        return 0, 0, 0
    tag, channels = int.from_bytes(body[:2], "little"), int.from_bytes(body[2:4], "little")
    rate, frame = int.from_bytes(body[4:8], "little"), int.from_bytes(body[12:14], "little")
    bits = int.from_bytes(body[14:16], "little")
    if tag == _EXTENSIBLE and (body[24:40] != _PCM_GUID or int.from_bytes(body[18:20], "little") != bits):
        return 0, 0, 0
    usual = tag in (_PCM, _EXTENSIBLE) and bits in _BITS and frame == channels * bits // 8
    return (channels, rate, frame) if usual and channels else (0, 0, 0)


def _of_flac(ends: Ends) -> tuple[int, int] | None:
    info = ends.head[8 : 8 + _STREAMINFO]
    if ends.head[4] & 127 or int.from_bytes(ends.head[5:8]) != _STREAMINFO or len(info) < _STREAMINFO:
        return None
    bits = int.from_bytes(info[10:18])
    rate, samples = bits >> 44, bits & ((1 << 36) - 1)
    fixed = int.from_bytes(info[:2]) if info[:2] == info[2:4] else None
    end = ends.last
    place = len(end) - _SHORTEST_FRAME
    while samples and (place := end.rfind(b"\xff", 0, place + 1)) >= 0:
        if _last_sample(end[place : place + _LONGEST_HEADER], fixed) == samples:
            return (samples, rate) if _crc16(end[place:]) == 0 else None
        place -= 1
    return None


def _last_sample(header: bytes, fixed: int | None) -> int | None:
    """Return the number of the sample behind a frame, None for what is no header of one.

    Args:
        header: what may be one.
        fixed: samples of each frame but the last; None where frames state the number of their first sample.
    """
    if len(header) < _SHORTEST_FRAME or header[1] not in (0xF8, 0xF9) or header[3] & 1:
        return None
    block, rate = header[2] >> 4, header[2] & 15
    ones = 8 - (header[4] ^ 255).bit_length()  # as in UTF-8: a number of n bytes begins with n ones, of one with none
    number, place = header[4] & (127 >> ones), 4 + (ones or 1)
    for byte in header[5:place]:
        number = number << 6 | byte & 63
    if block in (6, 7):
        size = int.from_bytes(header[place : place + block - 5]) + 1
        place += block - 5
    else:
        size = _BLOCK_SIZES.get(block, 0)
    place += {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if not size or place >= len(header) or _crc8(header[:place]) != header[place]:
        return None
    if header[1] & 1:
        return number + size
    return None if fixed is None else number * fixed + size


def _crc8(data: bytes) -> int:
    """The checksum of a frame's header: polynomial x^8 + x^2 + x + 1, begun with 0."""
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value << 1 ^ (0x107 if value & 0x80 else 0)) & 0xFF
    return value


def _crc16(data: bytes) -> int:
    """The checksum of a frame: polynomial x^16 + x^15 + x^2 + 1, begun with 0; 0 of a frame with its checksum.

    Neighbours are joined until one is left, all pairs at once: byte by byte takes longer than reading the file.
    """
    sums: Words = np.zeros(1 << (len(data) - 1).bit_length(), np.uint16)
    sums[-len(data) :] = _shifts()[0][0][np.frombuffer(data, np.uint8)]  # zeros before it change nothing
    for high, low in _shifts():
        if len(sums) == 1:
            break
        left = sums[::2]
        sums = high[left >> 8] ^ low[left & 255] ^ sums[1::2]
    return int(sums[0])


@cache
def _shifts() -> list[tuple[Words, Words]]:
    """Return what the high and the low byte of a sum become when 1, 2, 4, ... bytes follow."""
    low: Words = (np.arange(256) << 8).astype(np.uint16)
    high = low
    for _ in range(8):
        high = ((high.astype(np.int64) << 1) ^ np.where(high & 0x8000, 0x8005, 0)).astype(np.uint16)
    shifts = [(high, low)]
    while 1 << len(shifts) < END_BYTES:
        high, low = shifts[-1]
        shifts.append((high[high >> 8] ^ low[high & 255], high[low >> 8] ^ low[low & 255]))
    return shifts
