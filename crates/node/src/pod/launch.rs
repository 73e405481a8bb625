//! From a container of a Pod to what the pod's first process starts.
//!
//! The image rule (DESIGN, the lab): there are no images. A container with `command` or `args`
//! runs that from the host's files; one without runs the built-in server on its ports.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SecurityContext, Service};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::expand::expand;
use crate::runtime::log_path;
use crate::shim::caps;
use crate::shim::protocol::{ContainerSpec, MountKind, MountSpec, ProcessSpec, RootSpec, UserSpec};

const PATH: &str = "/run/portolan/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// As kubelet's containerLogMaxSize.
const LOG_LIMIT: u64 = 10 << 20;

/// Why a container cannot be started, by the reason that its waiting state shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// CreateContainerConfigError: the spec, or what it refers to, does not allow it.
    Config(String),
    /// CreateContainerError: this node cannot do it.
    Create(String),
}

/// The node's side of a container.
pub(crate) struct Place<'a> {
    pub(crate) directory: &'a Path,
    pub(crate) portolan: &'a Path,
    pub(crate) hidden: &'a [PathBuf],
    pub(crate) node: &'a str,
    pub(crate) ip: IpAddr,
    pub(crate) hostname: &'a str,
    pub(crate) ids: &'a Ids,
}

/// Which user and group ids the lab's user namespace has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ids {
    users: Vec<(u32, u32)>,
    groups: Vec<(u32, u32)>,
}

impl Ids {
    /// Those of this process's user namespace.
    pub(crate) fn read() -> Ids {
        let read = |path| parse_map(&std::fs::read_to_string(path).unwrap_or_default());
        Ids { users: read("/proc/self/uid_map"), groups: read("/proc/self/gid_map") }
    }

    /// Whether files can belong to root only, as in the lab of an ordinary user.
    fn is_one_user(&self) -> bool {
        matches!(self.users.as_slice(), [(_, 1)])
    }

    fn has(ranges: &[(u32, u32)], id: u32) -> bool {
        ranges.iter().any(|(first, count)| id >= *first && id - first < *count)
    }
}

fn parse_map(text: &str) -> Vec<(u32, u32)> {
    let range = |line: &str| {
        let mut numbers = line.split_whitespace().map(str::parse);
        let first = numbers.next()?.ok()?;
        let count = numbers.nth(1)?.ok()?;
        Some((first, count))
    };
    text.lines().filter_map(range).collect()
}

/// What a container runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Program {
    /// A command of the spec.
    Command(Vec<String>),
    /// The built-in server.
    BuiltIn {
        /// TCP ports.
        tcp: Vec<u16>,
        /// UDP ports.
        udp: Vec<u16>,
        /// Who says which ports.
        by: PortsBy,
    },
}

/// Who says which ports the built-in server listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PortsBy {
    /// The container declares them.
    Container,
    /// The Services that select the pod, also those that come later.
    Services,
}

/// Where a container's built-in server finds its ports.
pub(crate) fn ports_directory(directory: &Path, container: &str) -> PathBuf {
    directory.join("containers").join(container).join("serve")
}

/// The same directory in the container.
const PORTS_FROM: &str = "/run/portolan/serve";

/// Writes the ports for a built-in server to find; a server that runs hears of it.
pub(crate) fn write_ports(
    directory: &Path,
    container: &str,
    tcp: &[u16],
    udp: &[u16],
) -> std::io::Result<()> {
    let directory = ports_directory(directory, container);
    std::fs::create_dir_all(&directory)?;
    let line = |protocol: &str, port: &u16| format!("{protocol} {port}\n");
    let lines = tcp.iter().map(|port| line("tcp", port));
    let text: String = lines.chain(udp.iter().map(|port| line("udp", port))).collect();
    let (file, fresh) = (directory.join("ports"), directory.join("ports.new"));
    if std::fs::read_to_string(&file).is_ok_and(|old| old == text) {
        return Ok(());
    }
    std::fs::write(&fresh, text)?;
    std::fs::rename(fresh, file)
}

/// What a container runs, by the image rule.
pub(crate) fn program<'a>(
    pod: &Pod,
    container: &Container,
    env: &[(String, String)],
    services: impl IntoIterator<Item = &'a Service>,
) -> Program {
    let command = container.command.as_deref().unwrap_or_default();
    let args = container.args.as_deref().unwrap_or_default();
    if !command.is_empty() || !args.is_empty() {
        let lookup = |name: &str| {
            env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
        };
        return Program::Command(
            command.iter().chain(args).map(|word| expand(word, lookup)).collect(),
        );
    }
    let (mut tcp, mut udp) = (Vec::new(), Vec::new());
    let mut add = |protocol: Option<&str>, port: i32| {
        let Ok(port) = u16::try_from(port) else { return };
        let list = match protocol.unwrap_or("TCP") {
            "UDP" => &mut udp,
            "TCP" => &mut tcp,
            _ => return,
        };
        if port > 0 && !list.contains(&port) {
            list.push(port);
        }
    };
    let declared = container.ports.as_deref().unwrap_or_default();
    for port in declared {
        add(port.protocol.as_deref(), port.container_port);
    }
    let by = if declared.is_empty() { PortsBy::Services } else { PortsBy::Container };
    if by == PortsBy::Services {
        add(None, 80);
        for service in services.into_iter().filter(|service| selects(service, pod)) {
            for port in service.spec.iter().flat_map(|spec| spec.ports.iter().flatten()) {
                let target = match &port.target_port {
                    Some(IntOrString::Int(number)) => *number,
                    Some(IntOrString::String(_)) => continue,
                    None => port.port,
                };
                add(port.protocol.as_deref(), target);
            }
        }
    }
    Program::BuiltIn { tcp, udp, by }
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let labels = pod.metadata.labels.as_ref();
    service.metadata.namespace == pod.metadata.namespace
        && selector.is_some_and(|selector| {
            !selector.is_empty()
                && selector
                    .iter()
                    .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
        })
}

impl Program {
    fn argv(&self, pod: &Pod, place: &Place<'_>) -> Vec<String> {
        let (tcp, udp, by) = match self {
            Program::Command(argv) => return argv.clone(),
            Program::BuiltIn { tcp, udp, by } => (tcp, udp, *by),
        };
        let mut argv: Vec<String> =
            ["/run/portolan/bin/portolan", "internal", "serve"].map(str::to_owned).into();
        for (flag, ports) in [("--tcp", tcp), ("--udp", udp)] {
            argv.extend(ports.iter().flat_map(|port| [flag.to_owned(), port.to_string()]));
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let rest = [
            ("--pod", format!("{namespace}/{name}")),
            ("--node", place.node.to_owned()),
            ("--ip", place.ip.to_string()),
        ];
        if by == PortsBy::Services {
            argv.extend(["--ports-from", PORTS_FROM].map(str::to_owned));
        }
        argv.extend(rest.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
        argv
    }
}

/// The number and identity of the instance to start.
pub(crate) struct Start<'a> {
    pub(crate) attempt: u32,
    pub(crate) id: &'a str,
}

/// Puts a container's specification together.
pub(crate) fn specification(
    pod: &Pod,
    container: &Container,
    place: &Place<'_>,
    start: &Start<'_>,
    program: &Program,
    env: Vec<(String, String)>,
    mounts: Vec<MountSpec>,
) -> Result<ContainerSpec, Refusal> {
    let none = SecurityContext::default();
    let context = container.security_context.as_ref().unwrap_or(&none);
    let spec = pod.spec.as_ref();
    let no_pod_context = PodSecurityContext::default();
    let pod_context =
        spec.and_then(|spec| spec.security_context.as_ref()).unwrap_or(&no_pod_context);
    let user = user(pod, container, context, pod_context, place.ids)?;
    let privileged = context.privileged.unwrap_or(false);
    let capabilities = if privileged {
        caps::privileged()
    } else {
        let lists = context.capabilities.as_ref();
        let add = lists.iter().flat_map(|lists| lists.add.iter().flatten());
        let drop = lists.iter().flat_map(|lists| lists.drop.iter().flatten());
        caps::choose(add.map(String::as_str), drop.map(String::as_str)).map_err(Refusal::Create)?
    };
    let tty = container.tty.unwrap_or(false);
    let mut all = mounts;
    let managed = |name: &str, target: &str| MountSpec {
        source: place.directory.join("etc").join(name),
        sub_path: None,
        target: target.into(),
        read_only: false,
        kind: MountKind::Managed,
    };
    let termination = container.termination_message_path.as_deref();
    let termination = Path::new("/").join(termination.unwrap_or("/dev/termination-log"));
    let files = [
        managed("hosts", "/etc/hosts"),
        managed("resolv.conf", "/etc/resolv.conf"),
        managed("hostname", "/etc/hostname"),
        MountSpec {
            source: termination_path(place.directory, &container.name, start.attempt),
            sub_path: None,
            target: termination,
            read_only: false,
            kind: MountKind::Managed,
        },
    ];
    for file in files {
        // A volume of the Pod in the same place wins.
        if !all.iter().any(|mount| mount.target == file.target) {
            all.push(file);
        }
    }
    if matches!(program, Program::BuiltIn { by: PortsBy::Services, .. }) {
        all.push(MountSpec {
            source: ports_directory(place.directory, &container.name),
            sub_path: None,
            target: PORTS_FROM.into(),
            read_only: true,
            kind: MountKind::Volume,
        });
    }
    let cwd = container.working_dir.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    Ok(ContainerSpec {
        name: container.name.clone(),
        attempt: start.attempt,
        id: start.id.to_owned(),
        tty,
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        log: log_path(place.directory, &container.name, start.attempt),
        log_limit: LOG_LIMIT,
        share_pid: spec.and_then(|spec| spec.share_process_namespace).unwrap_or(false),
        root: RootSpec {
            staging: place.directory.join("root"),
            read_only: context.read_only_root_filesystem.unwrap_or(false),
            privileged,
            portolan: place.portolan.to_owned(),
            hidden: place.hidden.to_vec(),
            mounts: all,
        },
        process: ProcessSpec {
            argv: program.argv(pod, place),
            env: with_defaults(env, place.hostname, user.uid, tty, place.ids),
            cwd: Path::new("/").join(cwd),
            user,
            capabilities,
            new_privileges: privileged,
        },
    })
}

/// Where a container instance writes its last words.
pub(crate) fn termination_path(directory: &Path, container: &str, attempt: u32) -> PathBuf {
    directory.join("containers").join(container).join(format!("{attempt}.termination"))
}

/// What an image would bring, unless the Pod says otherwise.
fn with_defaults(
    env: Vec<(String, String)>,
    hostname: &str,
    uid: u32,
    tty: bool,
    ids: &Ids,
) -> Vec<(String, String)> {
    let home = if uid == 0 { "/root" } else { "/" };
    let mut all = vec![("PATH", PATH), ("HOSTNAME", hostname), ("HOME", home)];
    if tty {
        all.push(("TERM", "xterm"));
    }
    if ids.is_one_user() {
        // Else root's tar, which `kubectl cp` runs, fails on every file of a user that is not there.
        all.push(("TAR_OPTIONS", "--no-same-owner"));
    }
    let own = |name: &str| env.iter().any(|(known, _)| known == name);
    let defaults = all.into_iter().filter(|(name, _)| !own(name));
    let defaults: Vec<_> =
        defaults.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    defaults.into_iter().chain(env).collect()
}

fn user(
    pod: &Pod,
    container: &Container,
    context: &SecurityContext,
    pod_context: &PodSecurityContext,
    ids: &Ids,
) -> Result<UserSpec, Refusal> {
    let id = |value: Option<i64>| value.map(|value| u32::try_from(value).unwrap_or(u32::MAX));
    let uid = id(context.run_as_user.or(pod_context.run_as_user)).unwrap_or(0);
    let gid = id(context.run_as_group.or(pod_context.run_as_group)).unwrap_or(0);
    let supplemental = pod_context.supplemental_groups.iter().flatten().map(|id| Some(*id));
    let groups: Vec<u32> = supplemental.chain([pod_context.fs_group]).filter_map(id).collect();
    if context.run_as_non_root.or(pod_context.run_as_non_root).unwrap_or(false) && uid == 0 {
        let meta = &pod.metadata;
        return Err(Refusal::Config(format!(
            "container has runAsNonRoot and image will run as root (pod: \"{}_{}({})\", container: {})",
            meta.name.as_deref().unwrap_or_default(),
            meta.namespace.as_deref().unwrap_or_default(),
            meta.uid.as_deref().unwrap_or_default(),
            container.name
        )));
    }
    let missing = |what: &str, id: u32| {
        Err(Refusal::Create(format!(
            "{what} {id} does not exist in the lab's user namespace, which maps one user only; \
             hint: run the lab as root, or leave {what} out"
        )))
    };
    if !Ids::has(&ids.users, uid) {
        return missing("runAsUser", uid);
    }
    for group in std::iter::once(&gid).chain(&groups) {
        if !Ids::has(&ids.groups, *group) {
            return missing("group", *group);
        }
    }
    Ok(UserSpec { uid, gid, groups })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ContainerPort, ServicePort, ServiceSpec};

    use super::*;

    fn pod() -> Pod {
        let mut pod = Pod::default();
        pod.metadata.namespace = Some("default".into());
        pod.metadata.labels = Some([("app".to_owned(), "nginx".to_owned())].into());
        pod
    }

    fn service(app: &str, target: IntOrString, protocol: &str) -> Service {
        let mut service = Service::default();
        service.metadata.namespace = Some("default".into());
        service.spec = Some(ServiceSpec {
            selector: Some([("app".to_owned(), app.to_owned())].into()),
            ports: Some(vec![ServicePort {
                port: 80,
                target_port: Some(target),
                protocol: Some(protocol.into()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        });
        service
    }

    #[test]
    fn a_command_runs_with_its_references_expanded() {
        let container = Container {
            command: Some(vec!["sh".into(), "-c".into()]),
            args: Some(vec!["echo $(A)".into()]),
            ..Container::default()
        };
        let env = [("A".to_owned(), "1".to_owned())];
        let expected = Program::Command(vec!["sh".into(), "-c".into(), "echo 1".into()]);
        assert_eq!(program(&pod(), &container, &env, []), expected);
    }

    #[test]
    fn the_built_in_server_listens_on_declared_ports() {
        let port = |container_port, protocol: &str| ContainerPort {
            container_port,
            protocol: Some(protocol.into()),
            ..ContainerPort::default()
        };
        let container = Container {
            ports: Some(vec![port(8080, "TCP"), port(53, "UDP"), port(8080, "TCP")]),
            ..Container::default()
        };
        let services = [service("nginx", IntOrString::Int(9000), "TCP")];
        let expected = Program::BuiltIn { tcp: vec![8080], udp: vec![53], by: PortsBy::Container };
        assert_eq!(program(&pod(), &container, &[], &services), expected);
    }

    #[test]
    fn without_declared_ports_it_listens_on_the_targets_of_its_services_and_on_80() {
        let services = [
            service("nginx", IntOrString::Int(8080), "TCP"),
            service("nginx", IntOrString::Int(5353), "UDP"),
            service("nginx", IntOrString::String("http".into()), "TCP"),
            service("other", IntOrString::Int(7), "TCP"),
        ];
        let expected =
            Program::BuiltIn { tcp: vec![80, 8080], udp: vec![5353], by: PortsBy::Services };
        assert_eq!(program(&pod(), &Container::default(), &[], &services), expected);
    }

    #[test]
    fn a_user_that_is_not_mapped_is_refused_and_said() {
        let one =
            Ids { users: parse_map("         0       1000          1\n"), groups: vec![(0, 1)] };
        let all = Ids { users: parse_map("0 0 4294967295"), groups: vec![(0, u32::MAX)] };
        let context = SecurityContext { run_as_user: Some(1000), ..SecurityContext::default() };
        let found = |context: &SecurityContext, ids| {
            let none = PodSecurityContext::default();
            user(&pod(), &Container::default(), context, &none, ids)
        };
        assert!(matches!(found(&context, &one), Err(Refusal::Create(_))));
        assert_eq!(found(&context, &all).unwrap().uid, 1000);
        assert_eq!(found(&SecurityContext::default(), &one).unwrap().uid, 0);
        let root = SecurityContext { run_as_non_root: Some(true), ..SecurityContext::default() };
        assert!(matches!(found(&root, &all), Err(Refusal::Config(_))));
    }

    #[test]
    fn defaults_give_way_to_the_pods_own_variables() {
        let env = vec![("PATH".to_owned(), "/x".to_owned())];
        let all = with_defaults(env, "web", 0, false, &Ids::default());
        let paths: Vec<_> = all.iter().filter(|(name, _)| name == "PATH").collect();
        assert_eq!(paths, [&("PATH".to_owned(), "/x".to_owned())]);
        assert!(all.contains(&("HOSTNAME".to_owned(), "web".to_owned())));
        assert!(all.iter().all(|(name, _)| name != "TAR_OPTIONS"));
    }

    #[test]
    fn where_files_are_roots_alone_tar_is_told_so() {
        let one = Ids { users: vec![(0, 1)], groups: vec![(0, 1)] };
        let all = with_defaults(Vec::new(), "web", 0, false, &one);
        assert!(all.contains(&("TAR_OPTIONS".to_owned(), "--no-same-owner".to_owned())));
    }
}
