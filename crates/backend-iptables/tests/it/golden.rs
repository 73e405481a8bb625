//! The text of a table with a bit of everything, word for word.

use portolan_backend_iptables::{Options, Planner};
use portolan_model::{Event, LocalhostNodePorts, Model};

use crate::kernel::STACKS;

/// The full text, and that of one endpoint's going.
fn rendered(mut model: Model, three: Event, one: Event) -> String {
    let planner = Planner::new(Options::default());
    model.apply(three);
    model.flush();
    let full = planner.full(model.table());
    model.apply(one);
    let delta = model.flush();
    format!("{full}# one endpoint stays\n{}", planner.delta(model.table(), &delta))
}

#[test]
fn the_text_is_as_written_down() {
    let golden = [include_str!("golden/ipv4.txt"), include_str!("golden/ipv6.txt")];
    for (stack, golden) in STACKS.iter().zip(golden) {
        let text = rendered(stack.model(), stack.endpoints(3), stack.endpoints(1));
        assert_eq!(text, golden, "{}:\n{text}", stack.family);
    }
}

#[test]
fn without_endpoints_everything_is_refused_and_without_local_ones_outside_is_dropped() {
    let stack = &STACKS[0];
    let mut model = stack.model();
    model.flush();
    let planner = Planner::new(Options::default());
    let text = planner.full(model.table()).to_string();
    let refused = "-A KUBE-SERVICES -m comment --comment \"default/web:http has no endpoints\" \
                   -m tcp -p tcp -d 10.96.0.10 --dport 80 \
                   -j REJECT --reject-with tcp-reset\n";
    assert!(text.contains(refused), "{text}");
    assert!(!text.contains("KUBE-SVC-") && !text.contains("KUBE-SEP-"), "{text}");
    model.apply(stack.remote_endpoint());
    model.flush();
    let text = planner.full(model.table()).to_string();
    let dropped = "-A KUBE-EXTERNAL-SERVICES -m comment --comment \"default/web:http has no local \
                   endpoints\" -m tcp -p tcp -d 192.0.2.3 --dport 80 -j DROP\n";
    assert!(text.contains(dropped) && !text.contains("KUBE-SVL-"), "{text}");
}

#[test]
fn loopback_node_ports_are_walled_off_from_others() {
    let mut model = STACKS[0].model();
    model.flush();
    let mut table = model.table().clone();
    let planner = Planner::new(Options::default());
    let off = planner.full(&table).to_string();
    assert!(off.contains("--dst-type LOCAL ! -d 127.0.0.0/8 -j KUBE-NODEPORTS\n"), "{off}");
    assert!(!off.contains("KUBE-FIREWALL"), "{off}");
    table.settings.localhost_node_ports = LocalhostNodePorts::On;
    let on = planner.full(&table).to_string();
    assert!(on.contains("--dst-type LOCAL -j KUBE-NODEPORTS\n"), "{on}");
    let wall = "-d 127.0.0.0/8 ! -s 127.0.0.0/8 -m conntrack ! --ctstate \
                RELATED,ESTABLISHED,DNAT -j DROP\n";
    assert!(on.contains(wall) && on.contains("-I INPUT -j KUBE-FIREWALL\n"), "{on}");
}
