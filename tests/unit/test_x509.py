"""Certificates around which nothing may hide: the armour of a PEM text is held to one form."""

from __future__ import annotations

import attested
import pytest

from attestation.errors import CollateralError, VerificationError
from attestation.evidence import parse_quote
from attestation.x509 import check_armour, read_chain

CHAIN = parse_quote(attested.quote("tdx-v4")).signature.pck_chain or b""
BEGIN = b"-----BEGIN CERTIFICATE-----"


def rewrapped(columns: int) -> bytes:
    """The same certificates with lines of another width, as some platforms store them."""
    out = []
    for block in CHAIN.rstrip(b"\0").split(BEGIN)[1:]:
        body = block.split(b"-----END")[0].replace(b"\n", b"")
        lines = [body[i : i + columns] for i in range(0, len(body), columns)]
        out.append(b"\n".join([BEGIN, *lines, b"-----END CERTIFICATE-----"]))
    return b"\n".join(out)


@pytest.mark.parametrize(
    "pem",
    [CHAIN, CHAIN.rstrip(b"\0\n"), CHAIN + b"\0", CHAIN.replace(b"\n", b"\r\n"), rewrapped(76)],
)
def test_line_breaks_and_a_final_nul_may_vary(pem: bytes) -> None:
    check_armour("chain", pem)
    assert [c.der for c in read_chain("chain", pem)] == [c.der for c in read_chain("c", CHAIN)]


@pytest.mark.parametrize(
    "pem",
    [
        b"subject: CN=somebody else\n" + CHAIN,
        CHAIN.replace(b"\n" + BEGIN, b" " + BEGIN, 1),
        CHAIN + b"\0\0",
        CHAIN + b"trailing",
        CHAIN.replace(BEGIN, b"-----BEGIN CERTIFICATE ----", 1),
        CHAIN.replace(BEGIN + b"\n", BEGIN + b"\x0b", 1),
        CHAIN.replace(BEGIN + b"\n", BEGIN + b"\n!", 1),
        CHAIN.replace(BEGIN + b"\n", BEGIN + b"\n=", 1),
    ],
)
def test_anything_else_is_refused(pem: bytes) -> None:
    with pytest.raises(CollateralError, match="chain: "):
        check_armour("chain", pem)


def test_padding_bits_cannot_carry_anything() -> None:
    block = b"-----BEGIN CERTIFICATE-----\nTR==\n-----END CERTIFICATE-----\n"
    with pytest.raises(CollateralError, match="canonical base64"):
        check_armour("chain", block)
    check_armour("chain", block.replace(b"TR==", b"TQ=="))


def test_text_between_the_certificates_of_a_quote_is_refused() -> None:
    raw = attested.quote("tdx-v4").replace(b"\n" + BEGIN, b"\x0b" + BEGIN, 1)
    with pytest.raises(VerificationError) as e:
        attested.verify("tdx-v4", raw=raw)
    assert e.value.step == "pck_chain"
