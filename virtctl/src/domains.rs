//! The table of `domains`: what each host's executor tells of its libvirt. Pure.

use kube::ResourceExt as _;
use kubevmm_api::Hypervisor;
use kubevmm_api::condition::{self, READY};
use kubevmm_api::hypervisor::HostDomain;
use serde::Serialize;

use crate::hardware::word;
use crate::table::{NONE, render};

/// A host, and the domains that it tells of.
pub(crate) struct Host {
    node: String,
    domains: Vec<HostDomain>,
    unlisted: i32,
    /// Why what it tells may be old.
    stale: Option<String>,
}

impl Host {
    /// What is known of a host.
    pub(crate) fn of(hypervisor: &Hypervisor) -> Self {
        let status = hypervisor.status.clone().unwrap_or_default();
        let ready = condition::find(&status.conditions, READY);
        let stale = match ready {
            Some(ready) if ready.status == "True" => None,
            Some(ready) => Some(crate::error::one_line(&ready.message)),
            None => Some("its executor has not reported yet".into()),
        };
        let mut domains = status.domains;
        domains.sort_by(|a, b| (kind(a), &a.name).cmp(&(kind(b), &b.name)));
        Self { node: hypervisor.name_any(), domains, unlisted: status.unlisted_count.unwrap_or(0), stale }
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
    Orphan,
    Foreign,
}

fn kind(domain: &HostDomain) -> Kind {
    match &domain.mark {
        None => Kind::Foreign,
        Some(_) if domain.orphan => Kind::Orphan,
        Some(_) => Kind::Managed,
    }
}

/// A domain, for programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record<'a> {
    node_name: &'a str,
    kind: Kind,
    #[serde(flatten)]
    domain: &'a HostDomain,
}

/// The domains of all hosts, for programs.
pub(crate) fn records(hosts: &[Host]) -> Vec<Record<'_>> {
    let all = hosts.iter().flat_map(|host| host.domains.iter().map(move |domain| (host.node.as_str(), domain)));
    all.map(|(node_name, domain)| Record { node_name, kind: kind(domain), domain }).collect()
}

/// Lays the domains out, by host.
pub(crate) fn table(hosts: &[Host]) -> String {
    let rows: Vec<_> =
        hosts.iter().flat_map(|host| host.domains.iter().map(|domain| row(&host.node, domain))).collect();
    render(&["NODE", "DOMAIN", "STATE", "KIND", "VM", "UUID"], &rows, 0)
}

fn row(node: &str, domain: &HostDomain) -> Vec<String> {
    let vm = domain.mark.as_ref().map_or(NONE.into(), |mark| format!("{}/{}", mark.namespace, mark.name));
    let cells =
        [node.to_owned(), domain.name.clone(), word(&domain.state), word(&kind(domain)), vm, domain.uuid.clone()];
    cells.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{documents, golden};

    fn hosts() -> Vec<Host> {
        documents::<Hypervisor>("hypervisors.yaml").iter().map(Host::of).collect()
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
        let first = serde_json::to_value(&records(&hosts)[0]).unwrap();
        assert_eq!((&first["nodeName"], &first["kind"]), (&"h1".into(), &"Managed".into()));
        assert_eq!((&first["name"], &first["mark"]["name"]), (&"shop.web".into(), &"web".into()));
    }
}
