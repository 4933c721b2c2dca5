"""Small inputs that a person can lay out by hand: an ELF file, a manifest, a signing key."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric import rsa

PAGE = 4096
R, W, X = 4, 2, 1

TINY_MANIFEST = b"""\
[sgx]
enclave_size = "4M"
max_threads = 1
edmm_enable = true
isvprodid = 7
isvsvn = 3
use_exinfo = true
"""


def elf(segments: Sequence[tuple[int, bytes, int, int]], entry: int = 0) -> bytes:
    """An x86-64 ELF file of PT_LOAD segments (address, data, memory size, flags).

    Each segment's data stands at a file offset congruent to its address, as ld puts it.
    """
    body = bytearray(PAGE)
    headers = b""
    for address, data, memory_size, flags in segments:
        offset = -(-len(body) // PAGE) * PAGE + address % PAGE
        body.extend(bytes(offset - len(body)) + data)
        headers += struct.pack(
            "<LLQQQQQQ", 1, flags, offset, address, address, len(data), memory_size, PAGE
        )
    head = struct.pack(
        "<4sBBBB8xHHLQQQLHHHHHH",
        *(b"\x7fELF", 2, 1, 1, 0),
        *(3, 62, 1, entry, 64, 0, 0, 64, 56, len(segments), 64, 0, 0),
    )
    body[: len(head) + len(headers)] = head + headers
    return bytes(body)


def libpal() -> bytes:
    """Code, read-only data that starts inside a page, and data with a zero tail."""
    return elf(
        [
            (0x0000, b"\x7f" * 100, 100, R),
            (0x1000, bytes(range(256)) * 17, 256 * 17, R | X),
            (0x3010, b"data", 0x1800, R | W),
        ],
        entry=0x1040,
    )


# The primes of a key for tests alone, fixed so that signatures stay what they are.
_P = (
    "def3395047495d1d1b194aec35b1e7ec6a499b958c21796c8f7f82801b6eefdc"
    "4ec729f3b1e4e50a32c27a6d95cdac357686b958218bfa66dd323624f506404e"
    "fcbdbb51b095348fba378d23e151e67b8668e1d10d0dad92d1ccd4475165da0c"
    "3659035d0e087707d577dcb1841cbfadd78a31778f2e0761fb733b3f00723e45"
    "52956b4de46840c48be48e70bbbd4882028f081f3ca82b620f5df2b3e6469df0"
    "45cf391d8e11130ae2c6529647fba249d8fd05f559ade059f8f290e9727c5a1b"
)
_Q = (
    "cb5923d546b71a6bc865ef614b252a4b2ad86ec3b372d3acd0c74fb139a72717"
    "da0c06fdd0435afe32c517196ee018d69ad3b013ed70be53c77c5b30b7447a80"
    "320beffc80a437b81209686808140df7dba45443eda25c074b20d5afdb593c4a"
    "e06531d125fa9b40b5a24e0f31d22a229ba27c4a4969aa99b42b7e4e09a3a5c5"
    "95b74c1e73d7cdbb60a3f28a58772200e57da8ab8f21c74685d883a0c611885f"
    "6f5e559342079031a39f1a993fb8161a5e3deca73a16f1474715d2918311f66f"
)


def signing_key() -> rsa.RSAPrivateKey:
    """RSA-3072 with exponent 3, always the same."""
    p, q, e = int(_P, 16), int(_Q, 16), 3
    d = pow(e, -1, (p - 1) * (q - 1))
    return rsa.RSAPrivateNumbers(
        p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), rsa.RSAPublicNumbers(e, p * q)
    ).private_key()
