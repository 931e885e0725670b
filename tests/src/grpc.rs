//! An agent that serves gRPC on a socket of the test's own, and clients of it in Python.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{Agent, python, repository};

/// The agent and its folder.
#[derive(Debug)]
pub struct Served {
    /// The agent.
    pub agent: Agent,
    /// Holds `saker.sock`, `saker.yaml`, and whatever the test puts there.
    pub folder: TempDir,
}

impl Served {
    /// Starts one with further configuration, and rules that are written to `rules.yaml` if there are any.
    pub fn start(configuration: &str, rules: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = folder.path().join("saker.yaml");
        let mut text = format!(
            "http: {{listen: '127.0.0.1:0'}}\ngrpc:\n  unix: {{path: {}}}\n{configuration}\n",
            folder.path().join("saker.sock").display()
        );
        if !rules.is_empty() {
            let file = folder.path().join("rules.yaml");
            fs::write(&file, rules).expect("the rules are written");
            text += &format!("rules: {{paths: [{}]}}\n", file.display());
        }
        fs::write(&config, text).expect("the configuration is written");
        let agent = Agent::start_with(&config, &[]);
        Self { agent, folder }
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("saker.sock")
    }

    /// The same as clients name it.
    pub fn address(&self) -> String {
        format!("unix:{}", self.socket().display())
    }
}

/// A client of code made of the agent's own proto files, or of Falco's; `None` after recording a skip.
#[derive(Clone, Debug)]
pub struct Client {
    python: PathBuf,
    protos: PathBuf,
    certificates: Option<PathBuf>,
    address: String,
}

impl Client {
    /// Of the agent's own.
    pub fn saker(address: &str) -> Option<Self> {
        Self::of(address, "agent/proto")
    }

    /// Of Falco's.
    pub fn falco(address: &str) -> Option<Self> {
        Self::of(address, "tests/python/grpc/falco")
    }

    fn of(address: &str, protos: &str) -> Option<Self> {
        Some(Self {
            python: python::grpc_libraries()?,
            protos: repository().join(protos),
            certificates: None,
            address: address.into(),
        })
    }

    /// With TLS, and what is in this folder.
    pub fn with_certificates(mut self, folder: &Path) -> Self {
        self.certificates = Some(folder.into());
        self
    }

    /// Starts a call.
    pub fn begin(&self, arguments: &[&str]) -> Call {
        let mut command = Command::new(&self.python);
        command
            .arg(repository().join("tests/python/grpc/client.py"))
            .arg(&self.address)
            .arg(&self.protos)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(folder) = &self.certificates {
            command.env("CERTIFICATES", folder);
        }
        let mut child = command.spawn().expect("Python starts");
        Call {
            stdin: child.stdin.take(),
            stdout: BufReader::new(child.stdout.take().expect("stdout is piped")),
            child,
        }
    }

    /// Makes a call and waits for its end: what it printed.
    pub fn call(&self, arguments: &[&str]) -> Vec<Value> {
        self.begin(arguments).finish()
    }

    /// A call that is refused: with which code.
    pub fn refused(&self, arguments: &[&str]) -> String {
        let answers = self.call(arguments);
        let code = answers.last().and_then(|answer| answer["code"].as_str());
        code.unwrap_or_else(|| panic!("{arguments:?} was not refused: {answers:?}"))
            .to_owned()
    }
}

/// A call that goes on.
#[derive(Debug)]
pub struct Call {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Call {
    /// The next answer; `None` where there is none.
    pub fn answer(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("a line of text");
        (!line.is_empty()).then(|| serde_json::from_str(&line).expect("JSON"))
    }

    /// All that is left.
    pub fn finish(mut self) -> Vec<Value> {
        drop(self.stdin.take().map(|mut stdin| stdin.flush()));
        let mut answers = Vec::new();
        while let Some(answer) = self.answer() {
            answers.push(answer);
        }
        answers
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Certificates of a test: `ca.pem`, `server.pem`, `server.key` (for localhost and 127.0.0.1), `client.pem`, `client.key`, and a root
/// that nobody knows, `other.pem`.
pub fn certificates(folder: &Path) {
    let root = |name: &str| {
        let (key, pem) = (format!("{name}.key"), format!("{name}.pem"));
        let subject = format!("/CN=test {name}");
        let arguments = [
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            &subject,
            "-keyout",
            &key,
            "-out",
            &pem,
        ];
        openssl(folder, &arguments);
    };
    root("ca");
    root("other");
    fs::write(
        folder.join("names"),
        "subjectAltName=DNS:localhost,IP:127.0.0.1\n",
    )
    .expect("a file");
    for name in ["server", "client"] {
        request(folder, name);
        sign(folder, name);
    }
}

/// Signs such a certificate anew with the root's key, as of years ago and over: the key stays.
pub fn expire(folder: &Path, name: &str) {
    // A request cannot be signed as of another time by `x509`, but by `ca`, which keeps books.
    let config = "[ca]\ndefault_ca=own\n[own]\nnew_certs_dir=.\ndatabase=index\nserial=serial\ndefault_md=sha256\npolicy=any\n\
                  x509_extensions=names\n[any]\ncommonName=supplied\n[names]\nsubjectAltName=DNS:localhost,IP:127.0.0.1\n";
    fs::write(folder.join("ca.conf"), config).expect("a file");
    fs::write(folder.join("index"), "").expect("a file");
    fs::write(folder.join("serial"), "0a\n").expect("a file");
    let (from, pem) = (format!("{name}.csr"), format!("{name}.pem"));
    let arguments = [
        "ca",
        "-batch",
        "-config",
        "ca.conf",
        "-cert",
        "ca.pem",
        "-keyfile",
        "ca.key",
        "-in",
        &from,
        "-startdate",
        "20200101000000Z",
        "-enddate",
        "20210101000000Z",
        "-notext",
        "-out",
        &pem,
    ];
    openssl(folder, &arguments);
}

/// Makes a new certificate of this name in the place of another, with the key that is there.
pub fn renew(folder: &Path, name: &str) {
    sign(folder, name);
}

fn request(folder: &Path, name: &str) {
    let (key, request) = (format!("{name}.key"), format!("{name}.csr"));
    let subject = format!("/CN={name}");
    let arguments = [
        "req",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        &subject,
        "-keyout",
        &key,
        "-out",
        &request,
    ];
    openssl(folder, &arguments);
}

fn sign(folder: &Path, name: &str) {
    let (request, pem) = (format!("{name}.csr"), format!("{name}.pem"));
    let arguments = [
        "x509",
        "-req",
        "-in",
        &request,
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "names",
        "-out",
        &pem,
    ];
    openssl(folder, &arguments);
}

fn openssl(folder: &Path, arguments: &[&str]) {
    let output = Command::new("openssl")
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("openssl starts");
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
