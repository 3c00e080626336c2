//! Folders as Hugging Face lays them out: `config.json`, safetensors files, `tokenizer.json`.

mod config;
mod shards;

use std::{fs, io, path::Path, sync::Arc};

use baton_device::WeightMemory;
use baton_text::{HuggingFace, TextAssets};
use serde::de::DeserializeOwned;

use crate::{
    error::LoadError,
    folder::{
        config::{Config, Generation},
        shards::Shards,
    },
    model::Model,
    reader::{Pairs, Reader},
};

pub(crate) fn load(path: &Path, progress: &mut dyn FnMut(u64)) -> Result<Model, LoadError> {
    let mut folder = Folder { path, hasher: blake3::Hasher::new() };
    let config: Config = folder.json("config.json")?;
    let architecture = config.architecture()?;
    let declared = config.declared(architecture)?;
    let reach = (architecture.reach)(&declared)?;
    let mut shards = Shards::open(path, architecture.renamed, &mut folder.hasher)?;
    let (shape, parts) = (declared.shape, architecture.parts);
    let reader = Reader {
        tensors: &mut shards,
        memory: WeightMemory::default(),
        progress,
        shape,
        parts,
        pairs: Pairs::Halves,
        norm_offset: architecture.norm_offset,
    };
    let weights = reader.weights()?;
    shards.all_read(architecture.model_type)?;
    // Only now is the vocabulary known to be as large as it is said to be.
    let text = folder.text(&config, shape.vocab)?;
    let hash = *folder.hasher.finalize().as_bytes();
    Ok(Model { weights, shape, parts, reach, hash, text: Arc::new(text) })
}

/// A folder's small files; everything read goes into the hash, in the order of reading.
struct Folder<'a> {
    path: &'a Path,
    hasher: blake3::Hasher,
}

impl Folder<'_> {
    /// What the model's language is: tokeniser, template, ends.
    fn text(&mut self, config: &Config, vocab: usize) -> Result<TextAssets, LoadError> {
        let tokenizer = self.text_file("tokenizer.json")?;
        let settings = self.optional("tokenizer_config.json")?;
        let template = self.optional("chat_template.jinja")?;
        let generation = self.optional_json::<Generation>("generation_config.json")?;
        let ends = generation.into_iter().flat_map(Generation::ends).chain(config.ends());
        Ok(HuggingFace {
            tokenizer: &tokenizer,
            settings: settings.as_deref(),
            template: template.as_deref(),
            bos: config.bos(),
            eos: ends.collect(),
            vocab,
        }
        .assets()?)
    }

    fn json<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, LoadError> {
        let text = self.text_file(name)?;
        self.parse(name, &text)
    }

    fn optional_json<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, LoadError> {
        let text = self.optional(name)?;
        text.map(|text| self.parse(name, &text)).transpose()
    }

    fn parse<T: DeserializeOwned>(&self, name: &str, text: &str) -> Result<T, LoadError> {
        serde_json::from_str(text)
            .map_err(|source| LoadError::Json { path: self.path.join(name), source })
    }

    fn optional(&mut self, name: &str) -> Result<Option<String>, LoadError> {
        match self.text_file(name) {
            Err(LoadError::Open { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            text => text.map(Some),
        }
    }

    fn text_file(&mut self, name: &str) -> Result<String, LoadError> {
        let path = self.path.join(name);
        let text = fs::read_to_string(&path).map_err(|source| LoadError::Open { path, source })?;
        hash_name(&mut self.hasher, name, text.len() as u64);
        self.hasher.update(text.as_bytes());
        Ok(text)
    }
}

/// What parts one file from the next in the hash.
fn hash_name(hasher: &mut blake3::Hasher, name: &str, len: u64) {
    hasher.update(&(name.len() as u64).to_le_bytes());
    hasher.update(name.as_bytes());
    hasher.update(&len.to_le_bytes());
}
