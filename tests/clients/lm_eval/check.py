"""Compares what lm-eval noted with what single requests say, and fails where they differ.

Usage: check.py http://127.0.0.1:8000/v1 MODEL FOLDER-OF-LM-EVAL'S-OUTPUT
"""

import glob
import json
import sys
import urllib.request

url, model, folder = sys.argv[1:]


def post(path, body):
    request = urllib.request.Request(path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)


def tokens(text):
    body = {"model": model, "prompt": text, "add_special_tokens": False}
    return post(url.removesuffix("/v1") + "/tokenize", body)["tokens"]


def loglikelihood(context, whole):
    """Of the tokens of `whole` that follow those of `context`, each in one request of its own."""
    body = {"model": model, "prompt": whole, "max_tokens": 1, "temperature": 0, "logprobs": 0, "echo": True}
    told = post(url + "/completions", body)["choices"][0]["logprobs"]["token_logprobs"]
    return sum(told[len(context):-1])


def samples(task):
    files = glob.glob(f"{folder}/**/samples_{task}_*.jsonl", recursive=True)
    assert files, f"lm-eval left no samples of {task} in {folder}"
    with open(max(files)) as file:
        return [json.loads(line) for line in file]


compared = 0
for sample in samples("capitals_choice"):
    for arguments, noted in zip(sample["arguments"].values(), sample["filtered_resps"]):
        context, continuation = arguments["arg_0"], arguments["arg_1"]
        direct = loglikelihood(tokens(context), tokens(context + continuation))
        assert float(noted[0]) == direct, (arguments, noted, direct)
        compared += 1
info = url.removesuffix("/v1") + "/tokenizer_info"
with urllib.request.urlopen(info) as reply:
    prefix = tokens(json.load(reply)["bos_token"])
for sample in samples("sentences_rolling"):
    text = sample["arguments"]["gen_args_0"]["arg_0"]
    (noted,) = sample["filtered_resps"]
    direct = loglikelihood(prefix, prefix + tokens(text))
    assert float(noted) == direct, (text, noted, direct)
    compared += 1
print(f"ok: {compared} log-likelihoods are those of single requests")
