//! Lists: what `resourceVersion`, its match, `limit` and `continue` mean together, and lists that are long.

use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::support::*;

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap();
    items.iter().map(|i| i["metadata"]["name"].as_str().unwrap()).collect()
}

fn version(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap()
}

#[tokio::test]
async fn a_version_is_a_minimum_or_exact_as_in_upstreams_table() {
    let t = start().await;
    for name in ["a", "b", "c"] {
        t.post(CONFIG_MAPS, config_map(name)).await.ok();
    }
    let then = t.get(CONFIG_MAPS).await.ok();
    let then = version(&then);
    t.post(CONFIG_MAPS, config_map("d")).await.ok();
    t.delete(&format!("{CONFIG_MAPS}/a")).await.ok();
    let (now, before) = (vec!["b", "c", "d"], vec!["a", "b", "c"]);
    for (query, expected) in [
        (String::new(), &now[..]),
        ("resourceVersion=0".into(), &now),
        ("resourceVersion=0&limit=2".into(), &now[..2]),
        (format!("resourceVersion={then}"), &now),
        (format!("resourceVersion={then}&resourceVersionMatch=NotOlderThan"), &now),
        ("resourceVersion=0&resourceVersionMatch=NotOlderThan".into(), &now),
        (format!("resourceVersion={then}&resourceVersionMatch=NotOlderThan&limit=2"), &now[..2]),
        (format!("resourceVersion={then}&resourceVersionMatch=Exact"), &before),
        (format!("resourceVersion={then}&resourceVersionMatch=Exact&limit=1"), &before[..1]),
        // From before there was a match.
        (format!("resourceVersion={then}&limit=2"), &before[..2]),
    ] {
        let list = t.get(&format!("{CONFIG_MAPS}?{query}")).await.ok();
        assert_eq!(names(&list), expected, "{query}");
        if expected.contains(&"a") {
            assert_eq!(version(&list), then, "{query}");
        } else {
            assert_ne!(version(&list), then, "{query}");
        }
    }
}

#[tokio::test]
async fn the_future_is_a_timeout_that_says_when_to_come_again() {
    let t = start().await;
    t.post(CONFIG_MAPS, config_map("m")).await.ok();
    let current = t.get(CONFIG_MAPS).await.ok();
    let current = version(&current);
    for uri in [
        format!("{CONFIG_MAPS}?resourceVersion=99999"),
        format!("{CONFIG_MAPS}?resourceVersion=99999&resourceVersionMatch=Exact"),
        format!("{CONFIG_MAPS}?resourceVersion=99999&resourceVersionMatch=NotOlderThan"),
        format!("{CONFIG_MAPS}/m?resourceVersion=99999"),
        format!("{CONFIG_MAPS}?watch=1&resourceVersion=99999"),
    ] {
        let answer = t.get(&uri).await;
        let message = format!("Timeout: Too large resource version: 99999, current: {current}");
        answer.fails(504, "Timeout", &message);
        assert_eq!(answer.headers["retry-after"], "1");
        let details = json!({
            "causes": [{
                "reason": "ResourceVersionTooLarge",
                "message": "Too large resource version",
            }],
            "retryAfterSeconds": 1,
        });
        assert_eq!(answer.body["details"], details);
    }
}

#[tokio::test]
async fn a_read_of_one_object_takes_a_minimum_and_no_words() {
    let t = start().await;
    let map = t.post(CONFIG_MAPS, config_map("m")).await.ok();
    for query in
        [String::new(), "resourceVersion=0".into(), format!("resourceVersion={}", version(&map))]
    {
        assert_eq!(t.get(&format!("{CONFIG_MAPS}/m?{query}")).await.ok(), map, "{query}");
    }
    t.get(&format!("{CONFIG_MAPS}/m?resourceVersion=abc")).await.fails(
        422,
        "Invalid",
        "configmaps \"m\" is invalid: resourceVersion: Invalid value: \"abc\": strconv.ParseUint: \
         parsing \"abc\": invalid syntax",
    );
}

#[tokio::test]
async fn pages_show_one_moment_whatever_happens_between_them() {
    let t = start().await;
    for i in 0..10 {
        t.post(CONFIG_MAPS, config_map(&format!("m-{i}"))).await.ok();
    }
    let mut page = t.get(&format!("{CONFIG_MAPS}?limit=4")).await.ok();
    let first = version(&page).to_owned();
    assert_eq!(page["metadata"]["remainingItemCount"], 6);
    let mut seen: Vec<String> = names(&page).into_iter().map(str::to_owned).collect();
    while let Some(token) = page["metadata"]["continue"].as_str() {
        let last = seen.len();
        t.delete(&format!("{CONFIG_MAPS}/m-{last}")).await.ok();
        t.post(CONFIG_MAPS, config_map(&format!("m-{last}-new"))).await.ok();
        let uri = format!("{CONFIG_MAPS}?limit=4&continue={token}");
        page = t.get(&uri).await.ok();
        assert_eq!(version(&page), first);
        seen.extend(names(&page).into_iter().map(str::to_owned));
    }
    let expected: Vec<String> = (0..10).map(|i| format!("m-{i}")).collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn pages_of_what_a_selector_selects_are_full_and_do_not_guess_what_is_left() {
    let t = start().await;
    for i in 0..60 {
        let mut map = config_map(&format!("m-{i:02}"));
        map["metadata"]["labels"] = json!({"third": (i % 3 == 0).to_string()});
        t.post(CONFIG_MAPS, map).await.ok();
    }
    let mut seen = Vec::new();
    let mut token = String::new();
    let mut sizes = Vec::new();
    loop {
        let uri = format!("{CONFIG_MAPS}?labelSelector=third%3Dtrue&limit=7&continue={token}");
        let page = t.get(&uri).await.ok();
        assert!(page["metadata"]["remainingItemCount"].is_null());
        sizes.push(names(&page).len());
        seen.extend(names(&page).into_iter().map(str::to_owned));
        match page["metadata"]["continue"].as_str() {
            Some(next) => token = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(sizes, [7, 7, 6]);
    assert_eq!(seen, (0..60).step_by(3).map(|i| format!("m-{i:02}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_expired_token_comes_with_one_that_goes_on_inconsistently() {
    let t = start_forgetful().await;
    for i in 0..6 {
        t.post(CONFIG_MAPS, config_map(&format!("m-{i}"))).await.ok();
    }
    let page = t.get(&format!("{CONFIG_MAPS}?limit=2")).await.ok();
    let token = page["metadata"]["continue"].as_str().unwrap();
    for i in 0..40 {
        let change = json!({"data": {"a": i.to_string()}});
        t.patch(&format!("{CONFIG_MAPS}/m-5"), "merge-patch", change).await.ok();
    }
    t.delete(&format!("{CONFIG_MAPS}/m-3")).await.ok();
    let expired = t.get(&format!("{CONFIG_MAPS}?limit=2&continue={token}")).await;
    expired.fails(
        410,
        "Expired",
        "The provided continue parameter is too old to display a consistent list result. You can \
         start a new list without the continue parameter, or use the continue token in this \
         response to retrieve the remainder of the results. Continuing with the provided token \
         results in an inconsistent list - objects that were created, modified, or deleted between \
         the time the first chunk was returned and now may show up in the list.",
    );
    let next = expired.body["metadata"]["continue"].as_str().unwrap();
    let rest = t.get(&format!("{CONFIG_MAPS}?limit=2&continue={next}")).await.ok();
    assert_eq!(names(&rest), ["m-2", "m-4"]);
    assert_ne!(version(&rest), version(&page));
    // From there on the pages are consistent again.
    let next = rest["metadata"]["continue"].as_str().unwrap();
    let last = t.get(&format!("{CONFIG_MAPS}?limit=2&continue={next}")).await.ok();
    assert_eq!((names(&last), version(&last)), (vec!["m-5"], version(&rest)));
    let old = format!("resourceVersion={}&resourceVersionMatch=Exact", version(&page));
    t.get(&format!("{CONFIG_MAPS}?{old}")).await.fails(
        410,
        "Expired",
        "The resourceVersion for the provided list is too old.",
    );
}

#[tokio::test]
async fn a_token_excludes_a_version() {
    let t = start().await;
    for name in ["a", "b"] {
        t.post(CONFIG_MAPS, config_map(name)).await.ok();
    }
    let page = t.get(&format!("{CONFIG_MAPS}?limit=1")).await.ok();
    let token = page["metadata"]["continue"].as_str().unwrap();
    t.get(&format!("{CONFIG_MAPS}?limit=1&continue={token}&resourceVersion=5")).await.fails(
        400,
        "BadRequest",
        "specifying resource version is not allowed when using continue",
    );
    let any = format!("{CONFIG_MAPS}?limit=1&continue={token}&resourceVersion=0");
    assert_eq!(names(&t.get(&any).await.ok()), ["b"]);
}

#[tokio::test]
async fn one_name_is_found_among_those_that_begin_like_it() {
    let t = start().await;
    for name in ["m", "m-1", "n"] {
        t.post(CONFIG_MAPS, config_map(name)).await.ok();
    }
    for (query, expected) in [
        ("fieldSelector=metadata.name%3Dm", &["m"][..]),
        ("fieldSelector=metadata.name%3Dm&limit=1", &["m"]),
        ("fieldSelector=metadata.name%3Dm,metadata.name%3Dn", &[]),
        ("fieldSelector=metadata.name!%3Dm", &["m-1", "n"]),
        ("fieldSelector=metadata.name%3D", &[]),
        ("fieldSelector=metadata.name%3D..%2Fm", &[]),
    ] {
        let list = t.get(&format!("{CONFIG_MAPS}?{query}")).await.ok();
        assert_eq!(names(&list), expected, "{query}");
    }
    let everywhere = "/api/v1/configmaps?fieldSelector=metadata.name%3Dm";
    assert_eq!(names(&t.get(everywhere).await.ok()), ["m"]);
    let namespaces = "/api/v1/namespaces?fieldSelector=metadata.name%3Dkube-system";
    assert_eq!(names(&t.get(namespaces).await.ok()), ["kube-system"]);
    t.delete(&format!("{CONFIG_MAPS}/m")).await.ok();
    let uri = format!("{CONFIG_MAPS}?watch=1&fieldSelector=metadata.name%3Dm");
    let watch = t.raw("GET", &uri, &[], "").await;
    t.post(CONFIG_MAPS, config_map("m-2")).await.ok();
    let made = t.post(CONFIG_MAPS, config_map("m")).await.ok();
    let frame = tokio::time::timeout(PATIENCE, watch.into_body().frame()).await.unwrap();
    let line: Value = serde_json::from_slice(frame.unwrap().unwrap().data_ref().unwrap()).unwrap();
    assert_eq!((&line["type"], &line["object"]), (&json!("ADDED"), &made));
}

/// So many ConfigMaps that a list of them comes in pieces.
async fn with_long_list() -> Fixture {
    let t = start().await;
    for i in 0..40 {
        let mut map = config_map(&format!("m-{i:02}"));
        map["data"]["text"] = json!("x".repeat(20_000));
        t.post(CONFIG_MAPS, map).await.ok();
    }
    t
}

#[tokio::test]
async fn a_long_list_comes_in_pieces_and_holds_nobody_up() {
    let t = with_long_list().await;
    let response = t.raw("GET", CONFIG_MAPS, &[], "").await;
    let mut body = response.into_body();
    let mut text = body.frame().await.unwrap().unwrap().into_data().unwrap().to_vec();
    assert!(text.len() < 200_000, "{}", text.len());
    // Its reader pauses: others write, and the list stays what it was.
    for i in 0..40 {
        t.delete(&format!("{CONFIG_MAPS}/m-{i:02}")).await.ok();
    }
    assert_eq!(names(&t.get(CONFIG_MAPS).await.ok()), Vec::<&str>::new());
    while let Some(frame) = body.frame().await {
        text.extend_from_slice(&frame.unwrap().into_data().unwrap());
    }
    let list: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(names(&list).len(), 40);
}

#[tokio::test]
async fn a_long_list_is_the_same_in_every_form() {
    let t = with_long_list().await;
    let yaml = t.send("GET", CONFIG_MAPS, &[("accept", "application/yaml")], "").await;
    assert_eq!(yaml.headers["content-type"], "application/yaml");
    let yaml = yaml.ok();
    assert_eq!(yaml.as_str().unwrap().matches("name: m-").count(), 40);
    let table = [("accept", "application/json;as=Table;g=meta.k8s.io;v=v1")];
    for (include, data) in [("None", false), ("Metadata", false), ("Object", true)] {
        let uri = format!("{CONFIG_MAPS}?includeObject={include}");
        let table = t.send("GET", &uri, &table, "").await.ok();
        let rows = table["rows"].as_array().unwrap();
        assert_eq!((rows.len(), &rows[39]["cells"][0]), (40, &json!("m-39")));
        assert_eq!(rows[0]["object"].is_null(), include == "None");
        assert_eq!(rows[0]["object"]["data"].is_object(), data);
    }
    let bad = t.send("GET", &format!("{CONFIG_MAPS}?includeObject=Some"), &table, "").await;
    bad.fails(400, "BadRequest", "unrecognized includeObject value: \"Some\"");
    let partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let list = t.send("GET", CONFIG_MAPS, &[("accept", partial)], "").await.ok();
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!((names(&list).len(), &list["items"][0]["data"]), (40, &Value::Null));
}
