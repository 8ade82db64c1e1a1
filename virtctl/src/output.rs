//! Standard output.

use std::io::{ErrorKind, Write as _};

use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::ObjectFormat;
use crate::error::Error;

/// Writes `text`. A reader that has gone (`| head`) is no failure.
pub(crate) fn emit(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Error::Output(error)),
        _ => Ok(()),
    }
}

/// Writes a table, with or without its line of headers.
pub(crate) fn emit_table(text: &str, no_headers: bool) -> Result<(), Error> {
    emit(if no_headers { text.split_once('\n').map_or("", |(_, body)| body) } else { text })
}

/// An object as it is printed: without the bookkeeping of field managers, as `kubectl` does.
pub(crate) fn printable<T: Serialize>(object: &T) -> Result<Value, Error> {
    let mut value = serde_json::to_value(object).map_err(|error| Error::Api(error.to_string()))?;
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    Ok(value)
}

/// An object as it can be applied again, here or in another cluster: without what the API server or a controller writes.
pub(crate) fn applicable(object: &Value) -> Value {
    let mut value = object.clone();
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|key, _| matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "spec"));
    }
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|key, _| matches!(key.as_str(), "name" | "namespace" | "labels" | "annotations"));
    }
    value
}

/// Objects in a format: a single one as itself when `single`, otherwise a List.
pub(crate) fn objects(values: Vec<Value>, single: bool, format: ObjectFormat) -> Result<String, Error> {
    if format == ObjectFormat::Name {
        return Ok(values.iter().map(|value| name(value) + "\n").collect());
    }
    let value = match <[Value; 1]>::try_from(values) {
        Ok([value]) if single => value,
        Ok([value]) => list(vec![value]),
        Err(values) => list(values),
    };
    data(&value, format == ObjectFormat::Json)
}

/// A value as JSON, otherwise as YAML.
pub(crate) fn data<T: Serialize>(value: &T, json: bool) -> Result<String, Error> {
    if json {
        serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(|error| Error::Api(error.to_string()))
    } else {
        serde_yaml_ng::to_string(value).map_err(|error| Error::Api(error.to_string()))
    }
}

fn list(items: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items})
}

/// `virtualmachine.kubevmm.io/web`
pub(crate) fn name(object: &Value) -> String {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let version = text(object.get("apiVersion"));
    let group = version.split_once('/').map_or(String::new(), |(group, _)| format!(".{group}"));
    let kind = text(object.get("kind")).to_lowercase();
    format!("{kind}{group}/{}", text(object.pointer("/metadata/name")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(name: &str) -> Value {
        json!({"apiVersion": "kubevmm.io/v1beta1", "kind": "VirtualMachine",
               "metadata": {"name": name, "managedFields": []}})
    }

    #[test]
    fn one_object_is_itself_and_several_are_a_list() {
        let parse = |text: String| serde_json::from_str::<Value>(&text).unwrap();
        let one = parse(objects(vec![vm("a")], true, ObjectFormat::Json).unwrap());
        assert_eq!(one["kind"], "VirtualMachine");
        for values in [vec![], vec![vm("a")], vec![vm("a"), vm("b")]] {
            let count = values.len();
            let list = parse(objects(values, false, ObjectFormat::Json).unwrap());
            assert_eq!((&list["kind"], list["items"].as_array().unwrap().len()), (&json!("List"), count));
        }
        let names = objects(vec![vm("a"), vm("b")], false, ObjectFormat::Name).unwrap();
        assert_eq!(names, "virtualmachine.kubevmm.io/a\nvirtualmachine.kubevmm.io/b\n");
        assert!(printable(&vm("a")).unwrap()["metadata"].get("managedFields").is_none());
    }

    #[test]
    fn what_is_applied_again_has_no_state() {
        let object = json!({"apiVersion": "v1", "kind": "K", "status": {}, "spec": {"a": null},
            "metadata": {"name": "a", "namespace": "n", "labels": {"a": "b"}, "uid": "u", "resourceVersion": "1"}});
        let wanted = json!({"apiVersion": "v1", "kind": "K", "spec": {"a": null},
            "metadata": {"name": "a", "namespace": "n", "labels": {"a": "b"}}});
        assert_eq!(applicable(&object), wanted);
    }
}
