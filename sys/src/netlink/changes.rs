use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::{Handle, MulticastGroup};

use super::{Address, Error, Link, Netlink, Route, inside};

const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// An interface appeared or is now like this.
    LinkSet(Link),
    /// An interface is gone.
    LinkGone(Link),
    /// An address appeared or is now like this.
    AddressSet(Address),
    /// An address is gone.
    AddressGone(Address),
    /// A route of the main table appeared or is now like this.
    RouteSet(Route),
    /// A route of the main table is gone. A route that is lost because its
    /// interface was switched off is not reported for IPv4.
    RouteGone(Route),
    /// More happened than could be reported: list everything again.
    Missed,
}

/// The changes of one network namespace, in the order in which they happened.
///
/// What is not read waits in memory, so whoever holds this should keep reading.
#[derive(Debug)]
pub struct Changes {
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, rtnetlink::sys::SocketAddr)>,
    /// The connection ends when its handle is dropped.
    _handle: Handle,
    /// One message may hold several routes.
    pending: std::collections::VecDeque<Change>,
}

impl Netlink {
    /// Starts to listen. Every change after this call is reported, so the
    /// state should be listed after it.
    pub fn changes(&self) -> Result<Changes, Error> {
        let (connection, handle, messages) =
            inside(self.namespace.as_deref(), || rtnetlink::new_multicast_connection(&GROUPS))
                .map_err(|source| Error::Open { source })?;
        tokio::spawn(connection);
        Ok(Changes { messages, _handle: handle, pending: std::collections::VecDeque::new() })
    }
}

impl Changes {
    /// The next change, or `None` when the connection broke: open a new one
    /// and list everything again. May be cancelled without losing a change.
    pub async fn next(&mut self) -> Option<Change> {
        loop {
            if let Some(change) = self.pending.pop_front() {
                return Some(change);
            }
            let (message, _) = self.messages.next().await?;
            self.pending.extend(read(message));
        }
    }
}

fn read(message: NetlinkMessage<RouteNetlinkMessage>) -> Vec<Change> {
    let message = match message.payload {
        NetlinkPayload::InnerMessage(message) => message,
        NetlinkPayload::Overrun(_) => return vec![Change::Missed],
        _ => return Vec::new(),
    };
    match message {
        RouteNetlinkMessage::NewLink(link) => vec![Change::LinkSet(Link::from_message(link))],
        RouteNetlinkMessage::DelLink(link) => vec![Change::LinkGone(Link::from_message(link))],
        RouteNetlinkMessage::NewAddress(address) => {
            Address::from_message(&address).map(Change::AddressSet).into_iter().collect()
        }
        RouteNetlinkMessage::DelAddress(address) => {
            Address::from_message(&address).map(Change::AddressGone).into_iter().collect()
        }
        RouteNetlinkMessage::NewRoute(route) => {
            Route::from_message(&route).into_iter().map(Change::RouteSet).collect()
        }
        RouteNetlinkMessage::DelRoute(route) => {
            Route::from_message(&route).into_iter().map(Change::RouteGone).collect()
        }
        _ => Vec::new(),
    }
}
