//! A loaded model, from whichever kind of file.

use std::{
    fs, io,
    path::{Component, Path},
    sync::Arc,
};

use baton_text::TextAssets;

use crate::{
    architecture::{Parts, Reach},
    error::LoadError,
    folder, gguf,
    weights::{Layer, Shape, Weights},
};

/// A loaded model: weights packed for the kernels, and the language it speaks.
#[derive(Debug)]
pub struct Model {
    pub(crate) weights: Weights,
    pub(crate) shape: Shape,
    pub(crate) parts: Parts,
    pub(crate) reach: Reach,
    /// BLAKE3 of everything that was read.
    pub(crate) hash: [u8; 32],
    pub text: Arc<TextAssets>,
}

impl Model {
    /// Reads and repacks the GGUF file or the folder of safetensors files at `path`. Takes about as
    /// long as reading it twice.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        Self::load_telling(path, &mut |_| {})
    }

    /// The same; `progress` is told, matrix by matrix, of so many bytes more that have been read, of
    /// [`Model::stored_bytes`] or a little less.
    pub fn load_telling(path: &Path, progress: &mut dyn FnMut(u64)) -> Result<Self, LoadError> {
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => folder::load(path, progress),
            Ok(_) => gguf::load(path, progress),
            Err(source) => Err(absent(path, source)),
        }
    }

    /// Bytes of weights that [`Model::load`] would read at `path`: about what they take in memory.
    pub fn stored_bytes(path: &Path) -> Result<u64, LoadError> {
        let found = fs::metadata(path).map_err(|source| absent(path, source))?;
        if !found.is_dir() {
            return Ok(found.len());
        }
        let open = |source| LoadError::Open { path: path.to_owned(), source };
        let mut bytes = 0;
        for entry in fs::read_dir(path).map_err(open)? {
            let path = entry.map_err(open)?.path();
            if path.extension().is_some_and(|extension| extension == "safetensors") {
                // Hubs' caches are links.
                bytes += fs::metadata(&path).map_err(open)?.len();
            }
        }
        Ok(bytes)
    }

    /// The longest sequence the model was trained for, in tokens.
    pub fn max_context(&self) -> u32 {
        self.shape.context
    }

    /// Weights of all layers: what every token is multiplied with. The output's come on top for those that sample.
    pub fn layer_weights(&self) -> usize {
        self.weights.layers.iter().flat_map(Layer::matrices).map(|m| m.rows() * m.cols()).sum()
    }

    /// Bytes the weights take in memory.
    pub fn weight_bytes(&self) -> usize {
        self.weights.bytes()
    }
}

fn absent(path: &Path, source: io::Error) -> LoadError {
    match path.to_str() {
        Some(id) if source.kind() == io::ErrorKind::NotFound && is_hub_id(path) => {
            LoadError::HubId { id: id.to_owned() }
        }
        _ => LoadError::Open { path: path.to_owned(), source },
    }
}

/// `owner/name`, and no file's name.
fn is_hub_id(path: &Path) -> bool {
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    plain && path.components().count() == 2 && path.extension().is_none_or(|ext| ext != "gguf")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_ids_are_told_from_paths() {
        for (path, expected) in [
            ("Qwen/Qwen2.5-0.5B-Instruct", true),
            ("mistralai/Mistral-7B-v0.1", true),
            ("models/llama.gguf", false),
            ("/models/llama", false),
            ("./models/llama", false),
            ("../llama", false),
            ("llama", false),
            ("a/b/c", false),
        ] {
            assert_eq!(is_hub_id(Path::new(path)), expected, "{path}");
        }
    }
}
