//! A question as it stands on the command line: who asks, and whom.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use portolan_model::{NamespacedName, Protocol};

use crate::TraceError;

/// Who sends the packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// Whoever has this address.
    Address(IpAddr),
    /// A pod.
    Pod(NamespacedName),
    /// A process in a node's own network.
    Node(String),
    /// A client beyond the cluster: 203.0.113.1 or 2001:db8::1, which are nobody's (RFC 5737, 3849).
    External,
}

/// Whom it is addressed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    /// An address and port.
    Address(SocketAddr),
    /// The cluster IP of a Service, at a port by number or name; without, at its only port.
    Service {
        /// Which.
        name: NamespacedName,
        /// The port as it was written.
        port: Option<String>,
    },
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Who sends the packet.
    pub from: From,
    /// Whom it is addressed to.
    pub to: To,
    /// Its protocol; none: that of the Service's port, or TCP.
    pub protocol: Option<Protocol>,
}

impl FromStr for From {
    type Err = TraceError;

    fn from_str(text: &str) -> Result<Self, TraceError> {
        if text == "external" {
            return Ok(Self::External);
        }
        if let Ok(ip) = unbracketed(text).parse::<IpAddr>() {
            return Ok(Self::Address(ip.to_canonical()));
        }
        match text.split('/').collect::<Vec<_>>().as_slice() {
            ["pod", namespace, name] if !namespace.is_empty() && !name.is_empty() => {
                Ok(Self::Pod(NamespacedName::new(*namespace, *name)))
            }
            ["node", name] if !name.is_empty() => Ok(Self::Node((*name).into())),
            _ => {
                let forms = "write an IP, pod/NAMESPACE/NAME, node/NAME or external";
                Err(TraceError::argument("--from", text, forms))
            }
        }
    }
}

impl FromStr for To {
    type Err = TraceError;

    fn from_str(text: &str) -> Result<Self, TraceError> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::Address(SocketAddr::new(address.ip().to_canonical(), address.port())));
        }
        if let ["svc", namespace, rest] = text.split('/').collect::<Vec<_>>().as_slice() {
            let (name, port) = match rest.split_once(':') {
                Some((name, port)) => (name, Some(port)),
                None => (*rest, None),
            };
            if !namespace.is_empty() && !name.is_empty() && port != Some("") {
                let name = NamespacedName::new(*namespace, name);
                return Ok(Self::Service { name, port: port.map(Into::into) });
            }
        }
        let forms = "write IP:PORT ([IP]:PORT for IPv6) or svc/NAMESPACE/NAME[:PORT]";
        Err(TraceError::argument("--to", text, forms))
    }
}

fn unbracketed(text: &str) -> &str {
    text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        let pod = From::Pod(NamespacedName::new("a", "b"));
        assert_eq!("pod/a/b".parse::<From>().unwrap(), pod);
        assert_eq!("node/n".parse::<From>().unwrap(), From::Node("n".into()));
        assert_eq!("external".parse::<From>().unwrap(), From::External);
        let ip = From::Address("fd00::1".parse().unwrap());
        assert_eq!("[fd00::1]".parse::<From>().unwrap(), ip);
        let v4 = From::Address("10.0.0.1".parse().unwrap());
        assert_eq!("::ffff:10.0.0.1".parse::<From>().unwrap(), v4);
        let to = To::Service { name: NamespacedName::new("a", "b"), port: Some("http".into()) };
        assert_eq!("svc/a/b:http".parse::<To>().unwrap(), to);
        assert_eq!(
            "[fd00::1]:80".parse::<To>().unwrap(),
            To::Address("[fd00::1]:80".parse().unwrap())
        );
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "pod/a", "pod//b", "pod/a/b/c", "node/", "Node/n", "10.0.0", "10.0.0.1:80"]
        {
            assert!(text.parse::<From>().is_err(), "{text}");
        }
        for text in
            ["", "10.0.0.1", "svc/a", "svc/a/", "svc/a/b:", "svc/a/b/c", "fd00::1:80", "a:80"]
        {
            assert!(text.parse::<To>().is_err(), "{text}");
        }
    }
}
