//! Grammars over the vocabulary of bytes.

use baton_grammar::{Compiled, GrammarError, Vocabulary};
use baton_text::{TextAssets, TextModel};
use baton_types::{Constraint, Grammar, TokenId, TokenMask};
use proptest::prelude::*;

/// Token 256 of the bytes' language.
const END: TokenId = TokenId(256);

fn vocabulary() -> Vocabulary {
    let text = TextModel::new(TextAssets::bytes()).expect("a language");
    Vocabulary::new(&text).expect("a vocabulary")
}

fn schema(source: &str) -> Grammar {
    Grammar::JsonSchema(source.into())
}

fn regex(source: &str) -> Grammar {
    Grammar::Regex(source.into())
}

fn lark(source: &str) -> Grammar {
    Grammar::Lark(source.into())
}

fn any_of(grammars: Vec<Grammar>) -> Grammar {
    Grammar::AnyOf(grammars.into())
}

const PERSON: &str = r##"{
    "type": "object",
    "properties": {
        "name": { "type": "string", "maxLength": 8 },
        "age": { "type": "integer", "minimum": 0, "maximum": 150 },
        "friends": { "type": "array", "items": { "$ref": "#" }, "maxItems": 2 }
    },
    "required": ["name", "age"],
    "additionalProperties": false
}"##;

fn grammars() -> Vec<Grammar> {
    vec![
        schema(PERSON),
        schema(r#"{"enum": ["red", "green", 3]}"#),
        regex(r"(\+[0-9]{1,3} )?[0-9]{3}-[0-9]{4}"),
        lark("start: list\nlist: \"(\" (list | /[a-z]/)* \")\""),
        any_of(vec![regex("a[bc]*"), schema(PERSON), lark("start: \"ab\" start | \"!\"")]),
    ]
}

/// The tokens after `output`.
fn allowed(compiled: &Compiled, output: &[TokenId]) -> Vec<TokenId> {
    let mut mask = TokenMask::default();
    compiled.allowed(output, &mut mask).expect("something may follow");
    mask.iter().collect()
}

/// Walks a grammar by `choices` until it ends.
fn walk(compiled: &Compiled, choices: &[u8]) -> Vec<TokenId> {
    let mut output = Vec::new();
    for &choice in choices {
        let tokens = allowed(compiled, &output);
        let token = tokens[usize::from(choice) % tokens.len()];
        if token == END {
            break;
        }
        output.push(token);
    }
    output
}

/// Whether `text` can be an output to its last byte, and end there.
fn matches(compiled: &Compiled, text: &str) -> bool {
    let tokens: Vec<TokenId> = text.bytes().map(|byte| TokenId(byte.into())).collect();
    let fits = (0..tokens.len()).all(|at| allowed(compiled, &tokens[..at]).contains(&tokens[at]));
    fits && allowed(compiled, &tokens).contains(&END)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// `same-tokens`: rebuilt from token ids anywhere, a grammar allows what it did.
    #[test]
    fn rebuilt_from_ids_equals_incremental(
        which in 0..5_usize,
        choices in prop::collection::vec(any::<u8>(), 1..40),
        at in any::<prop::sample::Index>(),
    ) {
        let (vocabulary, grammar) = (vocabulary(), &grammars()[which]);
        let compile = || vocabulary.compile(grammar).unwrap();
        let going = compile();
        let output = walk(&going, &choices);
        let at = at.index(output.len() + 1);
        let rebuilt = compile();
        for end in at..=output.len() {
            prop_assert_eq!(allowed(&going, &output[..end]), allowed(&compile(), &output[..end]));
            prop_assert_eq!(allowed(&rebuilt, &output[..end]), allowed(&compile(), &output[..end]));
        }
        prop_assert_eq!(allowed(&going, &output[..at]), allowed(&compile(), &output[..at]));
    }
}

#[test]
fn grammars_take_what_matches_and_nothing_else() {
    let vocabulary = vocabulary();
    let check = |grammar: Grammar, good: &[&str], bad: &[&str]| {
        for text in good {
            let compiled = vocabulary.compile(&grammar).unwrap();
            assert!(matches(&compiled, text), "{text:?} against {grammar:?}");
        }
        for text in bad {
            let compiled = vocabulary.compile(&grammar).unwrap();
            assert!(!matches(&compiled, text), "{text:?} against {grammar:?}");
        }
    };
    check(
        schema(PERSON),
        &[
            r#"{"name": "Ada", "age": 36}"#,
            r#"{"name": "A", "age": 1, "friends": [{"name": "B", "age": 2}]}"#,
        ],
        &[r#"{"name": "Ada"}"#, r#"{"name": "Ada", "age": 151}"#, r#"{"name": "Ada", "age": 3"#],
    );
    check(regex("[ab]{2}c?"), &["ab", "bbc"], &["a", "abcc", "AB"]);
    check(lark("start: \"x\" start \"y\" | \"z\""), &["z", "xzy", "xxxzyyy"], &["xz", "xxzy", ""]);
    // Greedy, each on its own: what one takes for a longer token leaves the other as it is.
    check(
        any_of(vec![lark("start: \"<\" (\"title\" | \"tool\") \">\""), regex("<tool_call>|<t+>")]),
        &["<title>", "<tool>", "<tool_call>", "<tt>"],
        &["<tool_call", "<title", "<tool_>", "<", ""],
    );
    check(any_of(vec![regex("a"), regex("ab*"), regex("")]), &["", "a", "abb"], &["b", "aa"]);
    check(schema(r#"{"type": "object"}"#), &[r#"{}"#, r#"{"a": [1, {"b": null}]}"#], &["[]", "1"]);
}

#[test]
fn a_finished_grammar_leaves_the_end_alone() {
    let compiled = vocabulary().compile(&regex("yes|no")).unwrap();
    let yes: Vec<TokenId> = b"yes".iter().map(|&byte| TokenId(byte.into())).collect();
    assert_eq!(allowed(&compiled, &yes), [END]);
    let mut mask = TokenMask::default();
    let error = compiled.allowed(&[TokenId(b'x'.into())], &mut mask).unwrap_err();
    assert_eq!(error.emitted, 1, "{error}");
}

#[test]
fn what_cannot_be_a_grammar_is_refused() {
    let vocabulary = vocabulary();
    let nested = |depth: usize| {
        let (open, close) = (r#"{"type":"array","items":"#.repeat(depth), "}".repeat(depth));
        schema(&format!("{open}{{}}{close}"))
    };
    let refused = [
        schema("{"),
        schema(r#"{"type": "colour"}"#),
        schema(r##"{"$ref": "#/nowhere"}"##),
        schema(r#"{"$ref": "https://example.com/schema.json"}"#),
        schema(r#"{"type": "string", "minLength": 5, "maxLength": 2}"#),
        schema(r#"{"type": "object", "properties": 3}"#),
        schema("false"),
        nested(65),
        nested(100_000),
        regex("("),
        regex(&"(".repeat(100_000)),
        lark(""),
        lark("start: nowhere"),
        lark("begin: \"a\""),
        lark(&format!("start: {}", "(".repeat(100_000))),
        any_of(vec![regex("a"), schema("{")]),
    ];
    let taken = refused.iter().filter_map(|grammar| match vocabulary.compile(grammar) {
        Err(error) => {
            assert!(error.to_string().len() < 500, "{error}");
            None
        }
        Ok(_) => Some(grammar.sources().concat().chars().take(80).collect::<String>()),
    });
    assert_eq!(taken.collect::<Vec<_>>(), [""; 0], "these were taken");
    assert!(matches!(
        vocabulary.compile(&nested(70)),
        Err(GrammarError::TooDeep { given: 71, max: 64 })
    ));
    let long = regex(&"a".repeat(Grammar::MAX_BYTES + 1));
    assert!(matches!(vocabulary.compile(&long), Err(GrammarError::TooLong { .. })));
    assert!(vocabulary.compile(&nested(30)).is_ok());
    // A schema may refer to itself for ever: what it describes is finite at every place.
    assert!(
        vocabulary.compile(&schema(r##"{"anyOf": [{"$ref": "#"}, {"type": "null"}]}"##)).is_ok()
    );
}

#[test]
fn a_model_that_never_ends_has_no_grammars() {
    let assets = TextAssets { eos: Vec::new(), ..TextAssets::bytes() };
    let text = TextModel::new(assets).unwrap();
    assert_eq!(Vocabulary::new(&text).map(drop), Err(GrammarError::NoEnd));
}

#[test]
fn what_would_expand_without_end_is_walked_as_it_is() {
    let bombs = [
        regex("a{9999999}"),
        regex(&format!("({}){{1000}}{{1000}}{{1000}}", "a|b".repeat(50))),
        regex("(a*)*(a*)*(a*)*b"),
        lark("start: start start | \"a\" | \"\""),
    ];
    for bomb in bombs {
        let Ok(compiled) = vocabulary().compile(&bomb) else { continue };
        let output = walk(&compiled, &[0; 30]);
        assert!(output.len() <= 30, "{bomb:?}");
    }
}
