use baton_types::{LatencyProfile, Mixing};

use super::{
    FitConfig,
    regression::Regression,
    solve::{N, Vector},
    spread::Spread,
    step::{Kind, LEAST, Step},
};

/// A latency profile that learns, and knows how far off it is.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    mixing: Mixing,
    /// In microseconds, in the profile's order: prefill's, then decode's.
    regression: Regression,
    /// Steps after which one counts 1/e.
    memory: f64,
    prefill: Spread,
    decode: Spread,
    mixed: Spread,
}

impl Filter {
    pub(super) fn new(seed: &LatencyProfile, config: &FitConfig) -> Self {
        let FitConfig { seed_spread, memory_steps } = *config;
        let memory = f64::from(memory_steps);
        let expected = Spread::expected(seed_spread);
        Filter {
            mixing: seed.mixing,
            regression: Regression::new(seed.coefficients(), seed_spread, memory),
            memory,
            prefill: expected,
            decode: expected,
            mixed: expected,
        }
    }

    /// The same, but for what mixed steps cost.
    pub(super) fn with_mixing(&self, mixing: Mixing) -> Self {
        Filter { mixing, ..self.clone() }
    }

    pub(super) fn mixing(&self) -> Mixing {
        self.mixing
    }

    pub(super) fn profile(&self) -> LatencyProfile {
        LatencyProfile::from_coefficients(*self.regression.coefficients(), self.mixing)
    }

    pub(super) fn spread(&self, kind: Kind) -> &Spread {
        match kind {
            Kind::Prefill => &self.prefill,
            Kind::Decode => &self.decode,
            Kind::Mixed => &self.mixed,
        }
    }

    /// How badly it explains all kinds of steps, each kind counting as much.
    pub(super) fn badness(&self) -> f64 {
        [self.prefill, self.decode, self.mixed].iter().map(Spread::variance).sum()
    }

    /// Predicts, then learns.
    pub(super) fn observe(&mut self, step: &Step) {
        let terms = self.telling(step);
        let predicted = self.regression.predict(&terms);
        let error = (step.actual / predicted.max(LEAST)).ln();
        let weight = self.observe_error(step.kind, error);
        self.regression.observe(&terms, step.actual, weight);
    }

    /// The terms that make the step's time: of overlapping parts the longer's.
    fn telling(&self, step: &Step) -> Vector {
        if self.mixing == Mixing::Sum || step.kind != Kind::Mixed {
            return step.terms;
        }
        let (mut prefill, mut decode) = (step.terms, step.terms);
        prefill[N / 2..].fill(0.0);
        decode[..N / 2].fill(0.0);
        let hides = self.regression.predict(&prefill) >= self.regression.predict(&decode);
        if hides { prefill } else { decode }
    }

    /// How much the step is to be believed. A mixed one says something of both its parts.
    fn observe_error(&mut self, kind: Kind, error: f64) -> f64 {
        let memory = self.memory;
        match kind {
            Kind::Prefill => self.prefill.observe(error, memory),
            Kind::Decode => self.decode.observe(error, memory),
            Kind::Mixed => {
                self.prefill.observe(error, memory);
                self.decode.observe(error, memory);
                self.mixed.observe(error, memory)
            }
        }
    }
}
