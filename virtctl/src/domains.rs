//! The table of `domains`: what each host's executor tells of its libvirt. Pure.

use kube::ResourceExt as _;
use kubevmm_api::condition::{self, READY};
use kubevmm_api::hypervisor::HostDomain;
use kubevmm_api::{Hypervisor, VirtualMachine};
use serde::Serialize;

use crate::hardware::word;
use crate::import::observer;
use crate::table::{cell, render};

/// A host, and the domains that it tells of.
pub(crate) struct Host {
    node: String,
    domains: Vec<Record>,
    unlisted: i32,
    /// Why what it tells may be old.
    stale: Option<String>,
}

impl Host {
    /// What is known of a host; `vms` are all that are known.
    pub(crate) fn of(hypervisor: &Hypervisor, vms: &[VirtualMachine]) -> Self {
        let status = hypervisor.status.clone().unwrap_or_default();
        let ready = condition::find(&status.conditions, READY);
        let stale = match ready {
            Some(ready) if ready.status == "True" => None,
            Some(ready) => Some(crate::error::one_line(&ready.message)),
            None => Some("its executor has not reported yet".into()),
        };
        let node = hypervisor.name_any();
        let mut domains: Vec<_> = status.domains.into_iter().map(|domain| Record::of(&node, domain, vms)).collect();
        domains.sort_by(|a, b| (a.kind, &a.domain.name).cmp(&(b.kind, &b.domain.name)));
        Self { node, domains, unlisted: status.unlisted_count.unwrap_or(0), stale }
    }

    /// What each of its domains is to this project, in words.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = String> {
        self.domains.iter().map(|record| word(&record.kind))
    }

    /// What a person must know beside the table.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(why) = &self.stale {
            notes.push(format!("the hypervisor {} is not ready, what is shown of it may be old: {why}", self.node));
        }
        if self.unlisted > 0 {
            notes.push(format!("{} more foreign domains on {} are not listed", self.unlisted, self.node));
        }
        notes
    }
}

/// What a domain is to this project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
enum Kind {
    Managed,
    Observed,
    Orphan,
    Foreign,
}

/// A domain, and what is known of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    node_name: String,
    kind: Kind,
    /// The VirtualMachine that it has or had, `namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    virtual_machine: Option<String>,
    #[serde(flatten)]
    domain: HostDomain,
}

impl Record {
    fn of(node: &str, domain: HostDomain, vms: &[VirtualMachine]) -> Self {
        let (kind, virtual_machine) = match (&domain.mark, observer(node, &domain, vms)) {
            (Some(mark), _) => {
                let kind = if domain.orphan { Kind::Orphan } else { Kind::Managed };
                (kind, Some(format!("{}/{}", mark.namespace, mark.name)))
            }
            (None, Some(vm)) => {
                (Kind::Observed, Some(format!("{}/{}", vm.namespace().unwrap_or_default(), vm.name_any())))
            }
            (None, None) => (Kind::Foreign, None),
        };
        Self { node_name: node.to_owned(), kind, virtual_machine, domain }
    }

    fn row(&self) -> Vec<String> {
        let vm = cell(self.virtual_machine.as_deref());
        let (state, kind) = (word(&self.domain.state), word(&self.kind));
        vec![self.node_name.clone(), self.domain.name.clone(), state, kind, vm, self.domain.uuid.clone()]
    }
}

/// The domains of all hosts, for programs.
pub(crate) fn records(hosts: &[Host]) -> Vec<&Record> {
    hosts.iter().flat_map(|host| &host.domains).collect()
}

/// Lays the domains out, by host.
pub(crate) fn table(hosts: &[Host]) -> String {
    let rows: Vec<_> = records(hosts).into_iter().map(Record::row).collect();
    render(&["NODE", "DOMAIN", "STATE", "KIND", "VM", "UUID"], &rows, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{documents, golden};

    fn hosts() -> Vec<Host> {
        let observed = "{metadata: {name: old-mail, namespace: legacy}, spec: {management: Observe, existingDomain: \
                        {nodeName: h1, uuid: 0a000000-0000-4000-8000-000000000002}}}";
        let vms = [serde_yaml_ng::from_str(observed).unwrap()];
        documents::<Hypervisor>("hypervisors.yaml").iter().map(|hypervisor| Host::of(hypervisor, &vms)).collect()
    }

    #[test]
    fn the_table_of_domains() {
        golden("domains.txt", &table(&hosts()));
    }

    #[test]
    fn what_the_table_cannot_show_is_said() {
        let notes: Vec<_> = hosts().iter().flat_map(Host::notes).collect();
        assert_eq!(
            notes,
            [
                "500 more foreign domains on h1 are not listed",
                "the hypervisor h2 is not ready, what is shown of it may be old: libvirt does not answer",
                "the hypervisor h3 is not ready, what is shown of it may be old: its executor has not reported yet",
            ]
        );
    }

    #[test]
    fn a_record_says_where_and_what() {
        let hosts = hosts();
        let first = serde_json::to_value(records(&hosts)[0]).unwrap();
        assert_eq!((&first["nodeName"], &first["kind"]), (&"h1".into(), &"Managed".into()));
        assert_eq!((&first["name"], &first["mark"]["name"]), (&"shop.web".into(), &"web".into()));
    }
}
