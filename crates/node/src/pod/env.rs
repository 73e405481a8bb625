//! A container's environment, in kubelet's order of precedence. Pure.
//!
//! Lowest first: service links, envFrom in order, env in order. `$(VAR)` in a value sees what
//! came before it and the service links.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, Pod, Secret, Service};

use super::expand::expand;
use super::fields::{self, Facts};
use super::tokens::{Known, Purpose};

/// The objects that a pod refers to, by name; a name that is known to be missing is None.
#[derive(Debug, Clone, Default)]
pub(crate) struct References {
    /// ConfigMaps of the Pod's namespace.
    pub(crate) config_maps: BTreeMap<String, Option<ConfigMap>>,
    /// Secrets of the Pod's namespace.
    pub(crate) secrets: BTreeMap<String, Option<Secret>>,
    /// Tokens of the Pod's service account.
    pub(crate) tokens: BTreeMap<Purpose, Known>,
}

impl References {
    /// A ConfigMap, or kubelet's message that it is missing.
    pub(crate) fn config_map(&self, name: &str) -> Result<&ConfigMap, String> {
        let found = self.config_maps.get(name).and_then(Option::as_ref);
        found.ok_or_else(|| format!("configmap {name:?} not found"))
    }

    /// A Secret, or kubelet's message that it is missing.
    pub(crate) fn secret(&self, name: &str) -> Result<&Secret, String> {
        let found = self.secrets.get(name).and_then(Option::as_ref);
        found.ok_or_else(|| format!("secret {name:?} not found"))
    }

    /// A token, or kubelet's message that there is none.
    pub(crate) fn token(&self, purpose: &Purpose) -> Result<&str, String> {
        match self.tokens.get(purpose) {
            Some(Ok(token)) => Ok(token),
            Some(Err(why)) => Err(format!("failed to fetch token: {why}")),
            None => Err("failed to fetch token: nobody asked for it".to_owned()),
        }
    }
}

/// The variables, or why the container cannot be configured (CreateContainerConfigError).
pub(crate) fn environment(
    pod: &Pod,
    container: &Container,
    facts: &Facts,
    references: &References,
    links: &[(String, String)],
) -> Result<Vec<(String, String)>, String> {
    let mut result: Vec<(String, String)> = Vec::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let mut add = |key: &str, value: String| set(&mut result, format!("{prefix}{key}"), value);
        if let Some(reference) = &source.config_map_ref {
            let optional = reference.optional.unwrap_or(false);
            match references.config_map(&reference.name) {
                Ok(map) => {
                    map.data.iter().flatten().for_each(|(key, value)| add(key, value.clone()));
                }
                Err(message) if !optional => return Err(message),
                Err(_) => {}
            }
        }
        if let Some(reference) = &source.secret_ref {
            let optional = reference.optional.unwrap_or(false);
            match references.secret(&reference.name) {
                Ok(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        add(key, String::from_utf8_lossy(&value.0).into_owned());
                    }
                }
                Err(message) if !optional => return Err(message),
                Err(_) => {}
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let lookup = |name: &str| {
            let found = result.iter().chain(links).find(|(known, _)| known == name);
            found.map(|(_, value)| value.as_str())
        };
        let value = match &variable.value_from {
            None => Some(expand(variable.value.as_deref().unwrap_or_default(), lookup)),
            Some(_) => value_from(pod, container, facts, references, variable)?,
        };
        if let Some(value) = value {
            set(&mut result, variable.name.clone(), value);
        }
    }
    for (name, value) in links {
        if !result.iter().any(|(known, _)| known == name) {
            result.push((name.clone(), value.clone()));
        }
    }
    // What cannot be in an environment at all is left out, as kubelet does.
    result.retain(|(name, value)| {
        !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
    });
    Ok(result)
}

fn set(result: &mut Vec<(String, String)>, name: String, value: String) {
    match result.iter_mut().find(|(known, _)| *known == name) {
        Some(known) => known.1 = value,
        None => result.push((name, value)),
    }
}

/// None: optional and missing.
fn value_from(
    pod: &Pod,
    container: &Container,
    facts: &Facts,
    references: &References,
    variable: &EnvVar,
) -> Result<Option<String>, String> {
    let Some(source) = &variable.value_from else { return Ok(None) };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(reference) = &source.field_ref {
        return fields::field(pod, facts, &reference.field_path).map(Some);
    }
    if let Some(selector) = &source.resource_field_ref {
        return fields::resource(pod, facts, Some(container), selector).map(Some);
    }
    if let Some(reference) = &source.config_map_key_ref {
        let found = references.config_map(&reference.name).and_then(|map| {
            let value = map.data.as_ref().and_then(|data| data.get(&reference.key));
            value.cloned().ok_or_else(|| {
                format!(
                    "couldn't find key {} in ConfigMap {namespace}/{}",
                    reference.key, reference.name
                )
            })
        });
        return optionally(found, reference.optional);
    }
    if let Some(reference) = &source.secret_key_ref {
        let found = references.secret(&reference.name).and_then(|secret| {
            let value = secret.data.as_ref().and_then(|data| data.get(&reference.key));
            value.map(|value| String::from_utf8_lossy(&value.0).into_owned()).ok_or_else(|| {
                format!(
                    "couldn't find key {} in Secret {namespace}/{}",
                    reference.key, reference.name
                )
            })
        });
        return optionally(found, reference.optional);
    }
    Err(format!("the source of variable {} is not supported", variable.name))
}

fn optionally(
    found: Result<String, String>,
    optional: Option<bool>,
) -> Result<Option<String>, String> {
    match found {
        Err(_) if optional == Some(true) => Ok(None),
        other => other.map(Some),
    }
}

/// The variables by which a pod finds the Services of its namespace, and the API server.
pub(crate) fn service_links<'a>(
    pod: &Pod,
    services: impl IntoIterator<Item = &'a Service>,
) -> Vec<(String, String)> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let all = pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    let mut variables = BTreeMap::new();
    let mut own = Vec::new();
    for service in services {
        let meta = &service.metadata;
        let (Some(name), Some(home)) = (&meta.name, &meta.namespace) else { continue };
        if home == "default" && name == "kubernetes" {
            link(service, name, &mut variables);
        } else if all && home == namespace {
            own.push((name, service));
        }
    }
    // A Service of the pod's own namespace wins over the API server's.
    for (name, service) in own {
        link(service, name, &mut variables);
    }
    variables.into_iter().collect()
}

fn link(service: &Service, name: &str, variables: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let ip = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None");
    let ports = spec.ports.as_deref().unwrap_or_default();
    let (Some(ip), Some(first)) = (ip, ports.first()) else { return };
    let prefix = variable_name(name);
    let mut set =
        |suffix: &str, value: String| variables.insert(format!("{prefix}_{suffix}"), value);
    set("SERVICE_HOST", ip.to_owned());
    set("SERVICE_PORT", first.port.to_string());
    for port in ports {
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            set(&format!("SERVICE_PORT_{}", variable_name(name)), port.port.to_string());
        }
    }
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    for (index, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let lower = protocol.to_ascii_lowercase();
        let url = format!("{lower}://{host}:{}", port.port);
        if index == 0 {
            set("PORT", url.clone());
        }
        let base = format!("PORT_{}_{}", port.port, protocol.to_ascii_uppercase());
        set(&base, url);
        set(&format!("{base}_PROTO"), lower);
        set(&format!("{base}_PORT"), port.port.to_string());
        set(&format!("{base}_ADDR"), ip.to_owned());
    }
}

fn variable_name(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{
        ConfigMapEnvSource, ConfigMapKeySelector, EnvFromSource, EnvVarSource, ObjectFieldSelector,
        ServicePort, ServiceSpec,
    };

    use super::*;

    fn variable(name: &str, value: &str) -> EnvVar {
        EnvVar { name: name.into(), value: Some(value.into()), value_from: None }
    }

    fn from(name: &str, source: EnvVarSource) -> EnvVar {
        EnvVar { name: name.into(), value: None, value_from: Some(source) }
    }

    fn references() -> References {
        let data = [("k".to_owned(), "from map".to_owned()), ("x".to_owned(), "1".to_owned())];
        let map = ConfigMap { data: Some(data.into()), ..ConfigMap::default() };
        References { config_maps: [("map".to_owned(), Some(map))].into(), ..References::default() }
    }

    fn built(container: &Container) -> Result<BTreeMap<String, String>, String> {
        let mut pod = Pod::default();
        pod.metadata.name = Some("web".into());
        pod.metadata.namespace = Some("ns".into());
        let links = [("LINK".to_owned(), "linked".to_owned()), ("k".to_owned(), "lost".to_owned())];
        let facts = Facts { pod_ips: "10.0.0.1".parse().ok(), ..Facts::default() };
        environment(&pod, container, &facts, &references(), &links)
            .map(|all| all.into_iter().collect())
    }

    #[test]
    fn later_sources_win_and_values_see_what_came_before() {
        let env_from = EnvFromSource {
            config_map_ref: Some(ConfigMapEnvSource { name: "map".into(), optional: None }),
            ..EnvFromSource::default()
        };
        let prefixed = EnvFromSource { prefix: Some("P_".into()), ..env_from.clone() };
        let field = ObjectFieldSelector { field_path: "status.podIP".into(), api_version: None };
        let container = Container {
            env_from: Some(vec![env_from, prefixed]),
            env: Some(vec![
                variable("A", "$(k)/$(LINK)/$(B)"),
                variable("B", "$$(A)"),
                variable("x", "2"),
                from("IP", EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
            ]),
            ..Container::default()
        };
        let built = built(&container).unwrap();
        assert_eq!(built["A"], "from map/linked/$(B)");
        assert_eq!(built["B"], "$(A)");
        assert_eq!((built["x"].as_str(), built["P_x"].as_str()), ("2", "1"));
        assert_eq!((built["IP"].as_str(), built["LINK"].as_str()), ("10.0.0.1", "linked"));
    }

    #[test]
    fn what_is_missing_is_told_as_kubelet_tells_it_unless_optional() {
        let key = |name: &str, key: &str, optional| {
            let selector = ConfigMapKeySelector { name: name.into(), key: key.into(), optional };
            let source =
                EnvVarSource { config_map_key_ref: Some(selector), ..EnvVarSource::default() };
            Container { env: Some(vec![from("V", source)]), ..Container::default() }
        };
        let message = "configmap \"other\" not found";
        assert_eq!(built(&key("other", "k", None)).unwrap_err(), message);
        let message = "couldn't find key z in ConfigMap ns/map";
        assert_eq!(built(&key("map", "z", None)).unwrap_err(), message);
        assert!(!built(&key("map", "z", Some(true))).unwrap().contains_key("V"));
    }

    #[test]
    fn a_variable_that_no_environment_can_hold_is_left_out() {
        let env = vec![variable("A=B", "1"), variable("OK", "a\0b"), variable("C", "2")];
        let container = Container { env: Some(env), ..Container::default() };
        let built = built(&container).unwrap();
        assert!(!built.contains_key("A=B") && !built.contains_key("OK") && built["C"] == "2");
    }

    #[test]
    fn service_links_have_the_docker_shape() {
        let port = |name: &str, port, protocol: &str| ServicePort {
            name: Some(name.into()),
            port,
            protocol: Some(protocol.into()),
            ..ServicePort::default()
        };
        let service = |namespace: &str, name: &str, ip: &str| {
            let mut service = Service::default();
            service.metadata.name = Some(name.into());
            service.metadata.namespace = Some(namespace.into());
            service.spec = Some(ServiceSpec {
                cluster_ip: Some(ip.into()),
                ports: Some(vec![port("web-ui", 80, "TCP"), port("dns", 53, "UDP")]),
                ..ServiceSpec::default()
            });
            service
        };
        let mut pod = Pod::default();
        pod.metadata.namespace = Some("ns".into());
        let services = [
            service("ns", "my-app", "10.96.0.7"),
            service("ns", "headless", "None"),
            service("other", "elsewhere", "10.96.0.8"),
            service("default", "kubernetes", "10.96.0.1"),
        ];
        let links: BTreeMap<_, _> = service_links(&pod, &services).into_iter().collect();
        for (name, value) in [
            ("MY_APP_SERVICE_HOST", "10.96.0.7"),
            ("MY_APP_SERVICE_PORT", "80"),
            ("MY_APP_SERVICE_PORT_WEB_UI", "80"),
            ("MY_APP_SERVICE_PORT_DNS", "53"),
            ("MY_APP_PORT", "tcp://10.96.0.7:80"),
            ("MY_APP_PORT_53_UDP", "udp://10.96.0.7:53"),
            ("MY_APP_PORT_53_UDP_PROTO", "udp"),
            ("MY_APP_PORT_80_TCP_ADDR", "10.96.0.7"),
            ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
        ] {
            assert_eq!(links.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!links.keys().any(|name| name.starts_with("HEADLESS")));
        assert!(!links.keys().any(|name| name.starts_with("ELSEWHERE")));
        pod.spec = Some(k8s_openapi::api::core::v1::PodSpec {
            enable_service_links: Some(false),
            ..Default::default()
        });
        let links = service_links(&pod, &services);
        assert!(links.iter().all(|(name, _)| name.starts_with("KUBERNETES_")));
    }
}
