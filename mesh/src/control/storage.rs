//! What becomes durable, what waits for it, and what happens when it fails.

use std::collections::BTreeMap;
use std::time::Duration;

use epsilon_proto::clock::Now;
use epsilon_proto::device::DeviceList;
use epsilon_proto::document::Verified;
use epsilon_proto::name::NodeName;

use super::devices::Edit;
use super::documents::Source;
use super::{Control, OperationError, OperationId, Outcome, Output, Ticket};
use crate::event::Event;
use crate::saved::{Routing, Table, Vouched, Write};

/// Between two attempts at a store that takes nothing.
const STORAGE_RETRY: Duration = Duration::from_secs(10);

/// What becomes true when a batch is durable.
pub(super) enum Then {
    /// The staged own record is the published one.
    OwnRecord,
    /// The operator's documents are in force, the operation is done.
    Commit {
        documents: Vec<epsilon_proto::trust::NetworkDocument>,
        operation: OperationId,
        outcome: Outcome,
    },
    /// This node's new name is in force, the operation is done.
    OwnName { name: NodeName, operation: OperationId },
    /// What the operator said of routes is in force, the operation is done.
    Routing { routing: Routing, operation: OperationId },
    /// This node's list of devices is in force, with these changes.
    Devices { list: Box<Verified<DeviceList>>, edits: Vec<Edit> },
}

pub(super) struct Batch {
    writes: Vec<Write>,
    /// So many of the first are tried again when the batch fails; what waits
    /// for the batch is told instead.
    retried: usize,
    then: Option<Then>,
}

/// Writes that failed, by row, and in which batch.
pub(super) type Unsaved = BTreeMap<(Table, Vec<u8>), (Ticket, Write)>;

impl Control {
    /// A batch is durable, or could not be made so.
    pub fn handle_persisted(&mut self, ticket: Ticket, result: Result<(), String>, now: Now) {
        let Some(batch) = self.batches.remove(&ticket) else { return };
        match result {
            Ok(()) => {
                self.unsaved.retain(|row, (failed, _)| {
                    *failed > ticket || !batch.writes.iter().any(|write| write.is_at(row))
                });
                if self.storage_failing.take().is_some() {
                    self.event(Event::StorageRecovered);
                    self.own_record.touch();
                }
                match batch.then {
                    None => {}
                    Some(Then::OwnRecord) => self.own_record_persisted(now),
                    Some(Then::Commit { documents, operation, outcome }) => {
                        for document in documents {
                            self.take_document(&document, Source::Operator, now);
                        }
                        self.outputs.push_back(Output::Done { operation, result: Ok(outcome) });
                    }
                    Some(Then::Devices { list, edits }) => {
                        self.devices_persisted(&list, edits, Ok(()), now);
                    }
                    Some(Then::Routing { routing, operation }) => {
                        self.routing_persisted(routing, now);
                        let result = Ok(Outcome::Done);
                        self.outputs.push_back(Output::Done { operation, result });
                    }
                    Some(Then::OwnName { name, operation }) => {
                        self.settings.name = Some(name.clone());
                        self.identity.name = Some(name);
                        self.own_record.touch();
                        let result = Ok(Outcome::Done);
                        self.outputs.push_back(Output::Done { operation, result });
                    }
                }
                self.advance_own(now);
                self.advance_devices(now);
            }
            Err(reason) => {
                if self.storage_failing.is_none() {
                    self.event(Event::StorageFailing(reason.clone()));
                }
                self.retry_storage = Some(now.instant + STORAGE_RETRY);
                for write in batch.writes.into_iter().take(batch.retried) {
                    let row = (write.table, write.key.clone());
                    if self.unsaved.get(&row).is_none_or(|(failed, _)| *failed < ticket) {
                        self.unsaved.insert(row, (ticket, write));
                    }
                }
                match batch.then {
                    None => {}
                    Some(Then::OwnRecord) => self.own_record.persist_failed(now.instant),
                    Some(Then::Devices { list, edits }) => {
                        self.devices_persisted(&list, edits, Err(&reason), now);
                    }
                    Some(Then::Routing { operation, .. }) => {
                        self.routing_failed();
                        let result = Err(OperationError::Storage(reason.clone()));
                        self.outputs.push_back(Output::Done { operation, result });
                    }
                    Some(Then::Commit { operation, .. } | Then::OwnName { operation, .. }) => {
                        let result = Err(OperationError::Storage(reason.clone()));
                        self.outputs.push_back(Output::Done { operation, result });
                    }
                }
                self.storage_failing = Some(reason);
            }
        }
    }

    pub(super) fn persist(&mut self, writes: Vec<Write>, then: Option<Then>) {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        // What failed before goes first: this batch may say something newer.
        let unsaved = std::mem::take(&mut self.unsaved);
        let unsaved: Vec<Write> = unsaved.into_values().map(|(_, write)| write).collect();
        let failed_before = unsaved.len();
        let writes: Vec<Write> = unsaved.into_iter().chain(writes).collect();
        let retried = if then.is_none() { writes.len() } else { failed_before };
        self.batches.insert(ticket, Batch { writes: writes.clone(), retried, then });
        self.outputs.push_back(Output::Persist { ticket, writes });
    }

    pub(super) fn save_vouched(&mut self) {
        let vouched = self.members.vouched().iter();
        let nodes = vouched.map(|(node, word)| (*node, *word)).collect();
        self.persist(vec![Write::vouched(&Vouched { nodes })], None);
    }
}
