//! The answer: a verdict, and the steps that led to it.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;

use serde::Serialize;

use crate::printable::printable;

/// What becomes of the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum VerdictName {
    /// It goes to one of the endpoints.
    Dnat,
    /// It goes on as if there were no proxy.
    Accept,
    /// The sender is told that nobody is there.
    Reject,
    /// It vanishes.
    Drop,
}

impl fmt::Display for VerdictName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dnat => "DNAT",
            Self::Accept => "ACCEPT",
            Self::Reject => "REJECT",
            Self::Drop => "DROP",
        })
    }
}

/// What a step is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Label {
    /// Who sends the packet, and as what it counts on this node.
    From,
    /// Which front it is addressed to.
    To,
    /// Source ranges.
    Ranges,
    /// The traffic policy that decided, short-circuits included.
    Policy,
    /// Topology hints.
    Hints,
    /// One endpoint, in or out.
    Endpoint,
    /// Session affinity.
    Affinity,
    /// Whether the packet gets the node's address as source.
    Masquerade,
    /// What else decided.
    Rule,
    /// What may be surprising.
    Note,
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::From => "from",
            Self::To => "to",
            Self::Ranges => "ranges",
            Self::Policy => "policy",
            Self::Hints => "hints",
            Self::Endpoint => "endpoint",
            Self::Affinity => "affinity",
            Self::Masquerade => "masquerade",
            Self::Rule => "rule",
            Self::Note => "note",
        })
    }
}

/// One step of the packet's way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What it is about.
    pub label: Label,
    /// What it says; nothing in it can act upon a terminal.
    pub text: String,
}

impl Step {
    /// A step; names in the text may be anybody's.
    pub(crate) fn new(label: Label, text: impl AsRef<str>) -> Self {
        Self { label, text: printable(text.as_ref()) }
    }
}

/// What becomes of a packet, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What becomes of it.
    pub verdict: VerdictName,
    /// Every endpoint that may be chosen, sorted by address.
    pub endpoints: Vec<SocketAddr>,
    /// Those of them to which it goes with the node's address as source.
    pub masqueraded: Vec<SocketAddr>,
    /// The steps that led there, in order.
    pub steps: Vec<Step>,
}

/// The answer as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Json<'a> {
    verdict: VerdictName,
    endpoints: &'a [SocketAddr],
    masquerade: bool,
    reasons: Vec<String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    masqueraded_endpoints: &'a [SocketAddr],
}

impl Answer {
    /// A packet that the proxy does not touch.
    pub(crate) fn untouched(steps: Vec<Step>) -> Self {
        let (endpoints, masqueraded) = (Vec::new(), Vec::new());
        Self { verdict: VerdictName::Accept, endpoints, masqueraded, steps }
    }

    /// Whether it gets the node's address as source whichever endpoint it goes to.
    #[must_use]
    pub fn is_masqueraded(&self) -> bool {
        !self.endpoints.is_empty() && self.masqueraded.len() == self.endpoints.len()
    }

    /// `{"verdict", "endpoints", "masquerade", "reasons"}`; where some endpoints are masqueraded and
    /// others are not (an endpoint that reaches itself), `masquerade` is false and
    /// `masqueradedEndpoints` names them.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let masquerade = self.is_masqueraded();
        let reasons = self.steps.iter().map(|step| format!("{}: {}", step.label, step.text));
        let json = Json {
            verdict: self.verdict,
            endpoints: &self.endpoints,
            masquerade,
            reasons: reasons.collect(),
            masqueraded_endpoints: if masquerade { &[] } else { &self.masqueraded },
        };
        serde_json::to_value(json).unwrap_or_default()
    }

    /// The steps, a line each, and the verdict at the end.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        for step in &self.steps {
            let _ = writeln!(text, "{:<11} {}", step.label, step.text);
        }
        let _ = write!(text, "{:<11} {}", "verdict", self.verdict);
        if self.verdict == VerdictName::Dnat {
            let endpoints: Vec<_> = self.endpoints.iter().map(ToString::to_string).collect();
            let _ = write!(text, " to {}", one_of(&endpoints));
            if self.is_masqueraded() {
                text.push_str(", masqueraded");
            } else if !self.masqueraded.is_empty() {
                let some: Vec<_> = self.masqueraded.iter().map(ToString::to_string).collect();
                let _ = write!(text, ", masqueraded to {}", some.join(", "));
            }
        }
        text.push('\n');
        text
    }
}

fn one_of(endpoints: &[String]) -> String {
    match endpoints {
        [one] => one.clone(),
        many => format!("one of {}", many.join(", ")),
    }
}
