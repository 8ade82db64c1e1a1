//! The PodDisruptionBudget in each namespace with VirtualMachines. It allows no placement pod to be evicted, so that the
//! API server itself says 429, which whoever drains takes for "try again", while the webhook cannot be asked. The webhook
//! comes before, so it deletes what may go: the budget would refuse what it only allows.

use std::collections::BTreeMap;

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{ObjectMeta, Patch, PatchParams};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use kubevmm_api::{LABEL_VM, LABEL_VM_UID, MANAGER_CONTROLLER, VirtualMachine};

use crate::context::Context;
use crate::error::{Error, api_status, is_namespace_terminating};
use crate::object::{is_deleting, uid};
use crate::world::World;
use crate::write;

/// Its name, in each namespace.
pub const NAME: &str = "kubevmm-virtual-machines";
const PART_OF: &str = "app.kubernetes.io/part-of";
const DESCRIPTION: &str = "No pod of a VirtualMachine is evicted unless the controller of KubeVMM has stopped the \
                           VirtualMachine before. While the controller does not answer, kubectl drain waits for it by \
                           this.";

/// A step.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Make it, or make it as it should be.
    Apply,
    /// Nothing needs it any more.
    Delete,
}

/// The step for the budget of a namespace that has VMs, or has none.
pub fn decide(has_vms: bool, budget: Option<&PodDisruptionBudget>) -> Option<Action> {
    match (has_vms, budget) {
        (true, Some(budget)) => {
            (!is_deleting(budget) && budget.spec.as_ref() != Some(&spec())).then_some(Action::Apply)
        }
        (true, None) => Some(Action::Apply),
        (false, Some(budget)) => (is_ours(budget) && !is_deleting(budget)).then_some(Action::Delete),
        (false, None) => None,
    }
}

/// Whether a change of `vm` is one for the budget of its namespace.
pub fn is_affected(world: &World, namespace: &str, vm: &VirtualMachine) -> bool {
    let has_vm = world.vms.get(&ObjectRef::from_obj(vm)).is_some();
    let budget = world.budgets.get(&ObjectRef::new(NAME).within(namespace));
    decide(has_vm, budget.as_deref()).is_some()
}

fn spec() -> PodDisruptionBudgetSpec {
    let exists = |key: &str| LabelSelectorRequirement { key: key.into(), operator: "Exists".into(), values: None };
    PodDisruptionBudgetSpec {
        // A share of the pods would be one of what a controller with a scale wants: a VM is none.
        min_available: Some(IntOrString::Int(i32::MAX)),
        selector: Some(LabelSelector {
            match_expressions: Some(vec![exists(LABEL_VM), exists(LABEL_VM_UID)]),
            match_labels: None,
        }),
        // The API server's default; said, so that it is ours.
        unhealthy_pod_eviction_policy: Some("IfHealthyBudget".into()),
        ..PodDisruptionBudgetSpec::default()
    }
}

fn is_ours(budget: &PodDisruptionBudget) -> bool {
    budget.labels().get(PART_OF).is_some_and(|part_of| part_of == "kubevmm")
}

/// One round for the budget of `namespace`.
pub async fn reconcile(context: &Context, namespace: &str) -> Result<(), Error> {
    let world = &context.world;
    let budget = world.budgets.get(&ObjectRef::new(NAME).within(namespace));
    // Without the webhook, nobody would let a pod go.
    let has_vms = context.answers_evictions
        && world.vms.state().iter().any(|vm| vm.metadata.namespace.as_deref() == Some(namespace));
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(context.client.clone(), namespace);
    match decide(has_vms, budget.as_deref()) {
        None => Ok(()),
        Some(Action::Delete) => {
            let uid = budget.as_deref().map(uid).unwrap_or_default();
            write::delete(&budgets, NAME, uid, None).await
        }
        Some(Action::Apply) => {
            let budget = PodDisruptionBudget {
                metadata: ObjectMeta {
                    name: Some(NAME.into()),
                    namespace: Some(namespace.into()),
                    labels: Some(BTreeMap::from([(PART_OF.into(), "kubevmm".into())])),
                    annotations: Some(BTreeMap::from([("kubernetes.io/description".into(), DESCRIPTION.into())])),
                    ..ObjectMeta::default()
                },
                spec: Some(spec()),
                status: None,
            };
            let params = PatchParams::apply(MANAGER_CONTROLLER).force();
            match budgets.patch(NAME, &params, &Patch::Apply(&budget)).await {
                Ok(_) => Ok(()),
                Err(error) if api_status(&error).is_some_and(|s| s.code == 404 || is_namespace_terminating(s)) => {
                    Ok(())
                }
                Err(error) => Err(Error::api("apply", format!("PodDisruptionBudget {namespace}/{NAME}"), error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    #[test]
    fn a_namespace_with_vms_has_a_budget_that_nobody_changes() {
        assert_eq!(decide(true, None), Some(Action::Apply));
        assert_eq!(decide(false, None), None);
        let mut budget: PodDisruptionBudget = yaml("metadata: {name: kubevmm-virtual-machines, namespace: shop}");
        budget.spec = Some(spec());
        assert_eq!(decide(true, Some(&budget)), None);
        assert_eq!(decide(false, Some(&budget)), None, "somebody else's");
        budget.metadata.labels = Some([(PART_OF.to_owned(), "kubevmm".to_owned())].into());
        assert_eq!(decide(false, Some(&budget)), Some(Action::Delete));
        budget.spec.as_mut().unwrap().min_available = Some(IntOrString::Int(0));
        assert_eq!(decide(true, Some(&budget)), Some(Action::Apply));
        let deleted = "metadata: {name: kubevmm-virtual-machines, deletionTimestamp: \"2026-01-01T00:00:00Z\"}";
        let budget: PodDisruptionBudget = yaml(deleted);
        assert_eq!(decide(true, Some(&budget)), None, "it is made again when it is gone");
        assert_eq!(decide(false, Some(&budget)), None);
    }
}
