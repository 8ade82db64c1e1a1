//! Manifests of a story, built from YAML.

use anyhow::Result;

use crate::api::{Json, documents};

/// One manifest, in the making.
#[derive(Clone, Debug)]
pub struct Manifest(Json);

impl Manifest {
    /// From the YAML of one document.
    ///
    /// # Panics
    /// When it is not YAML: the story is wrong.
    pub fn new(yaml: &str) -> Self {
        let mut all = documents(yaml).unwrap();
        assert_eq!(all.len(), 1, "one document:\n{yaml}");
        Self(all.remove(0))
    }

    /// Merges YAML over it: maps by key, `null` removes, lists are replaced.
    ///
    /// # Panics
    /// When it is not YAML: the story is wrong.
    #[must_use]
    pub fn with(mut self, yaml: &str) -> Self {
        for change in documents(yaml).unwrap() {
            merge(&mut self.0, change);
        }
        self
    }

    /// Sets `metadata.namespace`.
    #[must_use]
    pub fn in_namespace(mut self, namespace: &str) -> Self {
        self.0["metadata"]["namespace"] = namespace.into();
        self
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        self.0["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// As JSON.
    pub fn json(&self) -> &Json {
        &self.0
    }

    /// As YAML, for kubectl and virtctl.
    ///
    /// # Errors
    /// None that happens with JSON that was read from YAML.
    pub fn yaml(&self) -> Result<String> {
        Ok(serde_yaml_ng::to_string(&self.0)?)
    }
}

fn merge(target: &mut Json, change: Json) {
    match (target, change) {
        (Json::Object(target), Json::Object(change)) => {
            for (key, value) in change {
                if value.is_null() {
                    target.shift_remove(&key);
                } else {
                    merge(target.entry(key).or_insert(Json::Null), value);
                }
            }
        }
        (target, change) => *target = change,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_merges_maps_and_replaces_the_rest() {
        let manifest = Manifest::new("{a: {b: 1, c: [1, 2]}, d: x}").with("{a: {c: [3]}, d: null, e: y}");
        assert_eq!(manifest.json(), &serde_json::json!({"a": {"b": 1, "c": [3]}, "e": "y"}));
    }
}
