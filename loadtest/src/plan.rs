//! From the command line to what is done: files are read, and what can't be is refused before anybody is asked.

use std::{
    fs,
    io::{self, BufReader},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use baton_workload::{
    Arrivals, Conversation, ConversationError, Conversations, Trace, TraceError, TraceFormat,
    WorkloadError, show_duration,
};

use crate::{
    args::LoadArgs,
    measure::Window,
    prompt::{TEXT, flat},
    report::{ClassObjectives, Report, WorkloadReport, gate},
    run::Class,
    schedule::{Load, Workload},
    slo::{Goal, Objectives},
    target::Access,
};

/// How long a run is, if nobody says.
const DEFAULT_DURATION: Duration = Duration::from_secs(30);
/// Requests a second, if nobody says.
const DEFAULT_RATE: f64 = 1.0;

/// Everything that is known before anybody is asked.
#[derive(Debug)]
pub(crate) struct Plan {
    pub workload: Workload,
    pub classes: Arc<[Class]>,
    pub shares: Vec<f64>,
    /// Of all requests of a class, or of all.
    pub goals: Vec<(Option<String>, Goal)>,
    pub access: Access,
    /// Flat.
    pub text: String,
    pub source: Option<String>,
    pub warmup: Duration,
    pub cooldown: Duration,
    pub baseline: Option<Report>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("{path}: {source}")]
    Trace { path: PathBuf, source: TraceError },
    #[error("{path}: {source}")]
    Conversations { path: PathBuf, source: ConversationError },
    #[error("{path} has no conversation with a question and its answer")]
    NoConversations { path: PathBuf },
    #[error("{path}: {source}")]
    Baseline { path: PathBuf, source: gate::BaselineError },
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    #[error("{name} is {given}; it must be {must}")]
    Value { name: &'static str, given: f64, must: &'static str },
    #[error("--slo names the class {class:?}, which isn't among --class")]
    NoClass { class: String },
    #[error("two of --slo are about {0}")]
    TwoObjectives(String),
    #[error(
        "nothing would count: the run is {length:?} long, warm-up and cool-down take {excluded:?} of it"
    )]
    NoWindow { length: Duration, excluded: Duration },
    #[error("two targets have the same name, {0:?}: name them, like a=grpc://host:8000")]
    SameName(String),
}

impl Plan {
    /// Reads what the arguments name.
    ///
    /// # Errors
    ///
    /// What can't be read, or makes no sense.
    pub(crate) fn new(args: &LoadArgs) -> Result<Self, PlanError> {
        for (nth, target) in args.targets.iter().enumerate() {
            if args.targets[..nth].iter().any(|other| other.name == target.name) {
                return Err(PlanError::SameName(target.name.clone()));
            }
        }
        let (classes, shares, goals) = classes(args)?;
        let (workload, source) = workload(args, shares.clone())?;
        let text = match &args.requests.text {
            None => flat(TEXT),
            Some(path) => flat(&String::from_utf8_lossy(&read(path)?)),
        };
        let file = |path: &Option<PathBuf>| path.as_deref().map(read).transpose();
        let identity = file(&args.connections.cert)?.zip(file(&args.connections.key)?);
        let access = Access {
            token: args.connections.token.clone(),
            plain_token: args.connections.plain_token,
            ca: file(&args.connections.ca)?,
            identity,
        };
        let baseline = args.goals.baseline.as_deref().map(baseline).transpose()?;
        let (warmup, cooldown) = (args.load.warmup, args.load.cooldown);
        let plan = Plan {
            workload,
            classes,
            shares,
            goals,
            access,
            text,
            source,
            warmup,
            cooldown,
            baseline,
        };
        plan.window(&plan.workload)?;
        Ok(plan)
    }

    /// What counts of a run.
    ///
    /// # Errors
    ///
    /// Nothing would.
    pub(crate) fn window(&self, workload: &Workload) -> Result<Window, PlanError> {
        let excluded = self.warmup + self.cooldown;
        // The last request is due at the end itself.
        let Some(length) = workload.ends().map(|end| end + Duration::from_micros(1)) else {
            return Ok(Window { from: self.warmup, to: Duration::MAX });
        };
        let to = length.saturating_sub(self.cooldown);
        if to <= self.warmup {
            return Err(PlanError::NoWindow { length, excluded });
        }
        Ok(Window { from: self.warmup, to })
    }

    /// For the report.
    pub(crate) fn describe(&self, args: &LoadArgs, window: Window) -> WorkloadReport {
        let workload = &self.workload;
        let arrivals = match &workload.load {
            Load::Open(arrivals) => arrivals.to_string(),
            Load::Replay { stretch, .. } => format!("recorded, {:.3} times as fast", 1.0 / stretch),
            Load::Closed { users } => format!("{users} users in a closed loop"),
        };
        let is_recorded =
            matches!(workload.load, Load::Replay { .. }) || workload.conversations.is_some();
        let length = |lengths: &baton_workload::Lengths| match is_recorded {
            true => "recorded".to_owned(),
            false => lengths.to_string(),
        };
        let ms = |time: Option<Duration>| time.map(|time| time.as_secs_f64() * 1e3);
        let class = |(class, share): (&Class, &f64)| ClassObjectives {
            name: class.name.as_deref().map(str::to_owned),
            share: *share,
            ttft_ms: ms(class.objectives.ttft),
            tpot_ms: ms(class.objectives.tpot),
            e2e_ms: ms(class.objectives.e2e),
        };
        WorkloadReport {
            arrivals,
            input: length(&workload.input),
            output: length(&workload.output),
            shared: workload
                .shared
                .map(|shared| format!("count={},tokens={}", shared.count, shared.tokens)),
            turns: workload
                .turns
                .as_ref()
                .map(|turns| format!("{turns}, {} apart", show_duration(workload.think))),
            source: self.source.clone(),
            api: format!("{:?}", args.api).to_lowercase(),
            seed: workload.seed,
            from_s: window.from.as_secs_f64(),
            to_s: window.to.as_secs_f64(),
            classes: self.classes.iter().zip(&self.shares).map(class).collect(),
        }
    }
}

type Classes = (Arc<[Class]>, Vec<f64>, Vec<(Option<String>, Goal)>);

fn classes(args: &LoadArgs) -> Result<Classes, PlanError> {
    let mut common = Objectives::default();
    let (mut has_common, mut goals) = (false, Vec::new());
    let named = &args.requests.classes;
    let mut of: Vec<Option<Objectives>> = vec![None; named.len()];
    for slo in &args.goals.slo {
        goals.extend(slo.goals.iter().map(|goal| (slo.class.clone(), *goal)));
        if slo.objectives == Objectives::default() && !slo.goals.is_empty() {
            continue;
        }
        match &slo.class {
            None if has_common => return Err(PlanError::TwoObjectives("all classes".to_owned())),
            None => (common, has_common) = (slo.objectives, true),
            Some(class) => {
                let place = named.iter().position(|(name, _)| name == class);
                let place = place.ok_or_else(|| PlanError::NoClass { class: class.clone() })?;
                if of[place].replace(slo.objectives).is_some() {
                    return Err(PlanError::TwoObjectives(format!("the class {class:?}")));
                }
            }
        }
    }
    if let Some((Some(class), _)) = goals.iter().find(|(class, _)| {
        class.as_ref().is_some_and(|class| named.iter().all(|(name, _)| name != class))
    }) {
        return Err(PlanError::NoClass { class: class.clone() });
    }
    if named.is_empty() {
        return Ok(([Class { name: None, objectives: common }].into(), vec![1.0], goals));
    }
    let class = |((name, _), own): (&(String, f64), Option<Objectives>)| Class {
        name: Some(name.as_str().into()),
        objectives: own.unwrap_or(common),
    };
    let shares = named.iter().map(|(_, share)| *share).collect();
    Ok((named.iter().zip(of).map(class).collect(), shares, goals))
}

fn workload(args: &LoadArgs, classes: Vec<f64>) -> Result<(Workload, Option<String>), PlanError> {
    let LoadArgs { load, requests, .. } = args;
    let above_0 = |name, given: Option<f64>| match given {
        Some(given) if !(given > 0.0 && given.is_finite()) => {
            Err(PlanError::Value { name, given, must: "a number above 0" })
        }
        given => Ok(given),
    };
    let rate = above_0("--rate", load.rate)?;
    let speed = above_0("--speed", load.speed)?;
    for given in &args.goals.rates {
        above_0("--rates", Some(*given))?;
    }
    let sources = [&load.trace, &requests.sharegpt].into_iter().flatten();
    let sources: Vec<_> = sources.map(|path| path.display().to_string()).collect();
    let mut conversations = None;
    if let Some(path) = &requests.sharegpt {
        conversations = Some(read_conversations(path)?);
    }
    let of = match (&load.trace, load.users, load.arrivals) {
        (Some(path), _, _) => {
            let trace = Arc::new(read_trace(path, load.trace_format.map(Into::into))?);
            let stretch = match (rate, speed) {
                (Some(rate), _) => trace.stretch(
                    load.requests.map_or(usize::MAX, |count| count as usize),
                    Some(rate),
                )?,
                (None, speed) => 1.0 / speed.unwrap_or(1.0),
            };
            Load::Replay { trace, stretch }
        }
        (None, Some(users), _) => Load::Closed { users },
        (None, None, arrivals) => {
            let arrivals =
                arrivals.unwrap_or(Arrivals::Poisson { rate: rate.unwrap_or(DEFAULT_RATE) });
            arrivals.validate()?;
            Load::Open(arrivals)
        }
    };
    let is_bounded = load.duration.is_some() || load.requests.is_some() || load.trace.is_some();
    requests.input.validate("--input", "input")?;
    requests.output.validate("--output", "output")?;
    if let Some(turns) = &requests.turns {
        turns.validate("--turns", "turns")?;
    }
    let workload = Workload {
        load: of,
        requests: load.requests,
        duration: load.duration.or((!is_bounded).then_some(DEFAULT_DURATION)),
        input: requests.input.clone(),
        output: requests.output.clone(),
        shared: requests.shared_prefix,
        turns: requests.turns.clone(),
        think: requests.think,
        classes,
        conversations,
        seed: load.seed,
    };
    Ok((workload, (!sources.is_empty()).then(|| sources.join(", "))))
}

fn read(path: &Path) -> Result<Vec<u8>, PlanError> {
    fs::read(path).map_err(|source| PlanError::File { path: path.to_owned(), source })
}

fn open(path: &Path) -> Result<BufReader<fs::File>, PlanError> {
    let file =
        fs::File::open(path).map_err(|source| PlanError::File { path: path.to_owned(), source })?;
    Ok(BufReader::new(file))
}

fn read_trace(path: &Path, format: Option<TraceFormat>) -> Result<Trace, PlanError> {
    let file = open(path)?;
    let read = match format {
        Some(format) => Trace::read(file, format),
        None => Trace::read_any(file),
    };
    read.map_err(|source| PlanError::Trace { path: path.to_owned(), source })
}

fn read_conversations(path: &Path) -> Result<Arc<Vec<Conversation>>, PlanError> {
    let wrong = |source| PlanError::Conversations { path: path.to_owned(), source };
    let read = Conversations::read(open(path)?).map_err(wrong)?;
    if read.conversations.is_empty() {
        return Err(PlanError::NoConversations { path: path.to_owned() });
    }
    Ok(Arc::new(read.conversations))
}

fn baseline(path: &Path) -> Result<Report, PlanError> {
    let text = String::from_utf8_lossy(&read(path)?).into_owned();
    gate::read_baseline(&text)
        .map_err(|source| PlanError::Baseline { path: path.to_owned(), source })
}
