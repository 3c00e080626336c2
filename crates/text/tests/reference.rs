//! Against the libraries whose vocabularies these are; `make_reference.py` wrote the file.
#![allow(clippy::unwrap_used)]

use baton_text::{
    HuggingFace, SpacePrefix, TextAssets, TextModel, Texts, TokenizerKind, merges_of_scores,
};
use baton_types::TokenId;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Reference {
    sentence_piece: Vec<SentencePiece>,
    byte_level: Vec<ByteLevel>,
    pieces: Vec<Pieces>,
}

/// A vocabulary with scores, as GGUF files have it.
#[derive(Deserialize)]
struct SentencePiece {
    space_prefix: bool,
    tokens: Vec<String>,
    types: Vec<u32>,
    scores: Vec<f32>,
    texts: Vec<Text>,
}

#[derive(Deserialize)]
struct ByteLevel {
    pre: String,
    normalizes: bool,
    bos: bool,
    tokenizer: Value,
    texts: Vec<Text>,
}

/// A `tokenizer.json` made from SentencePiece.
#[derive(Deserialize)]
struct Pieces {
    prepend: String,
    tokenizer: Value,
    texts: Vec<Text>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<TokenId>,
    decoded: Option<String>,
}

fn reference() -> Reference {
    serde_json::from_str(include_str!("reference/tokenizers.json")).unwrap()
}

fn check(model: &TextModel, texts: &[Text], what: &str) {
    for Text { text, ids, decoded } in texts {
        assert_eq!(&model.encode(text).unwrap(), ids, "{what}: {text:?}");
        if let Some(decoded) = decoded {
            assert_eq!(&model.decode(ids), decoded, "{what}: {text:?}");
        }
    }
}

fn from_json(tokenizer: &Value) -> TextAssets {
    HuggingFace {
        tokenizer: &tokenizer.to_string(),
        settings: None,
        template: None,
        bos: Some(TokenId(0)),
        eos: vec![TokenId(1)],
        vocab: 700,
    }
    .assets()
    .unwrap()
}

#[test]
fn scores_give_sentence_pieces_ids() {
    for SentencePiece { space_prefix, tokens, types, scores, texts } in reference().sentence_piece {
        let tokens: Texts = tokens.into_iter().collect();
        let merges = merges_of_scores(&tokens, &types, &scores);
        let model = TextModel::new(TextAssets {
            kind: TokenizerKind::SentencePiece,
            tokens,
            token_types: types,
            merges,
            space_prefix: if space_prefix { SpacePrefix::EveryText } else { SpacePrefix::Never },
            ..TextAssets::bytes()
        });
        check(&model.unwrap(), &texts, &format!("space prefix {space_prefix}"));
    }
}

#[test]
fn a_tokenizer_json_gives_its_librarys_ids() {
    let Reference { byte_level, pieces, .. } = reference();
    for ByteLevel { pre, bos, tokenizer, texts, .. } in byte_level {
        let assets = from_json(&tokenizer);
        assert_eq!((assets.kind, assets.add_bos), (TokenizerKind::ByteBpe, bos));
        check(&TextModel::new(assets).unwrap(), &texts, &pre);
    }
    for Pieces { prepend, tokenizer, texts } in pieces {
        let assets = from_json(&tokenizer);
        assert_eq!(assets.kind, TokenizerKind::SentencePiece);
        check(&TextModel::new(assets).unwrap(), &texts, &prepend);
    }
}

/// The same vocabulary under GGUF's name for the way it cuts text. Such files don't say that text
/// is composed first.
#[test]
fn ggufs_names_cut_text_as_the_tokenizer_json_does() {
    for ByteLevel { pre, normalizes, tokenizer, texts, .. } in reference().byte_level {
        let assets = TextAssets { pre: pre.clone(), ..from_json(&tokenizer) };
        let composed = |text: &Text| !(normalizes && text.text.contains('\u{301}'));
        let texts: Vec<_> = texts.into_iter().filter(composed).collect();
        check(&TextModel::new(assets).unwrap(), &texts, &pre);
    }
}

#[test]
fn the_neighbours_of_a_tokenizer_json_are_read() {
    let tokenizer = r#"{ "model": { "type": "BPE", "vocab": { "a": 0, "b": 1, "far": 9 }, "merges": [] },
        "added_tokens": [{ "id": 2, "content": "<s>", "special": true },
                         { "id": 3, "content": "</s>", "special": true }] }"#;
    let folder = HuggingFace {
        tokenizer,
        settings: None,
        template: None,
        bos: None,
        eos: vec![TokenId(1)],
        vocab: 5,
    };
    let plain = folder.clone().assets().unwrap();
    assert_eq!(plain.tokens.to_strings(), ["a", "b", "<s>", "</s>", ""]);
    assert_eq!(plain.token_types, [1, 1, 3, 3, 5]);
    assert_eq!((plain.bos, plain.add_bos, plain.eos), (None, false, vec![TokenId(1)]));

    let settings = r#"{ "bos_token": "<s>", "eos_token": { "content": "</s>" },
        "add_bos_token": true,
        "chat_template": [{ "name": "tools", "template": "x" }, { "name": "default", "template": "y" }] }"#;
    let told = HuggingFace { settings: Some(settings), ..folder.clone() }.assets().unwrap();
    assert_eq!((told.bos, told.add_bos), (Some(TokenId(2)), true));
    assert_eq!(told.eos, [TokenId(3), TokenId(1)]);
    assert_eq!(told.chat_template, "y");
    let beside = HuggingFace { settings: Some(settings), template: Some("z"), ..folder.clone() };
    assert_eq!(beside.assets().unwrap().chat_template, "z");

    for (tokenizer, part) in [
        ("{}", "model"),
        (r#"{ "model": { "type": "Unigram", "vocab": {} } }"#, "Unigram"),
        (r#"{ "model": { "merges": [["a b", "c"]] } }"#, "\"a b\""),
        ("[", "tokenizer.json"),
    ] {
        let error = HuggingFace { tokenizer, ..folder.clone() }.assets().unwrap_err().to_string();
        assert!(error.contains(part), "{part} isn't in: {error}");
    }
}
