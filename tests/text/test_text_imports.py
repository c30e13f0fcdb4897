import subprocess
import sys


def test_the_text_modules_import_neither_torch_nor_transformers() -> None:
    program = """
import sys
import beholder.text.tokenizer_files, beholder.text.labels, beholder.text.templates, beholder.text.tokenizer
print([name for name in ("torch", "transformers", "sentencepiece", "ftfy", "PIL") if name in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"
