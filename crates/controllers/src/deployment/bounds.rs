//! A Deployment's numbers: replicas, how many more and how many fewer a rollout may have.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The bounds of a rollout, resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) replicas: i32,
    pub(super) surge: i32,
    pub(super) unavailable: i32,
}

/// How a Deployment replaces its pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strategy {
    RollingUpdate,
    Recreate,
}

pub(super) fn strategy(spec: &DeploymentSpec) -> Strategy {
    match spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) {
        Some("Recreate") => Strategy::Recreate,
        _ => Strategy::RollingUpdate,
    }
}

impl Bounds {
    /// `ResolveFenceposts`: surge rounds up, unavailable down; both zero would never move, so then
    /// one may be unavailable.
    pub(super) fn of(deployment: &Deployment) -> Self {
        let spec = deployment.spec.clone().unwrap_or_default();
        let replicas = spec.replicas.unwrap_or(1).max(0);
        if strategy(&spec) == Strategy::Recreate {
            return Self { replicas, surge: 0, unavailable: 0 };
        }
        let rolling = spec.strategy.and_then(|s| s.rolling_update);
        let quarter = IntOrString::String("25%".into());
        let (surge, unavailable) =
            rolling.map_or((None, None), |r| (r.max_surge, r.max_unavailable));
        let surge = scaled(&surge.unwrap_or_else(|| quarter.clone()), replicas, Round::Up);
        let mut unavailable = scaled(&unavailable.unwrap_or(quarter), replicas, Round::Down);
        if surge == 0 && unavailable == 0 {
            unavailable = 1;
        }
        Self { replicas, surge, unavailable: unavailable.min(replicas) }
    }

    /// The most pods there may be.
    pub(super) fn most(self) -> i32 {
        self.replicas + self.surge
    }

    /// The fewest pods that must be available.
    pub(super) fn fewest_available(self) -> i32 {
        self.replicas - self.unavailable
    }
}

/// Which way a percentage rounds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Round {
    Up,
    Down,
}

/// A number as it stands, or that percentage of `total`.
pub(crate) fn scaled(value: &IntOrString, total: i32, round: Round) -> i32 {
    match value {
        IntOrString::Int(number) => (*number).max(0),
        IntOrString::String(text) => {
            let Some(percent) = text.strip_suffix('%').and_then(|p| p.parse::<i64>().ok()) else {
                return 0;
            };
            let product = percent.max(0) * i64::from(total);
            let rounded = match round {
                Round::Up => (product + 99) / 100,
                Round::Down => product / 100,
            };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percent(text: &str, total: i32, round: Round) -> i32 {
        scaled(&IntOrString::String(text.into()), total, round)
    }

    #[test]
    fn surge_rounds_up_and_unavailable_down() {
        assert_eq!(percent("25%", 3, Round::Up), 1);
        assert_eq!(percent("25%", 3, Round::Down), 0);
        assert_eq!(percent("100%", 7, Round::Down), 7);
    }

    #[test]
    fn what_is_no_percentage_counts_as_zero() {
        assert_eq!(percent("many", 7, Round::Up), 0);
    }
}
