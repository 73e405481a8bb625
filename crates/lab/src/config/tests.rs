use super::*;

fn options() -> Options {
    Options {
        nodes: 2,
        proxy_mode: None,
        service_cidr: None,
        cluster_cidr: None,
        fabric_cidr: None,
        node_port_range: "30000-32767".into(),
        api_port: 0,
    }
}

fn parse(options: &Options) -> Result<Config, LabError> {
    Config::parse(options, None, Ipv6::Present)
}

fn refused(change: impl FnOnce(&mut Options)) -> (String, String) {
    let mut options = options();
    change(&mut options);
    let error = parse(&options).expect_err("the value is wrong");
    assert!(error.is_usage());
    (error.to_string(), error.hint().expect("every wrong argument has a hint"))
}

/// A flag set to a value.
fn set(options: &mut Options, flag: &str, value: &str) {
    let value = value.to_owned();
    match flag {
        "--service-cidr" => options.service_cidr = Some(value),
        "--cluster-cidr" => options.cluster_cidr = Some(value),
        "--fabric-cidr" => options.fabric_cidr = Some(value),
        "--node-port-range" => options.node_port_range = value,
        other => panic!("{other}"),
    }
}

#[test]
fn the_defaults_place_server_nodes_and_client() {
    let config = parse(&options()).unwrap();
    assert_eq!(config.service_cidr.to_string(), "10.96.0.0/12,fd00:10:96::/112");
    assert_eq!(config.cluster_cidr.to_string(), "10.244.0.0/16,fd00:10:244::/48");
    assert_eq!(config.api_addresses().to_string(), "172.30.0.1,fd00:172:30::1");
    assert_eq!(config.node_addresses(1).to_string(), "172.30.0.11,fd00:172:30::11");
    assert_eq!(config.node_addresses(100).to_string(), "172.30.0.110,fd00:172:30::110");
    assert_eq!(config.client_addresses().to_string(), "172.30.0.254,fd00:172:30::254");
    assert_eq!(config.node_names().collect::<Vec<_>>(), ["node-1", "node-2"]);
}

#[test]
fn families_follow_what_is_given_and_their_order_decides_the_primary_one() {
    type Flags = &'static [(&'static str, &'static str)];
    // Flags given; then what Services, pods and fabric are.
    let cases: &[(Flags, [&str; 3])] = &[
        (
            &[("--service-cidr", "10.100.0.0/16")],
            ["10.100.0.0/16", "10.244.0.0/16", "172.30.0.0/24"],
        ),
        (&[("--cluster-cidr", "fd01::/48")], ["fd00:10:96::/112", "fd01::/48", "fd00:172:30::/64"]),
        (
            &[("--cluster-cidr", "fd01::/48,10.245.0.0/16")],
            [
                "fd00:10:96::/112,10.96.0.0/12",
                "fd01::/48,10.245.0.0/16",
                "fd00:172:30::/64,172.30.0.0/24",
            ],
        ),
        (
            &[("--service-cidr", "10.96.0.0/16, fd01::/112"), ("--fabric-cidr", "172.31.0.0/24")],
            [
                "10.96.0.0/16,fd01::/112",
                "10.244.0.0/16,fd00:10:244::/48",
                "172.31.0.0/24,fd00:172:30::/64",
            ],
        ),
        (
            &[("--fabric-cidr", "fd02::/64,172.31.0.0/24")],
            [
                "10.96.0.0/12,fd00:10:96::/112",
                "10.244.0.0/16,fd00:10:244::/48",
                "172.31.0.0/24,fd02::/64",
            ],
        ),
    ];
    for (flags, expected) in cases {
        let mut options = options();
        for (flag, value) in *flags {
            set(&mut options, flag, value);
        }
        let Config { service_cidr, cluster_cidr, fabric, .. } = parse(&options).unwrap();
        let found = [service_cidr, cluster_cidr, fabric].map(|nets| nets.to_string());
        assert_eq!(found, *expected, "{flags:?}");
    }
}

#[test]
fn a_kernel_without_ipv6_makes_the_defaults_of_one_family_and_refuses_others() {
    let config = Config::parse(&options(), None, Ipv6::Absent).unwrap();
    assert_eq!(config.service_cidr.to_string(), "10.96.0.0/12");
    assert_eq!(config.node_addresses(1).to_string(), "172.30.0.11");
    for flag in ["--service-cidr", "--cluster-cidr"] {
        let mut options = options();
        set(&mut options, flag, if flag == "--service-cidr" { "fd01::/112" } else { "fd01::/48" });
        let error = Config::parse(&options, None, Ipv6::Absent).expect_err("there is no IPv6");
        assert!(error.to_string().contains("no IPv6") && error.to_string().contains(flag));
        assert!(error.hint().unwrap().contains("ipv6.disable=1"));
    }
}

#[test]
fn wrong_values_say_flag_value_and_what_to_do() {
    let cases: &[(&str, &str, &str)] = &[
        ("--service-cidr", "10.96.0.0", "10.96.0.0/12"),
        ("--service-cidr", "10.96.0.1/12", "10.96.0.0/12"),
        ("--service-cidr", "10.0.0.0/8", "12 to 28"),
        ("--service-cidr", "10.0.0.0/30", "12 to 28"),
        ("--service-cidr", "fd00::/64", "108 to 124"),
        ("--service-cidr", "fd00::1/112", "write fd00::/112"),
        ("--service-cidr", "127.0.0.0/16", "private range"),
        ("--service-cidr", "::/112", "fd00::/8"),
        ("--service-cidr", "ff02::/112", "fd00::/8"),
        ("--service-cidr", "fe80::/112", "fd00::/8"),
        ("--service-cidr", "::ffff:10.0.0.0/112", "fd00::/8"),
        ("--service-cidr", "10.96.0.0/16,", "10.96.0.0/12,fd00:10:96::/112"),
        ("--service-cidr", "10.96.0.0/16,10.97.0.0/16", "primary family first"),
        ("--service-cidr", "10.96.0.0/16,fd00::/112,fd01::/112", "primary family first"),
        ("--cluster-cidr", "fd00::/65", "48 to 64"),
        ("--fabric-cidr", "fd00::/48", "64 to 112"),
        ("--cluster-cidr", "224.0.0.0/16", "private range"),
        ("--cluster-cidr", "10.244.0.0/25", "8 to 24"),
        ("--fabric-cidr", "nonsense", "address/prefix length"),
        ("--node-port-range", "30000", "30000-32767"),
        ("--node-port-range", "0-10", "30000-32767"),
        ("--node-port-range", "40000-30000", "30000-32767"),
        ("--node-port-range", "1-65535", "30000-32767"),
        ("--node-port-range", "a-b", "30000-32767"),
    ];
    for (flag, value, wanted) in cases {
        let (message, hint) = refused(|options| {
            set(options, flag, value);
        });
        assert!(message.contains(flag) && message.contains(value), "{message}");
        assert!(hint.contains(wanted), "{flag} {value}: {hint}");
    }
}

#[test]
fn families_that_do_not_go_together_are_refused() {
    for (services, pods) in [
        ("10.96.0.0/16", "fd01::/48"),
        ("10.96.0.0/16", "10.244.0.0/16,fd01::/48"),
        ("10.96.0.0/16,fd00::/112", "10.244.0.0/16"),
        ("10.96.0.0/16,fd00::/112", "fd01::/48,10.244.0.0/16"),
    ] {
        let (message, hint) = refused(|options| {
            set(options, "--service-cidr", services);
            set(options, "--cluster-cidr", pods);
        });
        assert!(message.contains(services) && message.contains(pods), "{message}");
        assert!(hint.contains("same families in the same order"), "{hint}");
    }
    let (message, hint) = refused(|options| {
        set(options, "--cluster-cidr", "10.244.0.0/16");
        set(options, "--fabric-cidr", "172.31.0.0/24,fd02::/64");
    });
    assert!(message.contains("--fabric-cidr") && message.contains("IPv6"), "{message}");
    assert!(hint.contains("--cluster-cidr"), "{hint}");
}

#[test]
fn more_nodes_than_the_cluster_cidr_holds_are_refused() {
    for (cidr, block) in [("10.244.0.0/24", "/24"), ("10.244.0.0/16,fd01::/64", "/64")] {
        let (message, hint) = refused(|options| set(options, "--cluster-cidr", cidr));
        assert!(message.contains(&format!("room for 1 nodes of a {block}")), "{message}");
        assert!(hint.contains("--nodes 1"), "{hint}");
    }
    let (_, hint) = refused(|options| options.nodes = 101);
    assert!(hint.contains("1 to 100"), "{hint}");
}

#[test]
fn ranges_that_overlap_each_other_are_refused() {
    for (flag, value, other) in [
        ("--cluster-cidr", "10.96.0.0/16", "--service-cidr 10.96.0.0/12"),
        ("--cluster-cidr", "10.244.0.0/16,fd00:10:96::/48", "--service-cidr fd00:10:96::/112"),
        ("--fabric-cidr", "10.244.7.0/24", "--cluster-cidr 10.244.0.0/16"),
        ("--fabric-cidr", "fd00:10:244:7::/64", "--cluster-cidr fd00:10:244::/48"),
    ] {
        let (message, _) = refused(|options| set(options, flag, value));
        assert!(message.contains(&format!("overlaps {other}")), "{message}");
    }
}

#[test]
fn a_route_of_the_host_within_or_around_a_range_is_refused() {
    let config = parse(&options()).unwrap();
    let net = |text: &str| text.parse::<IpNet>().unwrap();
    config.check_against(&["192.0.2.0/24", "172.31.0.0/16", "fd00::/64"].map(net)).unwrap();
    for (route, flag) in [
        ("172.30.0.128/25", "--fabric-cidr"),
        ("10.0.0.0/8", "--service-cidr"),
        ("10.244.3.0/24", "--cluster-cidr"),
        ("fd00:172::/32", "--fabric-cidr"),
        ("fd00:10:96::a/128", "--service-cidr"),
        ("fd00:10:244:1::/64", "--cluster-cidr"),
    ] {
        let error = config.check_against(&[net(route)]).expect_err("it overlaps");
        let hint = error.hint().unwrap();
        assert!(hint.contains(flag), "{error}");
        assert_eq!(hint.contains("ip -6 route"), route.contains(':'), "{hint}");
    }
}
