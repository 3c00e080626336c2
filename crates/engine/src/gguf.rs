//! GGUF files: candle reads what they say, the tensors are taken as they lie.

use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::Path,
    sync::Arc,
    thread,
};

use baton_device::{Format, WeightMemory};
use candle_core::quantized::{
    GgmlDType,
    gguf_file::{Content, Value},
};

use crate::{
    architecture::{Architecture, Declared},
    error::LoadError,
    model::Model,
    reader::{Reader, Stored, Tensors, vector},
    rope::Scaling,
    text::text_assets,
    weights::Shape,
};

/// Bytes that are read at once.
const READ: usize = 1 << 20;

pub(crate) fn load(path: &Path, progress: &mut dyn FnMut(u64)) -> Result<Model, LoadError> {
    let open = |source| LoadError::Open { path: path.to_owned(), source };
    thread::scope(|scope| {
        // As much work as the rest.
        let hash = scope.spawn(|| hash(path));
        let model = load_weights(path, progress)?;
        let hash = hash.join().expect("hashing doesn't panic").map_err(open)?;
        Ok(Model { hash, ..model })
    })
}

/// BLAKE3 of all of it.
fn hash(path: &Path) -> io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    let mut file = BufReader::with_capacity(READ, File::open(path)?);
    io::copy(&mut file, &mut hasher)?;
    Ok(*hasher.finalize().as_bytes())
}

/// All but the hash.
fn load_weights(path: &Path, progress: &mut dyn FnMut(u64)) -> Result<Model, LoadError> {
    let open = |source| LoadError::Open { path: path.to_owned(), source };
    let file = File::open(path).map_err(open)?;
    let len = file.metadata().map_err(open)?.len();
    let mut reader = BufReader::with_capacity(READ, file);
    let content = Content::read(&mut reader)
        .map_err(|source| LoadError::Gguf { path: path.to_owned(), source })?;
    let name = value(&content, "general.architecture", Value::to_string)?;
    let architecture = Architecture::of_gguf(name)?;
    let text = text_assets(&content)?;
    let unread = content.tensor_infos.keys().cloned().collect();
    let mut file = GgufTensors { content, reader, len, unread };
    let declared = declared(&mut file, architecture)?;
    let reach = (architecture.reach)(&declared)?;
    // The vocabulary has been taken from it, and is large.
    file.content.metadata = HashMap::new();
    let reader = Reader {
        tensors: &mut file,
        memory: WeightMemory::default(),
        progress,
        shape: declared.shape,
        parts: architecture.parts,
        pairs: architecture.gguf_pairs,
        norm_offset: 0.0,
    };
    let (shape, parts, weights) = (declared.shape, architecture.parts, reader.weights()?);
    if let Some(name) = file.unread.pop_first() {
        return Err(LoadError::UnknownTensor { name, architecture: architecture.gguf });
    }
    Ok(Model { weights, shape, parts, reach, hash: [0; 32], text: Arc::new(text) })
}

/// A metadata value, or why it is of no use.
pub(crate) fn value<'a, T>(
    content: &'a Content,
    key: &str,
    read: impl Fn(&'a Value) -> candle_core::Result<T>,
) -> Result<T, LoadError> {
    optional(content, key, read)?.ok_or_else(|| LoadError::missing(key))
}

/// A metadata value that may be missing.
pub(crate) fn optional<'a, T>(
    content: &'a Content,
    key: &str,
    read: impl Fn(&'a Value) -> candle_core::Result<T>,
) -> Result<Option<T>, LoadError> {
    let refuse = |error: candle_core::Error| LoadError::Metadata {
        key: key.to_owned(),
        why: error.to_string(),
    };
    content.metadata.get(key).map(read).transpose().map_err(refuse)
}

/// Metadata of one architecture: its keys begin with its name.
struct Keys<'a> {
    content: &'a Content,
    prefix: &'static str,
}

impl Keys<'_> {
    fn optional_size(&self, key: &str) -> Result<Option<usize>, LoadError> {
        let key = format!("{}.{key}", self.prefix);
        match optional(self.content, &key, Value::to_u32)? {
            Some(0) => Err(LoadError::Metadata { key, why: "it is 0".to_owned() }),
            size => Ok(size.map(|size| size as usize)),
        }
    }

    fn size(&self, key: &str) -> Result<usize, LoadError> {
        self.optional_size(key)?.ok_or_else(|| LoadError::missing(format!("{}.{key}", self.prefix)))
    }

    fn optional_float(&self, key: &str) -> Result<Option<f32>, LoadError> {
        optional(self.content, &format!("{}.{key}", self.prefix), Value::to_f32)
    }

    fn float(&self, key: &str) -> Result<f32, LoadError> {
        self.optional_float(key)?
            .ok_or_else(|| LoadError::missing(format!("{}.{key}", self.prefix)))
    }

    fn shape(&self) -> Result<Shape, LoadError> {
        let (hidden, heads) = (self.size("embedding_length")?, self.size("attention.head_count")?);
        let head_dim = self.optional_size("attention.key_length")?.unwrap_or(hidden / heads);
        let shape = Shape {
            hidden,
            heads,
            head_dim,
            kv_heads: self.size("attention.head_count_kv")?,
            vocab: value(self.content, "tokenizer.ggml.tokens", Value::to_vec)?.len(),
            layers: self.size("block_count")?,
            ffn: self.size("feed_forward_length")?,
            context: self.size("context_length")? as u32,
            eps: self.float("attention.layer_norm_rms_epsilon")?,
        };
        shape.check()?;
        for (key, why) in [
            ("rope.dimension_count", "positions must turn the whole head"),
            ("attention.value_length", "keys and values must have one size"),
        ] {
            if let Some(given) = self.optional_size(key)?.filter(|&given| given != head_dim) {
                return Err(LoadError::unsupported(key, given, why));
            }
        }
        Ok(shape)
    }

    fn scaling(&self) -> Result<Scaling, LoadError> {
        let key = format!("{}.rope.scaling.type", self.prefix);
        let kind = optional(self.content, &key, Value::to_string)?.map_or("none", String::as_str);
        let factor = || Ok::<_, LoadError>(f64::from(self.float("rope.scaling.factor")?));
        match kind {
            "none" => Ok(Scaling::None),
            "linear" => Ok(Scaling::Linear { factor: factor()? }),
            "yarn" => Ok(Scaling::Yarn {
                factor: factor()?,
                fast: 32.0,
                slow: 1.0,
                original_context: self.size("rope.scaling.original_context_length")? as f64,
                amplitude: None,
            }),
            given => {
                Err(LoadError::unsupported("rope.scaling.type", given, "none, linear and yarn are"))
            }
        }
    }
}

fn declared(
    file: &mut GgufTensors,
    architecture: &'static Architecture,
) -> Result<Declared, LoadError> {
    const DIVISORS: &str = "rope_freqs.weight";
    let keys = Keys { content: &file.content, prefix: architecture.gguf };
    let shape = keys.shape()?;
    let mut declared = Declared {
        shape,
        rope_base: keys.optional_float("rope.freq_base")?,
        scaling: keys.scaling()?,
        local_rope_base: keys.optional_float("rope.freq_base_swa")?,
        window: keys.optional_size("attention.sliding_window")?.map(|window| window as u32),
        windowed: None,
        query_scalar: None,
    };
    if file.contains(DIVISORS) {
        declared.scaling = Scaling::Divisors(vector(file, DIVISORS, shape.head_dim / 2)?);
    }
    Ok(declared)
}

struct GgufTensors {
    content: Content,
    reader: BufReader<File>,
    /// Bytes of the file.
    len: u64,
    unread: BTreeSet<String>,
}

impl Tensors for GgufTensors {
    fn contains(&self, name: &str) -> bool {
        self.content.tensor_infos.contains_key(name)
    }

    fn read(&mut self, name: &str, expected: &[usize]) -> Result<Stored, LoadError> {
        let info = self.content.tensor_infos.get(name).ok_or_else(|| LoadError::missing(name))?;
        if info.shape.dims() != expected {
            let (given, expected) = (info.shape.dims().to_vec(), expected.to_vec());
            return Err(LoadError::Shape { name: name.to_owned(), given, expected });
        }
        let format = format(info.ggml_dtype).ok_or_else(|| LoadError::Format {
            name: name.to_owned(),
            given: format!("{:?}", info.ggml_dtype),
        })?;
        let start = self.content.tensor_data_offset.saturating_add(info.offset);
        let data = read_at(&mut self.reader, self.len, start, bytes_of(format, expected), name)?;
        self.unread.remove(name);
        Ok(Stored { format, data })
    }
}

/// Bytes of a tensor of `dims` in `format`.
pub(crate) fn bytes_of(format: Format, dims: &[usize]) -> u64 {
    let (block, bytes) = format.block();
    let elements = dims.iter().fold(1_usize, |all, &dim| all.saturating_mul(dim));
    (elements.div_ceil(block) as u64).saturating_mul(bytes as u64)
}

/// The `bytes` from `start` on of a file of `len`, which are tensor `name`.
pub(crate) fn read_at(
    file: &mut (impl Read + Seek),
    len: u64,
    start: u64,
    bytes: u64,
    name: &str,
) -> Result<Vec<u8>, LoadError> {
    let end = start.saturating_add(bytes);
    if end > len {
        return Err(LoadError::Truncated { name: name.to_owned(), end, len });
    }
    let mut data = vec![0; bytes as usize];
    file.seek(SeekFrom::Start(start))
        .and_then(|_| file.read_exact(&mut data))
        .map_err(|source| LoadError::Tensor { name: name.to_owned(), source })?;
    Ok(data)
}

fn format(dtype: GgmlDType) -> Option<Format> {
    Some(match dtype {
        GgmlDType::F32 => Format::F32,
        GgmlDType::F16 => Format::F16,
        GgmlDType::BF16 => Format::BF16,
        GgmlDType::Q4_0 => Format::Q4_0,
        GgmlDType::Q4_1 => Format::Q4_1,
        GgmlDType::Q5_0 => Format::Q5_0,
        GgmlDType::Q5_1 => Format::Q5_1,
        GgmlDType::Q8_0 => Format::Q8_0,
        GgmlDType::Q4K => Format::Q4_K,
        GgmlDType::Q5K => Format::Q5_K,
        GgmlDType::Q6K => Format::Q6_K,
        GgmlDType::Q8_1 | GgmlDType::Q2K | GgmlDType::Q3K | GgmlDType::Q8K => return None,
    })
}
