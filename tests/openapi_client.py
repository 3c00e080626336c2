"""Has schemathesis hold a cluster against the document it serves; fails with what disappoints.

Usage: openapi_client.py http://127.0.0.1:8000 MODEL VOCABULARY

The document is narrowed first by what a schema can't say: which model there is, how many tokens it
knows and how long its context is, which texts are grammars. Tests in Rust cover what is left out.
"""

import json
import os
import subprocess
import sys
import tempfile
import urllib.request

url, model, vocabulary = sys.argv[1], sys.argv[2], int(sys.argv[3])
with urllib.request.urlopen(f"{url}/openapi.json") as reply:
    document = json.load(reply)

CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
    "accepted_unless_rules_between_parameters_forbid",
]


def narrow(schemas, parameters):
    schemas["SharedRequest"]["properties"]["model"] = {"const": model}
    for request in ("TokenizeRequest", "DetokenizeRequest"):
        schemas[request]["properties"]["model"] = {"enum": [model, None]}
    schemas["TokenId"]["maximum"] = vocabulary - 1
    shared = schemas["SharedRequest"]["properties"]
    for name in ("max_tokens", "max_completion_tokens"):
        # Always given, so that answers are short.
        shared[name] = {"type": "integer", "minimum": 1, "maximum": 8}
    schemas["SharedRequest"]["required"] += ["max_tokens", "max_completion_tokens"]
    shared["min_tokens"]["maximum"] = shared["n"]["maximum"] = 8
    shared["top_k"]["maximum"] = 2**32 - 1
    shared["logit_bias"]["propertyNames"] = {"enum": ["0", "7", str(vocabulary - 1)]}
    schemas["Regex"] = {"enum": ["a", "[a-z]{2}"]}
    schemas["Lark"] = {"enum": ['start: "a"']}
    schemas["JsonSchema"] = {"enum": [True, {"type": "integer", "maximum": 9}, '{"const": 1}']}
    function = schemas["EarlierCall"]["properties"]["function"]["properties"]
    function["arguments"] = {"enum": ["", "{}", '{"a": [1]}']}
    function = schemas["Tools"]["items"]["properties"]["function"]["properties"]
    function["parameters"] = {"enum": [None, {}, {"type": "object", "properties": {"a": {"type": "boolean"}}}]}
    # What these keep would stay; tests of their own cover them.
    for path in [path for path in document["paths"] if path.startswith(("/v1/files", "/v1/batches"))]:
        del document["paths"][path]
    # Streams that can be taken up are known only to their clients.
    del parameters["LastEventId"]
    for path in document["paths"].values():
        for operation in path.values():
            kept = [one for one in operation["parameters"] if not one.get("$ref", "").endswith("LastEventId")]
            operation["parameters"] = kept


narrow(document["components"]["schemas"], document["components"]["parameters"])
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "openapi.json")
    with open(path, "w") as file:
        json.dump(document, file)
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "openapi_hooks"}
    here = os.path.dirname(os.path.abspath(__file__))
    environment["PYTHONPATH"] = os.pathsep.join([here, environment.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "schemathesis.cli", "run", path, f"--url={url}", "--seed=1"]
    command += ["--phases=examples,coverage,fuzzing", "--max-examples=40", "--max-failures=20"]
    command += [f"--checks={','.join(CHECKS)}", "--suppress-health-check=all", "--no-color", "--output-sanitize=false"]
    command += ["--request-timeout=20", "--generation-deterministic", *sys.argv[4:]]
    sys.exit(subprocess.run(command, cwd=folder, env=environment).returncode)
