//! A sample of real packets: random Services in a real kernel, connections by chance from a pod, the node
//! and outside, and each gets what the walk says, in both families and by both backends.

use portolan_model::*;
use proptest::prelude::Rng as _;
use proptest::test_runner::TestRunner;

use crate::lab::{Lab, Namespace, Outcome};
use crate::objects::{NODE, STACKS, Stack, at, ip, service, slice};
use crate::traffic::{in_each_mode, programmed};

/// How many tables are tried by each backend, and how many connections on each.
const TABLES: usize = 4;
const CONNECTIONS: usize = 32;
const PODS: u8 = 3;

struct Dice(TestRunner);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.0.rng().next_u32()).expect("a number") % n
    }

    fn flip(&mut self) -> bool {
        self.below(2) == 1
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// Three Services, of which one may have no endpoint and one none on this node.
fn model(stack: &Stack, dice: &mut Dice) -> Model {
    let hold = [SourceRangesHold::AtLoadBalancerIps, SourceRangesHold::AtNodePortsToo];
    let hold = dice.one(&hold);
    let all = dice.one(&[MasqueradeAll::OffClusterOnly, MasqueradeAll::Always]);
    let mut model = stack.model_with(|config| {
        config.source_ranges_hold = hold;
        config.masquerade_all = all;
    });
    for number in 0..3u8 {
        let name = format!("service-{number}");
        let policies = [TrafficPolicy::Cluster, TrafficPolicy::Local];
        let node_port = dice.flip().then_some(30080 + u16::from(number));
        let mut made = service(&name, &stack.service(10 + number), node_port);
        made.external_traffic_policy = dice.one(&policies);
        made.internal_traffic_policy = dice.one(&policies);
        if dice.below(3) == 0 {
            let timeout = std::time::Duration::from_secs(10_800);
            made.session_affinity = SessionAffinity::ClientIp { timeout };
        }
        if dice.flip() {
            let balanced = ip(&stack.service(90 + number));
            let mode = IpMode::Vip;
            made.load_balancer_ingress = vec![LoadBalancerIngress { ip: balanced, mode }];
            let ranges = [stack.around_client, stack.around_node, stack.pods];
            let range = dice.one(&ranges).parse().expect("a range");
            made.load_balancer_source_ranges = dice.flip().then_some(range).into_iter().collect();
        }
        model.apply(Event::Service(made));
        let end = |pod| {
            // Those of another node are here as well, but do not send anything.
            let node = if pod == 1 { NODE } else { dice.one(&[NODE, "node-2"]) };
            dice.flip().then(|| (stack.pod(pod), node))
        };
        let ends: Vec<_> = (1..=PODS).filter_map(end).collect();
        let ends: Vec<_> = ends.iter().map(|(pod, node)| (pod.as_str(), *node)).collect();
        model.apply(slice(&name, &ends));
    }
    model.flush();
    model
}

/// A connection to be tried.
struct Trial {
    from: usize,
    to: String,
    packet: Packet,
}

fn trial(stack: &Stack, dice: &mut Dice) -> Trial {
    let number = u8::try_from(dice.below(3)).expect("below three");
    let (protocol, port) =
        dice.one(&[(Protocol::Tcp, 80), (Protocol::Tcp, 80), (Protocol::Udp, 53)]);
    let (destination, port) = match dice.below(4) {
        0 | 1 => (stack.service(10 + number), port),
        2 => (stack.service(90 + number), port),
        _ => (stack.node.to_owned(), 30080 + u16::from(number)),
    };
    let from = dice.below(3);
    let (source, arrival) = match from {
        0 => (stack.pod(1), Arrival::Interface("pod1".into())),
        1 => (stack.node.to_owned(), Arrival::SentHere),
        _ => (stack.client.to_owned(), Arrival::Interface("eth0".into())),
    };
    let transport = Some(Transport { protocol, port });
    let packet = Packet { source: ip(&source), destination: ip(&destination), transport, arrival };
    Trial { from, to: at(&destination, port), packet }
}

/// Whether the walk's verdict is what the client got; nothing where it says that others decide.
fn is_as_said(stack: &Stack, verdict: &Verdict, trial: &Trial, got: &Outcome) -> Option<bool> {
    let is_udp = trial.packet.transport.is_some_and(|t| t.protocol == Protocol::Udp);
    Some(match verdict {
        Verdict::Pass => return None,
        // A process of this node is told at once that its datagram was dropped.
        Verdict::Drop if is_udp && trial.from == 1 => *got == Outcome::Refused,
        Verdict::Drop => *got == Outcome::Silence,
        // Of ICMP errors the kernel sends a client only so many.
        Verdict::Reject if is_udp => matches!(got, Outcome::Refused | Outcome::Silence),
        Verdict::Reject => *got == Outcome::Refused,
        Verdict::Forward(choices) => choices.iter().any(|choice| {
            let pod = (1..=PODS).find(|pod| ip(&stack.pod(*pod)) == choice.target.ip());
            let source = match choice.masquerade {
                Some(_) => ip(stack.node),
                None => trial.packet.source,
            };
            let pod = pod.expect("every endpoint is a pod");
            *got == crate::lab::answer(&format!("pod-{pod}"), &source.to_string())
        }),
    })
}

fn client<'a>(lab: &'a Lab, trial: &Trial) -> &'a Namespace {
    match trial.from {
        0 => &lab.pods[0],
        1 => &lab.node,
        _ => &lab.client,
    }
}

#[test]
fn packets_get_what_the_walk_says() {
    in_each_mode("packets_get_what_the_walk_says", PODS, "sample", |mode, lab| {
        let mut dice = Dice(TestRunner::deterministic());
        let profile = mode.profile();
        let mut kinds = [0; 3];
        for table in 0..TABLES {
            let stack = &STACKS[table % 2];
            let model = model(stack, &mut dice);
            let mut rules = programmed(mode, lab, &model);
            let trials: Vec<_> = (0..CONNECTIONS).map(|_| trial(stack, &mut dice)).collect();
            std::thread::scope(|scope| {
                let tries: Vec<_> = trials
                    .iter()
                    .map(|trial| {
                        let is_udp =
                            trial.packet.transport.is_some_and(|t| t.protocol == Protocol::Udp);
                        let client = client(lab, trial);
                        scope.spawn(move || match is_udp {
                            true => client.ask(&trial.to),
                            false => client.get(&trial.to),
                        })
                    })
                    .collect();
                for (trial, tried) in trials.iter().zip(tries) {
                    let got = tried.join().expect("a client does not panic");
                    let (verdict, reasons) = walk(model.table(), &profile, &trial.packet);
                    let Some(is_so) = is_as_said(stack, &verdict, trial, &got) else { continue };
                    assert!(is_so, "{got:?} of {:?}: {verdict:?} {reasons:?}", trial.packet);
                    kinds[match verdict {
                        Verdict::Forward(_) => 0,
                        Verdict::Reject => 1,
                        _ => 2,
                    }] += 1;
                }
            });
            rules.cleanup(lab);
        }
        println!("{mode:?}: {} sent on, {} refused, {} dropped", kinds[0], kinds[1], kinds[2]);
        assert!(kinds.iter().sum::<usize>() >= 100, "too few: {kinds:?}");
        assert!(kinds.iter().all(|kind| *kind > 0), "of a kind none: {kinds:?}");
    });
}
