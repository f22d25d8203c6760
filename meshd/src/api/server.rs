use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use epsilon_proto::api::{Document, Event, EventKind, Problem, ProblemKind, Severity};
use futures::Stream;
use futures::stream::{self, StreamExt};
use serde::Serialize;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{mpsc, oneshot, watch};

use super::journal::Journal;
use super::routes::{self, EventsQuery};
use super::{Answer, Call, Socket};

/// How long clients that are still connected get at shutdown.
const GRACE: Duration = Duration::from_secs(2);

/// What one request may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest request body in bytes.
    pub body: usize,
    /// From the end of the request's head to the beginning of the answer.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { body: 256 * 1024, time: Duration::from_mins(2) }
    }
}

/// What every handler sees.
#[derive(Debug, Clone)]
pub(super) struct Shell {
    calls: mpsc::Sender<(Call, Answer)>,
    journal: Journal,
    stopping: watch::Receiver<bool>,
}

/// Serves the API on `socket` until `shutdown` is ready.
///
/// Then event streams end, calls that are under way get two seconds to be
/// answered, and the socket's file is removed.
pub async fn serve(
    socket: Socket,
    calls: mpsc::Sender<(Call, Answer)>,
    journal: Journal,
    limits: Limits,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    let Socket { listener, file } = socket;
    let (stop, stopping) = watch::channel(false);
    let app = router(Shell { calls, journal, stopping: stopping.clone() }, limits);
    let server = axum::serve(listener, app).with_graceful_shutdown(async move {
        shutdown.await;
        stop.send_replace(true);
    });
    let deadline = async move {
        stopped(stopping).await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        _ = server => {}
        () = deadline => {}
    }
    drop(file);
}

async fn stopped(mut stopping: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop as well.
    let _ = stopping.wait_for(|stop| *stop).await;
}

pub(super) fn router(shell: Shell, limits: Limits) -> Router {
    let mut router = Router::new();
    for route in routes::table() {
        router = router.route(route.path, route.service);
    }
    router
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(limits.body))
        .layer(middleware::from_fn_with_state(limits, in_time))
        .with_state(shell)
}

async fn in_time(State(limits): State<Limits>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    match tokio::time::timeout(limits.time, next.run(request)).await {
        Ok(response) => response,
        Err(_) => refuse(
            &Problem::new(
                ProblemKind::TimedOut,
                format!("{path} was not answered within {} s", limits.time.as_secs()),
            )
            .hint("look at the daemon's log: journalctl -u meshd"),
        ),
    }
}

async fn unknown_path(uri: Uri) -> Response {
    let paths: Vec<&str> = routes::table().iter().map(|route| route.path).collect();
    refuse_as(
        StatusCode::NOT_FOUND,
        &Problem::new(ProblemKind::Usage, format!("there is nothing at {}", uri.path()))
            .hint(format!("there is: {}", paths.join(", "))),
    )
}

async fn wrong_method(request: Request) -> Response {
    let method = routes::table()
        .iter()
        .find(|route| route.path == request.uri().path())
        .map_or("GET", |route| route.method);
    refuse_as(
        StatusCode::METHOD_NOT_ALLOWED,
        &Problem::new(
            ProblemKind::Usage,
            format!("{} does not take {}", request.uri().path(), request.method()),
        )
        .hint(format!("use {method}")),
    )
}

/// Hands `call` to the daemon and its answer to the client.
pub(super) async fn ask(shell: Shell, call: Call) -> Response {
    let (answer, reply) = oneshot::channel();
    let shutting_down = || {
        refuse(
            &Problem::new(ProblemKind::Error, "the daemon ended before it answered")
                .hint("try again once it runs: systemctl status meshd"),
        )
    };
    if shell.calls.send((call, answer)).await.is_err() {
        return shutting_down();
    }
    match reply.await {
        Ok(Ok(reply)) => json(StatusCode::OK, &Document::new(reply)),
        Ok(Err(problem)) => refuse(&problem),
        Err(_) => shutting_down(),
    }
}

/// The events so far, one per line, and with `follow` all that come.
pub(super) async fn events(
    State(shell): State<Shell>,
    query: Result<Query<EventsQuery>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let Query(EventsQuery { network, follow }) = match query {
        Ok(query) => query,
        Err(rejection) => return refuse(&routes::bad_query(&rejection)),
    };
    let (kept, incoming) = shell.journal.follow();
    let incoming = follow.then_some(incoming);
    let wanted = move |event: &Event| {
        event.network.is_none() || network.is_none() || event.network == network
    };
    let lines = stream::iter(kept)
        .chain(live(incoming, shell.stopping))
        .filter(move |event| std::future::ready(wanted(event)))
        .filter_map(|event| async move {
            let mut line = serde_json::to_vec(&Document::new(event)).ok()?;
            line.push(b'\n');
            Some(Ok::<_, Infallible>(Bytes::from(line)))
        });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

pub(super) fn live(
    incoming: Option<broadcast::Receiver<Event>>,
    stopping: watch::Receiver<bool>,
) -> impl Stream<Item = Event> {
    stream::unfold(incoming.map(|incoming| (incoming, None::<Event>)), move |state| {
        let stopping = stopping.clone();
        async move {
            let (mut incoming, mut held) = state?;
            if let Some(event) = held.take() {
                return Some((event, Some((incoming, None))));
            }
            let received = tokio::select! {
                received = incoming.recv() => received,
                () = stopped(stopping) => return None,
            };
            match received {
                Ok(event) => Some((event, Some((incoming, None)))),
                Err(RecvError::Closed) => None,
                Err(RecvError::Lagged(count)) => {
                    let next = incoming.recv().await.ok()?;
                    Some((skipped(count, &next), Some((incoming, Some(next)))))
                }
            }
        }
    })
}

/// Stands in for the `count` events before `next` that are lost to a reader.
fn skipped(count: u64, next: &Event) -> Event {
    Event {
        sequence: next.sequence.saturating_sub(1),
        at: next.at,
        kind: EventKind::Skipped,
        severity: Severity::Warning,
        network: None,
        node: None,
        message: format!("{count} events are missing here: they came faster than they were read"),
        hint: Some("read them all from the daemon's log: journalctl -u meshd".into()),
    }
}

/// The answer for `problem`, with the status that fits its kind.
pub(super) fn refuse(problem: &Problem) -> Response {
    let status = match problem.kind {
        ProblemKind::Usage => StatusCode::BAD_REQUEST,
        ProblemKind::Permission => StatusCode::FORBIDDEN,
        ProblemKind::NotJoined => StatusCode::CONFLICT,
        ProblemKind::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        ProblemKind::Unreachable => StatusCode::BAD_GATEWAY,
        ProblemKind::Degraded | ProblemKind::DaemonNotRunning => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    refuse_as(status, problem)
}

pub(super) fn refuse_as(status: StatusCode, problem: &Problem) -> Response {
    json(status, &Document::new(problem))
}

fn json<T: Serialize>(status: StatusCode, document: &T) -> Response {
    match serde_json::to_vec(document) {
        Ok(body) => (status, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the reply cannot be written as JSON: {error}"),
        )
            .into_response(),
    }
}
