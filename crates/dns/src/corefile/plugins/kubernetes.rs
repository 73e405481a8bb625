//! `kubernetes`.

use std::path::PathBuf;

use super::super::CorefileError;
use super::super::settings::{Corefile, Kubernetes};
use super::words::{Words, fault, number};
use crate::answer::{Fallthrough, PodMode};
use crate::wire::Name;

pub(super) fn read(
    words: &Words<'_>,
    block: &[Name],
    corefile: &mut Corefile,
) -> Result<Kubernetes, CorefileError> {
    if corefile.servers.iter().any(|server| server.kubernetes.is_some()) {
        // One set of watches serves the whole process.
        return Err(fault(words.directive, "kubernetes in a second block is not supported"));
    }
    let zones = match words.arguments {
        [] => block.to_vec(),
        some => super::names(some)?,
    };
    let mut settings = Kubernetes {
        zones,
        endpoint: None,
        kubeconfig: None,
        namespaces: Default::default(),
        namespace_labels: None,
        labels: None,
        pods: PodMode::Disabled,
        endpoint_pod_names: false,
        ttl: 5,
        no_endpoints: false,
        ignore_empty_service: false,
        fallthrough: Fallthrough::Never,
    };
    for option in words.options() {
        match option.name() {
            "endpoint" => settings.endpoint = Some(option.one()?.text.clone()),
            "kubeconfig" => {
                let (path, context) = match option.some()? {
                    [path] => (path, None),
                    [path, context] => (path, Some(context.text.clone())),
                    [_, _, third, ..] => {
                        return Err(fault(third, "kubeconfig takes a file and a context"));
                    }
                    [] => return Err(option.unknown()),
                };
                settings.kubeconfig = Some((PathBuf::from(&path.text), context));
            }
            "namespaces" => {
                settings.namespaces.extend(option.some()?.iter().map(|token| token.text.clone()));
            }
            "namespace_labels" => settings.namespace_labels = Some(selector(option.some()?)),
            "labels" => settings.labels = Some(selector(option.some()?)),
            "pods" => {
                let mode = option.one()?;
                settings.pods = match mode.text.as_str() {
                    "disabled" => PodMode::Disabled,
                    "insecure" => PodMode::Insecure,
                    "verified" => PodMode::Verified,
                    other => {
                        let text = format!("{other:?} is none of disabled, insecure, verified");
                        return Err(fault(mode, text));
                    }
                };
            }
            "endpoint_pod_names" => {
                option.none()?;
                settings.endpoint_pod_names = true;
            }
            "ttl" => settings.ttl = number(option.one()?, 0..=3600)?,
            "noendpoints" => {
                option.none()?;
                settings.no_endpoints = true;
            }
            "ignore" => {
                let what = option.one()?;
                if what.text != "empty_service" {
                    return Err(fault(what, format!("{:?} cannot be ignored", what.text)));
                }
                settings.ignore_empty_service = true;
            }
            "fallthrough" => {
                settings.fallthrough = match option.arguments {
                    [] => Fallthrough::Always,
                    some => Fallthrough::Zones(super::names(some)?),
                };
            }
            // How fast the API server is asked is the informers' affair, and how long the start
            // waits is none: queries are answered from the start.
            "apiserver_qps"
            | "apiserver_burst"
            | "apiserver_max_inflight"
            | "startup_timeout"
            | "resyncperiod" => {
                option.one()?;
                let text =
                    format!("{}: kubernetes: {} has no effect", option.token.at, option.name());
                corefile.warnings.push(text);
            }
            // Removed upstream, and ignored there.
            "upstream" => {
                let text = format!("{}: kubernetes: upstream has no effect", option.token.at);
                corefile.warnings.push(text);
            }
            "tls" | "multicluster" | "zonal" | "transfer" | "ptr_hostname_only" => {
                return Err(option.unsupported());
            }
            _ => return Err(option.unknown()),
        }
    }
    if !settings.namespaces.is_empty() && settings.namespace_labels.is_some() {
        let text = "namespaces and namespace_labels exclude each other";
        return Err(fault(words.directive, text));
    }
    Ok(settings)
}

/// The words of a selector, as one text.
fn selector(words: &[super::Token]) -> String {
    words.iter().map(|token| token.text.as_str()).collect::<Vec<_>>().join(" ")
}
