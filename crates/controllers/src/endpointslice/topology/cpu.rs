//! A node's CPUs as a number.

use k8s_openapi::api::core::v1::Node;

/// The CPUs that pods can have on the node; none when it does not say or has none.
pub(super) fn cpus(node: &Node) -> Option<f64> {
    let allocatable = node.status.as_ref()?.allocatable.as_ref()?;
    number(&allocatable.get("cpu")?.0).filter(|cpus| cpus.is_finite() && *cpus > 0.0)
}

/// The value of a quantity; binary suffixes make no sense for CPUs and are none.
fn number(quantity: &str) -> Option<f64> {
    let suffix = [("n", 1e-9), ("u", 1e-6), ("m", 1e-3), ("k", 1e3), ("M", 1e6)];
    for (suffix, scale) in suffix {
        if let Some(digits) = quantity.strip_suffix(suffix) {
            return Some(digits.parse::<f64>().ok()? * scale);
        }
    }
    quantity.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_read_in_every_form_that_nodes_write() {
        let cases = [
            ("4", Some(4.0)),
            ("1500m", Some(1.5)),
            ("1e2", Some(100.0)),
            ("0.5", Some(0.5)),
            ("2k", Some(2000.0)),
            ("many", None),
            ("", None),
        ];
        for (text, wanted) in cases {
            assert_eq!(number(text), wanted, "{text}");
        }
    }
}
