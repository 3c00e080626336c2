//! A path for a request, with what is predicted of it.

use std::time::Duration;

use baton_types::blocks_for;

use super::sides::{DecodeSide, PrefillSide, Question};
use crate::{Alternative, Demand, NodeView, Path, Placed, Placement, Prediction, Reasons};

/// Times are in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) sides: Sides<'a>,
    pub(super) queue: f64,
    pub(super) ttft: f64,
    pub(super) exposed: f64,
    pub(super) tpot: f64,
    pub(super) attainment: f64,
    pub(super) loss: f64,
    /// The request's time to its end, and what it costs others meanwhile.
    pub(super) cost: f64,
    /// What went this way lately failed.
    pub(super) is_troubled: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Sides<'a> {
    Disaggregated(PrefillSide<'a>, DecodeSide<'a>),
    PrefillOnly(PrefillSide<'a>),
    Local(PrefillSide<'a>, DecodeSide<'a>),
}

impl<'a> Candidate<'a> {
    pub(super) fn disaggregated(
        question: &Question<'a>,
        prefill: PrefillSide<'a>,
        decode: DecodeSide<'a>,
    ) -> Self {
        let node = decode.node;
        let layout = node.group.layout;
        let missing = question.request.tokens - decode.cached;
        let bytes = blocks_for(missing as usize, layout.block_tokens) * layout.block_bytes();
        let compute = seconds(prefill.compute);
        let exposed = node.link.exposed(bytes as u64, layout.layers, compute).as_secs_f64();
        let more = question.more_tokens();
        // It joins at a step's boundary.
        let tpot = decode.step + (exposed + decode.before / 2.0) / more.max(1.0);
        Candidate {
            sides: Sides::Disaggregated(prefill, decode),
            queue: prefill.queue,
            ttft: prefill.ttft,
            exposed,
            tpot,
            attainment: prefill.chance * question.tpot_chance(node, tpot),
            loss: decode.loss + prefill.loss,
            cost: prefill.ttft + prefill.harm() + exposed + more * (decode.step + decode.harm()),
            is_troubled: question.is_troubled(prefill.node, node),
        }
    }

    pub(super) fn prefill_only(question: &Question<'a>, prefill: PrefillSide<'a>) -> Self {
        Candidate {
            sides: Sides::PrefillOnly(prefill),
            queue: prefill.queue,
            ttft: prefill.ttft,
            exposed: 0.0,
            tpot: 0.0,
            attainment: prefill.chance,
            loss: prefill.loss,
            cost: prefill.ttft + prefill.harm(),
            is_troubled: question.is_troubled(prefill.node, prefill.node),
        }
    }

    /// While the prompt is computed, each step of the batch takes as much longer.
    pub(super) fn local(question: &Question<'a>, decode: DecodeSide<'a>) -> Self {
        let (node, more) = (decode.node, question.more_tokens());
        let mut prefill = question.prefill(node);
        let alone = prefill.compute;
        let mut stall = 0.0;
        if decode.others > 0.0 {
            let new_tokens = u64::from(question.request.tokens - prefill.cached);
            prefill.compute += node.latency.steps(new_tokens) as f64 * decode.before;
            prefill = question.timed(prefill);
            // The others are, in the mean, half through.
            stall = alone / (more / 2.0).max(1.0);
        }
        Candidate {
            sides: Sides::Local(prefill, decode),
            queue: prefill.queue,
            ttft: prefill.ttft,
            exposed: 0.0,
            tpot: decode.step,
            attainment: prefill.chance * question.tpot_chance(node, decode.step),
            loss: decode.loss(decode.step + stall) + prefill.loss,
            cost: prefill.ttft
                + prefill.harm()
                + more * (decode.step + decode.harm())
                + alone * decode.others,
            is_troubled: question.is_troubled(node, node),
        }
    }

    pub(super) fn prefill(&self) -> &PrefillSide<'a> {
        match &self.sides {
            Sides::Disaggregated(prefill, _)
            | Sides::PrefillOnly(prefill)
            | Sides::Local(prefill, _) => prefill,
        }
    }

    /// Objectives met by placing the request so, others' losses deducted.
    pub(super) fn value(&self) -> f64 {
        self.attainment - self.loss
    }

    /// Whether both are the same path over the same nodes.
    pub(super) fn is(&self, other: &Candidate<'_>) -> bool {
        let same = |a: &NodeView, b: &NodeView| std::ptr::eq(a, b);
        match (&self.sides, &other.sides) {
            (Sides::Disaggregated(p, d), Sides::Disaggregated(q, e)) => {
                same(p.node, q.node) && same(d.node, e.node)
            }
            (Sides::PrefillOnly(p), Sides::PrefillOnly(q)) => same(p.node, q.node),
            (Sides::Local(_, d), Sides::Local(_, e)) => same(d.node, e.node),
            _ => false,
        }
    }

    pub(super) fn alternative(&self) -> Alternative {
        Alternative { path: self.path(), predicted: self.predicted() }
    }

    fn path(&self) -> Path {
        match self.sides {
            Sides::Disaggregated(prefill, decode) => Path::Disaggregated {
                prefill: Placed::on(prefill.node),
                decode: Placed::on(decode.node),
            },
            Sides::PrefillOnly(prefill) => Path::PrefillOnly { prefill: Placed::on(prefill.node) },
            Sides::Local(_, decode) => Path::Local { decode: Placed::on(decode.node) },
        }
    }

    fn decode(&self) -> Option<DecodeSide<'a>> {
        match self.sides {
            Sides::Disaggregated(_, decode) | Sides::Local(_, decode) => Some(decode),
            Sides::PrefillOnly(_) => None,
        }
    }

    fn predicted(&self) -> Prediction {
        let prefill = self.prefill();
        Prediction {
            ttft: seconds(self.ttft),
            exposed_transfer: seconds(self.exposed),
            tpot: seconds(self.tpot),
            harm: seconds(self.decode().map_or(0.0, |decode| decode.harm())),
            attainment: self.attainment,
            loss: self.loss,
            cost: seconds(self.cost),
            uncorrected_ttft: seconds(prefill.queue + prefill.compute),
        }
    }

    pub(super) fn placement(&self, question: &Question<'_>) -> Placement {
        let tokens = u64::from(question.request.tokens);
        let (prefill, decode) = (self.prefill(), self.decode());
        Placement {
            path: self.path(),
            demand: Demand {
                new_tokens: tokens - u64::from(prefill.cached),
                prefill: seconds(prefill.compute),
                due: question.due,
                context_tokens: tokens,
                prefill_blocks: question.prefill_blocks(prefill.node),
                decode_blocks: decode.map_or(0, |decode| question.decode_blocks(decode.node)),
                tpot: question.request.slo.tpot.filter(|_| decode.is_some()),
                weight: question.weight,
            },
            predicted: self.predicted(),
            alternatives: Vec::new(),
            reasons: Reasons {
                prefill_cached_tokens: prefill.cached,
                decode_cached_tokens: decode.map_or(0, |decode| decode.cached),
                queue: seconds(self.queue),
                ..Reasons::default()
            },
        }
    }
}

impl PrefillSide<'_> {
    /// How long those wait, all together, that it overtakes.
    fn harm(&self) -> f64 {
        self.compute * self.behind as f64
    }
}

impl DecodeSide<'_> {
    /// What the request adds to each step, over all of the others.
    pub(super) fn harm(&self) -> f64 {
        self.share * self.others
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}
