"""Small vocabularies of every tokenizer family, trained on a few sentences, in the file formats of real checkpoints."""

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from beholder.text.byte_characters import BYTE_TO_CHARACTER

CORPUS = [
    "a photo of a dog running in the snow",
    "two cats sleep on the red sofa, it's warm",
    "the quick brown fox jumps over the lazy dog!",
    "a child's birthday cake with 12 candles & 3 friends",
    "café naïve école straße señor",
    "a dog and a cat don't share the blue boat on the lake, they've said",
    "a close photo of many people running on a beach in 2024",
    "一只 猫 在 沙发 上 睡觉",
    "an old woman reads a newspaper in the garden; she'll go home",
    "the children of the house sing (and dance) in the snow",
]
CLIP_START, CLIP_END = "<|startoftext|>", "<|endoftext|>"


def write_all(folder: Path) -> Path:
    """Write the folders ``clip``, ``bert``, ``siglip``, ``siglip2`` and ``xlm_roberta`` below the given one."""
    for write in (write_clip, write_bert, write_siglip, write_siglip2, write_xlm_roberta):
        target = folder / write.__name__.removeprefix("write_")
        target.mkdir()
        write(target)
    return folder


def write_clip(folder: Path) -> None:
    """Write ``vocab.json`` and ``merges.txt``."""
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.normalizer = normalizers.Lowercase()
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"), "removed", True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trained.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=220, end_of_word_suffix="</w>", show_progress=False)
    )
    pairs = json.loads(trained.to_str())["model"]["merges"]
    letters = list(BYTE_TO_CHARACTER.values())
    pieces = [*letters, *(letter + "</w>" for letter in letters), *map("".join, pairs), CLIP_START, CLIP_END]
    (folder / "vocab.json").write_text(json.dumps({piece: token for token, piece in enumerate(pieces)}), "utf-8")
    lines = "".join(f"{first} {second}\n" for first, second in pairs)
    (folder / "merges.txt").write_text("#version: 0.2\n" + lines, "utf-8")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": CLIP_END}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_bert(folder: Path) -> None:
    """Write ``vocab.txt``."""
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.normalizer = normalizers.BertNormalizer()
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trained.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    )
    pieces = sorted(trained.get_vocab().items(), key=lambda item: item[1])
    (folder / "vocab.txt").write_text("".join(piece + "\n" for piece, _ in pieces), "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))


def write_siglip(folder: Path) -> None:
    """Write ``spiece.model``, with the special tokens at the ids of T5's English vocabulary."""
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line.lower() for line in CORPUS] * 20),
        model_prefix=str(folder / "spiece"),
        model_type="unigram",
        vocab_size=150,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    config = {"tokenizer_class": "SiglipTokenizer", "model_max_length": 64, "pad_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_siglip2(folder: Path) -> None:
    """Write ``tokenizer.json`` in the manner of Gemma: BPE over UTF-8 text with byte fallback; EOS after the text."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(
        [line.lower() for line in CORPUS], trainers.BpeTrainer(vocab_size=180, show_progress=False)
    )
    model = json.loads(trained.to_str())["model"]
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    ordered = sorted(model["vocab"], key=model["vocab"].__getitem__)
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *ordered]
    vocabulary = {piece: token for token, piece in enumerate(pieces)}
    backend = Tokenizer(
        models.BPE(vocabulary, list(map(tuple, model["merges"])), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    backend.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    backend.add_special_tokens(special)
    backend.enable_padding(length=64, pad_id=0, pad_token="<pad>")
    backend.enable_truncation(64)
    backend.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "GemmaTokenizer", "add_bos_token": False, "add_eos_token": True}
    config |= {"padding_side": "right", "model_max_length": 64, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_xlm_roberta(folder: Path) -> None:
    """Write ``tokenizer.json``: a unigram model whose pieces know capitals, and marks before and after the text."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trained = Tokenizer(models.Unigram())
    trained.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(
        [*CORPUS, *map(str.title, CORPUS)],
        trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token="<unk>", show_progress=False),
    )
    trained.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    trained.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512, "bos_token": "<s>"}
    config |= {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
