//! Cables made worse while a lab runs, and good again.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Cable, Lab, random_id, start};
use crate::lab::link::{Link, carry};
use crate::lab::machine::Machine;
use crate::lab::{Error, wiring};

/// The name of the machine beside a cable.
pub(super) fn beside(cable: &Cable) -> String {
    format!("link-{cable}")
}

impl Lab {
    /// Makes a cable as bad as `link` says, or good again with [`Link::default`]. What is
    /// on its way is lost. A host that is moved takes its link along.
    pub async fn set_link(&mut self, cable: &Cable, link: Link) -> Result<(), Error> {
        self.own()?;
        self.port(cable)?;
        if link == Link::default() {
            return self.take_link(cable).await.map(drop);
        }
        self.description.links.insert(cable.clone(), link);
        self.store.write(&self.description)?;
        let machine = match self.links.get(cable).cloned() {
            Some(machine) => machine,
            None => self.lay_link(cable).await?,
        };
        let id = random_id()?;
        let seed = id.get(..16).unwrap_or(&id);
        carry::start(&self.description.init, &machine, link, seed).await
    }

    /// Leads a cable through a machine of its own.
    async fn lay_link(&mut self, cable: &Cable) -> Result<Arc<Machine>, Error> {
        let machine = start(&self.name, &self.description, &beside(cable), false, "").await?;
        wiring::insert(&self.port(cable)?, &machine).await?;
        self.keep(&machine);
        let machine = Arc::new(machine);
        self.links.insert(cable.clone(), Arc::clone(&machine));
        Ok(machine)
    }

    /// The cables that are worse than others.
    pub fn links(&self) -> &BTreeMap<Cable, Link> {
        &self.description.links
    }

    /// Makes a cable good, and gives what it was.
    pub(super) async fn take_link(&mut self, cable: &Cable) -> Result<Option<Link>, Error> {
        if let Some(machine) = self.links.get(cable) {
            wiring::extract(&self.port(cable)?, machine).await?;
            machine.stop()?;
            self.links.remove(cable);
        }
        let link = self.description.links.remove(cable);
        self.store.write(&self.description)?;
        Ok(link)
    }
}
