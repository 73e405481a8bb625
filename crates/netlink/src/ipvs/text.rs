//! Operations as `ipvsadm` reads and writes them (`-R`, `-S`), for people and golden files; servers as it
//! lists them.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use super::encode::Op;
use super::object::{
    Destination, ForwardingMethod, Granularity, Persistence, Protocol, RealServer, Service,
    VirtualServer,
};

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

impl fmt::Display for VirtualServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol, SocketAddr::new(self.address, self.port))
    }
}

impl fmt::Display for RealServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.address, self.port).fmt(f)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (command, server) = match self {
            Self::AddService(server, _) => ("-A", server),
            Self::SetService(server, _) => ("-E", server),
            Self::DeleteService(server) => ("-D", server),
            Self::AddDestination(server, ..) => ("-a", server),
            Self::SetDestination(server, ..) => ("-e", server),
            Self::DeleteDestination(server, _) => ("-d", server),
        };
        let option = match server.protocol {
            Protocol::Tcp => "-t",
            Protocol::Udp => "-u",
            Protocol::Sctp => "--sctp-service",
        };
        write!(f, "{command} {option} {}", SocketAddr::new(server.address, server.port))?;
        match self {
            Self::AddService(_, wanted) | Self::SetService(_, wanted) => {
                service(f, wanted, server.address.is_ipv4())
            }
            Self::DeleteService(_) => Ok(()),
            Self::AddDestination(_, real, wanted) | Self::SetDestination(_, real, wanted) => {
                write!(f, " -r {real}")?;
                destination(f, wanted)
            }
            Self::DeleteDestination(_, real) => write!(f, " -r {real}"),
        }
    }
}

fn service(f: &mut fmt::Formatter<'_>, wanted: &Service, is_v4: bool) -> fmt::Result {
    write!(f, " -s {}", wanted.scheduler)?;
    if let Some(Persistence { timeout, granularity }) = wanted.persistence {
        write!(f, " -p {timeout}")?;
        match granularity {
            Granularity::Host => {}
            Granularity::Prefix(bits) if is_v4 => {
                let behind = 32_u32.saturating_sub(bits.into());
                let mask = u32::MAX.checked_shl(behind).unwrap_or(0);
                write!(f, " -M {}", Ipv4Addr::from(mask))?;
            }
            Granularity::Prefix(bits) => write!(f, " -M {bits}")?,
            Granularity::Mask(mask) => write!(f, " -M {mask}")?,
        }
    }
    if wanted.flags.one_packet {
        write!(f, " -o")?;
    }
    let flags = [wanted.flags.sched1, wanted.flags.sched2, wanted.flags.sched3];
    let mut before = " -b ";
    for (number, _) in (1..).zip(flags).filter(|(_, is_set)| *is_set) {
        write!(f, "{before}flag-{number}")?;
        before = ",";
    }
    Ok(())
}

fn destination(f: &mut fmt::Formatter<'_>, wanted: &Destination) -> fmt::Result {
    match wanted.forwarding {
        ForwardingMethod::Masquerade => write!(f, " -m")?,
        ForwardingMethod::Tunnel => write!(f, " -i")?,
        ForwardingMethod::DirectRoute => write!(f, " -g")?,
        // These can be listed, not asked for.
        ForwardingMethod::LocalNode | ForwardingMethod::Bypass | ForwardingMethod::Other(_) => {}
    }
    write!(f, " -w {}", wanted.weight)?;
    for (option, threshold) in [("-x", wanted.upper_threshold), ("-y", wanted.lower_threshold)] {
        if threshold > 0 {
            write!(f, " {option} {threshold}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::object::ServiceFlags;
    use super::*;

    #[test]
    fn operations_are_written_as_ipvsadm_has_them() {
        let v4 =
            VirtualServer { address: [10, 96, 0, 1].into(), port: 443, protocol: Protocol::Tcp };
        let v6 = VirtualServer {
            address: "fd00::a".parse().unwrap(),
            port: 53,
            protocol: Protocol::Udp,
        };
        let sctp = VirtualServer { protocol: Protocol::Sctp, ..v4 };
        let real = RealServer { address: [10, 1, 2, 3].into(), port: 6443 };
        let kept = |granularity| Service {
            persistence: Some(Persistence { timeout: 10_800, granularity }),
            ..Service::default()
        };
        let flags = ServiceFlags { sched1: true, sched2: true, ..ServiceFlags::default() };
        let hashed = Service { scheduler: "mh".parse().unwrap(), flags, persistence: None };
        let flags = ServiceFlags { one_packet: true, ..ServiceFlags::default() };
        let single = Service { flags, ..Service::default() };
        let bounded =
            Destination { upper_threshold: 9, lower_threshold: 5, ..Destination::masquerade(0) };
        for (op, text) in [
            (Op::AddService(v4, Service::default()), "-A -t 10.96.0.1:443 -s rr"),
            (
                Op::AddService(v4, kept(Granularity::Prefix(24))),
                "-A -t 10.96.0.1:443 -s rr -p 10800 -M 255.255.255.0",
            ),
            (
                Op::SetService(v6, kept(Granularity::Prefix(64))),
                "-E -u [fd00::a]:53 -s rr -p 10800 -M 64",
            ),
            (Op::SetService(v6, single), "-E -u [fd00::a]:53 -s rr -o"),
            (
                Op::AddService(sctp, hashed),
                "-A --sctp-service 10.96.0.1:443 -s mh -b flag-1,flag-2",
            ),
            (Op::DeleteService(v6), "-D -u [fd00::a]:53"),
            (
                Op::AddDestination(v4, real, Destination::masquerade(1)),
                "-a -t 10.96.0.1:443 -r 10.1.2.3:6443 -m -w 1",
            ),
            (
                Op::SetDestination(v4, real, bounded),
                "-e -t 10.96.0.1:443 -r 10.1.2.3:6443 -m -w 0 -x 9 -y 5",
            ),
            (Op::DeleteDestination(v4, real), "-d -t 10.96.0.1:443 -r 10.1.2.3:6443"),
        ] {
            assert_eq!(op.to_string(), text);
        }
        assert_eq!(format!("{v6} {real}"), "UDP [fd00::a]:53 10.1.2.3:6443");
    }
}
