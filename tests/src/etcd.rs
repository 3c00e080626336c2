//! A real etcd on loopback.

use std::{
    env,
    ffi::OsString,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

/// How long it may take to answer.
const START: Duration = Duration::from_secs(30);
/// Who may do anything where somebody asks.
const USER: &str = "root";
const PASSWORD: &str = "correct horse";

/// One member, which may be stopped and started again.
#[derive(Debug)]
pub struct Etcd {
    process: Option<Child>,
    folder: TempDir,
    client: u16,
    peer: u16,
    /// Whether it wants certificates and passwords.
    is_secured: bool,
}

impl Etcd {
    /// Starts an empty one on free ports; the program is `BATON_ETCD`, or `etcd` on the path.
    pub fn start() -> anyhow::Result<Self> {
        let mut etcd = Etcd::new(false)?;
        etcd.restart()?;
        Ok(etcd)
    }

    /// One that speaks TLS, and wants to see a certificate and to hear a password.
    pub fn start_secured() -> anyhow::Result<Self> {
        let mut etcd = Etcd::new(true)?;
        etcd.certify()?;
        fs::write(etcd.file("password"), format!("{PASSWORD}\n"))?;
        etcd.restart()?;
        etcd.control(&["user", "add", &format!("{USER}:{PASSWORD}")])?;
        etcd.control(&["user", "grant-role", USER, "root"])?;
        etcd.control(&["auth", "enable"])?;
        Ok(etcd)
    }

    fn new(is_secured: bool) -> anyhow::Result<Self> {
        let held = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
        let [client, peer] = [held[0].local_addr()?.port(), held[1].local_addr()?.port()];
        Ok(Etcd { process: None, folder: tempfile::tempdir()?, client, peer, is_secured })
    }

    pub fn url(&self) -> String {
        let scheme = if self.is_secured { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.client)
    }

    /// Keys of `registry` that let somebody in.
    pub fn settings(&self) -> Vec<String> {
        let files = [
            ("ca_file", "ca.pem"),
            ("certificate_file", "client.pem"),
            ("key_file", "client.key"),
            ("password_file", "password"),
        ];
        let files = files.map(|(key, file)| (key, self.file(file).display().to_string()));
        let all = files.into_iter().chain([("user", USER.to_owned())]);
        all.map(|(key, value)| format!("registry.{key}=\"{value}\"")).collect()
    }

    /// As `kill -9` does.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// Forgets everything; it must not run.
    pub fn wipe(&self) -> anyhow::Result<()> {
        Ok(fs::remove_dir_all(self.file("data"))?)
    }

    /// Starts it where it was, and waits until it answers.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        let (client, peer) = (self.url(), format!("http://127.0.0.1:{}", self.peer));
        let mut command = Command::new(program());
        command.args(["--name", "t", "--unsafe-no-fsync", "--log-level", "error", "--data-dir"]);
        command.arg(self.file("data"));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.arg(format!("--initial-cluster=t={peer}"));
        if self.is_secured {
            command.arg("--client-cert-auth");
            command.arg("--trusted-ca-file").arg(self.file("ca.pem"));
            command.arg("--cert-file").arg(self.file("server.pem"));
            command.arg("--key-file").arg(self.file("server.key"));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let missing = "etcd isn't there; run the tests with `cargo xtask test`";
        self.process = Some(command.spawn().context(missing)?);
        let begun = Instant::now();
        while self.control(&["endpoint", "health"]).is_err() {
            if begun.elapsed() > START {
                bail!("etcd doesn't answer at {client}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// What `etcdctl` says to this.
    pub fn control(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut program = PathBuf::from(program());
        program.set_file_name("etcdctl");
        let mut command = Command::new(program);
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.url()]);
        if self.is_secured {
            command.arg("--cacert").arg(self.file("ca.pem"));
            command.arg("--cert").arg(self.file("client.pem"));
            command.arg("--key").arg(self.file("client.key"));
        }
        let output = command.args(arguments).stdin(Stdio::null()).output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "etcdctl {arguments:?}: {errors}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Makes an authority, and a certificate of either side.
    fn certify(&self) -> anyhow::Result<()> {
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        fs::write(self.file("ca.pem"), authority.pem())?;
        for side in ["server", "client"] {
            let key = KeyPair::generate()?;
            let of = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
            let certificate = of.signed_by(&key, &authority)?;
            fs::write(self.file(&format!("{side}.pem")), certificate.pem())?;
            fs::write(self.file(&format!("{side}.key")), key.serialize_pem())?;
        }
        Ok(())
    }

    fn file(&self, name: &str) -> PathBuf {
        Path::new(self.folder.path()).join(name)
    }
}

pub(crate) fn program() -> OsString {
    env::var_os("BATON_ETCD").unwrap_or_else(|| "etcd".into())
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have been killed.
        let _ = self.kill();
    }
}
