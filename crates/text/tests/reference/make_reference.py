"""Writes tokenizers.json: small vocabularies, and what their own libraries make of some texts.

    pip install sentencepiece==0.2.3 tokenizers==0.23.3
    python3 make_reference.py TEXT

TEXT is what the vocabularies are trained on (the engine's tests have one); the tests read only the
file this writes.
"""

import io
import json
import pathlib
import sys

import sentencepiece
import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
TEXTS = [
    "Hello, world!",
    "  two leading spaces, a tab\t and\n\n\nthree newlines ",
    "I'll say it's 3.14159 or 1,000,000; DON'T you?",
    "naïve café, Größe, Ελληνικά, русский, हिन्दी",
    "日本語、한국어 🏃‍♀️🥇",
    "def f(x):\n    return {'a': [1, 2, 3]}  # comment",
    "aaaaaaaaaaaaaaa the the thethe",
    "cafe\u0301 x̂ \u00a0\u200b",
]
LLAMA_3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN_2 = LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")


def sentence_piece(text, prefix):
    """A model as Llama's and Mistral's (with a prefix) or Gemma's (without) are made."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text.splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=700,
        byte_fallback=True,
        add_dummy_prefix=prefix,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        split_digits=True,
        allow_whitespace_only_pieces=True,
        character_coverage=0.9995,
        minloglevel=2,
    )
    sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())

    def kind(id):
        if sp.is_unknown(id):
            return 2
        return 3 if sp.is_control(id) else 6 if sp.is_byte(id) else 1

    ids = range(sp.get_piece_size())
    return {
        "space_prefix": prefix,
        "tokens": [sp.id_to_piece(id) for id in ids],
        "types": [kind(id) for id in ids],
        "scores": [sp.get_score(id) for id in ids],
        "texts": [{"text": t, "ids": sp.encode(t), "decoded": sp.decode(sp.encode(t))} for t in TEXTS],
    }


def byte_level(text, pattern, pre, normalizer, bos):
    """A tokenizer.json as Llama 3's or Qwen's, with GGUF's name for its pre-tokeniser."""
    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated", False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|begin|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([text], trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", 0)]
        )
    texts = TEXTS + ["a<|end|>b"]
    return {
        "pre": pre,
        "normalizes": normalizer is not None,
        "bos": bos,
        "tokenizer": json.loads(tokenizer.to_str()),
        "texts": [{"text": t, "ids": tokenizer.encode(t).ids} for t in texts],
    }


def pieces_json(text, prepend):
    """A tokenizer.json as those converted from SentencePiece."""
    tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    steps = [normalizers.Prepend("▁")] if prepend == "every" else []
    tokenizer.normalizer = normalizers.Sequence(steps + [normalizers.Replace(" ", "▁")])
    if prepend == "first":
        tokenizer.normalizer = None
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<unk>", "<s>", "</s>"] + bytes, show_progress=False,
        max_token_length=8, limit_alphabet=80,
    )
    words = [word for word in text.replace("\n", " ").split(" ") if word]
    tokenizer.train_from_iterator(words, trainer)
    as_json = json.loads(tokenizer.to_str())
    as_json["added_tokens"] = [token for token in as_json["added_tokens"] if token["id"] < 3]
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(as_json))
    texts = TEXTS + ["ab</s>cd</s> ef"]
    return {
        "prepend": prepend,
        "tokenizer": as_json,
        "texts": [{"text": t, "ids": tokenizer.encode(t, add_special_tokens=False).ids} for t in texts],
    }


def main(path):
    text = pathlib.Path(path).read_text()
    nfc = normalizers.NFC()
    reference = {
        "made_with": f"sentencepiece {sentencepiece.__version__}, tokenizers {tokenizers.__version__}",
        "sentence_piece": [sentence_piece(text, prefix) for prefix in (True, False)],
        "byte_level": [
            byte_level(text, LLAMA_3, "llama-bpe", None, True),
            byte_level(text, QWEN_2, "qwen2", nfc, False),
        ],
        "pieces": [pieces_json(text, prepend) for prepend in ("every", "first", "never")],
    }
    lines = json.dumps(reference, ensure_ascii=False, separators=(",", ":"))
    (HERE / "tokenizers.json").write_text(lines + "\n")


main(sys.argv[1])
