"""What schemathesis needs to know of Baton; `openapi_client.py` loads it."""

import schemathesis
from schemathesis.specs.openapi.checks import positive_data_acceptance

# Refusals of what only two parameters together make wrong, or a schema can't say.
RULES = [
    "min_tokens is ",
    "best_of",
    "'stream_options' parameter is only allowed when 'stream' is enabled",
    "'top_logprobs' parameter is only allowed when 'logprobs' is true",
    "'tool_choice' is only allowed when 'tools' are specified",
    "not found in 'tools' parameter",
    "both say what the output must match",
    "ignore_eos contradicts a grammar",
    "a stop string has",
    " prompts are given, for ",
    # Too small for 32 bits.
    " is 0; it must be a number above 0",
]


@schemathesis.check
def accepted_unless_rules_between_parameters_forbid(ctx, response, case):
    if response.status_code == 400:
        message = response.json()["error"]["message"]
        if any(rule in message for rule in RULES):
            return None
    return positive_data_acceptance(ctx, response, case)
