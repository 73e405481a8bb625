//! The short hash that names a pod template's revision.
//!
//! FNV-1a over the template's canonical JSON and the collision count, written in upstream's
//! alphabet of letters that make no words. Values differ from upstream's (which hashes Go's
//! memory dump); clients only ever compare them.

use k8s_openapi::api::core::v1::PodTemplateSpec;

const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// The hash of a template, after this many collisions.
pub(crate) fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    // serde_json sorts object keys, so equal templates give equal text.
    let value = serde_json::to_value(template).expect("a pod template is plain data");
    let mut state: u32 = 0x811c_9dc5;
    let mut feed = |byte: u8| state = (state ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    value.to_string().bytes().for_each(&mut feed);
    if let Some(collisions) = collisions {
        collisions.to_le_bytes().into_iter().for_each(feed);
    }
    state
        .to_string()
        .bytes()
        .map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::template;

    #[test]
    fn equal_templates_hash_alike_and_different_ones_apart() {
        assert_eq!(hash(&template("a"), None), hash(&template("a"), None));
        assert_ne!(hash(&template("a"), None), hash(&template("b"), None));
    }

    #[test]
    fn a_collision_gives_another_hash() {
        assert_ne!(hash(&template("a"), None), hash(&template("a"), Some(1)));
    }
}
