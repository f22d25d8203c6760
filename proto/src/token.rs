//! The token: everything a machine needs to become a member.
//!
//! Its text form is one line, `epsilon1_` and base64url without padding of
//! length (4 bytes, big-endian) ‖ CBOR ‖ check (4 bytes of BLAKE3).

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::document::{DocumentError, Signed, Verified};
use crate::gate::{GateSecret, SecretBytes};
use crate::id::{Digest, NetworkId, NodeId};
use crate::key::{SecretKey, SignatureCheck};
use crate::trust::{
    AdminGrant, Charter, GenesisBlock, Invite, MemberCertificate, NetworkBlock, Roles,
};
use crate::wire::{self, Reader, Wire, WireError, Writer, wire_struct};

const PREFIX: &str = "epsilon1_";
/// Longer texts are not read: a token with eight addresses has about 1400
/// characters.
const MAX_TEXT: usize = 16 * 1024;
const MAX_ADDRESSES: usize = 16;

/// Everything a machine needs to become a member. Whoever holds it can become
/// one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The network, by the root.
    pub network: Signed<NetworkBlock>,
    /// How its cluster begins, by the root.
    pub genesis: Signed<GenesisBlock>,
    /// The admin who signed what follows, by the root.
    pub grant: Signed<AdminGrant>,
    /// What may change, by an admin.
    pub charter: Signed<Charter>,
    /// The invite, by the admin.
    pub invite: Signed<Invite>,
    /// The secret key of the invite.
    invite_secret: SecretBytes,
    /// What opens the gate.
    pub gate: GateSecret,
    /// Where members may be reached.
    pub addresses: Vec<HostPort>,
}
wire_struct!(Token {
    0 => network,
    1 => genesis,
    2 => grant,
    3 => charter,
    4 => invite,
    5 => invite_secret,
    6 => gate,
    7 => addresses,
} check |token| if token.addresses.len() <= MAX_ADDRESSES {
    Ok(())
} else {
    Err(WireError::Invalid("token: too many addresses"))
});

/// Why a text is not a usable token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// No text at all.
    #[error("the token is empty; `epsilon token create` on a member prints one")]
    Empty,
    /// Does not start like a token.
    #[error(
        "this is not an epsilon token: it does not start with `{PREFIX}`; `epsilon token create` on a member prints one"
    )]
    NotAToken,
    /// Of a format that this version does not read.
    #[error(
        "the token has format {0}, this version reads format 1; update epsilon on this machine"
    )]
    NewerFormat(String),
    /// A character that tokens do not have.
    #[error("the token has a wrong character at position {0}; copy it again")]
    Character(usize),
    /// The end is missing.
    #[error("the token is cut off: {missing} of {whole} characters are missing; copy all of it")]
    Truncated {
        /// How many characters are missing.
        missing: usize,
        /// How many it has when whole.
        whole: usize,
    },
    /// Something follows it.
    #[error("the token has {0} characters too many at its end; copy it again")]
    TooLong(usize),
    /// Same length, other content.
    #[error("the token has a typing error (its checksum does not fit); copy it again")]
    Checksum,
    /// The checksum fits, the content does not.
    #[error("the token is damaged: {0}; ask for a new one")]
    Malformed(WireError),
    /// A document in it is not what it says.
    #[error("the token was tampered with: {0}; ask an admin of the network for a new one")]
    Tampered(#[from] DocumentError),
    /// The secret is not that of the invite.
    #[error(
        "the token was tampered with: its secret does not fit its invite; ask an admin of the network for a new one"
    )]
    Secret,
}

/// A token all of whose signatures hold.
#[derive(Debug, Clone)]
pub struct VerifiedToken {
    /// The network, which is its root key.
    pub id: NetworkId,
    /// What the network is.
    pub network: Verified<NetworkBlock>,
    /// How its cluster begins.
    pub genesis: Verified<GenesisBlock>,
    /// The admin who signed what follows.
    pub grant: Verified<AdminGrant>,
    /// What may change.
    pub charter: Verified<Charter>,
    /// Leave to join.
    pub invite: Verified<Invite>,
    /// What opens the gate.
    pub gate: GateSecret,
    /// Where members may be reached.
    pub addresses: Vec<HostPort>,
    invite_key: SecretKey,
}

impl Token {
    /// A token for a new invite.
    #[expect(clippy::too_many_arguments, reason = "a token is just these parts")]
    pub fn new(
        network: Signed<NetworkBlock>,
        genesis: Signed<GenesisBlock>,
        grant: Signed<AdminGrant>,
        charter: Signed<Charter>,
        invite: Signed<Invite>,
        invite_key: &SecretKey,
        gate: GateSecret,
        addresses: Vec<HostPort>,
    ) -> Self {
        let invite_secret = SecretBytes(*invite_key.seed());
        Self { network, genesis, grant, charter, invite, invite_secret, gate, addresses }
    }

    /// The text form; as secret as the token.
    pub fn to_text(&self) -> Zeroizing<String> {
        let body = Zeroizing::new(wire::encode(self));
        let mut bytes = Zeroizing::new(Vec::with_capacity(body.len() + 8));
        bytes.extend((body.len() as u32).to_be_bytes());
        bytes.extend(&*body);
        let check = Digest::of(&bytes);
        bytes.extend(&check.0[..4]);
        Zeroizing::new(format!("{PREFIX}{}", *Zeroizing::new(BASE64URL_NOPAD.encode(&bytes))))
    }

    /// Checks every signature.
    ///
    /// Whether the invite expired or was revoked is for the members to say;
    /// this machine's clock may be wrong.
    pub fn verify(&self, check: &dyn SignatureCheck) -> Result<VerifiedToken, TokenError> {
        let id = NetworkId::from(self.network.signer());
        let network = self.network.verify(id, check)?;
        let genesis = self.genesis.verify_by(id.root(), id, check)?;
        let grant = self.grant.verify_by(id.root(), id, check)?;
        let charter = self.charter.verify(id, check)?;
        let invite = self.invite.verify_by(grant.key, id, check)?;
        let invite_key = SecretKey::from_seed(&self.invite_secret.0);
        if invite_key.public() != invite.key {
            return Err(TokenError::Secret);
        }
        Ok(VerifiedToken {
            id,
            network,
            genesis,
            grant,
            charter,
            invite,
            gate: self.gate.clone(),
            addresses: self.addresses.clone(),
            invite_key,
        })
    }
}

impl VerifiedToken {
    /// A certificate for a node, with the roles asked for; the token, and the
    /// invite's key with it, is consumed and erased.
    pub fn admit(self, node: NodeId, roles: Roles, now: Timestamp) -> Verified<MemberCertificate> {
        let certificate =
            MemberCertificate { node, roles, tags: self.invite.tags.clone(), issued: now };
        Verified::sign(certificate, self.id, &self.invite_key)
    }

    /// Since when the invite admits nobody any more, if it is later now.
    pub fn expired(&self, now: Timestamp) -> Option<Timestamp> {
        self.invite.expires.filter(|expires| *expires <= now)
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        // A terminal may have wrapped it, a mail quoted it with spaces.
        let text: Zeroizing<String> =
            Zeroizing::new(text.chars().filter(|c| !c.is_whitespace()).collect());
        if text.is_empty() {
            return Err(TokenError::Empty);
        }
        let Some(body) = text.strip_prefix(PREFIX) else {
            return Err(match text.strip_prefix("epsilon").and_then(|rest| rest.split_once('_')) {
                Some((version, _))
                    if !version.is_empty() && version.bytes().all(|c| c.is_ascii_digit()) =>
                {
                    TokenError::NewerFormat(version.to_owned())
                }
                _ => TokenError::NotAToken,
            });
        };
        let wrong = |position: usize| TokenError::Character(PREFIX.len() + position + 1);
        if let Some(position) =
            body.bytes().position(|c| !c.is_ascii_alphanumeric() && c != b'-' && c != b'_')
        {
            return Err(wrong(position));
        }
        if body.len() > MAX_TEXT {
            return Err(TokenError::TooLong(body.len() - MAX_TEXT));
        }
        // The length comes first, so a missing end is told from a wrong one.
        let head = body
            .get(..6)
            .and_then(|head| BASE64URL_NOPAD.decode(&[head.as_bytes(), b"AA"].concat()).ok());
        let Some(head) = head else {
            return Err(TokenError::Truncated {
                missing: 6usize.saturating_sub(body.len()),
                whole: 6,
            });
        };
        let length =
            head.first_chunk::<4>().map_or(0, |length| u32::from_be_bytes(*length)) as usize;
        let whole = (length.saturating_add(8)).saturating_mul(4).div_ceil(3);
        if whole > MAX_TEXT {
            return Err(TokenError::Checksum);
        }
        match body.len() {
            has if has < whole => {
                return Err(TokenError::Truncated {
                    missing: whole - has,
                    whole: whole + PREFIX.len(),
                });
            }
            has if has > whole => return Err(TokenError::TooLong(has - whole)),
            _ => {}
        }
        let bytes = Zeroizing::new(
            BASE64URL_NOPAD.decode(body.as_bytes()).map_err(|error| wrong(error.position))?,
        );
        let Some((content, check)) = bytes.split_last_chunk::<4>() else {
            return Err(TokenError::Checksum);
        };
        if Digest::of(content).0[..4] != check[..] {
            return Err(TokenError::Checksum);
        }
        wire::decode(content.get(4..).unwrap_or_default()).map_err(TokenError::Malformed)
    }
}

/// A new key for an invite.
pub fn invite_key(random: &mut impl CryptoRng) -> SecretKey {
    SecretKey::generate(random)
}

/// Where a member may be reached: a host's name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// A DNS name, an IPv4 address, or an IPv6 address without brackets.
    host: String,
    /// The port, for UDP and TCP.
    port: u16,
}

/// A text that is no host with a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not HOST:PORT; examples: vpn.example.org:7755, 198.51.100.7:7755, [2001:db8::7]:7755"
)]
pub struct HostPortError(String);

impl HostPort {
    /// The host: a DNS name or an address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address, when the host is one and no name.
    pub fn address(&self) -> Option<SocketAddr> {
        self.host.parse().ok().map(|ip| SocketAddr::new(ip, self.port))
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

impl FromStr for HostPort {
    type Err = HostPortError;
    fn from_str(text: &str) -> Result<Self, HostPortError> {
        let refuse = || HostPortError(text.to_owned());
        if let Ok(address) = text.parse::<SocketAddr>() {
            // A zone means nothing on another host.
            let is_zoned = matches!(address, SocketAddr::V6(address) if address.scope_id() != 0);
            let usable = address.port() != 0 && !is_zoned;
            return if usable { Ok(address.into()) } else { Err(refuse()) };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(refuse)?;
        if !port.bytes().all(|c| c.is_ascii_digit()) {
            return Err(refuse());
        }
        let port: u16 = port.parse().map_err(|_| refuse())?;
        let host = host.to_ascii_lowercase();
        let is_name = host.len() <= 253
            && host.split('.').all(|label| {
                (1..=63).contains(&label.len())
                    && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_')
                    && !label.starts_with('-')
                    && !label.ends_with('-')
            })
            && !host.bytes().all(|c| c.is_ascii_digit() || c == b'.');
        if port == 0 || !is_name { Err(refuse()) } else { Ok(Self { host, port }) }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Wire for HostPort {
    fn write(&self, to: &mut Writer) {
        to.text(&self.to_string());
    }
    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let text = from.text()?;
        let host: Self = text.parse().map_err(|_| WireError::Invalid("HOST:PORT"))?;
        // People may write it in several ways; the wire has one.
        if host.to_string() == text {
            Ok(host)
        } else {
            Err(WireError::NotCanonical("a HOST:PORT is not in its usual form"))
        }
    }
}

#[cfg(test)]
mod tests;
