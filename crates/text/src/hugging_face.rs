//! What a Hugging Face folder says about a model's language: `tokenizer.json` and its neighbours.

use std::collections::HashMap;

use baton_types::TokenId;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    assets::{
        SpacePrefix, TYPE_BYTE, TYPE_CONTROL, TYPE_NORMAL, TYPE_UNKNOWN, TYPE_UNUSED,
        TYPE_USER_DEFINED, TextAssets, TokenizerKind,
    },
    bytes::byte_of,
    texts::Texts,
};

/// Why a folder's language is of no use.
#[derive(Debug, thiserror::Error)]
pub enum AssetsError {
    #[error("{file} is not what it should be: {source}")]
    Json { file: &'static str, source: serde_json::Error },
    #[error("tokenizer.json has a {given:?} model; this one takes BPE")]
    Model { given: String },
    #[error("merge {index} in tokenizer.json has a space in a part: {given:?}")]
    Merge { index: usize, given: Vec<String> },
}

/// The files of a folder, unread.
#[derive(Clone, Debug)]
pub struct HuggingFace<'a> {
    /// `tokenizer.json`.
    pub tokenizer: &'a str,
    /// `tokenizer_config.json`.
    pub settings: Option<&'a str>,
    /// `chat_template.jinja`.
    pub template: Option<&'a str>,
    /// `config.json`'s.
    pub bos: Option<TokenId>,
    pub eos: Vec<TokenId>,
    /// Tokens the model has a logit for.
    pub vocab: usize,
}

#[derive(Debug, Deserialize)]
struct TokenizerJson {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    model: ModelJson,
}

#[derive(Debug, Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Debug, Deserialize)]
struct ModelJson {
    r#type: Option<String>,
    #[serde(default)]
    vocab: HashMap<String, u32>,
    #[serde(default)]
    merges: Vec<Merge>,
    unk_token: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
}

/// Older files have one string, newer ones two.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Merge {
    Joined(String),
    Parts(Vec<String>),
}

#[derive(Debug, Default, Deserialize)]
struct Settings {
    chat_template: Option<Value>,
    add_bos_token: Option<bool>,
    bos_token: Option<Value>,
    eos_token: Option<Value>,
}

fn parse<'a, T: Deserialize<'a>>(file: &'static str, text: &'a str) -> Result<T, AssetsError> {
    serde_json::from_str(text).map_err(|source| AssetsError::Json { file, source })
}

impl HuggingFace<'_> {
    pub fn assets(self) -> Result<TextAssets, AssetsError> {
        let tokenizer: TokenizerJson = parse("tokenizer.json", self.tokenizer)?;
        let settings = self.settings.map(|text| parse("tokenizer_config.json", text));
        let settings: Settings = settings.transpose()?.unwrap_or_default();
        if let Some(given) = tokenizer.model.r#type.as_ref().filter(|&kind| kind != "BPE") {
            return Err(AssetsError::Model { given: given.clone() });
        }
        let (tokens, token_types) = tokenizer.tokens(self.vocab);
        let id_of = |token: Option<&Value>| {
            let text = token_text(token?)?;
            tokens.iter().position(|token| token == text).map(|id| TokenId(id as u32))
        };
        let bos = id_of(settings.bos_token.as_ref()).or(self.bos);
        let mut eos: Vec<TokenId> = Vec::new();
        // The first is what templates call the end.
        for id in id_of(settings.eos_token.as_ref()).into_iter().chain(self.eos) {
            if !eos.contains(&id) {
                eos.push(id);
            }
        }
        let bos_text = bos.and_then(|bos| tokens.get(bos.0 as usize));
        let leads = || bos_text.is_some_and(|bos| tokenizer.begins_with(bos));
        Ok(TextAssets {
            kind: tokenizer.kind(),
            add_bos: settings.add_bos_token.unwrap_or_else(leads),
            pre: tokenizer.preparation(),
            space_prefix: tokenizer.space_prefix(),
            merges: tokenizer.model.merges()?,
            chat_template: match self.template {
                Some(template) => template.to_owned(),
                None => settings.chat_template.as_ref().and_then(template_text).unwrap_or_default(),
            },
            tokens,
            token_types,
            bos,
            eos,
        })
    }
}

/// A token in `tokenizer_config.json`: its text, or an object with it.
fn token_text(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// One template, or a list of named ones.
fn template_text(template: &Value) -> Option<String> {
    let named = || {
        let list = template.as_array()?;
        let default = list.iter().find(|entry| entry["name"] == "default").or(list.first())?;
        default["template"].as_str()
    };
    template.as_str().or_else(named).map(str::to_owned)
}

impl TokenizerJson {
    fn kind(&self) -> TokenizerKind {
        match self.model.byte_fallback {
            true => TokenizerKind::SentencePiece,
            false => TokenizerKind::ByteBpe,
        }
    }

    /// Texts and GGUF's types of `vocab` tokens, by id. Ids beyond are left out: the model can
    /// neither read nor write them.
    fn tokens(&self, vocab: usize) -> (Texts, Vec<u32>) {
        let mut tokens = vec![(String::new(), TYPE_UNUSED); vocab];
        let plain = self.model.vocab.iter().map(|(text, &id)| (text, id, self.type_of(text)));
        let added = self.added_tokens.iter().map(|token| {
            let kind = if token.special { TYPE_CONTROL } else { TYPE_USER_DEFINED };
            (&token.content, token.id, kind)
        });
        for (text, id, kind) in plain.chain(added) {
            if let Some(token) = tokens.get_mut(id as usize) {
                *token = (text.clone(), kind);
            }
        }
        let types = tokens.iter().map(|(_, kind)| *kind).collect();
        (tokens.iter().map(|(text, _)| text).collect(), types)
    }

    fn type_of(&self, text: &str) -> u32 {
        if self.model.unk_token.as_deref() == Some(text) {
            TYPE_UNKNOWN
        } else if self.model.byte_fallback && byte_of(text).is_some() {
            TYPE_BYTE
        } else {
            TYPE_NORMAL
        }
    }

    /// What [`crate::pre::Preparation`] reads.
    fn preparation(&self) -> String {
        json!({
            "normalizer": self.normalizer,
            "pre_tokenizer": self.pre_tokenizer,
            "ignore_merges": self.model.ignore_merges,
        })
        .to_string()
    }

    /// SentencePiece's is a step of the normaliser, or, newer, of the pre-tokeniser.
    fn space_prefix(&self) -> SpacePrefix {
        let prepends = steps(&self.normalizer, "normalizers").any(|step| step["type"] == "Prepend");
        let scheme = steps(&self.pre_tokenizer, "pretokenizers")
            .find(|step| step["type"] == "Metaspace")
            .map(|step| step["prepend_scheme"].as_str().unwrap_or("always").to_owned());
        match (prepends, scheme.as_deref()) {
            (true, _) | (_, Some("always")) => SpacePrefix::EveryText,
            (_, Some("first")) => SpacePrefix::First,
            _ => SpacePrefix::Never,
        }
    }

    /// Whether the post-processor puts `bos` before every text.
    fn begins_with(&self, bos: &str) -> bool {
        steps(&self.post_processor, "processors").any(|step| {
            step["type"] == "TemplateProcessing" && step["single"][0]["SpecialToken"]["id"] == bos
        })
    }
}

/// A step of `tokenizer.json`, or those of a sequence under `key`.
fn steps<'a>(step: &'a Option<Value>, key: &str) -> impl Iterator<Item = &'a Value> {
    let inner = step.as_ref().and_then(|step| step[key].as_array());
    let alone = step.as_ref().filter(|_| inner.is_none());
    inner.into_iter().flatten().chain(alone)
}

impl ModelJson {
    fn merges(self) -> Result<Texts, AssetsError> {
        let join = |(index, merge)| match merge {
            Merge::Joined(merge) => Ok(merge),
            Merge::Parts(parts) if parts.iter().any(|part| part.contains(' ')) => {
                Err(AssetsError::Merge { index, given: parts })
            }
            Merge::Parts(parts) => Ok(parts.join(" ")),
        };
        self.merges.into_iter().enumerate().map(join).collect()
    }
}
