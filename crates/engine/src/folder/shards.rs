//! The safetensors files of a folder: one, or several under an index.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, BufReader, Read, Seek},
    path::{Component, Path, PathBuf},
};

use baton_device::Format;
use safetensors::{Dtype, tensor::Metadata};
use serde::Deserialize;

use super::hash_name;
use crate::{
    error::LoadError,
    gguf::{bytes_of, read_at},
    reader::{Stored, Tensors},
};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// The longest header the format allows.
const MAX_HEADER: u64 = 100_000_000;

/// Layers' tensors: GGUF's name, the folder's.
const LAYER_NAMES: [(&str, &str); 13] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("post_attention_norm", "post_attention_norm"),
    ("post_ffw_norm", "post_ffw_norm"),
];

#[derive(Debug, Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// All tensors of a folder.
pub(super) struct Shards {
    files: Vec<Shard>,
    renamed: &'static [(&'static str, &'static str)],
    unread: BTreeSet<String>,
}

struct Shard {
    file: BufReader<File>,
    header: Metadata,
    /// Where tensors begin, and where the file ends.
    data: u64,
    len: u64,
}

impl Shards {
    /// Opens the files and adds what is in them to `hasher`.
    pub(super) fn open(
        folder: &Path,
        renamed: &'static [(&'static str, &'static str)],
        hasher: &mut blake3::Hasher,
    ) -> Result<Self, LoadError> {
        let mut files = Vec::new();
        for name in shard_names(folder)? {
            files.push(Shard::open(&folder.join(&name), &name, hasher)?);
        }
        let names = files.iter().flat_map(|shard| shard.header.offset_keys());
        // Old folders keep what rotary positions were computed from.
        let unread = names.filter(|name| !name.ends_with("rotary_emb.inv_freq")).collect();
        Ok(Shards { files, renamed, unread })
    }

    /// Refuses tensors that nothing asked for.
    pub(super) fn all_read(mut self, architecture: &'static str) -> Result<(), LoadError> {
        match self.unread.pop_first() {
            Some(name) => Err(LoadError::UnknownTensor { name, architecture }),
            None => Ok(()),
        }
    }

    /// The folder's name of the tensor that GGUF files call `name`.
    fn translate(&self, name: &str) -> String {
        let plain = match name {
            "token_embd.weight" => Some("model.embed_tokens.weight"),
            "output_norm.weight" => Some("model.norm.weight"),
            "output.weight" => Some("lm_head.weight"),
            _ => None,
        };
        let layer = || {
            let (index, tensor) = name.strip_prefix("blk.")?.split_once('.')?;
            let (part, kind) = tensor.rsplit_once('.')?;
            let known = self.renamed.iter().chain(&LAYER_NAMES);
            let (_, theirs) = known.clone().find(|(ours, _)| *ours == part)?;
            Some(format!("model.layers.{index}.{theirs}.{kind}"))
        };
        plain.map(str::to_owned).or_else(layer).unwrap_or_else(|| name.to_owned())
    }
}

/// The files tensors are in, ascending: all of them beside the index.
fn shard_names(folder: &Path) -> Result<BTreeSet<String>, LoadError> {
    let path = folder.join(INDEX);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(BTreeSet::from([SINGLE.to_owned()]));
        }
        Err(source) => return Err(LoadError::Open { path, source }),
    };
    let index: Index = serde_json::from_str(&text)
        .map_err(|source| LoadError::Json { path: path.clone(), source })?;
    let beside = |file: &str| {
        let mut parts = Path::new(file).components();
        matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
    };
    match index.weight_map.iter().find(|(_, file)| !beside(file)) {
        Some((tensor, file)) => {
            Err(LoadError::OutsideFolder { path, tensor: tensor.clone(), file: file.clone() })
        }
        None => Ok(index.weight_map.into_values().collect()),
    }
}

impl Shard {
    fn open(path: &Path, name: &str, hasher: &mut blake3::Hasher) -> Result<Self, LoadError> {
        let open = |source| LoadError::Open { path: path.to_owned(), source };
        let mut file = BufReader::with_capacity(1 << 20, File::open(path).map_err(open)?);
        let len = file.get_ref().metadata().map_err(open)?.len();
        hash_name(hasher, name, len);
        io::copy(&mut file, hasher).map_err(open)?;
        file.rewind().map_err(open)?;
        let (header, data) = read_header(&mut file, len)
            .map_err(|why| LoadError::Safetensors { path: PathBuf::from(path), why })?;
        Ok(Shard { file, header, data, len })
    }
}

/// The header, and where it ends. The crate checks that tensors fill the data without a gap.
fn read_header(file: &mut impl Read, len: u64) -> Result<(Metadata, u64), String> {
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|_| format!("it has {len} bytes"))?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER.min(len.saturating_sub(8)) {
        return Err(format!("its header takes {length} bytes of {len}"));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(|error| error.to_string())?;
    let header: Metadata = serde_json::from_slice(&header).map_err(|error| error.to_string())?;
    let (data, tensors) = (8 + length, header.data_len() as u64);
    if data.checked_add(tensors) != Some(len) {
        return Err(format!("its tensors take {tensors} bytes, {} are there", len - data));
    }
    Ok((header, data))
}

impl Tensors for Shards {
    fn contains(&self, name: &str) -> bool {
        let name = self.translate(name);
        self.files.iter().any(|shard| shard.header.info(&name).is_some())
    }

    fn read(&mut self, name: &str, expected: &[usize]) -> Result<Stored, LoadError> {
        let name = self.translate(name);
        let found = self.files.iter_mut().find_map(|shard| {
            let info = shard.header.info(&name)?;
            let (start, dims, dtype) = (info.data_offsets.0, info.shape.clone(), info.dtype);
            Some((shard, start, dims, dtype))
        });
        let (shard, start, dims, dtype) = found.ok_or_else(|| LoadError::missing(&name))?;
        if dims != expected {
            return Err(LoadError::Shape { name, given: dims, expected: expected.to_vec() });
        }
        let format = match dtype {
            Dtype::F32 => Format::F32,
            Dtype::F16 => Format::F16,
            Dtype::BF16 => Format::BF16,
            given => return Err(LoadError::Format { name, given: format!("{given:?}") }),
        };
        let (start, bytes) = (shard.data + start as u64, bytes_of(format, expected));
        let data = read_at(&mut shard.file, shard.len, start, bytes, &name)?;
        self.unread.remove(&name);
        Ok(Stored { format, data })
    }
}
