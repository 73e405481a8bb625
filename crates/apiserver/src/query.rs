//! Query parameters of requests, checked once: list and watch options, write options, delete options.
//!
//! Messages follow `apimachinery/pkg/apis/meta/internalversion/validation` and `metav1/validation`.

use portolan_api::schema::Strictness;
use portolan_api::{Cause, Reason};

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

    fn number(&self, name: &str) -> Result<Option<u64>> {
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
    pub(crate) fn parse(query: &Query, watch: bool) -> Result<ListOptions> {
        let mut causes = Vec::new();
        let mut forbid = |field: &str, why: String| {
            causes.push(Cause {
                reason: Reason::Forbidden,
                field: field.to_owned(),
                message: format!("Forbidden: {why}"),
            });
        };
        let version_match = match query.first("resourceVersionMatch") {
            None => None,
            Some("NotOlderThan") => Some(VersionMatch::NotOlderThan),
            Some("Exact") => Some(VersionMatch::Exact),
            Some(other) => {
                let message = format!(
                    "Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\""
                );
                return refuse(
                    "ListOptions",
                    vec![Cause {
                        reason: Reason::NotSupported,
                        field: "resourceVersionMatch".into(),
                        message,
                    }],
                )
                .and(Err(Status::internal("unreachable")));
            }
        };
        let resource_version = resource_version(query.first("resourceVersion"))?;
        let continue_token = query.first("continue").map(str::to_owned);
        let initial_events =
            query.first("sendInitialEvents").map(|_| query.flag("sendInitialEvents"));
        let matched = "resourceVersionMatch";
        if watch {
            match (initial_events, version_match) {
                (None, Some(_)) => forbid(
                    matched,
                    format!(
                        "{matched} is forbidden for watch unless sendInitialEvents is provided"
                    ),
                ),
                (Some(_), m) if m != Some(VersionMatch::NotOlderThan) => forbid(
                    matched,
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
                        .into(),
                ),
                _ => {}
            }
            if continue_token.is_some() {
                forbid("continue", "continue is forbidden for watch".into());
            }
        } else {
            if initial_events.is_some() {
                forbid("sendInitialEvents", "sendInitialEvents is forbidden for list".into());
            }
            if version_match.is_some() {
                if resource_version.is_none() {
                    forbid(
                        matched,
                        format!("{matched} is forbidden unless resourceVersion is provided"),
                    );
                }
                if continue_token.is_some() {
                    forbid(matched, format!("{matched} is forbidden when continue is provided"));
                }
                if version_match == Some(VersionMatch::Exact) && resource_version == Some(0) {
                    forbid(
                        matched,
                        format!("{matched} \"Exact\" is forbidden for resourceVersion \"0\""),
                    );
                }
            }
        }
        refuse("ListOptions", causes)?;
        Ok(ListOptions {
            labels: LabelSelector::parse(query.first("labelSelector").unwrap_or(""))
                .map_err(Status::bad_request)?,
            fields: FieldSelector::parse(query.first("fieldSelector").unwrap_or(""))
                .map_err(Status::bad_request)?,
            resource_version,
            version_match,
            limit: query.number("limit")?.map_or(0, |n| usize::try_from(n).unwrap_or(usize::MAX)),
            continue_token,
            timeout_seconds: query.number("timeoutSeconds")?,
            bookmarks: query.flag("allowWatchBookmarks"),
            initial_events,
        })
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_follow_the_conversion_of_upstream() {
        let query = Query::parse("a&b=true&c=0&d=False&e=");
        assert_eq!(
            ["a", "b", "c", "d", "x"].map(|n| query.flag(n)),
            [true, true, false, false, false]
        );
    }

    #[test]
    fn a_match_without_a_version_is_invalid() {
        let query = Query::parse("resourceVersionMatch=Exact");
        let status = ListOptions::parse(&query, false).unwrap_err();
        assert_eq!(status.code, 422);
        assert_eq!(
            status.message,
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: \
             resourceVersionMatch is forbidden unless resourceVersion is provided"
        );
    }
}
