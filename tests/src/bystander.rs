//! A guest that has nothing to do with the story, and must not notice it.

use std::thread;

use anyhow::{Result, anyhow, ensure};

use crate::api::Json;
use crate::guest::Boot;
use crate::host::Process;
use crate::vm::Vm;
use crate::wait::{wait_for, within};

/// A guest that runs beside the story.
pub struct Bystander {
    vm: Vm,
    boot: Boot,
    qemu: Process,
    status: Json,
}

impl Bystander {
    /// Waits until the guest is up and all that is said of it stays the same.
    ///
    /// # Errors
    /// When that takes too long.
    pub fn of(vm: Vm) -> Result<Self> {
        let boot = vm.boots()?;
        vm.address()?;
        let status = wait_for("the bystander's status is at rest", within(60), || {
            let before = said_of(&vm)?;
            thread::sleep(within(3));
            if said_of(&vm)? == before { Ok(Some(before)) } else { Err(anyhow!("it changes")) }
        })?;
        Ok(Self { boot, qemu: vm.qemu()?, status, vm })
    }

    /// The guest has run without a break, in the same QEMU, and no condition of its VM has changed, not even for a
    /// while: the times of their last change are the same.
    ///
    /// # Errors
    /// When it was disturbed.
    pub fn has_noticed_nothing(&self) -> Result<()> {
        ensure!(self.vm.qemu()? == self.qemu, "the bystander's QEMU is another one");
        self.vm.has_not_rebooted(&self.boot)?;
        let now = said_of(&self.vm)?;
        ensure!(now == self.status, "the bystander was disturbed: it was\n{}\nand is\n{now}", self.status);
        Ok(())
    }
}

fn said_of(vm: &Vm) -> Result<Json> {
    let status = &vm.get()?["status"];
    let parts = ["conditions", "printableStatus", "nodeName", "placement", "domain", "lastStop", "disks"];
    Ok(parts.iter().map(|part| ((*part).to_owned(), status[*part].clone())).collect::<serde_json::Map<_, _>>().into())
}
