//! What a data directory's objects were made with, and may not change under them.
//!
//! Services hold addresses of the service CIDR and Nodes blocks of the cluster CIDR; a lab that
//! came back with other ranges would break both without a word. So they are written down once.

use std::fs;
use std::io;
use std::path::Path;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::error::LabError;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Settings {
    service_cidr: Ipv4Net,
    cluster_cidr: Ipv4Net,
}

/// Compares the configuration with what is written in `dir`, or writes it down there.
pub(super) fn check(dir: &Path, config: &Config, shown: &Path) -> Result<(), LabError> {
    let path = dir.join("settings.json");
    let now = Settings { service_cidr: config.service_cidr, cluster_cidr: config.cluster_cidr };
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = serde_json::to_string_pretty(&now).expect("two strings are always JSON");
            return portolan_apiserver::pki::write_private(&path, &text)
                .map_err(LabError::ApiServer);
        }
        Err(source) => return Err(LabError::File { action: "read", path, source }),
    };
    let before: Settings = serde_json::from_slice(&text).map_err(|error| LabError::File {
        action: "understand",
        path,
        source: error.into(),
    })?;
    for (flag, now, before) in [
        ("--service-cidr", now.service_cidr, before.service_cidr),
        ("--cluster-cidr", now.cluster_cidr, before.cluster_cidr),
    ] {
        if now != before {
            return Err(LabError::Argument {
                flag,
                value: now.to_string(),
                problem: format!("the objects in {} were made with {before}", shown.display()),
                hint: format!("give {flag} {before}, or begin anew with another --data-dir"),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Options, ProxyMode};

    fn config(service_cidr: &str) -> Config {
        Config::parse(&Options {
            nodes: 1,
            proxy_mode: Some(ProxyMode::Nftables),
            service_cidr: service_cidr.into(),
            cluster_cidr: "10.244.0.0/16".into(),
            fabric_cidr: "172.30.0.0/24".into(),
            node_port_range: "30000-32767".into(),
            api_port: 0,
        })
        .unwrap()
    }

    #[test]
    fn a_range_that_objects_were_made_with_may_not_change() {
        let temp = tempfile::tempdir().unwrap();
        let shown = Path::new("/shown");
        check(temp.path(), &config("10.96.0.0/12"), shown).unwrap();
        check(temp.path(), &config("10.96.0.0/12"), shown).unwrap();
        let error = check(temp.path(), &config("10.112.0.0/16"), shown).expect_err("it changed");
        assert!(error.to_string().contains("made with 10.96.0.0/12"), "{error}");
        assert!(error.hint().unwrap().contains("--service-cidr 10.96.0.0/12"));
    }
}
