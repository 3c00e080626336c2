//! The forward pass of every architecture: one ragged step over paged keys and values.

use std::sync::Arc;

use baton_device::{
    Activations, Arena, AttentionHeads, AttentionScratch, AttentionSequence, Kernels, Matrix,
    NUMERICS, PageError, Pooled, ThreadPool,
};
use baton_scheduler::{
    Engine, EngineError, EngineInfo, Sampled, ScoreStep, SequenceStep, StepObserver,
};
use baton_types::{KvDtype, KvLayout, NumericsId};

use crate::{
    architecture::{Parts, Reach, Span},
    model::Model,
    sampler::{Sampler, digest, logprobs},
    weights::{HeadProjection, Layer, Shape},
};

/// A model and the KV arena it works in.
#[derive(Debug)]
pub struct TransformerEngine {
    model: Arc<Model>,
    arena: Arc<Arena>,
    info: EngineInfo,
    /// For each of the model's spans, `[position][head_dim / 2]` pairs of cosine and sine.
    ropes: Vec<Vec<(f32, f32)>>,
    compute: Compute,
    buffers: Buffers,
    sampler: Sampler,
}

/// What runs kernels.
#[derive(Debug)]
struct Compute {
    kernels: Kernels,
    pool: ThreadPool,
    attention: AttentionScratch,
    activations: Activations,
}

/// Rows of the step under way; kept from step to step.
#[derive(Debug, Default)]
struct Buffers {
    /// Empty between steps.
    rows: Vec<AttentionSequence<'static>>,
    positions: Vec<u32>,
    /// The residual stream, `[row][hidden]`.
    x: Vec<f32>,
    normed: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    mixed: Vec<f32>,
    projected: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    logits: Vec<f32>,
}

impl TransformerEngine {
    /// The layout of an arena for `model`.
    pub fn layout(model: &Model, block_tokens: u32, dtype: KvDtype) -> KvLayout {
        let Shape { layers, kv_heads, head_dim, .. } = model.shape;
        KvLayout {
            layers: layers as u32,
            kv_heads: kv_heads as u32,
            head_dim: head_dim as u32,
            block_tokens,
            dtype,
        }
    }

    /// An engine over `arena`, which has [`TransformerEngine::layout`]'s layout, on the threads of `pool`.
    /// `max_context` can only shorten the model's own.
    pub fn new(
        model: Arc<Model>,
        arena: Arc<Arena>,
        kernels: Kernels,
        pool: ThreadPool,
        max_context: Option<u32>,
    ) -> Self {
        let layout = *arena.layout();
        let expected = Self::layout(&model, layout.block_tokens, layout.dtype);
        assert_eq!(layout, expected, "the arena was made for another model");
        let max_context = max_context.unwrap_or(u32::MAX).min(model.shape.context);
        let info = EngineInfo {
            layout,
            numerics: numerics(&model, layout.dtype),
            max_context,
            vocab: model.shape.vocab as u32,
        };
        let compute = Compute {
            kernels,
            pool,
            attention: AttentionScratch::default(),
            activations: model.weights.activations(),
        };
        let ropes = model.reach.spans.iter().map(|span| span.rope.table(max_context)).collect();
        let (buffers, sampler) = (Buffers::default(), Sampler::default());
        TransformerEngine { model, arena, info, ropes, compute, buffers, sampler }
    }

    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// Logits of the last step, `[sampled sequence][vocabulary]`.
    pub fn logits(&self) -> &[f32] {
        &self.buffers.logits
    }

    fn check(&self, step: &SequenceStep<'_>) -> Result<(), EngineError> {
        let (key, info) = (step.key, &self.info);
        if step.tokens.is_empty() {
            return Err(EngineError::Empty { key });
        }
        if let Some(token) = step.tokens.iter().find(|token| token.0 >= info.vocab) {
            return Err(EngineError::Token { key, token: token.0, vocab: info.vocab });
        }
        let needed = u64::from(step.start) + step.tokens.len() as u64;
        if needed > u64::from(info.max_context) {
            let (position, max_context) = (info.max_context, info.max_context);
            return Err(EngineError::Context { key, position, max_context });
        }
        let covered = step.blocks.len() as u64 * u64::from(info.layout.block_tokens);
        let inside = step.blocks.iter().all(|block| block.0 < self.arena.blocks());
        if covered < needed || !inside {
            let covered = if inside { covered as u32 } else { 0 };
            return Err(EngineError::BlockTable { key, covered, needed: needed as u32 });
        }
        Ok(())
    }

    /// Embeds every token and notes its position.
    fn embed(&mut self, sequences: &[SequenceStep<'_>]) {
        let (buffers, hidden) = (&mut self.buffers, self.model.shape.hidden);
        let scaled = self.model.parts.scaled_embedding;
        let scale = if scaled { (hidden as f32).sqrt() } else { 1.0 };
        buffers.positions.clear();
        let rows = sequences.iter().map(|step| step.tokens.len()).sum::<usize>();
        buffers.x.resize(rows * hidden, 0.0);
        let mut out = buffers.x.chunks_exact_mut(hidden);
        for step in sequences {
            for (position, (token, out)) in (step.start..).zip(step.tokens.iter().zip(&mut out)) {
                self.model.weights.embedding.row(token.0 as usize, out);
                out.iter_mut().for_each(|x| *x *= scale);
                buffers.positions.push(position);
            }
        }
    }

    /// Tells how likely known tokens were, a few rows at a time: logits are large.
    fn score(&mut self, sequences: &[SequenceStep<'_>], observer: &mut dyn StepObserver) {
        let Shape { hidden, vocab, eps, .. } = self.model.shape;
        let (buffers, weights) = (&mut self.buffers, &self.model.weights);
        let mut first_row = 0;
        for step in sequences {
            let rows = &buffers.x[first_row * hidden..(first_row + step.tokens.len()) * hidden];
            first_row += step.tokens.len();
            let Some(ScoreStep { targets, top }) = step.score else { continue };
            let known = rows.chunks(SCORED_ROWS * hidden).zip(targets.chunks(SCORED_ROWS));
            let mut position = step.start;
            for (rows, targets) in known {
                let rows = &rows[..targets.len() * hidden];
                buffers.normed.resize(rows.len(), 0.0);
                let normed = &mut buffers.normed;
                self.compute.pooled().rms_norm(rows, &weights.output_norm, eps, normed);
                self.compute.project(weights.output(), &buffers.normed, &mut buffers.logits);
                for (&target, logits) in targets.iter().zip(buffers.logits.chunks_exact(vocab)) {
                    position += 1;
                    observer.scored(step.key, position, logprobs(logits, target, top));
                }
            }
        }
    }

    /// Logits of the rows that sample, and their tokens.
    fn sample(
        &mut self,
        sequences: &[SequenceStep<'_>],
        sampled: &mut Vec<Sampled>,
    ) -> Result<(), EngineError> {
        let Shape { hidden, vocab, eps, .. } = self.model.shape;
        let (buffers, weights) = (&mut self.buffers, &self.model.weights);
        let mut end = 0;
        buffers.projected.clear();
        for step in sequences {
            end += step.tokens.len();
            if step.sample.is_some() {
                buffers.projected.extend_from_slice(&buffers.x[(end - 1) * hidden..end * hidden]);
            }
        }
        if buffers.projected.is_empty() {
            return Ok(());
        }
        let x = &buffers.projected;
        buffers.normed.resize(x.len(), 0.0);
        self.compute.pooled().rms_norm(x, &weights.output_norm, eps, &mut buffers.normed);
        self.compute.project(weights.output(), &buffers.normed, &mut buffers.logits);
        let sampling = sequences.iter().filter_map(|step| Some((step.key, step.sample?)));
        for ((key, step), logits) in sampling.zip(buffers.logits.chunks_exact(vocab)) {
            let drawn = self.sampler.sample(logits, step, key.choice);
            let (token, logprobs) = drawn.map_err(|why| why.blame(key))?;
            sampled.push(Sampled { key, token, logits_digest: digest(logits), logprobs });
        }
        Ok(())
    }
}

impl Engine for TransformerEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn step(
        &mut self,
        sequences: &[SequenceStep<'_>],
        observer: &mut dyn StepObserver,
        sampled: &mut Vec<Sampled>,
    ) -> Result<(), EngineError> {
        sampled.clear();
        sequences.iter().try_for_each(|step| self.check(step))?;
        self.embed(sequences);
        let mut rows = emptied(std::mem::take(&mut self.buffers.rows));
        let mut first_row = 0;
        rows.extend(sequences.iter().map(|step| {
            let tokens = step.tokens.len() as u32;
            let (blocks, start) = (step.blocks, step.start);
            let sequence = AttentionSequence { blocks, start, tokens, first_row };
            first_row += tokens;
            sequence
        }));
        let Model { weights, shape, parts, reach, .. } = &*self.model;
        for (index, (layer, &span)) in weights.layers.iter().zip(&reach.layers).enumerate() {
            let step = LayerStep {
                shape,
                parts,
                reach,
                span: &reach.spans[span],
                rope: &self.ropes[span],
                layer,
                index: index as u32,
                arena: &self.arena,
                rows: &rows,
            };
            step.run(&mut self.compute, &mut self.buffers, observer)
                .map_err(|error| blame(sequences, error))?;
        }
        self.buffers.rows = emptied(rows);
        self.score(sequences, observer);
        let outcome = self.sample(sequences, sampled);
        if outcome.is_err() {
            sampled.clear();
        }
        outcome
    }
}

/// Rows whose logits are computed together when they are only looked at.
const SCORED_ROWS: usize = 16;

/// One layer over all rows of a step.
struct LayerStep<'a> {
    shape: &'a Shape,
    parts: &'a Parts,
    reach: &'a Reach,
    span: &'a Span,
    rope: &'a [(f32, f32)],
    layer: &'a Layer,
    index: u32,
    arena: &'a Arena,
    rows: &'a [AttentionSequence<'a>],
}

impl LayerStep<'_> {
    fn run(
        &self,
        compute: &mut Compute,
        buffers: &mut Buffers,
        observer: &mut dyn StepObserver,
    ) -> Result<(), PageError> {
        self.attend(compute, buffers, observer)?;
        self.feed_forward(compute, buffers);
        Ok(())
    }

    /// `x += out(attention(rope(q), rope(k), v))` of the normed rows.
    fn attend(
        &self,
        compute: &mut Compute,
        buffers: &mut Buffers,
        observer: &mut dyn StepObserver,
    ) -> Result<(), PageError> {
        let Shape { heads, kv_heads, head_dim, eps, .. } = *self.shape;
        let (layer, kernels) = (self.layer, compute.kernels);
        let Buffers { positions, x, normed, q, k, v, mixed, projected, .. } = buffers;
        normed.resize(x.len(), 0.0);
        compute.pooled().rms_norm(x, &layer.attention_norm, eps, normed);
        compute.quantize(normed, layer.q.matrix.cols());
        compute.project_heads(&layer.q, eps, q, mixed);
        compute.project_heads(&layer.k, eps, k, mixed);
        compute.project_heads(&layer.v, eps, v, mixed);
        compute.pooled().rope(q, heads, head_dim, positions, self.rope);
        compute.pooled().rope(k, kv_heads, head_dim, positions, self.rope);
        kernels.store_kv(self.arena, self.index, self.rows, k, v)?;
        observer.layer_done(self.index);
        mixed.resize(q.len(), 0.0);
        kernels.attention(
            &mut compute.pool,
            self.arena,
            self.index,
            self.rows,
            AttentionHeads {
                heads: heads as u32,
                scale: self.reach.attention_scale,
                window: self.span.window,
            },
            q,
            mixed,
            &mut compute.attention,
        )?;
        compute.project(&layer.attention_out, mixed, projected);
        let hidden = self.shape.hidden;
        compute.add(hidden, x, projected, layer.attention_post_norm.as_deref(), eps, normed);
        Ok(())
    }

    /// `x += down(activation(gate) · up)` of the normed rows.
    fn feed_forward(&self, compute: &mut Compute, buffers: &mut Buffers) {
        let (layer, eps) = (self.layer, self.shape.eps);
        let Buffers { x, normed, projected, gate, up, .. } = buffers;
        compute.pooled().rms_norm(x, &layer.ffn_norm, eps, normed);
        compute.quantize(normed, layer.gate.cols());
        compute.project_again(&layer.gate, gate);
        compute.project_again(&layer.up, up);
        let width = layer.gate.rows();
        compute.pooled().gate_mul(self.parts.activation, width, gate, up);
        compute.project(&layer.down, gate, projected);
        compute.add(self.shape.hidden, x, projected, layer.ffn_post_norm.as_deref(), eps, normed);
    }
}

impl Compute {
    /// Kernels of single rows, on all threads.
    fn pooled(&mut self) -> Pooled<'_> {
        self.kernels.on(&mut self.pool)
    }

    fn quantize(&mut self, x: &[f32], cols: usize) {
        self.kernels.on(&mut self.pool).quantize(x, cols, &mut self.activations);
    }

    /// `out = x · matrixᵀ`.
    fn project(&mut self, matrix: &Matrix, x: &[f32], out: &mut Vec<f32>) {
        self.quantize(x, matrix.cols());
        self.project_again(matrix, out);
    }

    /// The same for rows that were quantised already.
    fn project_again(&mut self, matrix: &Matrix, out: &mut Vec<f32>) {
        out.resize(self.activations.rows() * matrix.rows(), 0.0);
        self.kernels.matmul(&mut self.pool, matrix, &self.activations, out);
    }

    /// Queries, keys or values of rows that were quantised already.
    fn project_heads(
        &mut self,
        projection: &HeadProjection,
        eps: f32,
        out: &mut Vec<f32>,
        scratch: &mut Vec<f32>,
    ) {
        self.project_again(&projection.matrix, out);
        if let Some(bias) = &projection.bias {
            self.kernels.add(out, bias);
        }
        if let Some(norm) = &projection.norm {
            scratch.resize(out.len(), 0.0);
            self.pooled().rms_norm(out, norm, eps, scratch);
            std::mem::swap(out, scratch);
        }
    }

    /// `x += y`, normed first where the model does that.
    fn add(
        &mut self,
        width: usize,
        x: &mut [f32],
        y: &[f32],
        norm: Option<&[f32]>,
        eps: f32,
        normed: &mut [f32],
    ) {
        match norm {
            None => self.pooled().add(width, x, y),
            Some(norm) => {
                self.pooled().rms_norm(y, norm, eps, normed);
                self.pooled().add(width, x, normed);
            }
        }
    }
}

/// The same memory, for rows of another step.
fn emptied<'a>(mut rows: Vec<AttentionSequence<'_>>) -> Vec<AttentionSequence<'a>> {
    rows.clear();
    rows.into_iter().map(|_| unreachable!("there is none")).collect()
}

/// Whose page it was.
fn blame(sequences: &[SequenceStep<'_>], error: PageError) -> EngineError {
    let (PageError::Outside { layer, block, .. }
    | PageError::BeingWritten { layer, block }
    | PageError::BeingRead { layer, block, .. }) = error;
    let block = baton_types::BlockId(block);
    let owner = sequences.iter().find(|step| step.blocks.contains(&block));
    let key = owner.unwrap_or(&sequences[0]).key;
    EngineError::PageBusy { key, layer, block }
}

/// Everything that decides a token's bits.
fn numerics(model: &Model, dtype: KvDtype) -> NumericsId {
    let mut hasher = blake3::Hasher::new();
    for part in [NUMERICS.as_bytes(), dtype.to_string().as_bytes(), &model.hash] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    NumericsId(u128::from_le_bytes(bytes))
}
