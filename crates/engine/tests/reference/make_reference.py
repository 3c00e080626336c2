"""Writes llama_cpp.json: what llama.cpp makes of the default model and of english.txt.

    pip install llama-cpp-python==0.3.36
    python3 make_reference.py MODEL.gguf

The package builds llama.cpp, which takes a while; the tests read only the file it writes.
"""

import importlib.metadata
import json
import pathlib
import sys

import numpy as np
from llama_cpp import Llama
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

HERE = pathlib.Path(__file__).parent
WINDOW = 500
NEW_TOKENS = 24

TEXTS = [
    "Hello, world!",
    "  two leading spaces, a tab\t and\n\n\nthree newlines ",
    "I'll say it's 3.14159 or 1,000,000; don't you?",
    "naïve café, Größe, Ελληνικά, русский, עברית, हिन्दी",
    "日本語とひらがなカタカナ、한국어",
    "emoji: 🏃‍♀️➡️🥇 and flags 🇫🇷",
    "def f(x):\n    return {'a': [1, 2, 3], \"b\": x ** 2}  # comment",
    "<|im_start|>user\nHi<|im_end|>\n",
    "a" * 70,
    "x̂ = ∑ᵢ xᵢ² ≤ ∞ \u00a0\u200b\ufeff",
]
PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "Water boils at",
    "def fibonacci(n):\n",
    "The three primary colours are",
    "Q: How many legs does a spider have?\nA:",
]
CONVERSATIONS = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [
        {"role": "system", "content": "You answer briefly."},
        {"role": "user", "content": "What is the capital of France?"},
    ],
    [
        {"role": "user", "content": "Name a colour."},
        {"role": "assistant", "content": "Blue."},
        {"role": "user", "content": "Another one, please."},
    ],
]


def main(path):
    model = Llama(path, n_ctx=2048, n_batch=WINDOW, n_threads=2, logits_all=True, verbose=False)
    names = {"bos": model.token_bos(), "eos": model.token_eos()}
    text_of = {key: model._model.token_get_text(id) for key, id in names.items()}
    template = Jinja2ChatFormatter(
        template=model.metadata["tokenizer.chat_template"],
        eos_token=text_of["eos"],
        bos_token=text_of["bos"],
    )

    def tokenize(text):
        return model.tokenize(text.encode(), add_bos=False, special=True)

    def logits(ids):
        model.reset()
        model.eval(ids)
        return np.array(model.scores[: len(ids)], dtype=np.float64)

    def greedy(ids):
        ids = list(ids)
        begin = len(ids)
        for _ in range(NEW_TOKENS):
            ids.append(int(logits(ids)[-1].argmax()))
        return ids[begin:]

    def negative_log_likelihoods(ids):
        """Of the second half of a window, each token given all before it."""
        rows = logits(ids)[WINDOW // 2 - 1 : -1]
        highest = rows.max(axis=1)
        norm = highest + np.log(np.exp(rows - highest[:, None]).sum(axis=1))
        return norm - rows[np.arange(len(rows)), ids[WINDOW // 2 :]]

    english = tokenize((HERE / "english.txt").read_text())
    windows = [english[at : at + WINDOW] for at in range(0, len(english) - WINDOW + 1, WINDOW)]
    nlls = np.concatenate([negative_log_likelihoods(window) for window in windows])
    chats = []
    for messages in CONVERSATIONS:
        ids = tokenize(template(messages=messages).prompt)
        chats.append({"messages": messages, "prompt": ids, "tokens": greedy(ids)})
    reference = {
        "made_with": f"llama-cpp-python {importlib.metadata.version('llama-cpp-python')}",
        "texts": [{"text": text, "ids": tokenize(text)} for text in TEXTS],
        "english": english,
        "window": WINDOW,
        "perplexity": float(np.exp(nlls.mean())),
        "greedy": [{"prompt": tokenize(text), "tokens": greedy(tokenize(text))} for text in PROMPTS],
        "chats": chats,
    }
    lines = json.dumps(reference, indent=None, separators=(",", ":"))
    (HERE / "llama_cpp.json").write_text(lines + "\n")


main(sys.argv[1])
