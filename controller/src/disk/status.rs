//! The part of a disk's status that is the controller's.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kubevmm_api::VirtualMachineDisk;
use kubevmm_api::common::Holder;
use kubevmm_api::condition::{self, HOST_RELEASED, Wanted};
use serde_json::{Value, json};

use crate::object::executor_owns_condition;

/// What the controller says of a disk: always written whole, for what is left out of an apply is given up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owned {
    /// `status.usedBy`.
    pub used_by: Option<Holder>,
    /// `status.poolName`.
    pub pool_name: Option<String>,
    /// `status.nodeName`.
    pub node_name: Option<String>,
    /// The condition HostReleased, when the controller vouches for a host that is gone for good.
    pub host_released: Option<Wanted>,
}

impl Owned {
    /// What the disk says now.
    pub fn of(disk: &VirtualMachineDisk) -> Self {
        let status = disk.status.clone().unwrap_or_default();
        Self { used_by: status.used_by, pool_name: status.pool_name, node_name: status.node_name, host_released: None }
    }

    /// The status to apply; `None` when the disk says it already.
    pub fn over(&self, disk: &VirtualMachineDisk, now: &Time) -> Option<Value> {
        let before = disk.status.clone().unwrap_or_default();
        let current = condition::find(&before.conditions, HOST_RELEASED);
        let released: Option<Condition> = match &self.host_released {
            Some(wanted) => Some(wanted.over(&before.conditions, disk.metadata.generation, now)),
            None => current.filter(|_| !executor_owns_condition(disk, HOST_RELEASED)).cloned(),
        };
        let same = Self::of(disk) == Self { host_released: None, ..self.clone() }
            && (self.host_released.is_none() || released.as_ref() == current);
        let conditions: Vec<Condition> = released.into_iter().collect();
        (!same)
            .then(|| {
                json!({
                    "usedBy": self.used_by,
                    "poolName": self.pool_name,
                    "nodeName": self.node_name,
                    "conditions": conditions,
                })
            })
            .map(without_nulls)
    }
}

/// An apply says nothing of a field by leaving it out.
pub fn without_nulls(mut value: Value) -> Value {
    if let Value::Object(map) = &mut value {
        map.retain(|_, child| !child.is_null());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;
    use kubevmm_api::VirtualMachineDiskStatus;

    fn disk() -> VirtualMachineDisk {
        VirtualMachineDisk {
            status: Some(VirtualMachineDiskStatus {
                pool_name: Some("fast".into()),
                node_name: Some("a".into()),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn what_is_said_already_is_not_written() {
        let now = Time(Timestamp::UNIX_EPOCH);
        let disk = disk();
        assert_eq!(Owned::of(&disk).over(&disk, &now), None);
    }

    #[test]
    fn every_field_of_ours_is_written_each_time() {
        let now = Time(Timestamp::UNIX_EPOCH);
        let disk = disk();
        let holder = Holder { name: "web".into(), uid: "u".into() };
        let patch = Owned { used_by: Some(holder), ..Owned::of(&disk) }.over(&disk, &now);
        assert_eq!(
            patch,
            Some(json!({
                "usedBy": {"name": "web", "uid": "u"}, "poolName": "fast", "nodeName": "a", "conditions": [],
            }))
        );
    }
}
