//! Reading a configuration: strictly, and leniently with warnings where only names are unknown.
//!
//! Upstream rule: `loadConfig` of cmd/kube-proxy/app/options.go: a file that strict decoding
//! refuses for unknown or duplicate fields is read again without that, and a warning says so.

use serde_json::Value;
use thiserror::Error;

use super::types::KubeProxyConfiguration;
use super::{API_VERSION, KIND};

/// A configuration that cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Not YAML or JSON.
    #[error("not YAML: {0}")]
    Syntax(String),
    /// A value of the wrong type.
    #[error("{0}")]
    Field(#[from] serde_json::Error),
    /// Another kind of object.
    #[error(
        "this is {api_version} {kind}, not {API_VERSION} {KIND}; hint: kubeadm keeps it in the ConfigMap kube-system/kube-proxy as config.conf"
    )]
    Kind {
        /// What it says it is.
        api_version: String,
        /// What it says it is.
        kind: String,
    },
}

/// A configuration and what is odd about it.
#[derive(Debug)]
pub struct Loaded {
    /// As it stands in the file, without defaults.
    pub configuration: KubeProxyConfiguration,
    /// What a strict reader refuses, a line each.
    pub warnings: Vec<String>,
}

/// Reads a configuration from YAML or JSON.
///
/// # Errors
/// When it is not YAML, of another kind, or a value has the wrong type.
pub fn parse(text: &str) -> Result<Loaded, LoadError> {
    let mut warnings = Vec::new();
    let mut raw: Value = match serde_saphyr::from_str(text) {
        Ok(raw) => raw,
        Err(strict) => {
            let options = serde_saphyr::options! {
                duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
            };
            let raw = serde_saphyr::from_str_with_options(text, options)
                .map_err(|e| LoadError::Syntax(e.to_string()))?;
            warnings.push(format!("{strict}; the last one counts"));
            raw
        }
    };
    drop_nulls(&mut raw);
    let of = |field: &str| raw.get(field).and_then(Value::as_str).unwrap_or("nothing").to_owned();
    let (api_version, kind) = (of("apiVersion"), of("kind"));
    if (api_version.as_str(), kind.as_str()) != (API_VERSION, KIND) {
        return Err(LoadError::Kind { api_version, kind });
    }
    let configuration: KubeProxyConfiguration = serde_json::from_value(raw.clone())?;
    unknown("", &raw, &serde_json::to_value(&configuration)?, &mut warnings);
    Ok(Loaded { configuration, warnings })
}

/// In Go's decoding null is the zero value, as if it were not there.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Names the fields that the typed form has no place for.
fn unknown(path: &str, raw: &Value, typed: &Value, warnings: &mut Vec<String>) {
    let (Value::Object(raw), Value::Object(typed)) = (raw, typed) else { return };
    for (name, value) in raw {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match typed.get(name) {
            Some(typed) => unknown(&path, value, typed, warnings),
            None => warnings.push(format!("unknown field \"{path}\"")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

    fn loaded(rest: &str) -> Loaded {
        parse(&format!("{HEAD}{rest}")).unwrap()
    }

    #[test]
    fn a_file_from_kubeadm_is_read_without_a_warning() {
        let loaded = loaded(include_str!("testdata/kubeadm.yaml"));
        assert_eq!(loaded.warnings, Vec::<String>::new());
        let configuration = loaded.configuration;
        assert_eq!(
            configuration.client_connection.kubeconfig,
            "/var/lib/kube-proxy/kubeconfig.conf"
        );
        assert_eq!(configuration.iptables.masquerade_bit, None);
        assert_eq!(configuration.mode, "nftables");
    }

    #[test]
    fn unknown_and_duplicate_fields_are_warnings() {
        let unknown = loaded("mode: nftables\nnftables: {masqueradeBitt: 3}\nfoo: 1\n");
        assert_eq!(
            unknown.warnings,
            ["unknown field \"foo\"", "unknown field \"nftables.masqueradeBitt\""]
        );
        let twice = loaded("mode: iptables\nmode: nftables\n");
        assert_eq!(twice.configuration.mode, "nftables");
        assert!(twice.warnings[0].contains("duplicate"), "{:?}", twice.warnings);
    }

    #[test]
    fn wrong_types_kinds_and_text_are_refused() {
        for rest in ["mode: [1]\n", "nftables: {syncPeriod: soon}\n", "oomScoreAdj: much\n"] {
            assert!(matches!(parse(&format!("{HEAD}{rest}")), Err(LoadError::Field(_))), "{rest}");
        }
        assert!(matches!(parse("kind: Pod\napiVersion: v1\n"), Err(LoadError::Kind { .. })));
        assert!(matches!(parse("{"), Err(LoadError::Syntax(_))));
    }
}
