//! The cases of tests/cases: each file is a cluster and questions about it. Responses are read with
//! hickory-proto, so that what we write is checked by somebody else's reader.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use hickory_proto::op::Message;
use hickory_proto::rr::{RData, Record};
use portolan_dns::answer::{
    Authority, Fallthrough, Limits, LoadBalance, Outcome, PodMode, Query, Shuffle, answer,
};
use portolan_dns::wire::Name;
use portolan_dns::zone::{
    Endpoint, EndpointSlice, Event, Index, Key, Kind, Options, Port, Protocol, Service, Snapshot,
};

/// A cluster to ask about.
pub(crate) struct Cluster {
    pub(crate) authority: Authority,
    pub(crate) snapshot: Snapshot,
}

/// The bytes of a question.
pub(crate) fn question(name: &str, qtype: u16) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    bytes.extend_from_slice(Name::parse(name).unwrap().wire());
    bytes.extend_from_slice(&qtype.to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    bytes
}

fn number(qtype: &str) -> u16 {
    match qtype {
        "A" => 1,
        "NS" => 2,
        "CNAME" => 5,
        "SOA" => 6,
        "PTR" => 12,
        "MX" => 15,
        "TXT" => 16,
        "AAAA" => 28,
        "SRV" => 33,
        "DS" => 43,
        "HTTPS" => 65,
        "IXFR" => 251,
        "AXFR" => 252,
        "ANY" => 255,
        other => panic!("no type {other}"),
    }
}

fn key(text: &str) -> Key {
    let (namespace, name) = text.split_once('/').unwrap();
    Key::new(namespace, name)
}

fn port(text: &str) -> Port {
    let mut parts = text.split('/');
    let name: Arc<str> = parts.next().unwrap().into();
    let protocol = match parts.next().unwrap() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => Protocol::Sctp,
    };
    Port { name, protocol, port: parts.next().unwrap().parse().unwrap() }
}

fn service(words: &[&str]) -> Service {
    let (mut ips, mut kind, mut ports) = (Vec::new(), None, Vec::new());
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "ip" => ips.extend(words.next().unwrap().parse::<IpAddr>()),
            "headless" => kind = Some(Kind::Headless),
            "nothing" => kind = Some(Kind::Nothing),
            "name" => {
                kind = Some(Kind::ExternalName(Name::parse(words.next().unwrap()).unwrap()));
            }
            "port" => ports.push(port(words.next().unwrap())),
            other => panic!("{other}"),
        }
    }
    Service { kind: kind.unwrap_or(Kind::ClusterIp(ips.into())), ports }
}

fn slice(words: &[&str]) -> EndpointSlice {
    let (mut of, mut ports, mut endpoints) = ("", Vec::new(), Vec::new());
    for pair in words.chunks(2) {
        match pair[0] {
            "of" => of = pair[1],
            "port" => ports.push(port(pair[1])),
            "at" => {
                let (rest, pod) = pair[1]
                    .split_once('/')
                    .map_or((pair[1], None), |(rest, pod)| (rest, Some(pod)));
                let (ip, name) =
                    rest.split_once('=').map_or((rest, None), |(ip, name)| (ip, Some(name)));
                endpoints.push(Endpoint {
                    addresses: vec![ip.parse().unwrap()],
                    hostname: name.map(Into::into),
                    pod: pod.map(Into::into),
                });
            }
            other => panic!("{other}"),
        }
    }
    EndpointSlice { service: of.into(), ports, endpoints }
}

/// Reads the settings and objects of a file; gives the rest.
pub(crate) fn cluster(text: &str) -> (Cluster, Vec<&str>) {
    let mut authority = Authority::new(Vec::new());
    let (mut events, mut rest) = (Vec::new(), Vec::new());
    let (mut options, mut is_loaded) = (Options::default(), true);
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let names = || words[1..].iter().map(|name| Name::parse(name).unwrap()).collect();
        match words.first().copied() {
            None => {}
            Some(word) if word.starts_with('#') => {}
            Some("zones") => authority.zones = names(),
            Some("local") => {
                authority.local_ips = words[1..].iter().map(|ip| ip.parse().unwrap()).collect();
            }
            Some("ttl") => authority.ttl = words[1].parse().unwrap(),
            Some("namespaces") => {
                authority.namespaces = words[1..].iter().map(|&name| name.to_owned()).collect();
            }
            Some("ignore") => authority.ignore_empty_service = true,
            Some("endpoint_pod_names") => options.endpoint_pod_names = true,
            Some("fallthrough") => authority.fallthrough = Fallthrough::Zones(names()),
            Some("unloaded") => is_loaded = false,
            Some("pods") => {
                authority.pods = match words[1] {
                    "insecure" => PodMode::Insecure,
                    "verified" => PodMode::Verified,
                    _ => PodMode::Disabled,
                };
            }
            Some("namespace") => {
                events.extend(words[1..].iter().map(|&name| Event::Namespace(name.into())));
            }
            Some("pod") => {
                let ips = words[2..].iter().map(|ip| ip.parse().unwrap()).collect();
                events.push(Event::Pod(key(words[1]), Some(ips)));
            }
            Some("service") => {
                events.push(Event::Service(key(words[1]), Some(service(&words[2..]))));
            }
            Some("slice") => {
                events.push(Event::EndpointSlice(key(words[1]), Some(slice(&words[2..]))));
            }
            Some(_) => rest.push(line),
        }
    }
    let mut index = Index::new(options);
    events.into_iter().for_each(|event| index.apply(event, 7));
    if is_loaded {
        index.set_loaded();
    }
    (Cluster { authority, snapshot: index.snapshot() }, rest)
}

/// A record as the files have it.
fn line(section: &str, record: &Record) -> String {
    let data = match &record.data {
        // Text that no two readers write alike.
        RData::TXT(txt) => {
            let parts: Vec<_> =
                txt.txt_data.iter().map(|part| String::from_utf8_lossy(part)).collect();
            parts.join(" ")
        }
        RData::HINFO(hinfo) => String::from_utf8_lossy(&hinfo.cpu).into_owned(),
        data => data.to_string(),
    };
    format!("{section} {} {} {} {data}", record.name, record.ttl, record.record_type())
}

fn ask(cluster: &Cluster, name: &str, qtype: &str) -> (String, Vec<String>) {
    let bytes = question(name, number(qtype));
    let query = Query::read(&bytes, Limits::Tcp).unwrap();
    let mut out = vec![1, 2, 3];
    let mut shuffle = Shuffle::new(LoadBalance::RoundRobin, 42);
    let code = match answer(&query, &cluster.snapshot, &cluster.authority, &mut shuffle, &mut out) {
        Outcome::NotOurs => return ("NOTOURS".into(), Vec::new()),
        Outcome::Follow(follow) => {
            let names = follow.aliases.iter().flat_map(|(owner, target)| [owner, target]);
            return ("FOLLOW".into(), names.map(ToString::to_string).collect());
        }
        Outcome::Written(code) => code,
    };
    let message = Message::from_vec(&out).unwrap_or_else(|e| panic!("{name} {qtype}: {e}"));
    assert_eq!(message.metadata.id, 0x1234);
    assert_eq!(message.queries[0].name().to_string(), Name::parse(name).unwrap().to_string());
    assert!(message.metadata.recursion_desired && !message.metadata.truncation);
    assert_eq!(u16::from(message.metadata.response_code), code, "{name} {qtype}");
    assert_eq!(message.metadata.authoritative, code != 5, "{name} {qtype}");
    let answers = message.answers.iter().map(|record| line("an", record));
    let additionals = message.additionals.iter().map(|record| line("ar", record));
    let mut lines: Vec<_> = answers.chain(additionals).collect();
    lines.sort();
    let kind = match code {
        0 if lines.is_empty() => "NODATA",
        0 => "ANSWER",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        5 => "REFUSED",
        _ => "OTHER",
    };
    if matches!(kind, "NODATA" | "NXDOMAIN" | "SERVFAIL") {
        // The zone as the question writes it, and its negative time to live.
        let soa = &message.authorities[0];
        let zone = soa.name.to_string();
        let ttl = cluster.authority.ttl;
        let expected =
            format!("ns {zone} {ttl} SOA ns.dns.{zone} hostmaster.{zone} 7 7200 1800 86400 {ttl}");
        assert_eq!(line("ns", soa), expected, "{name} {qtype}");
        assert!(format!("{name}.").ends_with(&zone), "{name} {qtype}: {zone}");
        assert_eq!(message.authorities.len(), 1);
    } else {
        assert!(message.authorities.is_empty(), "{name} {qtype}");
    }
    (kind.into(), lines)
}

/// Checks every question of a file; gives how many there were.
fn check(text: &str) -> usize {
    let (cluster, lines) = cluster(text);
    let mut count = 0;
    let mut lines = lines.into_iter().peekable();
    while let Some(line) = lines.next() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut expected = Vec::new();
        while let Some(record) = lines.next_if(|line| line.starts_with(' ')) {
            let name = Name::parse(words[2]).unwrap().to_string();
            expected
                .push(record.split_whitespace().collect::<Vec<_>>().join(" ").replace('@', &name));
        }
        expected.sort();
        let (names, expected) = match words[0] {
            "FOLLOW" => (&words[2..3], words[3..].iter().map(ToString::to_string).collect()),
            _ => (&words[2..], expected),
        };
        for name in names {
            for qtype in words[1].split(',') {
                let got = ask(&cluster, name, qtype);
                assert_eq!(got, (words[0].to_owned(), expected.clone()), "{name} {qtype}");
                count += 1;
            }
        }
    }
    count
}

#[test]
fn every_question_of_the_files_is_answered_as_they_say() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut count = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        eprintln!("{}", path.display());
        count += check(&text);
    }
    assert!(count > 300, "only {count} questions were asked");
}

#[test]
fn what_does_not_fit_is_cut_and_says_so() {
    let endpoints: Vec<String> = (0..200).map(|i| format!("at 10.1.0.{i}")).collect();
    let text = format!(
        "zones cluster.local\nnamespace ns\nservice ns/big headless\nslice ns/big-1 of big port http/tcp/80 {}",
        endpoints.join(" ")
    );
    let (cluster, _) = cluster(&text);
    for (qtype, opt, most, is_cut, full) in [
        (1, None, 512, true, 200),
        (1, Some(1232), 1232, true, 200),
        (1, Some(4096), 4096, false, 200),
        (33, Some(1232), 1232, true, 200),
        (1, Some(100), 512, true, 200),
    ] {
        let mut bytes = question("big.ns.svc.cluster.local", qtype);
        if let Some(size) = opt {
            bytes[11] = 1;
            bytes.extend_from_slice(&[0, 0, 41]);
            bytes.extend_from_slice(&u16::to_be_bytes(size));
            bytes.extend_from_slice(&[0, 0, 0x80, 0, 0, 0]);
        }
        let query = Query::read(&bytes, Limits::Udp { most: 4096 }).unwrap();
        let mut out = Vec::new();
        let mut shuffle = Shuffle::new(LoadBalance::RoundRobin, 1);
        answer(&query, &cluster.snapshot, &cluster.authority, &mut shuffle, &mut out);
        assert!(out.len() <= most && out.len() + 100 > most.min(full * 16), "{}", out.len());
        let message = Message::from_vec(&out).unwrap();
        assert_eq!(message.metadata.truncation, is_cut);
        assert_eq!(message.edns.is_some(), opt.is_some());
        assert!(message.edns.is_none_or(|edns| edns.flags().dnssec_ok));
        assert_eq!(message.answers.len() == full, !is_cut);
    }
}

#[test]
fn addresses_come_in_another_order_each_time() {
    let text = "zones cluster.local\nnamespace ns\nservice ns/s headless\n\
                slice ns/s-1 of s at 10.0.0.1 at 10.0.0.2 at 10.0.0.3";
    let (cluster, _) = cluster(text);
    let bytes = question("s.ns.svc.cluster.local", 1);
    let query = Query::read(&bytes, Limits::Tcp).unwrap();
    let mut shuffle = Shuffle::new(LoadBalance::RoundRobin, 7);
    let mut first = [0; 3];
    for _ in 0..3000 {
        let mut out = Vec::new();
        answer(&query, &cluster.snapshot, &cluster.authority, &mut shuffle, &mut out);
        first[usize::from(out[query.question().len() + 12 + 15]) - 1] += 1;
    }
    assert!(first.iter().all(|count| (800..1200).contains(count)), "{first:?}");
}
