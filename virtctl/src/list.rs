//! The table of `list`: the columns of `kubectl get vm`, and hardware and image in the wide form. Pure.

use k8s_openapi::jiff::Timestamp;
use kubevmm_api::VirtualMachine;
use kubevmm_api::condition::{self, READY};

use crate::duration;
use crate::hardware::{self, Catalog, word};
use crate::table::{NONE, cell, render};

/// How much is shown.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Columns {
    /// The namespace, first.
    pub(crate) namespace: bool,
    /// Strategy, hardware, image and message, last.
    pub(crate) wide: bool,
}

/// Lays the VMs out, in the order in which they are given.
pub(crate) fn table(vms: &[VirtualMachine], catalog: &Catalog, columns: Columns, now: Timestamp) -> String {
    let mut headers = vec!["NAME", "STATUS", "NODE", "ADDRESS", "READY", "REASON"];
    if columns.namespace {
        headers.insert(0, "NAMESPACE");
    }
    if columns.wide {
        headers.extend(["STRATEGY", "CPUS", "MEMORY", "IMAGE", "MESSAGE"]);
    }
    headers.push("AGE");
    let rows: Vec<_> = vms.iter().map(|vm| row(vm, catalog, columns, now)).collect();
    render(&headers, &rows, 0)
}

fn row(vm: &VirtualMachine, catalog: &Catalog, columns: Columns, now: Timestamp) -> Vec<String> {
    let status = vm.status.clone().unwrap_or_default();
    let ready = condition::find(&status.conditions, READY);
    let mut row = vec![
        cell(vm.metadata.name.as_deref()),
        cell(status.printable_status.as_deref()),
        cell(status.node_name.as_deref()),
        cell(status.interfaces.first().and_then(|nic| nic.addresses.first()).map(String::as_str)),
        cell(ready.map(|c| c.status.as_str())),
        cell(ready.map(|c| c.reason.as_str())),
    ];
    if columns.namespace {
        row.insert(0, cell(vm.metadata.namespace.as_deref()));
    }
    if columns.wide {
        let effective = hardware::effective(vm, catalog).map(|(merged, _)| merged);
        row.extend([
            word(&vm.spec.run_strategy),
            effective.as_ref().map_or(NONE.into(), |e| e.cores.to_string()),
            effective.as_ref().map_or(NONE.into(), |e| e.memory.to_string()),
            cell(hardware::image(vm, catalog).as_deref()),
            cell(ready.map(|c| crate::error::one_line(&c.message)).as_deref()),
        ]);
    }
    row.push(age(vm, now));
    row
}

/// The age of an object.
pub(crate) fn age(vm: &VirtualMachine, now: Timestamp) -> String {
    vm.metadata.creation_timestamp.as_ref().map_or(NONE.into(), |created| since(created.0, now))
}

/// The time from `then` to `now`.
pub(crate) fn since(then: Timestamp, now: Timestamp) -> String {
    duration::human(now.as_second() - then.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{catalog, golden, now, vms};

    #[test]
    fn the_table() {
        golden("list.txt", &table(&vms(), &catalog(), Columns::default(), now()));
    }

    #[test]
    fn the_wide_table_of_all_namespaces() {
        let columns = Columns { namespace: true, wide: true };
        golden("list-wide.txt", &table(&vms(), &catalog(), columns, now()));
    }
}
