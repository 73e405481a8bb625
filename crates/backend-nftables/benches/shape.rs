//! Loads 10,000 Services of five endpoints and then adds Services one by one, in two shapes: ours, and
//! the simpler one in which a verdict map leads from fronts to chains. Times of the kernel's answer to
//! a transaction, in a network namespace of its own; see docs/decisions/001-nftables-shape.md.

use std::io::Write;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use portolan_backend_nftables::{Options, Planner};
use portolan_model::{
    Conditions, Config, Endpoint, EndpointPort, EndpointSlice, Event, Family, Hints, LocalDetector,
    MasqueradeAll, Model, NamespacedName, Protocol, Service, ServicePort, SessionAffinity,
    TrafficPolicy,
};
use portolan_netlink::nft::{
    BaseChain, Batch, Chain, ChainKind, ChainRef, Data, DataType, Element, Expr, Field, Hook, Op,
    Policy, Reg, Rule, Set, Socket, Table, TableRef, Verdict, priority,
};

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 5;
const ADDITIONS: u32 = 100;

fn cluster_ip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a60_0100 + number)
}

fn endpoint(number: u32, slot: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a80_0000 + number * 8 + slot)
}

/// What a shape is asked for.
trait Shape {
    fn full(&mut self) -> Vec<Batch>;
    fn one_more(&mut self, number: u32) -> Vec<Batch>;
}

struct Ours {
    model: Model,
    planner: Planner,
    max_bytes: usize,
}

impl Ours {
    fn add(&mut self, number: u32) {
        let port = |number| NonZeroU16::new(number).expect("a literal");
        let name = NamespacedName::new("default", format!("service-{number}"));
        self.model.apply(Event::Service(Service {
            name: name.clone(),
            cluster_ips: vec![cluster_ip(number).into()],
            ports: vec![ServicePort {
                name: "".into(),
                protocol: Protocol::Tcp,
                port: port(80),
                node_port: None,
            }],
            session_affinity: SessionAffinity::None,
            external_traffic_policy: TrafficPolicy::Cluster,
            internal_traffic_policy: TrafficPolicy::Cluster,
            external_ips: Vec::new(),
            load_balancer_ingress: Vec::new(),
            load_balancer_source_ranges: Vec::new(),
            health_check_node_port: None,
        }));
        let endpoint = |slot| Endpoint {
            address: endpoint(number, slot).into(),
            conditions: Conditions::default(),
            node_name: None,
            hints: Hints::default(),
        };
        self.model.apply(Event::EndpointSlice(EndpointSlice {
            service: name.name.clone(),
            name,
            ports: vec![EndpointPort {
                name: "".into(),
                protocol: Protocol::Tcp,
                port: port(8080),
            }],
            endpoints: (0..ENDPOINTS).map(endpoint).collect(),
        }));
    }
}

impl Shape for Ours {
    fn full(&mut self) -> Vec<Batch> {
        (0..SERVICES).for_each(|number| self.add(number));
        self.model.flush();
        let plan = self.planner.full(self.model.table());
        self.planner.carried_out(&plan);
        plan.pack(self.max_bytes)
    }

    fn one_more(&mut self, number: u32) -> Vec<Batch> {
        self.add(number);
        let delta = self.model.flush();
        self.planner.delta(self.model.table(), &delta).pack(self.max_bytes)
    }
}

/// Front to chain by a verdict map; front and slot to endpoint.
struct VerdictMap {
    table: TableRef,
    services: Arc<Set>,
    endpoints: Arc<Set>,
}

impl VerdictMap {
    fn new() -> Self {
        use DataType::{InetProto, InetService, Ipv4Addr, Mark};
        let table = TableRef::new(portolan_netlink::nft::Family::Ip, "verdict-map");
        let front = [Ipv4Addr, InetProto, InetService];
        let services = Set::verdict_map(table.clone(), "services", front);
        let slot = [Ipv4Addr, InetProto, InetService, Mark];
        let endpoints = Set::map(table.clone(), "endpoints", slot, [Ipv4Addr, InetService]);
        Self { table, services: Arc::new(services), endpoints: Arc::new(endpoints) }
    }

    fn elements(&self, numbers: impl Iterator<Item = u32> + Clone) -> [Op; 2] {
        let front = |number| [Field::Ipv4(cluster_ip(number)), Field::Proto(6), Field::Port(80)];
        let way = |number| {
            let to = Verdict::Goto(format!("lb-{ENDPOINTS}").into());
            Element::verdict(Data::concat(&front(number)), to)
        };
        let slot = |number, slot| {
            let [ip, protocol, port] = front(number);
            let to = [Field::Ipv4(endpoint(number, slot)), Field::Port(8080)];
            Element::map(Data::concat(&[ip, protocol, port, Field::Mark(slot)]), Data::concat(&to))
        };
        let slots = |number| (0..ENDPOINTS).map(move |index| slot(number, index));
        [
            Op::AddElements(self.endpoints.clone(), numbers.clone().flat_map(slots).collect()),
            Op::AddElements(self.services.clone(), numbers.map(way).collect()),
        ]
    }
}

impl Shape for VerdictMap {
    fn full(&mut self) -> Vec<Batch> {
        use portolan_netlink::nft::Family::Ip;
        let chain = |name: String, base| {
            let table = self.table.clone();
            Chain { table, name: name.into(), base, comment: None }
        };
        let hook = |hook| {
            let (kind, policy) = (ChainKind::Nat, Policy::Accept);
            Some(BaseChain { kind, hook, priority: priority::DSTNAT, policy })
        };
        let front = [Expr::daddr(Ip, Reg::R0), Expr::l4proto(Reg::at(1)), Expr::dport(Reg::at(2))];
        let mut pick = front.to_vec();
        pick.extend([
            Expr::random(ENDPOINTS, Reg::at(3)),
            Expr::lookup("endpoints", Reg::R0, Reg::at(4)),
            Expr::dnat(Ip, Reg::at(4), Some(Reg::at(5))),
        ]);
        let look = [&front[..], &[Expr::vmap("services", Reg::R0)]].concat();
        let rule = |chain: String, exprs: &[Expr]| {
            let id = ChainRef { table: self.table.clone(), name: chain.into() };
            Op::AddRule(Rule::new(&id, exprs.to_vec()))
        };
        let mut ops = vec![
            Op::AddTable(Table { id: self.table.clone(), comment: None }),
            Op::AddSet(self.services.clone()),
            Op::AddSet(self.endpoints.clone()),
            Op::AddChain(chain(format!("lb-{ENDPOINTS}"), None)),
            Op::AddChain(chain("prerouting".into(), hook(Hook::Prerouting))),
            Op::AddChain(chain("output".into(), hook(Hook::Output))),
            rule(format!("lb-{ENDPOINTS}"), &pick),
            rule("prerouting".into(), &look),
            rule("output".into(), &look),
        ];
        ops.extend(self.elements(0..SERVICES));
        vec![Batch::from(ops)]
    }

    fn one_more(&mut self, number: u32) -> Vec<Batch> {
        vec![Batch::from(self.elements(number..=number).to_vec())]
    }
}

fn measure(name: &str, shape: &mut dyn Shape) -> std::io::Result<()> {
    let mut socket = Socket::open().map_err(std::io::Error::other)?;
    let mut commit = |batches: &[Batch]| {
        let began = Instant::now();
        batches.iter().try_for_each(|batch| socket.commit(batch)).map_err(std::io::Error::other)?;
        Ok::<_, std::io::Error>(began.elapsed())
    };
    let full = commit(&shape.full())?;
    let mut additions = Vec::new();
    for number in SERVICES..SERVICES + ADDITIONS {
        additions.push(commit(&shape.one_more(number))?);
    }
    additions.sort();
    let median = additions[additions.len() / 2];
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let worst = additions.last().copied().unwrap_or_default();
    let (full, median, worst) = (ms(full), ms(median), ms(worst));
    writeln!(
        std::io::stdout(),
        "{name}: full {full:.0} ms, one more {median:.2} ms (worst {worst:.2} ms)"
    )
}

fn main() -> std::io::Result<()> {
    for round in 0..3 {
        for shape in ["sets", "verdict map"] {
            let measured = std::thread::spawn(move || {
                unshare(CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from)?;
                let config = Config {
                    node_name: "node-1".into(),
                    masquerade_all: MasqueradeAll::OffClusterOnly,
                    local_detector: LocalDetector::None,
                    ..Config::default()
                };
                let max_bytes = Socket::open().map_err(std::io::Error::other)?.max_batch_bytes();
                let mut ours = Ours {
                    model: Model::new(Family::Ipv4, config),
                    planner: Planner::new(Family::Ipv4, Options::default()),
                    max_bytes,
                };
                let mut other = VerdictMap::new();
                let chosen: &mut dyn Shape = if shape == "sets" { &mut ours } else { &mut other };
                measure(&format!("round {round}, {shape}"), chosen)
            });
            measured.join().map_err(|_| std::io::Error::other("the measurement panicked"))??;
        }
    }
    Ok(())
}
