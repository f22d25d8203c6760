//! What can be typed.

mod lab;

pub(crate) use lab::Lab;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use epsilon_proto::api::{ClusterKind, Role};

use crate::value::{Expires, Label, WaitFor, duration};

const AFTER_HELP: &str = "\
Start here:
  epsilon mesh create            on the first machine; prints a token
  epsilon mesh join TOKEN        on every other machine
  epsilon status                 how it is going

Exit codes:
  0 ok           3 daemon not running   6 timed out
  1 error        4 not joined           7 unreachable
  2 usage        5 degraded             8 reachable but relayed
                                        9 permission";

/// Turns machines into an encrypted fleet.
#[derive(Debug, Parser)]
#[command(name = "epsilon", version, after_help = AFTER_HELP, propagate_version = false)]
#[command(
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// How to print the result: for people, or as a document of the schema epsilon/v1
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub(crate) output: Format,
    /// The socket of meshd
    #[arg(
        long,
        global = true,
        env = "EPSILON_SOCKET",
        value_name = "PATH",
        default_value = "/run/epsilon/epsilon.sock"
    )]
    pub(crate) socket: PathBuf,
    /// The network, where this machine is in several
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) network: Option<String>,
    /// Only the bare result and errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// How long to wait for the result, such as 500ms, 10s or 2m
    #[arg(long, global = true, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
}

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
    Yaml,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Remote(Remote),
    #[command(flatten)]
    Local(Local),
}

/// What the daemon has to be asked for.
#[derive(Debug, Subcommand)]
pub(crate) enum Remote {
    /// Make, join and leave networks
    #[command(subcommand)]
    Mesh(Mesh),
    /// The tokens with which machines join
    #[command(subcommand)]
    Token(Token),
    /// What works, what does not, and what to do about it
    Status,
    /// The other members, and how they are reached
    Peers,
    /// Mesh addresses, one per line
    Ip {
        /// Name, mesh address or id of a node; this one unless told
        node: Option<String>,
        /// Only IPv4
        #[arg(short = '4', long, conflicts_with = "ipv6")]
        ipv4: bool,
        /// Only IPv6
        #[arg(short = '6', long)]
        ipv6: bool,
    },
    /// Who is behind a name or an address
    Whois {
        /// Name, mesh address or id of a node
        node: String,
    },
    /// Probe a peer: round trip, path and loss (--timeout is for one probe, 2s unless told)
    Ping {
        /// Name, mesh address or id of the peer
        peer: String,
        /// Stop after so many probes
        #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
        /// From one probe to the next
        #[arg(short, long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
        interval: Duration,
        /// Stop at the first answer that came directly, and give up after 30 probes unless told
        #[arg(long)]
        until_direct: bool,
    },
    /// How this machine is connected: NAT, UDP, families, MTU, and what that means
    Netcheck,
    /// The nodes of the network
    #[command(subcommand)]
    Node(Node),
    /// Members that have WireGuard, but not the daemon, such as phones
    #[command(subcommand)]
    Device(Device),
    /// Networks beyond the mesh: those behind this machine, and those behind others
    #[command(subcommand)]
    Routes(Routes),
    /// The node through which everything else is reached
    #[command(subcommand)]
    Exit(ExitCommand),
    /// Who may sign for the network
    #[command(subcommand)]
    Admin(Admin),
    /// Wait until something holds (for --timeout, 60s unless told)
    Wait {
        /// The same as --for NAME
        #[arg(value_name = "NAME", conflicts_with = "condition")]
        name: Option<String>,
        /// joined, peers=N (so many peers are up), or the NAME of a peer that is to be up
        #[arg(long = "for", value_name = "CONDITION")]
        condition: Option<WaitFor>,
    },
    /// What happened since the daemon started, alarms included
    Events {
        /// Go on with what is to come
        #[arg(short, long)]
        follow: bool,
    },
    /// What the daemon counts, for whoever looks for a fault
    #[command(subcommand)]
    Debug(Debug),
    /// The versions of this command and of the daemon
    Version,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Debug {
    /// Packets by the batch, and what was dropped and why
    Dataplane,
}

/// What needs no daemon.
#[derive(Debug, Subcommand)]
pub(crate) enum Local {
    /// A completion script for a shell
    Completion {
        /// The shell
        shell: Shell,
    },
    /// The manual pages
    Man {
        /// Print the page of this command, such as: mesh join
        command: Vec<String>,
        /// Write all pages into this directory
        #[arg(long, value_name = "DIR", conflicts_with = "command")]
        directory: Option<PathBuf>,
    },
    /// A fleet of namespaces on this machine, to try things out; EPSILON_LAB names another one
    #[command(subcommand)]
    Lab(Lab),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Mesh {
    /// Make a network with this machine as its first member, and print a token
    Create(Create),
    /// Make this machine a member
    Join(Join),
    /// Leave the network and delete its state on this machine
    Leave,
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The name of the network
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// The IPv4 range, 10.77.0.0/16 unless told
    #[arg(long, value_name = "CIDR")]
    pub(crate) range: Option<String>,
    /// The DNS domain, NAME.epsilon.internal unless told
    #[arg(long)]
    pub(crate) domain: Option<String>,
    /// Where others reach this machine; goes into the token, may be given several times
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise: Vec<String>,
    /// Make the network and its token only: this machine does not join; needs --root-key
    #[arg(long, requires = "root_key")]
    pub(crate) offline: bool,
    /// Write the root key to FILE (mode 0600) and keep no copy on this machine
    #[arg(long, value_name = "FILE")]
    pub(crate) root_key: Option<PathBuf>,
    /// The cluster to bring up
    #[arg(long, value_enum, default_value_t = Cluster::None)]
    pub(crate) cluster: Cluster,
}

/// `ClusterKind` as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Cluster {
    None,
    Etcd,
    K3s,
    Kubeadm,
}

impl From<Cluster> for ClusterKind {
    fn from(cluster: Cluster) -> Self {
        match cluster {
            Cluster::None => Self::None,
            Cluster::Etcd => Self::Etcd,
            Cluster::K3s => Self::K3s,
            Cluster::Kubeadm => Self::Kubeadm,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Join {
    /// The token, @FILE, or - for standard input; from EPSILON_TOKEN or EPSILON_TOKEN_FILE if absent
    pub(crate) token: Option<String>,
    /// The role to take: member, worker or server
    #[arg(long)]
    pub(crate) role: Option<Role>,
    /// The name to claim, the host name unless told
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Where others reach this machine; may be given several times
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise: Vec<String>,
    /// A label of this machine; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) label: Vec<Label>,
    /// The site of this machine
    #[arg(long)]
    pub(crate) site: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a token and print it
    Create {
        /// A role that it may give: member, worker or server; may be given several times
        #[arg(long)]
        role: Vec<Role>,
        /// A tag for its members; may be given several times
        #[arg(long)]
        tag: Vec<String>,
        /// How long it admits machines, such as 24h or 7d, or never
        #[arg(long, value_name = "DURATION")]
        expires: Option<Expires>,
        /// How many machines it may admit
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        uses: Option<u32>,
    },
    /// The invites of the network
    List,
    /// Admit nobody any more by an invite
    Revoke {
        /// The id of the invite, or the beginning of it
        invite: String,
        /// Cut off the members that joined by it, too
        #[arg(long)]
        members: bool,
    },
    /// Read a token without using it; asks nobody
    Inspect {
        /// The token, @FILE, or - for standard input; from EPSILON_TOKEN or EPSILON_TOKEN_FILE if absent
        token: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    /// All members, this node included
    List,
    /// Cut a node off, for good
    Revoke {
        /// Name, mesh address or id of the node
        node: String,
    },
    /// Give a node another name
    Rename {
        /// Name, mesh address or id of the node
        node: String,
        /// Its new name
        name: String,
    },
    /// Hand the address and the name of a node to another one
    Replace {
        /// Name, mesh address or id of the node that goes
        old: String,
        /// Name, mesh address or id of the member that takes its place
        new: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Device {
    /// Add a device that this node serves, and print its WireGuard configuration
    Add {
        /// The name of the device
        name: String,
        /// The device's WireGuard public key; a key pair is made for it unless given
        #[arg(long, value_name = "KEY", conflicts_with = "qr")]
        public_key: Option<String>,
        /// Another node that may serve it: prints a second configuration; may be given several times
        #[arg(long, value_name = "NODE")]
        fallback: Vec<String>,
        /// Where the device reaches this node; what the node advertises unless told
        #[arg(long, value_name = "HOST:PORT")]
        endpoint: Option<String>,
        /// Show each configuration as a QR code, too, for the WireGuard apps to scan
        #[arg(long)]
        qr: bool,
    },
    /// All devices of the network
    List,
    /// Cut a device off; on an admin's node also one that another node owns
    Remove {
        /// Name, mesh address or id of the device
        device: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Routes {
    /// Lead members to networks behind this machine
    Advertise {
        /// The networks, such as 192.168.10.0/24
        #[arg(required = true)]
        cidr: Vec<String>,
        /// Show the hosts there the addresses of members: they need a route to the mesh then
        #[arg(long)]
        no_masquerade: bool,
    },
    /// Lead nobody there any more
    Withdraw {
        /// The networks
        #[arg(required = true)]
        cidr: Vec<String>,
    },
    /// Reach networks behind other members, also those within the ones given
    Accept {
        /// The networks, or all
        #[arg(required = true)]
        cidr: Vec<String>,
        /// Only behind this node: name, mesh address or id; may be given several times
        #[arg(long, value_name = "NODE")]
        from: Vec<String>,
        /// Also where a route of this machine goes first
        #[arg(long)]
        force: bool,
    },
    /// Reach them that way no more
    Reject {
        /// The networks as they were accepted, or all
        #[arg(required = true)]
        cidr: Vec<String>,
    },
    /// Which networks there are, and how they are reached
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ExitCommand {
    /// Reach everything beyond the mesh and this machine's own networks through a node
    Use {
        /// Name, mesh address or id of the node
        node: String,
        /// Also if it is down
        #[arg(long)]
        force: bool,
    },
    /// Use this machine's own way out again
    Off,
    /// Let other members use this machine as their exit
    Offer,
    /// Let them no more
    Withdraw,
    /// Which exit is in use, and which there are
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Admin {
    /// Make a member an admin
    Add {
        /// Name, mesh address or id of the member
        node: String,
        /// Read the root key from FILE, where this machine does not keep it
        #[arg(long, value_name = "FILE")]
        root_key: Option<PathBuf>,
    },
    /// The admin keys of the network
    List,
    /// Take an admin key back
    Revoke {
        /// The key, or name, mesh address or id of the node that holds it
        admin: String,
        /// Read the root key from FILE, where this machine does not keep it
        #[arg(long, value_name = "FILE")]
        root_key: Option<PathBuf>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl From<Shell> for clap_complete::Shell {
    fn from(shell: Shell) -> Self {
        match shell {
            Shell::Bash => Self::Bash,
            Shell::Zsh => Self::Zsh,
            Shell::Fish => Self::Fish,
        }
    }
}
