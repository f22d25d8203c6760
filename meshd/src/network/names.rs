//! The addresses behind the names that the operator or the token gave, looked
//! up beside the task.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use epsilon_proto::token::HostPort;
use futures::future::join_all;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// Between two attempts to look names up.
const EVERY: Duration = Duration::from_secs(30);
/// How long one attempt may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was found, by name.
pub(super) type Found = BTreeMap<HostPort, Vec<SocketAddr>>;

/// What is known of all names. One that cannot be looked up keeps the
/// addresses that it had.
pub(super) struct Names {
    known: Found,
    due: Instant,
    sender: mpsc::Sender<Found>,
    answers: mpsc::Receiver<Found>,
}

impl Names {
    pub(super) fn new() -> Self {
        let (sender, answers) = mpsc::channel(1);
        Self { known: Found::new(), due: Instant::now(), sender, answers }
    }

    /// When [`Names::look_up`] is to be called.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Looks all of them up, all at once; what is found comes to
    /// [`Names::answered`].
    pub(super) fn look_up<'a>(&mut self, hosts: impl Iterator<Item = &'a HostPort>) {
        self.due = Instant::now() + EVERY;
        let names: Vec<HostPort> = hosts.filter(|host| host.address().is_none()).cloned().collect();
        if names.is_empty() {
            return;
        }
        let sender = self.sender.clone();
        tokio::spawn(async move {
            let found = join_all(names.into_iter().map(look_up)).await;
            // The task may have ended meanwhile.
            let _ = sender.send(found.into_iter().flatten().collect()).await;
        });
    }

    /// Waits for what [`Names::look_up`] found.
    pub(super) async fn answered(&mut self) -> Found {
        match self.answers.recv().await {
            Some(found) => found,
            // It holds a sender itself.
            None => std::future::pending().await,
        }
    }

    /// Remembers what was found.
    pub(super) fn learn(&mut self, found: Found) {
        self.known.extend(found);
    }

    /// The addresses of these, as far as they are known now.
    pub(super) fn addresses(&self, hosts: &[HostPort]) -> Vec<SocketAddr> {
        let known = |host: &HostPort| match host.address() {
            Some(address) => vec![address],
            None => self.known.get(host).cloned().unwrap_or_default(),
        };
        hosts.iter().flat_map(known).collect()
    }
}

async fn look_up(host: HostPort) -> Option<(HostPort, Vec<SocketAddr>)> {
    let found = async {
        let found = tokio::net::lookup_host((host.host(), host.port())).await?;
        let mut usable: Vec<SocketAddr> =
            found.filter(|address| !address.ip().is_unspecified()).collect();
        // Servers answer in turns: the order is no news.
        usable.sort_unstable();
        Ok::<_, std::io::Error>(usable)
    };
    let reason = match timeout(PATIENCE, found).await {
        Ok(Ok(usable)) => return Some((host, usable)),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
    };
    tracing::warn!(%host, reason, "cannot look up the address; the last one known is kept");
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> HostPort {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn addresses_count_at_once_and_names_keep_what_they_had() {
        let (literal, name) = (host("192.0.2.1:7755"), host("vpn.example.org:7755"));
        let gone = host("no-such-host.invalid:7755");
        let all = [literal, name.clone(), gone.clone()];
        let mut names = Names::new();
        let first: Vec<SocketAddr> = vec!["192.0.2.1:7755".parse().unwrap()];
        assert_eq!(names.addresses(&all), first);
        let found = vec!["198.51.100.7:7755".parse().unwrap()];
        names.learn(Found::from([(name.clone(), found.clone())]));
        assert_eq!(names.addresses(&all), [first, found.clone()].concat());
        // A look-up in vain takes nothing away.
        names.look_up([gone].iter());
        let nothing = names.answered().await;
        assert!(nothing.is_empty(), "{nothing:?}");
        names.learn(nothing);
        assert_eq!(names.addresses(std::slice::from_ref(&name)), found);
        // One that has moved does.
        let moved = vec!["198.51.100.8:7755".parse().unwrap()];
        names.learn(Found::from([(name.clone(), moved.clone())]));
        assert_eq!(names.addresses(&[name]), moved);
    }
}
