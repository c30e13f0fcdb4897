"""The 256 characters with which byte-level vocabularies represent bytes, so that a vocabulary file is readable text.

A byte that is printable in Latin-1 is represented by that character, the others by the characters from U+0100 on.
Source: the vocabularies of GPT-2 and CLIP, which list the printable ones first.
"""

_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS = tuple(byte for byte in range(256) if byte not in _PRINTABLE)

# Byte → character, in the order of the vocabularies.
BYTE_TO_CHARACTER = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(256 + i) for i, byte in enumerate(_OTHERS)}
CHARACTER_TO_BYTE = {character: byte for byte, character in BYTE_TO_CHARACTER.items()}
