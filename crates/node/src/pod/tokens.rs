//! A pod's service account tokens: which it needs, and when each is to be asked for (again). Pure.
//!
//! ```text
//!   asked for ──granted──▶ held ──80 % of its life, or a day──▶ asked for, the old one serves meanwhile
//!        ╰──refused──▶ back-off ──▶ asked for
//! ```
//!
//! Upstream: kubelet's token manager (`pkg/kubelet/token`).

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PodSpec;

/// A token is renewed after a day at the latest.
const LONGEST: SignedDuration = SignedDuration::from_hours(24);
/// API default of `expirationSeconds`.
const DEFAULT_SECONDS: i64 = 3600;
/// The first wait after a refusal; doubles eight times.
const RETRY: SignedDuration = SignedDuration::from_millis(500);

/// What a token is for; volumes that ask for the same share one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Purpose {
    /// Empty: the API server.
    pub(crate) audience: String,
    /// How long it is to live, in seconds.
    pub(crate) seconds: i64,
}

/// A token and the end of its life.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) expires: Timestamp,
}

/// What is known of a token: itself, or why there is none.
pub(crate) type Known = Result<String, String>;

#[derive(Default)]
struct Slot {
    token: Option<Token>,
    error: Option<String>,
    failures: u32,
    is_asked: bool,
    /// Not to be asked for before this; at once when none.
    next: Option<Timestamp>,
}

/// All tokens of one pod.
pub(crate) struct Tokens(BTreeMap<Purpose, Slot>);

impl Purpose {
    pub(crate) fn new(audience: Option<&str>, seconds: Option<i64>) -> Purpose {
        Purpose {
            audience: audience.unwrap_or_default().to_owned(),
            seconds: seconds.unwrap_or(DEFAULT_SECONDS),
        }
    }
}

impl Tokens {
    /// Those that a pod's projected volumes ask for.
    pub(crate) fn new(spec: &PodSpec) -> Tokens {
        let projected = spec.volumes.iter().flatten().filter_map(|one| one.projected.as_ref());
        let sources = projected.flat_map(|one| one.sources.iter().flatten());
        let tokens = sources.filter_map(|one| one.service_account_token.as_ref());
        let purposes: BTreeSet<Purpose> = tokens
            .map(|one| Purpose::new(one.audience.as_deref(), one.expiration_seconds))
            .collect();
        Tokens(purposes.into_iter().map(|purpose| (purpose, Slot::default())).collect())
    }

    /// Those to ask for now; they count as asked for from here on.
    pub(crate) fn due(&mut self, now: Timestamp) -> Vec<Purpose> {
        let mut due = Vec::new();
        for (purpose, slot) in &mut self.0 {
            if !slot.is_asked && slot.next.is_none_or(|next| next <= now) {
                slot.is_asked = true;
                due.push(purpose.clone());
            }
        }
        due
    }

    /// When the next one will be due, if none is answered before.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.0.values().filter(|slot| !slot.is_asked).filter_map(|slot| slot.next).min()
    }

    /// Takes an answer; whether the volumes have to follow.
    pub(crate) fn answered(
        &mut self,
        purpose: &Purpose,
        answer: Result<Token, String>,
        now: Timestamp,
    ) -> bool {
        let Some(slot) = self.0.get_mut(purpose) else { return false };
        slot.is_asked = false;
        match answer {
            Ok(token) => {
                let life = token.expires.duration_since(now).max(SignedDuration::ZERO);
                slot.next = now.checked_add((life * 4 / 5).min(LONGEST)).ok();
                slot.failures = 0;
                slot.error = None;
                slot.token = Some(token);
                true
            }
            Err(error) => {
                let wait = RETRY * 2_i32.pow(slot.failures.min(8));
                slot.failures += 1;
                slot.next = now.checked_add(wait).ok();
                slot.error = Some(error);
                // As long as the old one lives, nobody need know.
                slot.token.as_ref().is_none_or(|token| token.expires <= now)
            }
        }
    }

    /// What is known of every token; None while one has not been answered yet.
    pub(crate) fn known(&self) -> Option<BTreeMap<Purpose, Known>> {
        let each = self.0.iter().map(|(purpose, slot)| {
            let known = match (&slot.token, &slot.error) {
                (Some(token), _) => Ok(token.text.clone()),
                (None, Some(error)) => Err(error.clone()),
                (None, None) => return None,
            };
            Some((purpose.clone(), known))
        });
        each.collect()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{
        ProjectedVolumeSource, ServiceAccountTokenProjection, Volume, VolumeProjection,
    };

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn tokens(all: &[(&str, i64)]) -> Tokens {
        let source = |(audience, seconds): &(&str, i64)| VolumeProjection {
            service_account_token: Some(ServiceAccountTokenProjection {
                audience: Some((*audience).to_owned()),
                expiration_seconds: Some(*seconds),
                path: "token".into(),
            }),
            ..VolumeProjection::default()
        };
        let projected = ProjectedVolumeSource {
            sources: Some(all.iter().map(source).collect()),
            default_mode: None,
        };
        let volume = Volume { projected: Some(projected), ..Volume::default() };
        Tokens::new(&PodSpec { volumes: Some(vec![volume]), ..PodSpec::default() })
    }

    fn granted(text: &str, expires: i64) -> Result<Token, String> {
        Ok(Token { text: text.into(), expires: at(expires) })
    }

    #[test]
    fn a_token_is_renewed_at_four_fifths_of_its_life() {
        let mut tokens = tokens(&[("", 3607), ("", 3607)]);
        let due = tokens.due(at(0));
        assert_eq!(due, [Purpose::new(None, Some(3607))]);
        assert_eq!(tokens.due(at(0)), [], "it is being asked for");
        assert_eq!(tokens.known(), None);
        assert!(tokens.answered(&due[0], granted("one", 1000), at(0)));
        assert_eq!(tokens.known().unwrap()[&due[0]], Ok("one".into()));
        assert_eq!(tokens.next(), Some(at(800)));
        assert_eq!(tokens.due(at(799)), []);
        assert_eq!(tokens.due(at(800)), due);
        assert!(tokens.answered(&due[0], granted("two", 1800), at(800)));
        assert_eq!(tokens.known().unwrap()[&due[0]], Ok("two".into()));
    }

    #[test]
    fn a_refused_renewal_is_tried_again_while_the_old_token_serves() {
        let mut tokens = tokens(&[("vault", 600)]);
        let due = tokens.due(at(0));
        assert!(tokens.answered(&due[0], granted("one", 600), at(0)));
        assert_eq!(tokens.due(at(480)), due);
        assert!(!tokens.answered(&due[0], Err("away".into()), at(480)));
        assert_eq!(tokens.known().unwrap()[&due[0]], Ok("one".into()));
        assert!(tokens.next().unwrap() > at(480) && tokens.next().unwrap() <= at(481));
    }

    #[test]
    fn a_first_refusal_is_told_and_waits_double_each_time() {
        let mut tokens = tokens(&[("", 600)]);
        let mut waits = Vec::new();
        for _ in 0..3 {
            let due = tokens.due(at(1000));
            assert!(tokens.answered(&due[0], Err("no".into()), at(0)));
            assert_eq!(tokens.known().unwrap()[&due[0]], Err("no".into()));
            waits.push(tokens.next().unwrap().duration_since(at(0)).as_millis());
        }
        assert_eq!(waits, [500, 1000, 2000]);
    }

    #[test]
    fn very_long_lived_tokens_are_renewed_daily() {
        let mut tokens = tokens(&[("", 1 << 32)]);
        let due = tokens.due(at(0));
        tokens.answered(&due[0], granted("one", 1 << 32), at(0));
        assert_eq!(tokens.next(), Some(at(24 * 3600)));
    }
}
