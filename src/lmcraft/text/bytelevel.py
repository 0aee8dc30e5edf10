"""The characters that stand for bytes in byte-level vocabularies: GPT-2's alphabet.

Radford et al. 2019, as every byte-level tokenizer.json has it.

Proved by tests/unit/text/test_tokenizer.py.
"""

from __future__ import annotations

BYTES = 256


def _byte_alphabet() -> dict[str, bytes]:
    """The byte of each character of GPT-2's alphabet: printable ones are themselves, others come after 255."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(BYTES) if byte not in printable]
    named = {chr(byte): byte for byte in printable} | {chr(BYTES + n): byte for n, byte in enumerate(others)}
    return {character: bytes([byte]) for character, byte in named.items()}


BYTE_OF = _byte_alphabet()
