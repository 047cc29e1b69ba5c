"""ICC profiles of version 2, written by the standard alone, and what their colours are in sRGB by formula.

Sources: ICC.1:2001-04; IEC 61966-2-1; SMPTE EG 432-1 (P3); Bradford's matrix of ICC.1:2022, annex E.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
D65, D50 = (0.3127, 0.3290), np.array([0.9642, 1.0, 0.8249])
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def decoded(codes: Values) -> Values:
    """sRGB's curve: values in [0, 1] to light."""
    return np.where(codes <= 0.04045, codes / 12.92, ((codes + 0.055) / 1.055) ** 2.4)


def encoded(light: Values) -> Values:
    """Its inverse; light outside [0, 1] is clipped."""
    light = light.clip(0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def to_xyz(primaries: tuple[tuple[float, float], ...]) -> Values:
    """The matrix from light of D65 primaries to XYZ."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    x, y = D65
    return columns * np.linalg.solve(columns, np.array([x / y, 1, (1 - x - y) / y]))


def adapted() -> Values:
    """Bradford's adaptation of XYZ from D65 to D50."""
    x, y = D65
    source, target = BRADFORD @ np.array([x / y, 1, (1 - x - y) / y]), BRADFORD @ D50
    return np.linalg.inv(BRADFORD) @ np.diag(target / source) @ BRADFORD


def p3_in_srgb(codes: Values) -> Values:
    """Display P3 (..., 3) in [0, 1] as sRGB in [0, 1]."""
    return encoded(decoded(codes) @ (np.linalg.inv(to_xyz(SRGB)) @ to_xyz(P3)).T)


def lab_in_srgb(lab: Values) -> Values:
    """CIELAB (..., 3) of D50 as sRGB in [0, 1]."""
    y = (lab[..., 0] + 16) / 116
    roots = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], -1)
    xyz = D50 * np.where(roots > 6 / 29, roots**3, 3 * (6 / 29) ** 2 * (roots - 4 / 29))
    return encoded(xyz @ (np.linalg.inv(to_xyz(SRGB)) @ np.linalg.inv(adapted())).T)


def rgb_profile(name: str, primaries: tuple[tuple[float, float], ...]) -> bytes:
    """A profile of three colorants and sRGB's curve."""
    curve = decoded(np.linspace(0, 1, 1024))
    matrix = adapted() @ to_xyz(primaries)
    tags = {b"wtpt": _xyz(D50)}
    for k, letter in enumerate(b"rgb"):
        tags |= {bytes([letter]) + b"XYZ": _xyz(matrix[:, k]), bytes([letter]) + b"TRC": _curve(curve)}
    return _profile(name, b"mntr", b"RGB ", b"XYZ ", tags)


def grey_profile(name: str, curve: Callable[[Values], Values]) -> bytes:
    """A profile of grey with a curve from values in [0, 1] to light."""
    tags = {b"wtpt": _xyz(D50), b"kTRC": _curve(curve(np.linspace(0, 1, 4096)))}
    return _profile(name, b"mntr", b"GRAY", b"XYZ ", tags)


def cmyk_profile(name: str, lab: Values) -> bytes:
    """A profile from the CIELAB values (2, 2, 2, 2, 3) of full and no ink, indexed by C, M, Y and K; linear between."""
    codes = np.stack([lab[..., 0] * 2.55, lab[..., 1] + 128, lab[..., 2] + 128], -1)
    identity = struct.pack(">9i", *(65536 * (k % 4 == 0) for k in range(9)))
    ramp = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + ramp * 4
    table += codes.round().clip(0, 255).astype(np.uint8).tobytes() + ramp * 3
    return _profile(name, b"prtr", b"CMYK", b"Lab ", {b"wtpt": _xyz(D50), b"A2B0": table})


def _xyz(values: Values) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(65536 * float(value)) for value in values))


def _curve(values: Values) -> bytes:
    codes = (65535 * values).round().astype(">u2")
    return b"curv" + bytes(4) + struct.pack(">I", len(codes)) + codes.tobytes()


def _profile(name: str, kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    text = name.encode("ascii") + b"\0"
    description = b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(4 + 4 + 2 + 1 + 67)
    contents = {b"desc": description, b"cprt": b"text" + bytes(4) + b"none\0", **tags}
    offset, table, body = 128 + 4 + 12 * len(contents), struct.pack(">I", len(contents)), b""
    for tag, content in contents.items():
        table += tag + struct.pack(">II", offset + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = struct.pack(">I4sI4s4s4s", offset + len(body), bytes(4), 0x02100000, kind, space, connection)
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    header += struct.pack(">3i", *(round(65536 * value) for value in D50))
    return header + bytes(128 - len(header)) + table + body
