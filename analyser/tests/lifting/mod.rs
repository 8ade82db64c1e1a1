//! Leaves of data, and data without one of them.

use kubevmm_analyser::Value;

/// Paths of the leaves of a value: scalars, nulls and empty collections.
pub(crate) fn leaves(value: &Value<'_>) -> Vec<Vec<usize>> {
    fn collect(value: &Value<'_>, path: &mut Vec<usize>, out: &mut Vec<Vec<usize>>) {
        let inner: Vec<&Value<'_>> = match value {
            Value::Mapping(entries) => entries.iter().map(|(_, value)| value).collect(),
            Value::Sequence(items) => items.iter().collect(),
            _ => Vec::new(),
        };
        if inner.is_empty() && !path.is_empty() {
            out.push(path.clone());
        }
        for (index, value) in inner.into_iter().enumerate() {
            path.push(index);
            collect(value, path, out);
            path.pop();
        }
    }
    let mut out = Vec::new();
    collect(value, &mut Vec::new(), &mut out);
    out
}

/// The value without one leaf.
pub(crate) fn without(value: &Value<'static>, path: &[usize]) -> Value<'static> {
    let mut copy = value.clone();
    let mut at = &mut copy;
    for index in &path[..path.len() - 1] {
        at = match at {
            Value::Mapping(entries) => &mut entries[*index].1,
            Value::Sequence(items) => &mut items[*index],
            other => panic!("{other:?} has nothing below it"),
        };
    }
    match at {
        Value::Mapping(entries) => drop(entries.remove(path[path.len() - 1])),
        Value::Sequence(items) => drop(items.remove(path[path.len() - 1])),
        other => panic!("{other:?} has nothing below it"),
    }
    copy
}
