//! The client of the daemon's socket.

use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::time::Duration;

use epsilon_proto::api::{Document, Event, Problem, ProblemKind, SCHEMA};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::Failure;

const START_HINT: &str = "start it with: systemctl start meshd (or run meshd as root)";

/// Asks the daemon; one connection per request.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) socket: PathBuf,
    pub(crate) network: Option<String>,
    pub(crate) timeout: Duration,
}

impl Client {
    /// `GET` on `path` with `?network` and further `query` pairs.
    pub(crate) async fn get<R: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<R, Problem> {
        self.ask(Method::GET, &self.target(path, query), Bytes::new()).await
    }

    /// `POST` of `body` to `path` with `?network`.
    pub(crate) async fn post<B: Serialize, R: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<R, Problem> {
        self.ask(Method::POST, &self.target(path, &[]), encode(body)?).await
    }

    /// `POST` of `body` to `path`, for calls that concern no network of this
    /// machine yet.
    pub(crate) async fn post_unbound<B: Serialize, R: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<R, Problem> {
        self.ask(Method::POST, path, encode(body)?).await
    }

    /// `GET` on `path` without any query.
    pub(crate) async fn get_unbound<R: DeserializeOwned>(&self, path: &str) -> Result<R, Problem> {
        self.ask(Method::GET, path, Bytes::new()).await
    }

    /// The events at `path`, handed to `each` until it says no or they end.
    pub(crate) async fn events(
        &self,
        path: &str,
        query: &[(&str, &str)],
        mut each: impl FnMut(Event) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let target = self.target(path, query);
        let response = self.in_time(&target, self.send(Method::GET, &target, Bytes::new())).await?;
        if !response.status().is_success() {
            return Err(self.in_time(&target, self.problem(&target, response)).await?.into());
        }
        let mut body = response.into_body();
        let mut waiting = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| broken(&target, &error))?;
            let Ok(data) = frame.into_data() else { continue };
            waiting.extend_from_slice(&data);
            while let Some(end) = waiting.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = waiting.drain(..=end).collect();
                each(decode(&target, &line)?)?;
            }
        }
        Ok(())
    }

    fn target(&self, path: &str, query: &[(&str, &str)]) -> String {
        let network = self.network.as_deref().map(|network| ("network", network));
        let mut target = path.to_owned();
        for (number, (name, value)) in network.into_iter().chain(query.iter().copied()).enumerate()
        {
            target.push(if number == 0 { '?' } else { '&' });
            target.push_str(name);
            target.push('=');
            percent_encode(value, &mut target);
        }
        target
    }

    async fn ask<R: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Result<R, Problem> {
        self.in_time(target, async {
            let response = self.send(method, target, body).await?;
            if !response.status().is_success() {
                return Err(self.problem(target, response).await?);
            }
            decode(target, &Self::read(target, response).await?)
        })
        .await
    }

    async fn in_time<R>(
        &self,
        target: &str,
        work: impl Future<Output = Result<R, Problem>>,
    ) -> Result<R, Problem> {
        match tokio::time::timeout(self.timeout, work).await {
            Ok(result) => result,
            Err(_) => Err(Problem::new(
                ProblemKind::TimedOut,
                format!(
                    "meshd did not answer {} within {}",
                    target.split('?').next().unwrap_or(target),
                    crate::human::duration(self.timeout)
                ),
            )
            .hint("wait longer with --timeout, or look at its log: journalctl -u meshd")),
        }
    }

    async fn send(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, Problem> {
        let stream =
            UnixStream::connect(&self.socket).await.map_err(|error| self.not_connected(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(target, &error))?;
        // It ends with the response, or with the runtime.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header("host", "meshd")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| {
                Problem::new(ProblemKind::Usage, format!("cannot ask for {target}: {error}"))
            })?;
        sender.send_request(request).await.map_err(|error| broken(target, &error))
    }

    async fn read(target: &str, response: Response<Incoming>) -> Result<Bytes, Problem> {
        response
            .into_body()
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes)
            .map_err(|error| broken(target, &error))
    }

    /// The problem in a response that is none of success.
    async fn problem(
        &self,
        target: &str,
        response: Response<Incoming>,
    ) -> Result<Problem, Problem> {
        let status = response.status();
        let body = Self::read(target, response).await?;
        decode(target, &body).map_err(|_| {
            Problem::new(
                ProblemKind::Error,
                format!("{} answered {target} with {status}", self.socket.display()),
            )
            .hint("is it meshd that listens there? Choose another --socket if not")
        })
    }

    fn not_connected(&self, error: &io::Error) -> Problem {
        let socket = self.socket.display();
        match error.kind() {
            ErrorKind::NotFound => Problem::new(
                ProblemKind::DaemonNotRunning,
                format!("meshd is not running: there is no socket {socket}"),
            )
            .hint(START_HINT),
            ErrorKind::ConnectionRefused => Problem::new(
                ProblemKind::DaemonNotRunning,
                format!("meshd is not running: nobody answers at {socket}"),
            )
            .hint(START_HINT),
            ErrorKind::PermissionDenied => Problem::new(
                ProblemKind::Permission,
                format!("no permission to talk to meshd at {socket}"),
            )
            .hint("use sudo, or join the group: usermod -aG epsilon USER, then log in again"),
            _ => Problem::new(
                ProblemKind::Error,
                format!("cannot connect to meshd at {socket}: {error}"),
            )
            .hint("choose its socket with --socket or EPSILON_SOCKET"),
        }
    }
}

fn broken(target: &str, error: &hyper::Error) -> Problem {
    Problem::new(
        ProblemKind::DaemonNotRunning,
        format!("the connection to meshd broke during {target}: {error}"),
    )
    .hint("look at its log: journalctl -u meshd")
}

fn encode<B: Serialize>(body: &B) -> Result<Bytes, Problem> {
    serde_json::to_vec(body).map(Bytes::from).map_err(|error| {
        Problem::new(ProblemKind::Error, format!("the request cannot be written: {error}"))
    })
}

fn decode<R: DeserializeOwned>(target: &str, body: &[u8]) -> Result<R, Problem> {
    serde_json::from_slice::<Document<R>>(body).map(|document| document.body).map_err(|error| {
        Problem::new(
            ProblemKind::Error,
            format!("the answer to {target} is not a document of {SCHEMA}: {error}"),
        )
        .hint("epsilon and meshd may differ in version; compare: epsilon version")
    })
}

fn percent_encode(text: &str, target: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            target.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(target, "%{byte:02X}");
        }
    }
}
