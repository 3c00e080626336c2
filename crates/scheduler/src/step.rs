use baton_types::StepShape;

use crate::{
    SequenceStep,
    sequence::{Phase, Sequence, Ticket},
};

/// A sequence's part in the composed step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) ticket: Ticket,
    pub(crate) new: usize,
}

/// The step composed last. Its buffers are kept from step to step.
#[derive(Debug, Default)]
pub(crate) struct Step {
    pub(crate) parts: Vec<Part>,
    pub(crate) shape: StepShape,
    buffer: Vec<SequenceStep<'static>>,
}

impl Step {
    pub(crate) fn clear(&mut self) {
        self.parts.clear();
        self.shape = StepShape::default();
    }

    pub(crate) fn push(&mut self, sequence: &Sequence, new: usize) {
        self.parts.push(Part { ticket: sequence.ticket, new });
        match sequence.phase {
            Phase::Prefilling => self.shape.add_prefill(new, sequence.computed),
            Phase::Decoding => self.shape.add_decode(sequence.computed),
        }
    }

    /// Calls `f` with the step in the engine's terms. `running` is ordered by ticket. A sequence
    /// that left since the step was composed is left out: its blocks aren't its own any more.
    pub(crate) fn with_sequences<R>(
        &mut self,
        running: &[Sequence],
        f: impl FnOnce(&[SequenceStep<'_>]) -> R,
    ) -> R {
        let mut sequences = recycle(std::mem::take(&mut self.buffer));
        sequences.extend(self.parts.iter().filter_map(|part| {
            let at = running.binary_search_by_key(&part.ticket, |s| s.ticket).ok()?;
            Some(running[at].step(part.new))
        }));
        let result = f(&sequences);
        self.buffer = recycle(sequences);
        result
    }
}

/// An empty vector with the allocation of `sequences`, for another lifetime.
fn recycle<'to>(mut sequences: Vec<SequenceStep<'_>>) -> Vec<SequenceStep<'to>> {
    sequences.clear();
    sequences.into_iter().map(|_| unreachable!("it was cleared")).collect()
}
