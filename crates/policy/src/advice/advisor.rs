use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use baton_types::{ModelId, Role, Time};

use super::{AdviceConfig, Formula, Hysteresis, Need, formula::Question};
use crate::ClusterView;

/// Advice on every model that has nodes. Sans-io: whoever drives it says when it is time, and shows
/// it the view.
#[derive(Clone, Debug)]
pub struct Advisor {
    config: AdviceConfig,
    due: Time,
    models: BTreeMap<ModelId, Known>,
}

#[derive(Clone, Debug)]
struct Known {
    roles: [Hysteresis; 2],
    pressure: [Pressure; 2],
    advice: Advice,
}

/// What advice is made of, as it was at one moment: taken from the view in little time, so that whoever
/// shares the view needn't wait for the advice.
#[derive(Clone, Debug)]
pub struct Seen {
    at: Time,
    /// Of every model that has nodes; nothing if none of them takes requests.
    models: Vec<(ModelId, Option<Question>)>,
}

/// What is recommended of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Advice {
    pub model: ModelId,
    pub formula: Formula,
    pub prefill: RoleAdvice,
    pub decode: RoleAdvice,
    /// What to do before any node is added.
    pub switch: Option<Switch>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoleAdvice {
    /// Nodes that take requests now,
    pub nodes: u32,
    /// those that there should be,
    pub recommended: u32,
    /// and those that are needed at this moment. Fewer than recommended: more were needed lately.
    pub need: Need,
}

/// So many nodes of one role would serve the other better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    pub from: Role,
    pub nodes: u32,
}

impl Advisor {
    pub fn new(config: AdviceConfig) -> Self {
        Advisor { config, due: Time::ZERO, models: BTreeMap::new() }
    }

    /// When to look at the load again.
    pub fn poll_timeout(&self) -> Time {
        self.due
    }

    /// Looks at the load, if it is time, and advises.
    pub fn handle_timeout(&mut self, now: Time, view: &ClusterView) {
        if let Some(seen) = self.look(now, view) {
            self.advise(seen);
        }
    }

    /// Looks at the load, if it is time. [`Advisor::advise`] afterwards.
    pub fn look(&mut self, now: Time, view: &ClusterView) -> Option<Seen> {
        if now < self.due {
            return None;
        }
        self.due = now + self.config.every;
        let nodes = view.prefill.iter().chain(&view.decode);
        let served: BTreeSet<&ModelId> = nodes.map(|node| &node.group.model).collect();
        let question = |model: &ModelId| Question::of(&self.config, view, model, now);
        let models = served.into_iter().map(|model| (model.clone(), question(model)));
        Some(Seen { at: now, models: models.collect() })
    }

    /// Advises by what was seen.
    pub fn advise(&mut self, Seen { at, models }: Seen) {
        let mut before = std::mem::take(&mut self.models);
        for (model, question) in models {
            let known = before.remove(&model);
            let known = match question {
                Some(question) => Some(self.answer(&model, at, question, known)),
                None => known,
            };
            self.models.extend(known.map(|known| (model, known)));
        }
    }

    /// The latest, of every model.
    pub fn advice(&self) -> impl Iterator<Item = &Advice> {
        self.models.values().map(|known| &known.advice)
    }

    fn answer(
        &self,
        model: &ModelId,
        now: Time,
        mut question: Question,
        known: Option<Known>,
    ) -> Known {
        let config = &self.config;
        let nodes = question.replicas.map(|replica| replica.nodes);
        let (mut roles, mut pressure) = known.map_or_else(
            || (nodes.map(|nodes| Hysteresis::new(nodes, now)), Default::default()),
            |Known { roles, pressure, .. }| (roles, pressure),
        );
        question.pressure = pressure.map(|pressure: Pressure| pressure.factor);
        let followed = |role: usize| {
            nodes[role] >= roles[role].recommended() && roles[role].unchanged(now) >= config.window
        };
        if !question.misses() {
            pressure.iter_mut().for_each(Pressure::relax);
        } else if followed(0) && followed(1) {
            pressure[question.shorter()].raise(config, now);
        }
        question.pressure = pressure.map(|pressure| pressure.factor);
        let needs = question.needs(config.formula);
        let more = question.with_more(config.threshold).needs(config.formula);
        let of = |role: usize, hysteresis: &mut Hysteresis| {
            let (need, nodes) = (needs[role], nodes[role]);
            let recommended = hysteresis.look(config, now, need.nodes, more[role].nodes);
            RoleAdvice { nodes, recommended, need }
        };
        let [first, others] = &mut roles;
        let (prefill, decode) = (of(0, first), of(1, others));
        let switch = Switch::between(&prefill, &decode);
        let model = model.clone();
        let advice = Advice { model, formula: config.formula, prefill, decode, switch };
        Known { roles, pressure, advice }
    }
}

/// By how much more a role is loaded than is predicted, as attainment tells.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Pressure {
    factor: f64,
    raised: Time,
}

/// What it rises by in a window in which too many miss their objectives though there are all the nodes
/// that were recommended, what it falls by at a look when enough meet them, and the most.
const RISE: f64 = 1.15;
const FALL: f64 = 0.995;
const MOST_PRESSURE: f64 = 1.5;

impl Default for Pressure {
    fn default() -> Self {
        Pressure { factor: 1.0, raised: Time::ZERO }
    }
}

impl Pressure {
    fn raise(&mut self, config: &AdviceConfig, now: Time) {
        if now.since(self.raised) >= config.window {
            (self.factor, self.raised) = ((RISE * self.factor).min(MOST_PRESSURE), now);
        }
    }

    fn relax(&mut self) {
        self.factor = (FALL * self.factor).max(1.0);
    }
}

impl Switch {
    fn between(prefill: &RoleAdvice, decode: &RoleAdvice) -> Option<Self> {
        let spare = |advice: &RoleAdvice| advice.nodes.saturating_sub(advice.recommended);
        let lacking = |advice: &RoleAdvice| advice.recommended.saturating_sub(advice.nodes);
        let switch = |from, nodes| (nodes > 0).then_some(Switch { from, nodes });
        switch(Role::Prefill, spare(prefill).min(lacking(decode)))
            .or_else(|| switch(Role::Decode, spare(decode).min(lacking(prefill))))
    }
}

impl RoleAdvice {
    /// Why, in a sentence.
    pub fn why(&self, config: &AdviceConfig) -> String {
        let RoleAdvice { recommended, need, .. } = self;
        if *recommended <= need.nodes {
            return need.to_string();
        }
        let within = Seconds(config.down_after);
        format!(
            "{need}; more were needed, or would be for {:.0} % more, in the last {within}",
            100.0 * config.threshold
        )
    }
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = match self.from {
            Role::Prefill => ("prefill", "decode"),
            Role::Decode => ("decode", "prefill"),
        };
        let nodes = if self.nodes == 1 { "node" } else { "nodes" };
        write!(f, "{} {from} {nodes} would serve better as {to}", self.nodes)
    }
}

struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0.as_secs_f64())
    }
}
