//! Do the `.proto` files keep their style and their promises? `proto/README.md` says what these are.

use std::{path::Path, process::Command};

use crate::{
    step::{root, run},
    tools,
};

/// What was promised last: the compiled files, as buf writes them.
const BASELINE: &str = "baseline.binpb";

#[derive(Debug, clap::Args)]
pub(crate) struct BaselineArgs {
    /// Write it even if clients of the old one would stop working.
    #[arg(long)]
    break_promises: bool,
}

/// Style, and compatibility with the baseline.
pub(crate) fn check(buf: &Path) -> anyhow::Result<()> {
    run("style of the .proto files", in_proto(buf).arg("lint"))?;
    kept(buf)
}

/// Promises what the files say now.
pub(crate) fn baseline(args: &BaselineArgs) -> anyhow::Result<()> {
    let buf = tools::buf()?;
    if !args.break_promises && root().join("proto").join(BASELINE).exists() {
        kept(&buf)?;
    }
    let build = ["build", "--exclude-source-info", "--output", BASELINE];
    run("writing proto/baseline.binpb", in_proto(&buf).args(build))
}

fn kept(buf: &Path) -> anyhow::Result<()> {
    run("promises of the .proto files", in_proto(buf).args(["breaking", "--against", BASELINE]))
}

fn in_proto(buf: &Path) -> Command {
    let mut command = Command::new(buf);
    command.current_dir(root().join("proto"));
    command
}
