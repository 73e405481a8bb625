//! The whole way, as a user goes it: unmodified kubectl on the host, a lab behind it, and packets
//! through rules in a real kernel.
//!
//! Each scenario is a function of a lab, and runs on a lab of root's and on one of an ordinary
//! user's. Clients inside the lab are `portolan shell`; nothing on the host ever addresses a
//! cluster's, pod's or node's IP, only 127.0.0.1.

mod access;
mod cluster;
mod families;
mod objects;
mod streams;
mod traffic;
mod transcripts;
mod ways;

use crate::harness::User;
use cluster::Cluster;

/// Runs a scenario on a lab of its own, where that is possible.
fn on_a_lab(test: &str, user: User, scenario: impl FnOnce(&Cluster)) {
    on_a_lab_with(test, user, &[], scenario);
}

/// As [`on_a_lab`], with more arguments for `portolan up`.
fn on_a_lab_with(test: &str, user: User, more: &[&str], scenario: impl FnOnce(&Cluster)) {
    if !user.available(test) || !cluster::kubectl_available(test) {
        return;
    }
    scenario(&Cluster::up(user, more));
}

/// Runs the scenario of all ways, whose lab lies where pods see and has a node port of the host's.
fn on_a_lab_of_ways(test: &str, user: User) {
    if user.available(test) && cluster::kubectl_available(test) {
        ways::every_way_goes_through_the_lab(test, user);
    }
}

/// A scenario as two tests, one for each kind of user.
macro_rules! for_both_users {
    ($($root:ident, $ordinary:ident => $scenario:path;)*) => {$(
        #[test]
        fn $root() {
            on_a_lab(stringify!($root), User::Root, $scenario);
        }

        #[test]
        fn $ordinary() {
            on_a_lab(stringify!($ordinary), User::Ordinary, $scenario);
        }
    )*};
}

for_both_users! {
    services_carry_traffic_as_root, services_carry_traffic_as_an_ordinary_user
        => traffic::services_carry_traffic;
    a_rolling_update_loses_no_request_as_root, a_rolling_update_loses_no_request_as_an_ordinary_user
        => traffic::a_rolling_update_loses_no_request;
    kubeadms_daemon_set_runs_the_proxy_as_root, kubeadms_daemon_set_runs_the_proxy_as_an_ordinary_user
        => traffic::kubeadms_daemon_set_runs_the_proxy;
    processes_are_reached_through_kubectl_as_root, processes_are_reached_through_kubectl_as_an_ordinary_user
        => streams::processes_are_reached;
    objects_are_kept_as_kubectl_expects_as_root, objects_are_kept_as_kubectl_expects_as_an_ordinary_user
        => objects::objects_are_kept;
    pods_use_the_api_as_their_account_as_root, pods_use_the_api_as_their_account_as_an_ordinary_user
        => access::pods_use_the_api_as_their_account;
}

const IPTABLES: [&str; 2] = ["--proxy-mode", "iptables"];

#[test]
fn services_carry_traffic_in_mode_iptables() {
    let test = "services_carry_traffic_in_mode_iptables";
    on_a_lab_with(test, User::Ordinary, &IPTABLES, traffic::services_carry_traffic);
}

#[test]
fn a_rolling_update_loses_no_request_in_mode_iptables() {
    let test = "a_rolling_update_loses_no_request_in_mode_iptables";
    on_a_lab_with(test, User::Root, &IPTABLES, traffic::a_rolling_update_loses_no_request);
}

#[test]
fn bad_input_gets_the_answers_of_a_kubernetes_api_server() {
    let test = "bad_input_gets_the_answers_of_a_kubernetes_api_server";
    on_a_lab(test, User::Ordinary, transcripts::bad_input);
}

#[test]
fn services_are_handled_as_the_introduction_says() {
    let test = "services_are_handled_as_the_introduction_says";
    on_a_lab(test, User::Ordinary, transcripts::services);
}

#[test]
fn every_way_goes_through_the_lab_as_root() {
    on_a_lab_of_ways("every_way_goes_through_the_lab_as_root", User::Root);
}

#[test]
fn every_way_goes_through_the_lab_as_an_ordinary_user() {
    on_a_lab_of_ways("every_way_goes_through_the_lab_as_an_ordinary_user", User::Ordinary);
}

/// Runs the scenario of both families, whose lab has a Service from the beginning.
fn on_a_lab_of_families(test: &str, user: User) {
    if user.available(test) && cluster::kubectl_available(test) {
        families::both_families_lead_everywhere(user);
    }
}

#[test]
fn both_families_lead_everywhere_as_root() {
    on_a_lab_of_families("both_families_lead_everywhere_as_root", User::Root);
}

#[test]
fn both_families_lead_everywhere_as_an_ordinary_user() {
    on_a_lab_of_families("both_families_lead_everywhere_as_an_ordinary_user", User::Ordinary);
}
