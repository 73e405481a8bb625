//! What a data directory's objects were made with, and may not change under them.
//!
//! Services hold addresses of the service CIDR and Nodes blocks of the cluster CIDR; a lab that
//! came back with other ranges would break both without a word. So they are written down once.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::error::LabError;
use crate::nets::Nets;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Settings {
    service_cidr: Nets,
    cluster_cidr: Nets,
}

/// What a data directory's objects were made with.
#[derive(Debug)]
pub(crate) struct Recorded {
    settings: Settings,
    /// The directory as it is shown to people.
    shown: PathBuf,
}

impl Recorded {
    /// Reads what is written in `dir`; none when nothing is, or the directory cannot be used, which
    /// whoever uses it says better.
    pub(crate) fn read(dir: &Path, shown: &Path) -> Result<Option<Recorded>, LabError> {
        let path = dir.join(FILE);
        let Ok(text) = fs::read(&path) else { return Ok(None) };
        let settings = serde_json::from_slice(&text).map_err(|error| LabError::File {
            action: "understand",
            path,
            source: error.into(),
        })?;
        Ok(Some(Recorded { settings, shown: shown.to_owned() }))
    }

    pub(crate) fn service_cidr(&self) -> &Nets {
        &self.settings.service_cidr
    }

    pub(crate) fn cluster_cidr(&self) -> &Nets {
        &self.settings.cluster_cidr
    }

    /// Refuses ranges other than those of before, as far as they are given.
    pub(crate) fn compare(
        &self,
        service_cidr: Option<&Nets>,
        cluster_cidr: Option<&Nets>,
    ) -> Result<(), LabError> {
        for (flag, now, before) in [
            ("--service-cidr", service_cidr, self.service_cidr()),
            ("--cluster-cidr", cluster_cidr, self.cluster_cidr()),
        ] {
            if let Some(now) = now.filter(|now| *now != before) {
                let shown = self.shown.display();
                return Err(LabError::Argument {
                    flag,
                    value: now.to_string(),
                    problem: format!("the objects in {shown} were made with {before}"),
                    hint: format!("give {flag} {before}, or begin anew with another --data-dir"),
                });
            }
        }
        Ok(())
    }
}

const FILE: &str = "settings.json";

/// Compares the configuration with what is written in `dir`, or writes it down there.
pub(crate) fn check(dir: &Path, config: &Config, shown: &Path) -> Result<(), LabError> {
    if let Some(recorded) = Recorded::read(dir, shown)? {
        return recorded.compare(Some(&config.service_cidr), Some(&config.cluster_cidr));
    }
    let path = dir.join(FILE);
    if path.exists() {
        let source = io::Error::other("it is there, but cannot be read");
        return Err(LabError::File { action: "read", path, source });
    }
    let now = Settings {
        service_cidr: config.service_cidr.clone(),
        cluster_cidr: config.cluster_cidr.clone(),
    };
    let text = serde_json::to_string_pretty(&now).expect("two strings are always JSON");
    portolan_apiserver::pki::write_private(&path, &text).map_err(LabError::ApiServer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Ipv6, Options, ProxyMode};

    fn parse(service_cidr: Option<&str>, recorded: Option<&Recorded>) -> Result<Config, LabError> {
        let options = Options {
            nodes: 1,
            proxy_mode: Some(ProxyMode::Nftables),
            service_cidr: service_cidr.map(Into::into),
            cluster_cidr: None,
            fabric_cidr: None,
            node_port_range: "30000-32767".into(),
            api_port: 0,
        };
        Config::parse(&options, recorded, Ipv6::Present)
    }

    #[test]
    fn a_range_that_objects_were_made_with_may_not_change() {
        let temp = tempfile::tempdir().unwrap();
        let shown = Path::new("/shown");
        let first = parse(Some("10.96.0.0/12"), None).unwrap();
        check(temp.path(), &first, shown).unwrap();
        check(temp.path(), &first, shown).unwrap();
        let other = parse(Some("10.112.0.0/16"), None).unwrap();
        let error = check(temp.path(), &other, shown).expect_err("it changed");
        assert!(error.to_string().contains("made with 10.96.0.0/12"), "{error}");
        assert!(error.hint().unwrap().contains("--service-cidr 10.96.0.0/12"));
        let recorded = Recorded::read(temp.path(), shown).unwrap();
        for other in ["10.112.0.0/16", "10.96.0.0/12,fd00:10:96::/112"] {
            let error = parse(Some(other), recorded.as_ref()).expect_err("it changed");
            assert!(error.to_string().contains("in /shown were made with"), "{error}");
        }
    }

    #[test]
    fn a_directory_keeps_the_ranges_and_families_it_began_with() {
        let temp = tempfile::tempdir().unwrap();
        // As a lab wrote it that had IPv4 only.
        let text = r#"{"serviceCidr": "10.100.0.0/16", "clusterCidr": "10.244.0.0/16"}"#;
        fs::write(temp.path().join(FILE), text).unwrap();
        let recorded = Recorded::read(temp.path(), temp.path()).unwrap();
        let config = parse(None, recorded.as_ref()).unwrap();
        assert_eq!(config.service_cidr.to_string(), "10.100.0.0/16");
        assert_eq!(config.cluster_cidr.to_string(), "10.244.0.0/16");
        assert_eq!(config.fabric.to_string(), "172.30.0.0/24");
        check(temp.path(), &config, temp.path()).unwrap();
        assert!(Recorded::read(&temp.path().join("none"), temp.path()).unwrap().is_none());
    }

    #[test]
    fn what_is_no_record_is_named() {
        let temp = tempfile::tempdir().unwrap();
        for text in ["", "{}", r#"{"serviceCidr": "10.0.0.0/16,10.1.0.0/16", "clusterCidr": "a"}"#]
        {
            fs::write(temp.path().join(FILE), text).unwrap();
            let error = Recorded::read(temp.path(), temp.path()).expect_err("it is nonsense");
            assert!(error.to_string().contains(FILE), "{error}");
        }
    }
}
