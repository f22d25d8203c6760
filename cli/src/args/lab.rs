use clap::Subcommand;

use crate::lab::{Behind, Cable, Link, Links};

#[derive(Debug, Subcommand)]
pub(crate) enum Lab {
    /// Build the hosts, start meshd in each and join them
    Up {
        /// How many hosts
        #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
        nodes: u16,
        /// Over how many sites
        #[arg(long, value_name = "S", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
        sites: u16,
        /// Put hosts behind a NAT, such as n1=port-restricted,n2+n3=symmetric: none,
        /// endpoint-independent, address-restricted, port-restricted, symmetric,
        /// carrier-grade, udp-blocked or ipv6-only; with +hairpin, +lasts=20s, +ipv6, +mtu=1280;
        /// several in a row from inside to outside with /
        #[arg(long, value_name = "HOSTS=KIND", value_delimiter = ',')]
        nat: Vec<Behind>,
        /// Make the links of hosts or sites worse, such as site1+n3=delay=40ms,loss=1%; see
        /// epsilon lab link; may be given several times
        #[arg(long, value_name = "CABLES=LINK")]
        link: Vec<Links>,
        /// Go on when a host fails, and leave what there is
        #[arg(long)]
        keep_going: bool,
    },
    /// Run a command in a host: epsilon lab exec n1 -- COMMAND
    Exec {
        /// The host
        host: String,
        /// The command and its arguments
        #[arg(required = true, last = true)]
        command: Vec<std::ffi::OsString>,
    },
    /// What is there
    Status,
    /// Pull the cable of a host (n1) or of a site (site2), or part two sites (site1 site2)
    Cut {
        /// The host or site
        cable: Cable,
        /// The other site
        other: Option<Cable>,
    },
    /// Undo a cut; all of them where none is named
    Heal {
        /// The host or site
        cable: Option<Cable>,
        /// The other site
        other: Option<Cable>,
    },
    /// Make the link of a host or a site worse, or good again; without arguments, list them
    ///
    /// A link is any of delay=40ms, jitter=5ms, loss=1%, reorder=2%, duplicate=0.5% and
    /// rate=20mbit, with commas in between, or none. All of it holds for each direction: 40
    /// ms of delay are 80 ms of round trip. Jitter is up to so much more delay and keeps the
    /// order; what is reordered comes up to 10 ms later; what waits for longer than 100 ms
    /// for its turn at the rate is lost.
    ///
    /// Example: epsilon lab link site1 delay=40ms,loss=1%
    #[command(verbatim_doc_comment)]
    Link {
        /// The host or site
        #[arg(requires = "link")]
        cable: Option<Cable>,
        /// How bad it is
        link: Option<Link>,
    },
    /// Carry a host to another site, with what runs on it: epsilon lab move n3 site2
    Move {
        /// The host
        host: String,
        /// The site
        site: Cable,
    },
    /// Kill meshd on a host as a crash would
    Kill {
        /// The host
        host: String,
    },
    /// Start meshd on a host where it does not run
    Start {
        /// The host
        host: String,
    },
    /// Restart the NATs of a site: they forget every connection and take other ports
    RestartGateway {
        /// The site
        site: Cable,
    },
    /// Remove everything
    Down,
}
