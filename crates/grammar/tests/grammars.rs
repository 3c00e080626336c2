//! One model's grammars, as a node keeps them.

use std::sync::Arc;

use baton_grammar::{Compiled, GrammarError, Grammars};
use baton_text::TextAssets;
use baton_types::{Constraint, Grammar, TokenId, TokenMask};

/// The bytes that may follow `output`; 256 ends it.
fn after(compiled: &Compiled, output: &str) -> Vec<u32> {
    let output: Vec<TokenId> = output.bytes().map(|byte| TokenId(byte.into())).collect();
    let mut mask = TokenMask::default();
    compiled.allowed(&output, &mut mask).expect("something may follow");
    mask.iter().map(|token| token.0).collect()
}

#[test]
fn sequences_with_one_grammar_go_their_own_ways() {
    let grammars = Grammars::of_assets(Arc::new(TextAssets::bytes()));
    let grammar = Grammar::Regex("ab|cd".into());
    grammars.check(&grammar).unwrap();
    let (first, second) =
        (grammars.compile(&grammar).unwrap(), grammars.compile(&grammar).unwrap());
    assert_eq!(after(&first, "a"), [u32::from(b'b')]);
    assert_eq!(after(&second, ""), [b'a', b'c'].map(u32::from));
    assert_eq!(after(&second, "c"), [u32::from(b'd')]);
    assert_eq!(after(&first, "ab"), [256]);
    assert_eq!(after(&grammars.compile(&grammar).unwrap(), ""), [b'a', b'c'].map(u32::from));
}

#[test]
fn a_bad_grammar_stays_bad() {
    let grammars = Grammars::of_assets(Arc::new(TextAssets::bytes()));
    let itself = Grammar::Lark("start: start".into());
    for _ in 0..2 {
        assert!(matches!(grammars.check(&itself), Err(GrammarError::Refused { .. })));
    }
}

/// However many ask at once, before or after it is prepared.
#[test]
fn whoever_comes_early_waits_for_the_vocabulary() {
    let endless = TextAssets { eos: Vec::new(), ..TextAssets::bytes() };
    for (assets, expected) in [(TextAssets::bytes(), Ok(())), (endless, Err(GrammarError::NoEnd))] {
        let grammars = Grammars::of_assets(Arc::new(assets));
        std::thread::scope(|scope| {
            scope.spawn(|| grammars.prepare());
            for n in 0..4 {
                let grammar = Grammar::Regex(format!("a{{{n}}}b").into());
                let (grammars, expected) = (&grammars, &expected);
                scope.spawn(move || assert_eq!(grammars.check(&grammar), *expected));
            }
        });
    }
}
