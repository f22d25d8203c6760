use futures::TryStreamExt;
use nix::libc;

use super::error::errno;
use super::{Address, Error, Interface, Netlink, Prefix};

impl Netlink {
    /// Every address of every interface.
    pub async fn addresses(&self) -> Result<Vec<Address>, Error> {
        self.handle
            .address()
            .get()
            .execute()
            .try_filter_map(async |message| Ok(Address::from_message(&message)))
            .try_collect()
            .await
            .map_err(|error| Error::during("list the addresses", &error))
    }

    /// Gives an address to an interface; keeps one that is there.
    ///
    /// An IPv6 address is usable at once: duplicate address detection, which
    /// would hold it back for a second or more, is left out.
    pub async fn add_address(
        &self,
        interface: impl Into<Interface<'_>>,
        prefix: Prefix,
    ) -> Result<(), Error> {
        let interface = interface.into();
        let index = self.index(interface).await?;
        let mut request = self.handle.address().add(index, prefix.address, prefix.length);
        *request.message_mut() = Address::message(index, prefix);
        let error = match request.execute().await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        // For IPv6 an address of another length is in the way, too.
        let is_there = errno(&error) == Some(libc::EEXIST)
            && self
                .addresses()
                .await?
                .iter()
                .any(|address| address.interface == index && address.prefix == prefix);
        if is_there {
            return Ok(());
        }
        Err(Error::during(format!("add address {prefix} to {interface}"), &error))
    }

    /// Takes an address from an interface; succeeds when it has none such.
    pub async fn remove_address(
        &self,
        interface: impl Into<Interface<'_>>,
        prefix: Prefix,
    ) -> Result<(), Error> {
        let interface = interface.into();
        let index = self.index(interface).await?;
        let message = Address::message(index, prefix);
        match self.handle.address().del(message).execute().await {
            Err(error) if errno(&error) != Some(libc::EADDRNOTAVAIL) => {
                Err(Error::during(format!("remove address {prefix} from {interface}"), &error))
            }
            _ => Ok(()),
        }
    }
}
