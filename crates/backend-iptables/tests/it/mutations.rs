//! Faults put into the rendered text are noticed: what the agreement of rules and walk is worth.

use proptest::collection::vec;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use portolan_backend_iptables::Planner;
use portolan_model::{ForwardingTable, Packet};

use crate::agreement::COUNTED;
use crate::agreement::{AT, expected, fates};
use crate::machine::Machine;
use crate::random::{PLACES, Place, USUAL, step};

/// Text that a line has to hold to be hit, and what becomes of the line.
struct Mutation(&'static [&'static str], Fault);

#[derive(Clone, Copy)]
enum Fault {
    /// The line is missing.
    Missing,
    /// One text stands for another.
    Instead(&'static str, &'static str),
}

use Fault::{Instead, Missing};

const MUTATIONS: [Mutation; 29] = [
    Mutation(&["-A KUBE-SVC", "cluster IP", "-j KUBE-MARK-MASQ"], Missing),
    Mutation(&["-A KUBE-SVC", "cluster IP", "-j KUBE-MARK-MASQ"], Instead("! -s", "-s")),
    Mutation(&["-A KUBE-SEP", "-j KUBE-MARK-MASQ"], Missing),
    Mutation(&["-A KUBE-SEP", "-j DNAT"], Missing),
    Mutation(&["-A KUBE-SEP", "-j DNAT"], Instead("8080", "8081")),
    Mutation(&["--probability"], Missing),
    Mutation(&["-A KUBE-EXT", "pod traffic for"], Missing),
    Mutation(&["-A KUBE-EXT", "masquerade LOCAL traffic"], Missing),
    Mutation(&["-A KUBE-EXT", "route LOCAL traffic"], Missing),
    Mutation(&["-A KUBE-EXT", "masquerade traffic for"], Missing),
    Mutation(&["-A KUBE-EXT", "-j KUBE-SVL"], Missing),
    Mutation(&["-A KUBE-EXT", "LOCAL"], Instead("--src-type", "--dst-type")),
    Mutation(&["-A KUBE-FW", "-j KUBE-EXT"], Missing),
    Mutation(&["-A KUBE-PROXY-FIREWALL", "-j DROP"], Missing),
    Mutation(&["-A KUBE-PROXY-FIREWALL", "-j RETURN"], Missing),
    Mutation(&["-A KUBE-SERVICES", "cluster IP", "-j KUBE-SV"], Missing),
    Mutation(&["-A KUBE-SERVICES", "external IP", "-j KUBE-EXT"], Missing),
    Mutation(&["-A KUBE-SERVICES", "loadbalancer IP", "-j KUBE-"], Missing),
    Mutation(&["-A KUBE-SERVICES", "-j KUBE-NODEPORTS"], Missing),
    Mutation(&["-A KUBE-NODEPORTS", "-j KUBE-EXT"], Instead("30000", "30001")),
    Mutation(&["has no endpoints"], Instead("-j REJECT --reject-with tcp-reset", "-j DROP")),
    Mutation(&["has no local endpoints"], Missing),
    Mutation(&["-p tcp"], Instead("-p tcp", "-p udp")),
    Mutation(&["--or-mark"], Missing),
    Mutation(&["-A KUBE-POSTROUTING", "-j RETURN"], Instead("! --mark", "--mark")),
    Mutation(&["-j MASQUERADE"], Missing),
    Mutation(&["-I PREROUTING"], Missing),
    Mutation(&["-I OUTPUT", "kubernetes service portals"], Missing),
    Mutation(&["-I FORWARD", "load balancer firewall"], Missing),
];

impl Mutation {
    fn of(&self, text: &str) -> String {
        let mut mutated = String::new();
        for line in text.lines() {
            let line = match self.1 {
                _ if !self.0.iter().all(|part| line.contains(part)) => line.to_owned(),
                Missing => continue,
                Instead(old, new) => line.replace(old, new),
            };
            mutated += &line;
            mutated.push('\n');
        }
        mutated
    }
}

/// Whether rules and walk agree about every packet.
fn agree(text: &str, table: &ForwardingTable, place: &Place, packets: &[Packet]) -> bool {
    let mut machine = Machine::default();
    machine.restore(text).expect("the text is whole");
    packets.iter().all(|packet| fates(&machine, place, packet) == expected(table, packet))
}

#[test]
fn faults_in_the_text_are_noticed() {
    let mut runner = TestRunner::deterministic();
    let mut unnoticed: Vec<_> = MUTATIONS.iter().collect();
    for case in 0..400 {
        let place = &PLACES[case % 2];
        let packets = place.packets();
        let mut model = place.model(&USUAL);
        let steps = vec(step(AT), 4..12).new_tree(&mut runner).expect("nothing is filtered out");
        for happening in steps.current().into_iter().flatten() {
            model.apply(happening.event(place));
        }
        model.flush();
        let text = Planner::new(COUNTED).full(model.table()).to_string();
        assert!(agree(&text, model.table(), place, &packets));
        unnoticed.retain(|mutation| {
            let mutated = mutation.of(&text);
            mutated == text || agree(&mutated, model.table(), place, &packets)
        });
        if unnoticed.is_empty() {
            return;
        }
    }
    let left: Vec<_> = unnoticed.iter().map(|mutation| mutation.0).collect();
    panic!("unnoticed: {left:?}");
}
