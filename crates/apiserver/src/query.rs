//! Query parameters of requests, checked once: list and watch options, write options, delete options.
//!
//! Messages follow `apimachinery/pkg/apis/meta/internalversion/validation` and `metav1/validation`.

use std::time::Duration;

use portolan_api::kinds::Scope;
use portolan_api::schema::Strictness;
use portolan_api::{Cause, Kind, Reason};
use serde_json::Value;

use crate::selector::{FieldSelector, LabelSelector};
use crate::status::{Result, Status, Subject};

/// Decoded `name=value` pairs of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(raw: &str) -> Query {
        Query(form_urlencoded::parse(raw.as_bytes()).into_owned().collect())
    }

    pub(crate) fn from_pairs(pairs: impl Iterator<Item = (String, String)>) -> Query {
        Query(pairs.collect())
    }

    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }

    /// The first value of a parameter; an empty one counts as absent.
    pub(crate) fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    /// Upstream's conversion of booleans: present and not `false` or `0`.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.0
            .iter()
            .find(|(n, _)| n == name)
            .is_some_and(|(_, v)| !matches!(v.to_ascii_lowercase().as_str(), "false" | "0"))
    }

    /// As [`Query::flag`], and whether the parameter is there at all.
    fn optional_flag(&self, name: &str) -> Option<bool> {
        self.0.iter().any(|(n, _)| n == name).then(|| self.flag(name))
    }

    /// All values of a parameter.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    fn number(&self, name: &str) -> Result<Option<i64>> {
        self.first(name)
            .map(|text| {
                text.parse().map_err(|_| {
                    Status::bad_request(format!(
                        "strconv.ParseInt: parsing {text:?}: invalid syntax"
                    ))
                })
            })
            .transpose()
    }
}

/// Bytes that the name of a field manager may have.
pub(crate) const MAX_FIELD_MANAGER: usize = 128;

/// Whether a write is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DryRun {
    Off,
    All,
}

/// Options of create, update and patch.
#[derive(Clone, Debug)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: DryRun,
    pub(crate) strictness: Strictness,
    /// Empty when it is not given.
    pub(crate) field_manager: String,
    /// Whether an apply takes fields from other managers.
    pub(crate) force: bool,
}

/// What a patch may say depends on whether it is applied on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applies {
    Yes,
    No,
}

impl WriteOptions {
    pub(crate) fn parse(query: &Query, kind: &'static str) -> Result<WriteOptions> {
        WriteOptions::parse_for(query, kind, Applies::No)
    }

    /// As [`WriteOptions::parse`], for a patch that may be an apply.
    pub(crate) fn parse_for(
        query: &Query,
        kind: &'static str,
        applies: Applies,
    ) -> Result<WriteOptions> {
        let mut causes = Vec::new();
        let dry_run = dry_run(query, &mut causes);
        let strictness = match query.first("fieldValidation") {
            None | Some("Warn") => Strictness::Warn,
            Some("Ignore") => Strictness::Ignore,
            Some("Strict") => Strictness::Strict,
            Some(other) => {
                causes.push(Cause {
                    reason: Reason::NotSupported,
                    field: "fieldValidation".into(),
                    message: format!(
                        "Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \
                         \"Warn\""
                    ),
                });
                Strictness::Warn
            }
        };
        let field_manager = field_manager(query, &mut causes);
        let force = query.flag("force");
        match applies {
            Applies::Yes if field_manager.is_empty() => causes.push(Cause {
                reason: Reason::Required,
                field: "fieldManager".into(),
                message: "Required value: is required for apply patch".into(),
            }),
            Applies::No if kind == "PatchOptions" && query.first("force").is_some() => {
                causes.push(Cause {
                    reason: Reason::Forbidden,
                    field: "force".into(),
                    message: "Forbidden: may not be specified for non-apply patch".into(),
                });
            }
            _ => {}
        }
        refuse(kind, causes)?;
        Ok(WriteOptions { dry_run, strictness, field_manager, force })
    }
}

/// The `fieldManager` parameter (upstream: ValidateFieldManager).
fn field_manager(query: &Query, causes: &mut Vec<Cause>) -> String {
    let manager = query.first("fieldManager").unwrap_or("");
    if manager.len() > MAX_FIELD_MANAGER {
        causes.push(Cause {
            reason: Reason::TooLong,
            field: "fieldManager".into(),
            message: format!("Too long: may not be more than {MAX_FIELD_MANAGER} bytes"),
        });
    }
    if manager.chars().any(char::is_control) {
        causes.push(Cause {
            reason: Reason::Invalid,
            field: "fieldManager".into(),
            message: format!(
                "Invalid value: {manager:?}: should only contain printable characters"
            ),
        });
    }
    manager.to_owned()
}

/// The `dryRun` parameter; anything but `All` is a cause.
pub(crate) fn dry_run(query: &Query, causes: &mut Vec<Cause>) -> DryRun {
    match query.first("dryRun") {
        None => DryRun::Off,
        Some("All") => DryRun::All,
        Some(other) => {
            causes.push(Cause {
                reason: Reason::NotSupported,
                field: "dryRun".into(),
                message: format!("Unsupported value: {other:?}: supported values: \"All\""),
            });
            DryRun::Off
        }
    }
}

/// Refuses options with causes, as the kind of options they are (`ListOptions`, `DeleteOptions` …).
pub(crate) fn refuse(kind: &'static str, causes: Vec<Cause>) -> Result<()> {
    if causes.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(Subject { group: "meta.k8s.io", resource: "", kind }, "", &causes))
}

/// How exactly a list's `resourceVersion` is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VersionMatch {
    NotOlderThan,
    Exact,
}

/// Options of list, watch and deletecollection.
#[derive(Clone, Debug)]
pub(crate) struct ListOptions {
    pub(crate) labels: LabelSelector,
    pub(crate) fields: FieldSelector,
    /// `None`: not given. Zero: anything will do.
    pub(crate) resource_version: Option<u64>,
    pub(crate) version_match: Option<VersionMatch>,
    pub(crate) limit: usize,
    pub(crate) continue_token: Option<String>,
    pub(crate) timeout_seconds: Option<u64>,
    pub(crate) bookmarks: bool,
    pub(crate) initial_events: Option<bool>,
}

impl ListOptions {
    /// Whether the selectors select a stored object.
    pub(crate) fn selects(&self, kind: &Kind, object: &Value) -> bool {
        self.labels.matches(object) && self.fields.matches(kind, object)
    }

    /// Where in the store to look: at all of a kind or namespace, or for one name at what begins with it.
    pub(crate) fn prefix(&self, kind: &Kind, namespace: Option<&str>) -> String {
        // Pages are continued by a key behind the whole prefix.
        let paged = self.limit != 0 || self.continue_token.is_some();
        let placed = namespace.is_some() || kind.scope == Scope::Cluster;
        match self.fields.name() {
            Some(name) if placed && !paged => kind.key(namespace, name),
            _ => kind.prefix(namespace),
        }
    }

    /// Parses the options of a list, or of a watch.
    ///
    /// # Errors
    /// 422 where parameters contradict each other, 400 where one cannot be read.
    pub(crate) fn parse(query: &Query, watch: bool) -> Result<ListOptions> {
        let version_match = query.first(MATCH);
        let initial_events = query.optional_flag("sendInitialEvents");
        let causes = if watch {
            watch_causes(version_match, initial_events, query.first("continue"))
        } else {
            list_causes(query, version_match, initial_events)
        };
        refuse("ListOptions", causes)?;
        let positive = |number: Option<i64>| number.and_then(|n| u64::try_from(n).ok());
        let limit = positive(query.number("limit")?).unwrap_or(0);
        Ok(ListOptions {
            labels: LabelSelector::parse(query.first("labelSelector").unwrap_or(""))
                .map_err(Status::bad_request)?,
            fields: FieldSelector::parse(query.first("fieldSelector").unwrap_or(""))
                .map_err(Status::bad_request)?,
            resource_version: resource_version(query.first("resourceVersion")).map_err(|e| {
                Status::bad_request(format!("invalid resource version: {}", e.message))
            })?,
            version_match: match version_match {
                Some(EXACT) => Some(VersionMatch::Exact),
                Some(_) => Some(VersionMatch::NotOlderThan),
                None => None,
            },
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            continue_token: query.first("continue").map(str::to_owned),
            timeout_seconds: positive(query.number("timeoutSeconds")?),
            bookmarks: query.flag("allowWatchBookmarks"),
            initial_events,
        })
    }
}

const MATCH: &str = "resourceVersionMatch";
const EXACT: &str = "Exact";
const NOT_OLDER: &str = "NotOlderThan";

fn forbidden(field: &str, why: impl Into<String>) -> Cause {
    let message = format!("Forbidden: {}", why.into());
    Cause { reason: Reason::Forbidden, field: field.into(), message }
}

fn unsupported(field: &str, value: &str, supported: &[&str]) -> Cause {
    let supported: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
    let message =
        format!("Unsupported value: {value:?}: supported values: {}", supported.join(", "));
    Cause { reason: Reason::NotSupported, field: field.into(), message }
}

/// What is wrong with the options of a list (`ValidateListOptions`).
fn list_causes(
    query: &Query,
    version_match: Option<&str>,
    initial_events: Option<bool>,
) -> Vec<Cause> {
    let mut causes = Vec::new();
    if let Some(wanted) = version_match {
        let version = query.first("resourceVersion");
        if version.is_none() {
            let why = format!("{MATCH} is forbidden unless resourceVersion is provided");
            causes.push(forbidden(MATCH, why));
        }
        if query.first("continue").is_some() {
            let why = format!("{MATCH} is forbidden when continue is provided");
            causes.push(forbidden(MATCH, why));
        }
        if !matches!(wanted, EXACT | NOT_OLDER) {
            causes.push(unsupported(MATCH, wanted, &[EXACT, NOT_OLDER, ""]));
        }
        if wanted == EXACT && version == Some("0") {
            let why = format!("{MATCH} \"exact\" is forbidden for resourceVersion \"0\"");
            causes.push(forbidden(MATCH, why));
        }
    }
    if initial_events.is_some() {
        causes.push(forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
    }
    causes
}

/// What is wrong with the options of a watch (`validateWatchOptions`).
fn watch_causes(
    version_match: Option<&str>,
    initial_events: Option<bool>,
    continue_token: Option<&str>,
) -> Vec<Cause> {
    let mut causes = Vec::new();
    if initial_events.is_some() && version_match != Some(NOT_OLDER) {
        let why = format!("sendInitialEvents requires setting {MATCH} to {NOT_OLDER}");
        causes.push(forbidden(MATCH, why));
    }
    if let Some(wanted) = version_match {
        if initial_events.is_none() {
            let why =
                format!("{MATCH} is forbidden for watch unless sendInitialEvents is provided");
            causes.push(forbidden(MATCH, why));
        }
        if wanted != NOT_OLDER {
            causes.push(unsupported(MATCH, wanted, &[NOT_OLDER]));
        }
        if continue_token.is_some() {
            let why = format!("{MATCH} is forbidden when continue is provided");
            causes.push(forbidden(MATCH, why));
        }
    }
    causes
}

/// Parses a resource version; `None` and empty are not given.
pub(crate) fn resource_version(text: Option<&str>) -> Result<Option<u64>> {
    text.filter(|t| !t.is_empty())
        .map(|text| {
            text.parse().map_err(|_| {
                Status::bad_request(format!(
                    "resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing \
                     {text:?}: invalid syntax"
                ))
            })
        })
        .transpose()
}

/// The `timeout` parameter of short requests: a duration as Go writes it. Zero, and what is longer than `longest`, means
/// `longest`.
///
/// # Errors
/// 400 for what is no duration.
pub(crate) fn timeout(query: &Query, longest: Duration) -> Result<Duration> {
    let Some(text) = query.first("timeout") else { return Ok(longest) };
    let asked = go_duration(text).map_err(|why| {
        Status::bad_request(format!(
            "invalid timeout specified in the request URL - time: {why} {text:?}"
        ))
    })?;
    Ok(if asked.is_zero() { longest } else { asked.min(longest) })
}

/// Go's `time.ParseDuration`, as far as timeouts go: `1m30s`, `1.5h`, `-1s` (which is zero here), `0`.
fn go_duration(text: &str) -> Result<Duration, &'static str> {
    const INVALID: &str = "invalid duration";
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if unsigned == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = unsigned;
    let mut seconds = 0.0_f64;
    if rest.is_empty() {
        return Err(INVALID);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let number: f64 = number.parse().map_err(|_| INVALID)?;
        let letters = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let scale = match unit {
            "" => return Err("missing unit in duration"),
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err("unknown unit in duration"),
        };
        seconds += number * scale;
        rest = after;
    }
    if text.starts_with('-') {
        return Ok(Duration::ZERO);
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| INVALID)
}

#[cfg(test)]
mod tests;
