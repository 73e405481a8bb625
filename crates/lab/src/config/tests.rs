use super::*;

fn options() -> Options {
    Options {
        nodes: 2,
        proxy_mode: None,
        service_cidr: "10.96.0.0/12".into(),
        cluster_cidr: "10.244.0.0/16".into(),
        fabric_cidr: "172.30.0.0/24".into(),
        node_port_range: "30000-32767".into(),
        api_port: 0,
    }
}

fn refused(change: impl FnOnce(&mut Options)) -> (String, String) {
    let mut options = options();
    change(&mut options);
    let error = Config::parse(&options).expect_err("the value is wrong");
    assert!(error.is_usage());
    (error.to_string(), error.hint().expect("every wrong argument has a hint"))
}

#[test]
fn the_defaults_place_server_nodes_and_client() {
    let config = Config::parse(&options()).unwrap();
    assert_eq!(config.api_address(), Ipv4Addr::new(172, 30, 0, 1));
    assert_eq!(config.node_address(1), Ipv4Addr::new(172, 30, 0, 11));
    assert_eq!(config.node_address(100), Ipv4Addr::new(172, 30, 0, 110));
    assert_eq!(config.client_address(), Ipv4Addr::new(172, 30, 0, 254));
    assert_eq!(config.node_names().collect::<Vec<_>>(), ["node-1", "node-2"]);
}

#[test]
fn wrong_values_say_flag_value_and_what_to_do() {
    let cases: &[(&str, &str, &str)] = &[
        ("--service-cidr", "10.96.0.0", "10.96.0.0/12"),
        ("--service-cidr", "10.96.0.1/12", "10.96.0.0/12"),
        ("--service-cidr", "10.0.0.0/8", "12 to 28"),
        ("--service-cidr", "10.0.0.0/30", "12 to 28"),
        ("--service-cidr", "127.0.0.0/16", "private range"),
        ("--service-cidr", "fd00::/112", "address/prefix length"),
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
            let value = (*value).to_owned();
            match *flag {
                "--service-cidr" => options.service_cidr = value,
                "--cluster-cidr" => options.cluster_cidr = value,
                "--fabric-cidr" => options.fabric_cidr = value,
                _ => options.node_port_range = value,
            }
        });
        assert!(message.contains(flag) && message.contains(value), "{message}");
        assert!(hint.contains(wanted), "{flag} {value}: {hint}");
    }
}

#[test]
fn more_nodes_than_the_cluster_cidr_holds_are_refused() {
    let (message, hint) = refused(|options| {
        options.cluster_cidr = "10.244.0.0/24".into();
    });
    assert!(message.contains("room for 1 nodes"), "{message}");
    assert!(hint.contains("--nodes 1"), "{hint}");
    let (_, hint) = refused(|options| options.nodes = 101);
    assert!(hint.contains("1 to 100"), "{hint}");
}

#[test]
fn ranges_that_overlap_each_other_are_refused() {
    let (message, _) = refused(|options| options.cluster_cidr = "10.96.0.0/16".into());
    assert!(message.contains("overlaps --service-cidr 10.96.0.0/12"), "{message}");
    let (message, _) = refused(|options| options.fabric_cidr = "10.244.7.0/24".into());
    assert!(message.contains("overlaps --cluster-cidr 10.244.0.0/16"), "{message}");
}

#[test]
fn a_route_of_the_host_within_or_around_a_range_is_refused() {
    let config = Config::parse(&options()).unwrap();
    let net = |text: &str| text.parse::<Ipv4Net>().unwrap();
    config.check_against(&[net("192.0.2.0/24"), net("172.31.0.0/16")]).unwrap();
    for (route, flag) in [
        ("172.30.0.128/25", "--fabric-cidr"),
        ("10.0.0.0/8", "--service-cidr"),
        ("10.244.3.0/24", "--cluster-cidr"),
    ] {
        let error = config.check_against(&[net(route)]).expect_err("it overlaps");
        assert!(error.hint().unwrap().contains(flag), "{error}");
    }
}
