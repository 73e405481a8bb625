//! Names of chains, and text that is safe within a rule.

use std::fmt::Write;
use std::net::SocketAddr;

use portolan_model::{Scope, ServicePortName};
use sha2::{Digest, Sha256};

/// What the kernel takes as a comment, its end included, is 256 bytes.
const COMMENT_BYTES: usize = 255;

/// The chain that chooses among a Service port's endpoints within a scope.
pub(crate) fn set(port: &ServicePortName, scope: Scope) -> String {
    let prefix = match scope {
        Scope::Cluster => "KUBE-SVC-",
        Scope::Local => "KUBE-SVL-",
    };
    prefix.to_owned() + &hash(port, "")
}

/// The chain for what is addressed to a Service port from outside.
pub(crate) fn external(port: &ServicePortName) -> String {
    "KUBE-EXT-".to_owned() + &hash(port, "")
}

/// The chain that lets in who may use a Service port's load balancer.
pub(crate) fn firewall(port: &ServicePortName) -> String {
    "KUBE-FW-".to_owned() + &hash(port, "")
}

/// The chain of one endpoint of a Service port.
pub(crate) fn endpoint(port: &ServicePortName, endpoint: SocketAddr) -> String {
    "KUBE-SEP-".to_owned() + &hash(port, &endpoint.to_string())
}

/// Whether a chain is one of those that come and go with Services, of this or an earlier version.
pub(crate) fn is_of_a_service(chain: &str) -> bool {
    ["KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-", "KUBE-XLB-"]
        .iter()
        .any(|prefix| chain.starts_with(prefix))
}

/// The first 16 letters of the base32 of a SHA-256, as upstream.
fn hash(port: &ServicePortName, endpoint: &str) -> String {
    let mut text = String::new();
    write!(text, "{port}").expect("a string takes everything");
    let protocol = protocol(port);
    let digest = Sha256::digest(format!("{text}{protocol}{endpoint}"));
    base32(&digest[..10])
}

/// The protocol as iptables has it.
pub(crate) fn protocol(port: &ServicePortName) -> String {
    port.protocol.to_string().to_lowercase()
}

/// RFC 4648 base32 of whole groups of five bytes.
fn base32(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut text = String::new();
    for group in bytes.chunks_exact(5) {
        let bits = group.iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
        for letter in (0..8).rev() {
            let index = usize::try_from(bits >> (letter * 5) & 31).expect("it is below 32");
            text.push(char::from(LETTERS[index]));
        }
    }
    text
}

/// A comment match. Names come from objects: what could end the quotes or the line is replaced.
pub(crate) fn comment(text: &str) -> String {
    let safe: String = text
        .chars()
        .map(|c| match c {
            '"' | '\\' | '\'' => '_',
            ' '..='~' => c,
            _ => '_',
        })
        .take(COMMENT_BYTES)
        .collect();
    format!("-m comment --comment \"{safe}\"")
}

#[cfg(test)]
mod tests {
    use portolan_model::{NamespacedName, Protocol};

    use super::*;

    fn port() -> ServicePortName {
        let service = NamespacedName::new("default", "kubernetes");
        ServicePortName { service, port: "https".into(), protocol: Protocol::Tcp }
    }

    /// Every cluster has this chain.
    #[test]
    fn names_are_those_of_kube_proxy() {
        assert_eq!(set(&port(), Scope::Cluster), "KUBE-SVC-NPX46M4PTMTKRN6Y");
    }

    #[test]
    fn comments_stay_within_their_quotes() {
        assert_eq!(comment("a\"b\\\n-j ACCEPT"), "-m comment --comment \"a_b__-j ACCEPT\"");
        assert_eq!(comment(&"ä".repeat(400)).len(), "-m comment --comment \"\"".len() + 255);
    }
}
