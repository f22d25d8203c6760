//! A daemon that answers from a script, and the real command to ask it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

/// The status in which nearly everything occurs.
pub(crate) fn status() -> Value {
    serde_json::from_str(include_str!("../fixtures/status.json")).unwrap()
}

/// A request as the daemon saw it: `METHOD TARGET` and the body.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) body: Value,
}

pub(crate) struct Daemon {
    directory: TempDir,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Daemon {
    /// Answers each request with what `script` makes of it: a status and a
    /// document, which gets its schema tag here.
    pub(crate) fn start(script: impl Fn(&Seen) -> (u16, Value) + Send + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("epsilon.sock")).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = seen.clone();
        // It ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                answer(stream.unwrap(), &script, &record);
            }
        });
        Self { directory, seen }
    }

    /// Always answers with `document`.
    pub(crate) fn saying(document: Value) -> Self {
        Self::start(move |_| (200, document.clone()))
    }

    /// Always answers with this problem.
    pub(crate) fn refusing(kind: &'static str, message: &'static str, hint: &'static str) -> Self {
        Self::start(move |_| (500, json!({"kind": kind, "message": message, "hint": hint})))
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("epsilon.sock")
    }

    /// A path beside the socket, for files of the test.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Runs `epsilon` with these arguments against this daemon.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        self.run_with(arguments, "", &[])
    }

    pub(crate) fn run_with(
        &self,
        arguments: &[&str],
        input: &str,
        variables: &[(&str, &str)],
    ) -> Ended {
        let socket = self.socket();
        epsilon(&[&["--socket", socket.to_str().unwrap()], arguments].concat(), input, variables)
    }
}

fn answer(
    mut stream: UnixStream,
    script: &impl Fn(&Seen) -> (u16, Value),
    record: &Mutex<Vec<Seen>>,
) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        if header.trim().is_empty() {
            break;
        }
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let seen = Seen {
        line: line.trim().trim_end_matches(" HTTP/1.1").to_owned(),
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    };
    record.lock().unwrap().push(seen.clone());
    let (status, document) = script(&seen);
    // A text is sent as it is: events, or what is no document at all.
    let text = match document {
        Value::String(text) => text,
        mut document => {
            document["schema"] = "epsilon/v1".into();
            document.to_string()
        }
    };
    // The command may have gone already.
    let _ = write!(
        stream,
        "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{text}",
        text.len()
    );
}

/// How a run of the command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    /// Standard output as a document that carries the schema tag.
    pub(crate) fn document(&self) -> Value {
        let document: Value = serde_json::from_str(&self.out).unwrap_or_else(|error| {
            panic!("{error}: {self:?}");
        });
        assert_eq!(document["schema"], "epsilon/v1");
        document
    }
}

/// Runs the real command in an environment without settings.
pub(crate) fn epsilon(arguments: &[&str], input: &str, variables: &[(&str, &str)]) -> Ended {
    let mut child = Command::new(env!("CARGO_BIN_EXE_epsilon"))
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read its input may be gone by now.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    Ended {
        code: status.code().unwrap(),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    }
}
