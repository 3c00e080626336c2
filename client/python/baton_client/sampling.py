"""How answers are drawn, and what they must match."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from ._proto.baton.v1 import inference_pb2 as pb

_GRAMMARS = ("json_schema", "regex", "grammar")
_FLOATS = (
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
)
_INTS = ("seed", "max_tokens", "top_k", "min_tokens", "logprobs", "n", "prompt_logprobs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn. What is left out is the router's default.

    Types are checked here (`TypeError`), values by the router, which knows the model
    (`InvalidRequest` with the field).
    """

    #: 0 is greedy, at most 2. Left out: 1.
    temperature: float | None = None
    #: Left out: drawn by the router, and told in `Started`.
    seed: int | None = None
    #: The most tokens to generate. Left out: what the context leaves.
    max_tokens: int | None = None
    #: Texts that end the answer and are not part of it; at most 16.
    stop: Sequence[str] = ()
    #: Only the likeliest so many; 0 is all.
    top_k: int | None = None
    #: The likeliest tokens that together reach this probability.
    top_p: float | None = None
    #: Tokens at least this share as likely as the likeliest.
    min_p: float | None = None
    #: The tokens closest to the distribution's entropy that together reach this probability.
    typical_p: float | None = None
    #: Above 1: tokens of the prompt and the answer become less likely.
    repetition_penalty: float | None = None
    #: From -2 to 2, for each time a token was emitted.
    frequency_penalty: float | None = None
    #: From -2 to 2, for tokens that were emitted at all.
    presence_penalty: float | None = None
    #: Added to the logits of single tokens, from -100 to 100.
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    #: Nothing ends the answer before so many tokens.
    min_tokens: int | None = None
    #: Log-probabilities of each token, and of so many of the likeliest, at most 20.
    logprobs: int | None = None
    #: The model's own end tokens don't end the answer.
    ignore_eos: bool = False
    #: More tokens that end it; they are counted and not shown.
    stop_token_ids: Sequence[int] = ()
    #: How many answers to draw, up to 128. Left out: 1.
    n: int | None = None
    #: Log-probabilities of the prompt's tokens, and of so many of the likeliest, at most 20.
    prompt_logprobs: int | None = None
    #: What the answer must match: a JSON schema, as JSON or as what JSON is made of.
    json_schema: str | Mapping[str, Any] | None = None
    #: What the whole answer must match.
    regex: str | None = None
    #: What the answer must match, in llguidance's dialect of Lark.
    grammar: str | None = None

    def __post_init__(self) -> None:
        for name in _FLOATS:
            _check(name, getattr(self, name), (float, int))
        for name in _INTS:
            _check(name, getattr(self, name), int)
        if isinstance(self.stop, str):
            raise TypeError("stop is a string; it must be a sequence of strings")
        given = [name for name in _GRAMMARS if getattr(self, name) is not None]
        if len(given) > 1:
            raise TypeError(f"{' and '.join(given)} are given; an answer matches one of them")
        _check("json_schema", self.json_schema, (str, Mapping))
        _check("regex", self.regex, str)
        _check("grammar", self.grammar, str)

    @property
    def choices(self) -> int:
        """How many answers there will be."""
        return max(1, self.n or 1)

    def to_wire(self) -> pb.Sampling:
        """As the protocol has it.

        Raises:
            ValueError: A number doesn't fit, such as a negative count.
        """
        plain = {
            spec.name: value
            for spec in fields(self)
            if spec.name not in _GRAMMARS and (value := getattr(self, spec.name)) is not None
        }
        return pb.Sampling(**plain, grammar=self._grammar())

    def _grammar(self) -> pb.Grammar | None:
        if self.json_schema is not None:
            return pb.Grammar(json_schema=as_json(self.json_schema))
        if self.regex is not None:
            return pb.Grammar(regex=self.regex)
        return None if self.grammar is None else pb.Grammar(lark=self.grammar)


def as_json(schema: str | Mapping[str, Any]) -> str:
    """A schema as JSON, whichever way it was given."""
    return schema if isinstance(schema, str) else json.dumps(schema)


def _check(name: str, value: object, kind: type | tuple[type, ...]) -> None:
    if value is None or (isinstance(value, kind) and not isinstance(value, bool)):
        return
    kinds = kind if isinstance(kind, tuple) else (kind,)
    wanted = " or ".join(each.__name__ for each in kinds)
    raise TypeError(f"{name} is {value!r}; it must be {wanted}")
