//! Golden cases: `tests/golden/<controller>/<case>/`, objects in, plan out.
//!
//! `objects.yaml` holds what is cached, `plan.json` what the plan must be. `GOLDEN=write` writes
//! the plan as it is now; look at the difference before you commit it.

use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

/// The objects of one case.
pub(crate) struct Objects(Vec<Value>);

impl Objects {
    /// All objects of a kind.
    pub(crate) fn all<K: DeserializeOwned + k8s_openapi::Resource>(&self) -> Vec<K> {
        self.0
            .iter()
            .filter(|o| o["kind"] == K::KIND)
            .map(|o| serde_json::from_value(o.clone()).unwrap())
            .collect()
    }
}

/// Holds every case of a controller against its plan.
pub(crate) fn check(controller: &str, plan: impl Fn(&Objects) -> Value) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(controller);
    let mut cases: Vec<PathBuf> =
        fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(!cases.is_empty(), "no case in {}", root.display());
    for case in cases {
        let text = fs::read_to_string(case.join("objects.yaml")).unwrap();
        let objects = text
            .split("\n---\n")
            .map(|document| serde_saphyr::from_str(document).unwrap())
            .collect();
        let plan = plan(&Objects(objects));
        let file = case.join("plan.json");
        if std::env::var("GOLDEN").is_ok_and(|g| g == "write") {
            fs::write(&file, format!("{}\n", serde_json::to_string_pretty(&plan).unwrap()))
                .unwrap();
        }
        let wanted: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!(plan, wanted, "{} is not what the plan says", file.display());
    }
}
