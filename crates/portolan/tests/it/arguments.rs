//! Wrong arguments and environments: each says what, where, and what to do about it.

use std::net::TcpListener;
use std::process::Command;

use crate::harness::{Lab, User, portolan, text};

fn refused(command: &mut Command, code: i32, wanted: &[&str]) {
    let output = command.output().expect("portolan runs");
    let said = text(&output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in wanted.iter().chain(&["error:", "hint:"]) {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

#[test]
fn wrong_arguments_end_with_code_2_and_a_hint() {
    let lab = Lab::new(User::Ordinary);
    let cases: &[(&[&str], &[&str])] = &[
        (&["up", "--nodes", "0"], &["--nodes", "1 to 100"]),
        (&["up", "--nodes", "101"], &["--nodes", "1 to 100"]),
        (&["up", "--nodes", "many"], &["--nodes", "many"]),
        (&["up", "--api-port", "65536"], &["--api-port", "65536"]),
        (&["up", "--service-cidr", "10.96.0.0/8"], &["--service-cidr", "10.96.0.0/8"]),
        (&["up", "--service-cidr", "10.96.0.0"], &["10.96.0.0/12"]),
        (&["up", "--service-cidr", "10.96.0.0/16,10.97.0.0/16"], &["more than one IPv4"]),
        (
            &["up", "--service-cidr", "10.96.0.0/16", "--cluster-cidr", "fd01::/48"],
            &["--service-cidr", "--cluster-cidr fd01::/48", "same families"],
        ),
        (&["up", "--cluster-cidr", "10.100.0.0/16"], &["overlaps", "--service-cidr"]),
        (&["up", "--fabric-cidr", "10.244.0.0/24"], &["overlaps", "--cluster-cidr"]),
        (&["up", "--node-port-range", "9-1"], &["--node-port-range", "30000-32767"]),
        (&["up", "--proxy-mode", "carrier-pigeon"], &["--proxy-mode", "nftables"]),
        (&["up", "--no-such-flag"], &["--no-such-flag"]),
        (&["shell", "--node", "a", "--client"], &["--node", "--client"]),
        (&["status", "-o", "yaml"], &["yaml", "json"]),
    ];
    for (arguments, wanted) in cases {
        refused(&mut lab.command(arguments), 2, wanted);
    }
    assert!(!lab.data_dir().exists(), "a refused command made the data directory");
    refused(&mut portolan(User::Ordinary, ["nonsense"]), 2, &["nonsense"]);
}

/// Before anything is asked of a server or of the kernel.
#[test]
fn a_mode_that_cannot_be_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let kubeconfig = directory.path().join("kubeconfig");
    let text = "apiVersion: v1\nkind: Config\n\
                clusters: [{name: a, cluster: {server: 'http://127.0.0.1:1'}}]\n\
                users: [{name: a, user: {}}]\n\
                contexts: [{name: a, context: {cluster: a, user: a}}]\ncurrent-context: a\n";
    std::fs::write(&kubeconfig, text).expect("a file can be written");
    let proxy = |mode: &str| {
        let mode = format!("--proxy-mode={mode}");
        let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
        let mut command = portolan(User::Root, ["proxy", &mode, &kubeconfig]);
        command.env("PATH", directory.path());
        command
    };
    refused(&mut proxy("iptables"), 1, &["iptables-restore is not installed", "nftables"]);
    // On a machine that has IPVS it would go on, and look for its server in vain.
    if !std::path::Path::new("/proc/net/ip_vs").exists() {
        refused(&mut proxy("ipvs"), 1, &["this kernel has no IPVS", "nftables"]);
    }
}

#[test]
fn without_a_mode_it_is_iptables_and_without_iptables_it_is_nftables() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let file = directory.path().join("config.conf");
    let written = |path: Option<&std::path::Path>| {
        let write = format!("--write-config-to={}", file.display());
        let mut command = portolan(User::Root, ["proxy", &write]);
        if let Some(path) = path {
            command.env("PATH", path);
        }
        let output = command.output().expect("portolan runs");
        assert!(output.status.success(), "{}", text(&output));
        let configuration = std::fs::read_to_string(&file).expect("it was written");
        let mode = configuration.lines().find(|line| line.starts_with("mode: "));
        (mode.unwrap_or_default().to_owned(), text(&output))
    };
    assert_eq!(written(None).0, "mode: iptables");
    let (mode, said) = written(Some(directory.path()));
    assert_eq!(mode, "mode: nftables");
    for word in ["no mode is set", "iptables-restore is not installed", "Using nftables proxy"] {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

#[test]
fn a_taken_api_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("some port is free");
    let port = taken.local_addr().expect("it is bound").port().to_string();
    let lab = Lab::new(User::Ordinary);
    let mut command = lab.command(&["up", "--api-port", &port]);
    refused(&mut command, 1, &[&format!("127.0.0.1:{port}"), "--api-port 0"]);
}

#[test]
fn a_data_directory_that_cannot_be_made_is_named() {
    let mut command = portolan(User::Ordinary, ["up", "--data-dir", "/proc/portolan"]);
    let output = command.output().expect("portolan runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("/proc/portolan"), "{}", text(&output));
}

#[test]
fn without_a_lab_there_is_nothing_to_ask_or_stop() {
    let lab = Lab::new(User::Ordinary);
    for command in ["status", "down", "shell"] {
        refused(&mut lab.command(&[command]), 1, &["no lab is running", "portolan up"]);
    }
}

#[test]
fn without_a_home_a_data_directory_must_be_given() {
    let mut command = portolan(User::Ordinary, ["status"]);
    refused(command.env_remove("HOME"), 1, &["HOME", "--data-dir"]);
}

#[test]
fn a_range_that_the_host_routes_is_refused() {
    // The host always has at least one address of its own; its network is a route.
    let routes = Command::new("ip").args(["-4", "route", "show", "scope", "link"]).output();
    let routes = String::from_utf8(routes.expect("iproute2 is installed").stdout).expect("text");
    let network = routes.split_whitespace().find(|word| word.contains('/'));
    let Some(network) = network.filter(|network| network.ends_with("/24")) else {
        eprintln!("SKIP a_range_that_the_host_routes_is_refused: no /24 is routed here");
        return;
    };
    let lab = Lab::new(User::Ordinary);
    let mut command = lab.command(&["up", "--fabric-cidr", network]);
    refused(&mut command, 2, &["--fabric-cidr", network, "host's route"]);
}

#[test]
fn a_kernel_without_user_namespaces_is_told_apart() {
    if !User::Root.available("a_kernel_without_user_namespaces_is_told_apart") {
        return;
    }
    // In a user namespace whose limit is zero, making another is refused as where they are off.
    let lab = Lab::new(User::Root);
    let up = lab.command(&["up", "--api-port", "0"]);
    let mut words: Vec<_> = vec![up.get_program().to_owned()];
    words.extend(up.get_args().map(ToOwned::to_owned));
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set -all \
                  --inh-caps -all --no-new-privs --reuid 0 --ambient-caps -all -- \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]).args(words);
    let output = command.output().expect("util-linux is installed");
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("refuses to make the lab's namespaces"), "{said}");
    assert!(said.contains("hint:") && said.contains("user_namespaces"), "{said}");
}

#[test]
fn completions_and_manual_pages_cover_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let output = portolan(User::Ordinary, ["completions", shell]).output().expect("it runs");
        let script = text(&output);
        for command in ["up", "down", "status", "shell", "proxy"] {
            assert!(script.contains(command), "{shell}: {command}");
        }
        assert!(!script.contains("lab-init"), "{shell} completes what is hidden");
    }
    let temp = tempfile::tempdir().expect("a temporary directory can be made");
    let dir = temp.path().to_str().expect("a plain path");
    let output = portolan(User::Root, ["man", dir]).output().expect("it runs");
    assert!(output.status.success(), "{}", text(&output));
    for page in ["portolan.1", "portolan-up.1", "portolan-shell.1"] {
        assert!(temp.path().join(page).exists(), "{page}");
    }
}
