//! Objects with versions, and what became of them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::NAMESPACE;

/// What a write is refused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    NotFound,
    Exists,
    Conflict,
    Invalid,
}

/// What a watch tells.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    version: u64,
    kind: String,
    /// Its labels, for who watches only some.
    labels: Value,
    pub(crate) event: Value,
}

#[derive(Debug, Default)]
pub(crate) struct Store {
    version: u64,
    /// What was before that version isn't known any more.
    compacted: u64,
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    changes: Vec<Change>,
}

impl Store {
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn list(
        &self,
        kind: &str,
        selector: &str,
    ) -> impl Iterator<Item = (&String, &Value)> {
        let objects = self.objects.get(kind).into_iter().flatten();
        objects.filter(move |(_, object)| selects(selector, &object["metadata"]["labels"]))
    }

    pub(crate) fn read(&self, kind: &str, name: &str) -> Option<&Value> {
        self.objects.get(kind)?.get(name)
    }

    /// Whether what changed after a version isn't known any more.
    pub(crate) fn has_forgotten(&self, version: u64) -> bool {
        version < self.compacted
    }

    /// What changed after a version.
    pub(crate) fn after(&self, version: u64, kind: &str, selector: &str) -> Vec<(u64, Value)> {
        let is_wanted = |change: &&Change| {
            change.version > version && change.kind == kind && selects(selector, &change.labels)
        };
        let news = self.changes.iter().filter(is_wanted);
        news.map(|change| (change.version, change.event.clone())).collect()
    }

    pub(crate) fn create(&mut self, kind: &str, object: Value) -> Result<Value, Refused> {
        let name = object["metadata"]["name"].as_str().filter(|name| !name.is_empty());
        let name = name.ok_or(Refused::Invalid)?;
        match self.read(kind, name) {
            Some(_) => Err(Refused::Exists),
            None => Ok(self.put(kind, object)),
        }
    }

    /// Leases can't be replaced without saying over which version.
    pub(crate) fn replace(
        &mut self,
        kind: &str,
        name: &str,
        object: Value,
    ) -> Result<Value, Refused> {
        let before = self.read(kind, name).ok_or(Refused::NotFound)?;
        let over = object["metadata"]["resourceVersion"].as_str().ok_or(Refused::Invalid)?;
        if before["metadata"]["resourceVersion"] != over {
            return Err(Refused::Conflict);
        }
        Ok(self.put(kind, object))
    }

    pub(crate) fn remove(
        &mut self,
        kind: &str,
        name: &str,
        version: Option<&str>,
    ) -> Result<Value, Refused> {
        let before = self.read(kind, name).ok_or(Refused::NotFound)?;
        if version.is_some_and(|version| before["metadata"]["resourceVersion"] != version) {
            return Err(Refused::Conflict);
        }
        self.delete(kind, name).ok_or(Refused::NotFound)
    }

    pub(crate) fn put(&mut self, kind: &str, mut object: Value) -> Value {
        self.version += 1;
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let metadata = &mut object["metadata"];
        metadata["resourceVersion"] = self.version.to_string().into();
        metadata["namespace"] = NAMESPACE.into();
        let objects = self.objects.entry(kind.to_owned()).or_default();
        let told = match objects.insert(name, object.clone()) {
            Some(_) => "MODIFIED",
            None => "ADDED",
        };
        self.tell(kind, told, object.clone());
        object
    }

    pub(crate) fn delete(&mut self, kind: &str, name: &str) -> Option<Value> {
        let mut object = self.objects.get_mut(kind)?.remove(name)?;
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.tell(kind, "DELETED", object.clone());
        Some(object)
    }

    pub(crate) fn bookmark(&mut self, kind: &str) {
        self.version += 1;
        let metadata =
            json!({"resourceVersion": self.version.to_string(), "creationTimestamp": null});
        let object = json!({"kind": "Bookmark", "apiVersion": "v1", "metadata": metadata});
        self.tell(kind, "BOOKMARK", object);
    }

    pub(crate) fn compact(&mut self) {
        self.version += 1;
        self.compacted = self.version;
    }

    /// Versions go on where they were, so that nobody takes one for another.
    pub(crate) fn wipe(&mut self) {
        self.objects.clear();
        self.compact();
    }

    fn tell(&mut self, kind: &str, told: &str, object: Value) {
        self.changes.push(Change {
            version: self.version,
            kind: kind.to_owned(),
            labels: match told {
                "BOOKMARK" => Value::Null,
                _ => object["metadata"]["labels"].clone(),
            },
            event: json!({"type": told, "object": object}),
        });
    }
}

/// `key=value,key=value`. What has no labels at all is a bookmark, and for everybody.
fn selects(selector: &str, labels: &Value) -> bool {
    let mut wanted = selector.split(',').filter_map(|one| one.split_once('='));
    labels.is_null() || wanted.all(|(key, value)| labels[key] == value)
}
