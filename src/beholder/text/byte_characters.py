"""The 256 characters by which byte-level vocabularies spell bytes, so that a vocabulary file is readable text.

A byte that prints in Latin-1 is spelled by itself, the others by the characters from U+0100 on.
Source: GPT-2's and CLIP's vocabularies, which list the printing ones first.
"""

_PRINTING = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS = tuple(byte for byte in range(256) if byte not in _PRINTING)

# Byte → character, in the order of the vocabularies.
CHARACTER_OF = {byte: chr(byte) for byte in _PRINTING} | {byte: chr(256 + i) for i, byte in enumerate(_OTHERS)}
BYTE_OF = {character: byte for byte, character in CHARACTER_OF.items()}
