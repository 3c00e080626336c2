//! The command line.

use std::{path::PathBuf, time::Duration};

use baton_workload::{Arrivals, Lengths, TraceFormat, parse_duration};
use clap::{Args, ValueEnum};

use crate::{
    chaos::Fault,
    report::gate::Assertion,
    schedule::Shared,
    slo::Slo,
    target::{Api, TargetSpec},
};

/// Load-tests servers of language models against latency objectives: Baton over gRPC, and whatever speaks OpenAI's API.
///
/// Requests are sent when they are due, whatever became of those before, and every latency counts from then. Exit status:
/// 0 measured, and all that was to be reached was; 1 something wasn't; 2 wrong arguments or files; 3 no target to
/// measure; 4 no request was answered; 130 stopped by hand (what there was by then is reported).
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// Whom to ask: grpc://host:port (Baton), http://host:port (OpenAI's API); grpcs and https, too. Repeated: side by
    /// side, on the same schedule. With a name: new=grpc://host:port. Several addresses of one: with commas.
    #[arg(
        long = "target",
        short = 't',
        value_name = "[NAME=]URL",
        default_value = "grpc://127.0.0.1:8000"
    )]
    pub targets: Vec<TargetSpec>,
    /// The model. Left out: the first that each target serves.
    #[arg(long, short)]
    pub model: Option<String>,
    /// Which call is made.
    #[arg(long, value_enum, default_value_t)]
    pub api: Api,

    #[command(flatten, next_help_heading = "Load")]
    pub load: LoadOptions,
    #[command(flatten, next_help_heading = "Requests")]
    pub requests: RequestOptions,
    #[command(flatten, next_help_heading = "Objectives")]
    pub goals: GoalOptions,
    #[command(flatten, next_help_heading = "Faults")]
    pub faults: FaultOptions,
    #[command(flatten, next_help_heading = "Results")]
    pub results: ResultOptions,
    #[command(flatten, next_help_heading = "Connections")]
    pub connections: ConnectionOptions,
}

#[derive(Clone, Debug, Args)]
pub struct LoadOptions {
    /// Poisson arrivals, requests a second.
    #[arg(long, short, conflicts_with_all = ["arrivals", "users"])]
    pub rate: Option<f64>,
    /// When requests come: poisson:rate=4, gamma:rate=4,cv=3 (bursts), constant:rate=4, ramp:from=1,to=10,over=60s,
    /// surge:rate=2,peak=8,from=10s,to=20s.
    #[arg(long, conflicts_with = "users")]
    pub arrivals: Option<Arrivals>,
    /// So many users who each wait for their answer before they ask again: a closed loop, which offers less the slower the
    /// target is.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub users: Option<u32>,
    /// Requests of a recording, with its lengths and, unless --rate says otherwise, at its times.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["arrivals", "users", "input", "output", "sharegpt"])]
    pub trace: Option<PathBuf>,
    /// The recording's format. Left out: seen from its beginning.
    #[arg(long, requires = "trace")]
    pub trace_format: Option<TraceName>,
    /// Plays the recording so many times as fast.
    #[arg(long, requires = "trace", conflicts_with = "rate")]
    pub speed: Option<f64>,
    /// How long requests come. Left out, and without --requests: 30s, or the whole trace.
    #[arg(long, short, value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// At most so many requests (sessions, where they have several turns).
    #[arg(long, short = 'n', value_parser = clap::value_parser!(u64).range(1..))]
    pub requests: Option<u64>,
    /// Requests that are due in the first so long don't count.
    #[arg(long, value_parser = parse_duration, default_value = "0s")]
    pub warmup: Duration,
    /// Nor do those in the last so long.
    #[arg(long, value_parser = parse_duration, default_value = "0s")]
    pub cooldown: Duration,
    /// The same seed is the same schedule.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TraceName {
    Azure,
    Mooncake,
    Burstgpt,
}

impl From<TraceName> for TraceFormat {
    fn from(name: TraceName) -> Self {
        match name {
            TraceName::Azure => TraceFormat::AzureCsv,
            TraceName::Mooncake => TraceFormat::MooncakeJsonl,
            TraceName::Burstgpt => TraceFormat::BurstGptCsv,
        }
    }
}

#[derive(Clone, Debug, Args)]
pub struct RequestOptions {
    /// Tokens of a prompt: 512, uniform:min=10,max=900, normal:mean=512,sd=100, lognormal:mean=755,cv=1,
    /// empirical:100,2000,350.
    #[arg(long, short, default_value = "256")]
    pub input: Lengths,
    /// Tokens of an answer, in the same words.
    #[arg(long, short, default_value = "64")]
    pub output: Lengths,
    /// Prompts share their beginnings: count=8,tokens=1024.
    #[arg(long, value_parser = parse_shared)]
    pub shared_prefix: Option<Shared>,
    /// Sessions of several turns, each with the whole conversation before it.
    #[arg(long, value_name = "LENGTHS")]
    pub turns: Option<Lengths>,
    /// From an answer's end to the session's next turn.
    #[arg(long, value_parser = parse_duration, default_value = "1s")]
    pub think: Duration,
    /// Conversations to have: a file in ShareGPT's format.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["input", "output", "turns", "shared_prefix"])]
    pub sharegpt: Option<PathBuf>,
    /// The text that prompts are made of, at least a hundred words. Left out: one that is built in.
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// Counts tokens where the target doesn't tell: Hugging Face's tokenizer.json.
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// A class and its share of the requests: chat=3 batch=1. Routers hear of it. Repeatable.
    #[arg(long = "class", value_name = "NAME=SHARE", value_parser = parse_class)]
    pub classes: Vec<(String, f64)>,
    /// 0 is greedy.
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f32,
    /// Answers may end before they have as many tokens as were asked for.
    #[arg(long)]
    pub natural_ends: bool,
    /// More for the body over HTTP, as a JSON object.
    #[arg(long, value_name = "JSON", value_parser = parse_object)]
    pub extra_body: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Clone, Debug, Args)]
pub struct GoalOptions {
    /// What each request is to be served in: ttft=300ms,tpot=50ms,e2e=10s; of one class: chat:ttft=300ms; of all
    /// together: ttft.p99=500ms, which sets the exit status. Repeatable.
    #[arg(long)]
    pub slo: Vec<Slo>,
    /// Routers don't hear of the objectives.
    #[arg(long)]
    pub silent_slo: bool,
    /// Looks for the highest rate at which enough requests meet their objectives.
    #[arg(long, conflicts_with_all = ["users", "chaos"])]
    pub find_capacity: bool,
    /// How many are enough, in percent.
    #[arg(long, default_value_t = 90.0, requires = "find_capacity")]
    pub wanted: f64,
    /// How near the answer's ends are to be, in percent.
    #[arg(long, default_value_t = 5.0, requires = "find_capacity")]
    pub precision: f64,
    /// Runs at a rate that is neither clearly enough nor clearly too much: at most.
    #[arg(long, default_value_t = 5, requires = "find_capacity")]
    pub repeats: u32,
    /// Measures at each of these rates, too: a curve.
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["users", "chaos"])]
    pub rates: Vec<f64>,
    /// Must hold, or the exit status is 1: ttft.p99<500ms, attainment>=95%, goodput>=3.5, errors==0, capacity>=4,
    /// token_faults==0, saturated==0. Repeatable; of one target: new:errors==0.
    #[arg(long = "assert", value_name = "WHAT")]
    pub asserts: Vec<Assertion>,
    /// An earlier report (--json) that must not be better by more than the tolerance, or the exit status is 1.
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
    /// In percent.
    #[arg(long, default_value_t = 10.0, requires = "baseline")]
    pub tolerance: f64,
}

#[derive(Clone, Debug, Args)]
pub struct FaultOptions {
    /// A command for the shell, so long after the beginning: 5s:kill -9 1234. Streams that break go on elsewhere, and all
    /// answers are compared with those of a run without faults. Repeatable.
    #[arg(long, value_name = "TIME:COMMAND")]
    pub chaos: Vec<Fault>,
    /// When the answers without faults are asked for.
    #[arg(long, value_enum, default_value_t, requires = "chaos")]
    pub reference: ReferenceRun,
    /// Streams that break go on elsewhere, also without faults: over gRPC.
    #[arg(long)]
    pub resume: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ReferenceRun {
    #[default]
    Before,
    After,
    /// Nothing is compared.
    Never,
}

#[derive(Clone, Debug, Args)]
pub struct ResultOptions {
    /// Everything that was measured, as one object.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Every request, in a row.
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// A page with plots, in one file.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// No live view, also on a terminal.
    #[arg(long)]
    pub no_live: bool,
}

#[derive(Clone, Debug, Args)]
pub struct ConnectionOptions {
    /// A bearer token.
    #[arg(long, env = "BATON_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Sends the token over plain connections, too.
    #[arg(long)]
    pub plain_token: bool,
    /// Certificates that the targets' are signed by. Left out: those that the system trusts.
    #[arg(long, value_name = "PEM")]
    pub ca: Option<PathBuf>,
    /// The client's own certificate.
    #[arg(long, value_name = "PEM", requires = "key")]
    pub cert: Option<PathBuf>,
    /// And its key.
    #[arg(long, value_name = "PEM", requires = "cert")]
    pub key: Option<PathBuf>,
    /// On whose behalf requests come.
    #[arg(long)]
    pub tenant: Option<String>,
    /// For each whole answer.
    #[arg(long, value_parser = parse_duration, default_value = "5m")]
    pub timeout: Duration,
    /// Over gRPC, to each target. Over HTTP there are as many as answers on their way.
    #[arg(long, default_value_t = 4)]
    pub connections: usize,
    /// Threads that ask.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Answers on their way from one target; beyond that requests aren't sent, and count as missed.
    #[arg(long, default_value_t = 20_000)]
    pub max_in_flight: usize,
}

fn fields<'a>(given: &'a str, names: [&str; 2]) -> Result<[&'a str; 2], String> {
    let expected = || format!("{given:?} isn't like {}=…,{}=…", names[0], names[1]);
    let mut found = [None, None];
    for part in given.split(',') {
        let (name, value) = part.split_once('=').ok_or_else(expected)?;
        let place = names.iter().position(|known| *known == name.trim()).ok_or_else(expected)?;
        found[place] = Some(value.trim());
    }
    let [Some(first), Some(second)] = found else { return Err(expected()) };
    Ok([first, second])
}

fn parse_shared(given: &str) -> Result<Shared, String> {
    let [count, tokens] = fields(given, ["count", "tokens"])?;
    let number = |name: &str, text: &str| {
        let number = text.parse::<u32>().ok().filter(|number| *number > 0);
        number.ok_or_else(|| format!("{name} is {text:?}; it must be a number from 1 on"))
    };
    Ok(Shared { count: number("count", count)?, tokens: number("tokens", tokens)? })
}

fn parse_class(given: &str) -> Result<(String, f64), String> {
    let (name, share) = given.split_once('=').unwrap_or((given, "1"));
    let share = share.parse::<f64>().ok().filter(|share| *share > 0.0 && share.is_finite());
    match (name, share) {
        ("", _) => Err(format!("{given:?} names no class")),
        (_, None) => Err(format!("{given:?} has no share above 0")),
        (name, Some(share)) => Ok((name.to_owned(), share)),
    }
}

fn parse_object(given: &str) -> Result<serde_json::Map<String, serde_json::Value>, String> {
    match serde_json::from_str(given) {
        Ok(serde_json::Value::Object(object)) => Ok(object),
        Ok(_) => Err("it must be an object, like {\"top_k\": 40}".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
