//! What a new object takes from the classes that exist (upstream: the admission plugins Priority,
//! DefaultIngressClass and DefaultStorageClass, which are always on).

use portolan_api::{Kind, kinds};
use portolan_store::{ListOptions, Stored};
use serde_json::Value;

use super::{Registry, meta, subject};
use crate::status::{Result, Status};

const DEFAULT_INGRESS_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";
const DEFAULT_STORAGE_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
/// The older ways to name a class, which count, too.
const INGRESS_CLASS: &str = "kubernetes.io/ingress.class";
const STORAGE_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

impl Registry {
    /// Completes a new object that has not been given its defaults yet.
    ///
    /// # Errors
    /// 403 for a Pod of a priority class that does not exist, or of another priority than its class.
    pub(super) fn admit(&self, kind: &'static Kind, object: &mut Value) -> Result<()> {
        match (kind.group, kind.kind) {
            ("", "Pod") => self.prioritize(kind, object),
            ("networking.k8s.io", "Ingress") => {
                let field = "ingressClassName";
                self.classify("IngressClass", object, field, INGRESS_CLASS, DEFAULT_INGRESS_CLASS)
            }
            ("", "PersistentVolumeClaim") => {
                let field = "storageClassName";
                self.classify("StorageClass", object, field, STORAGE_CLASS, DEFAULT_STORAGE_CLASS)
            }
            _ => Ok(()),
        }
    }

    fn prioritize(&self, kind: &'static Kind, pod: &mut Value) -> Result<()> {
        let Some(spec) = pod.get("spec").filter(|spec| spec.is_object()) else { return Ok(()) };
        let name = spec["priorityClassName"].as_str().unwrap_or("").to_owned();
        let classes = self.all("scheduling.k8s.io/v1", "PriorityClass")?;
        let found = match name.as_str() {
            "" => classes.iter().find(|class| class.value["globalDefault"] == true),
            name => classes.iter().find(|class| meta::name(&class.value) == name),
        };
        let refuse = |why: &str| Err(Status::forbidden(subject(kind), meta::name(pod), why));
        let Some(class) = found else {
            if name.is_empty() {
                return Ok(());
            }
            return refuse(&format!("no PriorityClass with name {name} was found"));
        };
        let computed = class.value["value"].as_i64().unwrap_or(0);
        if let Some(given) = spec["priority"].as_i64().filter(|given| *given != computed) {
            return refuse(&format!(
                "the integer value of priority ({given}) must not be provided in pod spec; \
                 priority admission controller computed {computed} from the given PriorityClass \
                 name"
            ));
        }
        pod["spec"]["priorityClassName"] = meta::name(&class.value).into();
        pod["spec"]["priority"] = computed.into();
        if pod["spec"]["preemptionPolicy"].is_null() {
            pod["spec"]["preemptionPolicy"] = class.value["preemptionPolicy"].clone();
        }
        Ok(())
    }

    /// Gives an object without a class the one that is marked as the default; of several the newest.
    fn classify(
        &self,
        class: &str,
        object: &mut Value,
        field: &str,
        older: &str,
        mark: &str,
    ) -> Result<()> {
        let named =
            !object["spec"][field].is_null() || !object["metadata"]["annotations"][older].is_null();
        if named || !object["spec"].is_object() {
            return Ok(());
        }
        let group = if class == "IngressClass" { "networking" } else { "storage" };
        let classes = self.all(&format!("{group}.k8s.io/v1"), class)?;
        let marked = classes
            .iter()
            .filter(|class| class.value["metadata"]["annotations"][mark] == "true")
            // The times have one form, so they are ordered as text; of equal ones the lesser name.
            .max_by_key(|class| {
                let name = std::cmp::Reverse(meta::name(&class.value));
                (meta::text(&class.value, "creationTimestamp"), name)
            });
        if let Some(class) = marked {
            object["spec"][field] = meta::name(&class.value).into();
        }
        Ok(())
    }

    fn all(&self, api_version: &str, kind: &str) -> Result<Vec<Stored>> {
        let Some(kind) = kinds::by_kind(api_version, kind) else { return Ok(Vec::new()) };
        let page = self.store.list(&kind.prefix(None), ListOptions::default());
        page.map(|page| page.items).map_err(|error| Status::from(&error))
    }
}
