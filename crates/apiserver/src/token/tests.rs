use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use portolan_api::kinds;
use portolan_store::{Op, Options};
use ring::hmac;

use super::*;
use crate::pki::Pki;

const NOW: i64 = 1_800_000_000;

fn issuer() -> Issuer {
    Issuer::new(Pki::ephemeral().unwrap().signing_key_pem()).unwrap()
}

fn claims() -> Claims {
    let reference = |name: &str, uid: &str| Reference { name: name.into(), uid: uid.into() };
    Claims {
        aud: vec![ISSUER.into(), "vault".into()],
        exp: NOW + 600,
        iat: NOW,
        iss: ISSUER.into(),
        jti: "one".into(),
        kubernetes: Kubernetes {
            namespace: "ns".into(),
            node: Some(reference("node-1", "uid-node")),
            pod: Some(reference("web", "uid-pod")),
            secret: None,
            serviceaccount: reference("robot", "uid-robot"),
        },
        nbf: NOW,
        sub: "system:serviceaccount:ns:robot".into(),
    }
}

/// A store with the objects that the claims name.
struct World {
    store: Store,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state"), Options::default()).unwrap();
        let world = World { store, _dir: dir };
        world.put("ServiceAccount", "robot", "uid-robot", None).await;
        world.put("Pod", "web", "uid-pod", None).await;
        world
    }

    async fn put(&self, kind: &str, name: &str, uid: &str, deleted: Option<i64>) {
        let mut value = json!({"metadata": {"name": name, "namespace": "ns", "uid": uid}});
        if let Some(second) = deleted {
            let at = Timestamp::from_second(second).unwrap();
            value["metadata"]["deletionTimestamp"] = crate::registry::meta::time(at);
        }
        let key = kinds::by_kind("v1", kind).unwrap().key(Some("ns"), name);
        let op = match self.store.get(&key) {
            None => Op::Create { key, value },
            Some(old) => Op::Update { key, expected: old.revision, value },
        };
        self.store.commit(vec![op]).await.unwrap();
    }

    async fn delete(&self, kind: &str, name: &str) {
        let key = kinds::by_kind("v1", kind).unwrap().key(Some("ns"), name);
        let expected = self.store.get(&key).unwrap().revision;
        self.store.commit(vec![Op::Delete { key, expected }]).await.unwrap();
    }

    fn ask(&self, issuer: &Issuer, token: &str, second: i64) -> Result<UserInfo, String> {
        let now = Timestamp::from_second(second).unwrap();
        let answer = issuer.authenticate(&self.store, token, &[ISSUER.to_owned()], now);
        answer.map(|(user, _)| user).map_err(|why| why.to_string())
    }
}

#[tokio::test]
async fn a_token_stands_for_its_account_and_tells_of_its_pod_and_node() {
    let (world, issuer) = (World::new().await, issuer());
    let user = world.ask(&issuer, &issuer.sign(&claims()).unwrap(), NOW).unwrap();
    assert_eq!(user.name, "system:serviceaccount:ns:robot");
    assert_eq!(user.uid, "uid-robot");
    assert_eq!(
        user.groups,
        ["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"]
    );
    let extra: Vec<(&str, &str)> =
        user.extra.iter().map(|(key, values)| (key.as_str(), values[0].as_str())).collect();
    assert_eq!(
        extra,
        [
            ("authentication.kubernetes.io/credential-id", "JTI=one"),
            ("authentication.kubernetes.io/node-name", "node-1"),
            ("authentication.kubernetes.io/node-uid", "uid-node"),
            ("authentication.kubernetes.io/pod-name", "web"),
            ("authentication.kubernetes.io/pod-uid", "uid-pod"),
        ]
    );
}

#[tokio::test]
async fn a_token_lives_from_its_beginning_to_its_end_give_or_take_a_minute() {
    let (world, issuer) = (World::new().await, issuer());
    let token = issuer.sign(&claims()).unwrap();
    for second in [NOW - 60, NOW, NOW + 600, NOW + 660] {
        assert!(world.ask(&issuer, &token, second).is_ok(), "{}", second - NOW);
    }
    let expired = "[invalid bearer token, service account token has expired]";
    assert_eq!(world.ask(&issuer, &token, NOW + 661).unwrap_err(), expired);
    let early = "[invalid bearer token, service account token is not valid yet]";
    assert_eq!(world.ask(&issuer, &token, NOW - 61).unwrap_err(), early);
}

#[tokio::test]
async fn a_token_is_good_for_its_audiences_only() {
    let (world, issuer) = (World::new().await, issuer());
    let now = Timestamp::from_second(NOW).unwrap();
    let token = issuer.sign(&claims()).unwrap();
    let ask = |audiences: &[&str]| {
        let audiences: Vec<String> = audiences.iter().map(|a| (*a).to_owned()).collect();
        issuer.authenticate(&world.store, &token, &audiences, now).map(|(_, common)| common)
    };
    assert_eq!(ask(&["other", "vault"]).unwrap(), ["vault"]);
    assert!(matches!(ask(&["other"]), Err(Refusal::Audience(..))));
}

#[tokio::test]
async fn a_token_dies_with_its_account_and_its_pod() {
    let (world, issuer) = (World::new().await, issuer());
    let token = issuer.sign(&claims()).unwrap();
    let refused = |why: &str| Err(format!("[invalid bearer token, {why}]"));
    let ask = || world.ask(&issuer, &token, NOW).map(|_| ());

    // Marked for deletion, a pod may still use its token until its grace is over by a minute.
    world.put("Pod", "web", "uid-pod", Some(NOW + 30)).await;
    assert_eq!(ask(), Ok(()));
    world.put("Pod", "web", "uid-pod", Some(NOW - 61)).await;
    assert_eq!(ask(), refused("service account token has been invalidated"));
    world.put("Pod", "web", "another", None).await;
    assert_eq!(
        ask(),
        refused("pod UID (another) does not match service account pod ref claim (uid-pod)")
    );
    world.delete("Pod", "web").await;
    assert_eq!(ask(), refused("service account token has been invalidated"));
    world.put("Pod", "web", "uid-pod", None).await;
    assert_eq!(ask(), Ok(()));

    world.put("ServiceAccount", "robot", "another", None).await;
    assert_eq!(ask(), refused("service account UID (another) does not match claim (uid-robot)"));
    world.put("ServiceAccount", "robot", "uid-robot", Some(NOW - 61)).await;
    assert_eq!(ask(), refused("service account ns/robot has been deleted"));
    world.delete("ServiceAccount", "robot").await;
    assert_eq!(ask(), refused("serviceaccounts \"robot\" not found"));
}

#[tokio::test]
async fn a_token_bound_to_a_node_alone_dies_with_the_node() {
    let (world, issuer) = (World::new().await, issuer());
    let mut claims = claims();
    claims.kubernetes.pod = None;
    let token = issuer.sign(&claims).unwrap();
    assert!(world.ask(&issuer, &token, NOW).is_err());
    let key = kinds::by_kind("v1", "Node").unwrap().key(None, "node-1");
    let value = json!({"metadata": {"name": "node-1", "uid": "uid-node"}});
    world.store.commit(vec![Op::Create { key, value }]).await.unwrap();
    assert!(world.ask(&issuer, &token, NOW).is_ok());
}

/// Each is what somebody might send who would like to be somebody else.
#[tokio::test]
async fn hostile_tokens_are_nobody() {
    let (world, issuer, other) = (World::new().await, issuer(), issuer());
    let good = issuer.sign(&claims()).unwrap();
    let parts: Vec<&str> = good.split('.').collect();
    let (header, payload, signature) = (parts[0], parts[1], parts[2]);
    let encoded = |text: &str| BASE64.encode(text);
    let kid = &issuer.key_id;
    let with_header = |text: &str| format!("{}.{payload}.{signature}", encoded(text));
    // Signed by us, for real, but with another header or payload than ours.
    let signed = |header: &str, payload: &[u8]| {
        let text = format!("{}.{}", encoded(header), BASE64.encode(payload));
        let signature = issuer.key.sign(&issuer.random, text.as_bytes()).unwrap();
        format!("{text}.{}", BASE64.encode(signature.as_ref()))
    };
    let ours = format!(r#"{{"alg":"ES256","kid":"{kid}"}}"#);
    let mut forged = claims();
    forged.kubernetes.serviceaccount.name = "admin".into();
    let forged = BASE64.encode(serde_json::to_vec(&forged).unwrap());
    // The classic: the public key as the secret of a symmetric algorithm.
    let symmetric = {
        let text = format!("{}.{payload}", encoded(&format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#)));
        let key = hmac::Key::new(hmac::HMAC_SHA256, issuer.key.public_key().as_ref());
        format!("{text}.{}", BASE64.encode(hmac::sign(&key, text.as_bytes())))
    };
    let mut wrong_issuer = claims();
    wrong_issuer.iss = "https://example.com".into();
    let der = {
        let mut der = vec![0x30, 0x44, 0x02, 0x20];
        der.extend(BASE64.decode(signature).unwrap());
        BASE64.encode(der)
    };
    let flipped: String = signature
        .char_indices()
        .map(|(at, c)| if at == 3 { if c == 'A' { 'B' } else { 'A' } } else { c })
        .collect();
    let deep = "[".repeat(4000);
    let table: Vec<(&str, String)> = vec![
        ("empty", String::new()),
        ("dots", "..".into()),
        ("many dots", ".".repeat(1000)),
        ("garbage", "garbage".into()),
        ("not base64", "%%%.%%%.%%%".into()),
        ("two parts", format!("{header}.{payload}")),
        ("four parts", format!("{good}.{signature}")),
        ("a dot more in the payload", format!("{header}.{payload}.x.{signature}")),
        ("padding", format!("{header}.{payload}.{signature}==")),
        ("standard alphabet", good.replace(['-', '_'], "+") + "+"),
        ("no signature", format!("{header}.{payload}.")),
        ("zero signature", format!("{header}.{payload}.{}", BASE64.encode([0; 64]))),
        ("half a signature", format!("{header}.{payload}.{}", &signature[..43])),
        ("DER signature", format!("{header}.{payload}.{der}")),
        ("flipped bit", format!("{header}.{payload}.{flipped}")),
        ("other payload", format!("{header}.{forged}.{signature}")),
        ("alg none", with_header(&format!(r#"{{"alg":"none","kid":"{kid}"}}"#))),
        ("alg none, no signature", format!("{}.{payload}.", encoded(r#"{"alg":"none"}"#))),
        ("alg in other case", with_header(&format!(r#"{{"alg":"es256","kid":"{kid}"}}"#))),
        ("alg HS256 by the public key", symmetric),
        ("alg RS256", with_header(&format!(r#"{{"alg":"RS256","kid":"{kid}"}}"#))),
        ("alg ES384", signed(&ours.replace("ES256", "ES384"), b"{}")),
        ("no alg", with_header(&format!(r#"{{"kid":"{kid}"}}"#))),
        ("no kid", with_header(r#"{"alg":"ES256"}"#)),
        ("other kid", with_header(r#"{"alg":"ES256","kid":"other"}"#)),
        ("alg twice", with_header(&ours.replace('{', r#"{"alg":"none","#))),
        ("key in the header", with_header(&ours.replace('}', r#","jwk":{"kty":"EC"}}"#))),
        ("critical header", with_header(&ours.replace('}', r#","crit":["exp"]}"#))),
        ("deep header", with_header(&deep)),
        ("header is no object", with_header("7")),
        ("another key", other.sign(&claims()).unwrap()),
        ("payload is no object", signed(&ours, b"7")),
        ("payload is not UTF-8", signed(&ours, &[0xff; 40])),
        ("deep payload", signed(&ours, deep.as_bytes())),
        ("empty claims", signed(&ours, b"{}")),
        (
            "no account",
            signed(&ours, br#"{"aud":[],"exp":1,"iat":1,"iss":"x","jti":"","nbf":1,"sub":""}"#),
        ),
        ("other issuer", issuer.sign(&wrong_issuer).unwrap()),
        ("too long", "a".repeat(1 << 20)),
        ("too long, but signed", {
            let mut long = claims();
            long.aud = vec![ISSUER.into(), "x".repeat(20_000)];
            issuer.sign(&long).unwrap()
        }),
    ];
    assert!(world.ask(&issuer, &good, NOW).is_ok());
    for (name, token) in table {
        let answer = world.ask(&issuer, &token, NOW);
        assert_eq!(answer, Err("invalid bearer token".to_owned()), "{name}: {token:.100}");
    }
}

#[test]
fn the_published_key_is_the_one_that_signs() {
    let issuer = issuer();
    let keys = issuer.keys();
    let key = &keys["keys"][0];
    let decode = |field: &str| BASE64.decode(key[field].as_str().unwrap()).unwrap();
    let point = [vec![4], decode("x"), decode("y")].concat();
    let token = issuer.sign(&claims()).unwrap();
    assert_eq!(jwt::verify(&token, key["kid"].as_str().unwrap(), &point), Some(claims()));
    assert_eq!(
        (&key["alg"], &key["crv"], &key["use"]),
        (&json!("ES256"), &json!("P-256"), &json!("sig"))
    );
}
