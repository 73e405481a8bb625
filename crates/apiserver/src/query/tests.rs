use proptest::prelude::*;

use super::*;

#[test]
fn flags_follow_the_conversion_of_upstream() {
    let query = Query::parse("a&b=true&c=0&d=False&e=");
    assert_eq!(["a", "b", "c", "d", "x"].map(|n| query.flag(n)), [true, true, false, false, false]);
}

/// Query of a list, and the causes that it is refused with.
const LISTS: &[(&str, &[&str])] = &[
    ("", &[]),
    ("resourceVersion=5", &[]),
    ("resourceVersion=5&resourceVersionMatch=Exact", &[]),
    ("resourceVersion=0&resourceVersionMatch=NotOlderThan", &[]),
    (
        "resourceVersionMatch=Exact",
        &["resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless \
           resourceVersion is provided"],
    ),
    (
        "resourceVersion=0&resourceVersionMatch=Exact",
        &["resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for \
           resourceVersion \"0\""],
    ),
    (
        "resourceVersion=1&resourceVersionMatch=Exact&continue=abc",
        &["resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is \
           provided"],
    ),
    (
        "resourceVersionMatch=Maybe",
        &[
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless \
             resourceVersion is provided",
            "resourceVersionMatch: Unsupported value: \"Maybe\": supported values: \"Exact\", \
             \"NotOlderThan\", \"\"",
        ],
    ),
    (
        "sendInitialEvents=false",
        &["sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"],
    ),
];

/// The same for watches.
const WATCHES: &[(&str, &[&str])] = &[
    ("", &[]),
    ("resourceVersion=5&allowWatchBookmarks=true&timeoutSeconds=-3", &[]),
    ("sendInitialEvents=true&resourceVersionMatch=NotOlderThan", &[]),
    ("sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion=7", &[]),
    (
        "sendInitialEvents=true",
        &["resourceVersionMatch: Forbidden: sendInitialEvents requires setting \
           resourceVersionMatch to NotOlderThan"],
    ),
    (
        "resourceVersionMatch=NotOlderThan",
        &["resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless \
           sendInitialEvents is provided"],
    ),
    (
        "sendInitialEvents=true&resourceVersionMatch=Exact",
        &[
            "resourceVersionMatch: Forbidden: sendInitialEvents requires setting \
             resourceVersionMatch to NotOlderThan",
            "resourceVersionMatch: Unsupported value: \"Exact\": supported values: \
             \"NotOlderThan\"",
        ],
    ),
    (
        "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&continue=abc",
        &["resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is \
           provided"],
    ),
];

#[test]
fn contradictions_are_invalid_in_the_words_of_upstream() {
    for (watch, cases) in [(false, LISTS), (true, WATCHES)] {
        for (text, causes) in cases {
            let result = ListOptions::parse(&Query::parse(text), watch);
            if causes.is_empty() {
                result.unwrap();
                continue;
            }
            let status = result.unwrap_err();
            let why = match causes {
                [only] => (*only).to_owned(),
                many => format!("[{}]", many.join(", ")),
            };
            let message = format!("ListOptions.meta.k8s.io \"\" is invalid: {why}");
            assert_eq!((status.code.as_u16(), status.message), (422, message), "{text}");
        }
    }
}

#[test]
fn a_negative_limit_is_none_and_a_word_is_a_bad_request() {
    assert_eq!(ListOptions::parse(&Query::parse("limit=-1"), false).unwrap().limit, 0);
    let status = ListOptions::parse(&Query::parse("limit=many"), false).unwrap_err();
    assert_eq!(status.code, 400);
    assert_eq!(status.message, "strconv.ParseInt: parsing \"many\": invalid syntax");
}

#[test]
fn timeouts_are_read_as_go_writes_them() {
    let longest = Duration::from_secs(60);
    for (text, milliseconds) in [
        ("", 60_000),
        ("timeout=", 60_000),
        ("timeout=0", 60_000),
        ("timeout=0s", 60_000),
        ("timeout=-5s", 60_000),
        ("timeout=2h", 60_000),
        ("timeout=10s", 10_000),
        ("timeout=1.5s", 1_500),
        ("timeout=1s250ms", 1_250),
    ] {
        let read = timeout(&Query::parse(text), longest).unwrap();
        assert_eq!(read.as_millis(), milliseconds, "{text}");
    }
    for (text, why) in [
        ("10", "missing unit in duration \"10\""),
        ("abc", "invalid duration \"abc\""),
        ("1d", "unknown unit in duration \"1d\""),
        ("1e999s", "unknown unit in duration \"1e999s\""),
    ] {
        let status = timeout(&Query::parse(&format!("timeout={text}")), longest).unwrap_err();
        let message = format!("invalid timeout specified in the request URL - time: {why}");
        assert_eq!((status.code.as_u16(), status.message), (400, message));
    }
}

/// Parameters that mean something, with values that may or may not.
fn query_text() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        Just("resourceVersion"),
        Just("resourceVersionMatch"),
        Just("continue"),
        Just("limit"),
        Just("timeoutSeconds"),
        Just("timeout"),
        Just("labelSelector"),
        Just("fieldSelector"),
        Just("sendInitialEvents"),
        Just("allowWatchBookmarks"),
        Just("dryRun"),
        Just("fieldValidation"),
    ];
    let value = prop_oneof![
        any::<u64>().prop_map(|n| n.to_string()),
        Just("Exact".to_owned()),
        Just("NotOlderThan".to_owned()),
        "[a-z0-9=!,() %.<>/]{0,24}",
        any::<String>(),
    ];
    let pair = (name, value).prop_map(|(n, v)| format!("{n}={v}"));
    proptest::collection::vec(pair, 0..6).prop_map(|pairs| pairs.join("&"))
}

proptest! {
    #[test]
    fn any_query_is_read_or_refused(text in prop_oneof![query_text(), any::<String>()]) {
        let query = Query::parse(&text);
        for watch in [false, true] {
            if let Err(status) = ListOptions::parse(&query, watch) {
                prop_assert!(matches!(status.code.as_u16(), 400 | 422), "{}", status.message);
            }
        }
        let longest = Duration::from_secs(60);
        prop_assert!(timeout(&query, longest).unwrap_or(longest) <= longest);
        let _ = WriteOptions::parse(&query, "PatchOptions");
    }
}
