//! The exchange that ends every connection upgrade.
//!
//! Both ends send length-prefixed frames (four bytes, big endian) over the
//! Noise channel and the engine decides, frame by frame, what to answer and
//! when the exchange is over:
//!
//! ```text
//! Begin ──► engine ──► step: send a frame ──► peer
//! Frame ◄── peer            │
//!   └─────► engine ──► step: send a frame and/or the outcome
//! ```
//!
//! An exchange that is cut off is always reported as
//! [`AdmissionEvent::Ended`], one that reached its outcome never.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

use super::api::{AdmissionEvent, AdmissionStep, NodeKey};
use super::frames::{FrameError, read_frame, write_frame};
use super::gate::Lane;

/// For a refused peer to take in the verdict before its connection goes.
const FAREWELL: Duration = Duration::from_secs(1);

/// Who is at the door.
#[derive(Clone, Copy, Debug)]
pub(super) struct Applicant {
    pub(super) exchange: u64,
    pub(super) peer: NodeKey,
    pub(super) remote: SocketAddr,
    pub(super) outbound: bool,
    pub(super) lane: Lane,
}

/// Why an exchange did not end in admission.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("refused")]
    Refused(Vec<u8>),
    #[error("the engine is not there to decide")]
    NoEngine,
    #[error("admission broke off: {0}")]
    Frame(#[from] FrameError),
}

/// Runs one exchange to its outcome.
///
/// Dropping the future cuts the exchange off. Nothing beyond the last frame
/// is read, so that the multiplexer can take over the stream.
pub(super) async fn run<S>(
    stream: &mut S,
    applicant: Applicant,
    engine: &mpsc::Sender<AdmissionEvent>,
    most: usize,
) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut open = Open { exchange: applicant.exchange, engine: None };
    let (reply, answer) = oneshot::channel();
    let begin = AdmissionEvent::Begin {
        exchange: applicant.exchange,
        peer: applicant.peer,
        remote: applicant.remote,
        outbound: applicant.outbound,
        lane: applicant.lane,
        reply,
    };
    engine.send(begin).await.map_err(|_| Failure::NoEngine)?;
    open.engine = Some(engine.clone());
    let mut step = answer.await.map_err(|_| Failure::NoEngine)?;
    loop {
        let AdmissionStep { send, outcome } = step;
        if outcome.is_some() {
            open.engine = None;
        }
        if let Some(frame) = send {
            write_frame(stream, &frame, most).await?;
        }
        match outcome {
            Some(Ok(())) => return Ok(()),
            Some(Err(refusal)) => {
                say_farewell(stream).await;
                return Err(Failure::Refused(refusal.0));
            }
            None => {}
        }
        let bytes = read_frame(stream, most).await?;
        let (reply, answer) = oneshot::channel();
        let frame = AdmissionEvent::Frame { exchange: applicant.exchange, bytes, reply };
        engine.send(frame).await.map_err(|_| Failure::NoEngine)?;
        step = answer.await.map_err(|_| Failure::NoEngine)?;
    }
}

/// Closing with unread bytes would reset the connection and could destroy the
/// verdict on its way: send all, then read until the peer has closed too.
async fn say_farewell<S>(stream: &mut S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let farewell = async {
        stream.close().await?;
        let mut ignored = [0; 1024];
        while stream.read(&mut ignored).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    // The verdict is out either way; a peer that lingers only loses time.
    let _ = tokio::time::timeout(FAREWELL, farewell).await;
}

/// An exchange that the engine knows of and has not ended.
struct Open {
    exchange: u64,
    engine: Option<mpsc::Sender<AdmissionEvent>>,
}

impl Drop for Open {
    fn drop(&mut self) {
        let Some(engine) = self.engine.take() else {
            return;
        };
        let ended = AdmissionEvent::Ended { exchange: self.exchange };
        if let Err(mpsc::error::TrySendError::Full(ended)) = engine.try_send(ended) {
            // As many of these can wait as there are pending connections.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move { engine.send(ended).await });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::io::Cursor;

    use super::super::api::Refusal;
    use super::*;

    const MOST: usize = 1000;

    fn applicant() -> Applicant {
        Applicant {
            exchange: 5,
            peer: [1; 32],
            remote: "192.0.2.1:1".parse().unwrap(),
            outbound: true,
            lane: Lane::Current,
        }
    }

    #[tokio::test]
    async fn an_exchange_that_is_cut_off_is_reported_and_one_with_an_outcome_is_not() {
        for outcome in [None, Some(Ok(())), Some(Err(Refusal(vec![9])))] {
            let (engine, mut events) = mpsc::channel(1);
            let ends = outcome.is_none();
            let decide = async {
                let Some(AdmissionEvent::Begin { reply, .. }) = events.recv().await else {
                    panic!("the exchange begins");
                };
                reply.send(AdmissionStep { send: None, outcome }).unwrap();
            };
            let mut wire = Cursor::new(Vec::new());
            let run = run(&mut wire, applicant(), &engine, MOST);
            let (result, ()) = futures::join!(run, decide);
            assert_eq!(matches!(result, Err(Failure::Frame(_))), ends, "{result:?}");
            drop(engine);
            let last = events.recv().await;
            match last {
                Some(AdmissionEvent::Ended { exchange: 5 }) => assert!(ends),
                None => assert!(!ends),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn the_end_of_an_exchange_is_reported_even_when_the_engine_lags() {
        let (engine, mut events) = mpsc::channel(1);
        drop(Open { exchange: 1, engine: Some(engine.clone()) });
        drop(Open { exchange: 2, engine: Some(engine) });
        let mut ended = Vec::new();
        while let Some(AdmissionEvent::Ended { exchange }) = events.recv().await {
            ended.push(exchange);
        }
        assert_eq!(ended, [1, 2]);
    }
}
