//! What the tests of this crate build their objects with.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::Resource;
use kubevmm_api::Hypervisor;
use kubevmm_api::fit::Offer;
use serde::de::DeserializeOwned;

use crate::hosts::{Host, Hosts, LeaseState};

/// The cluster of the tests.
pub(crate) const CLUSTER: &str = "cluster";

/// Reads an object; apiVersion and kind are added.
pub(crate) fn yaml<K: Resource<DynamicType = ()> + DeserializeOwned>(text: &str) -> K {
    let text = format!("apiVersion: {}\nkind: {}\n{text}", K::api_version(&()), K::kind(&()));
    serde_yaml_ng::from_str(&text).unwrap_or_else(|error| panic!("{error} in:\n{text}"))
}

/// Hosts that are alive, ready and have reported `fields` (flow style, within status) in session `<name>_1`.
pub(crate) fn hosts(list: &[(&str, &str)]) -> Hosts {
    let mut all = BTreeMap::new();
    for (name, fields) in list {
        let hypervisor: Hypervisor = yaml(&format!(
            "metadata: {{name: {name}, uid: hv-{name}}}\nspec: {{}}\n\
             status: {{session: {name}_1, conditions: [{{type: Ready, status: 'True', reason: Ready, message: '', \
             lastTransitionTime: \"2026-01-01T00:00:00Z\"}}], {fields}}}"
        ));
        let host = Host {
            name: (*name).into(),
            offer: Some(Arc::new(Offer::of(&hypervisor))),
            hypervisor: Some(Arc::new(hypervisor)),
            lease: LeaseState { session: Some(format!("{name}_1")), renewed: true, expired: None },
            out_of_service: false,
        };
        all.insert((*name).to_owned(), host);
    }
    Hosts(all)
}

/// The executor of `name` falls silent.
pub(crate) fn lose(hosts: &mut Hosts, name: &str) {
    hosts.0.get_mut(name).unwrap().lease = LeaseState { expired: Some("7".into()), ..Default::default() };
}

/// A person declares the Node of `name` out of service.
pub(crate) fn out_of_service(hosts: &mut Hosts, name: &str) {
    hosts.0.get_mut(name).unwrap().out_of_service = true;
}
