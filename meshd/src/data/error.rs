use std::io;

use nix::libc;

/// Why the data plane cannot be started, or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The TUN device node cannot be used.
    #[error("cannot open /dev/net/tun for interface {interface}: {}", tun_advice(source))]
    Tun {
        /// The interface that was wanted.
        interface: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The interface could not be configured.
    #[error("cannot {action} interface {interface}: {source}")]
    Interface {
        /// What was to be done: `set the MTU of`.
        action: &'static str,
        /// The interface.
        interface: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The UDP port cannot be used.
    #[error("cannot use UDP port {port} ({family}): {}", port_advice(source))]
    Port {
        /// The port.
        port: u16,
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Nobody asked for a thread.
    #[error("no thread was asked for to carry packets")]
    NoLanes,
    /// The thread cannot be started.
    #[error("cannot start the data thread: {source}")]
    Thread {
        /// The kernel's reason.
        source: io::Error,
    },
    /// The interface was deleted while it was in use.
    #[error("interface {interface} was deleted; start the daemon again to make it anew")]
    InterfaceGone {
        /// The interface.
        interface: String,
    },
    /// Waiting for packets failed.
    #[error("cannot wait for packets of interface {interface}: {source}")]
    Wait {
        /// The interface.
        interface: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A bug in the daemon.
    #[error("the data thread of interface {interface} panicked: {message}; please report this")]
    Panicked {
        /// The interface.
        interface: String,
        /// What the panic said.
        message: String,
    },
}

fn tun_advice(source: &io::Error) -> String {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "permission denied; run as root or grant CAP_NET_ADMIN".to_owned()
        }
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            "there is no such device; load the kernel's module: modprobe tun".to_owned()
        }
        Some(libc::EBUSY) => {
            "another process holds the interface; stop it or choose another interface".to_owned()
        }
        Some(libc::EINVAL) => {
            "an interface of that name is there and is no TUN interface; remove it or choose \
             another name"
                .to_owned()
        }
        _ => source.to_string(),
    }
}

fn port_advice(source: &io::Error) -> String {
    match source.raw_os_error() {
        Some(libc::EADDRINUSE) => {
            "another program uses it; stop that or choose another port with --port".to_owned()
        }
        Some(libc::EPERM | libc::EACCES) => {
            "permission denied; choose a port above 1023 or grant CAP_NET_BIND_SERVICE".to_owned()
        }
        _ => source.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_what_failed_and_the_next_step() {
        let tun = |errno| Error::Tun {
            interface: "eps0".to_owned(),
            source: io::Error::from_raw_os_error(errno),
        };
        let denied = tun(libc::EPERM).to_string();
        assert!(denied.starts_with("cannot open /dev/net/tun"), "{denied}");
        assert!(denied.ends_with("run as root or grant CAP_NET_ADMIN"), "{denied}");
        assert!(tun(libc::ENOENT).to_string().ends_with("modprobe tun"));
        let busy = Error::Port {
            port: 7755,
            family: "IPv4",
            source: io::Error::from_raw_os_error(libc::EADDRINUSE),
        };
        assert!(busy.to_string().contains("7755") && busy.to_string().contains("--port"));
    }
}
