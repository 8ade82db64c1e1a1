//! What `import` makes of the domains of a host: which are meant ([`choose`]), a VirtualMachine for each ([`plan`]), the
//! objects of what it uses ([`inventory`]), its spec ([`adopt`]), and what a person is told before ([`preflight`]). Pure.

pub(crate) mod adopt;
pub(crate) mod dump;
pub(crate) mod inventory;
pub(crate) mod preflight;
mod running;

use std::collections::BTreeSet;

use kube::ResourceExt as _;
use kubevmm_api::VirtualMachine;
use kubevmm_api::hypervisor::{HostDomain, HypervisorStatus};
use kubevmm_api::names;
use kubevmm_api::vm::{DomainState, ExistingDomain, Management, RunStrategy, VirtualMachineSpec};

use crate::error::Error;
use crate::near::near;
use crate::program;

/// What is to be done for a domain.
#[derive(Debug, PartialEq)]
pub(crate) enum Plan {
    /// This VirtualMachine is to be created.
    Create(Box<VirtualMachine>),
    /// This VirtualMachine observes it already.
    Observed(Box<VirtualMachine>),
    /// The VirtualMachine `namespace/name` manages it already.
    Managed(String),
}

/// The domains that are asked for by UUID and are not among those that a host lists, for it has more.
pub(crate) fn unlisted(status: &HypervisorStatus, asked: &[String]) -> Vec<HostDomain> {
    if status.unlisted_count.unwrap_or(0) == 0 {
        return Vec::new();
    }
    let domain = |text: &String| {
        let uuid = uuid::Uuid::try_parse(text).ok()?.to_string();
        let is_new = uuid.eq_ignore_ascii_case(text) && !status.domains.iter().any(|domain| domain.uuid == uuid);
        is_new.then(|| HostDomain {
            name: uuid.clone(),
            uuid,
            state: DomainState::Shutoff,
            mark: None,
            orphan: false,
            observed: false,
        })
    };
    asked.iter().filter_map(domain).collect()
}

/// The domains of a host that are meant: those that are named, by name or UUID, or else each foreign one. `there` are all
/// VirtualMachines that are known; `unlisted` domains are on the host besides.
pub(crate) fn choose<'a>(
    node: &str,
    domains: &'a [HostDomain],
    unlisted: i32,
    asked: &[String],
    there: &[VirtualMachine],
) -> Result<Vec<&'a HostDomain>, Error> {
    if asked.is_empty() {
        return Ok(domains.iter().filter(|domain| domain.mark.is_none()).collect());
    }
    let mut chosen: Vec<&HostDomain> = Vec::new();
    for text in asked {
        let found = domains.iter().find(|domain| domain.name == *text || domain.uuid.eq_ignore_ascii_case(text));
        let domain = found.ok_or_else(|| no_domain(node, domains, unlisted, text))?;
        if let Some(mark) = domain.mark.as_ref().filter(|_| !domain.orphan)
            && importer(node, domain, there).is_none()
        {
            let vm = format!("{}/{}", mark.namespace, mark.name);
            return Err(Error::Refused(format!(
                "the domain {text} of {node} is the VirtualMachine {vm}: nothing to import"
            )));
        }
        if !chosen.iter().any(|there| there.uuid == domain.uuid) {
            chosen.push(domain);
        }
    }
    Ok(chosen)
}

/// What a person must know of the orphans among `domains` that are not named.
pub(crate) fn orphans_note(node: &str, domains: &[HostDomain]) -> Option<String> {
    let orphans: Vec<_> = domains.iter().filter(|domain| domain.orphan).map(|domain| domain.name.as_str()).collect();
    let program = program();
    (!orphans.is_empty()).then(|| {
        format!(
            "orphans of {node} are left: {}: `{program} import --node {node} NAME` attaches one to a virtual machine again",
            orphans.join(", ")
        )
    })
}

fn no_domain(node: &str, domains: &[HostDomain], unlisted: i32, text: &str) -> Error {
    let near = near(text, domains.iter().map(|domain| domain.name.as_str()));
    let hint = match near.as_slice() {
        [] if unlisted > 0 => {
            format!("{unlisted} more of its domains are not listed: give the UUID (`virsh domuuid NAME` on the host)")
        }
        [] => format!("`{} domains --node {node}` lists them", program()),
        near => format!("did you mean {}?", near.join(" or ")),
    };
    let what = match unlisted {
        0 => format!("domain {text:?} on {node:?}"),
        _ => format!("domain {text:?} among those that {node:?} lists"),
    };
    Error::NotFound { what, hint }
}

/// What is to be done for each of `domains`; `there` are all VirtualMachines that are known.
pub(crate) fn plan(node: &str, namespace: &str, domains: &[&HostDomain], there: &[VirtualMachine]) -> Vec<Plan> {
    let mut taken: BTreeSet<String> =
        there.iter().filter(|vm| vm.namespace().as_deref() == Some(namespace)).map(|vm| vm.name_any()).collect();
    let plan = |domain: &&HostDomain| {
        if let Some(vm) = importer(node, domain, there) {
            return match vm.spec.management {
                Management::Observe => Plan::Observed(Box::new(vm.clone())),
                Management::Manage => {
                    Plan::Managed(format!("{}/{}", vm.namespace().unwrap_or_default(), vm.name_any()))
                }
            };
        }
        let before = domain.mark.as_ref().filter(|mark| mark.namespace == namespace).map(|mark| mark.name.clone());
        let (base, uuid) = (label_or(&domain.name, "domain"), domain.uuid.as_str());
        let told_apart = [base.clone(), format!("{base}-{uuid}"), format!("{base}-{}-{uuid}", label(node))];
        let by_uuid = usize::from(label(&domain.name).is_empty());
        let mut candidates =
            before.into_iter().chain(told_apart.into_iter().skip(by_uuid)).map(|name| names::fit(&name));
        // What is taken nevertheless, the API server says.
        let name = candidates.find(|name| !taken.contains(name)).unwrap_or(base);
        taken.insert(name.clone());
        Plan::Create(Box::new(vm(&name, namespace, node, domain)))
    };
    domains.iter().map(plan).collect()
}

/// The VirtualMachine that observes a domain.
pub(crate) fn observer<'a>(node: &str, domain: &HostDomain, there: &'a [VirtualMachine]) -> Option<&'a VirtualMachine> {
    importer(node, domain, there).filter(|vm| vm.spec.observed().is_some())
}

/// The VirtualMachine that observes or manages a domain which was there before it.
fn importer<'a>(node: &str, domain: &HostDomain, there: &'a [VirtualMachine]) -> Option<&'a VirtualMachine> {
    there.iter().find(|vm| {
        let existing = vm.spec.existing_domain.as_ref();
        existing.is_some_and(|existing| existing.node_name == node && existing.uuid == domain.uuid)
    })
}

fn vm(name: &str, namespace: &str, node: &str, domain: &HostDomain) -> VirtualMachine {
    let spec = VirtualMachineSpec {
        // Nobody starts or stops it: it says so even to those who do not know of spec.management.
        run_strategy: RunStrategy::Manual,
        management: Management::Observe,
        existing_domain: Some(ExistingDomain {
            node_name: node.into(),
            uuid: domain.uuid.clone(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut vm = VirtualMachine::new(name, spec);
    vm.metadata.namespace = Some(namespace.into());
    vm
}

/// The name of an object for something of a host: lower case, `-` for what a DNS label does not have, cut with a hash.
fn label(name: &str) -> String {
    let mut label = String::new();
    for c in name.chars() {
        match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9') => label.push(c),
            _ if label.ends_with('-') || label.is_empty() => {}
            _ => label.push('-'),
        }
    }
    names::fit(label.trim_end_matches('-'))
}

/// The same; `otherwise` when nothing of the name is left.
fn label_or(name: &str, otherwise: &str) -> String {
    Some(label(name)).filter(|label| !label.is_empty()).unwrap_or_else(|| otherwise.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(number: u32, name: &str) -> HostDomain {
        HostDomain {
            uuid: format!("0a000000-0000-4000-8000-{number:012}"),
            name: name.into(),
            state: DomainState::Running,
            mark: None,
            orphan: false,
            observed: false,
        }
    }

    fn marked(number: u32, name: &str, orphan: bool) -> HostDomain {
        let mark = serde_json::json!({"clusterID": "c", "namespace": "shop", "name": "web", "uid": "u", "epoch": 1});
        HostDomain { mark: serde_json::from_value(mark).unwrap(), orphan, ..domain(number, name) }
    }

    fn names(plans: &[Plan]) -> Vec<String> {
        let name = |plan: &Plan| match plan {
            Plan::Create(vm) => vm.name_any(),
            Plan::Observed(vm) => format!("= {}/{}", vm.namespace().unwrap(), vm.name_any()),
            Plan::Managed(vm) => format!("== {vm}"),
        };
        plans.iter().map(name).collect()
    }

    #[test]
    fn domains_by_name_or_uuid_and_only_foreign_ones() {
        let domains =
            [domain(1, "win10"), domain(2, "Mail Server"), marked(3, "shop.web", false), marked(4, "x", true)];
        let chosen = |asked: &[&str]| {
            let asked: Vec<String> = asked.iter().map(ToString::to_string).collect();
            choose("h1", &domains, 0, &asked, &[])
                .map(|chosen| chosen.iter().map(|d| d.name.clone()).collect::<Vec<_>>())
        };
        assert_eq!(chosen(&[]).unwrap(), ["win10", "Mail Server"]);
        assert_eq!(chosen(&["Mail Server", "0A000000-0000-4000-8000-000000000002"]).unwrap(), ["Mail Server"]);
        let missing = chosen(&["win1"]).unwrap_err();
        assert_eq!((missing.exit_code(), missing.to_string().contains("did you mean win10?")), (3, true), "{missing}");
        assert_eq!(chosen(&["shop.web"]).unwrap_err().exit_code(), 5);
        assert_eq!(chosen(&["x"]).unwrap(), ["x"], "an orphan that is named");
        assert!(orphans_note("h1", &domains).unwrap().contains("left: x:"));
        assert_eq!(orphans_note("h1", &domains[..3]), None);
    }

    #[test]
    fn what_a_host_does_not_list_is_given_by_uuid() {
        let status = |unlisted_count| HypervisorStatus {
            domains: vec![domain(1, "win10")],
            unlisted_count,
            ..Default::default()
        };
        let (listed, other) = ("0a000000-0000-4000-8000-000000000001", "0A000000-0000-4000-8000-000000000002");
        for (count, asked, found) in [
            (Some(7), other, Some("0a000000-0000-4000-8000-000000000002")),
            (Some(7), listed, None),
            (Some(7), "win10", None),
            (Some(7), "0a000000000040008000000000000002", None),
            (Some(0), other, None),
            (None, other, None),
        ] {
            let status = status(count);
            let unlisted = unlisted(&status, &[asked.to_owned()]);
            assert_eq!(unlisted.first().map(|domain| domain.uuid.as_str()), found, "{count:?} {asked}");
            let domains = [status.domains, unlisted].concat();
            let chosen = choose("h1", &domains, count.unwrap_or(0), &[asked.to_owned()], &[]);
            assert_eq!(chosen.is_ok(), asked == listed || asked == "win10" || found.is_some(), "{count:?} {asked}");
        }
        let missing = choose("h1", &[], 7, &["mail".into()], &[]).unwrap_err();
        assert_eq!(missing.exit_code(), 3);
        assert!(missing.to_string().contains("7 more of its domains are not listed: give the UUID"), "{missing}");
    }

    #[test]
    fn names_that_are_no_kubernetes_names_become_ones() {
        let domains =
            [domain(1, "Mail Server"), domain(2, "mail_server"), domain(3, "日本"), domain(4, "a.b"), domain(5, "-x-")];
        let chosen: Vec<_> = domains.iter().collect();
        let planned = plan("h1", "shop", &chosen, &[]);
        assert_eq!(
            names(&planned),
            [
                "mail-server",
                "mail-server-0a000000-0000-4000-8000-000000000002",
                "domain-0a000000-0000-4000-8000-000000000003",
                "a-b",
                "x"
            ]
        );
        let Plan::Create(vm) = &planned[0] else { panic!() };
        assert_eq!(vm.spec.existing_domain.as_ref().unwrap().uuid, domains[0].uuid);
        assert!(vm.spec.observed().is_some());
        let long = domain(6, &"n".repeat(200));
        assert_eq!(names(&plan("h1", "shop", &[&long], &[]))[0].len(), 63);
    }

    #[test]
    fn what_is_imported_already_is_left_and_a_taken_name_is_avoided() {
        let first = domain(1, "web");
        let Plan::Create(there) = plan("h1", "shop", &[&first], &[]).remove(0) else { panic!() };
        let there = [*there];
        let second = domain(2, "web");
        assert_eq!(
            names(&plan("h1", "other", &[&first, &second], &there)),
            ["= shop/web", "web"],
            "by its UUID, in whatever namespace"
        );
        assert_eq!(
            names(&plan("h2", "shop", &[&first], &there)),
            ["web-0a000000-0000-4000-8000-000000000001"],
            "another host's"
        );
        let Plan::Create(second) = plan("h2", "shop", &[&first], &there).remove(0) else { panic!() };
        let [there] = there;
        assert_eq!(
            names(&plan("h3", "shop", &[&first], &[there, *second])),
            ["web-h3-0a000000-0000-4000-8000-000000000001"],
            "the same name and UUID on a third"
        );
    }

    #[test]
    fn an_orphan_gets_its_name_again_where_it_is_free() {
        let orphan = marked(4, "shop.web", true);
        assert_eq!(names(&plan("h1", "shop", &[&orphan], &[])), ["web"]);
        assert_eq!(names(&plan("h1", "other", &[&orphan], &[])), ["shop-web"], "another namespace");
        let Plan::Create(web) = plan("h1", "shop", &[&domain(1, "web")], &[]).remove(0) else { panic!() };
        assert_eq!(names(&plan("h1", "shop", &[&orphan], &[*web])), ["shop-web"], "the name is taken");
    }

    #[test]
    fn what_is_managed_already_is_no_mistake() {
        let marked = marked(3, "shop.web", false);
        let Plan::Create(mut vm) = plan("h1", "shop", &[&marked], &[]).remove(0) else { panic!() };
        vm.spec.management = Management::Manage;
        let there = [*vm];
        let domains = [marked];
        let chosen = choose("h1", &domains, 0, &["shop.web".into()], &there).unwrap();
        assert_eq!(names(&plan("h1", "shop", &chosen, &there)), ["== shop/web"]);
        assert_eq!(
            names(&plan("h1", "shop", &[&HostDomain { mark: None, ..domain(3, "shop.web") }], &there)),
            ["== shop/web"]
        );
    }
}
