//! `baton explain`: why a request ran where it did.

use std::fmt;

use baton_proto::v1::{Decision, Path, Won};

use crate::{
    client::{Client, ClientError},
    table::Table,
};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ExplainArgs {
    /// The id in the request's answer: cmpl-…, chatcmpl-… or req-….
    #[arg(value_name = "REQUEST_ID")]
    request: String,
    /// Where the cluster's API listens.
    #[arg(long, default_value = "http://127.0.0.1:8000", env = "BATON_URL")]
    url: String,
}

pub(crate) async fn explain(args: ExplainArgs) -> Result<(), ClientError> {
    let mut client = Client::connect(&args.url).await?;
    for decision in client.explain(&args.request).await? {
        print!("{}", Told(&decision));
    }
    Ok(())
}

/// A decision as people read it.
struct Told<'a>(&'a Decision);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decision = self.0;
        let Decision { choice, attempt, moved_from, .. } = decision;
        if !moved_from.is_empty() {
            return writeln!(f, "sequence {choice}, attempt {attempt}: {}", moved(decision));
        }
        writeln!(f, "sequence {choice}, attempt {attempt}: {}", why(decision))?;
        writeln!(
            f,
            "  waited {} ms in the router; cached: {} tokens for prefill, {} for decode",
            ms(decision.waited_us),
            decision.prefill_cached_tokens,
            decision.decode_cached_tokens
        )?;
        let tenant = match &decision.tenant[..] {
            "" => "no tenant named".to_owned(),
            tenant => format!("tenant {tenant}"),
        };
        writeln!(f, "  class {}, {tenant}", decision.class)?;
        let mut times = Table::new(["", "TTFT ms", "TPOT ms"]);
        let chosen = decision.chosen.clone().unwrap_or_default();
        let ttft = decision.waited_us + chosen.ttft_us;
        times.row(["predicted".to_owned(), ms(ttft), ms(chosen.tpot_us)]);
        let row = |name: &str, ttft: Option<u64>, tpot: Option<u64>| {
            let cell = |us: Option<u64>| us.map_or_else(|| "–".to_owned(), ms);
            [name.to_owned(), cell(ttft), cell(tpot)]
        };
        times.row(row("objective", decision.ttft_objective_us, decision.tpot_objective_us));
        times.row(row("came out", decision.ttft_us, decision.tpot_us));
        writeln!(f, "\n{times}")?;
        let mut paths = Table::new([
            "",
            "prefill",
            "decode",
            "TTFT ms",
            "exposed ms",
            "TPOT ms",
            "attainment",
            "loss",
            "cost ms",
        ]);
        let all = decision.chosen.iter().map(|path| ("chosen", path));
        for (mark, path) in all.chain(decision.alternatives.iter().map(|path| ("", path))) {
            paths.row(cells(mark, path));
        }
        writeln!(f, "{paths}")
    }
}

/// Where a sequence went while it was decoded.
fn moved(decision: &Decision) -> String {
    let Decision { moved_from, chosen, candidates, .. } = decision;
    let to = chosen.as_ref().map(|path| path.decode_node.clone()).unwrap_or_default();
    let tpot = ms(chosen.as_ref().map_or(0, |path| path.tpot_us));
    format!(
        "moved from {moved_from} to {to}, the best of {candidates}; predicted TPOT there: {tpot} ms"
    )
}

fn why(decision: &Decision) -> String {
    let Decision { candidates, near_equal, .. } = decision;
    match decision.won() {
        Won::Alone => "the only path there was".to_owned(),
        Won::Attainment => format!("of {candidates} paths the one that meets the most objectives"),
        Won::Cost => {
            format!("of {candidates} paths one that meets the most objectives, at the least cost")
        }
        Won::Draw => format!("drawn among the {near_equal} best of {candidates} paths"),
        Won::Policy => format!("one of {candidates} paths, by a policy that knows no objectives"),
        Won::Unspecified => format!("one of {candidates} paths"),
    }
}

fn cells(mark: &str, path: &Path) -> [String; 9] {
    let (prefill, decode) = match (&path.prefill_node[..], &path.decode_node[..]) {
        ("", decode) => (format!("{decode} (local)"), decode.to_owned()),
        (prefill, "") => (prefill.to_owned(), "none".to_owned()),
        (prefill, decode) => (prefill.to_owned(), decode.to_owned()),
    };
    [
        mark.to_owned(),
        prefill,
        decode,
        ms(path.ttft_us),
        ms(path.exposed_transfer_us),
        ms(path.tpot_us),
        format!("{:.3}", path.attainment),
        format!("{:.3}", path.loss),
        ms(path.cost_us),
    ]
}

fn ms(us: u64) -> String {
    format!("{:.2}", us as f64 / 1e3)
}
